"""A full disk is told from too little memory, though the storage's word for both is one."""

import pytest

from mixer_dilated.cli.main import main
from mixer_dilated.errors import UserError, is_out_of_memory
from mixer_dilated.training import checkpoint
from mixer_dilated.training.checkpoint import Checkpoints
from tests.conftest import refuses, small_config

FULL = (
    "RESOURCE_EXHAUSTED: Error writing 'file:///r/d/0': No space left on device "
    "[OS error 28: ENOSPC] [source locations='…', os_error_code='28']"
)
XLA = 'RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes.'


@pytest.mark.parametrize(
    ('error', 'expected'),
    [(ValueError(FULL), False), (ValueError(XLA), True), (MemoryError(), True), (OSError(), False)],
)
def test_the_storages_word_is_not_memorys(error, expected):
    assert is_out_of_memory(error) == expected


class FullWriter:
    """Orbax's manager on a full disk: waiting raises, and closing, which waits, raises again."""

    def wait_until_finished(self):
        raise ValueError(FULL)

    close = wait_until_finished


@pytest.mark.parametrize('error', [None, RuntimeError('another')])
def test_an_error_of_the_writing_thread_names_the_folder_at_the_end(tmp_path, error):
    def use():
        with Checkpoints(tmp_path, small_config()) as checkpoints:
            checkpoints._writer.close()
            checkpoints._writer = FullWriter()
            if error:
                raise error

    if error:  # which comes first
        with pytest.raises(RuntimeError, match='another'):
            use()
        return
    with refuses(str(tmp_path), 'No space left on device', error=UserError):
        use()


@pytest.mark.parametrize(('text', 'word'), [(FULL, 'full'), (XLA, 'memory')])
def test_the_command_line_says_which(monkeypatch, capsys, tmp_path, text, word):
    def fail(*_, **__):
        raise ValueError(text)

    monkeypatch.setattr(checkpoint.ocp, 'CheckpointManager', fail)
    words = ['--config=configs/digits_dilated.py', f'--workdir={tmp_path / "run"}']
    assert main(words, 0.0) == 2
    assert word in capsys.readouterr().err
