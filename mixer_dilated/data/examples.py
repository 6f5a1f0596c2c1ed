"""Examples, the protocols of a data set, and TFDS split syntax."""

import hashlib
import pathlib
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Int32, UInt8

from mixer_dilated.data.split_names import split_of
from mixer_dilated.errors import UserError
from mixer_dilated.patches.geometry import Shape
from mixer_dilated.paths import expand_user, user_cache

OWN = 'own:'  # begins the name of a data set of the caller's arrays
MAX_LABELS = 2**20
Sizes = dict[str, int]  # number of examples of each named split


class Examples(NamedTuple):
    """Images, uint8 (examples, height, width, channels), and their labels, int32 (examples,) from 0
    to num_classes - 1; in memory or memory-mapped.
    """

    images: UInt8[np.ndarray, 'examples height width channels']
    labels: Int32[np.ndarray, ' examples']


def cache_name(kind: str, path: pathlib.Path) -> str:
    """A data set's `name` by its path, of letters that any file system takes."""
    return f'{kind}-' + ''.join(c for c in path.resolve().name if c.isalnum())[:40]


def cache_folder(cache_dir: str) -> pathlib.Path:
    """The folder of `dataset.cache_dir`, which is the user's for ''."""
    return expand_user(cache_dir or user_cache())


def cache_key(dataset: 'Dataset', *facts: object) -> str:
    """The name in a cache of what depends on a data set and on these facts."""
    text = '\n'.join(map(str, [dataset.fingerprint, *facts]))
    return f'{dataset.name.replace("/", "-")}-{hashlib.sha256(text.encode()).hexdigest()[:16]}'


def checksums(examples: Examples) -> dict[str, int]:
    """CRC-32 of the images and of the labels."""
    return {name: zlib.crc32(array) for name, array in examples._asdict().items()}


class RandomAccessDataSource(Protocol):
    """The examples of a split, decoded on access; it can be pickled."""

    image_shape: Shape  # the `stored_shape` of the data set

    def __len__(self) -> int:
        """Number of examples."""

    def read(self, index: Sequence[int]) -> Examples:
        """Decodes these examples as `Dataset.read` does; raises UserError if one is damaged."""

    def labels(self, index: Sequence[int]) -> Int32[np.ndarray, ' examples']:
        """The labels of these indices; no image is decoded."""


class InMemoryDataSource(NamedTuple):
    """Decoded examples as a `RandomAccessDataSource`."""

    examples: Examples

    @property
    def image_shape(self) -> Shape:
        return self.examples.images.shape[1:]

    @property
    def all_labels(self) -> Int32[np.ndarray, ' examples']:
        return self.examples.labels

    def __len__(self) -> int:
        return len(self.all_labels)

    def read(self, index: Sequence[int]) -> Examples:
        return Examples(*(array[np.asarray(index)] for array in self.examples))

    def labels(self, index: Sequence[int]) -> Int32[np.ndarray, ' examples']:
        return self.all_labels[np.asarray(index)]


class Dataset(Protocol):
    """A data set whose properties are known before an image is decoded.

    Where `stored_shape` differs from `image_shape`, images are upsampled on the device.
    """

    name: str
    image_shape: Shape  # (height, width, channels) of the network's input
    stored_shape: Shape  # of the images that `read` returns
    num_classes: int
    class_names: tuple[str, ...]  # of each label
    split_sizes: Sizes
    fingerprint: str  # changes whenever the examples may have changed
    identity: str  # like `fingerprint`, but a copy of the data has the same
    old_identities: Sequence[str]  # that earlier versions recorded of the same examples

    def read(self, split: str) -> Examples:
        """Decodes the examples of a split (TFDS split syntax), in the stored order; raises
        UserError if one is damaged.
        """

    def data_source(self, split: str) -> RandomAccessDataSource:
        """The same examples, decoded on access."""


class InMemoryDataset:
    """A `Dataset` whose examples are in memory, by the names of their splits."""

    old_identities: Sequence[str] = ()

    def __init__(
        self, name: str, splits: dict[str, Examples], classes: Iterable, identity: str = ''
    ):
        self.name, self.splits, self.class_names = name, splits, tuple(map(str, classes))
        self.num_classes, self.fingerprint = len(self.class_names), identity
        self.identity = identity
        self.split_sizes = {split: len(examples.labels) for split, examples in splits.items()}
        self.image_shape = self.stored_shape = next(iter(splits.values())).images.shape[1:]

    def read(self, split: str) -> Examples:
        slices = split_slices('split', split, self.split_sizes)
        parts = [[array[a:b] for array in self.splits[name]] for name, a, b in slices]
        return Examples(*map(np.concatenate, zip(*parts, strict=True)))

    def data_source(self, split: str) -> InMemoryDataSource:
        return InMemoryDataSource(self.read(split))


