"""Runs: their folders, resuming, what is refused, what a run leaves behind."""

import gzip
import json
import re
import shutil
import struct

import chex
import numpy as np
import pytest

from mixer_dilated.config import flat, resolve
from mixer_dilated.errors import NonFiniteError, Preempted
from mixer_dilated.inference.evaluation import evaluate_checkpoint
from mixer_dilated.parallel import mesh
from mixer_dilated.reports.page.report import write_report
from mixer_dilated.training import compiled
from mixer_dilated.training.train import TRACED_STEPS, train_and_evaluate
from tests.conftest import raising, refuses, small_config, warns
from tests.training.runs import (
    RUN,
    Recorder,
    check_same_bytes,
    modification_times,
    newest,
    rows_of,
)


def test_files_of_a_finished_run_that_are_damaged_are_made_again(run, copy):
    config, workdir, _ = run
    shutil.copy(workdir / 'summary.json', copy)
    (copy / 'metrics.jsonl').write_text('')
    (copy / 'predictions.npz').unlink()
    with warns('metrics.jsonl, predictions.npz'):
        train_and_evaluate(config, copy)
    check_same_bytes(copy, workdir)


def test_a_second_run_that_is_resumed_has_the_bits_of_the_first(run, tmp_path):
    config, workdir, summary = run
    with refuses('step 18', error=Preempted):
        train_and_evaluate(config, tmp_path / 'run', progress=Recorder(stop_after=2))
    assert not (tmp_path / 'run' / 'summary.json').exists()
    # A line that was written after the last checkpoint must not appear twice.
    with (tmp_path / 'run' / 'metrics.jsonl').open('a') as file:
        file.write('{"epoch": 3, "unfinis')
    recorder = Recorder()
    resumed = train_and_evaluate(config, tmp_path / 'run', progress=recorder)
    assert recorder.resumed_after == 18 and [row['epoch'] for row in recorder.rows] == [3]
    chex.assert_trees_all_equal(newest(config, tmp_path / 'run'), newest(config, workdir))
    check_same_bytes(tmp_path / 'run', workdir)
    same = [key for key in summary if key not in ('seconds', 'config_name', 'checksum')]
    assert {key: resumed[key] for key in same} == {key: summary[key] for key in same}


@pytest.mark.slow
def test_evaluating_more_rarely_changes_no_result(run, tmp_path):
    config, workdir, summary = run
    rarely = small_config(**RUN, eval_every=2)  # epochs 2 and, because it is the last, 3
    again = train_and_evaluate(rarely, tmp_path / 'run')
    assert again['results'] == summary['results']
    chex.assert_trees_all_equal(newest(rarely, tmp_path / 'run')[0], newest(config, workdir)[0])
    first, *others = rows_of(tmp_path / 'run')
    expected_first, *expected = rows_of(workdir)
    assert others == expected
    assert first == {**expected_first, 'test_loss': None, 'test_accuracy': None}
    assert write_report(tmp_path / 'run').stat().st_size > 10_000


def steps_kept(workdir):
    return sorted(int(path.name) for path in (workdir / 'checkpoints').iterdir())


@pytest.mark.slow
def test_by_the_clock_alone_the_first_steps_and_the_last_are_saved(tmp_path):
    train_and_evaluate(small_config(**{'checkpoints.every_minutes': 60, 'num_epochs': 2}), tmp_path)
    assert steps_kept(tmp_path) == [8, 18]


