"""Folders as runs and studies leave them, made up: random but plausible, and quick to make."""

import json
import pathlib
import zlib

import numpy as np

from mixer_dilated.config import patch_branches
from mixer_dilated.patches.geometry import num_tokens
from mixer_dilated.studies.stats import compare, describe, fit_exponent
from mixer_dilated.training.run_folder import write_summary
from tests.conftest import small_config

NASTY = '<script>alert(1)</script> & $\\badmath{$ "x'
KINDS = ('run', 'table1', 'sweep', 'little_data', 'resolution', 'robustness')


def digits_images():
    """300 of the embedded digits: uint8 images (300, 8, 8, 1) and their labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.images[:300, ..., None] * 15.9375).astype(np.uint8), data.target[:300]


def _config(**changes):
    return small_config(num_seeds=3, **changes)


def make_kind(kind, folder, **changes):
    """The folder of a study (or run) of that kind, with labels that want escaping."""
    digits, one, other = digits_images(), _config(), _config(**{'model.patches.dilation': 1})
    if kind == 'run':
        make_run(folder, one, *digits, name=NASTY)
    elif kind == 'sweep':
        cells = {
            f'{NASTY} {size} {dilation}': (
                {'size': size, 'dilation': dilation, 'padding': 'SAME'},
                _config(**{'model.patches.size': size, 'model.patches.dilation': dilation})
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


def write_jsonl(path: pathlib.Path, rows: list[dict]) -> None:
    """One JSON object a line."""
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))


def make_run(folder, config, images, labels, *, accuracy=0.93, name='a run') -> dict:
    """A finished run's folder; returns its summary.

    Args:
      folder: to be made.
      config: resolved.
      images, labels: uint8 (examples, height, width, channels) and int (examples,).
      accuracy: about what the test accuracy is to be.
      name: config_name.
    """
    folder.mkdir(parents=True)
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    seeds, epochs, size = config.num_seeds, config.num_epochs, images.shape[1:3]
    branches = patch_branches(config.model)
    tokens = num_tokens(branches, config.model.branch_merge, size)
    probabilities = _probabilities(draw, labels, seeds, accuracy)
    wrong = np.flatnonzero(probabilities[0].argmax(-1) != labels)
    shown = wrong[np.argsort(-probabilities[0][wrong].max(-1))][:24]
    first = [int(np.flatnonzero(labels == k)[0]) for k in range(10)]
    np.savez(
        folder / 'predictions.npz',
        labels=labels.astype(np.int32),
        probabilities=probabilities.astype(np.float16),
        shown_index=shown.astype(np.int32),
        shown_images=images[shown],
        class_images=images[first],
    )
    np.savez(folder / 'weights.npz', **_weights(draw, config, branches, tokens, images.shape[3]))
    correct = (probabilities.argmax(-1) == labels).sum(axis=1)
    results = [
        {
            'seed': config.seed + k,
            'train_accuracy': min(1.0, count / len(labels) + 0.02),
            'train_correct': int(count),
            'train_loss': 0.1,
            'test_accuracy': count / len(labels),
            'test_correct': int(count),
            'test_loss': 0.2,
        }
        for k, count in enumerate(map(int, correct))
    ]
    seen = np.any([each.coverage(size) > 0 for each in branches], axis=0)
    summary = {
        'config_name': name,
        'dataset': config.dataset.name,
        'train_split': config.dataset.train_split,
        'test_split': config.dataset.test_split,
        'train_examples': 300,
        'test_examples': len(labels),
        'seed': config.seed,
        'num_seeds': seeds,
        'num_epochs': epochs,
        'image_shape': list(images.shape[1:]),
        'num_tokens': tokens,
        'num_params': 1000 * tokens,
        'skipped_steps': 0,
        'flops_per_image': (9000 + 128 * sum(np.prod(b.size) for b in branches).item()) * tokens,
        'pixels_seen': int(seen.sum()),
        'pixels': seen.size,
        'results': results,
        'seconds': {'startup': 1.5, 'compile': 3.2, 'train': 12.0, 'epoch_median': 1.2},
        'versions': {'python': '3.11.9', 'jax': '0.10.2'},
        'device': {'platform': 'cpu', 'kind': 'cpu', 'count': 1},
    }
    for key in ('train_accuracy', 'test_accuracy'):
        summary[key] = float(np.mean([each[key] for each in results]))
    write_jsonl(folder / 'metrics.jsonl', _metrics(draw, results, epochs))
    (folder / 'config.json').write_text(json.dumps(config.to_dict()))
    write_summary(folder, summary)
    return summary


def make_study(folder, kind, cells, images, labels, *, reference=None, unfinished=0, **words):
    """A study's folder.

    Args:
      folder: to be made.
      kind: as in `study.json`.
      cells: {label: (settings, config, accuracy)}; a text instead of a config is the reason why
        the cell cannot be.
      images, labels: the test set.
      reference: label of the reference.
      unfinished: how many of the last cells are not trained yet.
      words: title, question and command where they matter.
    """
    folder.mkdir(parents=True)
    names = {label: f'cell-{k}' for k, label in enumerate(cells)}
    described, rows, accuracies = [], [], {}
    trained = list(cells)[: len(cells) - unfinished]
    for label, (settings, config, accuracy) in cells.items():
        impossible = config if isinstance(config, str) else ''
        cell = {'name': names[label], 'label': label, 'settings': settings}
        described.append({**cell, 'impossible': impossible})
        if impossible or label not in trained or kind == 'resolution':
            continue
        run = folder / 'cells' / names[label]
        summary = make_run(run, config, images, labels, accuracy=accuracy, name=label)
        if kind == 'little_data':
            summary['train_examples'] = settings['train_images']
            write_summary(run, summary)
        accuracies[label] = [each['test_accuracy'] for each in summary['results']]
        seconds = 0.4 + summary['flops_per_image'] / 2e5
        rows += [
            {'cell': names[label], **each, 'epoch_seconds': seconds, 'impossible': ''}
            for each in summary['results']
        ]
    study = {
        'kind': kind,
        'title': 'A study',
        'question': 'Which is better?',
        'command': 'python run.py sweep',
        'axes': list(next(iter(cells.values()))[0]),
        'reference': names.get(reference),
        'cells': described,
        **words,
    }
    (folder / 'study.json').write_text(json.dumps(study))
    if not unfinished:
        statistics = _statistics(names, accuracies, reference)
        draw = np.random.default_rng(0)
        if kind == 'resolution':
            measured = [row for label in cells for row in _resolution(draw, names[label], label)]
            write_jsonl(folder / 'resolution.jsonl', measured)
            statistics['fits'] = _fits(measured)
        if kind == 'robustness':
            write_jsonl(folder / 'robustness.jsonl', _robustness(draw, names, accuracies))
        (folder / 'statistics.json').write_text(json.dumps(statistics))
        write_jsonl(folder / 'results.jsonl', rows)
    return folder


def _probabilities(draw, labels, seeds, accuracy):
    logits = draw.normal(0, 1, (seeds, len(labels), 10))
    flips = draw.random((seeds, len(labels))) < 1 - accuracy
    taken = np.where(flips, (labels * 3 + draw.integers(1, 3, flips.shape)) % 10, labels)
    logits += draw.uniform(2, 7, (*flips.shape, 1)) * np.eye(10)[taken]
    values = np.exp(logits)
    return values / values.sum(-1, keepdims=True)


def _weights(draw, config, branches, tokens, channels):
    hidden, several = config.model.hidden_dim, len(branches) > 1
    found = {}
    for k, patches in enumerate(branches):
        if several and config.model.branch_merge == 'tokens':
            name = f'stem_{k}/kernel'
        else:
            name = f'stem/kernel_{k}' if several else 'stem/kernel'
        y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in patches.size), indexing='ij')
        a, b, c = draw.normal(0, 1, (3, channels, hidden))
        wave = np.sin(2 * (a * y[..., None, None] + b * x[..., None, None]) + c)
        found[name] = wave + draw.normal(0, 0.2, wave.shape)
    shape = (tokens, config.model.tokens_mlp_dim)
    found['MixerBlock_0/token_mixing/Dense_0/kernel'] = draw.normal(0, 1, shape)
    found['MixerBlock_0/token_mixing/Dense_1/kernel'] = draw.normal(0, 1, shape[::-1])
    return found


def _metrics(draw, results, epochs):
    rows = []
    for epoch in range(1, epochs + 1):
        for each in results:
            late = 1 - 0.5 / epoch - draw.uniform(0, 0.02)
            rows.append({'epoch': epoch, 'step': epoch * 9, 'seed': each['seed'],
                         'train_loss': None if epoch == 2 else 0.9 / epoch,
                         'train_accuracy': each['train_accuracy'] * late,
                         'test_loss': 1 / epoch + draw.uniform(0, 0.05),
                         'test_accuracy': each['test_accuracy'] * late,
                         'learning_rate': 0.01, 'seconds': 1.2,
                         'images_per_second': 300.0})  # fmt: skip
    return rows


def _statistics(names, accuracies, reference):
    comparisons = {
        names[label]: compare(
            values, accuracies[reference], reference=names[reference], time_ratio=0.41
        )
        for label, values in accuracies.items()
        if reference in accuracies and label != reference
    }
    found = {
        names[label]: {'test_accuracy': describe(values), 'train_accuracy': describe(values)}
        for label, values in accuracies.items()
    }
    return {'cells': found, 'comparisons': comparisons, 'verdicts': ['One & <all> cost $x$.']}


def _resolution(draw, name, label):
    stride = 4 + 3 * (len(label) % 2)
    for side in (28, 56, 112, 224):
        tokens = (side // stride) ** 2
        seconds = (0.001 + 2e-5 * tokens) * draw.uniform(0.95, 1.05)
        yield {'cell': name, 'image_size': side, 'num_tokens': tokens, 'batch': 32,
               'flops_per_image': 23456.0 * tokens + 64 * tokens**2, 'step_seconds': seconds,
               'step_seconds_low': 0.93 * seconds, 'step_seconds_high': 1.1 * seconds,
               'memory_bytes': 100_000 * tokens}  # fmt: skip


def _fits(rows):
    quantities = ('num_tokens', 'flops_per_image', 'step_seconds', 'memory_bytes')
    fits = {}
    for cell in {row['cell']: None for row in rows}:
        of_cell = [row for row in rows if row['cell'] == cell]
        sides = [row['image_size'] for row in of_cell]
        fits[cell] = {q: fit_exponent(sides, [row[q] for row in of_cell]) for q in quantities}
    return fits


def _robustness(draw, names, accuracies):
    strengths = {'shift': (0, 1, 2, 3, 4), 'noise': (0, 0.1, 0.2, 0.3, 0.4),
                 'occlusion': (0, 4, 8, 12), 'contrast': (0, 0.25, 0.5, 0.75, 0.9)}  # fmt: skip
    return [
        {'cell': names[label], 'corruption': corruption, 'strength': strength, 'seed': seed,
         'accuracy': accuracy * (1 - 0.6 * (strength / values[-1]) ** 2 * draw.uniform(0.9, 1))}
        for corruption, values in strengths.items()
        for strength in values
        for label, of_cell in accuracies.items()
        for seed, accuracy in enumerate(of_cell)
    ]  # fmt: skip
