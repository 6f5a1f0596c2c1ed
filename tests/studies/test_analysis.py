"""The statistics of a study: corrected p values, the order of sentences."""

import re
import types

from mixer_dilated.studies.analysis import analyze
from tests.studies.test_stats import holm


def table_of(accuracies, references=()):
    """Trials and rows of `results.jsonl` from {(method, train_images): accuracies by seed}."""
    trials, rows = [], []
    for (method, images), by_seed in accuracies.items():
        trial = types.SimpleNamespace(name=f'{method}{images}', label=f'{method} {images}')
        trial.settings = {'method': method, 'train_images': images}
        trial.invalid, trial.reference = '', dict(references).get(trial.name, '')
        trials.append(trial)
        for seed, accuracy in enumerate(by_seed):
            row = {'cell': trial.name, 'seed': seed, 'impossible': ''}
            rows.append({**row, 'test_accuracy': accuracy, 'train_accuracy': accuracy})
    return trials, rows


def test_a_trial_without_a_validation_split_has_no_validation_accuracy():
    trials, rows = table_of({('plain', 10): (0.5, 0.6), ('plain', 20): (0.6, 0.7)})
    for row in rows[2:]:
        row['val_accuracy'] = 0.75
    cells = analyze('sweep', trials, rows, {})['cells']
    assert 'val_accuracy' not in cells['plain10']
    assert cells['plain20']['val_accuracy']['mean'] == 0.75


def test_p_values_are_corrected_within_what_is_judged_together():
    accuracies = {
        ('plain', 10): (0.50, 0.52, 0.54),
        ('plain', 20): (0.60, 0.61, 0.62),
        ('dilated', 10): (0.53, 0.56, 0.56),
        ('dilated', 20): (0.70, 0.72, 0.71),
        ('wide', 10): (0.51, 0.51, 0.52),
    }
    references = {'dilated10': 'plain10', 'dilated20': 'plain20', 'wide10': 'plain10'}
    table = table_of(accuracies, references)
    of_sweep = [*analyze('sweep', *table, {})['comparisons'].values()]
    p = [row['p'] for row in of_sweep]
    assert [row['p_holm'] for row in of_sweep] == holm(p)
    of_little_data = analyze('little_data', *table, {})['comparisons'].values()
    assert [row['p_holm'] for row in of_little_data] == [*holm(p[:2]), None]


def test_of_many_comparisons_the_significant_ones_come_first():
    steps = (0.0, 0.001, 0.002)
    accuracies = {('plain', 10): [0.5 + step for step in steps]}
    for k, gain in enumerate((0.01, -0.2, 0.1, 0.3, 0.02, -0.01, 0.05)):
        spread = 1 if abs(gain) >= 0.1 else 30  # few points are not significant
        accuracies[f'way{k} ', 10] = [0.5 + gain - spread * step / 3 for step in steps]
    trials, rows = table_of(accuracies, {f'way{k} 10': 'plain10' for k in range(7)})
    summary, *sentences = analyze('sweep', trials, rows, {})['verdicts']
    assert 'More accurate: 2; less accurate: 1; not significant: 4' in summary
    order = ''.join(re.search(r'way(\d)', sentence)[1] for sentence in sentences)
    assert order == '3216405'
