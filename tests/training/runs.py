"""What the tests of runs share: their changes of `small_config`, and how to look at a folder."""

import jax

from mixer_dilated.training.checkpoint import Checkpoints
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.setup import create_setup
from mixer_dilated.training.train import Progress
from tests.conftest import read_lines

RANDOM = {'model.dropout_rate': 0.1, 'augment.translate': 1}
RUN = {**RANDOM, 'checkpoints.every_steps': 9}
OF_SEEDS = {**RANDOM, 'seed': 3, 'num_seeds': 2}


class Impatient(Progress):
    """Asks the run to stop when it looks for the `looks`-th time."""

    def __init__(self, looks):
        self.looks = looks

    def stop_requested(self):
        self.looks -= 1
        return self.looks == 0


def content(state):
    """The arrays of a state (its static functions are made anew for each)."""
    return jax.device_get((state.step, state.params, state.opt_state))


def restore_newest(config, workdir, programs=None):
    """The newest checkpoint in a folder, which is not changed."""
    programs = programs or CompiledFunctions(create_setup(config))
    with Checkpoints(workdir, config, read_only=True) as checkpoints:
        return checkpoints.restore(programs.abstract_run_state())


def newest(config, workdir):
    """Arrays and metrics of the newest checkpoint in a folder."""
    run_state = restore_newest(config, workdir)
    return content(run_state.state), run_state.metrics


def rows_of(workdir, name='metrics'):
    return read_lines(workdir / f'{name}.jsonl')


def modification_times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob('*')}


def check_same_bytes(folder, expected, *names):
    for name in names or ('metrics.jsonl', 'predictions.npz', 'weights.npz'):
        assert (folder / name).read_bytes() == (expected / name).read_bytes(), name
