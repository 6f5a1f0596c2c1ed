"""Image files as the images that a network is trained on."""

import collections
import contextlib
import dataclasses
import itertools
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8
from PIL import Image, ImageOps

from mixer_dilated.data.image_decoding import MAX_PIXELS, read_image
from mixer_dilated.data.workers import num_cores
from mixer_dilated.errors import UserError
from mixer_dilated.patches.geometry import Pair

PREPROCESS_MODES = ('resize', 'mnist', 'fill')
RESIZE_MODES = ('crop', 'pad', 'squash')
FILES_PER_JOB = 32  # of a decoding thread
SMALL_FILE_BYTES = 2**14  # below which decoding is mostly Python


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How image files become images of a data set.

    They are brought to the style of MNIST's by 'mnist' (see `to_mnist_style`) and by 'fill', in
    which the thing fills the image and its middle is the centre; both take 1 channel. They are
    resized by 'crop' (the largest part of the right aspect ratio around the centre), 'pad' (the
    whole, black on two sides) or 'squash' (the whole, its aspect ratio changed).
    """

    image_shape: tuple[int, int, int]  # (height, width, channels) of the result
    how: str = 'resize'  # or 'mnist' or 'fill'
    resize: str = 'crop'  # or 'pad' or 'squash'
    max_pixels: int = MAX_PIXELS  # of a file
    white: float = 0  # the value that is white in images of more than 8 bits; 0 is 65535

    def __post_init__(self):
        if self.how != 'resize' and self.image_shape[2] != 1:
            raise UserError(
                f'config.dataset.preprocess = {self.how!r}: it is for grey images, and these have '
                f"{self.image_shape[2]} channels; allowed is 'resize'"
            )

    @property
    def identities(self) -> list[str]:
        """What the images depend on, as a text; and the texts of earlier versions, with a bound."""
        fields = f'image_shape={self.image_shape!r}, how={self.how!r}, resize={self.resize!r}'
        white = f', white={self.white!r}' if self.white else ''
        bounds = '', *(f', max_pixels={most}' for most in (2**24, self.max_pixels))
        return [f'Preprocessing({fields}{bound}{white})' for bound in bounds]

    def read(self, path: str | os.PathLike | bytes) -> UInt8[np.ndarray, 'height width channels']:
        """The image of a file, or of a file's content.

        Raises:
          UserError: why it cannot be used; the message does not name the file.
        """
        from mixer_dilated.data.mnist_style import to_mnist_style

        *size, channels = self.image_shape
        # A digit may take a small part of its image.
        min_side = (2 if self.how == 'resize' else 20) * max(size)
        image = read_image(path, channels, self.max_pixels, min_side, self.white)
        if self.how == 'resize':
            return np.array(resize_image(image, tuple(size), self.resize)).reshape(self.image_shape)
        style = {'box': 1.0, 'by_mass': False} if self.how == 'fill' else {}
        return to_mnist_style(np.asarray(image), tuple(size), **style)[..., None]


def resize_image(image: Image.Image, size: Pair, resize: str) -> Image.Image:
    """Resizes an image to (height, width), antialiased.

    Args:
      image: of mode 'L', 'RGB' or 'RGBA'; returned as it is if it has that size.
      size: (height, width) in pixels.
      resize: one of `RESIZE_MODES`, for another aspect ratio.
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
    one thread at a time: several would spend half of their time on handing that lock around.

    Args:
      paths: read as they are needed; a path that comes with an error is passed on with it.
      preprocessing: of the images.
      ahead: images that are decoded before they are asked for, about; they bound the memory.
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


def is_upsample(stored: Pair, size: Pair) -> bool:
    """Whether `upsample` makes images of one (height, width) those of another undistorted."""
    same_aspect_ratio = stored[0] * size[1] == stored[1] * size[0]
    return same_aspect_ratio and size[0] >= stored[0]


def image_shapes(
    own_shape: tuple, size: Pair | None
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The shape that the network sees of images, and the one that they are stored in.

    Images that are only upsampled to `size` are stored as they are, others resized when they are
    decoded. Height and width are None in the shape of images of several sizes.
    """
    *own_size, channels = own_shape
    seen = (*(size or own_size), channels)
    is_stored = None not in own_size and is_upsample(own_size, seen[:2])
    return seen, tuple(own_shape) if is_stored else seen


def upsample(
    images: UInt8[Array, 'batch stored_height stored_width channels'], size: Pair
) -> UInt8[Array, 'batch height width channels']:
    """Images at (height, width), by linear interpolation rounded to integers; can be jitted."""
    if images.shape[1:3] == size:
        return images
    shape = (len(images), *size, images.shape[3])
    upsampled = jax.image.resize(images.astype(jnp.float32), shape, 'linear')
    return jnp.round(upsampled).astype(jnp.uint8)
