"""What a step costs on larger images."""

import numpy as np
import pytest
from scipy import stats

from mixer_dilated.errors import BusyError
from mixer_dilated.studies.study import run_study
from mixer_dilated.training.run_folder import lock_folder
from tests.conftest import read_lines, refuses
from tests.studies.conftest import METHODS, small_sweep

pytestmark = pytest.mark.slow


def test_resolution_is_studied_by_one_process(tmp_path):
    with lock_folder(tmp_path / 'study'), refuses(f'--workdir={tmp_path}', error=BusyError):
        run_study(small_sweep(kind='resolution'), tmp_path / 'study', command='')


def test_resolution_measures_every_side_and_fits_its_growth(tmp_path):
    sweep = small_sweep(
        METHODS[:2],
        kind='resolution',
        reference={'method': 'plain'},
        batch=8,
        **{'optimizer.warmup_steps': 20},  # more than the steps that are timed
    )
    statistics = run_study(sweep, tmp_path / 'study', command='run')
    rows = read_lines(tmp_path / 'study' / 'resolution.jsonl')
    assert [(row['cell'], row['image_size']) for row in rows] == [
        (trial, side) for side in (8, 16) for trial in ('method=plain', 'method=dilated')
    ]
    for row in rows:
        assert row['num_tokens'] == (-(-row['image_size'] // 3)) ** 2
        assert 0 < row['step_seconds_low'] <= row['step_seconds'] <= row['step_seconds_high']
        assert row['memory_bytes'] > 0
        assert row['step_seconds'] == np.median(row['round_seconds'])
    plain = [row for row in rows if row['cell'] == 'method=plain']
    slope = stats.linregress(
        np.log([row['image_size'] for row in plain]), np.log([row['num_tokens'] for row in plain])
    ).slope
    np.testing.assert_allclose(statistics['fits']['method=plain']['num_tokens']['exponent'], slope)
    assert statistics['verdicts'][0].count(' of the ') == 3
