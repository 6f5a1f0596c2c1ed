"""What only a process of its own can show: start-up, cold and warm, and peak memory."""

import ctypes
import gc
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import jax
import ml_collections

from mixer_dilated.config import changed, resolve
from mixer_dilated.errors import InputError
from mixer_dilated.training.programs import Programs
from mixer_dilated.training.task import Task, open_task
from mixer_dilated.training.timing import on_noise

ROOT = pathlib.Path(__file__).parents[2]


def start_up_seconds(config: ml_collections.ConfigDict) -> dict[str, float]:
    """Seconds from `python run.py` to the first training step, with an empty cache and a full one.

    Each is a whole run of one epoch in a process of its own; the decoded images and the compiled
    programs of the first, 'cold', are there for the second, 'warm'.

    Args:
      config: a resolved config.

    Raises:
      InputError: a run failed; the message has the end of what it said.
    """
    own_cache = {'dataset.cache_dir': ''}
    config = changed(config, {'num_epochs': 1, 'optimizer.warmup_steps': 0, **own_cache})
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, 'config.py')
        file.write_text(
            'import json\nimport ml_collections\n\n\ndef get_config():\n'
            f'    return ml_collections.ConfigDict(json.loads({config.to_json()!r}))\n'
        )
        environment = {'XDG_CACHE_HOME': folder, 'JAX_COMPILATION_CACHE_DIR': ''}
        found = {}
        for name in ('cold', 'warm'):
            workdir = pathlib.Path(folder, name)
            _run(['run.py', f'--config={file}', f'--workdir={workdir}'], environment)
            found[name] = json.loads((workdir / 'summary.json').read_text())['seconds']['startup']
    return found


def peak_bytes(task: Task, steps: int) -> dict[str, int | None]:
    """Memory of training on random images: 'predicted' by the compiler, and 'measured'.

    'measured' are the images and the state, and what a process of its own grows by, at its most,
    while it trains a second epoch; None where the system does not tell.

    Args:
      task: what to train.
      steps: batches of an epoch.
    """
    arguments = json.dumps(
        {
            'config': task.config.to_json(),
            'image_size': task.source.image_shape[:2],
            'steps': steps,
        }
    )
    return json.loads(_run(['-m', 'mixer_dilated.benchmark.processes', arguments], {}))


def _run(words: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        cause = ' '.join(done.stderr.split())[-300:]
        raise InputError(f'{words[0]} in a process of its own failed: {cause}')
    return done.stdout


def _measure_peak(config: str, image_size: list[int], steps: int) -> dict[str, int | None]:
    task = on_noise(open_task(resolve(json.loads(config))), tuple(image_size), steps)
    examples = task.source.read('train')
    programs = Programs(task, jax.devices()[:1])
    state, placed = programs.create_state(), programs.place(examples)
    run = programs.train_epoch(placed)
    state, _ = jax.block_until_ready(run(state))  # what is loaded once is not the step's
    gc.collect()
    before = _resident_bytes()
    if before is not None:
        # Freed memory that the allocator holds back would hide what an epoch takes.
        ctypes.CDLL(None).malloc_trim(0)
        before = _resident_bytes()
        pathlib.Path('/proc/self/clear_refs').write_text('5')  # the peak counts from here
    state, _ = jax.block_until_ready(run(state))
    on_device = jax.devices()[0].memory_stats()
    if on_device:
        measured = on_device['peak_bytes_in_use']
    elif before is None:
        measured = None
    else:
        arguments = sum(array.nbytes for array in jax.tree.leaves((state, placed)))
        measured = _resident_bytes('VmHWM') - before + arguments
    return {'predicted': sum(programs.training_bytes().values()), 'measured': measured}


def _resident_bytes(name: str = 'VmRSS') -> int | None:
    """Resident memory of this process, or its peak 'VmHWM'; None where Linux does not tell it."""
    try:
        status = pathlib.Path('/proc/self/status').read_text()
    except OSError:
        return None
    found = re.search(rf'{name}:\s+(\d+) kB', status)
    return int(found[1]) * 1024 if found else None


if __name__ == '__main__':
    print(json.dumps(_measure_peak(**json.loads(sys.argv[1]))))
