"""Input that nobody means well with: mutated configs and flags; none ends in a traceback."""

import json
import os

import hypothesis
import hypothesis.strategies as st
from hypothesis import example, given, settings

from mixer_dilated.cli.arguments import parse
from mixer_dilated.cli.commands import COMMANDS
from mixer_dilated.cli.config_files import load_config
from mixer_dilated.cli.main import main
from mixer_dilated.config import resolve
from mixer_dilated.config_keys import KEYS
from mixer_dilated.errors import UserError
from mixer_dilated.training.setup import create_setup
from tests.conftest import small_config

TEXTS = ['', '-1', '1e999', 'nan', '()', '(1,', '[[]]', '{}', 'None', 'True', '\x1b[2J', '9' * 40]
WORDS = st.text(max_size=12) | st.sampled_from(TEXTS)
LEAVES = (
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.binary(max_size=4), st.sampled_from(['VALID', 'SAME', 'train', 'digits', 2**31, -1, 0]),
)  # fmt: skip
VALUES = st.recursive(
    st.one_of(LEAVES),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=5,
)
# MIXER_LONG=1 tries 1 200 configs and 400 command lines.
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


FLAGS = ['--config=', '--workdir', '--sweep=x', '--seeds=0', '--split=', '--debugg']
COMMAND_NAMES = ['evaluate', 'report', 'sweep', 'summary', 'train', 'keys=1']


@settings(max_examples=50 * FACTOR)
@given(st.lists(WORDS | st.sampled_from(FLAGS + COMMAND_NAMES), min_size=1, max_size=4))
def test_any_words_on_the_command_line_end_with_2(words):
    """None of these can be a whole command; one that shows help is left out."""
    hypothesis.assume(not {'--help', '-h', 'keys', 'benchmark', 'table1'} & set(words))
    assert main(words, 0.0) == 2
