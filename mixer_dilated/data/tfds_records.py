"""The records of a prepared TFDS split, decoded one by one: `TfdsRecords`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from mixer_dilated.data.decoding import decode_image
from mixer_dilated.data.examples import Examples
from mixer_dilated.data.preprocessing import Preprocessing
from mixer_dilated.errors import InputError


@dataclasses.dataclass(frozen=True)
class TfdsRecords:
    """A split of a TFDS set, as `Records`.

    Attributes:
      data_source: of `tfds.data_source`, which gives records as they are stored, in bytes.
      num_files: that the split is spread over.
      where: folder and split, for messages.
      image_key, label_key: names of the features.
      num_classes: number of labels.
      image_shape: (height, width, channels) of what it gives.
      preprocessing: how images become that; None for images that have that size.
    """

    data_source: Any
    num_files: int
    where: str
    image_key: str
    label_key: str
    num_classes: int
    image_shape: tuple[int, int, int]
    preprocessing: Preprocessing | None

    def __len__(self) -> int:
        return len(self.data_source)

    def read(self, index: Sequence[int]) -> Examples:
        """The examples of these numbers.

        Raises:
          InputError: a record that cannot be read, an image of another size or kind than the set
            says it has, or a label out of range.
        """
        images = np.empty((len(index), *self.image_shape), np.uint8)
        labels = np.empty(len(index), np.int32)
        for i, (number, record) in enumerate(zip(index, self.encoded(index), strict=True)):
            try:
                images[i], labels[i] = self.image(record), self.label(record)
            except InputError as error:
                raise InputError(f'{self.where}, record {number}: {error}') from None
        return Examples(images, labels)

    def labels(self, index: Sequence[int]) -> Int32[np.ndarray, ' examples']:
        """Their labels alone, as they are in the records."""
        return np.array([self.label(record) for record in self.encoded(index)], np.int32)

    def encoded(self, index: Sequence[int]) -> list[dict]:
        """The records of these numbers, by feature, their images still encoded."""
        index = [int(number) for number in index]
        try:
            return [self._features(record) for record in self._stored(index)]
        # Reader, decompression and parser raise errors of many kinds at a damaged file.
        except Exception as error:
            if len(index) > 1 and sorted(index) != [*range(min(index), max(index) + 1)]:
                for number in index:  # finds the one that is damaged
                    self.encoded([number])
            among = (
                f'record {index[0]}'
                if len(index) == 1
                else f'a record among {index[0]} … {index[-1]}'
            )
            cause = ' '.join(str(error).split())[:200]
            raise InputError(
                f'{self.where}: {among} cannot be read: '
                f'{type(error).__name__}: {cause}; prepare the data set again'
            ) from error

    def _stored(self, index: list[int]) -> list[bytes]:
        # Of many files, nearly each record is in another one, and the source would start a thread
        # for each of them. Of few, asking for all at once is many times faster.
        if self.num_files >= len(index):
            return [self.data_source[number] for number in index]
        return self.data_source.__getitems__(index)

    def _features(self, stored: bytes) -> dict:
        """The two features of a record. TFDS's own parser takes several times as long."""
        from tensorflow_datasets.proto import tf_example_pb2

        features = tf_example_pb2.Example.FromString(stored).features.feature
        images = features[self.image_key].bytes_list.value
        labels = features[self.label_key].int64_list.value
        if not images or not labels:
            raise ValueError(f'it has no {self.label_key if images else self.image_key}')
        return {self.image_key: images[0], self.label_key: labels[0]}

    def image(self, record: dict) -> UInt8[np.ndarray, 'height width channels']:
        """Decodes the image of a record."""
        encoded = record[self.image_key]
        if self.preprocessing is None:
            return decode_image(encoded, self.image_shape)
        return self.preprocessing.read(encoded)

    def label(self, record: dict) -> int:
        """The label of a record. Raises InputError if it is none of the classes."""
        label = int(record[self.label_key])
        if not 0 <= label < self.num_classes:
            raise InputError(f'label {label}: allowed are 0 to {self.num_classes - 1}')
        return label
