"""From image files to images of the form that a network is trained on."""

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
from PIL import Image, UnidentifiedImageError

from mixer_dilated.data.workers import num_cores
from mixer_dilated.errors import UnreadableError, UserError
from mixer_dilated.patches.geometry import Pair

MODES = {1: 'L', 3: 'RGB', 4: 'RGBA'}


def decode_image(
    encoded: bytes, shape: tuple[int, int, int]
) -> UInt8[np.ndarray, 'height width channels']:
    """Decodes an image whose shape is known; one of another size is refused before it is decoded.

    Args:
      encoded: content of a PNG, JPEG or WebP file.
      shape: (height, width, channels); 1, 3 or 4 channels.

    Raises:
      UserError: not an image, of another size, or not of 8 bits a channel.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded), formats=('PNG', 'JPEG', 'WEBP')) as image:
            if image.size != (shape[1], shape[0]) or image.mode != MODES[shape[2]]:
                raise UserError(
                    f'an image of {image.size[1]}×{image.size[0]}, mode {image.mode}; allowed is '
                    f'{shape[0]}×{shape[1]}, mode {MODES[shape[2]]}'
                )
            return np.asarray(image).reshape(shape)
    except UserError:
        raise
    # Pillow raises errors of many kinds at damaged files; all mean the same.
    except Exception as error:
        cause = ' '.join(str(error).split())[:200]
        raise UserError(f'an image that cannot be decoded: {cause}') from error


FORMATS = ('PNG', 'JPEG', 'WEBP')
SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp')
_ORIENTATION = 0x0112  # of EXIF
_TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(
    path: str | os.PathLike | bytes, channels: int, *, max_pixels: int, enough: int = 0
) -> Image.Image:
    """Reads a PNG, JPEG or WebP file of any size.

    The picture is turned as its EXIF orientation says; transparent places become white; 16 bits
    become 8; of an animation it is the first frame; colour profiles are not applied.

    Args:
      path: the file, or its content.
      channels: 1 (grey, ITU-R 601), 3 (colour) or 4 (colour and opacity, as it is).
      max_pixels: more are refused by the header, before anything is decoded.
      enough: pixels a side that are enough: a larger JPEG may be decoded at 1/2, 1/4 or 1/8 of its
        size that still has as many; 0 for its own size.

    Returns:
      An image of mode 'L', 'RGB' or 'RGBA'.

    Raises:
      UserError: why it cannot be used; the message does not name the file. UnreadableError, if
        the reason is not in the file but in the system.
    """
    try:
        with _opened(path, max_pixels) as file, Image.open(file, formats=FORMATS) as image:
            pixels = image.width * image.height
            if pixels > max_pixels:
                raise UserError(
                    f'{image.width}×{image.height} = {pixels} pixels; allowed are at most '
                    f'{max_pixels} (dataset.max_pixels)'
                )
            image.draft('L' if channels == 1 else None, (enough, enough) if enough else None)
            image.load()
            return _in_channels(_upright(image), channels)
    except UserError:
        raise
    except Image.DecompressionBombError:  # Pillow's own bound, at 179 million
        raise UserError(
            f'more pixels than can be meant; allowed are at most {max_pixels} (dataset.max_pixels)'
        ) from None
    except UnidentifiedImageError:
        raise UserError('not a PNG, JPEG or WebP image, or its header is damaged') from None
    except OSError as error:
        if error.strerror:
            raise UnreadableError(error.strerror) from None
        raise UserError(_cause(error)) from None
    except MemoryError:
        raise
    # Pillow raises errors of many kinds at damaged files; all mean the same.
    except Exception as error:
        raise UserError(_cause(error)) from None


def _opened(path: str | os.PathLike | bytes, max_pixels: int) -> BinaryIO:
    return io.BytesIO(path) if isinstance(path, bytes) else _open_regular(path, max_pixels)


def _open_regular(path: str | os.PathLike, max_pixels: int) -> BinaryIO:
    """Opens a file, but nothing that could wait or never end: a pipe, a device, a folder."""
    _check_regular(os.stat(path).st_mode)
    # What is at the path may have become another thing since: not to wait costs nothing.
    flags = os.O_RDONLY | getattr(os, 'O_NONBLOCK', 0) | getattr(os, 'O_BINARY', 0)
    file = os.fdopen(os.open(path, flags), 'rb')
    try:
        status = os.fstat(file.fileno())
        _check_regular(status.st_mode)
        if not status.st_size:
            raise UserError('an empty file')
        # No encoder needs more; a decoder may take in the whole file.
        most = 8 * max_pixels + 2**20
        if status.st_size > most:
            raise UserError(
                f'{status.st_size} bytes; allowed are at most {most}, 8 a pixel of '
                'dataset.max_pixels and a mebibyte'
            )
    except BaseException:
        file.close()
        raise
    return file


def _check_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise UserError('a folder' if stat.S_ISDIR(mode) else 'not a file but a pipe or device')


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = _TURNED.get(image.getexif().get(_ORIENTATION))
    # An orientation that cannot be read is none.
    except Exception:
        return image
    return image if turned is None else image.transpose(turned)


def _in_channels(image: Image.Image, channels: int) -> Image.Image:
    if image.mode.startswith('I'):  # 16 bits of grey, which Pillow would cut off at 255
        high_bytes = np.asarray(image).astype(np.uint32) >> 8
        image = Image.fromarray(high_bytes.astype(np.uint8))
    mode = MODES[channels]
    if channels < 4 and image.has_transparency_data:
        image = image.convert('RGBA')
        white = Image.new('RGBA', image.size, 'white')
        image = Image.alpha_composite(white, image)
    return image if image.mode == mode else image.convert(mode)


def _cause(error: Exception) -> str:
    return ' '.join(str(error).split())[:200] or type(error).__name__


HOW = ('resize', 'mnist', 'fill')
RESIZE = ('crop', 'pad', 'squash')
_OF_DATA_SETS = {'mnist': 'mnist', 'fashion_mnist': 'fill', 'digits': 'fill'}


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How picture files are brought to the form of a data set.

    Attributes:
      image_shape: (height, width, channels) of the result.
      how: 'resize'; 'mnist' (see `to_mnist_style`); or 'fill', which differs from it in that the
        thing fills the image and its middle is the centre. The latter two take 1 channel.
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
        # A digit may take a small part of its picture.
        enough = (2 if self.how == 'resize' else 20) * max(size)
        picture = read_image(path, channels, max_pixels=self.max_pixels, enough=enough)
        if self.how == 'resize':
            return np.array(fitted(picture, tuple(size), self.resize)).reshape(self.image_shape)
        form = {'box': 1.0, 'by_mass': False} if self.how == 'fill' else {}
        return to_mnist_style(np.asarray(picture), tuple(size), **form)[..., None]


def preprocess_of(name: str, preprocess: str) -> str:
    """What `dataset.preprocess` = 'auto' means for a data set; any other value as it is.

    Args:
      name: the data set's name; version and config of a TFDS set do not matter.
      preprocess: the key's value.
    """
    if preprocess != 'auto':
        return preprocess
    return _OF_DATA_SETS.get(name.split(':')[0].split('/')[0], 'resize')


def fitted(picture, size: tuple[int, int], resize: str):
    """A Pillow image at a size, antialiased; one that has that size already is left as it is.

    Args:
      picture: of mode 'L', 'RGB' or 'RGBA'.
      size: (height, width).
      resize: one of RESIZE.
    """
    from PIL import Image, ImageOps

    height, width = size
    if picture.size == (width, height):
        return picture
    if resize == 'pad':
        return ImageOps.pad(picture, (width, height), Image.Resampling.BILINEAR, color=0)
    box = None
    if resize == 'crop':
        scale = min(picture.width / width, picture.height / height)
        left, top = ((picture.width - scale * width) / 2, (picture.height - scale * height) / 2)
        box = (left, top, left + scale * width, top + scale * height)
    return picture.resize((width, height), Image.Resampling.BILINEAR, box=box)


CHUNK = 32  # files a job
SMALL = 2**14  # bytes of a file below which decoding is mostly Python


def decoded(
    paths: Iterable[str | tuple[str, UserError]], preprocessing: Preprocessing, ahead: int = 512
) -> Iterator[tuple[str, np.ndarray | UserError]]:
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
) -> np.ndarray | UserError:
    try:
        with turns if _is_small(path) else contextlib.nullcontext():
            return preprocessing.read(path)
    except UserError as error:
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


def is_upsample(stored: Pair, size: Pair) -> bool:
    """Whether images of one size become those of another by `upsample` without loss or distortion.

    Args:
      stored, size: (height, width) in pixels.
    """
    same_proportion = stored[0] * size[1] == stored[1] * size[0]
    return same_proportion and size[0] >= stored[0]


def upsample(
    images: UInt8[Array, 'batch stored_height stored_width channels'], size: Pair
) -> UInt8[Array, 'batch height width channels']:
    """Images at a size, by linear interpolation rounded to whole values; a jitted function's part.

    Args:
      images: uint8 (B, H, W, C).
      size: (height, width); images of that size stay as they are.
    """
    if images.shape[1:3] == size:
        return images
    shape = (len(images), *size, images.shape[3])
    found = jax.image.resize(images.astype(jnp.float32), shape, 'linear')
    return jnp.round(found).astype(jnp.uint8)
