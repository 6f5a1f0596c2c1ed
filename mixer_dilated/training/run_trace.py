"""A trace of some steps of a run, for TensorBoard and Perfetto: `trace_steps`."""

import contextlib
import pathlib
from collections.abc import Iterator

import jax

from mixer_dilated.files import error_context
from mixer_dilated.paths import PathLike

TRACED_STEPS = 10


def make_trace_folder(folder: PathLike) -> None:
    """Raises UserError if there is no such folder and none can be made."""
    with error_context(folder, 'trace'):
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def trace_steps(folder: PathLike) -> Iterator[None]:
    """Writes a `jax.profiler` trace of what is done in its context into a folder.

    TensorBoard (with its profile plugin) opens the folder, https://ui.perfetto.dev the file
    `plugins/profile/*/perfetto_trace.json.gz`.
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # Python's calls would hide the device's
    with jax.profiler.trace(folder, create_perfetto_trace=True, profiler_options=options):
        yield
