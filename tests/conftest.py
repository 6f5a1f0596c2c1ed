"""What several test files share: configs, real MNIST, the command line as a subprocess."""

import contextlib
import json
import os
import pathlib
import re
import runpy
import subprocess
import sys

import hypothesis
import jax
import numpy as np
import pytest

from mixer_dilated.errors import UserError

# XLA without LLVM's optimisations, on one core and with its older, quicker way to emit fused loops,
# where it still has that: most tests wait for the compiler. What is computed stays the same.
QUICK_COMPILER = '--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1'
if jax.__version_info__ < (0, 11):
    QUICK_COMPILER += ' --xla_cpu_use_fusion_emitters=false'
# Read once, when the first device is asked for, in this process and in those that tests start.
GIVEN_FLAGS = os.environ.get('XLA_FLAGS', '').replace(QUICK_COMPILER, '').strip()
os.environ['XLA_FLAGS'] = f'{GIVEN_FLAGS} {QUICK_COMPILER}'

# Compiling takes its time; with CI set, every run draws the same inputs.
hypothesis.settings.register_profile(
    'tests',
    max_examples=50,
    deadline=None,
    derandomize='CI' in os.environ,
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.load_profile('tests')

ROOT = pathlib.Path(__file__).parents[1]
CONFIG_FILES = sorted((ROOT / 'configs').glob('*.py'))


def config_of(path: pathlib.Path, function: str = 'get_config'):
    """What `get_config()` of a config file returns, or `get_sweep()` of a sweep file."""
    return runpy.run_path(str(path))[function]()


def small_config(**changes):
    """A network of a few hundred parameters on a few embedded digits; changes by dotted key."""
    from mixer_dilated.config import resolve

    values = {
        'num_epochs': 3,
        'batch': 32,
        'batch_eval': 64,
        'dataset.name': 'digits',
        'dataset.train_split': 'train[:300]',
        'dataset.test_split': 'test[:100]',
        'input.workers': 0,  # also where 'auto' would start processes
        'model.patches.size': 2,
        'model.patches.dilation': 2,
        'model.patches.stride': 3,
        'model.patches.padding': 'SAME',
        'model.num_blocks': 1,
        'model.hidden_dim': 8,
        'model.tokens_mlp_dim': 8,
        'model.channels_mlp_dim': 8,
        **changes,
    }
    return resolve(values)


# Of `small_config`: undilated patches that do not overlap, and a block more.
PLAIN = {
    'model.patches.size': 2,
    'model.patches.dilation': 1,
    'model.patches.stride': 2,
    'model.patches.padding': 'VALID',
    'model.num_blocks': 2,
}


def config_file(folder: pathlib.Path, file: str = 'config.py', **changes) -> str:
    """The flag --config of a file with `small_config(**changes)`."""
    path = folder / file
    path.write_text(
        'from ml_collections import ConfigDict\n\n\ndef get_config():\n'
        f'    return ConfigDict({small_config(**changes).to_dict()!r})\n'
    )
    return f'--config={path}'


@contextlib.contextmanager
def refuses(*words, error=UserError):
    """Asserts a `UserError`, or another error, of one line with these words: key, file, value."""
    with pytest.raises(error) as refusal:
        yield refusal
    # By hand: `match` of newer versions of pytest reads notes too, as JAX and Grain add them.
    assert re.match(one_line_with(*words), str(refusal.value)), refusal.value


def warns(*words):
    """Asserts a `UserWarning` of one line with these words: key, file, value. Others pass on."""
    return pytest.warns(UserWarning, match=one_line_with(*words))


def one_line_with(*words) -> str:
    """The pattern of a text of one line that has these words, in whatever order."""
    return rf'\A{"".join(f"(?=.*{re.escape(str(word))})" for word in words)}.*\Z'


def refused(capsys, *words: str) -> str:
    """The one line that a refused command line prints."""
    from mixer_dilated.cli.main import main

    assert main([*words], started=0.0) == 2
    out, err = capsys.readouterr()
    assert out == '' and err.startswith('error: ') and err.count('\n') == 1, (out, err)
    return err


def random_bytes(shape, seed=0, low=0, high=256):
    """Images, or other uint8 values from `low` to `high` - 1."""
    return np.random.default_rng(seed).integers(low, high, shape, np.uint8)


def raising(error: BaseException):
    """A function that raises an error, whatever it is called with."""

    def fail(*_, **__):
        raise error

    return fail


def flip_bit(path: pathlib.Path, bit: int) -> None:
    """Flips one bit of a file; negative numbers count from its end."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def read_lines(path: pathlib.Path) -> list[dict]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def start_python(*words: str, **settings) -> subprocess.Popen:
    """`python WORDS` in the repository, output piped, compiled as for a user."""
    environment = {**os.environ, 'XLA_FLAGS': GIVEN_FLAGS, 'PYTHONPATH': str(ROOT)}
    settings['env'] = environment | settings.pop('env', {})
    settings = {'cwd': ROOT, 'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, **settings}
    return subprocess.Popen([sys.executable, *map(str, words)], text=True, **settings)


def run_python(
    *words: str, stdin: str = '', timeout: float = 300, **settings
) -> subprocess.CompletedProcess:
    """`python WORDS` as `start_python` starts it, when it has ended."""
    with start_python(*words, stdin=subprocess.PIPE, **settings) as process:
        try:
            out, err = process.communicate(stdin, timeout=timeout)
        finally:
            process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run_cli(*words: str, **environment: str) -> subprocess.CompletedProcess:
    """`python run.py WORDS`, when it has ended."""
    return run_python('run.py', *words, env=environment)


@pytest.fixture(scope='session', autouse=True)
def own_cache(tmp_path_factory):
    """Nothing cached before the tests is read, nothing of theirs is left.

    What they compile is kept as it is for a user: many tests train the same program.
    """
    from mixer_dilated.cli.compilation_cache import keep_compiled_programs

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
        keep_compiled_programs()
        yield


@pytest.fixture(scope='session')
def plain_run(tmp_path_factory):
    """The folder of a run of `PLAIN`, two seeds."""
    from mixer_dilated.training.train import train_and_evaluate

    folder = tmp_path_factory.mktemp('plain') / 'run'
    train_and_evaluate(small_config(**PLAIN, num_seeds=2), folder)
    return folder


@pytest.fixture
def disk(tmp_path):
    """Makes a file system of a certain size at a folder, or changes the size of the one there."""
    folder = tmp_path / 'disk'
    folder.mkdir()

    def resize(options, again=False):
        options = f'remount,{options}' if again else options
        done = subprocess.run(
            ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(folder)], capture_output=True
        )
        if done.returncode:
            pytest.skip('file systems cannot be mounted here')
        return folder

    yield resize
    subprocess.run(['umount', str(folder)], capture_output=True)


@pytest.fixture(scope='session')
def mnist():
    """Folder of real MNIST, prepared by TFDS; a test without it is skipped, but never in CI."""
    folder = pathlib.Path(os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')).expanduser()
    if not (folder / 'mnist').is_dir():
        reason = f'no prepared MNIST in {folder} (set TFDS_DATA_DIR)'
        pytest.fail(reason) if os.environ.get('REQUIRE_MNIST') else pytest.skip(reason)
    return str(folder)
