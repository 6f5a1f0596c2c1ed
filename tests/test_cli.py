"""The command line as a person meets it: whole programs, and every refusal."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from mixer_dilated.cli import main as main_module
from mixer_dilated.cli import preemption
from mixer_dilated.cli.compilation_cache import _processor
from mixer_dilated.cli.main import main
from mixer_dilated.cli.progress import TerminalProgress
from mixer_dilated.errors import UserError
from mixer_dilated.training import train as train_module
from mixer_dilated.training.run_folder import lock_folder
from mixer_dilated.training.setup import create_setup
from tests.conftest import GIVEN_FLAGS, ROOT, run_cli, small_config

SMALL = [
    '--config=configs/digits_dilated.py',
    '--config.num_epochs=2',
    '--config.batch=32',
    '--config.dataset.train_split=train[:300]',
    '--config.model.num_blocks=1',
    '--config.model.hidden_dim=8',
]
RESULT = ('method', 'tokens', 'parameters', 'train accuracy', 'test accuracy', 'seconds')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A small run made from the command line: its folder and what was printed.

    It is compiled as a user's is.
    """
    workdir = tmp_path_factory.mktemp('cli') / 'run'
    return workdir, run_cli(*SMALL, f'--workdir={workdir}', XLA_FLAGS=GIVEN_FLAGS)


def own(done):
    """Lines of the output without those that hold a path of the user's."""
    return [
        line for line in done.stdout.splitlines() if not line.startswith(('folder:', 'picture:'))
    ]


def test_training_prints_every_epoch_and_one_table(trained):
    workdir, done = trained
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith('epoch ') for line in lines) == 2
    for word in RESULT:
        assert sum(line.startswith(f'{word} ') for line in lines) == 1, word
    summary = json.loads((workdir / 'summary.json').read_text())
    (accuracy,) = (line for line in lines if line.startswith('test accuracy'))
    assert f'{summary["results"][0]["test_correct"]} of {summary["test_examples"]}' in accuracy
    assert f'{summary["test_accuracy"]:.4f}' in accuracy and '95 % interval' in accuracy
    assert summary['config_name'] == 'digits_dilated'
    assert max(map(len, own(done))) <= 80
    assert done.stderr == ''


def test_a_second_run_compiles_nothing_new_and_has_the_bits_of_the_first(trained, tmp_path):
    if 'GenuineIntel' in _processor():
        pytest.skip('XLA refuses on Intel CPUs what it kept')
    cache = pathlib.Path(os.environ['XDG_CACHE_HOME'], 'mixer_dilated', 'compiled')

    def kept():
        # Of what is compiled in a moment, some is not kept: how long it took decides.
        return set(cache.rglob('jit_all_seeds-*-cache'))

    before = kept()
    assert len(before) >= 3
    done = run_cli(*SMALL, f'--workdir={tmp_path / "again"}', XLA_FLAGS=GIVEN_FLAGS)
    assert done.returncode == 0 and done.stderr == ''
    assert kept() == before
    first, second = (folder / 'metrics.jsonl' for folder in (trained[0], tmp_path / 'again'))
    assert first.read_bytes() == second.read_bytes()


def test_the_same_command_again_shows_the_finished_run(trained):
    workdir, first = trained
    again = run_cli('train', *SMALL, f'--workdir={workdir}')
    assert again.returncode == 0 and 'finished' in again.stdout
    result = [line for line in first.stdout.splitlines() if line.startswith(RESULT)]
    assert result == [line for line in again.stdout.splitlines() if line.startswith(RESULT)]


@pytest.mark.slow
def test_a_run_that_was_cut_off_continues(trained, tmp_path):
    """As after a kill between the last checkpoint and the end."""
    workdir, _ = trained
    copy = tmp_path / 'cut'
    shutil.copytree(workdir, copy)
    (copy / 'summary.json').unlink()
    newest = max((copy / 'checkpoints').iterdir(), key=lambda path: int(path.name))
    shutil.rmtree(newest)
    done = run_cli(*SMALL, f'--workdir={copy}')
    assert done.returncode == 0, done.stderr
    assert 'continues after step 8, 0.8889 of 2 epochs' in done.stdout
    assert done.stdout.count('\nepoch ') == 2
    assert (copy / 'metrics.jsonl').read_bytes() == (workdir / 'metrics.jsonl').read_bytes()
    one, other = (json.loads((d / 'summary.json').read_text()) for d in (workdir, copy))
    assert one['results'] == other['results']