def test_the_runs_folder_explains_itself(run):
    config, workdir, summary = run
    assert json.loads((workdir / 'summary.json').read_text()) == summary
    assert resolve(json.loads((workdir / 'config.json').read_text())) == config
    rows = rows_of(workdir)
    assert [(row['epoch'], row['step']) for row in rows] == [(1, 9), (2, 18), (3, 27)]
    names = 'epoch step seed train_loss train_accuracy skipped_steps test_loss test_accuracy'
    assert [*rows[0]] == [*names.split(), 'learning_rate']
    (result,) = summary['results']
    assert rows[-1]['test_accuracy'] == summary['test_accuracy'] == result['test_correct'] / 100
    speed = rows_of(workdir, 'speed')
    assert [row['epoch'] for row in speed] == [1, 2, 3]
    for row in speed:
        np.testing.assert_allclose(row['images_per_second'] * row['seconds'], 9 * 32)
    assert rows[0]['learning_rate'] > rows[1]['learning_rate'] > rows[2]['learning_rate'] > 0
    assert {
        'config_name', 'dataset', 'train_examples', 'test_examples', 'seed', 'num_tokens',
        'num_params', 'flops_per_image', 'train_accuracy', 'versions', 'device',
    } <= {*summary}  # fmt: skip
    assert set(summary['seconds']) == {'startup', 'compile', 'train', 'epoch_median'}
    assert steps_kept(workdir) == [18, 27]
    with np.load(workdir / 'augmented.npz', allow_pickle=False) as augmented:
        assert augmented['titles'].tolist() == [f'translate, step {step}' for step in (1, 2, 3, 4)]


def events(path):
    """The events of a TensorBoard file."""
    from tensorboardX.proto.event_pb2 import Event

    content = path.read_bytes()
    while content:  # TFRecord: length (8 bytes), its checksum (4), data, its checksum (4)
        (length,) = struct.unpack('<Q', content[:8])
        yield Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]


def test_tensorboard_events_hold_the_metrics(run):
    (file,) = (run[1] / 'tensorboard').iterdir()
    values = ((event.step, value) for event in events(file) for value in event.summary.value)
    scalars = {(value.tag, step): value.simple_value for step, value in values}
    for row in rows_of(run[1]):
        for name in ('test_accuracy', 'train_loss'):
            np.testing.assert_allclose(scalars[name, row['step']], row[name])


def test_a_finished_run_is_not_trained_or_changed_again(run):
    config, workdir, summary = run
    before = modification_times(workdir)
    recorder = Recorder()
    assert train_and_evaluate(config, workdir, progress=recorder) == summary
    assert recorder.rows == [] and recorder.resumed_after is None
    # What is not part of the result may be another.
    other = small_config(**RUN, **{'batch_eval': 7, 'checkpoints.keep': 9})
    assert train_and_evaluate(other, workdir) == summary
    for split, correct in (('', 'test_correct'), ('train[:300]', 'train_correct')):
        result = evaluate_checkpoint(workdir, *[split] * bool(split))
        assert result['results'][0]['correct'] == summary['results'][0][correct]
        assert result['examples'] == {'': 100}.get(split, 300) and result['epoch'] == 3
    assert result['split'] == 'train[:300]'
    assert modification_times(workdir) == before


def test_parameters_that_are_not_finite_are_never_kept(tmp_path):
    """The one step of the run has a finite loss and gradient, and leaves parameters of infinity."""
    overflows = {'optimizer.base_lr': 1e38, 'optimizer.name': 'sgd', 'optimizer.momentum': 0.0}
    overflows |= {'optimizer.weight_decay': 1e9}
    config = small_config(**overflows, batch=300, num_epochs=1, on_nonfinite='skip')
    with refuses('step 1', error=NonFiniteError):
        train_and_evaluate(config, tmp_path / 'run')
    assert not list((tmp_path / 'run' / 'checkpoints').iterdir())


DIVERGES = {'optimizer.name': 'sgd', 'optimizer.base_lr': 1e6, 'checkpoints.every_steps': 1}


@pytest.mark.parametrize('platform', ['cpu', 'accelerator'])
def test_a_run_that_diverges_ends_at_the_step_and_keeps_what_it_had(
    tmp_path, monkeypatch, platform
):
    """An accelerator applies the step, and the run ends before anything of it is saved."""
    for module in (compiled, mesh):
        monkeypatch.setattr(module, 'on_cpu', lambda mesh: platform == 'cpu')
    words = ('epoch 1', 'seed 0', 'base_lr = 1000000', '--config.on_nonfinite=skip')
    with refuses(*words, error=NonFiniteError) as refusal:
        train_and_evaluate(small_config(**DIVERGES), tmp_path / 'run')
    step, kept = map(int, re.findall(r'step (\d)', str(refusal.value)))
    assert kept == step - 1 == steps_kept(tmp_path / 'run')[-1]
    _, metrics = newest(small_config(**DIVERGES), tmp_path / 'run')
    assert metrics == []


