"""Any TFDS image classification set, read with `tfds.data_source` and without TensorFlow."""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Int32, UInt8
from ml_collections import ConfigDict

from mixer_dilated.data.examples import Examples
from mixer_dilated.data.image_decoding import MODES, decode_image
from mixer_dilated.data.preprocessing import Preprocessing
from mixer_dilated.data.stored_images import check_pixels, image_shapes
from mixer_dilated.data.tfds_builder import find_keys, open_builder
from mixer_dilated.data.workers import num_cores
from mixer_dilated.errors import UserError
from mixer_dilated.files import error_text
from mixer_dilated.patches.geometry import Pair, Shape

BLOCK_RECORDS = 256  # read in one go
MAX_CLASSES = 2**20
MAX_COUNTED = 1000  # labels that are no class labels, in a small set


class TfdsDataset:
    """A prepared TFDS data set, as a `Dataset`; prepared first where that is possible.

    For `image_size` see `image_shapes`. Raises UserError for a set that is not there, is not
    prepared, is no image classification, or has too large images.
    """

    def __init__(self, dataset: ConfigDict, image_size: Pair | None = None):
        self.name = name = dataset.name
        self._builder = open_builder(name, dataset.data_dir)
        info = self._builder.info
        self._keys = find_keys(name, info, dataset.image_key, dataset.label_key)
        image, label = (info.features[key] for key in self._keys)
        shapes = image_shapes(name, image.shape, image_size, dataset.decode_size)
        self.image_shape, self.stored_shape = shapes
        self.split_sizes = {name: split.num_examples for name, split in info.splits.items()}
        dtype = np.dtype(image.np_dtype)
        if image.shape[2] not in MODES or dtype != np.uint8:
            raise UserError(
                f'config.dataset.name = {name!r}: its images are {tuple(image.shape)} of '
                f'{dtype}; allowed are uint8 images with 1, 3 or 4 channels'
            )
        check_pixels(f'config.dataset.name = {name!r}', self.stored_shape, dataset.max_pixels)
        preprocessing = Preprocessing(
            self.image_shape,
            resize=dataset.resize,
            max_pixels=dataset.max_pixels,
            decode_size=dataset.decode_size,
        )
        # Images that are stored as they are must have the size that the set promises.
        resized = self.stored_shape != tuple(image.shape)
        self._preprocessing = preprocessing if resized else None
        if (getattr(label, 'num_classes', None) or 0) > MAX_CLASSES:
            raise UserError(f'config.dataset.name = {name!r}: more than {MAX_CLASSES} classes')
        self._classes, names = {}, getattr(label, 'names', None)  # of a class label
        self._classes = {k: k for k in range(len(names))} if names else self._count_labels()
        self.class_names = tuple(map(str, names or self._classes))
        self.num_classes = len(self.class_names)
        texts = [[text] for text in preprocessing.identities] if resized else [[]]
        self.fingerprint = self._hash_files(*texts[0], times=True)
        self.identity, *self.old_identities = (self._hash_files(*text) for text in texts)

    def read(self, split: str) -> Examples:
        source = self.data_source(split)
        count = len(source)
        images = np.empty((count, *self.stored_shape), np.uint8)
        labels = np.empty(count, np.int32)
        blocks = np.array_split(np.arange(count), -(-count // BLOCK_RECORDS))
        # Small images: threads would hand Python's lock around longer than they decode.
        with ThreadPoolExecutor(1 if self._preprocessing is None else num_cores()) as threads:
            for block, examples in zip(blocks, threads.map(source.read, blocks), strict=True):
                images[block], labels[block] = examples
        return Examples(images, labels)

    def data_source(self, split: str) -> 'TfdsDataSource':
        import tensorflow_datasets as tfds  # slow, and not needed for a set that is cached

        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        return TfdsDataSource(
            self._builder.as_data_source(split, deserialize_method=raw),
            len(self._builder.info.splits[split].file_instructions),
            f'{self._builder.data_path}, split {split!r}',
            self._keys,
            self._classes,
            self.stored_shape,
            self._preprocessing,
        )

    def _count_labels(self) -> dict[int | str, int]:
        """{label: its class} of all training examples, whose labels are integers or texts."""
        split = 'train' if 'train' in self.split_sizes else next(iter(self.split_sizes))
        source = self.data_source(split)
        blocks = np.array_split(np.arange(len(source)), -(-len(source) // BLOCK_RECORDS))
        values = {label for block in blocks for _, label in source.fetch(block)}
        if len(values) > max(MAX_COUNTED, len(source) // 10):
            raise UserError(
                f'config.dataset.name = {self.name!r}: {self._keys[1]} has {len(values)} values in '
                f'{len(source)} examples, too many for classes; set --config.dataset.label_key=KEY'
            )
        return {label: number for number, label in enumerate(sorted(values))}

    def _hash_files(self, *preprocessing: str, times: bool = False) -> str:
        info = self._builder.info
        keys = [' '.join(self._keys)] if self._keys != info.supervised_keys else []
        lines = [info.full_name, *keys, *preprocessing]
        for path in (path for split in info.splits.values() for path in split.filepaths):
            status = os.stat(path)
            lines.append(f'{path.name} {status.st_size}' + f' {status.st_mtime_ns}' * times)
        return hashlib.sha256('\n'.join(lines).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class TfdsDataSource:
    """A split of a TFDS set, as a `RandomAccessDataSource`."""

    records: Sequence  # `tfds.data_source` of the records as they are stored, in bytes
    num_files: int  # that the split is spread over
    location: str  # folder and split, for messages
    keys: tuple[str, str]  # the features that are image and label
    classes: dict[int | str, int]  # number of each label: a class label, an integer or a text
    image_shape: Shape  # (height, width, channels) of the decoded images
    preprocessing: Preprocessing | None  # of other images; None for images of that shape

    def __len__(self) -> int:
        return len(self.records)

    def read(self, index: Sequence[int]) -> Examples:
        images = np.empty((len(index), *self.image_shape), np.uint8)
        labels = np.empty(len(index), np.int32)
        for i, (number, (encoded, label)) in enumerate(zip(index, self.fetch(index), strict=True)):
            try:
                images[i], labels[i] = self.decode(encoded), self._class_of(label)
            except UserError as error:
                raise UserError(f'{self.location}, record {number}: {error}') from None
        return Examples(images, labels)

    def labels(self, index: Sequence[int]) -> Int32[np.ndarray, ' examples']:
        return np.array([self._class_of(label) for _, label in self.fetch(index)], np.int32)

    def fetch(self, index: Sequence[int]) -> list[tuple[bytes, int | str]]:
        """The encoded images and the labels of these indices, as they are stored."""
        index = [int(number) for number in index]
        try:
            # Of many files, nearly each record is in another one, and `__getitems__` would start a
            # thread for each of them. Of few files it is many times faster.
            if self.num_files >= len(index):
                return [self._parse(self.records[number]) for number in index]
            return [self._parse(record) for record in self.records.__getitems__(index)]
        except Exception as error:  # of many types
            for number in index if len(index) > 1 else ():  # finds the damaged one
                self.fetch([number])
            which = f'record {index[0]}' if len(index) == 1 else f'records {index[0]} … {index[-1]}'
            raise UserError(
                f'{self.location}: {which} cannot be read: {type(error).__name__}: '
                f'{error_text(error)}; prepare the data set again'
            ) from error

    def decode(self, encoded: bytes) -> UInt8[np.ndarray, 'height width channels']:
        if self.preprocessing is None:
            return decode_image(encoded, self.image_shape)
        return self.preprocessing.read(encoded)

    def _parse(self, record: bytes) -> tuple[bytes, int | str]:
        """Image and label of a record; TFDS's own parser takes several times as long."""
        from tensorflow_datasets.proto import tf_example_pb2

        features = tf_example_pb2.Example.FromString(record).features.feature
        values = [
            features[key].int64_list.value or features[key].bytes_list.value for key in self.keys
        ]
        for key, value in zip(self.keys, values, strict=True):
            if not value:
                raise ValueError(f'it has no {key}')
        (image, *_), (label, *_) = values
        return image, label.decode() if isinstance(label, bytes) else int(label)

    def _class_of(self, label: int | str) -> int:
        if label not in self.classes:
            first, last = min(self.classes), max(self.classes)
            raise UserError(
                f'label {label!r}: allowed are the {len(self.classes)} from {first!r} to {last!r}'
            )
        return self.classes[label]
