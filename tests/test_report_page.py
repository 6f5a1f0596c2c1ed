"""The page of a run or study: whole, safe, the same again, and clear about what is missing."""

import html.parser
import itertools
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer_dilated.errors import UserError
from mixer_dilated.patches.geometry import Patches
from mixer_dilated.reports.page.report import write_report
from mixer_dilated.reports.plots import study_plots
from mixer_dilated.reports.plots.heat_maps import accuracy_maps, confusion_matrix, map_axes
from mixer_dilated.reports.plots.image_grids import weights_plot
from mixer_dilated.reports.plots.pareto import pareto_front, pareto_plot, spread_out
from mixer_dilated.reports.plots.patch_plots import show_patches
from mixer_dilated.reports.result_files import read_study
from tests.conftest import ROOT, small_config
from tests.report_folders import make_run, make_study

NASTY = '<script>alert(1)</script> & $\\badmath{$ "x'
KINDS = ('run', 'table1', 'sweep', 'little_data', 'resolution', 'robustness')


@pytest.fixture(scope='session')
def digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    images = (data.images[:300, ..., None] * 15.9375).astype(np.uint8)
    return images, data.target[:300]


def config(**changes):
    return small_config(num_seeds=3, **changes)


def make(kind, folder, digits, **changes):
    """The folder of a study (or run) of that kind, with labels that want escaping."""
    one, other = config(), config(**{'model.patches.dilation': 1})
    if kind == 'run':
        make_run(folder, one, *digits, name=NASTY)
    elif kind == 'sweep':
        cells = {
            f'{NASTY} {size} {dilation}': (
                {'size': size, 'dilation': dilation, 'padding': 'SAME'},
                config(**{'model.patches.size': size, 'model.patches.dilation': dilation})
                if size * dilation < 6
                else f'too large: {NASTY}',
                0.7 + 0.05 * size,
            )
            for size in (1, 2, 3)
            for dilation in (1, 2)
        }
        make_study(folder, kind, cells, *digits, reference=f'{NASTY} 1 1', **changes)
    elif kind == 'little_data':
        cells = {
            f'{method} {images}': ({'method': method, 'train_images': images}, which, accuracy)
            for method, which in ((NASTY, one), ('plain', other))
            for images, accuracy in ((100, 0.7), (300, 0.8))
        }
        make_study(folder, kind, cells, *digits, **changes)
    else:
        cells = {
            label: ({'method': label}, which, 0.8)
            for label, which in ((NASTY, one), ('plain', other))
        }
        make_study(folder, kind, cells, *digits, reference='plain', **changes)
    return folder


@pytest.fixture(scope='session')
def folders(tmp_path_factory, digits):
    """{kind: folder with its report}."""
    made = {}
    for kind in KINDS:
        made[kind] = make(kind, tmp_path_factory.mktemp(kind) / 'folder', digits)
        assert write_report(made[kind]) == made[kind] / 'report.html'
    return made


