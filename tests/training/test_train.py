"""Runs: their folders, resuming, what is refused, evaluation of checkpoints."""

import errno
import json
import pathlib
import re
import shutil
import struct

import chex
import filelock
import jax
import numpy as np
import pytest

from mixer_dilated.config import resolve
from mixer_dilated.data.datasets import Digits
from mixer_dilated.errors import NonFiniteError, Preempted, UserError
from mixer_dilated.inference.evaluation import evaluate_checkpoint
from mixer_dilated.parallel import mesh
from mixer_dilated.reports.report import write_report
from mixer_dilated.training import compiled
from mixer_dilated.training.checkpoint import Checkpoints
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.run_folder import check_same_data, lock_folder
from mixer_dilated.training.run_state import RunState
from mixer_dilated.training.setup import create_setup
from mixer_dilated.training.train import Progress, train_and_evaluate
from tests.conftest import small_config


class Recorder(Progress):
    """Keeps every row, and asks the run to stop after `stop_after` epochs, as a signal does."""

    def __init__(self, stop_after=None):
        self.rows, self.resumed_after, self.stop_after = [], None, stop_after

    def on_ready(self, setup, step):
        self.resumed_after = step

    def on_epoch_end(self, rows, speed):
        self.rows += rows

    def stop_requested(self):
        return bool(self.rows) and self.rows[-1]['epoch'] == self.stop_after


def content(state):
    """The arrays of a state (its static functions are made anew for each)."""
    return jax.device_get((state.step, state.params, state.opt_state))


def newest(config, workdir):
    """Arrays and metrics of the newest checkpoint in a folder."""
    programs = CompiledFunctions(create_setup(config))
    with Checkpoints(workdir, config, read_only=True) as checkpoints:
        snapshot = checkpoints.restore(programs.abstract_run_state())
    return content(snapshot.state), snapshot.metrics


