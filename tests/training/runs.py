"""What the tests of runs share: their changes of `small_config`, and how to look at a folder."""

import jax

from mixer_dilated.data.datasets import Digits
from mixer_dilated.training.checkpoint import Checkpoints
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.run_progress import Progress
from mixer_dilated.training.setup import create_setup
from tests.conftest import read_lines

RANDOM = {'model.dropout_rate': 0.1, 'augment.translate': 1}
RUN = {**RANDOM, 'checkpoints.every_steps': 9}
OF_SEEDS = {**RANDOM, 'seed': 3, 'num_seeds': 2}


def after_an_epoch(config):
    """Parameters, metrics and evaluation of the training digits: every leaf (seeds, …)."""
    programs = CompiledFunctions(create_setup(config))
    train = programs.in_memory(Digits().read('train[:300]'))
    state, metrics = programs.train_epoch(programs.init_state(), train)
    return jax.device_get((state.params, metrics, programs.evaluate(state, train)))


class Recorder(Progress):
    """Keeps the step that a run resumes after, and its rows; asks it to stop, as a signal does.

    Args:
      looks: it is asked when it looks for the `looks`-th time,
      stop_after: or when that epoch is done; or never.
    """

    def __init__(self, looks=0, stop_after=None):
        self.looks, self.stop_after, self.resumed_after, self.rows = looks, stop_after, None, []

    def on_ready(self, setup, step, counts):
        self.resumed_after = step

    def on_epoch_end(self, rows, speed):
        self.rows += rows

    def stop_requested(self):
        self.looks -= 1
        return self.looks == 0 or (self.rows and self.rows[-1]['epoch'] == self.stop_after)


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
