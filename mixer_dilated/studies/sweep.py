"""What a study compares: trials that each change a few settings of one base config."""

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from mixer_dilated.config import changed, check_key, is_auto, validate
from mixer_dilated.config_keys import ALIASES, preset_values
from mixer_dilated.errors import UserError
from mixer_dilated.reports.schema import KINDS

if TYPE_CHECKING:  # a wrong override is refused before JAX is imported
    from mixer_dilated.training.setup import Setup

MAX_NAME_CHARS = 200  # characters of a folder's name; file systems allow 255
DATASET = 'dataset'  # the setting that says which data set a trial is of
NAMED = ('method', DATASET)  # settings that are names, which stand for themselves
# Columns that the table of results has beside those of the settings.
OF_SEED = ('seed', 'train_accuracy', 'test_accuracy', 'train_loss', 'test_loss')
OF_VALIDATION = ('val_accuracy', 'val_loss')  # where there is a validation split
OF_TRIAL = ('num_tokens', 'num_params', 'flops_per_image', 'pixels_seen', 'pixels')


@dataclasses.dataclass(frozen=True)
class Trial:
    """One combination of a study.

    Attributes:
      settings: what tables and plots call it: {'size': 4, 'dilation': 2} or {'method': 'dilated'}.
      changes: the config keys that it changes: {'model.patches.size': 4, …}.
    """

    settings: Mapping[str, object]
    changes: Mapping[str, object]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What `get_sweep()` of a sweep file returns.

    Attributes:
      title: a few words.
      question: what the study is to answer.
      base: config that all trials share; `base.num_seeds` seeds a trial.
      trials: what differs; `grid` and `product` make them.
      reference: settings of the trial that others are compared with; the settings it does not name
        are those of the trial itself, so that {'dilation': 1} compares each dilation with none.
      kind: 'sweep'; 'table1' has baseline, proposed method and control for its first three trials
        and adds the paper's figures, 'little_data' curves over 'train_images',
        'robustness' evaluates corrupted test images too, 'resolution' measures the cost of a step
        at image sides `image_sizes` and trains nothing.
      image_sizes: pixels a side, for 'resolution'.
      train_seconds: that one seed of each trial trains for; `num_epochs` is then the whole epochs
        that fit, at least one, by epochs of all trials that are timed in turns before.
    """

    title: str
    question: str
    base: ConfigDict
    trials: Sequence[Trial]
    reference: Mapping[str, object] | None = None
    kind: str = 'sweep'
    image_sizes: tuple[int, ...] = ()
    train_seconds: float | None = None


def grid(axes: Mapping[str, Iterable]) -> list[Trial]:
    """Every combination of the values of config keys, the last axis changing fastest.

    A setting is called like the last part of its key: `model.patches.size` is 'size'.

    Raises:
      UserError: an axis that is one value, not several.
    """
    for key, values in axes.items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise UserError(f'grid: {key} = {values!r}: allowed are several values, like (1, 2)')
    groups = (
        [Trial({key.rsplit('.', 1)[-1]: value}, {key: value}) for value in values]
        for key, values in axes.items()
    )
    return product(*groups)


def product(*groups: Iterable[Trial]) -> list[Trial]:
    """Every combination of one trial of each group; a key that both change is the later one's."""
    joined = []
    for trials in itertools.product(*map(tuple, groups)):
        settings, changes = {}, {}
        for trial in trials:
            settings |= trial.settings
            changes |= trial.changes
        joined.append(Trial(settings, changes))
    return joined


@dataclasses.dataclass(frozen=True)
class PreparedTrial(Trial):
    """A trial whose config is resolved and fits the data."""

    name: str  # of its folder; made of its settings
    label: str  # what plots and sentences call it
    setup: 'Setup | None'  # its config and data; None if the trial is invalid
    invalid: str = ''  # the reason why it cannot be trained


def prepare(sweep: Sweep) -> list[PreparedTrial]:
    """Resolves every trial of a sweep; an invalid trial keeps the reason.

    Raises:
      UserError: what `check_sweep` raises, no valid trial, or a reference that is none of them.
    """
    check_sweep(sweep)
    trials = [_prepare(sweep.base, trial) for trial in sweep.trials]
    if sweep.kind == 'resolution':
        for trial in (trial for trial in trials if not trial.invalid):
            if is_auto(changed(sweep.base, trial.changes).model):
                raise UserError(
                    "kind = 'resolution': patches 'auto' differ at every size; set "
                    'config.model.patches in numbers'
                )
    if all(trial.invalid for trial in trials):
        raise UserError(f'no trial of the sweep can be trained: {trials[0].invalid}')
    if sweep.reference and not pair_with_reference(trials, sweep.reference):
        raise UserError(
            f'reference = {dict(sweep.reference)}: no trial has these settings, or none is left to '
            'be compared with it; name settings of a trial'
        )
    return trials


