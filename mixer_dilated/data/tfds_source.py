"""Any TFDS image classification set, read with `tfds.data_source` and without TensorFlow."""

import functools
import hashlib
import importlib.util
import math
import os
import pathlib
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mixer_dilated.data.cores import num_cores
from mixer_dilated.data.decoding import MODES
from mixer_dilated.data.enlarging import only_enlarges
from mixer_dilated.data.examples import Examples
from mixer_dilated.data.preprocessing import Preprocessing
from mixer_dilated.data.tfds_records import TfdsRecords
from mixer_dilated.errors import InputError
from mixer_dilated.patches.geometry import Pair


class TfdsSource:
    """A prepared TFDS data set, as a `Source`; prepared first if it is not there.

    Args:
      name: TFDS name, with an optional config and version: 'mnist', 'emnist/balanced'.
      data_dir: folder of prepared data; '' is TFDS_DATA_DIR, else TFDS's default.
      max_pixels: the most pixels that an image may have.
      image_size: (height, width) that its images are brought to; None for their own. Images of one
        size that only grow are stored as they are, the rest resized when they are decoded.
      resize: how images of another shape are (see `Preprocessing`).

    Raises:
      InputError: no such data set, not there and not to be had, not image classification, or
        images that are too large.
    """

    def __init__(
        self,
        name: str,
        data_dir: str,
        max_pixels: int = 2**24,
        image_size: Pair | None = None,
        resize: str = 'crop',
    ):
        self.name = name
        self._builder = _prepared_builder(name, data_dir)
        info = self._builder.info
        self._image_key, self._label_key = _supervised_keys(name, info)
        *own_size, channels = info.features[self._image_key].shape
        self.image_shape = (*(image_size or own_size), channels)
        grow = None not in own_size and only_enlarges(own_size, self.image_shape[:2])
        self.stored_shape = (*own_size, channels) if grow else self.image_shape
        self.num_classes = info.features[self._label_key].num_classes
        self.class_names = tuple(info.features[self._label_key].names)
        dtype = np.dtype(info.features[self._image_key].np_dtype)
        if channels not in MODES or dtype != np.uint8:
            raise InputError(
                f'config.dataset.name = {name!r}: its images are {(*own_size, channels)} of '
                f'{dtype}; allowed are uint8 images with 1, 3 or 4 channels'
            )
        if None in self.image_shape:
            raise InputError(
                f'config.dataset.image_size = 0: the images of {name!r} are of several sizes, and '
                'are brought to one; set it, for example --config.dataset.image_size=224'
            )
        # Images that stay as they are have the size that the set says, else they are refused.
        self._preprocessing = (
            None if grow else Preprocessing(self.image_shape, 'resize', resize, max_pixels)
        )
        pixels = math.prod(self.stored_shape[:2])
        if pixels > max_pixels:
            raise InputError(
                f'config.dataset.name = {name!r}: images of {pixels} pixels; allowed are at most '
                f'{max_pixels} (config.dataset.max_pixels)'
            )
        self.split_sizes = {name: split.num_examples for name, split in info.splits.items()}
        self.fingerprint = self._hashed(times=True)
        self.identity = self._hashed(times=False)

    def read(self, split: str) -> Examples:
        """Decodes the examples of a split given in TFDS split syntax, in the stored order.

        Raises:
          InputError: a record that cannot be read, an image of another size or kind than the set
            says it has, or a label out of range.
        """
        records = self.records(split)
        images = np.empty((len(records), *self.stored_shape), np.uint8)
        labels = np.empty(len(records), np.int32)
        for start in range(0, len(records), 1000):
            wanted = range(start, min(start + 1000, len(records)))
            chunk = records.encoded(wanted)
            for i, record, image in zip(wanted, chunk, _decoded(records, chunk), strict=True):
                try:
                    images[i] = image()
                    labels[i] = records.label(record)
                except InputError as error:
                    raise InputError(f'{records.where}, record {i}: {error}') from None
        return Examples(images, labels)

    def records(self, split: str) -> TfdsRecords:
        """The examples of a split, in the stored order, none of them decoded yet."""
        as_stored = _tfds().decode.DeserializeMethod.RAW_BYTES
        return TfdsRecords(
            self._builder.as_data_source(split, deserialize_method=as_stored),
            len(self._builder.info.splits[split].file_instructions),
            f'{self._builder.data_path}, split {split!r}',
            self._image_key,
            self._label_key,
            self.num_classes,
            self.stored_shape,
            self._preprocessing,
        )

    def _hashed(self, *, times: bool) -> str:
        """Name, version and every file's size, perhaps with its time of change, hashed."""
        facts = [self._builder.info.full_name]
        if self._preprocessing:
            facts.append(repr(self._preprocessing))
        for split in self._builder.info.splits.values():
            for path in split.filepaths:
                status = os.stat(path)
                time = f' {status.st_mtime_ns}' if times else ''
                facts.append(f'{path.name} {status.st_size}{time}')
        return hashlib.sha256('\n'.join(facts).encode()).hexdigest()


