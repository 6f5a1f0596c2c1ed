"""What a study compares: trials that each change a few settings of one base config."""

import collections
import dataclasses
import itertools
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from mixer_dilated.allowed_values import POSITIVE, TEXT, Allowed, integer, one_of
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
    reference: str = ''  # the name of the trial that it is compared with, if there is one


def prepare(sweep: Sweep) -> list[PreparedTrial]:
    """Resolves every trial of a sweep; an invalid trial keeps the reason.

    Raises:
      UserError: what `check_sweep` raises, no valid trial, or a reference that is none of them.
    """
    check_sweep(sweep)
    trials = [_prepare(sweep, trial) for trial in sweep.trials]
    valid = [trial for trial in trials if not trial.invalid]
    if not valid:
        raise UserError(f'no trial of the sweep can be trained: {trials[0].invalid}')
    if not sweep.reference:
        return trials
    references = {
        trial.name: other.name
        for trial in valid
        for other in valid
        if other is not trial and other.settings == {**trial.settings, **sweep.reference}
    }
    if not references:
        raise UserError(
            f'reference = {dict(sweep.reference)}: no trial has these settings, or none is left to '
            'be compared with it; name settings of a trial'
        )
    return [dataclasses.replace(t, reference=references.get(t.name, '')) for t in trials]


def _prepare(sweep: Sweep, trial: Trial) -> PreparedTrial:
    from mixer_dilated.training.setup import create_setup

    words = _name(trial), settings_text(trial.settings)
    try:
        config = changed(sweep.base, trial.changes)
        setup = create_setup(config)
    except UserError as error:
        return PreparedTrial(trial.settings, trial.changes, *words, None, invalid=str(error))
    if sweep.kind == 'resolution' and is_auto(config.model):
        raise UserError(
            "kind = 'resolution': patches 'auto' differ at every size; set config.model.patches in "
            'numbers'
        )
    return PreparedTrial(trial.settings, trial.changes, *words, setup)


def check_sweep(sweep: Sweep) -> None:
    """Raises UserError, with what is allowed, if a field of a sweep has a wrong value."""
    fields = FIELDS | (SIDES if sweep.kind == 'resolution' else {})
    for name, allowed in fields.items():
        if not allowed.test(value := getattr(sweep, name)):
            raise UserError(f'{name} = {reprlib.repr(value)}: allowed is {allowed.text}')
    settings, reference = [*sweep.trials[0].settings], dict(sweep.reference or {})
    if any([*trial.settings] != settings for trial in sweep.trials):
        raise UserError('the trials of a sweep need the same settings, in the same order')
    for name in settings:
        if name in ('cell', 'impossible', 'epoch_seconds', *OF_SEED, *OF_VALIDATION, *OF_TRIAL):
            raise UserError(f'a setting cannot be called {name!r}: a column of the results is')
    if DATASET in reference:
        raise UserError(
            f'reference = {reference}: each trial is compared with one of its own data set; leave '
            f'{DATASET!r} out'
        )
    for name in [name for name in reference if name not in settings]:
        raise UserError(
            f'reference = {reference}: no setting is called {name!r}; those of the trials are '
            f'{", ".join(map(str, settings))}'
        )
    if sweep.kind == 'little_data' and not {'method', 'train_images'} <= {*settings}:
        raise UserError("kind = 'little_data': its trials need settings 'method', 'train_images'")
    for key, value in (change for trial in sweep.trials for change in trial.changes.items()):
        _check_change(ALIASES.get(key, key), value)
    for name, count in collections.Counter(map(_name, sweep.trials)).items():
        if count > 1:
            raise UserError(f'two trials of the sweep have the settings {name}')


def _are_trials(trials) -> bool:
    if not (trials and isinstance(trials, tuple | list)):
        return False
    parts = (part for t in trials for part in (getattr(t, 'settings', 0), getattr(t, 'changes', 0)))
    return all(isinstance(part, Mapping) for part in parts)


def _are_sides(sides) -> bool:
    is_list = isinstance(sides, tuple | list) and all(map(integer(1).test, sides))
    return is_list and 0 < len(sides) == len({*sides})


FIELDS = {
    'title': TEXT,
    'question': TEXT,
    'base': Allowed('a ConfigDict, like base_config()', lambda v: isinstance(v, ConfigDict)),
    'kind': one_of(*KINDS),
    'reference': Allowed(
        "None or settings, like {'dilation': 1}", lambda v: isinstance(v, Mapping | None)
    ),
    'train_seconds': Allowed('None or a number above 0', lambda v: v is None or POSITIVE.test(v)),
    'trials': Allowed(
        'a list of at least one Trial of settings and changes, as grid() makes it', _are_trials
    ),
}
SIDES = {'image_sizes': Allowed('different integers, in pixels, like (28, 56)', _are_sides)}


def _check_change(key: str | None, value) -> None:
    """Raises UserError if a trial cannot change a key to a value; None is a key that is gone."""
    if key is None or (key, value) == ('model.patches', 'auto'):
        return
    if key == 'model' and isinstance(value, str):
        preset_values(value)
        return
    check_key(key)
    if key in ('seed', 'num_seeds'):
        paired = 'cannot differ between trials, which are paired by seed; give it in base'
        raise UserError(f'config.{key} {paired}')
    validate({key: value})


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
