"""What a run leaves of its augmentation, and the plot that a report makes of it."""

import itertools

import jax
import numpy as np
import pytest

from mixer_dilated.data.augmentation import augmentation_from_config
from mixer_dilated.data.datasets import Digits
from mixer_dilated.reports.page.report import write_report
from mixer_dilated.reports.plots.image_grids import augmentation_plot
from mixer_dilated.reports.plots.run_plots import augmentation_plots
from mixer_dilated.reports.result_files import read_run
from mixer_dilated.training.results import write_augmented_images
from tests.conftest import small_config
from tests.report_folders import make_run

AUGMENTED = {'augment.translate': 2, 'augment.flip': True}


def arrays_of(folder):
    with np.load(folder / 'augmented.npz') as arrays:
        return dict(arrays)


def make_augmented_run(folder, **changes):
    """A made-up run of digits, with what its augmentation leaves."""
    images, labels = Digits().read('train[:100]')
    config = small_config(seed=4, **changes)
    make_run(folder, config, images, labels)
    write_augmented_images(folder, config, Digits().data_source('train[:300]'), (8, 8))
    return folder


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """The folder of a run with augmentation."""
    return make_augmented_run(tmp_path_factory.mktemp('augmented') / 'run', **AUGMENTED)


def test_a_run_leaves_images_of_several_classes_before_and_after_augmentation(run):
    arrays, train = arrays_of(run), Digits().read('train[:300]')
    assert arrays['titles'].tolist() == [
        'flip', 'translate', *(f'together, step {step}' for step in (1, 2, 3, 4)),
    ]  # fmt: skip
    first = [np.flatnonzero(train.labels == label)[0] for label in range(10)]
    np.testing.assert_array_equal(arrays['images'], train.images[sorted(first)[:6]])
    whole, seed_key = augmentation_from_config(small_config(**AUGMENTED)), jax.random.key(4)
    parts = [*whole.separate_changes().values(), *[whole] * 4]
    for part, step, drawn in zip(parts, (0, 0, 0, 1, 2, 3), arrays['drawn'], strict=True):
        expected = jax.jit(part.apply)(seed_key, step, arrays['images'])
        np.testing.assert_array_equal(drawn, expected)


def test_mixed_images_are_left_as_pixels(tmp_path):
    train = Digits().data_source('train[:50]')
    config = small_config(**{'augment.cutmix': 1.0})
    write_augmented_images(tmp_path, config, train, (8, 8))
    arrays = arrays_of(tmp_path)
    assert arrays['titles'].tolist() == [f'cutmix, step {step}' for step in (1, 2, 3, 4)]
    own, others = arrays['images'], np.roll(arrays['images'], 1, axis=0)
    assert ((arrays['drawn'] == own) | (arrays['drawn'] == others)).all()
    assert (arrays['drawn'] != own).any()


def test_without_augmentation_nothing_is_left(tmp_path):
    write_augmented_images(
        tmp_path, small_config(label_smoothing=0.1), Digits().data_source('train[:50]'), (8, 8)
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_report_shows_what_was_left(run):
    text = write_report(run).read_text()
    assert 'What training shows' in text and '6 images under flip, translate' in text
    assert (run / 'augmentation.png').read_bytes().startswith(b'\x89PNG')


def test_the_plot_has_a_row_an_image_and_a_column_a_title():
    images = np.random.default_rng(0).integers(0, 256, (3, 2, 5, 4, 1), dtype=np.uint8)
    titles = ['original', 'a, b', 'x' * 99]
    figure = augmentation_plot(dict(zip(titles, images, strict=True)))
    drawn = [axes.images[0].get_array() for axes in figure.axes]
    assert len(drawn) == 6
    for row, column in itertools.product(range(2), range(3)):
        np.testing.assert_array_equal(drawn[3 * row + column], 255 - images[column, row, ..., 0])
    assert [axes.get_title() for axes in figure.axes[:2]] == ['original', 'a\nb']
    assert len(figure.axes[2].get_title()) < 20
    colours = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    figure = augmentation_plot({'original': colours})
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), colours[1])


def test_a_run_without_augmentation_has_no_plot_of_it(tmp_path):
    assert not list(augmentation_plots(read_run(make_augmented_run(tmp_path / 'run'))))
