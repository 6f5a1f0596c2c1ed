"""The commands as whole programs."""

import json
import os
import pathlib

import pytest

from mixer_dilated.cli.compilation_cache import _processor
from tests.cli.conftest import SMALL
from tests.conftest import GIVEN_FLAGS, run_cli

RESULT = ('method', 'tokens', 'parameters', 'train accuracy', 'test accuracy', 'seconds')


def own(done):
    """Lines of the output without those that hold a path of the user's."""
    return [
        line for line in done.stdout.splitlines() if not line.startswith(('folder:', 'picture:'))
    ]


def test_training_prints_every_epoch_and_one_table(trained):
    workdir, done = trained
    assert done.returncode == 0 and done.stderr == ''
    lines = done.stdout.splitlines()
    for word, count in {'epoch': 2, **dict.fromkeys(RESULT, 1)}.items():
        assert sum(line.startswith(f'{word} ') for line in lines) == count, word
    summary = json.loads((workdir / 'summary.json').read_text())
    (accuracy,) = (line for line in lines if line.startswith('test accuracy'))
    assert f'{summary["results"][0]["test_correct"]} of {summary["test_examples"]}' in accuracy
    assert f'{summary["test_accuracy"]:.4f}' in accuracy and '95 % interval' in accuracy
    assert summary['config_name'] == 'digits_dilated'
    assert max(map(len, own(done))) <= 80


@pytest.mark.slow
def test_a_second_run_compiles_nothing_new_and_has_the_bits_of_the_first(trained, tmp_path):
    if 'GenuineIntel' in _processor():
        pytest.skip('XLA refuses on Intel CPUs what it kept')
    cache = pathlib.Path(os.environ['XDG_CACHE_HOME'], 'mixer_dilated', 'compiled')
    # Of what is compiled in a moment, some is not kept: how long it took decides.
    before = {*cache.rglob('jit_all_seeds-*-cache')}
    assert len(before) >= 3
    done = run_cli(*SMALL, f'--workdir={tmp_path / "again"}', XLA_FLAGS=GIVEN_FLAGS)
    assert done.returncode == 0 and done.stderr == ''
    assert {*cache.rglob('jit_all_seeds-*-cache')} == before
    first, second = (folder / 'metrics.jsonl' for folder in (trained[0], tmp_path / 'again'))
    assert first.read_bytes() == second.read_bytes()


def test_the_same_command_again_shows_the_finished_run(trained):
    workdir, first = trained
    again = run_cli('train', *SMALL, f'--workdir={workdir}')
    assert again.returncode == 0 and 'finished' in again.stdout
    result = [line for line in first.stdout.splitlines() if line.startswith(RESULT)]
    assert result == [line for line in again.stdout.splitlines() if line.startswith(RESULT)]


def test_evaluate_prints_the_accuracy_on_a_split(trained):
    workdir, _ = trained
    done = run_cli('evaluate', f'--workdir={workdir}', '--split=test[:50]')
    assert done.returncode == 0, done.stderr
    assert ' of 50 ' in done.stdout and 'test[:50]' in done.stdout


def test_summary_prints_what_patches_see_and_what_layers_cost(tmp_path):
    picture = tmp_path / 'patches.png'
    words = 'summary', SMALL[0], f'--picture={picture}', '--config.model.num_blocks=2'
    done = run_cli(*words, MPLBACKEND='of-a-notebook')  # which is not installed
    assert done.returncode == 0, done.stderr
    block = '2 × MixerBlock/token_mixing'
    for words in ('window', 'pixels', 'stem', block, 'head', 'total', 'MiB'):
        assert words in done.stdout, words
    assert f'picture: {picture}' in done.stdout
    assert max(map(len, own(done))) <= 80
    assert picture.read_bytes().startswith(b'\x89PNG')


@pytest.mark.slow
def test_a_run_on_prepared_data_imports_no_other_framework(mnist, tmp_path):
    """Packages of these names that cannot be imported without a trace stand in its way."""
    for name in ('tensorflow', 'torch', 'boto3'):
        (tmp_path / 'trap' / name).mkdir(parents=True)
        trap = tmp_path / 'trap' / name / '__init__.py'
        trap.write_text(f'raise SystemExit("{name} was imported")')
    few = ('dataset.train_split=train[:256]', 'dataset.test_split=test[:100]', 'num_epochs=1')
    words = ['--config=configs/mnist_dilated.py', *(f'--config.{change}' for change in few)]
    paths = {'TFDS_DATA_DIR': mnist, 'PYTHONPATH': str(tmp_path / 'trap')}
    done = run_cli(*words, f'--workdir={tmp_path / "run"}', **paths)
    assert done.returncode == 0, done.stderr
    assert 'was imported' not in done.stdout + done.stderr


def test_missing_mnist_is_refused_with_its_cause_and_what_to_do(tmp_path):
    words = ('--config=configs/mnist_dilated.py', f'--workdir={tmp_path / "run"}')
    offline = {'HTTPS_PROXY': '', 'https_proxy': ''}
    done = run_cli(*words, TFDS_DATA_DIR=str(tmp_path / 'empty'), **offline)
    assert done.returncode == 2 and done.stdout == ''
    assert len(done.stderr.splitlines()) == 1
    for words in ('mnist', str(tmp_path / 'empty'), 'dataset.data_dir=', 'digits_dilated.py'):
        assert words in done.stderr, words
    assert not (tmp_path / 'run').exists()
