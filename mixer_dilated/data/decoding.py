"""Encoded images, from anywhere, to arrays."""

import io

import numpy as np
from jaxtyping import UInt8

from mixer_dilated.errors import InputError

MODES = {1: 'L', 3: 'RGB', 4: 'RGBA'}


def decode_image(
    encoded: bytes, shape: tuple[int, int, int]
) -> UInt8[np.ndarray, 'height width channels']:
    """Decodes an image whose shape is known; one of another size is refused before it is decoded.

    Args:
      encoded: content of a PNG, JPEG or WebP file.
      shape: (height, width, channels); 1, 3 or 4 channels.

    Raises:
      InputError: not an image, of another size, or not of 8 bits a channel.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded), formats=('PNG', 'JPEG', 'WEBP')) as image:
            if image.size != (shape[1], shape[0]) or image.mode != MODES[shape[2]]:
                raise InputError(
                    f'an image of {image.size[1]}×{image.size[0]}, mode {image.mode}; allowed is '
                    f'{shape[0]}×{shape[1]}, mode {MODES[shape[2]]}'
                )
            return np.asarray(image).reshape(shape)
    except InputError:
        raise
    # Pillow raises errors of many kinds at damaged files; all mean the same.
    except Exception as error:
        cause = ' '.join(str(error).split())[:200]
        raise InputError(f'an image that cannot be decoded: {cause}') from error