RUN = {'model.dropout_rate': 0.1, 'augment.translate': 1, 'checkpoints.every_steps': 9}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A finished small run: its config, folder and summary."""
    config = small_config(**RUN)
    workdir = tmp_path_factory.mktemp('runs') / 'first'
    return config, workdir, train_and_evaluate(config, workdir, name='small')


def rows_of(workdir, name='metrics'):
    return [json.loads(line) for line in (workdir / f'{name}.jsonl').read_text().splitlines()]


def metrics_bytes(workdir):
    return (workdir / 'metrics.jsonl').read_bytes()


def test_two_runs_have_the_same_bits(run, tmp_path):
    config, workdir, summary = run
    again = train_and_evaluate(config, tmp_path / 'again')
    chex.assert_trees_all_equal(newest(config, tmp_path / 'again'), newest(config, workdir))
    assert metrics_bytes(tmp_path / 'again') == metrics_bytes(workdir)
    assert again['results'] == summary['results']


def test_a_damaged_summary_is_told_with_the_way_on(run, tmp_path):
    config, workdir, _ = run
    shutil.copytree(workdir, tmp_path / 'copy')
    edited = (workdir / 'summary.json').read_text().replace('"test_correct": ', '"test_correct": 1')
    for content in ('{', '[]', '{"results": []}', edited):
        (tmp_path / 'copy' / 'summary.json').write_text(content)
        with pytest.raises(UserError, match='remove it, and the same command'):
            train_and_evaluate(config, tmp_path / 'copy')


def test_files_of_a_finished_run_that_are_damaged_are_made_again(run, tmp_path):
    config, workdir, _ = run
    shutil.copytree(workdir, tmp_path / 'copy')
    (tmp_path / 'copy' / 'metrics.jsonl').write_text('')
    (tmp_path / 'copy' / 'predictions.npz').unlink()
    with pytest.warns(UserWarning, match=r'metrics.jsonl, predictions.npz damaged or gone; made'):
        train_and_evaluate(config, tmp_path / 'copy')
    for name in ('metrics.jsonl', 'predictions.npz'):
        assert (tmp_path / 'copy' / name).read_bytes() == (workdir / name).read_bytes()


def test_another_seed_has_other_bits(run, tmp_path):
    _, workdir, _ = run
    other = small_config(**RUN, seed=1)
    train_and_evaluate(other, tmp_path / 'other')
    assert rows_of(tmp_path / 'other')[0]['train_loss'] != rows_of(workdir)[0]['train_loss']


def test_a_resumed_run_has_the_bits_of_the_undisturbed_one(run, tmp_path):
    config, workdir, summary = run
    with pytest.raises(Preempted, match='stopped after step 18, which is saved'):
        train_and_evaluate(config, tmp_path / 'run', progress=Recorder(stop_after=2))
    assert not (tmp_path / 'run' / 'summary.json').exists()
    # A line that was written after the last checkpoint must not appear twice.
    with (tmp_path / 'run' / 'metrics.jsonl').open('a') as file:
        file.write('{"epoch": 3, "unfinis')
    recorder = Recorder()
    resumed = train_and_evaluate(config, tmp_path / 'run', progress=recorder)
    assert recorder.resumed_after == 18 and [row['epoch'] for row in recorder.rows] == [3]
    chex.assert_trees_all_equal(newest(config, tmp_path / 'run'), newest(config, workdir))
    assert metrics_bytes(tmp_path / 'run') == metrics_bytes(workdir)
    same = [key for key in summary if key not in ('seconds', 'config_name', 'checksum')]
    assert {key: resumed[key] for key in same} == {key: summary[key] for key in same}


class Impatient(Progress):
    """Asks the run to stop when it looks up for the `looks`-th time."""

    def __init__(self, looks):
        self.looks = looks

    def stop_requested(self):
        self.looks -= 1
        return self.looks == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ('looks', 'stops'),
    [(3, [8, 12, 18, 24]), (4, [9, 18])],  # an epoch has 9 steps
)
def test_a_run_that_is_stopped_again_and_again_has_the_same_bits(run, looks, stops, tmp_path):
    config, workdir, summary = run
    pieces = small_config(**RUN | {'checkpoints.every_steps': 4})  # ends at 4, 8, 9, 12, 16, 18 …
    for step in stops:
        with pytest.raises(Preempted) as stopped:
            train_and_evaluate(pieces, tmp_path / 'run', progress=Impatient(looks))
        assert stopped.value.step == step
    found = train_and_evaluate(pieces, tmp_path / 'run', progress=Impatient(looks + 9))
    chex.assert_trees_all_equal(newest(pieces, tmp_path / 'run'), newest(config, workdir))
    assert metrics_bytes(tmp_path / 'run') == metrics_bytes(workdir)
    assert [row['epoch'] for row in rows_of(tmp_path / 'run', 'speed')] == [1, 2, 3]
    assert found['results'] == summary['results']


@pytest.mark.slow
def test_evaluating_more_rarely_changes_no_result(run, tmp_path):
    config, workdir, summary = run
    rarely = small_config(**RUN, eval_every=2)  # epochs 2 and, because it is the last, 3
    again = train_and_evaluate(rarely, tmp_path / 'run')
    assert again['results'] == summary['results']
    chex.assert_trees_all_equal(newest(rarely, tmp_path / 'run')[0], newest(config, workdir)[0])
    first, *others = rows_of(tmp_path / 'run')
    every_first, *every_other = rows_of(workdir)
    assert others == every_other
    assert first == {**every_first, 'test_loss': None, 'test_accuracy': None}
    assert write_report(tmp_path / 'run').stat().st_size > 10_000


def steps_kept(workdir):
    return sorted(int(path.name) for path in (workdir / 'checkpoints').iterdir())


@pytest.mark.slow
def test_the_newest_checkpoints_and_the_best_are_kept(tmp_path):
    keep = {'checkpoints.every_steps': 3, 'checkpoints.keep': 1, 'checkpoints.keep_best': True}
    rough = {'optimizer.base_lr': 0.2, 'optimizer.decay_type': 'constant', 'num_epochs': 6}
    config = small_config(**keep, **rough)
    train_and_evaluate(config, tmp_path / 'best')
    rows = rows_of(tmp_path / 'best')
    best = max(rows, key=lambda row: row['test_accuracy'])  # the first of ties
    assert best['epoch'] < 6  # else this shows nothing
    assert steps_kept(tmp_path / 'best') == [best['step'], 54]
    found = evaluate_checkpoint(tmp_path / 'best', best=True)
    assert (found['epoch'], found['results'][0]['accuracy']) == (
        best['epoch'],
        best['test_accuracy'],
    )
    # Saved by the clock alone: the first steps and the last.
    slow = small_config(**{'checkpoints.every_minutes': 60, 'num_epochs': 2})
    train_and_evaluate(slow, tmp_path / 'slow')
    assert steps_kept(tmp_path / 'slow') == [8, 18]


def test_a_finished_run_is_not_trained_again(run):
    config, workdir, summary = run
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob('*')}
    recorder = Recorder()
    assert train_and_evaluate(config, workdir, progress=recorder) == summary
    assert recorder.rows == [] and recorder.resumed_after is None
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob('*')} == before


@pytest.mark.slow
def test_each_checkpoint_holds_its_own_epoch(tmp_path):
    """Saving goes on in the background while the next epoch reuses the state's memory."""
    config = small_config(num_epochs=4, **{'checkpoints.keep': 4})
    setup = create_setup(config)
    programs = CompiledFunctions(setup)
    train = programs.in_memory(Digits().read('train[:300]'))
    state = programs.init_state()
    copies = {}
    with Checkpoints(tmp_path, config) as checkpoints:
        for epoch in range(1, 5):
            state, _ = programs.train_epoch(state, train)
            copies[9 * epoch] = jax.tree.map(np.array, content(state))
            checkpoints.save(RunState(state, programs.empty_metrics(), [{'epoch': epoch}]))
    for step, copy in reversed(copies.items()):
        with Checkpoints(tmp_path, config, read_only=True) as checkpoints:
            restored = checkpoints.restore(programs.abstract_run_state())
        assert restored.step == step and restored.metrics == [{'epoch': step // 9}]
        chex.assert_trees_all_equal(content(restored.state), copy)
        shutil.rmtree(tmp_path / 'checkpoints' / str(step))


def test_the_runs_folder_explains_itself(run):
    config, workdir, summary = run
    assert json.loads((workdir / 'summary.json').read_text()) == summary
    assert resolve(json.loads((workdir / 'config.json').read_text())) == config
    rows = rows_of(workdir)
    speed = rows_of(workdir, 'speed')
    assert [row['epoch'] for row in rows] == [1, 2, 3]
    assert [row['step'] for row in rows] == [9, 18, 27]
    assert set(rows[0]) == {
        'epoch', 'step', 'seed', 'train_loss', 'train_accuracy', 'test_loss', 'test_accuracy',
        'learning_rate', 'skipped_steps',
    }  # fmt: skip
    (of_seed,) = summary['results']
    assert rows[-1]['test_accuracy'] == summary['test_accuracy'] == of_seed['test_correct'] / 100
    assert [row['epoch'] for row in speed] == [1, 2, 3]
    for row in speed:
        np.testing.assert_allclose(row['images_per_second'] * row['seconds'], 9 * 32)
    assert rows[0]['learning_rate'] > rows[1]['learning_rate'] > rows[2]['learning_rate'] > 0
    for key in (
        'config_name', 'dataset', 'train_examples', 'test_examples', 'seed', 'num_tokens',
        'num_params', 'flops_per_image', 'train_accuracy', 'versions', 'device',
    ):  # fmt: skip
        assert key in summary
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
    _, workdir, _ = run
    scalars = {
        (value.tag, event.step): value.simple_value
        for path in (workdir / 'tensorboard').iterdir()
        for event in events(path)
        for value in event.summary.value
    }
    for row in rows_of(workdir):
        np.testing.assert_allclose(scalars['test_accuracy', row['step']], row['test_accuracy'])
        np.testing.assert_allclose(scalars['train_loss', row['step']], row['train_loss'])


def test_resuming_tells_tensorboard_from_where(run, tmp_path):
    config, workdir, _ = run
    shutil.copytree(workdir, tmp_path / 'cut')
    (tmp_path / 'cut' / 'summary.json').unlink()
    shutil.rmtree(tmp_path / 'cut' / 'checkpoints' / '27')
    before = set((tmp_path / 'cut' / 'tensorboard').iterdir())
    train_and_evaluate(config, tmp_path / 'cut')
    (added,) = set((tmp_path / 'cut' / 'tensorboard').iterdir()) - before
    starts = [event.step for event in events(added) if event.HasField('session_log')]
    assert starts == [19]  # what an earlier process wrote from step 19 on is void


def test_evaluating_writes_nothing(run):
    _, workdir, _ = run
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob('*')}
    evaluate_checkpoint(workdir)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob('*')} == before


