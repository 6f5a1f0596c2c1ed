"""The help, and what the table of commands promises to the parser."""

import pytest

from mixer_dilated.cli.arguments import EXAMPLES
from mixer_dilated.cli.commands import COMMANDS
from mixer_dilated.cli.main import main
from mixer_dilated.config_keys import KEYS


def test_keys_lists_every_key(capsys):
    assert main(['keys'], started=0.0) == 0
    text = capsys.readouterr().out
    assert all(key in text for key in KEYS)


def test_help_is_short_and_has_examples(capsys):
    assert main(['--help'], started=0.0) == 0
    lines = capsys.readouterr().out.splitlines()
    assert 'Examples' in lines and len(lines) <= 80 and max(map(len, lines)) <= 80


@pytest.mark.parametrize('name', COMMANDS)
def test_the_help_of_a_command_has_its_flags_and_no_other_command(capsys, name):
    assert main([name, '--help'], started=0.0) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert text.count('run.py ') == 2 and all(f'--{flag}' in text for flag in COMMANDS[name].flags)


def test_every_flag_that_a_command_needs_has_an_example():
    for name, command in COMMANDS.items():
        assert {*command.required} <= {*EXAMPLES} & {*command.flags}, name
        assert not command.words or name in EXAMPLES, name
