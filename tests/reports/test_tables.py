"""Terminal tables: every cell of a benchmark by hand, every sentence, 80 columns."""

import errno
import os
import re

import pytest

from mixer_dilated.benchmark import measure
from mixer_dilated.cli.main import main
from mixer_dilated.reports.tables.benchmark_table import print_benchmark
from mixer_dilated.reports.tables.run_tables import print_evaluation, print_run
from mixer_dilated.reports.tables.summary_table import print_summary
from mixer_dilated.training.setup import create_setup
from tests.conftest import ROOT, raising, small_config

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


def by_hand(**changes) -> dict:
    """What a benchmark measured, in three rounds, in numbers whose shares a person can work out."""

    def variant(seconds, matmuls, flops=6e9, **of):
        return {'kind': 'training', 'dtype': 'float32', 'seeds': 1, 'described': '',
                'image_size': [8, 9], 'num_tokens': 7, 'flops': flops, 'seconds': seconds,
                'matmul_seconds': matmuls, 'compile_seconds': 3.14, **of}  # fmt: skip

    training, forward, plain = [0.04, 0.03, 0.05], [0.005, 0.008, 0.004], 'plain Flax, slow,'
    training_bf16, forward_bf16 = [0.06, 0.07, 0.01], [0.03, 0.018, 0.008]
    result = {
        **{'num_tokens': 7, 'num_params': 123, 'image_shape': [8, 9, 1], 'batch': 100},
        'variants': {
            'training': variant([0.05, 0.06, 0.10], training),
            'forward': variant([0.02, 0.02, 0.04], forward, 2e9),
            'training bf16': variant([0.12, 0.10, 0.10], training_bf16, dtype='bfloat16'),
            'forward bf16': variant([0.04, 0.02, 0.01], forward_bf16, 2e9, dtype='bfloat16'),
            '5 seeds': variant([0.03, 0.03, 0.05], training, seeds=5),
            'half the side': variant([0.02, 0.04, 0.06], training, image_size=[4, 4], num_tokens=2),
            'plain Flax': variant([0.10, 0.18, 0.10], training, described=plain),
        },
        'large_matmul': {'float32': [200e9, 150e9, 100e9], 'bfloat16': [100e9, 300e9, 300e9]},
        'memory': {'predicted': 2.5 * 2**20, 'measured': 3 * 2**20},
        'start_up': {'cold': 6.0, 'warm': 2.5, 'programs_kept': True},
        'notes': ['Something was left out.'],
        **changes,
    }
    of_all = {'device': {'kind': 'abacus'}, 'versions': {'jax': '0.10', 'python': '3.11'}}
    return of_all | {'large_shape': [64, 32, 16], 'busy_cores': 0.5, 'configs': {'small': result}}


def cells(text: str, first: str) -> list[str]:
    """The cells after the first of the one row of a table that begins like this."""
    (row,) = (line for line in text.splitlines() if re.match(rf'{first}  ', line))
    return row.removeprefix(first).split()


def test_the_table_says_what_its_footer_promises_and_sentences_compare_round_by_round(capsys):
    """Every cell, by hand: limits are flops / large, large is limit / time, own products / time."""
    print_benchmark(by_hand())
    text = capsys.readouterr().out
    expected = {
        'step of': 'ms quartiles images/s GFLOP/s large own compile',
        'training': '60.0 55.0–80.0 1667 100 60% 50% 3.1',
        'forward': '20.0 20.0–30.0 5000 100 50% 25% 3.1',
        'training bf16': '100 100–110 1000 60 20% 50% 3.1',
        'forward bf16': '20.0 15.0–30.0 5000 100 50% 80% 3.1',
        '5 seeds': '30.0 30.0–40.0 3333 200 120% 100% 3.1',
        'plain Flax': '100 100–140 1000 60 30% 40% 3.1',
        'half the side': '40.0 30.0–50.0 2500 150 100% 83% 3.1',
    }
    assert {name: ' '.join(cells(text, name)) for name in expected} == expected
    text = ' '.join(text.split())
    for sentence in (
        'abacus, jax 0.10, Python 3.11; one device small: 8×9×1, 7 tokens, 123 parameters, ',
        'large matrix product: 150 GFLOP/s in float32, 300 GFLOP/s in bfloat16 ',
        'A float32 training step takes 1.67 times what its products would take at the speed of ',
        '5 seeds in one program have 2.00 times the throughput of 5 runs of one.',
        'Images of half the side have 4×4 pixels, 2 tokens.',
        'A step of plain Flax, slow, takes 2.00 times as long as the training step.',
        'Peak memory of training: 3.0 MiB, predicted 2.5 MiB. From python run.py to the first ',
        'first step: 6.0 s with empty caches, 2.5 s with full ones. Something was left out. ',
        'a product of 64×16 matrices of the same dtype',
        'Other programs kept 0.5 cores busy before it began',
    ):
        assert sentence in text
    assert 'Intel' not in text


def test_what_was_not_measured_is_a_dash(capsys):
    print_benchmark(by_hand(memory=None, start_up=None))
    text = ' '.join(capsys.readouterr().out.split())
    assert 'training: –, predicted –. From python run.py' in text
    assert 'first step: – with empty caches, – with full ones.' in text
    memory = {'predicted': 2**20, 'measured': None}
    start_up = {'cold': 2.0, 'warm': 1.0, 'programs_kept': False}
    print_benchmark(by_hand(memory=memory, start_up=start_up))
    text = ' '.join(capsys.readouterr().out.split())
    assert 'training: not reported by this system, predicted 1.0 MiB.' in text
    assert 'full caches: of images; on Intel CPUs no compiled programs are kept.' in text


@pytest.mark.parametrize(
    ('shortest', 'unit', 'shown'),
    [
        (6.049e-7, 'µs', '0.60'), (59.7e-6, 'µs', '59.7'), (999.7e-6, 'µs', '1000'),
        (3.9e-3, 'ms', '3.90'), (96.9e-3, 'ms', '96.9'), (0.9996, 'ms', '1000'),
        (12.3, 's', '12.3'),
    ],
)  # fmt: skip
def test_no_cell_is_cut_in_80_columns(capsys, shortest, unit, shown):
    results = by_hand()
    variants = results['configs']['small']['variants']
    like = {**variants.pop('training'), 'flops': shortest * 1e11, 'compile_seconds': 123.4}
    like['matmul_seconds'] = [shortest / 2] * 3
    variants.clear()
    for name, times in {'forward': 1, 'training': 4, 'plain Flax': 300, 'PyTorch': 99}.items():
        seconds = [times * shortest * noise for noise in (0.97, 1, 1.1)]
        variants[name] = {**like, 'seconds': seconds}
    print_benchmark(results)
    text = capsys.readouterr().out
    assert '…' not in text and max(map(len, text.splitlines())) <= 80
    assert cells(text, 'step of')[0] == unit and cells(text, 'forward')[0] == shown
    assert all(len(cells(text, name)) == 7 for name in variants)


def test_a_disk_that_fills_meanwhile_is_one_line(monkeypatch, capsys, tmp_path):
    file = tmp_path / 'speed.json'
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, 'fsync', raising(full))
    monkeypatch.setattr(measure, 'benchmark', lambda *_, **__: by_hand())
    config = ROOT / 'configs' / 'digits_dilated.py'
    assert main(['benchmark', f'--config={config}', f'--json={file}'], 0.0) == 2
    out, error = capsys.readouterr()
    assert 'training' in out  # what was measured is not lost
    assert error.startswith(f'error: --json={file}: cannot be written: No space left on device')
    assert not list(tmp_path.iterdir())


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
