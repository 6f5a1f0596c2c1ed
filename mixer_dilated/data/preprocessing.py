"""How a picture file becomes an image of the form that a network is trained on."""

import dataclasses
import os

import numpy as np
from jaxtyping import UInt8

from mixer_dilated.errors import InputError

HOW = ('resize', 'mnist', 'fill')
RESIZE = ('crop', 'pad', 'squash')
_OF_DATA_SETS = {'mnist': 'mnist', 'fashion_mnist': 'fill', 'digits': 'fill'}


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How picture files are brought to the form of a data set.

    Attributes:
      image_shape: (height, width, channels) of the result.
      how: 'resize'; 'mnist' (see `mnist_form`); or 'fill', which differs from it in that the thing
        fills the image and its middle is the centre. The latter two take 1 channel.
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
            raise InputError(
                f'config.dataset.preprocess = {self.how!r}: it is for grey images, and these have '
                f"{self.image_shape[2]} channels; allowed is 'resize'"
            )

    def read(self, path: str | os.PathLike | bytes) -> UInt8[np.ndarray, 'height width channels']:
        """The image of a file, or of a file's content.

        Raises:
          InputError: why it cannot be used; the message does not name the file.
        """
        from mixer_dilated.data.mnist_form import mnist_form
        from mixer_dilated.data.picture_file import read_picture

        *size, channels = self.image_shape
        # A digit may take a small part of its picture.
        enough = (2 if self.how == 'resize' else 20) * max(size)
        picture = read_picture(path, channels, max_pixels=self.max_pixels, enough=enough)
        if self.how == 'resize':
            return np.array(fitted(picture, tuple(size), self.resize)).reshape(self.image_shape)
        form = {'box': 1.0, 'by_mass': False} if self.how == 'fill' else {}
        return mnist_form(np.asarray(picture), tuple(size), **form)[..., None]


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
