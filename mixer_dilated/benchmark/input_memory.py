"""What examples that stream take of memory, in a process of their own.

Heavy imports are in the functions: the workers of this process import this module.
"""

import functools
import json
import multiprocessing
import pathlib
import re
import sys

PEAK = ['-P', '-m', 'mixer_dilated.benchmark.input_memory']
MAX_READ = 2000  # images
WORKERS = 2


def peak_bytes(setup, share: float) -> int | None:
    """Memory of streaming the first part of a task's training examples, at its most.

    Of the process and of two that decode for it, each when it has its most; None where the system
    does not tell.

    Args:
      setup: a `Setup`.
      share: of its training examples.

    Raises:
      ProcessError: the process failed; the message has the end of what it said.
    """
    from mixer_dilated.benchmark.processes import run_program

    arguments = json.dumps({'config': setup.config.to_json(), 'share': share})
    return json.loads(run_program(PEAK, [arguments], {}).splitlines()[-1])


def shuffled_stream(setup, records, workers: int):
    """A `BatchStream` of training batches; of fewer records than a batch, of all of them."""
    from mixer_dilated.data.batch_stream import BatchStream, IndexSampler
    from mixer_dilated.data.input_pipeline import epoch_permutations

    count = len(records)
    draw = functools.partial(epoch_permutations, setup.config.seed, 1, count)
    batch = min(setup.config.batch, count)
    sampler = IndexSampler(draw, batch, count // batch)
    return BatchStream(records, sampler, workers=workers)


def _peak(config: str, share: float) -> int | None:
    from mixer_dilated.config import resolve
    from mixer_dilated.data.examples import split_slices
    from mixer_dilated.training.setup import create_setup

    setup = create_setup(resolve(json.loads(config)))
    split, sizes = setup.config.dataset.train_split, setup.dataset.split_sizes
    name, start, stop = split_slices('config.dataset.train_split', split, sizes)[0]
    records = setup.dataset.data_source(f'{name}[{start}:{start + int(share * (stop - start))}]')
    stream, images = shuffled_stream(setup, records, WORKERS), 0
    try:
        while images < MAX_READ:
            images += next(stream).labels.size
        workers = [str(each.pid) for each in multiprocessing.active_children()]
        peaks = [_peak_of(process) for process in ('self', *workers)]
    finally:
        stream.close()
    return None if None in peaks else sum(peaks)


def _peak_of(process: str) -> int | None:
    try:
        status = pathlib.Path(f'/proc/{process}/status').read_text()
    except OSError:
        return None
    found = re.search(r'VmHWM:\s+(\d+) kB', status)
    return int(found[1]) * 1024 if found else None


if __name__ == '__main__':
    print(json.dumps(_peak(**json.loads(sys.argv[1]))))