def _decoded(records: TfdsRecords, chunk: list[dict]) -> Iterable[Callable[[], np.ndarray]]:
    """Of each record a function that returns its image, or raises InputError."""
    if records.preprocessing is None:
        # Small images: threads would hand Python's lock around longer than they decode.
        return (functools.partial(records.image, record) for record in chunk)
    with ThreadPoolExecutor(num_cores()) as threads:
        jobs = [threads.submit(records.image, record) for record in chunk]
    return [job.result for job in jobs]


def _tfds():
    """The library, which takes its time to import and is not needed for a set that is cached."""
    import tensorflow_datasets as tfds

    return tfds


def _prepared_builder(name: str, data_dir: str):
    if pathlib.Path(name).expanduser().is_dir():
        raise InputError(
            f"config.dataset.name = {name!r}: is a folder; for its pictures set 'folder:{name}'"
        )
    tfds = _tfds()
    try:
        builder = tfds.builder(name, data_dir=data_dir or None)
    except tfds.core.DatasetNotFoundError:
        raise InputError(
            f"config.dataset.name = {name!r}: no such data set; allowed are 'digits', "
            "'folder:PATH' and the names of the TFDS catalogue, like mnist, fashion_mnist, cifar10"
        ) from None
    except (ValueError, RuntimeError, ImportError, AssertionError, TypeError) as error:
        cause = ' '.join(str(error).split())
        raise InputError(f'config.dataset.name = {name!r}: TFDS cannot build it: {cause}') from None
    if not builder.is_prepared():
        _prepare(tfds, name, builder)
        builder = tfds.builder(name, data_dir=data_dir or None)
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise InputError(
            f'{builder.data_path}: prepared as {builder.info.file_format.value}; array_record is '
            'needed: prepare it again with `tfds build --file_format=array_record`, or name '
            'another folder with --config.dataset.data_dir=DIR'
        )
    return builder


def _prepare(tfds, name: str, builder) -> None:
    """Lets TFDS download and prepare the data, with its own progress bars."""
    looked = f'config.dataset.name = {name!r} is not prepared: looked in {builder.data_path}'
    ways = (
        'Ways on: name the folder where it is prepared as array_record '
        '(--config.dataset.data_dir=DIR, for evaluate --data_dir=DIR, or TFDS_DATA_DIR=DIR), or '
        'train --config=configs/digits_dilated.py, whose data is embedded'
    )
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        looked += (
            ' (its files have to be fetched by hand first: see its page in the TFDS catalogue)'
        )
    if importlib.util.find_spec('tensorflow') is None:
        raise InputError(
            f'{looked}; preparing it the first time takes TensorFlow, which is not installed '
            f'(pip install tensorflow). {ways}'
        )
    unreachable = _unreachable_host(builder)
    if unreachable:
        raise InputError(f'{looked}; it cannot be downloaded: {unreachable}. {ways}')
    print(f'{looked}; TFDS prepares it now, once.')
    try:
        builder.download_and_prepare(file_format=tfds.core.FileFormat.ARRAY_RECORD)
    # Whatever goes wrong in the code of one of TFDS's many hundred builders, the ways on are the
    # same; the cause is in the message.
    except Exception as error:
        cause = ' '.join(str(error).split())[:300]
        raise InputError(
            f'{looked}; preparing it failed: {type(error).__name__}: {cause}. {ways}'
        ) from error


def _unreachable_host(builder) -> str:
    """Why the first download cannot start, or ''. TFDS itself would try for minutes."""
    urls = [urllib.parse.urlsplit(url) for url in builder.url_infos or ()]
    urls = [url for url in urls if url.hostname and url.scheme in ('http', 'https')]
    if not urls or urllib.request.getproxies():
        return ''
    port = urls[0].port or {'http': 80, 'https': 443}[urls[0].scheme]
    try:
        socket.create_connection((urls[0].hostname, port), timeout=10).close()
    except OSError as error:
        return f'{urls[0].hostname}: {error}'
    return ''


def _supervised_keys(name: str, info) -> tuple[str, str]:
    import tensorflow_datasets as tfds

    keys = info.supervised_keys
    kinds = [type(info.features[key]) for key in keys or () if isinstance(key, str)]
    if kinds != [tfds.features.Image, tfds.features.ClassLabel]:
        raise InputError(
            f'config.dataset.name = {name!r}: not an image classification set; it has '
            f'{", ".join(info.features)}, supervised as {keys}'
        )
    return keys
