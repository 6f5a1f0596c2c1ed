"""A config and its data set, checked before an example is decoded: `create_setup`."""

import contextlib
import dataclasses
import math
import operator
import pathlib
import reprlib
from collections.abc import Mapping, Sequence
from typing import NoReturn

from ml_collections import ConfigDict

from mixer_dilated.allowed_values import NON_NEGATIVE, Allowed, integer, one_of
from mixer_dilated.config import changed, fit_patches, patch_branches
from mixer_dilated.config_keys import KEYS
from mixer_dilated.data.datasets import open_dataset, preprocessing_of
from mixer_dilated.data.examples import Dataset, check_disjoint, count_examples, split_slices
from mixer_dilated.data.input_pipeline import streams
from mixer_dilated.errors import UserError
from mixer_dilated.files import read_json, write_json
from mixer_dilated.patches.geometry import Pair, integer_pair, num_tokens
from mixer_dilated.paths import exists

PREPROCESSING = 'preprocessing.json'
REMOVE_HINT = 'remove it, and the same command takes the facts from the data set'


@dataclasses.dataclass(frozen=True)
class Setup:
    """A resolved config and its data set, checked against each other."""

    config: ConfigDict
    dataset: Dataset
    num_examples: Mapping[str, int]  # of 'train', 'test' and, with a validation split, 'val'
    num_tokens: int

    @property
    def epoch_split(self) -> str:
        """'val', on which epochs are evaluated, or 'test' where there is no validation split."""
        return 'val' if 'val' in self.num_examples else 'test'

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training set."""
        return self.num_examples['train'] // self.config.batch

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.config.total_steps or self.steps_per_epoch * self.config.num_epochs

    @property
    def num_epochs(self) -> int:
        """Epochs, the last of which `config.total_steps` may cut short."""
        return math.ceil(self.total_steps / self.steps_per_epoch)

    def last_step(self, epoch: int) -> int:
        """Steps of the run that are done after the epoch of this number, from 1 on."""
        return min(epoch * self.steps_per_epoch, self.total_steps)

    def steps_of_epoch(self, epoch: int) -> int:
        """Steps of the epoch of this number, from 1 on."""
        return self.last_step(epoch) - (epoch - 1) * self.steps_per_epoch

    @property
    def image_size(self) -> Pair:
        """(height, width) in pixels that the network sees."""
        return self.dataset.image_shape[:2]

    def streams(self, part: str) -> bool:
        """Whether the images of 'train', 'val' or 'test' are decoded when they are needed."""
        return streams(self.config.input, self.dataset, self.num_examples[part])

    def changed(self, changes: Mapping) -> 'Setup':
        """The same data with other values of keys that do not bear on it, {'dtype': …}."""
        return dataclasses.replace(self, config=changed(self.config, changes))


def create_setup(config: ConfigDict, dataset: Dataset | None = None) -> Setup:
    """Opens the data set, if none is given, and checks that patches, batch, shift and data fit.

    Raises UserError: they do not, or the data set is not to be had.
    """
    dataset = dataset or open_dataset(config.dataset)
    height, width = size = tuple(dataset.image_shape[:2])
    config = fit_patches(config, size)

    def refuse(key: str, problem: str) -> NoReturn:
        raise UserError(f'config.{key} = {operator.attrgetter(key)(config)!r}: {problem}')

    if dataset.num_classes < 2:
        name = dataset.class_names[0]
        refuse(
            'dataset.name', f'has one class, {name!r}; a network needs two or more to tell apart'
        )
    image_size = config.dataset.image_size
    if image_size and integer_pair('image_size', image_size) != size:
        given = f'the images of the data set that is given are {height}×{width}'
        refuse('dataset.image_size', f'{given}; allowed is 0')
    counts, others = {'train': 0, 'test': 0}, {}
    for part in ('train', 'val', 'test'):
        key, split = f'config.dataset.{part}_split', config.dataset[f'{part}_split']
        if split:
            counts[part] = count_examples(key, split, dataset.split_sizes)
            check_disjoint(key, split, others, dataset.split_sizes)
            others[key] = split
    if config.batch > counts['train']:
        allowed = f'allowed is at most its {counts["train"]} examples'
        refuse('batch', f'larger than the training set; {allowed}')
    if config.batch % config.accum_steps:
        divisors = [n for n in range(1, config.batch + 1) if not config.batch % n]
        near = sorted(divisors, key=lambda n: abs(n - config.accum_steps))[:4]
        allowed = f'allowed are its divisors, like {", ".join(map(str, sorted(near)))}'
        refuse('accum_steps', f'does not divide config.batch = {config.batch}; {allowed}')
    out_of_sight = f'images of {height}×{width} out of sight'
    if config.augment.translate >= min(size):
        refuse('augment.translate', f'moves {out_of_sight}; allowed is at most {min(size) - 1}')
    dilation = config.model.patches.dilation
    if config.augment.random_phase and (dilation[0] > height or dilation[1] > width):
        moves = f'phases of a dilation of {dilation} move {out_of_sight}'
        refuse('augment.random_phase', f'{moves}; allowed is a dilation of at most the image')
    setup = Setup(config, dataset, counts, grid_tokens(config, size))
    if config.optimizer.warmup_steps >= setup.total_steps:
        problem = f'the run has {setup.total_steps} steps; allowed is less than that'
        refuse('optimizer.warmup_steps', problem)
    return setup


def check_keep_best(setup: Setup) -> None:
    """Raises UserError if `checkpoints.keep_best` lacks validation examples to go by."""
    if setup.config.checkpoints.keep_best and 'val' not in setup.num_examples:
        raise UserError(
            'config.checkpoints.keep_best = True: the best checkpoint is chosen on validation '
            f'examples; set some apart, for example {example_val_split(setup)}'
        )


def example_val_split(setup: Setup) -> str:
    """Flags that set validation examples apart from those that the run trains and tests on."""
    dataset, sizes = setup.config.dataset, setup.dataset.split_sizes
    (name, start, stop), *_ = split_slices('split', dataset.train_split, sizes)
    rest = range(stop, min(stop + max((stop - start) // 4, 1), sizes[name]))
    for split in ('validation', f'{name}[{rest.start}:{rest.stop}]'):
        with contextlib.suppress(UserError):
            used = {'train': dataset.train_split, 'test': dataset.test_split}
            check_disjoint('split', split, used, sizes)
            return f'--config.dataset.val_split="{split}"'
    middle = stop - max((stop - start) // 10, 1)
    splits = {'train': f'{name}[{start}:{middle}]', 'val': f'{name}[{middle}:{stop}]'}
    return ' '.join(f'--config.dataset.{part}_split="{splits[part]}"' for part in splits)


def grid_tokens(config: ConfigDict, image_shape: Sequence[int]) -> int:
    """S for images (height, width, channels); raises UserError if no patch fits into them."""
    size = tuple(image_shape[:2])
    model = fit_patches(config, size).model
    return num_tokens(patch_branches(model), model.branch_merge, size)


def write_preprocessing(workdir: pathlib.Path, setup: Setup) -> None:
    """Writes `preprocessing.json`, unless it is there: a person may have edited it."""
    if not exists(workdir / PREPROCESSING):
        write_json(workdir / PREPROCESSING, _preprocessing_content(setup))


def _preprocessing_content(setup: Setup) -> dict:
    preprocessing = preprocessing_of(setup.config.dataset, setup.dataset.image_shape)
    return {
        'class_names': list(setup.dataset.class_names),
        'image_shape': list(setup.dataset.image_shape),
        'preprocess': preprocessing.how,
        'resize': preprocessing.resize,
        'white': preprocessing.white,
        **{f'{part}_examples': count for part, count in setup.num_examples.items()},
    }


def read_preprocessing(workdir: pathlib.Path, config: ConfigDict) -> dict:
    """The content of `preprocessing.json`; by the data set in a run of an earlier version.

    Raises UserError if a value is missing, not allowed, or does not fit the patches; or if neither
    the file nor the data set is there.
    """
    path = workdir / PREPROCESSING
    if not exists(path):
        try:
            return _preprocessing_content(create_setup(config))
        except UserError as error:
            raise UserError(
                f'{path}: not there, as in runs of earlier versions, and the data set, which has '
                f'what it would say, cannot be opened: {error}'
            ) from None
    content = read_json(path, REMOVE_HINT)
    for name, allowed in ALLOWED.items():
        value = content.get(name)
        if not (allowed.test(value) or name in ADDED_LATER - content.keys()):
            raise UserError(
                f'{path}: {name} = {reprlib.repr(value)}: allowed is {allowed.text}; {REMOVE_HINT}'
            )
    try:
        grid_tokens(config, content['image_shape'])
    except UserError as error:
        raise UserError(f'{path}: {error}; {REMOVE_HINT}') from None
    return content


def image_size_of_run(workdir: pathlib.Path, config: ConfigDict, dataset: Dataset | None) -> Pair:
    """(height, width) of the images of a run that has begun, or else of the data set."""
    if exists(workdir / PREPROCESSING):
        return tuple(read_preprocessing(workdir, config)['image_shape'][:2])
    return create_setup(config, dataset).image_size


def _is_image_shape(value) -> bool:
    is_shape = isinstance(value, list) and len(value) == 3 and value[2] in (1, 3, 4)
    return is_shape and all(map(integer(1, 2**15 - 1).test, value))


def is_list_of_names(value) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


# The content of `preprocessing.json`, which a person may edit.
ALLOWED = {
    'class_names': Allowed('a list of names', is_list_of_names),
    'image_shape': Allowed('height, width and 1, 3 or 4 channels', _is_image_shape),
    'preprocess': one_of('resize', 'mnist', 'fill'),
    'resize': KEYS['dataset.resize'].allowed,
    'train_examples': integer(1),
    'test_examples': integer(1),
    'val_examples': integer(1),
    'white': NON_NEGATIVE,
}
ADDED_LATER = {'val_examples', 'white'}
