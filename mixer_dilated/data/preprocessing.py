"""Reading image files, and resizing them to what a network is trained on."""

import collections
import contextlib
import dataclasses
import io
import itertools
import os
import stat
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError, features

from mixer_dilated.data.workers import num_cores
from mixer_dilated.errors import UnreadableError, UserError
from mixer_dilated.files import open_nonblocking
from mixer_dilated.patches.geometry import Pair

FORMATS = ('PNG', 'JPEG', 'WEBP', 'BMP', 'TIFF', 'GIF', 'AVIF')  # what Pillow lacks is refused
SUFFIXES = ('.png', '.jpg', '.jpeg', '.jpe', '.jfif', '.webp', '.bmp', '.tif', '.tiff', '.gif')
SUFFIXES += ('.avif',) if features.check('avif') else ()
MODES = {1: 'L', 3: 'RGB', 4: 'RGBA'}
PREPROCESS_MODES = ('resize', 'mnist', 'fill')
RESIZE_MODES = ('crop', 'pad', 'squash')
FILES_PER_JOB = 32  # of a decoding thread
SMALL_FILE_BYTES = 2**14  # below which decoding is mostly Python


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How image files become images of a data set.

    Attributes:
      image_shape: (height, width, channels) of the result.
      how: 'resize'; 'mnist' (see `to_mnist_style`); or 'fill', in which the thing fills the image
        and its middle is the centre. The latter two take 1 channel.
      resize: 'crop' (the largest part of the right aspect ratio around the centre), 'pad' (the
        whole, black on two sides) or 'squash' (the whole, its aspect ratio changed).
      max_pixels: the most that a file may have.
    """

    image_shape: tuple[int, int, int]
    how: str = 'resize'
    resize: str = 'crop'
    max_pixels: int = 2**24

    def __post_init__(self):
        if self.how != 'resize' and self.image_shape[2] != 1:
            raise UserError(
                f'config.dataset.preprocess = {self.how!r}: it is for grey images, and these have '
                f"{self.image_shape[2]} channels; allowed is 'resize'"
            )

    def read(self, path: str | os.PathLike | bytes) -> UInt8[np.ndarray, 'height width channels']:
        """The image of a file, or of a file's content.

        Raises:
          UserError: why it cannot be used; the message does not name the file.
        """
        from mixer_dilated.data.mnist_style import to_mnist_style

        *size, channels = self.image_shape
        # A digit may take a small part of its image.
        min_side = (2 if self.how == 'resize' else 20) * max(size)
        image = read_image(path, channels, max_pixels=self.max_pixels, min_side=min_side)
        if self.how == 'resize':
            return np.array(resize_image(image, tuple(size), self.resize)).reshape(self.image_shape)
        style = {'box': 1.0, 'by_mass': False} if self.how == 'fill' else {}
        return to_mnist_style(np.asarray(image), tuple(size), **style)[..., None]


def read_image(
    path: str | os.PathLike | bytes, channels: int, *, max_pixels: int, min_side: int = 0
) -> Image.Image:
    """Reads an image file of any size, of one of `FORMATS`.

    The image is upright as its EXIF orientation says; transparent places become white; 16 bits
    become 8; of an animation it is the first frame; colour profiles are not applied.

    Args:
      path: the file, or its content.
      channels: 1 (grey, ITU-R 601), 3 (colour) or 4 (colour and opacity, as it is).
      max_pixels: more are refused by the header, before anything is decoded.
      min_side: a larger JPEG may be decoded at 1/2, 1/4 or 1/8 of its size that still has as many
        pixels a side; 0 for its own size.

    Returns:
      An image of mode 'L', 'RGB' or 'RGBA'.

    Raises:
      UserError: why it cannot be used; the message does not name the file. UnreadableError, if the
        reason is not in the file but in the system.
    """
    with (
        _decoding_errors(max_pixels),
        _open_image(path, max_pixels) as file,
        Image.open(file, formats=FORMATS) as image,
    ):
        pixels = image.width * image.height
        if pixels > max_pixels:
            raise UserError(
                f'{image.width}×{image.height} = {pixels} pixels; allowed are at most '
                f'{max_pixels} (dataset.max_pixels)'
            )
        image.draft('L' if channels == 1 else None, (min_side, min_side) if min_side else None)
        image.load()
        return _convert(_exif_transpose(image), channels)


def decode_image(
    encoded: bytes, shape: tuple[int, int, int]
) -> UInt8[np.ndarray, 'height width channels']:
    """Decodes an image of a known (height, width, channels); any other is refused by its header.

    Raises:
      UserError: not an image, of another size, or not of 8 bits a channel.
    """
    with (
        _decoding_errors(shape[0] * shape[1]),
        Image.open(io.BytesIO(encoded), formats=FORMATS) as image,
    ):
        if image.size != (shape[1], shape[0]) or image.mode != MODES[shape[2]]:
            raise UserError(
                f'an image of {image.size[1]}×{image.size[0]}, mode {image.mode}; allowed is '
                f'{shape[0]}×{shape[1]}, mode {MODES[shape[2]]}'
            )
        return np.asarray(image).reshape(shape)


@contextlib.contextmanager
def _decoding_errors(max_pixels: int):
    """Raises UserError for what Pillow raises: errors of many types at damaged files."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Image.DecompressionBombError:  # Pillow's own bound, at 179 million
        raise UserError(
            f'more pixels than can be meant; allowed are at most {max_pixels} (dataset.max_pixels)'
        ) from None
    except UnidentifiedImageError:
        raise UserError(f'not an image of {", ".join(FORMATS)}, or its header is damaged') from None
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise UnreadableError(error.strerror) from None
        cause = ' '.join(str(error).split())[:200] or type(error).__name__
        raise UserError(f'an image that cannot be decoded: {cause}') from None