def test_a_run_goes_on_with_the_examples_it_was_begun_on(run, tmp_path):
    config, workdir, _ = run
    copy = tmp_path / 'run'
    shutil.copytree(workdir, copy)
    (copy / 'summary.json').unlink()
    noted = json.loads((copy / 'data.json').read_text())
    noted['train']['labels'] += 1
    (copy / 'data.json').write_text(json.dumps(noted))
    with pytest.raises(UserError, match='begun on other examples'):
        train_and_evaluate(config, copy)
    known = json.loads((workdir / 'data.json').read_text())
    with pytest.raises(UserError, match='begun on other examples'):
        check_same_data(copy, known, saved=True)
    check_same_data(copy, known, saved=False)  # nothing was trained yet
    check_same_data(copy, known, saved=True)


def test_what_is_not_part_of_the_result_may_change(run, tmp_path):
    _, workdir, summary = run
    other = small_config(**RUN, **{'batch_eval': 7, 'checkpoints.keep': 9})
    assert train_and_evaluate(other, workdir) == summary


def test_evaluating_a_checkpoint_repeats_the_summary(run):
    _, workdir, summary = run
    result = evaluate_checkpoint(workdir)
    (of_seed,), (expected,) = result['results'], summary['results']
    assert (result['examples'], result['epoch'], of_seed['seed']) == (100, 3, 0)
    assert of_seed['correct'] == expected['test_correct']
    train = evaluate_checkpoint(workdir, 'train[:300]')
    assert train['results'][0]['correct'] == expected['train_correct']
    assert train['split'] == 'train[:300]'


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'batch': 301}, 'config.batch = 301: .* 300 examples'),
        ({'augment.translate': 8}, 'config.augment.translate = 8'),
        ({'optimizer.warmup_steps': 27}, 'warmup_steps = 27: the run has 27 steps'),
        ({'model.patches.dilation': 9}, 'window of 10 pixels does not fit'),
        ({'dataset.train_split': 'train[:9999]'}, "config.dataset.train_split = 'train.:9999.'"),
        ({'dataset.test_split': 'validation'}, r"test_split = 'validation': .*train \(1433"),
    ],
)
def test_a_config_that_does_not_fit_its_data_is_refused(changes, words, tmp_path):
    if 'model.patches.dilation' in changes:
        changes = {**changes, 'model.patches.padding': 'VALID'}
    with pytest.raises(UserError, match=words):
        train_and_evaluate(small_config(**changes), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_a_folder_of_another_config_is_refused_with_the_keys(run):
    _, workdir, _ = run
    other = small_config(**RUN, **{'model.hidden_dim': 9, 'seed': 4})
    with pytest.raises(UserError, match=r'model.hidden_dim: 8, 9; seed: 0, 4'):
        train_and_evaluate(other, workdir)


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / 'thesis.tex').write_text('precious')
    with pytest.raises(UserError, match='not empty'):
        train_and_evaluate(small_config(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.tex']


def test_evaluating_without_a_run_or_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match='no run there'):
        evaluate_checkpoint(tmp_path / 'nothing')
    (tmp_path / 'config.json').write_text(json.dumps(small_config().to_dict()))
    with pytest.raises(UserError, match='no checkpoint there; remove this folder'):
        evaluate_checkpoint(tmp_path)
    (tmp_path / 'config.json').write_text('{"seed":')
    with pytest.raises(UserError, match=r'config\.json: cannot be read'):
        evaluate_checkpoint(tmp_path)


def test_parameters_that_are_not_finite_are_never_kept(tmp_path):
    """The one step of the run has a finite loss and gradient, and leaves parameters of infinity."""
    overflows = {'optimizer.base_lr': 1e38, 'optimizer.name': 'sgd', 'optimizer.momentum': 0.0}
    config = small_config(
        **overflows, batch=300, num_epochs=1, on_nonfinite='skip', **{'optimizer.weight_decay': 1e9}
    )
    with pytest.raises(NonFiniteError, match='step 1: parameters are not finite'):
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
    with pytest.raises(NonFiniteError) as caught:
        train_and_evaluate(small_config(**DIVERGES), tmp_path / 'run')
    told = re.match(
        r'epoch 1, step (\d): the loss or its gradient is not finite \(seed 0\); that of step '
        r'(\d) is kept\. Likely .*base_lr = 1000000.*--config.on_nonfinite=skip$',
        str(caught.value),
    )
    step, kept = map(int, told.groups())
    assert kept == step - 1 == steps_kept(tmp_path / 'run')[-1]
    _, metrics = newest(small_config(**DIVERGES), tmp_path / 'run')
    assert metrics == []


@pytest.mark.slow
def test_steps_that_are_not_finite_are_left_out_if_asked(tmp_path):
    """It goes on in the folder of the run that ended, and leaves valid JSON."""
    with pytest.raises(NonFiniteError):
        train_and_evaluate(small_config(**DIVERGES, num_epochs=1), tmp_path / 'run')
    config = small_config(**DIVERGES, num_epochs=1, on_nonfinite='skip')
    with pytest.warns(UserWarning, match=r'epoch 1, seed 0: (\d) of 9 steps left out'):
        train_and_evaluate(config, tmp_path / 'run')

    def refuse(constant):
        raise AssertionError(constant)

    (line,) = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
    assert 0 < json.loads(line, parse_constant=refuse)['skipped_steps'] < 9
    json.loads((tmp_path / 'run' / 'summary.json').read_text(), parse_constant=refuse)


@pytest.mark.slow
def test_real_mnist_trains_through_the_whole_path(mnist, tmp_path):
    config = small_config(
        **{
            'num_epochs': 2,
            'dataset.name': 'mnist',
            'dataset.data_dir': mnist,
            'dataset.train_split': 'train[:2000]',
            'dataset.test_split': 'test[:500]',
            'model.patches.size': 4,
            'model.patches.stride': 7,
            'model.patches.padding': 'VALID',
            'model.hidden_dim': 32,
            'optimizer.base_lr': 0.01,
        }
    )
    summary = train_and_evaluate(config, pathlib.Path(tmp_path / 'run'))
    assert summary['num_tokens'] == 16 and summary['train_examples'] == 2000
    assert summary['test_accuracy'] > 0.6  # chance is 0.1
    moved = tmp_path / 'moved'
    shutil.copytree(mnist, moved)
    config_file = tmp_path / 'run' / 'config.json'
    config_file.write_text(config_file.read_text().replace(mnist, str(tmp_path / 'gone')))
    with pytest.raises(UserError, match='--data_dir=DIR'):
        evaluate_checkpoint(tmp_path / 'run')
    found = evaluate_checkpoint(tmp_path / 'run', data_dir=str(moved))
    assert found['results'][0]['correct'] == summary['results'][0]['test_correct']


@pytest.mark.parametrize('error', [NotImplementedError('no flock'), OSError(errno.ENOLCK, 'none')])
def test_a_file_system_without_locks_is_a_warning(error, tmp_path, monkeypatch):
    def acquire(*_, **__):
        raise error

    monkeypatch.setattr(filelock.FileLock, 'acquire', acquire)
    with pytest.warns(UserWarning, match='has no locks'), lock_folder(tmp_path):
        pass
