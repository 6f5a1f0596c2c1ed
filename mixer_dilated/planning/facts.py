"""What a plan has to know of a data set, which need not be on this machine: `planned_source`."""

import dataclasses

import ml_collections

from mixer_dilated.data.datasets import FOLDER_PREFIX, open_dataset
from mixer_dilated.data.examples import Dataset, Examples
from mixer_dilated.data.preprocessing import is_upsample
from mixer_dilated.errors import UserError
from mixer_dilated.patches.geometry import integer_pair


@dataclasses.dataclass(frozen=True)
class Facts:
    """Of a TFDS data set, from its page in https://www.tensorflow.org/datasets/catalog/.

    Attributes:
      image_size: (height, width); None if they are of several sizes.
      channels: of an image.
      num_classes: number of labels.
      split_sizes: examples in each named split.
    """

    image_size: tuple[int, int] | None
    channels: int
    num_classes: int
    split_sizes: dict[str, int]


FACTS = {
    'mnist': Facts((28, 28), 1, 10, {'train': 60_000, 'test': 10_000}),
    'fashion_mnist': Facts((28, 28), 1, 10, {'train': 60_000, 'test': 10_000}),
    'cifar10': Facts((32, 32), 3, 10, {'train': 50_000, 'test': 10_000}),
    'cifar100': Facts((32, 32), 3, 100, {'train': 50_000, 'test': 10_000}),
    'imagenet2012': Facts(
        None, 3, 1000, {'train': 1_281_167, 'validation': 50_000, 'test': 100_000}
    ),
}


@dataclasses.dataclass(frozen=True)
class PlannedSource:
    """A data set as a `Dataset` of which nothing can be read."""

    name: str
    image_shape: tuple[int, int, int]
    stored_shape: tuple[int, int, int]
    num_classes: int
    split_sizes: dict[str, int]
    fingerprint: str = ''

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.num_classes)))

    def read(self, split: str) -> Examples:
        raise UserError(f'{self.name}: only its shapes are known here; open it to read it')


def planned_source(dataset: ml_collections.ConfigDict) -> Dataset:
    """The data set of `config.dataset`: from `FACTS`, or as it lies here; nothing is downloaded.

    Raises:
      UserError: it is neither there nor known, or its images need a size.
    """
    if dataset.name in FACTS:
        return _known(dataset)
    if dataset.name != 'digits' and not dataset.name.startswith(FOLDER_PREFIX):
        _check_prepared(dataset)
    return open_dataset(dataset)


def _known(dataset: ml_collections.ConfigDict) -> PlannedSource:
    facts = FACTS[dataset.name]
    asked = (
        integer_pair('dataset.image_size', dataset.image_size, 1) if dataset.image_size else None
    )
    size = asked or facts.image_size
    if size is None:
        raise UserError(
            f'config.dataset.image_size = 0: the images of {dataset.name!r} are of several sizes, '
            'and are brought to one; set it, for example --config.dataset.image_size=224'
        )
    grows = facts.image_size is not None and is_upsample(facts.image_size, size)
    return PlannedSource(
        name=dataset.name,
        image_shape=(*size, facts.channels),
        stored_shape=(*(facts.image_size if grows else size), facts.channels),
        num_classes=facts.num_classes,
        split_sizes=facts.split_sizes,
    )


def _check_prepared(dataset: ml_collections.ConfigDict) -> None:
    """Raises UserError if a TFDS data set is there to be had, but not here."""
    import tensorflow_datasets as tfds

    try:
        prepared = tfds.builder(dataset.name, data_dir=dataset.data_dir or None).is_prepared()
    # Whatever goes wrong in the code of one of TFDS's many builders is told when it is opened.
    except Exception:
        return
    if not prepared:
        raise UserError(
            f'config.dataset.name = {dataset.name!r}: not prepared here, and a plan downloads '
            f'nothing; known without their data are {", ".join(FACTS)}; prepare it, or plan with '
            'one of those and its dataset.image_size'
        )
