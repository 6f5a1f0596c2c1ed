"""Image files, decoded: every format, mode and depth keeps its content, or is refused."""

import contextlib
import io
import os
import stat
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features

from mixer_dilated.errors import UnreadableError, UserError
from mixer_dilated.files import error_text, open_nonblocking
from mixer_dilated.patches.geometry import Shape

FORMATS = ('PNG', 'JPEG', 'WEBP', 'BMP', 'TIFF', 'GIF', 'AVIF')  # what Pillow lacks is refused
SUFFIXES = ('.png', '.jpg', '.jpeg', '.jpe', '.jfif', '.webp', '.bmp', '.tif', '.tiff', '.gif')
SUFFIXES += ('.avif',) if features.check('avif') else ()
ImagePath = str | os.PathLike | bytes  # or the content
MODES = {1: 'L', 3: 'RGB', 4: 'RGBA'}
Image.MAX_IMAGE_PIXELS = None  # Pillow's own bound; ours is max_pixels
MAX_PIXELS = 200_000_000  # phones and cameras have fewer


def read_image(
    path: ImagePath, channels: int, max_pixels: int, min_side: int = 0, white: float = 0
) -> Image.Image:
    """Reads an image file of any size, of one of `FORMATS`, as mode 'L', 'RGB' or 'RGBA'.

    The image is upright as its EXIF orientation says; transparent places become white; more than 8
    bits become 8; of an animation it is the first frame; colour profiles are not applied.

    Args:
      path: the file, or its content.
      channels: 1 (grey, ITU-R 601), 3 (colour) or 4 (colour and opacity, as it is).
      max_pixels: more are refused by the header, before anything is decoded.
      min_side: a larger JPEG may be decoded at 1/2, 1/4 or 1/8 of its size that still has as many
        pixels a side; 0 for its own size.
      white: the value that is white in images of more than 8 bits; 0 is 65535.

    Raises:
      UserError: why it cannot be used; the message does not name the file. UnreadableError, if the
        reason is not in the file but in the system.
    """
    with (
        _decoding_errors(),
        _open_image(path, max_pixels) as file,
        Image.open(file, formats=FORMATS) as image,
    ):
        pixels = image.width * image.height
        if pixels > max_pixels:
            raise UserError(
                f'{image.width}×{image.height} = {pixels} pixels; allowed are at most '
                f'{max_pixels} (dataset.max_pixels, for predict --max_pixels)'
            )
        if white and _is_16_bits(image) and image.mode[0] not in 'IF':
            raise UserError(
                'colour of 16 bits, of which 8 are read; convert it, or leave dataset.white at 0'
            )
        image.draft('L' if channels == 1 else None, (min_side, min_side) if min_side else None)
        image.load()
        return _convert(_exif_transpose(image), channels, white)


def decode_image(encoded: bytes, shape: Shape) -> UInt8[np.ndarray, 'height width channels']:
    """Decodes an image of a known shape; grey and colour are converted into each other. Raises
    UserError if it is no image, or by its header of another size.
    """
    with _decoding_errors(), Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
        if image.size != (shape[1], shape[0]):
            size = f'{image.size[1]}×{image.size[0]}'
            raise UserError(f'an image of {size}; allowed is {shape[0]}×{shape[1]}')
        return np.asarray(_convert(image, shape[2], white=0)).reshape(shape)


@contextlib.contextmanager
def _decoding_errors():
    """Raises UserError for what Pillow raises: errors of many types at damaged files."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except UnidentifiedImageError:
        formats = f'{", ".join(FORMATS[:-1])} or {FORMATS[-1]}'
        raise UserError(f'not a {formats} image, or its header is damaged') from None
    # Pillow raises OSError and SyntaxError; through its plugins come ValueError, TypeError,
    # KeyError, IndexError, EOFError, OverflowError, struct.error, zlib.error, ….
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise UnreadableError(error.strerror) from None
        raise UserError(f'an image that cannot be decoded: {error_text(error)}') from None


def _open_image(path: ImagePath, max_pixels: int) -> BinaryIO:
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
        size = f'{status.st_size} bytes'
        raise UserError(f'{size}; allowed are at most {max_bytes}, 8 a pixel of dataset.max_pixels')
    return open(path, 'rb', opener=open_nonblocking)


def _exif_transpose(image: Image.Image) -> Image.Image:
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return image  # of which Pillow would make a copy
        return ImageOps.exif_transpose(image)
    except Exception:  # an orientation that cannot be read, for any of the reasons above, is none
        return image


def _convert(image: Image.Image, channels: int, white: float) -> Image.Image:
    if image.mode[0] in 'IF':  # grey of 16 or 32 bits or floats, which Pillow would cut off at 255
        values = np.asarray(image)
        least, most = values.min(), values.max()
        limit = white or (65535 if image.mode[0] == 'I' else 0)
        if not (limit and 0 <= least <= most <= limit):
            allowed = f'allowed are 0 to {limit:g}' if limit else 'name the one that is white'
            raise UserError(f'grey values from {least:g} to {most:g}; {allowed} (dataset.white)')
        values = np.round(values * (255 / white)) if white else values >> 8
        image = Image.fromarray(values.astype(np.uint8))
    if channels < 4 and image.has_transparency_data:
        image = _on_white(image)
    return image if image.mode == MODES[channels] else image.convert(MODES[channels])


def _on_white(image: Image.Image) -> Image.Image:
    """An opaque image, white where it was transparent, with one more copy of it in memory."""
    opaque = Image.new('RGB', image.size, 'white')
    rows = max(1, 2**24 // image.width)
    for top in range(0, image.height, rows):
        box = 0, top, image.width, min(top + rows, image.height)
        strip = image.crop(box).convert('RGBA')
        opaque.paste(strip, box, mask=strip)
    return opaque


def _is_16_bits(image: Image.Image) -> bool:
    return ';16' in str(getattr(image, 'tile', ''))


def white_of(paths: Iterable[str], max_pixels: int) -> int:
    """The value that seems to be white in files of more than 8 bits of grey; 0 for their range.

    Where most of the range is not used, it is the least of 255, 1023, 4095 and 16383 that no value
    exceeds. Files that cannot be read, or have more pixels, are passed over.
    """
    most = 0
    for path in paths:
        # They are refused when they are read, with what `_decoding_errors` says of them.
        with contextlib.suppress(Exception), Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                continue
            if image.mode.startswith('I'):
                most = max(most, int(np.asarray(image).max()))
            elif _is_16_bits(image):  # of which Pillow has the high ones
                most = max(most, 256 * int(np.asarray(image).max()) + 255)
    return next((white for white in (255, 1023, 4095, 16383) if 0 < most <= white), 0)
