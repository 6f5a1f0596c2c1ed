"""The reader of result files: whatever is damaged is an error of one line that names the file."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer_dilated import files
from mixer_dilated.reports.result_files import read_run, read_study
from mixer_dilated.training.run_folder import (
    RESULTS,
    file_checksums,
    read_summary,
    write_summary,
)
from tests.conftest import refuses
from tests.report_folders import digits_images, make_kind


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """The folders of a run, which has augmented images, and of a study."""
    kinds, (digits, _) = ('run', 'resolution'), digits_images()
    folders = {kind: make_kind(kind, tmp_path_factory.mktemp(kind) / 'folder') for kind in kinds}
    arrays = {'images': digits[:6], 'drawn': [digits[:6]] * 2, 'titles': ['flip', 'both, step 1']}
    np.savez(folders['run'] / 'augmented.npz', **arrays)
    return folders


@pytest.fixture
def copy(folders, tmp_path):
    """copy(kind): a folder to damage."""
    return lambda kind: shutil.copytree(folders[kind], tmp_path / 'copy')


def read(folder):
    """Reads every file of a run or of a study."""
    if (folder / 'study.json').exists():
        return read_study(folder)
    run = read_run(folder)
    return run.curves, run.predictions, run.class_names, run.augmented, run.weights


def images(*shape):
    return np.zeros(shape, np.uint8)


def rewrite_arrays(path, **changes):
    np.savez(path, **files.read_arrays(path) | changes)


def test_everything_in_whole_files_is_read(folders):
    curves, predictions, class_names, augmented, _ = read(folders['run'])
    assert len(curves) == 9 and predictions['labels'].shape == (300,)
    assert class_names == [*'0123456789']
    assert [*augmented] == ['original', 'flip', 'both, step 1']
    study = read(folders['resolution'])
    assert len(study.resolution) == 8 and set(study.exponents) == set(study.labels.values())


@pytest.mark.parametrize(
    ('kind', 'name', 'content', 'key'),
    [
        ('run', 'config.json', '{"model": {"sise": 4}}', 'sise'),
        ('run', 'config.json', '[]', ''),
        ('run', 'config.json', '{"model": {"patches": {"size": 99}}}', '99'),
        ('run', 'summary.json', '{"config_name": "x"', ''),
        ('run', 'summary.json', '{"config_name": "x"}', ''),
        ('run', 'metrics.jsonl', '{"epoch": 1}\n', 'seed'),
        ('run', 'metrics.jsonl', '{"epoch": true, "seed": "one"}\n', 'seed'),
        ('run', 'metrics.jsonl', None, ''),
        ('run', 'predictions.npz', 'not an archive', ''),
        ('run', 'predictions.npz', None, ''),
        ('run', 'preprocessing.json', '{"class_names": ["a", 2]}', 'class_names[1]'),
        ('run', 'preprocessing.json', '{"class_names": ["a", "b"]}', 'class_names'),
        ('run', 'weights.npz', '', ''),
        ('resolution', 'study.json', '{}', 'kind'),
        ('resolution', 'study.json', 'null', ''),
        ('resolution', 'study.json', '{"kind": "party", "title": "", "question": "",'
         ' "command": "", "axes": [], "cells": []}', 'party'),
        ('resolution', 'statistics.json', '{"comparisons": {"cell-0": 3}}', 'comparisons.cell-0'),
        ('resolution', 'statistics.json', '{"verdicts": [3]}', 'verdicts[0]'),
        ('resolution', 'statistics.json', '{"fits": {"cell-0": {}}}', 'num_tokens'),
        ('resolution', 'results.jsonl', '{"cell": "cell-0", "epoch_seconds": NaN}\n', 'nan'),
        ('resolution', 'results.jsonl', '{"cell": "cell-0", "epoch_seconds": 1e308}\n', '1e+308'),
        ('resolution', 'resolution.jsonl', '{"cell": "cell-0", "image_size": "large"}\n', 'large'),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named_with_its_key(copy, kind, name, content, key):
    path = copy(kind) / name
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_text(content)
    with refuses(path, key):
        read(path.parent)


@pytest.mark.parametrize('name', RESULTS)
def test_a_file_of_another_run_is_refused_by_its_checksum(copy, name):
    folder = copy('run')
    write_summary(folder, {**read_run(folder).summary, 'files': file_checksums(folder, RESULTS)})
    read(folder)
    if name == 'metrics.jsonl':
        (folder / name).write_text((folder / name).read_text() + '\n')
    else:
        rewrite_arrays(folder / name, another=np.zeros(1))
    with refuses(folder / name, 'checksum'):
        read(folder)


@pytest.mark.parametrize('key', ['files', 'num_epochs', 'skipped_steps'])
def test_a_summary_without_what_a_run_goes_by_is_refused(copy, key):
    folder = copy('run')
    summary = read_run(folder).summary
    del summary[key]
    write_summary(folder, summary)
    with refuses(folder / 'summary.json', key):
        read_summary(folder)


@pytest.mark.parametrize(
    ('file', 'name'), [('resolution.jsonl', 'cell-9'), ('study.json', '../cell-0')]
)
def test_a_trial_that_there_cannot_be_is_refused(copy, file, name):
    path = copy('resolution') / file
    path.write_text(path.read_text().replace('cell-0', name))
    with refuses(path, name):
        read(path.parent)


@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 0.99), put=st.sampled_from([b'', b'null', None]))
def test_arrays_that_are_cut_off_are_refused(folders, tmp_path_factory, cut, put):
    folder = tmp_path_factory.getbasetemp() / 'cut'
    shutil.copytree(folders['run'], folder, dirs_exist_ok=True)
    whole = (folders['run'] / 'augmented.npz').read_bytes()
    (folder / 'augmented.npz').write_bytes(whole[: int(cut * len(whole))] if put is None else put)
    with refuses(folder / 'augmented.npz'):
        _ = read_run(folder).augmented


@pytest.mark.parametrize(
    ('name', 'changes'),
    [
        ('augmented', {'images': np.zeros((6, 8, 8, 1), np.float32)}),
        ('augmented', {'images': images(6, 9, 8, 1), 'drawn': images(2, 6, 9, 8, 1)}),
        ('augmented', {'images': images(0, 8, 8, 1), 'drawn': images(2, 0, 8, 8, 1)}),
        ('augmented', {'drawn': images(6, 8, 8, 1)}),
        ('augmented', {'titles': np.array(['one'])}),
        ('weights', {'stem/kernel': np.zeros((2, 2, 1, 8), np.complex64)}),
        ('predictions', {'labels': np.zeros(299, int)}),
        ('predictions', {'labels': np.full(300, 10)}),
        ('predictions', {'shown_index': np.array([300] * 24)}),
        ('predictions', {'class_images': images(10, 8, 9, 1)}),
        *(('predictions', {'labels': np.ones(300, dtype)})
          for dtype in ('bool', 'U3', 'M8[D]', [('a', 'i4')], 'f4')),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_are_refused(copy, name, changes):
    path = copy('run') / f'{name}.npz'
    rewrite_arrays(path, **changes)
    with refuses(path, name):
        read(path.parent)
