"""Plots: what is drawn are the numbers, and any label is drawn as it is."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
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
from mixer_dilated.reports.plots.patch_plots import coverage_plot
from mixer_dilated.reports.result_files import read_study
from tests.report_folders import make_kind

NASTY = 'costs $5\n\x00\x07 \\frac{ <b> $x_2'
IMAGES = np.zeros((2, 12, 12, 1), np.uint8)
DILATED = Patches(size=2, dilation=2, stride=4)


def curves(values):
    """Training curves of some seeds (seeds, epochs), the same in all panels."""
    rows = [
        {'seed': seed, 'epoch': epoch, **dict.fromkeys(CURVES, value)}
        for (seed, epoch), value in np.ndenumerate(np.asarray(values, float))
    ]
    return pd.DataFrame(rows).assign(epoch=lambda data: data.epoch + 1)


def figures(label):
    """{name: a plot of each kind, with that label}, drawn from the same numbers each time."""
    draw = np.random.default_rng(0)
    return {
        'seen': coverage_plot([(label, [label], (DILATED,), 'channels', IMAGES)]),
        'curves': training_curves({label: curves([[0.5, 0.9], [0.6, 0.8]])}),
        'confusion': confusion_matrices({label: np.arange(9).reshape(3, 3)}, [label] * 3),
        'weights': weights_plot({label: draw.normal(size=(2, 2, 5))}),
        'mistakes': mistakes_plot([(IMAGES[0], '4', '9', 0.5)]),
    }


def test_curves_are_the_mean_over_seeds_with_one_standard_deviation():
    values = np.array([[0.1, 0.5, 0.9], [0.3, np.nan, 0.8], [0.2, 0.7, np.nan]])
    axes = training_curves({'one': curves(values)}).axes[0]
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [1, 2, 3])
    mean, std = [0.2, 0.6, 0.85], [0.1, 0.02**0.5, 0.005**0.5]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), mean)
    band = axes.collections[0].get_paths()[0].vertices
    for epoch, (middle, half) in enumerate(zip(mean, std, strict=True), 1):
        heights = band[band[:, 0] == epoch, 1]
        np.testing.assert_allclose([heights.min(), heights.max()], [middle - half, middle + half])


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('epochs', [1, 2, 3, 10, 300])
def test_epochs_are_integers(epochs):
    figure = training_curves({'one': curves(np.full((1, epochs), 0.5))})
    assert all(tick == round(tick) for axes in figure.axes for tick in axes.get_xticks())


def test_accuracies_that_lie_close_fill_the_axis_with_their_band():
    climb = 0.97 - 0.9 * np.exp(-np.arange(50) / 2)
    low, high = training_curves({'one': curves([climb])}).axes[0].get_ylim()
    assert low > 0.95 and high < 0.98
    axes = training_curves({'one': curves([[0.96, 0.965], [0.97, 0.98]])}).axes[0]
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    low, high = axes.get_ylim()
    assert low < heights.min() and heights.max() < high


def test_curves_join_the_epochs_that_were_evaluated():
    axes = training_curves({'one': curves([[np.nan, 0.8, np.nan, 0.9]])}).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[2, 0.8], [4, 0.9]])


@pytest.mark.filterwarnings('error')
def test_curves_without_a_number_to_draw_are_empty_panels():
    figure = training_curves({'diverged': curves(np.full((2, 3), np.nan))})
    assert len(render(figure, 'png')) > 1000


@pytest.mark.filterwarnings('error')
def test_weights_are_drawn_on_a_scale_around_zero_the_largest_first():
    weights = np.zeros((2, 3, 70))
    weights[..., 5], weights[..., 9] = -4, 2
    image = weights_plot({'one': weights}).axes[0].images[0]
    assert image.get_clim() == (-4, 4)
    mosaic = np.asarray(image.get_array().filled(np.nan))
    first_row = mosaic[0][~np.isnan(mosaic[0])]
    assert (first_row[:24] == -4).all() and (first_row[24:48] == 2).all()
    weights[0, 0, :3] = np.nan, np.inf, -8.0  # what is not finite leaves the others their scale
    assert weights_plot({'a': weights}).axes[0].images[0].get_clim() == (-8, 8)
    of_two_sizes = weights_plot({'a': weights, 'b': np.full((3, 4, weights.shape[-1]), 9.0)})
    images = [axes.images[0] for axes in of_two_sizes.axes[:2]]
    assert [image.get_clim() for image in images] == [(-9, 9)] * 2
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


def test_many_classes_are_colours_without_numbers():
    figure = confusion_matrices({'a': np.ones((30, 30), int)}, [*map(str, range(30))])
    axes = figure.axes[0]
    assert not axes.texts and axes.collections[0].get_array().shape == (30, 30)


def test_mistakes_stand_in_order_and_none_is_called_certain():
    mistakes = [(IMAGES[0], '4', '9', 0.99996), (IMAGES[0], '2', '7', 0.8765)]
    titles = [axes.get_title() for axes in mistakes_plot(mistakes).axes]
    assert titles[:2] == ['4 → 9\n0.999', '2 → 7\n0.876']
    colours = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    axes = mistakes_plot([(colours, '1', '2', 0.5)]).axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), colours)


def test_classes_are_called_by_their_names():
    names = ['cat', '<b>dog</b>', 'a very long name of a class']
    axes = confusion_matrices({'a': np.ones((3, 3), int)}, names).axes[0]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == [*names[:2], 'a very long nam…']
    (mistake, *_) = mistakes_plot([(IMAGES[0], 'automobile', 'aeroplane', 0.9)]).axes
    assert mistake.get_title() == 'automobile →\naeropla… 0.900'


@pytest.mark.parametrize('name', ['seen', 'curves', 'confusion', 'weights', 'mistakes'])
def test_any_label_is_drawn_large_enough_to_read_and_in_the_same_bytes(name):
    for file_format in ('svg', 'png'):
        one, other = (render(figures(NASTY)[name], file_format) for _ in range(2))
        assert one == other
        assert file_format == 'png' or not re.search(rb'[\x00-\x08\x0b-\x1f]', one)
    texts = figures('a method')[name].findobj(Text)
    assert min(text.get_fontsize() for text in texts if text.get_text()) >= 9


points = st.tuples(st.integers(0, 6), st.integers(0, 6))


@given(st.lists(points, max_size=12))
def test_the_front_is_every_point_that_none_dominates(costs_and_accuracies):
    def dominates(a, b):
        return a[0] <= b[0] and a[1] >= b[1] and a != b

    table = pd.DataFrame(costs_and_accuracies, columns=['cost', 'accuracy'], dtype=float)
    front = pareto_front(table)
    expected = {
        k
        for k, point in enumerate(costs_and_accuracies)
        if not any(dominates(other, point) for other in costs_and_accuracies)
    }
    assert set(front.index) == expected and len(front) == len(expected)
    assert front.cost.is_monotonic_increasing


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12).map(sorted), st.floats(0.01, 0.3))
def test_labels_are_moved_apart_and_stay_inside(heights, gap):
    placed = np.array(spread_out(heights, gap))
    room = min(gap, 1 / max(len(heights) - 1, 1))
    assert (np.diff(placed) >= room - 1e-9).all()
    assert placed.min() >= -1e-9 and placed.max() <= 1 + 1e-9


def points_table(*rows, hollow=False):
    """What `pareto_plot` draws, of (label, cost, accuracy)."""
    table = pd.DataFrame(rows, columns=['label', 'cost', 'accuracy'])
    return table.assign(low=np.nan, high=np.nan, hollow=hollow)


def test_trials_that_others_are_compared_with_are_outlines():
    points = points_table(('plain', 1.0, 0.9), ('dilated', 2.0, 0.95), hollow=[True, False])
    axes = pareto_plot(points, 'seconds').axes[0]
    faces = axes.collections[-1].get_facecolors()  # of the front, the cheapest first
    assert faces[0].tolist() == [1, 1, 1, 1] != faces[1].tolist()


def test_trials_far_below_a_front_of_several_are_counted():
    front = ('a', 1.0, 0.90), ('b', 2.0, 0.94), ('c', 3.0, 0.96)
    others = ('near', 4.0, 0.895), ('far', 4.0, 0.7), ('farther', 5.0, 0.2)
    axes = pareto_plot(points_table(*front, *others), 'seconds').axes[0]
    low, high = axes.get_ylim()
    assert 0.7 < low < 0.895 and high > 0.96
    texts = [text.get_text() for text in axes.texts]
    assert texts == ['2 trials below 0.891 not drawn', 'a', 'b', 'c']
    few = points_table(*front[:2], *others)  # two say little of a range
    axes = pareto_plot(few, 'seconds').axes[0]
    assert axes.get_ylim()[0] < 0.2 and len(axes.texts) == 2


def test_a_map_hatches_what_cannot_be_and_leaves_white_what_is_not_trained():
    rows = [('SAME', size, dilation, 1) for size in (2, 4) for dilation in (1, 2)]
    settings = pd.DataFrame(rows, columns=['padding', 'size', 'dilation', 'x'], dtype=object)
    assert map_axes(settings[['padding', 'x', 'size', 'dilation']]) == ['size', 'dilation']
    with_stride = pd.concat([settings.assign(stride=stride) for stride in (4, 7)])
    assert map_axes(with_stride[['stride', 'size', 'dilation']]) == ['size', 'dilation']
    assert map_axes(settings[['padding', 'size']]) == ['size']
    phases = settings.assign(phases=[[1, 2], [1, 2], 1, 1])  # a list is no number
    assert map_axes(phases[['size', 'phases', 'dilation']]) == ['size', 'dilation']
    data = settings.assign(
        panel='', accuracy=[0.9, np.nan, 0.8, np.nan], invalid=[False, True, False, False]
    )
    axes = accuracy_maps(data, 'size', 'dilation').axes[0]
    assert [text.get_text() for text in axes.texts] == ['0.900', '0.800']
    (hatched,) = (drawn for drawn in axes.collections if drawn.get_hatch())
    assert [path.get_extents().bounds for path in hatched.get_paths()] == [(1, 0, 1, 1)]


def test_a_sweep_draws_the_trials_that_others_are_compared_with_as_outlines(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(study_plots, 'pareto_plot', lambda points, *_: drawn.append(points))
    study = read_study(make_kind('sweep', tmp_path / 'sweep'))
    list(itertools.islice(study_plots.study_plots(study), 2))
    references = {comparison['reference'] for comparison in study.comparisons.values()}
    assert references and len(drawn) == 2
    for points in drawn:
        assert set(points.index[points.hollow]) == references
