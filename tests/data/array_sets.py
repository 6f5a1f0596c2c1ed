"""Arrays of images and labels, and the files that hold them, for tests."""

import gzip
import struct
import warnings

import numpy as np

from tests.conftest import random_bytes
from tests.tfds_files import open_set


def images(count=10, shape=(6, 5), seed=0):
    """uint8 images; the first pixel is 255."""
    drawn = random_bytes((count, *shape), seed)
    drawn.flat[:1] = 255
    return drawn


def arrays(train=12, test=6, shape=(6, 5), classes=3, **changes):
    """Arrays of Keras' names."""
    return {
        'x_train': images(train, shape), 'y_train': np.arange(train) % classes,
        'x_test': images(test, shape, 1), 'y_test': np.arange(test) % classes, **changes,
    }  # fmt: skip


def open_npz(path, content=None, **keys):
    """The data set of an .npz file; without its warnings, if it is made of `content` before."""
    if content is None:
        return open_set('', f'npz:{path}', **keys)
    np.savez(path, **content)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return open_npz(path, **keys)


def check_examples(source, split, images, labels):
    examples = source.read(split)
    assert examples.images.dtype == np.uint8 and examples.labels.dtype == np.int32
    np.testing.assert_array_equal(examples.images.squeeze(), images)
    np.testing.assert_array_equal(examples.labels, labels)
    data_source = source.data_source(split)
    assert data_source.image_shape == source.stored_shape
    for array, expected in zip(data_source.read([2, 0]), examples, strict=True):
        np.testing.assert_array_equal(array, expected[[2, 0]])


def write_idx(folder, content=None, name='{}-{}-idx{}-ubyte', packed=False):
    folder.mkdir(parents=True, exist_ok=True)
    content = content or arrays(shape=(28, 28))
    for key, array in content.items():
        kind = 'images' if key[0] == 'x' else 'labels'
        name_of_file = name.format('train' if 'train' in key else 't10k', kind, array.ndim)
        header = struct.pack(f'>HBB{array.ndim}I', 0, 8, array.ndim, *array.shape)
        encoded = header + array.astype(np.uint8).tobytes()
        path = folder / (name_of_file + ('.gz' if packed else ''))
        path.write_bytes(gzip.compress(encoded) if packed else encoded)
    return content
