"""Arrays of images and labels, and the files that hold them, for tests."""

import gzip
import struct
import warnings

import numpy as np

from tests import tfds_files


def random_images(count=10, shape=(6, 5), seed=0):
    """uint8 images; the first pixel is 255."""
    images = np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)
    images.flat[:1] = 255
    return images


def arrays(train=12, test=6, shape=(6, 5), classes=3):
    """Arrays of Keras' names."""
    return {
        'x_train': random_images(train, shape), 'y_train': np.arange(train) % classes,
        'x_test': random_images(test, shape, 1), 'y_test': np.arange(test) % classes,
    }  # fmt: skip


def open_set(name, data_dir='', **keys):
    return tfds_files.open_set(data_dir, name, **keys)


def open_npz(path, content=None, quiet=True, **keys):
    if content is not None:
        np.savez(path, **content)
    with warnings.catch_warnings():
        if quiet:
            warnings.simplefilter('ignore')
        return open_set(f'npz:{path}', **keys)


def check_examples(source, split, images, labels):
    examples = source.read(split)
    assert examples.images.dtype == np.uint8 and examples.labels.dtype == np.int32
    np.testing.assert_array_equal(examples.images, images)
    np.testing.assert_array_equal(examples.labels, labels)
    data_source = source.data_source(split)
    assert data_source.image_shape == source.stored_shape
    for array, expected in zip(data_source.read([2, 0]), examples, strict=True):
        np.testing.assert_array_equal(array, expected[[2, 0]])


def idx(array):
    header = struct.pack(f'>HBB{array.ndim}I', 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


def write_idx(folder, content=None, name='{}-{}-idx{}-ubyte', packed=False):
    folder.mkdir(parents=True, exist_ok=True)
    content = content or arrays(shape=(28, 28))
    for part, split in (('train', 'train'), ('test', 't10k')):
        for kind, key, ndim in (('images', 'x', 3), ('labels', 'y', 1)):
            encoded = idx(content[f'{key}_{part}'].astype(np.uint8))
            path = folder / (name.format(split, kind, ndim) + ('.gz' if packed else ''))
            path.write_bytes(gzip.compress(encoded) if packed else encoded)
    return content
