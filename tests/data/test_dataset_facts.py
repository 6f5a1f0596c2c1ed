"""Shapes of data sets that are not here."""

from mixer_dilated.data.dataset_facts import FACTS, abstract_dataset
from mixer_dilated.data.datasets import open_dataset
from tests.conftest import refuses, small_config


def test_what_is_known_of_mnist_is_true(mnist):
    known = abstract_dataset(small_config(**{'dataset.name': 'mnist'}).dataset)
    dataset = small_config(**{'dataset.name': 'mnist', 'dataset.data_dir': mnist}).dataset
    prepared = open_dataset(dataset)
    for fact in ('image_shape', 'stored_shape', 'num_classes', 'split_sizes'):
        assert getattr(known, fact) == getattr(prepared, fact)


def test_data_that_is_not_here_is_planned_for_or_refused_but_not_downloaded():
    larger = {'dataset.name': 'cifar10', 'dataset.image_size': 224}
    dataset = abstract_dataset(small_config(**larger).dataset)
    assert (dataset.image_shape, dataset.stored_shape) == ((224, 224, 3), (32, 32, 3))
    for name, words in (
        ('imagenet2012', ['dataset.image_size = 0', 'of several sizes']),
        ('svhn_cropped', ['downloads nothing', ', '.join(FACTS)]),
        ('no_such_set', ["'no_such_set': no such data set"]),
    ):
        with refuses(*words):
            abstract_dataset(small_config(**{'dataset.name': name}).dataset)
