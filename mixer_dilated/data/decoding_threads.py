"""Many files decoded by threads, a bounded number ahead of what is used."""

import collections
import contextlib
import itertools
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mixer_dilated.data.cores import num_cores
from mixer_dilated.data.preprocessing import Preprocessing
from mixer_dilated.errors import InputError

CHUNK = 32  # files a job
SMALL = 2**14  # bytes of a file below which decoding is mostly Python


def decoded(
    paths: Iterable[str | tuple[str, InputError]], preprocessing: Preprocessing, ahead: int = 512
) -> Iterator[tuple[str, np.ndarray | InputError]]:
    """Each path with its image, uint8 (height, width, channels), or with why there is none.

    Pillow decodes without Python's lock, so that threads use all cores. Small files are decoded by
    one thread at a time: several would spend half of their time on handing that lock around.

    Args:
      paths: taken as they are needed; a path that comes with an error is passed on with it.
      preprocessing: how files become images.
      ahead: images that are decoded before they are asked for, about; they bound the memory.
    """

    turns = threading.Lock()

    def job(chunk: tuple) -> list:
        return [
            path if isinstance(path, tuple) else (path, _image(path, preprocessing, turns))
            for path in chunk
        ]

    threads = ThreadPoolExecutor(num_cores())
    jobs = collections.deque()
    try:
        for chunk in _chunks(paths):
            jobs.append(threads.submit(job, chunk))
            if len(jobs) * CHUNK > ahead:
                yield from jobs.popleft().result()
        while jobs:
            yield from jobs.popleft().result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _image(
    path: str, preprocessing: Preprocessing, turns: threading.Lock
) -> np.ndarray | InputError:
    try:
        with turns if _is_small(path) else contextlib.nullcontext():
            return preprocessing.read(path)
    except InputError as error:
        return error


def _is_small(path: str) -> bool:
    try:
        return os.stat(path).st_size < SMALL
    # What is wrong with it is said when it is read.
    except (OSError, ValueError):
        return True


def _chunks(paths: Iterable) -> Iterator[tuple]:
    paths = iter(paths)
    while chunk := tuple(itertools.islice(paths, CHUNK)):
        yield chunk
