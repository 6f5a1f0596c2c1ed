"""The plots of runs, one or several side by side: what they see, learn, reach and get wrong."""

import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd

from mixer_dilated.patches.geometry import Patches
from mixer_dilated.reports.formatting import count_text, setting_text, share_text, spread_text
from mixer_dilated.reports.plots.curves import training_curves
from mixer_dilated.reports.plots.figure import Plot
from mixer_dilated.reports.plots.heat_maps import confusion_matrices, confusion_matrix
from mixer_dilated.reports.plots.image_grids import augmentation_plot, mistakes_plot, weights_plot
from mixer_dilated.reports.plots.patch_plots import coverage_plot
from mixer_dilated.reports.result_files import Run
from mixer_dilated.reports.schema import SPLITS

IMAGES_SHOWN = 3
PREFERRED_CLASSES = (4, 2, 8)


def overview_plots(runs: Mapping[str, Run]) -> Iterator[Plot]:
    """Which pixels the runs see, and how they learned, {label: run} of one data set."""
    first = next(iter(runs.values()))
    known = [k for k, image in enumerate(first.predictions['class_images']) if image.any()] or [0]
    shown = sorted(known, key=lambda k: [*PREFERRED_CLASSES, k].index(k))[:IMAGES_SHOWN]
    rows = []
    for label, run in runs.items():
        seen = share_text(run.summary['pixels_seen'], run.summary['pixels'])
        facts = [count_text(run.summary['num_tokens'], 'token'), f'sees {seen}']
        facts += ['smoothed before', 'it is sampled'] * run.config.model.blur
        facts += ['in all its phases,', 'of which one is drawn'] * run.config.augment.random_phase
        images, branch_merge = run.predictions['class_images'], run.config.model.branch_merge
        rows.append((label, facts, run.branches, branch_merge, images[shown]))
    yield Plot(
        'Which pixels each method sees',
        'pixels_seen',
        'Blue pixels are seen by at least one token, plain ones by none; orange are the pixels of '
        'one token and its window, grey borders are padding.',
        _join(runs, '{num_tokens} tokens see {pixels_seen} of {pixels} pixels'),
        coverage_plot(rows),
    )
    if len(runs) == 1 and first.augmented:
        yield _augmentation_plot(first)
    curves = {label: run.curves for label, run in runs.items()}
    yield Plot(
        'Training curves',
        'training_curves',
        'Each line is the mean over seeds after that epoch, its band one standard deviation either '
        'way (train figures are taken while training, axes of accuracy leave out the first climb, '
        'those of loss are logarithmic).',
        _join(runs, 'test accuracy {test}, train accuracy {train} at the end'),
        training_curves(curves, split_text(runs.values())),
    )


def split_text(runs: Iterable[Run]) -> str:
    """What the epochs of runs are evaluated on: 'validation' or 'test' images."""
    return SPLITS['val' if any(run.epoch_split == 'val' for run in runs) else 'test']


def _join(runs: Mapping[str, Run], form: str) -> str:
    """A sentence for each run, of its accuracies and the numbers of its summary."""
    texts = []
    for label, run in runs.items():
        accuracies = {part: spread_text(run.accuracy(part)) for part in ('test', 'train')}
        texts.append(f'{label}: {form.format(**run.summary, **accuracies)}')
    return '; '.join(texts)


def detail_plots(runs: Mapping[str, Run]) -> Iterator[Plot]:
    """What the runs confuse, what their first layers have learned, their surest mistakes."""
    counts = {
        label: confusion_matrix(run.predictions['labels'], run.predictions['probabilities'])
        for label, run in runs.items()
    }
    names, texts = next(iter(runs.values())).class_names, []
    for label, of_run in counts.items():
        errors = of_run * (1 - np.eye(len(of_run), dtype=int))
        true, predicted = np.unravel_index(errors.argmax(), errors.shape)
        texts.append(
            f'{label}: {errors.sum()} of {of_run.sum()} wrong, most often {names[true]} taken for '
            f'{names[predicted]} ({errors[true, predicted]} times)'
        )
    yield Plot(
        'Confusion matrices',
        'confusion',
        'A row is a true class, a column what it was taken for, counts are summed over seeds; the '
        'grey diagonal is right, the darker the orange the more errors.',
        '; '.join(texts),
        confusion_matrices(counts, names),
    )
    for plot in (_stem_plot, _mixing_plot, _mistakes_plot):
        for number, (label, run) in enumerate(runs.items(), 1):
            yield plot(label, run, f'_{number}' if len(runs) > 1 else '')


