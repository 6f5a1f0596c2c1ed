"""Trials on corrupted images."""

import shutil

import pytest

from mixer_dilated.data.corruption import CORRUPTIONS
from mixer_dilated.studies.study import run_study
from tests.conftest import read_lines, refuses
from tests.studies.conftest import METHODS, small_sweep

pytestmark = pytest.mark.slow


def test_robustness_at_severity_zero_is_the_test_accuracy(tmp_path):
    sweep = small_sweep(METHODS[:2], kind='robustness', reference={'method': 'plain'})
    statistics = run_study(sweep, tmp_path / 'study', command='run')
    clean = {
        (row['cell'], row['seed']): row['test_accuracy']
        for row in read_lines(tmp_path / 'study' / 'results.jsonl')
    }
    rows = read_lines(tmp_path / 'study' / 'robustness.jsonl')
    severities = sum(len(corruption.severities) for corruption in CORRUPTIONS)
    assert len(rows) == 2 * 2 * severities
    for row in rows:
        if row['strength'] == 0:
            assert row['accuracy'] == clean[row['cell'], row['seed']]
    assert any('Occlusion of 12' in sentence for sentence in statistics['verdicts'])
    shutil.rmtree(tmp_path / 'study' / 'cells' / 'method=plain' / 'checkpoints')
    with refuses('cells/method=plain'):
        run_study(sweep, tmp_path / 'study', command='run')