def dataset_of_arrays(
    splits: Mapping[str, tuple[np.ndarray, np.ndarray]],
    class_names: Sequence[str] | None = None,
    name: str = 'arrays',
) -> InMemoryDataset:
    """A data set of one's own arrays, for `train_and_evaluate`.

    Args:
      splits: of 'train', 'test' and any others the images, uint8 (examples, height, width,
        channels) or (examples, height, width), and the labels, integers (examples,) from 0 on.
      class_names: of the labels; '0', '1', … up to the largest if None.
      name: of the data set, in results.

    Raises:
      UserError: arrays of another form, or a label without a class.
    """
    if not isinstance(splits, Mapping):
        raise UserError("splits: allowed is a dict, like {'train': (images, labels), …}")
    examples = {split: _check_arrays(f'splits[{split!r}]', pair) for split, pair in splits.items()}
    shapes = {of_split.images.shape[1:] for of_split in examples.values()}
    if len(shapes) != 1:
        raise UserError(f'splits: images of the shapes {sorted(shapes)}; allowed is one')
    most = max(int(of_split.labels.max()) for of_split in examples.values())
    class_names = range(most + 1) if class_names is None else class_names
    dataset = InMemoryDataset(f'{OWN}{name}', examples, class_names, hash_examples(examples))
    if most >= dataset.num_classes:
        raise UserError(
            f'class_names: {dataset.num_classes} names, and a label is {most}; allowed are at '
            'least as many names as labels'
        )
    return dataset


def _check_arrays(key: str, pair: tuple[np.ndarray, np.ndarray]) -> Examples:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise UserError(f'{key}: allowed is a pair (images, labels)')
    images, labels = map(np.asarray, pair)
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3, 4):
        raise UserError(
            f'{key}: images are {images.dtype} {images.shape}; allowed is uint8 (examples, height, '
            'width, 1, 3 or 4 channels), channels last'
        )
    is_integer = labels.dtype.kind in 'iu' and labels.shape == images.shape[:1] and labels.size > 0
    if not is_integer or labels.min() < 0 or labels.max() >= MAX_LABELS:
        values = f' from {labels.min()} to {labels.max()}' if is_integer else ''
        raise UserError(
            f'{key}: labels are {labels.dtype} {labels.shape}{values}; allowed are integers from 0 '
            f'to {MAX_LABELS - 1}, one of each of the {len(images)} images'
        )
    return Examples(images, labels.astype(np.int32))


def hash_examples(splits: dict[str, Examples], text: str = '') -> str:
    """SHA-256 of a text and of the examples of all splits."""
    digest = hashlib.sha256(text.encode())
    for split, examples in splits.items():
        digest.update(f'{split} {examples.images.shape}'.encode())
        for array in examples:
            digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def split_slices(key: str, split: str, split_sizes: Sizes) -> list[tuple[str, int, int]]:
    """Parses a split, as 'train[:90%]+test[-100:]' (TFDS split syntax), into (name, start, stop).

    Raises UserError, with the `key` or flag that holds the split, for wrong syntax, a split that
    does not exist, or an empty slice.
    """
    import tensorflow_datasets as tfds

    infos = {
        name: tfds.core.SplitInfo(name=name, shard_lengths=[size], num_bytes=0)
        for name, size in split_sizes.items()
    }
    available = _list_sizes(split_sizes)
    try:
        instructions = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
    except (ValueError, AssertionError, KeyError) as error:
        cause = ' '.join(str(error).split()).split(' Should be one of')[0].rstrip('.')
        other = split_of(re.split(r'\W', split)[0])
        if other in split_sizes and other not in split:
            cause += f', which is called {other!r} here'
        example = split_of(key.rsplit('.')[-1]) or 'test'
        if example not in split_sizes:
            example = f'{next(iter(split_sizes))}[:80%]'
        raise UserError(
            f'{key} = {split!r}: {cause}. Available: {available}; for example {example!r}'
        ) from None
    slices = [
        (part.splitname, *slice(part.from_, part.to).indices(split_sizes[part.splitname])[:2])
        for part in instructions
    ]
    if any(stop <= start for _, start, stop in slices):
        raise UserError(f'{key} = {split!r}: selects no examples; available: {available}')
    return slices


def count_examples(key: str, split: str, split_sizes: Sizes) -> int:
    """Counts the examples of a split. Raises as `split_slices` does."""
    return sum(stop - start for _, start, stop in split_slices(key, split, split_sizes))


def check_disjoint(key: str, split: str, others: dict[str, str], split_sizes: Sizes) -> None:
    """Raises UserError if a split shares examples with others, which are given by their keys."""
    for other_key, other in others.items():
        shared = sum(
            max(0, min(stop, other_stop) - max(start, other_start))
            for name, start, stop in split_slices(key, split, split_sizes)
            for other_name, other_start, other_stop in split_slices(other_key, other, split_sizes)
            if name == other_name
        )
        if shared:
            raise UserError(
                f'{key} = {split!r}: {shared} of its examples are in {other_key} = {other!r} too; '
                f'select others; available: {_list_sizes(split_sizes)}'
            )


def _list_sizes(split_sizes: Sizes) -> str:
    return ', '.join(f'{name} ({size} examples)' for name, size in split_sizes.items())