def test_evaluate_prints_the_accuracy_on_a_split(trained):
    workdir, _ = trained
    done = run_cli('evaluate', f'--workdir={workdir}', '--split=test[:50]')
    assert done.returncode == 0, done.stderr
    assert ' of 50 ' in done.stdout and 'test[:50]' in done.stdout


def test_summary_says_what_patches_see_and_what_layers_cost(tmp_path):
    picture = tmp_path / 'patches.png'
    done = run_cli('summary', SMALL[0], f'--picture={picture}', '--config.model.num_blocks=2')
    assert done.returncode == 0, done.stderr
    for words in (
        'window',
        'pixels',
        'stem',
        '2 × MixerBlock/token_mixing',
        'head',
        'total',
        'MiB',
    ):
        assert words in done.stdout, words
    assert f'picture: {picture}' in done.stdout
    assert max(map(len, own(done))) <= 80
    assert picture.read_bytes().startswith(b'\x89PNG')


@pytest.mark.slow
def test_a_run_on_prepared_data_never_imports_tensorflow(mnist, tmp_path):
    """A package named tensorflow that cannot be imported without a trace stands in its way."""
    trap = tmp_path / 'trap' / 'tensorflow'
    trap.mkdir(parents=True)
    (trap / '__init__.py').write_text('raise SystemExit("tensorflow was imported")')
    done = run_cli(
        '--config=configs/mnist_dilated.py',
        '--config.num_epochs=1',
        '--config.dataset.train_split=train[:256]',
        '--config.dataset.test_split=test[:100]',
        '--config.model.num_blocks=1',
        f'--workdir={tmp_path / "run"}',
        TFDS_DATA_DIR=mnist,
        PYTHONPATH=str(trap.parent),
    )
    assert done.returncode == 0, done.stderr
    assert 'tensorflow was imported' not in done.stdout + done.stderr


def test_missing_mnist_is_told_with_its_cause_and_the_ways_on(tmp_path):
    done = run_cli(
        '--config=configs/mnist_dilated.py',
        f'--workdir={tmp_path / "run"}',
        TFDS_DATA_DIR=str(tmp_path / 'empty'),
        HTTPS_PROXY='',
        https_proxy='',
    )
    assert done.returncode == 2 and done.stdout == ''
    assert len(done.stderr.splitlines()) == 1
    for words in ('mnist', str(tmp_path / 'empty'), 'dataset.data_dir=', 'digits_dilated.py'):
        assert words in done.stderr, words
    assert not (tmp_path / 'run').exists()


def test_help_is_short_and_has_examples(capsys):
    assert main(['--help'], started=0.0) == 0
    text = capsys.readouterr().out
    assert 'Examples' in text and len(text.splitlines()) <= 75
    assert max(map(len, text.splitlines())) <= 80


def test_keys_lists_every_key(capsys):
    from mixer_dilated.config import KEYS

    assert main(['keys'], started=0.0) == 0
    text = capsys.readouterr().out
    for key in KEYS:
        assert key in text


def refused(capsys, *words: str) -> str:
    """The one line that a refused command line gives."""
    assert main(list(words), started=0.0) == 2
    out, err = capsys.readouterr()
    assert out == '' and err.startswith('error: ') and err.count('\n') == 1, (out, err)
    return err


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


