"""Many files decoded by threads, a bounded number ahead of what is used."""

import collections
import itertools
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mixer_dilated.data.preprocessing import Preprocessing
from mixer_dilated.errors import InputError

CHUNK = 32  # files a job


def decoded(
    paths: Iterable[str | tuple[str, InputError]], preprocessing: Preprocessing, ahead: int = 512
) -> Iterator[tuple[str, np.ndarray | InputError]]:
    """Each path with its image, uint8 (height, width, channels), or with why there is none.

    Pillow decodes without Python's lock, so that threads use all cores.

    Args:
      paths: taken as they are needed; a path that comes with an error is passed on with it.
      preprocessing: how files become images.
      ahead: images that are decoded before they are asked for, about; they bound the memory.
    """

    def job(chunk: tuple) -> list:
        return [
            path if isinstance(path, tuple) else (path, _image(path, preprocessing))
            for path in chunk
        ]

    threads = ThreadPoolExecutor(os.cpu_count())
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


def _image(path: str, preprocessing: Preprocessing) -> np.ndarray | InputError:
    try:
        return preprocessing.read(path)
    except InputError as error:
        return error


def _chunks(paths: Iterable) -> Iterator[tuple]:
    paths = iter(paths)
    while chunk := tuple(itertools.islice(paths, CHUNK)):
        yield chunk
