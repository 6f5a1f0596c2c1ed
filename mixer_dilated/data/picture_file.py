"""Picture files from anywhere: opened without trust, upright, in grey or colour."""

import io
import os
import stat
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from mixer_dilated.data.decoding import MODES
from mixer_dilated.errors import InputError, UnreadableError

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


def read_picture(
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
      InputError: why it cannot be used; the message does not name the file. UnreadableError, if
        the reason is not in the file but in the system.
    """
    try:
        with _opened(path, max_pixels) as file, Image.open(file, formats=FORMATS) as image:
            pixels = image.width * image.height
            if pixels > max_pixels:
                raise InputError(
                    f'{image.width}×{image.height} = {pixels} pixels; allowed are at most '
                    f'{max_pixels} (dataset.max_pixels)'
                )
            image.draft('L' if channels == 1 else None, (enough, enough) if enough else None)
            image.load()
            return _in_channels(_upright(image), channels)
    except InputError:
        raise
    except Image.DecompressionBombError:  # Pillow's own bound, at 179 million
        raise InputError(
            f'more pixels than can be meant; allowed are at most {max_pixels} (dataset.max_pixels)'
        ) from None
    except UnidentifiedImageError:
        raise InputError('not a PNG, JPEG or WebP image, or its header is damaged') from None
    except OSError as error:
        if error.strerror:
            raise UnreadableError(error.strerror) from None
        raise InputError(_cause(error)) from None
    except MemoryError:
        raise
    # Pillow raises errors of many kinds at damaged files; all mean the same.
    except Exception as error:
        raise InputError(_cause(error)) from None


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
            raise InputError('an empty file')
        # No encoder needs more; a decoder may take in the whole file.
        most = 8 * max_pixels + 2**20
        if status.st_size > most:
            raise InputError(
                f'{status.st_size} bytes; allowed are at most {most}, 8 a pixel of '
                'dataset.max_pixels and a mebibyte'
            )
    except BaseException:
        file.close()
        raise
    return file


def _check_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise InputError('a folder' if stat.S_ISDIR(mode) else 'not a file but a pipe or device')


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
