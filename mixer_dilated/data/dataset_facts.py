"""The shapes of a data set that need not be on this machine: `abstract_dataset`."""

import dataclasses

from ml_collections import ConfigDict

from mixer_dilated.data.datasets import open_dataset
from mixer_dilated.data.stored_images import image_shapes
from mixer_dilated.data.tfds_builder import make_builder
from mixer_dilated.dataset_names import split_path
from mixer_dilated.errors import UserError
from mixer_dilated.patches.geometry import Shape, integer_pair

# Of https://www.tensorflow.org/datasets/catalog/: (height, width), None if images are of several
# sizes; channels; classes; examples of each split.
FACTS = {
    'mnist': ((28, 28), 1, 10, {'train': 60_000, 'test': 10_000}),
    'fashion_mnist': ((28, 28), 1, 10, {'train': 60_000, 'test': 10_000}),
    'cifar10': ((32, 32), 3, 10, {'train': 50_000, 'test': 10_000}),
    'cifar100': ((32, 32), 3, 100, {'train': 50_000, 'test': 10_000}),
    'imagenet2012': (None, 3, 1000, {'train': 1_281_167, 'validation': 50_000, 'test': 100_000}),
}


@dataclasses.dataclass(frozen=True)
class AbstractDataset:
    """The properties of a `Dataset`, of which nothing can be read."""

    name: str
    image_shape: Shape
    stored_shape: Shape
    num_classes: int
    split_sizes: dict[str, int]


def abstract_dataset(dataset: ConfigDict) -> AbstractDataset:
    """Of `config.dataset`, from `FACTS` or as it lies here; nothing is downloaded. Raises UserError
    if it is neither there nor known, or its images need a size.
    """
    if dataset.name not in FACTS:
        if dataset.name != 'digits' and not split_path(dataset.name)[0]:
            _check_prepared(dataset)
        names, there = AbstractDataset.__annotations__, open_dataset(dataset)
        return AbstractDataset(*(getattr(there, name) for name in names))
    size = integer_pair('dataset.image_size', dataset.image_size, 1) if dataset.image_size else None
    image_size, channels, num_classes, split_sizes = FACTS[dataset.name]
    own_shape = (*(image_size or (None, None)), channels)
    shapes = image_shapes(dataset.name, own_shape, size, dataset.decode_size)
    return AbstractDataset(dataset.name, *shapes, num_classes, split_sizes)


def _check_prepared(dataset: ConfigDict) -> None:
    """Raises UserError if a TFDS data set is there to be had, but not here."""
    if not make_builder(dataset.name, dataset.data_dir).is_prepared():
        raise UserError(
            f'config.dataset.name = {dataset.name!r}: not prepared here, and a plan downloads '
            f'nothing; known without their data are {", ".join(FACTS)}; prepare it, or plan with '
            'one of those and its dataset.image_size'
        )
