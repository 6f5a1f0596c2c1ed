"""Input that nobody means well with: mutated configs, flags and files; none ends in a traceback."""

import json
import os

import hypothesis
import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from mixer_dilated.cli.arguments import parse
from mixer_dilated.cli.commands import COMMANDS
from mixer_dilated.cli.config_files import load_config
from mixer_dilated.cli.main import main
from mixer_dilated.config import resolve
from mixer_dilated.config_keys import KEYS
from mixer_dilated.errors import UserError
from mixer_dilated.training.setup import create_setup
from mixer_dilated.training.train import train_and_evaluate
from tests.conftest import small_config

WORDS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(['', '-1', '0', '1e999', 'nan', '()', '(1,', '[[]]', '{}', 'None', 'True']),
    st.sampled_from(['\x1b[2J', '9' * 40]),
)
VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
        st.binary(max_size=4), st.sampled_from(['VALID', 'SAME', 'train', 'digits', 2**31, -1, 0]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.text(max_size=4), inner, max_size=2),
    ),
    max_leaves=5,
)  # fmt: skip
# MIXER_LONG=1 tries 1 200 configs, 400 command lines and 200 broken files.
FACTOR = 8 if os.environ.get('MIXER_LONG') else 1
MANY = settings(max_examples=75 * FACTOR)


def check_line(error):
    assert str(error) and '\n' not in str(error)


@MANY
@example({'augment.translate': {'\n': None}})
@example({'model.branches': {}})
@given(st.dictionaries(st.sampled_from(sorted(KEYS)), VALUES, min_size=1, max_size=3))
def test_mutated_configs_fit_or_are_refused_with_the_key(changes):
    if isinstance(changes.get('dataset.name'), str):
        changes['dataset.name'] = 'digits'  # no data set is looked for on a network
    try:
        config = small_config(**changes)
        create_setup(config)
    except UserError as error:
        check_line(error)
        assert 'config.' in str(error) or 'patches' in str(error), error
    else:
        assert resolve(json.loads(config.to_json())) == config


@MANY
@given(st.sampled_from([*sorted(KEYS), 'model', 'modle.patches', 'seed.x', '']), WORDS)
def test_mutated_overrides_are_read_or_refused_in_one_line(key, word):
    words = ['--config=configs/digits_dilated.py', f'--config.{key}={word}']
    try:
        arguments = parse(COMMANDS['train'], words)
        load_config(arguments.config, arguments.overrides)
    except UserError as error:
        check_line(error)


FLAGS = st.sampled_from(
    ['--config=', '--workdir', '--sweep=x', '--seeds=0', '--split=', '--debugg', '--config.seed=1']
)
NAMES_OF_COMMANDS = st.sampled_from(['evaluate', 'report', 'sweep', 'summary', 'train', 'keys=1'])


@settings(max_examples=50 * FACTOR)
@given(st.lists(st.one_of(WORDS, FLAGS, NAMES_OF_COMMANDS), min_size=1, max_size=4))
def test_any_words_on_the_command_line_end_with_2(words):
    """None of these can be a whole command; one that shows help is left out."""
    hypothesis.assume(not {'--help', '-h', 'keys', 'benchmark', 'table1'} & set(words))
    assert main(words, 0.0) == 2


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp('hostile') / 'run'
    train_and_evaluate(small_config(num_epochs=1), folder)
    return folder


NAMES = ('config.json', 'summary.json', 'metrics.jsonl', 'predictions.npz', 'weights.npz')
NAMES += ('data.json', 'versions.json')


# Where the damage does not matter a whole report is drawn, which takes seconds.
@pytest.mark.slow
@settings(max_examples=200 if FACTOR > 1 else 6)
@given(
    name=st.sampled_from(NAMES),
    cut=st.floats(0, 1),
    noise=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=4),
    put=st.sampled_from([b'', b'null', b'[]', b'{"a": 1}', b'\xff\xfe', b'NaN']),
)
def test_broken_files_of_a_run_never_end_a_report_in_a_traceback(files, name, cut, noise, put):
    path = files / name
    whole = path.read_bytes()
    content = bytearray(whole[: int(len(whole) * cut)]) if noise or cut < 0.9 else bytearray(put)
    for where, bits in noise:
        if content:
            content[min(int(where * len(content)), len(content) - 1)] ^= bits
    try:
        path.write_bytes(content)
        assert main(['report', str(files)], 0.0) in (0, 2)
    finally:
        path.write_bytes(whole)
