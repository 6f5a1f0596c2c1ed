"""Everything that is known about a run before the first example is decoded."""

import dataclasses
import math
from collections.abc import Mapping

import ml_collections

from mixer_dilated.config import changed, patch_branches
from mixer_dilated.data.examples import Source
from mixer_dilated.data.sources import open_source
from mixer_dilated.data.splits import check_disjoint, num_examples
from mixer_dilated.errors import InputError
from mixer_dilated.models.costs import Layer, layers
from mixer_dilated.models.mixer import mixer_from_config
from mixer_dilated.patches.geometry import Pair, num_tokens


@dataclasses.dataclass(frozen=True)
class Task:
    """A config beside the facts of its data set; both fit each other.

    Attributes:
      config: the resolved config.
      source: the data set.
      train_examples, test_examples: how many.
      num_tokens: S.
    """

    config: ml_collections.ConfigDict
    source: Source
    train_examples: int
    test_examples: int
    num_tokens: int

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training set."""
        return self.train_examples // self.config.batch

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch * self.config.num_epochs

    @property
    def image_size(self) -> Pair:
        """(height, width) in pixels that the network sees."""
        return self.source.image_shape[:2]

    @property
    def layers(self) -> list[Layer]:
        """The layers of its network (see `models.costs`)."""
        network = mixer_from_config(self.config.model, self.source.num_classes)
        return layers(network, self.source.image_shape)

    def streams(self, part: str) -> bool:
        """Whether the images of 'train' or 'test' are decoded when they are needed."""
        count = {'train': self.train_examples, 'test': self.test_examples}[part]
        return streams(self.config.input, self.source, count)

    def changed(self, changes: Mapping) -> 'Task':
        """The same data with other values of keys that do not bear on it, {'dtype': …}."""
        return dataclasses.replace(self, config=changed(self.config, changes))


def streams(settings: ml_collections.ConfigDict, source: Source, num_examples: int) -> bool:
    """Whether examples are decoded when they are needed, instead of being kept in memory.

    Args:
      settings: `config.input`.
      source: the data set.
      num_examples: of it.
    """
    if settings.mode != 'auto':
        return settings.mode == 'stream'
    return num_examples * math.prod(source.stored_shape) > settings.memory_gib * 2**30


def open_task(config: ml_collections.ConfigDict, source: Source | None = None) -> Task:
    """Opens the data set and checks that patches, batch, shift and data fit each other.

    Args:
      config: a resolved config.
      source: to take for the data set that `config.dataset` names; that one if None.

    Raises:
      InputError: they do not, or the data set is not to be had.
    """
    source = source or open_source(config.dataset)
    train_examples, test_examples = (
        num_examples(f'config.dataset.{key}', config.dataset[key], source.split_sizes)
        for key in ('train_split', 'test_split')
    )
    check_disjoint(
        'config.dataset.test_split',
        config.dataset.test_split,
        {'config.dataset.train_split': config.dataset.train_split},
        source.split_sizes,
    )
    if config.batch > train_examples:
        raise InputError(
            f'config.batch = {config.batch}: larger than the training set; allowed is at most '
            f'its {train_examples} examples'
        )
    if config.batch % config.accum_steps:
        fits = [each for each in range(1, config.batch + 1) if not config.batch % each]
        near = sorted(fits, key=lambda each: abs(each - config.accum_steps))[:4]
        raise InputError(
            f'config.accum_steps = {config.accum_steps}: does not divide config.batch = '
            f'{config.batch}; allowed are its divisors, like {", ".join(map(str, sorted(near)))}'
        )
    if config.augment.shift >= min(source.image_shape[:2]):
        raise InputError(
            f'config.augment.shift = {config.augment.shift}: moves images of '
            f'{source.image_shape[0]}×{source.image_shape[1]} out of sight; allowed is at most '
            f'{min(source.image_shape[:2]) - 1}'
        )
    dilation = config.model.patches.dilation
    if config.augment.random_phase and any(
        step > length for step, length in zip(dilation, source.image_shape[:2], strict=True)
    ):
        raise InputError(
            f'config.augment.random_phase: phases of a dilation of {dilation} move images of '
            f'{source.image_shape[0]}×{source.image_shape[1]} out of sight; allowed is a dilation '
            'of at most the image'
        )
    total_steps = train_examples // config.batch * config.num_epochs
    if config.optimizer.warmup_steps >= total_steps:
        raise InputError(
            f'config.optimizer.warmup_steps = {config.optimizer.warmup_steps}: the run has '
            f'{total_steps} steps; allowed is less than that'
        )
    tokens = num_tokens(patch_branches(config.model), config.model.join, source.image_shape[:2])
    return Task(config, source, train_examples, test_examples, tokens)