class Page(html.parser.HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ''
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize('kind', KINDS)
def test_a_page_is_whole_and_loads_nothing(folders, kind):
    text = (folders[kind] / 'report.html').read_text()
    page = Page(text)
    assert text.startswith('<!DOCTYPE html>') and text.rstrip().endswith('</html>')
    assert not {'script', 'link', 'iframe', 'img', 'object', 'metadata'} & set(page.tags)
    links = [value for name, value in page.attributes if name in ('src', 'href', 'xlink:href')]
    assert all(re.match(r'(#|data:image/png;base64,|[a-z_0-9]+\.png$)', link) for link in links)
    assert not any(name.startswith('on') for name, _ in page.attributes)
    assert not re.search(r'url\((?!#)|@import', text)
    ids = [value for name, value in page.attributes if name == 'id']
    assert len(ids) == len(set(ids))
    plots = {link for link in links if link.endswith('.png')}
    assert len(plots) == page.tags.count('figure') > 0
    for plot in plots:
        assert (folders[kind] / plot).read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize('kind', KINDS)
def test_what_files_hold_is_text_on_the_page(folders, kind):
    text = (folders[kind] / 'report.html').read_text()
    assert '<script' not in text.lower() and NASTY in Page(text).text
    if kind != 'run':
        assert 'One & <all> cost $x$.' in Page(text).text


@pytest.mark.parametrize('kind', ['run', 'sweep'])
def test_the_same_files_give_the_same_bytes(folders, kind, tmp_path):
    again = tmp_path / 'folder'
    shutil.copytree(folders[kind], again, ignore=shutil.ignore_patterns('*.png', 'report.html'))
    write_report(again)
    for path in (*folders[kind].glob('*.png'), folders[kind] / 'report.html'):
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_a_report_needs_no_jax(folders):
    program = (
        'import pathlib, sys; from mixer_dilated.reports.page.report import write_report; '
        f'write_report(pathlib.Path({str(folders["resolution"])!r})); '
        "sys.exit('jax' in sys.modules or 'tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, '-c', program], cwd=ROOT, check=True, timeout=120)


@pytest.mark.slow
def test_table1_stands_beside_the_papers_figures(tmp_path, digits):
    images = digits[0].repeat(3, axis=1).repeat(3, axis=2)  # large enough for windows of 7
    patches = {'baseline': (4, 1, 4), 'proposed': (4, 2, 7), 'control': (7, 1, 7)}
    cells = {
        name: ({'method': name}, _mnist_patches(*values), 0.9) for name, values in patches.items()
    }
    make_study(tmp_path / 'a', 'table1', cells, images, digits[1], reference='baseline')
    text = Page(write_report(tmp_path / 'a').read_text()).text
    assert all(f'{figure}' in text for figure in (0.868, 0.943, 269, 0.877, 0.961, 262))
    summary = json.loads((tmp_path / 'a/cells/cell-0/summary.json').read_text())
    accuracies = [each['test_accuracy'] for each in summary['results']]
    assert f'{np.mean(accuracies):.4f} ± {np.std(accuracies, ddof=1):.4f}' in text


def _mnist_patches(size, dilation, stride):
    names = {'size': size, 'dilation': dilation, 'stride': stride, 'padding': 'VALID'}
    return config(**{f'model.patches.{name}': value for name, value in names.items()})


@pytest.mark.slow
@pytest.mark.parametrize(('kind', 'there'), [('sweep', '2 of its 5'), ('table1', '0 of its 2')])
def test_an_unfinished_study_says_how_much_of_it_is_there(tmp_path, digits, kind, there):
    unfinished = 4 if kind == 'sweep' else 2
    folder = make(kind, tmp_path / 'a', digits, unfinished=unfinished)
    text = Page(write_report(folder).read_text()).text
    assert f'{there} trials are there' in text


def test_impossible_trials_are_listed_with_the_reason(folders):
    text = Page((folders['sweep'] / 'report.html').read_text()).text
    assert 'too large' in text and '1 trial cannot be' in text


@pytest.mark.parametrize(
    ('name', 'content'),
    [
        ('config.json', '{"model": {"sise": 4}}'),
        ('config.json', '[]'),
        ('summary.json', '{"config_name": "x"'),
        ('summary.json', '{"config_name": "x"}'),
        ('metrics.jsonl', '{"epoch": 1}\n'),
        ('metrics.jsonl', None),
        ('predictions.npz', 'not an archive'),
        ('predictions.npz', None),
        ('weights.npz', ''),
    ],
)
def test_a_damaged_run_is_refused_in_a_line_that_names_the_file(folders, tmp_path, name, content):
    _refuses(folders['run'], tmp_path, name, content)


@pytest.mark.parametrize(
    ('name', 'content'),
    [
        ('study.json', '{}'),
        ('study.json', 'null'),
        ('study.json', '{"kind": "party", "title": "", "question": "", "command": "",'
         ' "axes": [], "cells": []}'),
        ('statistics.json', '{"cells": {"cell-0": 3}}'),
        ('statistics.json', '{"verdicts": [3]}'),
        ('resolution.jsonl', '{"cell": "cell-0", "image_size": "large"}\n'),
    ],
)  # fmt: skip
def test_a_damaged_study_is_refused_in_a_line_that_names_the_file(folders, tmp_path, name, content):
    _refuses(folders['resolution'], tmp_path, name, content)


def _refuses(folder, tmp_path, name, content):
    copy = tmp_path / 'copy'
    shutil.copytree(folder, copy)
    (copy / name).unlink()
    if content is not None:
        (copy / name).write_text(content)
    with pytest.raises(UserError) as caught:
        write_report(copy)
    assert name in str(caught.value) and '\n' not in str(caught.value)


def test_a_folder_without_run_or_study_is_refused(tmp_path, folders):
    with pytest.raises(UserError, match='no run or study there'):
        write_report(tmp_path)
    with pytest.raises(UserError, match='no run or study there'):
        write_report(tmp_path / 'nowhere')
    shutil.copy(folders['run'] / 'config.json', tmp_path)
    with pytest.raises(UserError, match='not finished'):
        write_report(tmp_path)


def test_branches_that_add_tokens_have_no_plot_of_token_mixing(tmp_path, digits):
    several = config(**{
        'model.branches': ({'dilation': 1}, {'dilation': 2}), 'model.branch_merge': 'tokens',
    })  # fmt: skip
    make_run(tmp_path / 'a', several, *digits)
    assert 'form no one grid' in Page(write_report(tmp_path / 'a').read_text()).text
    assert not list((tmp_path / 'a').glob('token_mixing*'))


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


def test_a_confusion_matrix_counts_seeds_together():
    labels = np.array([0, 1, 2])
    probabilities = np.eye(3)[[[0, 1, 1], [0, 2, 1]]]
    np.testing.assert_array_equal(
        confusion_matrix(labels, probabilities), [[2, 0, 0], [0, 1, 1], [0, 2, 0]]
    )


def test_the_plot_colours_the_sampled_pixels_and_no_others():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    patches = Patches(size=2, dilation=2, stride=3)
    show_patches(axes, np.zeros((9, 9, 1), np.uint8), (patches,))
    canvas = np.asarray(axes.images[0].get_array())
    coloured = np.ptp(canvas, axis=-1) > 1e-6
    np.testing.assert_array_equal(coloured, patches.coverage((9, 9)) > 0)
    orange = (canvas[..., 0] > canvas[..., 2]) & coloured
    chosen = patches.pixel_indices((9, 9))[len(patches.pixel_indices((9, 9))) // 2]
    assert set(map(tuple, np.argwhere(orange))) == set(map(tuple, chosen))


def test_a_sweep_draws_the_trials_that_others_are_compared_with_as_outlines(folders, monkeypatch):
    drawn = []
    monkeypatch.setattr(study_plots, 'pareto_plot', lambda points, _: drawn.append(points))
    study = read_study(folders['sweep'])
    list(itertools.islice(study_plots.study_plots(study), 2))
    references = {comparison['reference'] for comparison in study.comparisons.values()}
    assert references and len(drawn) == 2
    for points in drawn:
        assert set(points.index[points.hollow]) == references


def points_table(*rows, hollow=False):
    """What `pareto_plot` draws, of (label, cost, accuracy)."""
    table = pd.DataFrame(rows, columns=['label', 'cost', 'accuracy'])
    return table.assign(low=np.nan, high=np.nan, hollow=hollow)


def test_trials_that_others_are_compared_with_are_outlines():
    points = points_table(('plain', 1.0, 0.9), ('dilated', 2.0, 0.95), hollow=[True, False])
    axes = pareto_plot(points, 'seconds').axes[0]
    faces = {line.get_xdata()[0]: line.get_markerfacecolor() for line in axes.lines[:2]}
    assert faces[1.0] == 'white' != faces[2.0]


def test_trials_far_below_a_front_of_several_are_counted():
    front = ('a', 1.0, 0.90), ('b', 2.0, 0.94), ('c', 3.0, 0.96)
    others = ('near', 4.0, 0.895), ('far', 4.0, 0.7), ('farther', 5.0, 0.2)
    axes = pareto_plot(points_table(*front, *others), 'seconds').axes[0]
    low, high = axes.get_ylim()
    assert 0.7 < low < 0.895 and high > 0.96
    assert [text.get_text() for text in axes.texts] == ['2 trials below 0.891 not drawn']
    few = points_table(*front[:2], *others)  # two say little of a range
    axes = pareto_plot(few, 'seconds').axes[0]
    assert axes.get_ylim()[0] < 0.2 and not axes.texts


def test_a_map_hatches_what_cannot_be_and_leaves_white_what_is_not_trained():
    rows = [('SAME', size, dilation, 1) for size in (2, 4) for dilation in (1, 2)]
    settings = pd.DataFrame(rows, columns=['padding', 'size', 'dilation', 'x'], dtype=object)
    assert map_axes(settings[['padding', 'x', 'size', 'dilation']]) == ('size', 'dilation')
    with_stride = pd.concat([settings.assign(stride=stride) for stride in (4, 7)])
    assert map_axes(with_stride[['stride', 'size', 'dilation']]) == ('size', 'dilation')
    assert map_axes(settings[['padding', 'size']]) is None
    data = settings.assign(
        panel='', accuracy=[0.9, np.nan, 0.8, np.nan], impossible=[False, True, False, False]
    )
    axes = accuracy_maps(data, 'size', 'dilation').axes[0]
    assert [text.get_text() for text in axes.texts] == ['0.900', '0.800']
    (hatched,) = (drawn for drawn in axes.collections if drawn.get_hatch())
    assert [path.get_extents().bounds for path in hatched.get_paths()] == [(1, 0, 1, 1)]


def test_weights_are_drawn_on_a_scale_around_zero_the_largest_first():
    weights = np.zeros((2, 3, 70))
    weights[..., 5], weights[..., 9] = -4, 2
    image = weights_plot({'one': weights}).axes[0].images[0]
    assert image.get_clim() == (-4, 4)
    mosaic = np.asarray(image.get_array().filled(np.nan))
    first_row = mosaic[0][~np.isnan(mosaic[0])]
    assert (first_row[:24] == -4).all() and (first_row[24:48] == 2).all()
