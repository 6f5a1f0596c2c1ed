"""Image files as the images that a network is trained on."""

import collections
import contextlib
import dataclasses
import itertools
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from mixer_dilated.data.image_decoding import MAX_PIXELS, read_image
from mixer_dilated.data.mnist_style import to_mnist_style
from mixer_dilated.data.stored_images import square_of, square_shape
from mixer_dilated.data.workers import num_cores
from mixer_dilated.errors import UserError
from mixer_dilated.patches.geometry import Pair, Shape

FILES_PER_JOB = 32  # of a decoding thread
SMALL_FILE_BYTES = 2**14  # below which decoding is mostly Python


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How image files become images of a data set.

    They are brought to the style of MNIST's by 'mnist' (see `to_mnist_style`) and by 'fill', in
    which the thing fills the image and its middle is the centre; both take 1 channel. They are
    resized by 'crop' (the largest part of the right aspect ratio around the centre), 'pad' (the
    whole, black on two sides) or 'squash' (the whole, its aspect ratio changed); with a
    `decode_size` they are stored as whole squares (see `square_of`), which are cropped later.
    """

    image_shape: Shape  # (height, width, channels) of the result
    how: str = 'resize'  # or 'mnist' or 'fill'
    resize: str = 'crop'  # or 'pad' or 'squash'
    max_pixels: int = MAX_PIXELS  # of a file
    white: float = 0  # the value that is white in images of more than 8 bits; 0 is 65535
    decode_size: int = 0  # pixels a side of the square; 0 stores images of `image_shape`

    def __post_init__(self):
        if self.how != 'resize' and self.image_shape[2] != 1:
            raise UserError(
                f'config.dataset.preprocess = {self.how!r}: it is for grey images, and these have '
                f"{self.image_shape[2]} channels; allowed is 'resize'"
            )
        if self.decode_size and self.decode_size < max(self.image_shape[:2]):
            raise UserError(
                f'config.dataset.decode_size = {self.decode_size}: images of '
                f'{self.image_shape[0]}×{self.image_shape[1]} are cut out of it; allowed are 0 and '
                f'integers from {max(self.image_shape[:2])}'
            )
        if self.decode_size and (self.how, self.resize) != ('resize', 'crop'):
            raise UserError(
                f'config.dataset.decode_size = {self.decode_size}: is for images that are cropped; '
                "allowed is 0, or dataset.preprocess = 'resize' with dataset.resize = 'crop'"
            )

    @property
    def stored_shape(self) -> Shape:
        """(height, width, channels) of what `read` returns."""
        if not self.decode_size:
            return self.image_shape
        return square_shape(self.decode_size, self.image_shape[2])

    @property
    def identities(self) -> list[str]:
        """What the images depend on, as a text; and the texts of earlier versions, with a bound."""
        fields = f'image_shape={self.image_shape!r}, how={self.how!r}, resize={self.resize!r}'
        white = f', white={self.white!r}' if self.white else ''
        if self.decode_size:
            return [
                f'Preprocessing(decode_size={self.decode_size!r}, {self.stored_shape!r}{white})'
            ]
        bounds = '', *(f', max_pixels={most}' for most in (2**24, self.max_pixels))
        return [f'Preprocessing({fields}{bound}{white})' for bound in bounds]

    def read(self, path: str | os.PathLike | bytes) -> UInt8[np.ndarray, 'height width channels']:
        """The image of a file, or of a file's content, in `stored_shape`; raises UserError, which
        does not name the file, if it cannot be used.
        """
        *size, channels = self.image_shape
        # A digit may take a small part of its image.
        min_side = (2 if self.how == 'resize' else 20) * max(*size, self.decode_size)
        image = read_image(path, channels, self.max_pixels, min_side, self.white)
        if self.decode_size:
            return square_of(image, self.decode_size)
        if self.how == 'resize':
            return np.array(resize_image(image, tuple(size), self.resize)).reshape(self.image_shape)
        return to_mnist_style(np.asarray(image), tuple(size), fill=self.how == 'fill')[..., None]


def resize_image(image: Image.Image, size: Pair, resize: str) -> Image.Image:
    """Resizes an image, of mode 'L', 'RGB' or 'RGBA', to (height, width), antialiased; `resize` as
    in `Preprocessing`.
    """
    size, method = size[::-1], Image.Resampling.BILINEAR
    if image.size == size:
        return image
    if resize == 'pad':
        return ImageOps.pad(image, size, method, color=0)
    return ImageOps.fit(image, size, method) if resize == 'crop' else image.resize(size, method)


def decode_images(
    paths: Iterable[str | tuple[str, UserError]], preprocessing: Preprocessing, ahead: int = 512
) -> Iterator[tuple[str, np.ndarray | UserError]]:
    """Each path with its image, uint8 (height, width, channels), or with the error that it raised.

    Pillow decodes without Python's lock, so that threads use all cores. Small files are decoded by
    one thread at a time: several would spend half of their time on handing that lock around. Paths
    are read as they are needed, about `ahead` of them before their image is asked for, which bounds
    the memory; a path that comes with an error is passed on with it.
    """
    small_file_lock = threading.Lock()

    def decode(path):
        if isinstance(path, tuple):
            return path
        try:
            is_small = os.stat(path).st_size < SMALL_FILE_BYTES
        except (OSError, ValueError):  # raised again when it is read
            is_small = True
        try:
            with small_file_lock if is_small else contextlib.nullcontext():
                return path, preprocessing.read(path)
        except UserError as error:
            return path, error

    threads, jobs, paths = ThreadPoolExecutor(num_cores()), collections.deque(), iter(paths)
    try:
        while batch := tuple(itertools.islice(paths, FILES_PER_JOB)):
            jobs.append(threads.submit(lambda batch: [*map(decode, batch)], batch))
            if len(jobs) * FILES_PER_JOB > ahead:
                yield from jobs.popleft().result()
        while jobs:
            yield from jobs.popleft().result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
