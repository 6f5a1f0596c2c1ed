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
from tests.report_folders import patches

IMAGES = np.zeros((2, 12, 12, 1), np.uint8)
DILATED = Patches(size=2, dilation=2, stride=4)


@pytest.mark.parametrize('branch_merge', ['channels', 'tokens'])
@pytest.mark.parametrize('padding', ['VALID', 'SAME'])
@pytest.mark.parametrize('phases', [1, 2, (1, 2)])
def test_all_branches_together_colour_what_any_of_them_sees(branch_merge, padding, phases):
    branches = Patches(size=2, dilation=2, stride=5, padding=padding).phases(phases)
    axes = Figure().subplots()
    show_patches(axes, IMAGES[0], branches, branch_merge)
    left, _, _, top = axes.images[0].get_extent()
    canvas = np.asarray(axes.images[0].get_array())[round(-0.5 - top) :, round(-0.5 - left) :]
    canvas = canvas[:12, :12]
    tinted = np.ptp(canvas, axis=-1) > 1e-6
    seen = np.any([branch.coverage((12, 12)) > 0 for branch in branches], axis=0)
    np.testing.assert_array_equal(tinted, seen)
    rows, columns = branches[0].grid((12, 12))
    chosen = rows // 2 * columns + columns // 2
    of_token = branches if branch_merge == 'channels' else branches[:1]
    pixels = np.concatenate([branch.pixel_indices((12, 12))[chosen] for branch in of_token])
    inside = ((pixels >= 0) & (pixels < 12)).all(axis=1)
    orange = tinted & (canvas[..., 0] > canvas[..., 2])
    assert set(map(tuple, np.argwhere(orange))) == set(map(tuple, pixels[inside]))


def test_a_plot_of_coverage_has_a_row_a_method_with_its_facts_and_a_window_outlined():
    rows = [(name, ['9 tokens'], (DILATED,), 'channels', IMAGES) for name in 'ab']
    figure = coverage_plot(rows)
    assert [len(axes.images) for axes in figure.axes] == [0, 1, 1] * 2
    texts = [axes.texts[0].get_text().split('\n') for axes in figure.axes[::3]]
    assert texts == [['a', '', '9 tokens'], ['b', '', '9 tokens']]
    outline = [p for p in figure.axes[1].patches if p.get_edgecolor()[:3] == to_rgb(TOKEN)]
    assert [p.get_bbox().bounds for p in outline] == [(3.5, 3.5, 3, 3)]


@pytest.mark.parametrize(
    ('ending', 'dilation', 'panels'), [('png', 2, 2), ('pdf', 2, 2), ('svg', 2, 2), ('svg', 1, 1)]
)
def test_the_plot_shows_plain_and_dilated_patches_each_geometry_once(
    tmp_path, ending, dilation, panels
):
    config = small_config(**patches(dilation=dilation, size=2, stride=2, padding='SAME'))
    path = tmp_path / f'patches.{ending}'
    draw_patches(create_setup(config), path)
    content = path.read_bytes()
    assert len(content) > 1000 and (ending != 'svg' or content.count(b'id="axes_') == panels)


def test_a_format_that_cannot_be_written_is_refused(tmp_path):
    path = tmp_path / 'patches.txt'
    with refuses(f'--picture={path}'):
        draw_patches(create_setup(small_config()), path)
    assert not path.exists()
