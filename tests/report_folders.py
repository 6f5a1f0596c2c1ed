"""Folders as runs and studies leave them, made up: random but plausible, and quick to make."""

import itertools
import json
import types
import zlib

import numpy as np

from mixer_dilated.config import patch_branches
from mixer_dilated.data.corruption import CORRUPTIONS
from mixer_dilated.data.examples import Examples, InMemoryDataSource
from mixer_dilated.files import write_json_lines
from mixer_dilated.patches.geometry import num_tokens
from mixer_dilated.studies.analysis import analyze
from mixer_dilated.studies.resolution import resolution_statistics
from mixer_dilated.training.results import write_predictions
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
        trials = {
            f'{NASTY} {size} {dilation}': (
                {'size': size, 'dilation': dilation, 'padding': 'SAME'},
                f'too large: {NASTY}'
                if (size, dilation) == (3, 2)
                else small_config(num_seeds=3, **patches(size=size, dilation=dilation)),
                0.7 + 0.05 * size,
            )
            for size in (1, 2, 3)
            for dilation in (1, 2)
        }
        changes = {'reference': {'size': 1, 'dilation': 1, 'padding': 'SAME'}, **changes}
    elif kind == 'little_data':
        trials = {
            f'{method} {images}': ({'method': method, 'train_images': images}, config, accuracy)
            for method, config in methods.items()
            for images, accuracy in ((100, 0.7), (300, 0.8))
        }
    else:
        trials = {method: ({'method': method}, config, 0.8) for method, config in methods.items()}
        changes = {'reference': {'method': 'plain'}, **changes}
    return make_study(folder, kind, trials, *digits, **changes)


def patches(**values):
    """Changes of `small_config`: {'model.patches.size': 2, …}."""
    return {f'model.patches.{name}': value for name, value in values.items()}


