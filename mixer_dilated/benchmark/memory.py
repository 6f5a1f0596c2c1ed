"""Peak memory of training and of streaming; each function runs in a separate process."""

import contextlib
import ctypes
import functools
import gc
import json
import multiprocessing
import pathlib
import re

import jax

from mixer_dilated.config import resolve
from mixer_dilated.data.batch_stream import BatchStream, IndexSampler
from mixer_dilated.data.examples import RandomAccessDataSource, split_slices
from mixer_dilated.data.input_pipeline import epoch_permutations
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.setup import Setup, create_setup
from mixer_dilated.training.timing import on_random_images

STEPS = 4  # of an epoch of random images
MAX_READ = 2000  # images
WORKERS = 2


def training_memory(config: str) -> dict[str, int | None]:
    """Bytes of training on `STEPS` batches of random images: 'predicted' by the compiler, and
    'measured': the images and the state, and the most by which this process grows while it trains a
    second epoch; None where the system does not report it. `config` has every key, as JSON."""
    setup = create_setup(resolve(json.loads(config)))
    setup = on_random_images(setup, setup.image_size, STEPS)
    examples, device = setup.dataset.read('train'), jax.devices()[0]
    compiled = CompiledFunctions.for_devices(setup, [device])
    state, inputs = compiled.init_state(), compiled.in_memory(examples)
    state, _ = compiled.train_epoch(state, inputs)  # what is loaded once is not the step's
    before = _reset_peak()
    state, _ = compiled.train_epoch(state, inputs)
    peak, measured = process_bytes('VmHWM'), None
    if on_device := device.memory_stats():
        measured = on_device['peak_bytes_in_use']
    elif before is not None and peak is not None:
        arguments = sum(array.nbytes for array in jax.tree.leaves((state, tuple(examples))))
        measured = peak - before + arguments
    return {'predicted': sum(compiled.training_bytes().values()), 'measured': measured}


def streaming_memory(config: str, share: float) -> int | None:
    """Peak bytes of streaming a share of the training examples, from the first on, summed over this
    process and `WORKERS` that decode; None where the system does not report it."""
    setup, images = create_setup(resolve(json.loads(config))), 0
    split, sizes = setup.config.dataset.train_split, setup.dataset.split_sizes
    name, start, stop = split_slices('config.dataset.train_split', split, sizes)[0]
    records = setup.dataset.data_source(f'{name}[{start}:{start + int(share * (stop - start))}]')
    with contextlib.closing(shuffled_stream(setup, records, WORKERS)) as stream:
        while images < MAX_READ:
            images += next(stream).labels.size
        workers = [str(worker.pid) for worker in multiprocessing.active_children()]
        peaks = [process_bytes('VmHWM', process) for process in ('self', *workers)]
    return None if None in peaks else sum(peaks)


def shuffled_stream(setup: Setup, records: RandomAccessDataSource, workers: int) -> BatchStream:
    """A stream of training batches; of fewer records than a batch, of all of them."""
    count = len(records)
    permute = functools.partial(epoch_permutations, setup.config.seed, 1, count)
    batch = min(setup.config.batch, count)
    return BatchStream(records, IndexSampler(permute, batch, count // batch), workers=workers)


def _reset_peak() -> int | None:
    """Has 'VmHWM' of this process count from now on; returns its resident memory, or None where the
    system does not report it, or cannot reset the peak."""
    gc.collect()
    try:
        # Freed memory that the allocator holds back would hide what an epoch takes.
        ctypes.CDLL(None).malloc_trim(0)
        before = process_bytes('VmRSS')
        pathlib.Path('/proc/self/clear_refs').write_text('5')
    # Only glibc has malloc_trim, only Linux clear_refs, and not everybody there may write it.
    except (OSError, AttributeError, TypeError):
        return None
    return before


def process_bytes(name: str, process: str = 'self') -> int | None:
    """Resident memory 'VmRSS' of a process, or its peak 'VmHWM'; None where it is not reported."""
    try:
        status = pathlib.Path(f'/proc/{process}/status').read_text()
    except OSError:
        return None
    match = re.search(rf'{name}:\s+(\d+) kB', status)
    return int(match[1]) * 1024 if match else None
