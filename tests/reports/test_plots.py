"""Plots: what is drawn are the numbers, or the pixels of the geometry, with any label."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from mixer_dilated.patches.geometry import Patches
from mixer_dilated.reports.plots import study_plots
from mixer_dilated.reports.plots.curves import CURVES, training_curves
from mixer_dilated.reports.plots.figure import render
from mixer_dilated.reports.plots.heat_maps import (
    accuracy_maps,
    confusion_matrices,
    confusion_matrix,
    map_axes,
)
from mixer_dilated.reports.plots.image_grids import mistakes_plot, weights_plot
from mixer_dilated.reports.plots.pareto import pareto_front, pareto_plot, spread_out
from mixer_dilated.reports.plots.patch_plots import (
    TOKEN,
    coverage_plot,
    draw_patches,
    show_patches,
)
from mixer_dilated.reports.result_files import read_study
from mixer_dilated.training.setup import create_setup
from tests.conftest import random_bytes, refuses, small_config
from tests.report_folders import make_kind, patches

NASTY = 'costs $5\n\x00\x07 \\frac{ <b> $x_2'
IMAGES = np.zeros((2, 12, 12, 1), np.uint8)


def curves(values, label='one'):
    """The plot of some seeds' values (seeds, epochs), the same in all panels."""
    rows = [
        {'seed': seed, 'epoch': epoch + 1, **dict.fromkeys(CURVES, value)}
        for (seed, epoch), value in np.ndenumerate(np.asarray(values, float))
    ]
    return training_curves({label: pd.DataFrame(rows)})


def test_curves_are_the_mean_over_seeds_with_one_standard_deviation_of_what_was_evaluated():
    nan = np.nan
    figure = curves([[0.1, 0.5, 0.9, nan], [0.3, nan, 0.8, nan], [0.2, 0.7, nan, nan]])
    axes, mean, std = figure.axes[0], [0.2, 0.6, 0.85], [0.1, 0.02**0.5, 0.005**0.5]
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [*zip([1, 2, 3], mean, strict=True)])
    band = axes.collections[0].get_paths()[0].vertices
    for epoch, (middle, half) in enumerate(zip(mean, std, strict=True), 1):
        heights = band[band[:, 0] == epoch, 1]
        np.testing.assert_allclose([heights.min(), heights.max()], [middle - half, middle + half])
    line = curves([[nan, 0.8, nan, 0.9]]).axes[0].lines[0]
    np.testing.assert_allclose(line.get_xydata(), [[2, 0.8], [4, 0.9]])


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('epochs', [1, 2, 3, 10, 300])
def test_epochs_are_integers_and_nothing_to_draw_is_an_empty_panel(epochs):
    figure = curves(np.full((1, epochs), 0.5))
    assert all(tick == round(tick) for axes in figure.axes for tick in axes.get_xticks())
    assert len(render(curves(np.full((2, epochs), np.nan)), 'png')) > 1000


def test_accuracies_that_lie_close_fill_the_axis_with_their_band():
    low, high = curves([0.97 - 0.9 * np.exp(-np.arange(50) / 2)]).axes[0].get_ylim()
    assert low > 0.95 and high < 0.98
    axes = curves([[0.96, 0.965], [0.97, 0.98]]).axes[0]
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    low, high = axes.get_ylim()
    assert low < heights.min() and heights.max() < high


@pytest.mark.filterwarnings('error')
def test_weights_are_drawn_on_a_scale_around_zero_the_largest_first():
    weights = np.zeros((2, 3, 70))
    weights[..., 5], weights[..., 9] = -4, 2
    image = weights_plot({'one': weights}).axes[0].images[0]
    assert image.get_clim() == (-4, 4)
    first_row = image.get_array()[0].compressed()
    assert (first_row[:24] == -4).all() and (first_row[24:48] == 2).all()
    weights[0, 0, :3] = np.nan, np.inf, -8.0  # what is not finite leaves the others their scale
    of_two_sizes = weights_plot({'a': weights, 'b': np.full((3, 4, 70), 7.0)})
    images = [axes.images[0] for axes in of_two_sizes.axes[:2]]
    assert [image.get_clim() for image in images] == [(-8, 8)] * 2
    assert images[0].get_array().shape != images[1].get_array().shape
    weights_plot({'a': np.full((2, 2, 3), np.nan)})


def test_the_numbers_in_a_confusion_matrix_are_numpys_counts():
    draw = np.random.default_rng(0)
    labels, probabilities = draw.integers(0, 4, 50), draw.random((3, 50, 4))
    expected = np.zeros((4, 4), int)
    np.add.at(expected, (np.tile(labels, 3), probabilities.argmax(-1).ravel()), 1)
    counts = confusion_matrix(labels, probabilities)
    axes = confusion_matrices({'a': counts}, [*'0123']).axes[0]
    written = np.zeros((4, 4), int)
    for text in axes.texts:
        column, row = map(int, text.get_position())
        written[row, column] = int(text.get_text() or 0)
    np.testing.assert_array_equal(written, expected)
    errors = axes.collections[0].get_array().filled(0)
    np.testing.assert_array_equal(errors, expected - np.diag(expected.diagonal()))
    many = confusion_matrices({'a': np.ones((30, 30), int)}, [*map(str, range(30))]).axes[0]
    assert not many.texts and many.collections[0].get_array().shape == (30, 30)


