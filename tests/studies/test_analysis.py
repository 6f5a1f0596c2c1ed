"""Statistics of a study: corrected p values, ratios of times, the order of sentences."""

import re
import types

import pytest

from mixer_dilated.studies import results
from mixer_dilated.studies.verdicts import comparisons_summary
from mixer_dilated.studies.stats import correct_together, holm


def table_of(accuracies):
    """Cells and rows of `results.jsonl` from {(method, train_images): accuracies by seed}."""
    cells = [
        types.SimpleNamespace(
            name=f'{method}{images}',
            label=f'{method} {images}',
            impossible='',
            settings={'method': method, 'train_images': images},
        )
        for method, images in accuracies
    ]
    rows = [
        {'cell': cell.name, 'seed': seed, 'impossible': '',
         'test_accuracy': accuracy, 'train_accuracy': accuracy}
        for cell, found in zip(cells, accuracies.values(), strict=True)
        for seed, accuracy in enumerate(found)
    ]  # fmt: skip
    return cells, rows


def test_p_values_are_corrected_within_what_is_judged_together():
    cells, rows = table_of(
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
        found = results.statistics(kind, cells, rows, references, {})['comparisons']
        p = {name: found[name]['p'] for name in references}
        return p, {name: found[name].get('p_holm') for name in references}

    p, of_sweep = corrected('sweep')
    assert list(of_sweep.values()) == holm(list(p.values()))
    _, of_little_data = corrected('little_data')
    pair = holm([p['dilated10'], p['dilated20']])
    assert list(of_little_data.values()) == [*pair, None]


def test_of_many_comparisons_the_settled_ones_are_told_first():
    noise = (0.0, 0.001, 0.002)
    accuracies = {('plain', 10): [0.5 + each for each in noise]}
    for k, gain in enumerate((0.01, -0.2, 0.1, 0.3, 0.02, -0.01, 0.05)):
        spread = 1 if abs(gain) >= 0.1 else 30  # those of few points settle nothing
        accuracies[f'way{k} ', 10] = [0.5 + gain - spread * each / 3 for each in noise]
    cells, rows = table_of(accuracies)
    references = {cell.name: 'plain10' for cell in cells[1:]}
    summary, *sentences = results.statistics('sweep', cells, rows, references, {})['verdicts']
    assert 'More accurate: 2; less accurate: 1; not settled: 4' in summary
    told = [re.search(r'way\d', sentence)[0] for sentence in sentences]
    assert told[:3] == ['way3', 'way2', 'way1']
    assert told[3:] == ['way6', 'way4', 'way0', 'way5']


def test_the_ratio_of_times_is_paired_by_round():
    cells, rows = table_of({('plain', 10): (0.5, 0.6), ('dilated', 10): (0.6, 0.6)})
    seconds = {'plain10': [1.0, 4.0, 2.0], 'dilated10': [0.5, 1.0, 2.0]}
    references = {'dilated10': 'plain10'}
    found = results.statistics('sweep', cells, rows, references, seconds)['comparisons']
    assert found['dilated10']['time_ratio'] == pytest.approx(0.5)  # (0.5 · 0.25 · 1)^(1/3)
    seconds['plain10'] = [1.0]
    found = results.statistics('sweep', cells, rows, references, seconds)['comparisons']
    assert found['dilated10']['time_ratio'] is None


def test_many_comparisons_are_counted_by_their_outcome():
    p_values = {'better': 1e-6, 'worse': 1e-5, 'worse too': 0.012, 'close': 0.02, 'equal': None}
    signs = {'better': 1}
    comparisons = {
        name: {'difference': 0.01 * signs.get(name, -1), 'p': p, 'p_holm': None}
        for name, p in p_values.items()
    }
    correct_together([*comparisons.values()])  # 0.012 · 2 < 0.05, 0.02 · 1 < 0.05
    sentence = comparisons_summary(comparisons)
    assert sentence.startswith('5 cells are compared with another in test accuracy. ')
    assert 'More accurate: 1; less accurate: 3; not settled: 1' in sentence
    assert 'for 4 comparisons' in sentence
    comparisons['close']['p'] = comparisons['worse too']['p'] = 0.03  # 0.03 · 2 > 0.05
    correct_together([*comparisons.values()])
    assert 'less accurate: 1; not settled: 3' in comparisons_summary(comparisons)
