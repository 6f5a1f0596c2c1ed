"""The statistics of a study: corrected p values, ratios of times, the order of sentences."""

import re
import types

from mixer_dilated.studies.analysis import analyze
from tests.studies.test_stats import holm


def table_of(accuracies):
    """Trials and rows of `results.jsonl` from {(method, train_images): accuracies by seed}."""
    trials = [
        types.SimpleNamespace(
            name=f'{method}{images}',
            label=f'{method} {images}',
            invalid='',
            settings={'method': method, 'train_images': images},
        )
        for method, images in accuracies
    ]
    rows = [
        {'cell': trial.name, 'seed': seed, 'impossible': '',
         'test_accuracy': accuracy, 'train_accuracy': accuracy}
        for trial, by_seed in zip(trials, accuracies.values(), strict=True)
        for seed, accuracy in enumerate(by_seed)
    ]  # fmt: skip
    return trials, rows


def test_a_trial_without_a_validation_split_has_no_validation_accuracy():
    trials, rows = table_of({('plain', 10): (0.5, 0.6), ('plain', 20): (0.6, 0.7)})
    for row in rows[2:]:
        row['val_accuracy'] = 0.75
    cells = analyze('sweep', trials, rows, {}, {})['cells']
    assert 'val_accuracy' not in cells['plain10']
    assert cells['plain20']['val_accuracy']['mean'] == 0.75


def test_p_values_are_corrected_within_what_is_judged_together():
    trials, rows = table_of(
        {
            ('plain', 10): (0.50, 0.52, 0.54),
            ('plain', 20): (0.60, 0.61, 0.62),
            ('dilated', 10): (0.53, 0.56, 0.56),
            ('dilated', 20): (0.70, 0.72, 0.71),
            ('wide', 10): (0.51, 0.51, 0.52),
        }
    )
    references = {'dilated10': 'plain10', 'dilated20': 'plain20', 'wide10': 'plain10'}

    def corrected(kind):
        comparisons = analyze(kind, trials, rows, references, {})['comparisons']
        p = {name: comparisons[name]['p'] for name in references}
        return p, {name: comparisons[name]['p_holm'] for name in references}

    p, of_sweep = corrected('sweep')
    assert list(of_sweep.values()) == holm(list(p.values()))
    _, of_little_data = corrected('little_data')
    pair = holm([p['dilated10'], p['dilated20']])
    assert list(of_little_data.values()) == [*pair, None]


def test_of_many_comparisons_the_significant_ones_come_first():
    steps = (0.0, 0.001, 0.002)
    accuracies = {('plain', 10): [0.5 + step for step in steps]}
    for k, gain in enumerate((0.01, -0.2, 0.1, 0.3, 0.02, -0.01, 0.05)):
        spread = 1 if abs(gain) >= 0.1 else 30  # few points are not significant
        accuracies[f'way{k} ', 10] = [0.5 + gain - spread * step / 3 for step in steps]
    trials, rows = table_of(accuracies)
    references = {trial.name: 'plain10' for trial in trials[1:]}
    summary, *sentences = analyze('sweep', trials, rows, references, {})['verdicts']
    assert 'More accurate: 2; less accurate: 1; not significant: 4' in summary
    order = [re.search(r'way\d', sentence)[0] for sentence in sentences]
    assert order[:3] == ['way3', 'way2', 'way1']
    assert order[3:] == ['way6', 'way4', 'way0', 'way5']