def test_mistakes_stand_in_order_by_their_names_and_none_is_called_certain():
    colours, long = random_bytes((8, 8, 3)), ('automobile', 'aeroplane', 0.9)
    mistakes = [(IMAGES[0], '4', '9', 0.99996), (colours, '2', '7', 0.8765), (colours, *long)]
    figure = mistakes_plot(mistakes)
    titles = ['4 → 9\n0.999', '2 → 7\n0.876', 'automobile →\naeropla… 0.900']
    assert [axes.get_title() for axes in figure.axes] == titles
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), colours)
    names = ['cat', '<b>dog</b>', 'a very long name of a class']
    axes = confusion_matrices({'a': np.ones((3, 3), int)}, names).axes[0]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == [*names[:2], 'a very long nam…']


PLOTS = {
    'seen': lambda label: coverage_plot([(label, [label], (Patches(2),), 'channels', IMAGES)]),
    'curves': lambda label: curves([[1, 2]], label),
    'confusion': lambda label: confusion_matrices({label: np.ones((3, 3), int)}, [label] * 3),
    'weights': lambda label: weights_plot({label: np.arange(20.0).reshape(2, 2, 5)}),
    'mistakes': lambda label: mistakes_plot([(IMAGES[0], label, '9', 0.5)]),
}


@pytest.mark.parametrize('plot', PLOTS.values(), ids=PLOTS)
def test_any_label_is_drawn_large_enough_to_read(plot):
    assert render(plot(NASTY), 'png').startswith(b'\x89PNG')
    assert not re.search(rb'[\x00-\x08\x0b-\x1f]', render(plot(NASTY), 'svg'))
    texts = plot('a method').findobj(Text)
    assert min(text.get_fontsize() for text in texts if text.get_text()) >= 9


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_the_front_is_every_point_that_none_dominates(points):
    def dominates(a, b):
        return a[0] <= b[0] and a[1] >= b[1] and a != b

    front = pareto_front(pd.DataFrame(points, columns=['cost', 'accuracy'], dtype=float))
    expected = [k for k, b in enumerate(points) if not any(dominates(a, b) for a in points)]
    assert sorted(front.index) == expected
    assert front.cost.is_monotonic_increasing


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12).map(sorted), st.floats(0.01, 0.3))
def test_labels_are_moved_apart_and_stay_inside(heights, gap):
    placed = np.array(spread_out(heights, gap))
    room = min(gap, 1 / max(len(heights) - 1, 1))
    assert (np.diff(placed) >= room - 1e-9).all()
    assert placed.min() >= -1e-9 and placed.max() <= 1 + 1e-9


def pareto_axes(*rows, hollow=False):
    """Axes of a `pareto_plot` of (label, cost, accuracy)."""
    table = pd.DataFrame(rows, columns=['label', 'cost', 'accuracy'])
    return pareto_plot(table.assign(low=np.nan, high=np.nan, hollow=hollow), 'seconds').axes[0]


def test_trials_far_below_a_front_of_several_are_counted():
    front = ('a', 1.0, 0.90), ('b', 2.0, 0.94), ('c', 3.0, 0.96)
    others = ('near', 4.0, 0.895), ('far', 4.0, 0.7), ('farther', 5.0, 0.2)
    axes = pareto_axes(*front, *others)
    low, high = axes.get_ylim()
    assert 0.7 < low < 0.895 and high > 0.96
    texts = [text.get_text() for text in axes.texts]
    assert texts == ['2 trials below 0.891 not drawn', 'a', 'b', 'c']
    axes = pareto_axes(*front[:2], *others)  # two say little of a range
    assert axes.get_ylim()[0] < 0.2 and len(axes.texts) == 2


def test_trials_that_others_are_compared_with_are_outlines(tmp_path, monkeypatch):
    axes = pareto_axes(('plain', 1.0, 0.9), ('dilated', 2.0, 0.95), hollow=[True, False])
    faces = axes.collections[-1].get_facecolors()  # of the front, the cheapest first
    assert faces[0].tolist() == [1, 1, 1, 1] != faces[1].tolist()
    drawn = []
    monkeypatch.setattr(study_plots, 'pareto_plot', lambda points, *_: drawn.append(points))
    study = read_study(make_kind('sweep', tmp_path / 'sweep'))
    list(itertools.islice(study_plots.study_plots(study), 2))
    references = {comparison['reference'] for comparison in study.comparisons.values()}
    assert references and [{*points.index[points.hollow]} for points in drawn] == [references] * 2


def test_a_map_hatches_what_cannot_be_and_leaves_white_what_is_not_trained():
    rows = [('SAME', size, dilation, 1, 4) for size in (2, 4) for dilation in (1, 2)]
    columns = ['padding', 'size', 'dilation', 'x', 'stride']
    settings = pd.DataFrame(rows, columns=columns, dtype=object)
    assert map_axes(settings[['padding', 'x', 'size', 'dilation']]) == ['size', 'dilation']
    with_stride = pd.concat([settings, settings.assign(stride=7)])
    assert map_axes(with_stride[['stride', 'size', 'dilation']]) == ['size', 'dilation']
    assert map_axes(settings[['padding', 'size']]) == ['size']
    phases = settings.assign(phases=[[1, 2], [1, 2], 1, 1])  # a list is no number
    assert map_axes(phases[['size', 'phases', 'dilation']]) == ['size', 'dilation']
    accuracy, invalid = [0.9, np.nan, 0.8, np.nan], [False, True, False, False]
    data = settings.assign(panel='', accuracy=accuracy, invalid=invalid)
    axes = accuracy_maps(data, 'size', 'dilation').axes[0]
    assert [text.get_text() for text in axes.texts] == ['0.900', '0.800']
    (hatched,) = (drawn for drawn in axes.collections if drawn.get_hatch())
    assert [path.get_extents().bounds for path in hatched.get_paths()] == [(1, 0, 1, 1)]


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
    rows = [
        (name, ['9 tokens'], (Patches(size=2, dilation=2, stride=4),), 'channels', IMAGES)
        for name in 'ab'
    ]
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
