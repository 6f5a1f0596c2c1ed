"""A long run in one process holds no more memory and no more files at its end.

Checkpoints are as rare as by default: TensorStore 0.1.86 loses a quarter of a KiB for each array
that it writes, some 30 KiB for each checkpoint of this network.
"""

import os

import numpy as np
import psutil
import pytest

from mixer_dilated.training.train import Progress, train_and_evaluate
from tests.conftest import small_config

pytestmark = pytest.mark.slow

# MIXER_LONG=1 is the long form.
EPOCHS = 2000 if os.environ.get('MIXER_LONG') else 200
WARM_UP = EPOCHS // 3


class Watched(Progress):
    """Notes memory (MiB) and open files of the process after every epoch."""

    def __init__(self):
        self.process, self.memory, self.files = psutil.Process(), [], []

    def on_epoch_end(self, rows, speed):
        self.memory.append(self.process.memory_info().rss / 2**20)
        self.files.append(self.process.num_fds())


def test_memory_and_files_stay_flat_over_the_epochs(tmp_path):
    watched = Watched()
    config = small_config(num_epochs=EPOCHS)
    train_and_evaluate(config, tmp_path / 'run', progress=watched)
    memory, files = watched.memory[WARM_UP:], watched.files[WARM_UP:]
    slope = np.polyfit(np.arange(len(memory)), memory, 1)[0] * 100
    print(f'{EPOCHS} epochs: {slope:.2f} MiB per 100 epochs, {min(files)} to {max(files)} files')
    assert slope < 1
    assert np.median(files[-20:]) <= np.median(files[:20]) + 2
