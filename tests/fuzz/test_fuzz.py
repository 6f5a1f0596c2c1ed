"""Damaged folders and odd command lines, drawn anew each time: none hangs or is misread."""

import os
import secrets
import subprocess

import pytest

from tests.conftest import ROOT, start_python

CASES = os.environ.get('MIXER_FUZZ', '200')


def default_seed() -> str:
    """Another one for each commit, so that a result belongs to the change."""
    words = 'git', '-C', str(ROOT), 'rev-parse', '--short=8', 'HEAD'
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() or secrets.token_hex(4)


@pytest.mark.slow
def test_damaged_folders_are_refused_in_one_line_or_give_the_right_results(tmp_path):
    """`MIXER_FUZZ=N MIXER_FUZZ_SEED=S` makes N cases of a seed, one of them again with
    `python -m tests.fuzz.fuzz NEW_FOLDER 1 S CASE`.
    """
    environment = {
        'XDG_CACHE_HOME': str(tmp_path / 'cache'),
        'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'cache' / 'compiled'),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        'OPENBLAS_NUM_THREADS': '1',
        'XLA_FLAGS': os.environ['XLA_FLAGS'],  # the quick compiler of all tests
    }
    seed = os.environ.get('MIXER_FUZZ_SEED') or default_seed()
    words = '-m', 'tests.fuzz.fuzz', tmp_path / 'fuzz', CASES, seed
    with start_python(*words, env=environment, stdout=None, stderr=None) as process:
        status = process.wait()
    assert status == 0  # what failed is printed