def _augmentation_plot(run: Run) -> Plot:
    """What augmentation makes of a few training images."""
    augment = run.config.augment
    amounts = {**augment, 'randaugment': augment.randaugment.num_layers}
    names = [name for name in amounts if amounts[name]]
    return Plot(
        'What training shows',
        'augmentation',
        'A row is one training image, left as it is'
        + (', then changed in each way alone' if len(names) > 1 else '')
        + ', then as each of the first steps would show it (first seed)'
        + ('; it is mixed with the row above.' if {'mixup', 'cutmix'} & {*names} else '.'),
        f'{len(run.augmented["original"])} images under {", ".join(names)}',
        augmentation_plot(run.augmented),
    )


def _mistakes_plot(label: str, run: Run, suffix: str) -> Plot:
    """The first seed's most confident mistakes."""
    title, arrays, names = f'Most confident mistakes: {label}', run.predictions, run.class_names
    index = arrays['shown_index']
    if not len(index):
        return Plot(title, omitted='the first seed makes no mistake on the test images')
    probabilities = arrays['probabilities'][0, index].astype(np.float64)
    true = [names[k] for k in arrays['labels'][index]]
    predicted = [names[k] for k in probabilities.argmax(-1)]
    mistakes = zip(arrays['shown_images'], true, predicted, probabilities.max(-1), strict=True)
    return Plot(
        title,
        f'mistakes{suffix}',
        'Test images that the first seed gets wrong, the surest first: above each true → '
        'predicted class, and the probability given to the predicted one.',
        ', '.join(f'{a} taken for {b}' for a, b in zip(true, predicted, strict=True)),
        mistakes_plot([*mistakes]),
    )


def _stem_plot(label: str, run: Run, suffix: str) -> Plot:
    """The stem's kernels (P_h, P_w, C_in, hidden), a panel a branch."""
    title = f'What the stem has learned: {label}'
    of_branches = {
        int(re.sub(r'\D', '', name) or 0): kernel.mean(axis=2)
        for name, kernel in run.weights.items()
        if re.fullmatch(r'stem(_\d+)?/kernel(_\d+)?', name) and kernel.ndim == 4
    }
    texts = enumerate(_branch_texts(run.branches))
    kernels = {text: of_branches[k] for k, text in texts if k in of_branches}
    if not kernels:
        return Plot(title, omitted='weights.npz has no stem kernel')
    units = next(iter(kernels.values())).shape[-1]
    pixels = ' or '.join(dict.fromkeys('×'.join(map(str, p.size)) for p in run.branches))
    return Plot(
        title,
        f'stem_kernels{suffix}',
        f'Each small image is what one channel of a token weighs its {pixels} sampled '
        'pixels with (first seed, largest first): red adds, blue subtracts, white ignores'
        + ('; mean over the colours of the image.' if run.summary['image_shape'][2] > 1 else '.'),
        f'{min(units, 64)} of {units} kernels in {len(kernels)} panels',
        weights_plot(kernels),
    )


def _mixing_plot(label: str, run: Run, suffix: str) -> Plot:
    """The first layer of the first block's token mixing."""
    title = f'How the first block mixes tokens: {label}'
    if len(run.branches) > 1 and run.config.model.branch_merge == 'tokens':
        why = 'its branches add their tokens one after the other (model.branch_merge is tokens)'
        return Plot(title, omitted=f'{why}, so they form no one grid')
    rows, columns = run.branches[0].grid(run.image_size)
    kernel = run.weights.get('MixerBlock_0/token_mixing/Dense_0/kernel', np.empty(()))
    if kernel.ndim != 2 or len(kernel) != rows * columns:
        return Plot(title, omitted=f'weights.npz has no kernel for its grid of {rows}×{columns}')
    return Plot(
        title,
        f'token_mixing{suffix}',
        'Each small image is one hidden unit of the token mixing MLP: a square is the weight '
        f'of the token at that place of the {rows}×{columns} grid (first seed, largest first); '
        'red adds, blue subtracts.',
        f'{min(kernel.shape[1], 64)} of {kernel.shape[1]} units',
        weights_plot({f'{rows}×{columns} tokens': kernel.reshape(rows, columns, -1)}),
    )


def _branch_texts(branches: tuple[Patches, ...]) -> list[str]:
    """What tells the branches apart; of a single one its size and dilation."""
    parts = pd.DataFrame(
        (
            '{}×{} pixels'.format(*b.size),
            f'dilation {setting_text(b.dilation)}',
            f'offset {b.offset}',
        )
        for b in branches
    )
    shown = parts.loc[:, parts.nunique() > 1] if len(parts) > 1 else parts[[0, 1]]
    texts = [', '.join(row) for row in shown.itertuples(index=False)]
    same = len(set(texts)) < len(texts)
    return [f'branch {k}: {text}' if same else text for k, text in enumerate(texts)]