def _open_image(path: str | os.PathLike | bytes, max_pixels: int) -> BinaryIO:
    """Opens a file, but nothing that could wait or never end: a pipe, a device, a folder."""
    if isinstance(path, bytes):
        return io.BytesIO(path)
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        folder = stat.S_ISDIR(status.st_mode)
        raise UserError('a folder' if folder else 'not a file but a pipe or device')
    if not status.st_size:
        raise UserError('an empty file')
    max_bytes = 8 * max_pixels + 2**20  # no encoder needs more; a decoder may take in all of it
    if status.st_size > max_bytes:
        raise UserError(
            f'{status.st_size} bytes; allowed are at most {max_bytes}, 8 a pixel of '
            'dataset.max_pixels and a mebibyte'
        )
    return open(path, 'rb', opener=open_nonblocking)


def _exif_transpose(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # an orientation that cannot be read is none
        return image


def _convert(image: Image.Image, channels: int) -> Image.Image:
    if image.mode.startswith('I'):  # 16 bits of grey, which Pillow would cut off at 255
        high_bytes = np.asarray(image).astype(np.uint32) >> 8
        image = Image.fromarray(high_bytes.astype(np.uint8))
    if channels < 4 and image.has_transparency_data:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    return image if image.mode == MODES[channels] else image.convert(MODES[channels])


def resize_image(image: Image.Image, size: Pair, resize: str) -> Image.Image:
    """Resizes an image to (height, width), antialiased.

    Args:
      image: of mode 'L', 'RGB' or 'RGBA'; returned as it is if it has that size.
      size: (height, width) in pixels.
      resize: one of `RESIZE_MODES`, for another aspect ratio.
    """
    height, width = size
    if image.size == (width, height):
        return image
    if resize == 'pad':
        return ImageOps.pad(image, (width, height), Image.Resampling.BILINEAR, color=0)
    box = None
    if resize == 'crop':
        scale = min(image.width / width, image.height / height)
        # Rounding must not move an edge out of the image.
        left = max(0, (image.width - scale * width) / 2)
        top = max(0, (image.height - scale * height) / 2)
        right = min(left + scale * width, image.width)
        box = (left, top, right, min(top + scale * height, image.height))
    return image.resize((width, height), Image.Resampling.BILINEAR, box=box)


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


def upsample(
    images: UInt8[Array, 'batch stored_height stored_width channels'], size: Pair
) -> UInt8[Array, 'batch height width channels']:
    """Images at (height, width), by linear interpolation rounded to integers; can be jitted."""
    if images.shape[1:3] == size:
        return images
    shape = (len(images), *size, images.shape[3])
    upsampled = jax.image.resize(images.astype(jnp.float32), shape, 'linear')
    return jnp.round(upsampled).astype(jnp.uint8)
