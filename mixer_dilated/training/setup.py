"""A config and its data set, checked before an example is decoded: `create_setup`."""

import contextlib
import dataclasses
import math
import pathlib
import reprlib
from collections.abc import Mapping, Sequence

import ml_collections

from mixer_dilated.allowed_values import NON_NEGATIVE, Allowed, integer, one_of
from mixer_dilated.config import changed, fit_patches, patch_branches
from mixer_dilated.data.datasets import open_dataset, preprocessing_of
from mixer_dilated.data.examples import Dataset, check_disjoint, count_examples, split_slices
from mixer_dilated.data.input_pipeline import streams
from mixer_dilated.data.preprocessing import PREPROCESS_MODES, RESIZE_MODES
from mixer_dilated.errors import UserError
from mixer_dilated.files import read_json, write_json
from mixer_dilated.patches.geometry import Pair, integer_pair, num_tokens
from mixer_dilated.paths import exists

PREPROCESSING = 'preprocessing.json'
REMOVE_HINT = 'remove it, and the same command takes the facts from the data set'


@dataclasses.dataclass(frozen=True)
class Setup:
    """A resolved config and its data set, checked against each other."""

    config: ml_collections.ConfigDict
    dataset: Dataset
    train_examples: int
    test_examples: int
    num_tokens: int
    val_examples: int = 0  # without `config.dataset.val_split`

    @property
    def num_examples(self) -> dict[str, int]:
        """Of 'train', 'test' and, where there is one, 'val'."""
        examples = {'train': self.train_examples, 'test': self.test_examples}
        return examples | ({'val': self.val_examples} if self.val_examples else {})

    @property
    def epoch_split(self) -> str:
        """'val', on which epochs are evaluated, or 'test' where there is no validation split."""
        return 'val' if self.val_examples else 'test'

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training set."""
        return self.train_examples // self.config.batch

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


def create_setup(config: ml_collections.ConfigDict, dataset: Dataset | None = None) -> Setup:
    """Opens the data set, if none is given, and checks that patches, batch, shift and data fit.

    Raises UserError: they do not, or the data set is not to be had.
    """
    dataset = dataset or open_dataset(config.dataset)
    config = fit_patches(config, dataset.image_shape[:2])
    if dataset.num_classes < 2:
        raise UserError(
            f'config.dataset.name = {config.dataset.name!r}: has one class, '
            f'{dataset.class_names[0]!r}; a network needs two or more to tell apart'
        )
    image_size = config.dataset.image_size
    if image_size and integer_pair('image_size', image_size) != tuple(dataset.image_shape[:2]):
        raise UserError(
            f'config.dataset.image_size = {image_size}: the images of the data set that is given '
            f'are {dataset.image_shape[0]}×{dataset.image_shape[1]}; allowed is 0'
        )
    counts, others = {'val': 0}, {}
    for part in ('train', 'val', 'test'):
        key, split = f'config.dataset.{part}_split', config.dataset[f'{part}_split']
        if split:
            counts[part] = count_examples(key, split, dataset.split_sizes)
            check_disjoint(key, split, others, dataset.split_sizes)
            others[key] = split
    train_examples, size = counts['train'], dataset.image_shape[:2]
    out_of_sight = f'images of {size[0]}×{size[1]} out of sight'
    if config.batch > train_examples:
        raise UserError(
            f'config.batch = {config.batch}: larger than the training set; allowed is at most '
            f'its {train_examples} examples'
        )
    if config.batch % config.accum_steps:
        divisors = [n for n in range(1, config.batch + 1) if not config.batch % n]
        near = sorted(divisors, key=lambda n: abs(n - config.accum_steps))[:4]
        raise UserError(
            f'config.accum_steps = {config.accum_steps}: does not divide config.batch = '
            f'{config.batch}; allowed are its divisors, like {", ".join(map(str, sorted(near)))}'
        )
    if config.augment.translate >= min(size):
        raise UserError(
            f'config.augment.translate = {config.augment.translate}: moves {out_of_sight}; '
            f'allowed is at most {min(size) - 1}'
        )
    dilation = config.model.patches.dilation
    if config.augment.random_phase and (dilation[0] > size[0] or dilation[1] > size[1]):
        raise UserError(
            f'config.augment.random_phase: phases of a dilation of {dilation} move {out_of_sight}; '
            'allowed is a dilation of at most the image'
        )
    tokens = grid_tokens(config, dataset.image_shape)
    setup = Setup(config, dataset, train_examples, counts['test'], tokens, counts['val'])
    if config.optimizer.warmup_steps >= setup.total_steps:
        raise UserError(
            f'config.optimizer.warmup_steps = {config.optimizer.warmup_steps}: the run has '
            f'{setup.total_steps} steps; allowed is less than that'
        )
    return setup


def check_keep_best(setup: Setup) -> None:
    """Raises UserError if `checkpoints.keep_best` lacks validation examples to go by."""
    if setup.config.checkpoints.keep_best and not setup.val_examples:
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


def grid_tokens(config: ml_collections.ConfigDict, image_shape: Sequence[int]) -> int:
    """S for images (height, width, channels); raises UserError if no patch fits into them."""
    size = image_shape[0], image_shape[1]
    model = fit_patches(config, size).model
    return num_tokens(patch_branches(model), model.branch_merge, size)


def write_preprocessing(workdir: pathlib.Path, setup: Setup) -> None:
    """Writes `preprocessing.json`, unless it is there: a person may have edited it."""
    if not exists(workdir / PREPROCESSING):
        write_json(workdir / PREPROCESSING, preprocessing_content(setup))


def preprocessing_content(setup: Setup) -> dict:
    """What `preprocessing.json` records of the data set."""
    preprocessing = preprocessing_of(setup.config.dataset, setup.dataset.image_shape)
    return {
        'class_names': list(setup.dataset.class_names),
        'image_shape': list(setup.dataset.image_shape),
        'preprocess': preprocessing.how,
        'resize': preprocessing.resize,
        'white': preprocessing.white,
        **{f'{part}_examples': count for part, count in setup.num_examples.items()},
    }


def read_preprocessing(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> dict:
    """The content of `preprocessing.json`; by the data set in a run of an earlier version.

    Raises:
      UserError: a value is missing, not allowed, or does not fit the patches; or the file is not
        there, and the data set cannot be opened.
    """
    path = workdir / PREPROCESSING
    if not exists(path):
        try:
            return preprocessing_content(create_setup(config))
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


def image_size_of_run(
    workdir: pathlib.Path, config: ml_collections.ConfigDict, dataset: Dataset | None
) -> Pair:
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
    'preprocess': one_of(*PREPROCESS_MODES),
    'resize': one_of(*RESIZE_MODES),
    'train_examples': integer(1),
    'test_examples': integer(1),
    'val_examples': integer(1),
    'white': NON_NEGATIVE,
}
ADDED_LATER = {'val_examples', 'white'}
