"""The pictures of a split of a folder, decoded one by one: `FolderRecords`."""

import dataclasses
import os
import pathlib
import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

from mixer_dilated.data.examples import Examples
from mixer_dilated.data.picture_split import PictureFile
from mixer_dilated.data.preprocessing import Preprocessing
from mixer_dilated.errors import InputError


@dataclasses.dataclass(frozen=True)
class FolderRecords:
    """Picture files, as `Records`.

    Attributes:
      root: the data set's folder.
      paths: below it, as bytes in an array: other processes get a copy, and there may be millions.
      all_labels: int32 (files,).
      preprocessing: how they become images.
    """

    root: pathlib.Path
    paths: np.ndarray
    all_labels: Int32[np.ndarray, ' files']
    preprocessing: Preprocessing

    @classmethod
    def of(
        cls, root: pathlib.Path, files: Sequence[PictureFile], preprocessing: Preprocessing
    ) -> 'FolderRecords':
        """Of a list of files."""
        paths = np.array([os.fsencode(file.path) for file in files])
        labels = np.array([file.label for file in files], np.int32)
        return cls(root, paths, labels, preprocessing)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.preprocessing.image_shape

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: Sequence[int]) -> Examples:
        """The examples of these numbers. Raises InputError at a file that cannot be used."""
        index = np.asarray(index)
        images = np.empty((len(index), *self.image_shape), np.uint8)
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', module='PIL')  # which names no file
            for i, path in enumerate(map(os.fsdecode, self.paths[index])):
                try:
                    images[i] = self.preprocessing.read(os.path.join(self.root, path))
                except InputError as error:
                    raise InputError(
                        f'{self.root}: a picture that cannot be used: {path}: {error}; a '
                        'run that has saved goes on when it is there as it was; without it, or '
                        'with --config.dataset.on_broken=skip, begin in a new folder'
                    ) from None
        return Examples(images, self.all_labels[index])

    def labels(self, index: Sequence[int]) -> Int32[np.ndarray, ' examples']:
        """Their labels alone."""
        return self.all_labels[np.asarray(index)]
