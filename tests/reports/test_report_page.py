"""The page of a run or study: whole, safe, the same again, and clear about what is missing."""

import html.parser
import json
import re
import shutil

import numpy as np
import pytest

from mixer_dilated.errors import printable
from mixer_dilated.reports.page.report import write_report
from tests.conftest import refuses, run_python, small_config
from tests.report_folders import (
    KINDS,
    NASTY,
    digits_images,
    make_kind,
    make_run,
    make_study,
    patches,
)


@pytest.fixture(scope='session')
def folders(tmp_path_factory):
    """{kind: folder with its report}, made when it is asked for: each worker has its own."""

    class Folders(dict):
        def __missing__(self, kind):
            folder = self[kind] = make_kind(kind, tmp_path_factory.mktemp(kind) / 'folder')
            assert write_report(folder) == folder / 'report.html'
            return folder

    return Folders()


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


# The other kinds draw dozens of plots.
SOME = 'run', 'table1', 'resolution'
PAGES = [kind if kind in SOME else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]


@pytest.mark.parametrize('kind', PAGES)
def test_a_page_is_whole_loads_nothing_and_holds_files_as_text(folders, kind):
    text = (folders[kind] / 'report.html').read_text()
    page = Page(text)
    assert text.startswith('<!DOCTYPE html>') and text.rstrip().endswith('</html>')
    assert not {'script', 'link', 'iframe', 'img', 'object', 'metadata'} & set(page.tags)
    links = [value for name, value in page.attributes if name in ('src', 'href', 'xlink:href')]
    assert all(re.match(r'(#|data:image/png;base64,|[a-z_0-9]+\.png$)', link) for link in links)
    assert not any(name.startswith('on') for name, _ in page.attributes)
    assert not re.search(r'url\((?!#)|@import', text)
    ids = [value for name, value in page.attributes if name == 'id']
    assert len(ids) == len(set(ids))  # those of two plots never meet, and every reference is met
    assert {*re.findall(r'(?:href="#|url\(#)([^")]+)', text)} <= {*ids}
    plots = {link for link in links if link.endswith('.png')}
    assert len(plots) == page.tags.count('figure') > 0
    for plot in plots:
        assert (folders[kind] / plot).read_bytes().startswith(b'\x89PNG')
    widths = re.findall(r'<section style="width: ([\d.]+)in">', text)  # above a plot, so it fits
    assert [float(width) * 72 for width in widths] == pytest.approx(
        [float(width) for width in re.findall(r'<svg [^>]*\bwidth="([\d.]+)pt"', text)]
    )
    assert printable(NASTY) in page.text and not {'\u202e', '\x1b'} & {*text}
    assert ('One & <all> cost $x$.' in page.text) == (kind != 'run')


@pytest.mark.parametrize('kind', ['run', pytest.param('sweep', marks=pytest.mark.slow)])
def test_the_same_files_give_the_same_bytes(folders, kind, tmp_path):
    again = tmp_path / 'folder'
    shutil.copytree(folders[kind], again, ignore=shutil.ignore_patterns('*.png', 'report.html'))
    write_report(again)
    for path in (*folders[kind].glob('*.png'), folders[kind] / 'report.html'):
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


@pytest.mark.slow
def test_a_report_needs_no_jax(folders):
    program = (
        'import pathlib, sys; from mixer_dilated.reports.page.report import write_report; '
        f'write_report(pathlib.Path({str(folders["resolution"])!r})); '
        "sys.exit('jax' in sys.modules or 'tensorflow' in sys.modules)"
    )
    done = run_python('-c', program)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_table1_stands_beside_the_papers_figures(tmp_path):
    images, labels = digits_images()
    images = images.repeat(3, axis=1).repeat(3, axis=2)  # large enough for windows of 7
    methods = {'baseline': (4, 1, 4), 'proposed': (4, 2, 7), 'control': (7, 1, 7)}
    trials = {}
    for name, (size, dilation, stride) in methods.items():
        changes = patches(padding='VALID', size=size, dilation=dilation, stride=stride)
        trials[name] = {'method': name}, small_config(num_seeds=3, **changes), 0.9
    make_study(tmp_path / 'a', 'table1', trials, images, labels, reference={'method': 'baseline'})
    text = Page(write_report(tmp_path / 'a').read_text()).text
    assert all(f'{figure}' in text for figure in (0.868, 0.943, 269, 0.877, 0.961, 262))
    summary = json.loads((tmp_path / 'a/cells/cell-0/summary.json').read_text())
    accuracies = [result['test_accuracy'] for result in summary['results']]
    assert f'{np.mean(accuracies):.4f} ± {np.std(accuracies, ddof=1):.4f}' in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ('kind', 'unfinished', 'there'), [('sweep', 4, '2 of its 5'), ('table1', 2, '0 of its 2')]
)
def test_an_unfinished_study_says_how_much_is_there_and_what_is_invalid(
    tmp_path, kind, unfinished, there
):
    folder = make_kind(kind, tmp_path / 'a', unfinished=unfinished)
    text = Page(write_report(folder).read_text()).text
    assert f'{there} trials are there' in text
    assert ('too large' in text and '1 invalid trial' in text) == (kind == 'sweep')


def test_a_folder_without_run_or_study_is_refused(tmp_path, folders):
    for folder in (tmp_path, tmp_path / 'nowhere'):
        with refuses(folder):
            write_report(folder)
    shutil.copy(folders['run'] / 'config.json', tmp_path)
    with refuses(tmp_path, 'summary.json'):
        write_report(tmp_path)


def test_branches_that_add_tokens_have_no_plot_of_token_mixing(tmp_path):
    branches = {'model.branches': ({'size': 3}, {'dilation': 2}), 'model.branch_merge': 'tokens'}
    make_run(tmp_path / 'a', small_config(**branches), *digits_images())
    assert 'form no one grid' in Page(write_report(tmp_path / 'a').read_text()).text
    assert not list((tmp_path / 'a').glob('token_mixing*'))
