"""Folders as runs and studies leave them, made up: random but plausible, and quick to make."""

import json
import pathlib
import zlib

import numpy as np
import pandas as pd

from mixer_dilated.config import patch_branches
from mixer_dilated.data.corruption import CORRUPTIONS
from mixer_dilated.patches.geometry import num_tokens
from mixer_dilated.reports.intervals import describe
from mixer_dilated.reports.quantities import QUANTITIES
from mixer_dilated.studies.stats import compare, fit_exponent
from mixer_dilated.training.run_folder import write_summary
from tests.conftest import small_config

NASTY = '<script>alert(1)</script> & $\\badmath{$ "x\u202e\x1b'
KINDS = ('run', 'table1', 'sweep', 'little_data', 'resolution', 'robustness')


def digits_images():
    """300 of the embedded digits: uint8 images (300, 8, 8, 1) and their labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.images[:300, ..., None] * 15.9375).astype(np.uint8), data.target[:300]


def make_kind(kind, folder, **changes):
    """The folder of a study (or run) of that kind, with labels that want escaping."""
    digits, dilated = digits_images(), small_config(num_seeds=3)
    methods = {NASTY: dilated, 'plain': small_config(num_seeds=3, **patches(dilation=1))}
    if kind == 'run':
        make_run(folder, dilated, *digits, name=NASTY)
        return folder
    if kind == 'sweep':
        settings = [{'size': s, 'dilation': d} for s in (1, 2, 3) for d in (1, 2)]
        trials = {
            f'{NASTY} {axes["size"]} {axes["dilation"]}': (
                {**axes, 'padding': 'SAME'},
                small_config(num_seeds=3, **patches(**axes))
                if axes != {'size': 3, 'dilation': 2}
                else f'too large: {NASTY}',
                0.7 + 0.05 * axes['size'],
            )
            for axes in settings
        }
        changes = {'reference': f'{NASTY} 1 1', **changes}
    elif kind == 'little_data':
        trials = {
            f'{method} {images}': ({'method': method, 'train_images': images}, config, accuracy)
            for method, config in methods.items()
            for images, accuracy in ((100, 0.7), (300, 0.8))
        }
    else:
        trials = {method: ({'method': method}, config, 0.8) for method, config in methods.items()}
        changes = {'reference': 'plain', **changes}
    return make_study(folder, kind, trials, *digits, **changes)


def patches(**values):
    """Changes of `small_config`: {'model.patches.size': 2, …}."""
    return {f'model.patches.{name}': value for name, value in values.items()}


def write_jsonl(path: pathlib.Path, rows: list[dict]) -> None:
    """One JSON object a line."""
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))


def make_run(folder, config, images, labels, *, accuracy=0.93, name='a run', **changes) -> dict:
    """A finished run's folder; returns its summary.

    Args:
      folder: to be made.
      config: resolved.
      images, labels: uint8 (examples, height, width, channels) and int (examples,).
      accuracy: about what the test accuracy is to be.
      name: config_name.
      changes: of the summary.
    """
    folder.mkdir(parents=True)
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    seeds, epochs, size = config.num_seeds, config.num_epochs, images.shape[1:3]
    branches = patch_branches(config.model)
    tokens = num_tokens(branches, config.model.branch_merge, size)
    probabilities = _probabilities(draw, labels, seeds, accuracy)
    wrong = np.flatnonzero(probabilities[0].argmax(-1) != labels)
    shown = wrong[np.argsort(-probabilities[0][wrong].max(-1))][:24]
    np.savez(
        folder / 'predictions.npz',
        labels=labels.astype(np.int32),
        probabilities=probabilities.astype(np.float16),
        shown_index=shown.astype(np.int32),
        shown_images=images[shown],
        class_images=images[[int(np.flatnonzero(labels == k)[0]) for k in range(10)]],
    )
    np.savez(folder / 'weights.npz', **_weights(draw, config, branches, tokens, images.shape[3]))
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
        for k, count in enumerate((probabilities.argmax(-1) == labels).sum(axis=1).tolist())
    ]
    seen = np.any([branch.coverage(size) > 0 for branch in branches], axis=0)
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
        'files': {},
        **changes,
    }
    for key in ('train_accuracy', 'test_accuracy'):
        summary[key] = float(np.mean([result[key] for result in results]))
    write_jsonl(folder / 'metrics.jsonl', _metrics(draw, results, epochs))
    (folder / 'config.json').write_text(json.dumps(config.to_dict()))
    (folder / 'preprocessing.json').write_text(json.dumps({'class_names': [*'0123456789']}))
    write_summary(folder, summary)
    return summary


def make_study(folder, kind, trials, images, labels, *, reference=None, unfinished=0, **words):
    """A study's folder.

    Args:
      folder: to be made.
      kind: as in `study.json`.
      trials: {label: (settings, config, accuracy)}; a text instead of a config is the reason why
        the trial is invalid.
      images, labels: the test set.
      reference: label of the reference.
      unfinished: how many of the last trials are not trained yet.
      words: title, question and command where they matter.
    """
    folder.mkdir(parents=True)
    names = {label: f'cell-{k}' for k, label in enumerate(trials)}
    described, rows, accuracies = [], [], {}
    trained = list(trials)[: len(trials) - unfinished]
    for label, (settings, config, accuracy) in trials.items():
        invalid = config if isinstance(config, str) else ''
        trial = {'name': names[label], 'label': label, 'settings': settings}
        described.append({**trial, 'impossible': invalid})
        if invalid or label not in trained or kind == 'resolution':
            continue
        changes = {'train_examples': settings.get('train_images', 300)}
        run = folder / 'cells' / names[label]
        summary = make_run(run, config, images, labels, accuracy=accuracy, name=label, **changes)
        accuracies[label] = [result['test_accuracy'] for result in summary['results']]
        seconds = 0.4 + summary['flops_per_image'] / 2e5
        row = {'cell': names[label], 'epoch_seconds': seconds, 'impossible': ''}
        rows += [row | result for result in summary['results']]
    study = {
        'kind': kind,
        'title': 'A study',
        'question': 'Which is better?',
        'command': 'python run.py sweep',
        'axes': list(next(iter(trials.values()))[0]),
        'reference': trials[reference][0] if reference else None,
        'cells': described,
        **words,
    }
    (folder / 'study.json').write_text(json.dumps(study))
    if unfinished:
        return folder
    statistics = _statistics(names, accuracies, reference)
    draw = np.random.default_rng(0)
    if kind == 'resolution':
        measured = [row for label in trials for row in _resolution(draw, names[label], label)]
        write_jsonl(folder / 'resolution.jsonl', measured)
        statistics['fits'] = {
            name: {key: fit_exponent(rows.image_size, rows[key]) for key in QUANTITIES}
            for name, rows in pd.DataFrame(measured).groupby('cell')
        }
    if kind == 'robustness':
        write_jsonl(folder / 'robustness.jsonl', _robustness(draw, names, accuracies))
    (folder / 'statistics.json').write_text(json.dumps(statistics))
    write_jsonl(folder / 'results.jsonl', rows)
    return folder


def _probabilities(draw, labels, seeds, accuracy):
    logits = draw.normal(0, 1, (seeds, len(labels), 10))
    flips = draw.random((seeds, len(labels))) < 1 - accuracy
    predicted = np.where(flips, (labels * 3 + draw.integers(1, 3, flips.shape)) % 10, labels)
    logits += draw.uniform(2, 7, (*flips.shape, 1)) * np.eye(10)[predicted]
    values = np.exp(logits)
    return values / values.sum(-1, keepdims=True)


def _weights(draw, config, branches, tokens, channels):
    hidden, several = config.model.hidden_dim, len(branches) > 1
    weights = {}
    for k, branch in enumerate(branches):
        name = f'stem/kernel_{k}' if several else 'stem/kernel'
        if several and config.model.branch_merge == 'tokens':
            name = f'stem_{k}/kernel'
        y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in branch.size), indexing='ij')
        a, b, c = draw.normal(0, 1, (3, channels, hidden))
        wave = np.sin(2 * (a * y[..., None, None] + b * x[..., None, None]) + c)
        weights[name] = wave + draw.normal(0, 0.2, wave.shape)
    shape = (tokens, config.model.tokens_mlp_dim)
    weights['MixerBlock_0/token_mixing/Dense_0/kernel'] = draw.normal(0, 1, shape)
    weights['MixerBlock_0/token_mixing/Dense_1/kernel'] = draw.normal(0, 1, shape[::-1])
    return weights


def _metrics(draw, results, epochs):
    rows = []
    for epoch in range(1, epochs + 1):
        for result in results:
            late = 1 - 0.5 / epoch - draw.uniform(0, 0.02)
            rows.append({'epoch': epoch, 'step': epoch * 9, 'seed': result['seed'],
                         'train_loss': None if epoch == 2 else 0.9 / epoch,
                         'train_accuracy': result['train_accuracy'] * late,
                         'test_loss': 1 / epoch + draw.uniform(0, 0.05),
                         'test_accuracy': result['test_accuracy'] * late,
                         'learning_rate': 0.01, 'seconds': 1.2,
                         'images_per_second': 300.0})  # fmt: skip
    return rows


def _statistics(names, accuracies, reference):
    comparisons = {
        names[label]: compare(values, accuracies[reference], reference=names[reference])
        | {'time_ratio': 0.41}
        for label, values in accuracies.items()
        if reference in accuracies and label != reference
    }
    spreads = {
        names[label]: dict.fromkeys(('test_accuracy', 'train_accuracy'), describe(values))
        for label, values in accuracies.items()
    }
    return {'cells': spreads, 'comparisons': comparisons, 'verdicts': ['One & <all> cost $x$.']}


def _resolution(draw, name, label):
    stride = 4 + 3 * (len(label) % 2)
    for side in (28, 56, 112, 224):
        tokens = (side // stride) ** 2
        seconds = (0.001 + 2e-5 * tokens) * draw.uniform(0.95, 1.05)
        yield {'cell': name, 'image_size': side, 'num_tokens': tokens, 'batch': 32,
               'flops_per_image': 23456.0 * tokens + 64 * tokens**2, 'step_seconds': seconds,
               'step_seconds_low': 0.93 * seconds, 'step_seconds_high': 1.1 * seconds,
               'memory_bytes': 100_000 * tokens}  # fmt: skip


def _robustness(draw, names, accuracies):
    return [
        {'cell': names[label], 'corruption': corruption.name, 'strength': strength, 'seed': seed,
         'accuracy': accuracy
         * (1 - 0.6 * (strength / corruption.severities[-1]) ** 2 * draw.uniform(0.9, 1))}
        for corruption in CORRUPTIONS.values()
        for strength in corruption.severities
        for label, by_seed in accuracies.items()
        for seed, accuracy in enumerate(by_seed)
    ]  # fmt: skip
