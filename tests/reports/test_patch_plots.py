"""Plots of patches: the pixels in colour are those that the geometry samples."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from mixer_dilated.patches.geometry import Patches
from mixer_dilated.reports.plots.patch_plots import (
    TOKEN,
    coverage_plot,
    draw_patches,
    show_patches,
)
from mixer_dilated.training.setup import create_setup
from tests.conftest import refuses, small_config

IMAGES = np.zeros((2, 12, 12, 1), np.uint8)
DILATED = Patches(size=2, dilation=2, stride=4)


def coloured(branches, branch_merge='channels', image=IMAGES[0]):
    """Canvas of `show_patches` cut to the image: (tinted, orange), two arrays of booleans."""
    axes = Figure().subplots()
    show_patches(axes, image, branches, branch_merge)
    left, _, _, top = axes.images[0].get_extent()
    canvas = np.asarray(axes.images[0].get_array())[round(-0.5 - top) :, round(-0.5 - left) :]
    canvas = canvas[: image.shape[0], : image.shape[1]]
    tinted = np.ptp(canvas, axis=-1) > 1e-6
    return tinted, tinted & (canvas[..., 0] > canvas[..., 2])


@pytest.mark.parametrize('branch_merge', ['channels', 'tokens'])
@pytest.mark.parametrize('padding', ['VALID', 'SAME'])
@pytest.mark.parametrize('phases', [1, 2, (1, 2)])
def test_all_branches_together_colour_what_any_of_them_sees(branch_merge, padding, phases):
    branches = Patches(size=2, dilation=2, stride=5, padding=padding).phases(phases)
    seen = np.any([branch.coverage((12, 12)) > 0 for branch in branches], axis=0)
    tinted, orange = coloured(branches, branch_merge)
    np.testing.assert_array_equal(tinted, seen)
    rows, columns = branches[0].grid((12, 12))
    chosen = rows // 2 * columns + columns // 2
    of_token = branches if branch_merge == 'channels' else branches[:1]
    pixels = np.concatenate([branch.pixel_indices((12, 12))[chosen] for branch in of_token])
    inside = ((pixels >= 0) & (pixels < 12)).all(axis=1)
    assert set(map(tuple, np.argwhere(orange))) == set(map(tuple, pixels[inside]))


def test_the_window_of_the_coloured_token_is_outlined():
    axes = Figure().subplots()
    show_patches(axes, IMAGES[0], (DILATED,))
    outline = [p for p in axes.patches if p.get_edgecolor()[:3] == to_rgb(TOKEN)]
    assert [p.get_bbox().bounds for p in outline] == [(3.5, 3.5, 3, 3)]


def test_a_plot_of_coverage_has_a_row_a_method_and_its_facts():
    rows = [(name, ['9 tokens'], (DILATED,), 'channels', IMAGES) for name in 'ab']
    figure = coverage_plot(rows)
    assert [len(axes.images) for axes in figure.axes] == [0, 1, 1] * 2
    texts = [axes.texts[0].get_text().split('\n') for axes in figure.axes[::3]]
    assert texts == [['a', '', '9 tokens'], ['b', '', '9 tokens']]


@pytest.mark.parametrize('ending', ['png', 'svg', 'pdf'])
@pytest.mark.parametrize(('dilation', 'panels'), [(1, 1), (2, 2)])
def test_the_plot_shows_plain_and_dilated_patches_each_geometry_once(
    tmp_path, ending, dilation, panels
):
    changes = {'dilation': dilation, 'size': 2, 'stride': 2, 'padding': 'SAME'}
    config = small_config(**{f'model.patches.{name}': value for name, value in changes.items()})
    path = tmp_path / f'patches.{ending}'
    draw_patches(create_setup(config), path)
    content = path.read_bytes()
    assert len(content) > 1000 and (ending != 'svg' or content.count(b'id="axes_') == panels)


def test_a_format_that_cannot_be_written_is_refused(tmp_path):
    path = tmp_path / 'patches.txt'
    with refuses(f'--picture={path}'):
        draw_patches(create_setup(small_config()), path)
    assert not path.exists()
