"""Memory: predicted as measured, and None where the system does not report it."""

import ctypes
import pathlib

import pytest

from mixer_dilated.benchmark import memory
from mixer_dilated.benchmark.memory import process_bytes, streaming_memory, training_memory
from mixer_dilated.benchmark.processes import call_in_process
from tests.conftest import raising, small_config


@pytest.mark.slow
def test_predicted_memory_is_within_20_percent_of_the_measured():
    changes = {'model.hidden_dim': 128, 'model.channels_mlp_dim': 256}
    config = small_config(batch=512, **{**changes, 'dataset.train_split': 'train[:512]'})
    found = call_in_process(training_memory, config=config.to_json())
    assert found['predicted'] > 10 * 2**20
    if memory._reset_peak() is None:
        assert found['measured'] is None
    else:
        assert abs(found['predicted'] / found['measured'] - 1) < 0.2


@pytest.mark.parametrize('lacking', ['malloc_trim', 'clear_refs', 'libc', 'status'])
def test_a_system_that_does_not_report_memory_is_no_error(monkeypatch, lacking):
    refuse = raising(OSError('not here'))
    if lacking == 'clear_refs':
        monkeypatch.setattr(pathlib.Path, 'write_text', refuse)
    elif lacking == 'status':
        monkeypatch.setattr(pathlib.Path, 'read_text', refuse)
        assert process_bytes('VmHWM') is None
    else:
        library = refuse if lacking == 'libc' else lambda _: object()
        monkeypatch.setattr(ctypes, 'CDLL', library)
    assert memory._reset_peak() is None


def test_streaming_is_measured_with_the_processes_that_decode(monkeypatch):
    monkeypatch.setattr(memory, 'MAX_READ', 64)
    monkeypatch.setattr(memory, 'WORKERS', 0)
    own = process_bytes('VmHWM')
    peak = streaming_memory(small_config(**{'input.mode': 'stream'}).to_json(), share=0.5)
    assert peak is None if own is None else peak >= own > 0
