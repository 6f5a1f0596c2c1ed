"""A set of the form of ImageNet, of drawn images: `python -m tests.imagenet_images DIR 3000`.

Its figures stand for ImageNet's where the input is timed: JPEGs of about 500×375 pixels and 57 kB
in array_record, with the features that TFDS has for `imagenet2012`.
"""

import argparse
import io
import pathlib

import numpy as np
from PIL import Image

from tests.tfds_files import write_set

MEAN_SIDES = 375, 500
NUM_CLASSES = 1000
FILES = 100  # TFDS spreads ImageNet over 1024


def draw_image(seed: int) -> bytes:
    """A JPEG: waves of all lengths, the long ones strong, as photographs have them."""
    draw = np.random.default_rng(seed)
    height, width = (int(side * draw.uniform(0.8, 1.2)) for side in MEAN_SIDES)
    pixels = np.full((height, width, 3), 128.0, np.float32)
    for cells in (2, 6, 18, 54, 162):
        coarse = draw.normal(128, 255 / cells**0.6, (cells, cells, 3)).clip(0, 255).astype(np.uint8)
        pixels += np.asarray(Image.fromarray(coarse).resize((width, height), 3), np.float32) - 128
    pixels += draw.normal(0, 5, pixels.shape)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, 'JPEG', quality=90)
    return file.getvalue()


def write_imagenet(data_dir: pathlib.Path, count: int) -> pathlib.Path:
    """Writes them as prepared `imagenet2012`, the same for training and validation."""
    return write_set(
        data_dir,
        [(draw_image(k), k * 3 % NUM_CLASSES) for k in range(count)],
        (None, None, 3),
        'imagenet2012',
        '5.1.0',
        splits=('train', 'validation'),
        text_feature='file_name',
        files=min(count, FILES),
    )


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.partition(':')[0])
    parser.add_argument('folder', type=pathlib.Path, metavar='DIR')
    parser.add_argument('count', type=int)
    given = parser.parse_args()
    print(write_imagenet(given.folder, given.count))
