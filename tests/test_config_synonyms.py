"""Words that other programs use for the keys."""

import pytest

from mixer_dilated.config import check_key
from mixer_dilated.config_keys import ALIASES, KEYS
from mixer_dilated.config_synonyms import SYNONYMS
from tests.conftest import refuses


def test_synonyms_are_of_keys_that_exist_and_are_no_keys_themselves():
    assert {*SYNONYMS.values()} <= {*KEYS}
    assert not {*SYNONYMS} & {*KEYS, *ALIASES}


@pytest.mark.parametrize(
    ('path', 'key'),
    [
        ('lr', 'optimizer.base_lr'),
        ('learning_rate', 'optimizer.base_lr'),
        ('optimizer.lr', 'optimizer.base_lr'),
        ('batch_size', 'batch'),
        ('bs', 'batch'),
        ('epochs', 'num_epochs'),
        ('wd', 'optimizer.weight_decay'),
        ('model.depth', 'model.num_blocks'),
        ('dim', 'model.hidden_dim'),
        ('patch_size', 'model.patches.size'),
        ('image_size', 'dataset.image_size'),  # the same name in another section
        ('model.hiden_dim', 'model.hidden_dim'),  # by string distance
        ('sed', 'seed'),
        ('patches.size', 'model.patches.size'),
    ],
)
def test_an_unknown_key_names_the_one_that_is_meant(path, key):
    with refuses() as refusal:
        check_key(path)
    assert str(refusal.value).startswith(f'config.{path}: ')
    assert str(refusal.value).endswith(f' config.{key}?')


def test_the_number_of_classes_is_the_data_sets():
    with refuses('config.model.num_classes', 'data set'):
        check_key('model.num_classes')
