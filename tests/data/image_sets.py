"""Image files in a folder a class, and the data sets that they are, for tests."""

import pathlib

import numpy as np
from PIL import Image

from tests.tfds_files import open_set


def put(path, level, size=(6, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, level, np.uint8)).save(path)


def put_classes(root, count=10, **levels):
    """Grey images, as many of each class, whose level says the class and the number."""
    for name, level in (levels or {'cat': 10, 'dog': 200}).items():
        for k in range(count):
            put(root / name / f'{k}.png', level + k)
    return root


def put_listing(root, count=10, **levels):
    """A CSV beside `put_classes`; returns its path."""
    put_classes(root, count, **levels)
    paths = [path.relative_to(root) for path in sorted(root.rglob('*.png'))]
    path = root / 'labels.csv'
    path.write_text('\n'.join(['file,label', *(f'{path},{path.parent}' for path in paths)]))
    return path


def make(root, *paths):
    """Empty files; a name with a / at its end is a folder."""
    for path in paths:
        folder = root / path if path.endswith('/') else (root / path).parent
        folder.mkdir(parents=True, exist_ok=True)
        if not path.endswith('/'):
            (root / path).touch()
    return root


def open_folder(root, recorded=None, **keys):
    """A folder of images as a data set, or another name that `keys` has."""
    usual = {'name': f'folder:{root}', 'data_dir': '', 'image_size': 4, 'channels': 1}
    usual['cache_dir'] = str(pathlib.Path(root).parent / 'cache')
    return open_set(**usual | keys, recorded=recorded)