def make_run(folder, config, images, labels, *, accuracy=0.93, name='a run', **changes):
    """A finished run's folder, of uint8 images (examples, height, width, channels), about as
    accurate as asked; returns its summary, with the changes."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    branches, size = patch_branches(config.model), images.shape[1:3]
    tokens = num_tokens(branches, config.model.branch_merge, size)
    probabilities = _probabilities(draw, labels, config.num_seeds, accuracy)
    test = InMemoryDataSource(Examples(images, labels))
    pipeline = types.SimpleNamespace(labels=labels, data_source=test)
    write_predictions(folder, pipeline, np.log(probabilities), size)
    np.savez(folder / 'weights.npz', **_weights(draw, config, branches, tokens, images.shape[3]))
    counts = (probabilities.argmax(-1) == labels).sum(axis=1).tolist()
    results = [
        {'seed': config.seed + k, 'train_correct': count, 'train_loss': 0.1,
         'train_accuracy': min(1.0, count / len(labels) + 0.02),
         'test_accuracy': count / len(labels), 'test_correct': count, 'test_loss': 0.2}
        for k, count in enumerate(counts)
    ]  # fmt: skip
    seen = np.any([branch.coverage(size) > 0 for branch in branches], axis=0)
    summary = {
        'config_name': name,
        **{key: config.dataset[key] for key in ('train_split', 'test_split')},
        **{key: config[key] for key in ('seed', 'num_seeds', 'num_epochs')},
        'dataset': config.dataset.name,
        'train_examples': 300,
        'test_examples': len(labels),
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
    write_json_lines(folder / 'metrics.jsonl', _metrics(draw, results, config.num_epochs))
    (folder / 'config.json').write_text(json.dumps(config.to_dict()))
    (folder / 'preprocessing.json').write_text(json.dumps({'class_names': [*'0123456789']}))
    write_summary(folder, summary)
    return summary


def make_study(folder, kind, trials, images, labels, *, reference=None, unfinished=0):
    """A study's folder.

    Trials are {label: (settings, config, accuracy)}, with a text instead of a config for the reason
    why one is invalid; the last `unfinished` are not trained yet. The reference is that of a Sweep.
    """
    folder.mkdir(parents=True)
    cells, rows, seconds = [], [], {}
    trained = list(trials)[: len(trials) - unfinished]
    for k, (label, (settings, config, accuracy)) in enumerate(trials.items()):
        invalid, name = config if isinstance(config, str) else '', f'cell-{k}'
        cells.append({'name': name, 'label': label, 'settings': settings, 'impossible': invalid})
        if invalid or label not in trained or kind == 'resolution':
            continue
        changes = {'accuracy': accuracy, 'train_examples': settings.get('train_images', 300)}
        run = make_run(folder / 'cells' / name, config, images, labels, name=label, **changes)
        seconds[name] = [0.4 + run['flops_per_image'] / 2e5]
        row = {'cell': name, 'epoch_seconds': seconds[name][0], 'impossible': ''}
        rows += [row | result for result in run['results']]
    study = {
        **{'kind': kind, 'title': 'A study', 'question': 'Which is better?'},
        **{'command': 'python run.py sweep', 'axes': [*next(iter(trials.values()))[0]]},
        'reference': reference,
        'cells': cells,
    }
    (folder / 'study.json').write_text(json.dumps(study))
    if unfinished:
        return folder
    if kind == 'resolution':
        measured = [row for cell in cells for row in _resolution(cell['name'], cell['label'])]
        write_json_lines(folder / 'resolution.jsonl', measured)
        statistics = resolution_statistics(_prepared(cells), measured)
    else:
        statistics = analyze('sweep', _prepared(cells, reference), rows, seconds)
    if kind == 'robustness':
        write_json_lines(folder / 'robustness.jsonl', _robustness(rows))
    statistics['verdicts'] = ['One & <all> cost $x$.']
    (folder / 'statistics.json').write_text(json.dumps(statistics))
    write_json_lines(folder / 'results.jsonl', rows)
    return folder


def _probabilities(draw, labels, seeds, accuracy):
    shape = (seeds, len(labels))
    wrong = (labels * 3 + draw.integers(1, 3, shape)) % 10
    predicted = np.where(draw.random(shape) < accuracy, labels, wrong)[..., None]
    surest = draw.uniform(0.5, 0.999, (*shape, 1))
    return np.where(np.arange(10) == predicted, surest, (1 - surest) / 9)


def _weights(draw, config, branches, tokens, channels):
    form = 'stem_{}/kernel' if config.model.branch_merge == 'tokens' else 'stem/kernel_{}'
    shapes = {
        form.format(k) if len(branches) > 1 else 'stem/kernel': (*branch.size, channels)
        for k, branch in enumerate(branches)
    }
    weights = {
        name: draw.normal(size=(*shape, config.model.hidden_dim)) for name, shape in shapes.items()
    }
    shape = (tokens, config.model.tokens_mlp_dim)
    weights['MixerBlock_0/token_mixing/Dense_0/kernel'] = draw.normal(0, 1, shape)
    return weights


def _metrics(draw, results, epochs):
    return [
        {'epoch': epoch, 'step': epoch * 9, 'seed': result['seed'], 'test_loss': 1 / epoch,
         'train_loss': None if epoch == 2 else 0.9 / epoch,
         'train_accuracy': result['train_accuracy'] * late,
         'test_accuracy': result['test_accuracy'] * late, 'learning_rate': 0.01}
        for epoch in range(1, epochs + 1)
        for result in results
        for late in [1 - 0.5 / epoch - draw.uniform(0, 0.02)]
    ]  # fmt: skip


def _prepared(cells, reference=None):
    """What the statistics of a study look at of its trials."""
    trials = [
        types.SimpleNamespace(**cell, invalid=cell['impossible'], reference='') for cell in cells
    ]
    for trial, other in itertools.permutations([t for t in trials if not t.invalid], 2):
        if reference and other.settings == trial.settings | reference:
            trial.reference = other.name
    return trials


def _resolution(name, label):
    stride = 4 + 3 * (len(label) % 2)
    for side in (28, 56, 112, 224):
        tokens = (side // stride) ** 2
        seconds = 0.001 + 2e-5 * tokens
        yield {'cell': name, 'image_size': side, 'num_tokens': tokens, 'batch': 32,
               'flops_per_image': 23456.0 * tokens + 64 * tokens**2, 'step_seconds': seconds,
               'step_seconds_low': 0.93 * seconds, 'step_seconds_high': 1.1 * seconds,
               'memory_bytes': 100_000 * tokens}  # fmt: skip


def _robustness(rows):
    return [
        {'cell': row['cell'], 'corruption': corruption.name, 'strength': strength,
         'seed': row['seed'],
         'accuracy': row['test_accuracy'] * (1 - 0.6 * (strength / corruption.severities[-1]) ** 2)}
        for corruption in CORRUPTIONS
        for strength in corruption.severities
        for row in rows
    ]  # fmt: skip
