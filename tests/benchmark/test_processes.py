"""Measurements in processes of their own: what they return, and why they fail."""

import json
import os
import sys

import pytest

from mixer_dilated.benchmark import processes
from mixer_dilated.benchmark.processes import (
    ProcessError,
    call_in_process,
    end_of,
    start_up_seconds,
)
from tests.conftest import refuses, small_config


def add(one, other):
    print('not the result')
    return one + other


def test_a_function_is_called_in_another_process():
    assert call_in_process(add, one=2, other=3) == 5


@pytest.mark.parametrize(
    ('function', 'arguments', 'cause'),
    [
        (json.loads, {'s': 'word ' * 99}, 'line 1 column 1 (char 0)'),
        (os._exit, {'status': 3}, 'exit status 3'),
        (os._exit, {'status': 0}, ''),
        (os.abort, {}, 'Aborted'),
    ],
)
def test_a_process_that_fails_is_named_with_the_end_of_its_cause(function, arguments, cause):
    with pytest.raises(ProcessError) as error:
        call_in_process(function, **arguments)
    message = str(error.value)
    assert message.startswith(f'{function.__module__}.{function.__name__} ')
    assert message.endswith(cause) and len(message) < 400


def test_a_process_that_cannot_start_or_leaves_no_result_is_an_error_of_its_own(monkeypatch):
    with monkeypatch.context() as patch, refuses('run.py ', '/no/such/python', error=ProcessError):
        patch.setattr(sys, 'executable', '/no/such/python')
        start_up_seconds(small_config())
    monkeypatch.setattr(processes, 'run_python', lambda *_, **__: '')
    with refuses('summary.json', error=ProcessError):
        start_up_seconds(small_config())


def test_the_end_of_a_text_begins_with_a_whole_word():
    assert end_of('one\n two  three', 13) == 'one two three'
    assert end_of('one two three', 12) == '… two three'
    assert end_of('one two\x1b[2J', 99) == 'one two\\x1b[2J'
    assert end_of('x' * 20, 10) == '… ' + 'x' * 8
