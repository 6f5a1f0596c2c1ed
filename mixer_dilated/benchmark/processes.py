"""What only a process of its own can show: start-up, cold and warm, and peak memory."""

import ctypes
import gc
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile

import jax
import ml_collections

from mixer_dilated.benchmark.epoch_timing import on_noise
from mixer_dilated.config import changed, resolve
from mixer_dilated.errors import printable
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.setup import Setup, create_setup

ROOT = pathlib.Path(__file__).parents[2]
RUN = [str(ROOT / 'run.py')]
# -P: nothing that lies in the user's folder is taken for a module.
PEAK = ['-P', '-m', 'mixer_dilated.benchmark.processes']


class ProcessError(Exception):
    """A process of its own failed; the message says which one and why."""


def start_up_seconds(config: ml_collections.ConfigDict) -> dict[str, float | bool]:
    """Seconds from `python run.py` to the first training step, with empty caches and full ones.

    Each is a whole run of one epoch in a process of its own; the decoded images and the compiled
    programs of the first are there for the second.

    Args:
      config: a resolved config.

    Returns:
      'cold' and 'warm', in seconds, and 'programs_kept': whether compiled programs were, which on
      Intel CPUs they are not.

    Raises:
      ProcessError: a run failed; the message has the end of what it said.
    """
    own_cache = {'dataset.cache_dir': ''}
    config = changed(config, {'num_epochs': 1, 'optimizer.warmup_steps': 0, **own_cache})
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            (folder / 'config.py').write_text(_config_file(config))
            seconds = {state: _run_seconds(folder, state) for state in ('cold', 'warm')}
            kept = (folder / 'mixer_dilated' / 'compiled').is_dir()
    except OSError as error:
        raise ProcessError(f'no run in a temporary folder: {error}') from None
    return {**seconds, 'programs_kept': kept}


def _config_file(config: ml_collections.ConfigDict) -> str:
    return (
        'import json\nimport ml_collections\n\n\ndef get_config():\n'
        f'    return ml_collections.ConfigDict(json.loads({config.to_json()!r}))\n'
    )


def _run_seconds(folder: pathlib.Path, name: str) -> float:
    """Start-up of one run of the config in a folder, where its caches are too."""
    workdir = folder / name
    own_caches = {
        'XDG_CACHE_HOME': str(folder),
        'JAX_COMPILATION_CACHE_DIR': '',
        'JAX_ENABLE_COMPILATION_CACHE': 'true',
    }
    run_program(RUN, [f'--config={folder / "config.py"}', f'--workdir={workdir}'], own_caches)
    try:
        return json.loads((workdir / 'summary.json').read_text())['seconds']['startup']
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ProcessError(f'{_shown(RUN)} left no result: {error!r}') from None


def peak_bytes(setup: Setup, steps: int) -> dict[str, int | None]:
    """Memory of training on random images: 'predicted' by the compiler, and 'measured'.

    'measured' are the images and the state, and what a process of its own grows by, at its most,
    while it trains a second epoch; None where the system does not tell.

    Args:
      setup: what to train.
      steps: batches of an epoch.

    Raises:
      ProcessError: the process failed; the message has the end of what it said.
    """
    arguments = json.dumps(
        {
            'config': setup.config.to_json(),
            'image_size': setup.dataset.image_shape[:2],
            'steps': steps,
        }
    )
    said = run_program(PEAK, [arguments], {})
    try:
        found = json.loads(said.splitlines()[-1])
        return {name: found[name] for name in ('predicted', 'measured')}
    except (ValueError, LookupError, TypeError):
        raise ProcessError(f'{_shown(PEAK)} printed no result: {end_of(said)}') from None


def run_program(program: list[str], words: list[str], environment: dict[str, str]) -> str:
    """What a program prints in a process of its own, run in the user's own folder.

    Raises:
      ProcessError: it could not start, or failed.
    """
    shown = _shown(program)
    there = os.environ.get('PYTHONPATH')
    path = os.pathsep.join([str(ROOT), *([there] if there else [])])
    try:
        done = subprocess.run(
            [sys.executable, *program, *words],
            env={**os.environ, 'PYTHONPATH': path, **environment},
            capture_output=True,
            text=True,
            errors='replace',
        )
    except OSError as error:
        raise ProcessError(f'{shown} could not start: {error}') from None
    if done.returncode < 0:
        raise ProcessError(f'{shown} was ended: {signal.strsignal(-done.returncode)}')
    if done.returncode:
        cause = end_of(done.stderr) or f'exit status {done.returncode}'
        raise ProcessError(f'{shown} failed: {cause}')
    return done.stdout


def _shown(program: list[str]) -> str:
    return ' '.join(['python', *program])


def end_of(text: str, most: int = 300) -> str:
    """The last words of a text, on one line of at most `most` characters, '…' for the others."""
    line = ' '.join(text.split())
    if len(line) > most:
        words = line[2 - most :]
        line = f'… {words.partition(" ")[2] or words}'
    return printable(line)


def _measure_peak(config: str, image_size: list[int], steps: int) -> dict[str, int | None]:
    setup = on_noise(create_setup(resolve(json.loads(config))), tuple(image_size), steps)
    examples = setup.dataset.read('train')
    programs = CompiledFunctions.for_devices(setup, jax.devices()[:1])
    state, inputs = programs.init_state(), programs.in_memory(examples)
    state, _ = programs.train_epoch(state, inputs)  # what is loaded once is not the step's
    before = _peak_set_back()
    state, _ = programs.train_epoch(state, inputs)
    on_device = jax.devices()[0].memory_stats()
    if on_device:
        measured = on_device['peak_bytes_in_use']
    elif before is None:
        measured = None
    else:
        arguments = sum(array.nbytes for array in jax.tree.leaves((state, tuple(examples))))
        peak = resident_bytes('VmHWM')
        measured = None if peak is None else peak - before + arguments
    return {'predicted': sum(programs.training_bytes().values()), 'measured': measured}


def _peak_set_back() -> int | None:
    """Resident memory of this process, from which its peak counts from now on.

    None where the system does not tell it, or does not set its peak back.
    """
    gc.collect()
    try:
        # Freed memory that the allocator holds back would hide what an epoch takes.
        ctypes.CDLL(None).malloc_trim(0)
        before = resident_bytes()
        pathlib.Path('/proc/self/clear_refs').write_text('5')
    # Only glibc has malloc_trim, only Linux clear_refs, and not everybody there may write it.
    except (OSError, AttributeError, TypeError):
        return None
    return before


def resident_bytes(name: str = 'VmRSS') -> int | None:
    """Resident memory of this process, or its peak 'VmHWM'; None where Linux does not tell it."""
    try:
        status = pathlib.Path('/proc/self/status').read_text()
    except OSError:
        return None
    found = re.search(rf'{name}:\s+(\d+) kB', status)
    return int(found[1]) * 1024 if found else None


if __name__ == '__main__':
    print(json.dumps(_measure_peak(**json.loads(sys.argv[1]))))
