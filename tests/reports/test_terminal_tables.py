"""Terminal tables: they fit 80 columns."""

import pytest

from mixer_dilated.reports.tables.run_tables import print_evaluation, print_run
from mixer_dilated.reports.tables.summary_table import print_summary
from mixer_dilated.training.setup import create_setup
from tests.conftest import small_config

SUMMARY = {
    'skipped_steps': 12345, 'config_name': 'mnist_dilated_with_a_long_name', 'num_tokens': 3136,
    'num_params': 431_000_000, 'train_examples': 1281167, 'test_examples': 50000,
    'seconds': {'startup': 12.3, 'compile': 123.4, 'train': 123456.7, 'epoch_median': 12345.6},
}  # fmt: skip
EVALUATION = {
    'dataset': 'imagenet2012', 'split': 'validation', 'examples': 50000, 'step': 375000,
    'epoch': 300, 'calibration': {'split': 'train[1200000:1250000]', 'examples': 50000},
    'classes': [{'name': 'a long name', 'examples': 50, 'accuracy': 0.5}] * 10,
}  # fmt: skip
OF_SEED = {'train_correct': 1281000, 'test_correct': 49999, 'correct': 49999, 'loss': 1.0}
OF_SEED |= {'ece': 0.5, 'temperature': 1.5, 'calibrated_loss': 0.9, 'calibrated_ece': 0.25}


@pytest.mark.parametrize('seeds', [1, 10])
def test_the_result_of_a_large_run_fits_80_columns(capsys, seeds):
    print_run({**SUMMARY, 'results': [OF_SEED] * seeds})
    print_evaluation({**EVALUATION, 'results': [OF_SEED] * min(seeds, 5)})
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert not any('…' in line and '0.' not in line for line in lines)  # nothing is cut short


def test_summary_of_several_branches(capsys):
    branches = {'model.branches': ({'dilation': 1}, {'dilation': 2})}
    setup = create_setup(small_config(**branches, **{'model.branch_merge': 'tokens'}))
    memory = {'arguments': 2**20, 'temporary': 3 * 2**20}
    print_summary(setup, memory, {'seeds': 1, 'data': 1, 'model': 1}, [])
    text = capsys.readouterr().out
    assert text.count('window') == 2 and 'stem_0' in text and 'stem_1' in text
    assert 'digits: 8×8×1, 18 tokens' in text
    assert '4.0 MiB' in text and '1.0 for images and state, 3.0 for activations' in text
