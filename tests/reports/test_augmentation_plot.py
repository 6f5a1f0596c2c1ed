"""What a run leaves of its augmentation, and the plot that a report makes of it."""

import jax
import numpy as np
import pytest

from mixer_dilated.data.augmentation import augmentation_from_config
from mixer_dilated.data.datasets import Digits
from mixer_dilated.files import read_arrays
from mixer_dilated.reports.page.report import write_report
from mixer_dilated.reports.plots.image_grids import augmentation_plot
from mixer_dilated.reports.plots.run_plots import overview_plots
from mixer_dilated.reports.result_files import read_run
from mixer_dilated.training.results import write_augmented_images
from tests.conftest import random_bytes, small_config
from tests.report_folders import digits_images, make_run

AUGMENTED = {'augment.translate': 2, 'augment.flip': True}
STEPS = [f'step {step}' for step in (1, 2, 3, 4)]


def write_images(folder, **changes):
    config = small_config(seed=4, **changes)
    write_augmented_images(folder, config, Digits().data_source('train[:300]'), (8, 8))


def test_a_run_leaves_images_of_several_classes_before_and_after_augmentation(tmp_path):
    write_images(tmp_path, **AUGMENTED)
    arrays, train = read_arrays(tmp_path / 'augmented.npz'), Digits().read('train[:300]')
    titles = ['flip', 'translate', *(f'together, {step}' for step in STEPS)]
    assert arrays['titles'].tolist() == titles
    first = [np.flatnonzero(train.labels == label)[0] for label in range(10)]
    np.testing.assert_array_equal(arrays['images'], train.images[sorted(first)[:6]])
    whole, seed_key = augmentation_from_config(small_config(**AUGMENTED)), jax.random.key(4)
    parts = [*whole.separate_changes().values(), *[whole] * 4]
    for part, step, drawn in zip(parts, (0, 0, 0, 1, 2, 3), arrays['drawn'], strict=True):
        expected = jax.jit(part.apply)(seed_key, step, arrays['images'])
        np.testing.assert_array_equal(drawn, expected)


def test_mixed_images_are_left_as_pixels(tmp_path):
    write_images(tmp_path, **{'augment.cutmix': 1.0})
    arrays = read_arrays(tmp_path / 'augmented.npz')
    assert arrays['titles'].tolist() == [f'cutmix, {step}' for step in STEPS]
    own, others = arrays['images'], np.roll(arrays['images'], 1, axis=0)
    assert ((arrays['drawn'] == own) | (arrays['drawn'] == others)).all()
    assert (arrays['drawn'] != own).any()


@pytest.mark.slow
def test_the_report_shows_what_was_left(tmp_path):
    make_run(tmp_path / 'run', small_config(**AUGMENTED), *digits_images())
    write_images(tmp_path / 'run', **AUGMENTED)
    text = write_report(tmp_path / 'run').read_text()
    assert 'What training shows' in text and '6 images under flip, translate' in text
    assert (tmp_path / 'run/augmentation.png').read_bytes().startswith(b'\x89PNG')


def test_without_augmentation_nothing_is_left_or_drawn(tmp_path):
    make_run(tmp_path / 'run', small_config(), *digits_images())
    write_images(tmp_path / 'run', label_smoothing=0.1)
    assert not (tmp_path / 'run/augmented.npz').exists()
    plots = overview_plots({'a run': read_run(tmp_path / 'run')})
    assert [plot.name for plot in plots] == ['pixels_seen', 'training_curves']


def test_the_plot_has_a_row_an_image_and_a_column_a_title():
    images = random_bytes((3, 2, 5, 4, 1))
    figure = augmentation_plot(dict(zip(['original', 'a, b', 'x' * 99], images, strict=True)))
    drawn = [axes.images[0].get_array() for axes in figure.axes]
    np.testing.assert_array_equal(drawn, 255 - images.swapaxes(0, 1).reshape(6, 5, 4))
    assert [axes.get_title() for axes in figure.axes[:2]] == ['original', 'a\nb']
    assert len(figure.axes[2].get_title()) < 20
    colours = random_bytes((2, 4, 5, 3))
    figure = augmentation_plot({'original': colours})
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), colours[1])