@pytest.mark.slow
def test_steps_that_are_not_finite_are_left_out_if_asked(tmp_path):
    """It goes on in the folder of the run that ended, and leaves valid JSON."""
    with pytest.raises(NonFiniteError):
        train_and_evaluate(small_config(**DIVERGES, num_epochs=1), tmp_path / 'run')
    config = small_config(**DIVERGES, num_epochs=1, on_nonfinite='skip')
    with warns('epoch 1, seed 0: ', ' of 9'):
        train_and_evaluate(config, tmp_path / 'run')

    refuse = raising(AssertionError('not JSON'))
    (line,) = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
    assert 0 < json.loads(line, parse_constant=refuse)['skipped_steps'] < 9
    json.loads((tmp_path / 'run' / 'summary.json').read_text(), parse_constant=refuse)


@pytest.mark.slow
def test_real_mnist_trains_through_the_whole_path(mnist, tmp_path):
    values = {
        'dataset': {'name': 'mnist', 'data_dir': mnist},
        'model': {'patches': {'size': 4, 'stride': 7, 'padding': 'VALID'}, 'hidden_dim': 32},
    }
    values['dataset'] |= {'train_split': 'train[:2000]', 'test_split': 'test[:500]'}
    config = small_config(num_epochs=2, **flat(values), **{'optimizer.base_lr': 0.01})
    summary = train_and_evaluate(config, tmp_path / 'run')
    assert summary['num_tokens'] == 16 and summary['train_examples'] == 2000
    assert summary['test_accuracy'] > 0.6  # chance is 0.1
    config_file = tmp_path / 'run' / 'config.json'
    config_file.write_text(config_file.read_text().replace(mnist, str(tmp_path / 'gone')))
    with refuses(tmp_path / 'gone', '--data_dir=DIR'):
        evaluate_checkpoint(tmp_path / 'run')
    result = evaluate_checkpoint(tmp_path / 'run', data_dir=mnist)
    assert result['results'][0]['correct'] == summary['results'][0]['test_correct']


@pytest.mark.slow
@pytest.mark.parametrize(('looks', 'stops'), [(3, [8, 12, 18, 24]), (4, [9, 18])])
def test_a_run_that_is_stopped_again_and_again_has_the_same_bits(run, looks, stops, tmp_path):
    """Of epochs of 9 steps, in chunks that end at 4, 8, 9, 12, 16, 18 …"""
    config, workdir, summary = run
    pieces = small_config(**RUN | {'checkpoints.every_steps': 4})
    for step in stops:
        with pytest.raises(Preempted) as stopped:
            train_and_evaluate(pieces, tmp_path / 'run', progress=Recorder(looks))
        assert stopped.value.step == step
    resumed = train_and_evaluate(pieces, tmp_path / 'run', progress=Recorder(looks + 9))
    chex.assert_trees_all_equal(newest(pieces, tmp_path / 'run'), newest(config, workdir))
    check_same_bytes(tmp_path / 'run', workdir, 'metrics.jsonl')
    assert [row['epoch'] for row in rows_of(tmp_path / 'run', 'speed')] == [1, 2, 3]
    assert resumed['results'] == summary['results']


def test_a_run_that_is_traced_is_the_same_and_leaves_a_trace(tmp_path):
    config = small_config(num_epochs=3)  # of 9 steps
    train_and_evaluate(config, tmp_path / 'plain')
    train_and_evaluate(config, tmp_path / 'traced', trace=tmp_path / 'trace')
    check_same_bytes(tmp_path / 'traced', tmp_path / 'plain')
    (file,) = (tmp_path / 'trace').glob('plugins/profile/*/perfetto_trace.json.gz')
    traced = json.loads(gzip.decompress(file.read_bytes()))['traceEvents']
    calls = [event['name'] for event in traced if event.get('name', '').startswith('dot')]
    assert calls and min(map(calls.count, calls)) <= TRACED_STEPS


def test_a_trace_that_cannot_be_written_is_refused_before_the_run(tmp_path):
    (tmp_path / 'file').touch()
    with refuses(f'--trace={tmp_path / "file"}: cannot be written'):
        train_and_evaluate(small_config(), tmp_path / 'run', trace=tmp_path / 'file')
    assert not (tmp_path / 'run').exists()