CONFIG = '--config=configs/digits_dilated.py'
SWEEP = '--sweep=configs/sweeps/digits.py'


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['trian', CONFIG], 'allowed are train, evaluate, predict, summary, table1, sweep'),
        ([], '--config is missing'),
        (['evaluate'], '--workdir is missing'),
        (['--config=configs/mnist.py'], 'no such file; those in configs/: configs/cifar10'),
        (['--config.seed=1'], '--config is missing'),
        ([CONFIG, '--workdri=x'], 'workdri'),
        ([CONFIG, 'extra'], "'extra' is not understood"),
        ([CONFIG, '--config.model.patches.dilaton=2'], 'mean config.model.patches.dilation?'),
        ([CONFIG, '--config.sed=2'], 'did you mean config.seed?'),
        ([CONFIG, '--config.model.patches=2'], 'is a group of keys'),
        ([CONFIG, '--config.seed=two'], "config.seed = 'two': allowed is an integer"),
        ([CONFIG, '--config.model.patches.dilation=0'], 'dilation = 0: allowed is'),
        ([CONFIG, '--config.model.patches.size=(2,2,2)'], 'size = (2, 2, 2): allowed is'),
        ([CONFIG, '--config.model.patches.size=9'], 'does not fit an image of height 8'),
        ([CONFIG, '--config.batch=5000'], 'at most its 1433 examples'),
        ([CONFIG, '--config.dataset.name=digitz'], "config.dataset.name = 'digitz': no such data"),
        (['summary', CONFIG, '--config.dataset.test_split=tset'], "test_split = 'tset'"),
        (['evaluate', '--workdir=no/where'], 'no run there'),
        (['evaluate', '--workdir='], '--workdir=: an empty value'),
        (['summary', CONFIG, '--picture=no/where.png'], '--picture=no/where.png'),
        (['sweep'], '--sweep is missing'),
        (['sweep', '--sweep=no.py'], 'no such file; those in configs/sweeps/: configs/sweeps/b'),
        (['sweep', '--sweep=configs/mnist_dilated.py'], 'it is a config file: --config='),
        (['--config=configs/sweeps/best.py'], 'it is a sweep file: python run.py sweep --sweep='),
        ([CONFIG, '--num_epochs=2'], 'set by --config.num_epochs=2 (see --help)'),
        ([CONFIG, '--dilation=2'], 'set by --config.model.patches.dilation=2 (see --help)'),
        (['benchmark', '--against=jax'], "'jax': allowed are reference, torch"),
        (['benchmark', CONFIG, '--json=no/where/x.json'], '--json=no/where/x.json: no such folder'),
        (['benchmark', CONFIG, CONFIG], 'name each once'),
        (['benchmark', '--input', '--against=reference'], '--against is not for --input'),
        (['sweep', SWEEP, '--seeds=0'], '--seeds=0: allowed is an integer from 1'),
        (['sweep', SWEEP, '--config.model.gelu=soft'], "gelu = 'soft': allowed is one of"),
        (['sweep', '--config.seed=1'], '--sweep is missing'),
        (['table1', '--config.sed=1'], 'did you mean config.seed?'),
        (['table1', '--config.model.patches.size=3'], 'every trial of the sweep sets this key'),
        (['table1', '--seeds=many'], '--seeds=many: allowed is'),
        (['report'], 'the folder of a run or study is missing'),
        (['report', 'no/where'], 'no run or study there'),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_input_is_refused_in_one_line(capsys, words, said):
    assert said in refused(capsys, *words)


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('def get_config(:', ' line 1: SyntaxError'),
        ('x = 1', 'get_config'),
        ('import nonsense_module', ' line 1: ModuleNotFoundError'),
        ('def get_config():\n    return 1 / 0', ' line 2: ZeroDivisionError'),
        ('def get_config():\n    raise ValueError("so\\nso")', 'ValueError'),
        ('def get_config():\n    return None', 'get_config'),
        ('BASE\n    config.batch_size = 3\n    return config', 'config.batch_size: no such key'),
        ('BASE\n    config.modle.x = 3\n    return config', ' line 4: AttributeError'),
        (
            'BASE\n    config.model = 3\n    return config',
            'config.model is a group of keys, not a value; set one of',
        ),
        ('def get_config():\n    return {}["x"]', " line 2: KeyError: 'x'"),
    ],
)
def test_a_wrong_config_file_is_told_with_its_line(capsys, tmp_path, text, said):
    base = (
        'from mixer_dilated.config import base_config\n'
        'def get_config():\n    config = base_config()'
    )
    path = tmp_path / 'mine.py'
    path.write_text(text.replace('BASE', base))
    assert said in refused(capsys, f'--config={path}')


@pytest.mark.parametrize(
    ('fields', 'said'),
    [
        (
            'base=base_config(), trials=7',
            'mine.py: trials: allowed is a list of at least one Trial',
        ),
        ('base=base_config(), trials=[]', 'at least one Trial'),
        ('base=3, trials=[]', 'base = 3: allowed is a ConfigDict'),
        ('base=base_config()', ' line 4: TypeError'),
    ],
)
def test_a_sweep_file_of_wrong_types_is_refused(capsys, tmp_path, fields, said):
    path = tmp_path / 'mine.py'
    path.write_text(
        'from mixer_dilated.config import base_config\n'
        'from mixer_dilated.studies.sweep import Sweep\n'
        'def get_sweep():\n'
        f"    return Sweep(title='t', question='q', {fields})\n"
    )
    assert said in refused(capsys, 'sweep', f'--sweep={path}', f'--workdir={tmp_path}/study')
    assert not (tmp_path / 'study').exists()


