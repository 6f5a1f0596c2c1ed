"""Names by which folders, arrays and rows are splits: train, Testing, valid_images."""

import pathlib
import re
from collections.abc import Sequence
from typing import Any

from mixer_dilated.errors import UserError

SPLITS = {
    'train': {'train', 'training', 'trn'},
    'validation': {'validation', 'validate', 'valid', 'val', 'dev'},
    'test': {'test', 'testing', 'tst', 'eval', 'evaluation'},
}
# What stands before or after such a word: train_images, seg_test, ValidData.
AFFIXES = ('images', 'image', 'imgs', 'img', 'pictures', 'photos', 'dataset', 'data', 'split')
AFFIXES += ('folder', 'files', 'set', 'seg', 'raw')


def splits_of(names: Sequence[str]) -> list[str | None]:
    """Of each name the split that it is of, or None; words that all have in common do not count."""
    words = [_words(name) for name in names]
    common = set.intersection(*words) if len(words) > 1 else set()
    return [_split(of_name - common) for of_name in words]


def split_of(name: str) -> str | None:
    return _split(_words(name))


def complete_splits(
    source: pathlib.Path, splits: dict[str, Any], notes: list[str], called: str = 'validation'
) -> dict[str, Any]:
    """The splits of a data set: 'all' alone, or train, test and perhaps validation; others are a
    UserError. Without a test split the validation split, `called` so, is it, which is noted.
    """
    if 'validation' in splits and 'test' not in splits:
        notes.append(f'no test split: {called} is the test split')
        splits = {'test' if name == 'validation' else name: splits[name] for name in splits}
    if {*splits} != {'all'} and not {'train', 'test'} <= {*splits} <= {*SPLITS}:
        raise UserError(
            f'{source}: its splits are {", ".join(sorted(splits))}; allowed are train and test, '
            'perhaps with validation, or no splits at all, which leaves it to dataset.test_fraction'
        )
    return splits


def _words(name: str) -> set[str]:
    """{'train', 'images'} of 'TrainImages'."""
    spaced = re.sub(r'(?<=[a-z])(?=[A-Z])', ' ', name).lower()
    words = {*re.split(r'[\W_\d]+', spaced)} - {''}
    return {re.sub(f'^(.+)({"|".join(AFFIXES)})$', r'\1', word) for word in words}


def _split(words: set[str]) -> str | None:
    words = words - {*AFFIXES}
    splits = [split for split, allowed in SPLITS.items() if words and words <= allowed]
    return splits[0] if splits else None