def check_sweep(sweep: Sweep) -> None:
    """Raises UserError, with what is allowed, if a field of a sweep has a wrong value."""
    trials, reference = sweep.trials, sweep.reference
    sizes = 'are different integers, in pixels, like (28, 56)'
    needs_sizes = sweep.kind == 'resolution'
    allowed = {
        'title': (isinstance(sweep.title, str), 'is text'),
        'question': (isinstance(sweep.question, str), 'is text'),
        'base': (isinstance(sweep.base, ConfigDict), 'is a ConfigDict, like base_config()'),
        'kind': (sweep.kind in KINDS, f'are {", ".join(KINDS)}'),
        'reference': (isinstance(reference, Mapping | None), "are settings, like {'dilation': 1}"),
        'image_sizes': (not needs_sizes or _are_sizes(sweep.image_sizes), sizes),
        'train_seconds': (_is_time(sweep.train_seconds), 'are None or a number above 0'),
    }
    for name, (is_right, what) in allowed.items():
        if not is_right:
            raise UserError(f'{name} = {getattr(sweep, name)!r}: allowed {what}')
    if not (isinstance(trials, tuple | list) and trials and all(map(_is_trial, trials))):
        raise UserError(
            'trials: allowed is a list of at least one Trial of settings and changes, as grid() '
            'makes it'
        )
    settings = [*trials[0].settings]
    if any([*trial.settings] != settings for trial in trials):
        raise UserError('the trials of a sweep need the same settings, in the same order')
    for name in settings:
        if name in ('cell', 'impossible', 'epoch_seconds', *OF_SEED, *OF_VALIDATION, *OF_TRIAL):
            raise UserError(f'a setting cannot be called {name!r}: a column of the results is')
    if DATASET in (reference or {}):
        raise UserError(
            f'reference = {dict(reference)}: each trial is compared with one of its own data set; '
            f'leave {DATASET!r} out'
        )
    for name in reference or {}:
        if name not in settings:
            raise UserError(
                f'reference = {dict(reference)}: no setting is called {name!r}; those of the '
                f'trials are {", ".join(map(str, settings))}'
            )
    if sweep.kind == 'little_data' and not {'method', 'train_images'} <= {*settings}:
        raise UserError("kind = 'little_data': its trials need settings 'method', 'train_images'")
    _check_changes(trials)


def _is_trial(trial) -> bool:
    parts = (trial.settings, trial.changes) if isinstance(trial, Trial) else (None,)
    return all(isinstance(part, Mapping) for part in parts)


def _are_sizes(sides) -> bool:
    numbers = isinstance(sides, tuple | list) and all(type(side) is int for side in sides)
    return numbers and bool(sides) and min(sides) >= 1 and len(set(sides)) == len(sides)


def _is_time(seconds) -> bool:
    return seconds is None or (type(seconds) in (int, float) and 0 < seconds < math.inf)


def _check_changes(trials: Sequence[Trial]) -> None:
    for key, value in (change for trial in trials for change in trial.changes.items()):
        if key == 'model' and isinstance(value, str):
            preset_values(value)
            continue
        if (key, value) == ('model.patches', 'auto'):
            continue
        key = ALIASES.get(key, key)
        if key is None:  # a key that is gone
            continue
        check_key(key)
        if key in ('seed', 'num_seeds'):
            paired = 'cannot differ between trials, which are paired by seed; give it in base'
            raise UserError(f'config.{key} {paired}')
        validate({key: value})
    names = [_name(trial) for trial in trials]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f'two trials of the sweep have the settings {name}')


def pair_with_reference(
    trials: Iterable[PreparedTrial], reference: Mapping[str, object] | None
) -> dict[str, str]:
    """{trial: trial that it is compared with}, of valid ones (see `Sweep.reference`)."""
    valid = [trial for trial in trials if not trial.invalid]
    return {
        trial.name: other.name
        for trial in (valid if reference else ())
        for other in valid
        if other is not trial and other.settings == {**trial.settings, **reference}
    }


def _name(trial: Trial) -> str:
    """What the trial's folder is called."""
    words = (f'{name}={_value_text(value)}' for name, value in trial.settings.items())
    text = '_'.join(words).replace(', ', '_').replace(' ', '=')
    name = re.sub(r'[^A-Za-z0-9_.=-]+', '-', text).strip('-')
    if not 0 < len(name) <= MAX_NAME_CHARS:
        raise UserError(
            f'settings {name[:40]!r}…: a name of {len(name)} characters; allowed are 1 to '
            f'{MAX_NAME_CHARS} that are letters or digits'
        )
    return name


def settings_text(settings: Mapping[str, object]) -> str:
    """What plots and sentences call settings: 'plain 4×4, MNIST', 'size 4, dilation 2'."""
    return ', '.join(
        _value_text(value) if name in NAMED else f'{name} {_value_text(value)}'
        for name, value in settings.items()
    )


def _value_text(value) -> str:
    return '×'.join(map(_value_text, value)) if isinstance(value, tuple | list) else str(value)


def _prepare(base: ConfigDict, trial: Trial) -> PreparedTrial:
    from mixer_dilated.training.setup import create_setup

    label = settings_text(trial.settings)
    prepared = functools.partial(PreparedTrial, **vars(trial), name=_name(trial), label=label)
    try:
        return prepared(setup=create_setup(changed(base, trial.changes)))
    except UserError as error:
        return prepared(setup=None, invalid=str(error))