def test_a_bool_flag_form_of_an_override_is_refused(capsys):
    assert 'config.seed' in refused(capsys, CONFIG, '--config.seed')


def test_a_folder_that_cannot_be_made_is_refused(capsys, tmp_path):
    (tmp_path / 'file').write_text('')
    message = refused(capsys, CONFIG, f'--workdir={tmp_path / "file" / "run"}')
    assert 'cannot be written' in message or 'not empty' in message


REFUSES = """
import sys
from mixer_dilated.cli.main import main
assert main(sys.argv[1:], 0.0) == 2
print(*{'jax', 'flax', 'tensorflow_datasets', 'orbax', 'matplotlib', 'scipy'} & set(sys.modules))
"""


@pytest.mark.parametrize('words', [(CONFIG,), ('sweep', SWEEP)], ids=['train', 'sweep'])
def test_a_wrong_value_is_refused_before_anything_large_is_imported(words):
    done = subprocess.run(
        [sys.executable, '-c', REFUSES, *words, '--config.batch=0'],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.strip() == '', done
    assert done.stderr.startswith('error: config.batch = 0')


def test_nothing_is_left_behind_by_refusals(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(capsys, f'--config={ROOT / "configs" / "digits_dilated.py"}', '--config.batch=5000')
    assert list(tmp_path.iterdir()) == []


def test_an_epoch_without_an_evaluation_shows_no_test_accuracy(capsys, tmp_path):
    progress = TerminalProgress('run', tmp_path)
    progress.on_ready(create_setup(small_config(num_epochs=2)), 0)
    row = {'epoch': 1, 'train_accuracy': 0.5, 'test_accuracy': None}
    speed = {'seconds': 1.0, 'images_per_second': 10.0}
    progress.on_epoch_end([row], speed)
    progress.on_epoch_end([{**row, 'epoch': 2, 'test_accuracy': 0.25}], speed)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith('epoch 1/2  train 0.5000  10 images/s')
    assert second.startswith('epoch 2/2  train 0.5000  test 0.2500  10 images/s')


def test_a_terminal_without_such_letters_gets_others():
    done = run_cli('summary', CONFIG, PYTHONIOENCODING='ascii')
    assert done.returncode == 0, done.stderr
    assert 'window 7?7' in done.stdout


def test_an_interrupt_while_compiling_ends_with_130_and_the_way_on(tmp_path):
    """The first line that training prints says that compiling is next; then comes the signal."""
    process = subprocess.Popen(
        [sys.executable, 'run.py', CONFIG, f'--workdir={tmp_path / "run"}'],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while 'compiles' not in process.stdout.readline():
        pass
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert err == f'\ninterrupted; the same command with --workdir={tmp_path / "run"} goes on\n'


@pytest.mark.parametrize('command', ['train', 'evaluate'])
def test_a_signal_at_any_moment_of_the_start_ends_the_program(command, trained, tmp_path):
    """Also inside an import, where Python's own KeyboardInterrupt would be lost."""
    words = {
        'train': (*LONG, f'--workdir={tmp_path / "run"}'),
        'evaluate': (f'--workdir={trained[0]}', '--split=train+test'),
    }[command]
    for pause in (0.15, 0.4, 0.6, 0.8, 1.0):
        process = subprocess.Popen(
            [sys.executable, 'run.py', command, *words],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        time.sleep(pause)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        # Before the first line of the program, the system ends it.
        assert process.returncode in (143, -signal.SIGTERM), err
        assert 'Traceback' not in err and 'warning' not in err, err


@pytest.mark.slow
@pytest.mark.parametrize('closed', ['stdout', 'stderr'])
def test_a_stream_that_is_closed_does_not_keep_a_run_from_saving(closed, tmp_path):
    workdir = tmp_path / 'run'
    close = {'stdout': '>&-', 'stderr': '2>&-'}[closed]
    process = subprocess.Popen(
        ['bash', '-c', f'exec "$@" {close}', '-', sys.executable, 'run.py', *LONG]
        + [f'--workdir={workdir}', '--config.checkpoints.every_steps=11'],
        cwd=ROOT,
    )  # fmt: skip
    while not any((workdir / 'checkpoints').glob('[0-9]*')):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143


def test_a_hung_run_ends_though_nobody_reads_what_it_says():
    process = subprocess.Popen(
        [sys.executable, '-c', HANGS, '1'],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == 'ready\n'
    process.stderr.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143


def test_a_save_that_fails_at_a_signal_is_told(monkeypatch, capsys):
    monkeypatch.setattr(preemption, '_received', signal.SIGTERM)

    def leave():
        raise SystemExit(143)

    def full(argv, started):
        raise UserError('checkpoints: cannot be written: No space left on device')

    monkeypatch.setattr(preemption, 'exit_now', leave)
    monkeypatch.setattr(main_module, '_run', full)
    with pytest.raises(SystemExit):
        main(['keys'], 0.0)
    assert 'error: checkpoints: cannot be written: No space' in capsys.readouterr().err


LONG = (CONFIG, '--config.num_epochs=100000')


def start(*words):
    """A run in a process of its own, when its first epoch is done."""
    process = subprocess.Popen(
        [sys.executable, 'run.py', *words],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in process.stdout:
        if line.startswith('epoch'):
            return process
    raise AssertionError(process.communicate())


@pytest.mark.slow
@pytest.mark.parametrize(('number', 'status'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_says_where_and_ends(number, status, tmp_path):
    workdir = tmp_path / 'run'
    process = start(*LONG, f'--workdir={workdir}')
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status and err == '', err
    told = re.search(r'stopped after step (\d+), which is saved;\nthe same command with', out)
    newest = max(int(path.name) for path in (workdir / 'checkpoints').iterdir())
    assert int(told[1]) == newest and f'--workdir={workdir} goes on' in out


HANGS = """
import sys, time
from mixer_dilated.cli import preemption
preemption.GRACE_SECONDS = float(sys.argv[1])
preemption.install_handlers()
preemption.defer()
print("ready", flush=True)
while True:
    time.sleep(0.1)
"""


@pytest.mark.parametrize(
    ('pauses', 'patience'),
    [((), 2), ((0.7,), 1000), ((0.1,), 2)],
    ids=['one', 'a second', 'one that comes twice'],
)
def test_a_run_that_hangs_is_ended_by_time_or_a_second_signal(pauses, patience):
    """The process never looks whether it was asked to stop."""
    process = subprocess.Popen(
        [sys.executable, '-c', HANGS, str(patience)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == 'ready\n'
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    for pause in pauses:
        time.sleep(pause)
        process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and 'the newest checkpoint is kept' in err
    assert patience == 1000 or time.monotonic() - start >= patience


@pytest.mark.slow
def test_a_second_process_on_a_folder_is_refused_while_the_first_lives(tmp_path):
    workdir = tmp_path / 'run'
    first = start(*LONG, f'--workdir={workdir}')
    second = run_cli(*LONG, f'--workdir={workdir}')
    assert second.returncode == 2 and 'another process works in this folder' in second.stderr
    first.kill()  # and leaves the file of its lock behind
    first.communicate()
    assert (workdir / '.lock').exists()
    with lock_folder(workdir):
        pass


def test_a_run_that_a_cluster_stops_ends_as_by_a_signal(monkeypatch, capsys, tmp_path):
    """Another process says so at the second look; no signal came here."""
    looks = iter([False, True])
    monkeypatch.setattr(train_module, 'any_host', lambda asked: next(looks))
    assert main([CONFIG, f'--workdir={tmp_path / "run"}'], 0.0) == 143
    told = capsys.readouterr()
    assert 'stopped after step 8, which is saved;\nthe same command with' in told.out
    assert told.err == '' and (tmp_path / 'run' / 'checkpoints' / '8').is_dir()


def test_overrides_of_old_names_of_keys_are_those_of_today(tmp_path, capsys):
    old = ('--config.augment.shift=2', '--config.checkpoints.other_versions=True')
    assert main([CONFIG, *old, '--config.batch=0'], 0.0) == 2
    assert capsys.readouterr().err.splitlines() == [
        'warning: config.augment.shift is now config.augment.translate',
        'warning: config.checkpoints.other_versions is gone, and has no effect',
        'error: config.batch = 0: allowed is an integer from 1 to 2147483647',
    ]


def test_a_defect_is_told_in_one_line_and_shown_if_asked(monkeypatch, capsys):
    def broken(argv, started):
        raise RuntimeError('one\nbroken \x1b[31mthing')

    monkeypatch.setattr(main_module, '_run', broken)
    assert main(['keys'], 0.0) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: RuntimeError: one broken \\x1b[31mthing; a defect')
    assert main(['keys', '--debug'], 0.0) == 1
    assert 'Traceback' in capsys.readouterr().err
