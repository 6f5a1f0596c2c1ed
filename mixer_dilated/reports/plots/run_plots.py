"""The plots of runs, one or several side by side: what they see, learn, reach and get wrong."""

import re
from collections.abc import Iterator, Mapping

import numpy as np

from mixer_dilated.patches.geometry import Patches
from mixer_dilated.reports.formatting import count_text, setting_text, share_text, spread_text
from mixer_dilated.reports.plots.curves import training_curves
from mixer_dilated.reports.plots.figure import Omitted, Plot
from mixer_dilated.reports.plots.heat_maps import confusion_matrices, confusion_matrix
from mixer_dilated.reports.plots.image_grids import augmentation_plot, mistakes_plot, weights_plot
from mixer_dilated.reports.plots.patch_plots import coverage_plot
from mixer_dilated.reports.result_files import Run

IMAGES_SHOWN = 3
PREFERRED_CLASSES = (4, 2, 8)


def overview_plots(runs: Mapping[str, Run]) -> Iterator[Plot]:
    """Which pixels the runs see, and how they learned, {label: run} of one data set."""
    first = next(iter(runs.values())).predictions['class_images']
    known = [k for k in range(len(first)) if first[k].any()] or [0]
    preferred = [k for k in PREFERRED_CLASSES if k in known]
    shown = [*dict.fromkeys([*preferred, *known])][:IMAGES_SHOWN]
    rows = [
        (label, _facts(run), run.branches, run.config.model.branch_merge,
         run.predictions['class_images'][shown])
        for label, run in runs.items()
    ]  # fmt: skip
    yield Plot(
        'pixels_seen',
        'Which pixels each method sees',
        'Blue pixels are seen by at least one token, plain ones by none; orange are the pixels of '
        'one token and its window, grey borders are padding.',
        '; '.join(
            f'{label}: {run.summary["num_tokens"]} tokens see {run.summary["pixels_seen"]} of '
            f'{run.summary["pixels"]} pixels'
            for label, run in runs.items()
        ),
        coverage_plot(rows),
    )
    for run in runs.values() if len(runs) == 1 else ():
        yield from augmentation_plots(run)
    yield Plot(
        'training_curves',
        'Training curves',
        'Each line is the mean over seeds after that epoch, its band one standard deviation either '
        'way (train figures are taken while training, axes of accuracy leave out the first climb, '
        'those of loss are logarithmic).',
        '; '.join(
            f'{label}: test accuracy {spread_text(run.accuracy("test"))}, train '
            f'accuracy {spread_text(run.accuracy("train"))} at the end'
            for label, run in runs.items()
        ),
        training_curves({label: run.curves for label, run in runs.items()}),
    )


def detail_plots(runs: Mapping[str, Run]) -> Iterator[Plot | Omitted]:
    """What the runs confuse, what their first layers have learned, their surest mistakes."""
    counts = {
        label: confusion_matrix(run.predictions['labels'], run.predictions['probabilities'])
        for label, run in runs.items()
    }
    names = next(iter(runs.values())).class_names
    yield Plot(
        'confusion',
        'Confusion matrices',
        'A row is a true class, a column what it was taken for, counts are summed over seeds; the '
        'grey diagonal is right, the darker the orange the more errors.',
        '; '.join(
            f'{label}: {_worst_confusion(of_run, names)}' for label, of_run in counts.items()
        ),
        confusion_matrices(counts, names),
    )
    for plot in (_stem_plot, _mixing_plot, _mistakes_plot):
        for number, (label, run) in enumerate(runs.items(), 1):
            yield plot(label, run, f'_{number}' if len(runs) > 1 else '')


def augmentation_plots(run: Run) -> Iterator[Plot | Omitted]:
    """What augmentation makes of a few training images; nothing for a run that has none."""
    title = 'What training shows'
    if not run.augmented_by:
        return
    if not run.augmented:
        yield Omitted(title, 'augmented.npz is not there, as in runs of earlier versions')
        return
    mixed = {'mixup', 'cutmix'} & {*run.augmented_by}
    yield Plot(
        'augmentation',
        title,
        'A row is one training image, left as it is'
        + (', then changed in each way alone' if len(run.augmented_by) > 1 else '')
        + ', then as each of the first steps would show it (first seed)'
        + ('; it is mixed with the row above.' if mixed else '.'),
        f'{len(run.augmented["original"])} images under {", ".join(run.augmented_by)}',
        augmentation_plot(run.augmented),
    )


def _mistakes_plot(label: str, run: Run, suffix: str) -> Plot | Omitted:
    """The first seed's most confident mistakes."""
    title, arrays, names = f'Most confident mistakes: {label}', run.predictions, run.class_names
    index = arrays['shown_index']
    if not len(index):
        return Omitted(title, 'the first seed makes no mistake on the test images')
    probabilities = arrays['probabilities'][0, index].astype(np.float64)
    true = [names[k] for k in arrays['labels'][index]]
    predicted = [names[k] for k in probabilities.argmax(-1)]
    mistakes = zip(arrays['shown_images'], true, predicted, probabilities.max(-1), strict=True)
    return Plot(
        f'mistakes{suffix}',
        title,
        'Test images that the first seed gets wrong, the surest first: above each true → '
        'predicted class, and the probability given to the predicted one.',
        ', '.join(f'{a} taken for {b}' for a, b in zip(true, predicted, strict=True)),
        mistakes_plot([*mistakes]),
    )


def _stem_plot(label: str, run: Run, suffix: str) -> Plot | Omitted:
    """The stem's kernels, a panel a branch."""
    title, kernels = f'What the stem has learned: {label}', _stem_kernels(run)
    if not kernels:
        return Omitted(title, 'weights.npz has no stem kernel')
    *_, channels, units = next(iter(kernels.values())).shape
    pixels = ' or '.join(dict.fromkeys('×'.join(map(str, p.size)) for p in run.branches))
    return Plot(
        f'stem_kernels{suffix}',
        title,
        f'Each small image is what one channel of a token weighs its {pixels} sampled '
        'pixels with (first seed, largest first): red adds, blue subtracts, white ignores'
        + ('; mean over the colours of the image.' if channels > 1 else '.'),
        f'{min(units, 64)} of {units} kernels in {len(kernels)} panels',
        weights_plot({name: kernel.mean(axis=2) for name, kernel in kernels.items()}),
    )


def _mixing_plot(label: str, run: Run, suffix: str) -> Plot | Omitted:
    """The first layer of the first block's token mixing."""
    title = f'How the first block mixes tokens: {label}'
    if len(run.branches) > 1 and run.config.model.branch_merge == 'tokens':
        return Omitted(
            title,
            'its branches add their tokens one after the other (model.branch_merge is tokens), so '
            'they form no one grid',
        )
    kernel = run.weights.get('MixerBlock_0/token_mixing/Dense_0/kernel')
    rows, columns = run.branches[0].grid(run.image_size)
    if kernel is None or kernel.ndim != 2 or kernel.shape[0] != rows * columns:
        return Omitted(title, f'weights.npz has no kernel for its grid of {rows}×{columns}')
    return Plot(
        f'token_mixing{suffix}',
        title,
        'Each small image is one hidden unit of the token mixing MLP: a square is the weight '
        f'of the token at that place of the {rows}×{columns} grid (first seed, largest first); '
        'red adds, blue subtracts.',
        f'{min(kernel.shape[1], 64)} of {kernel.shape[1]} units',
        weights_plot({f'{rows}×{columns} tokens': kernel.reshape(rows, columns, -1)}),
    )


def _facts(run: Run) -> list[str]:
    seen = share_text(run.summary['pixels_seen'], run.summary['pixels'])
    facts = [count_text(run.summary['num_tokens'], 'token'), f'sees {seen}']
    if run.config.model.blur:
        facts += ['smoothed before', 'it is sampled']
    if run.config.augment.random_phase:
        facts += ['in all its phases,', 'of which one is drawn']
    return facts


def _worst_confusion(counts: np.ndarray, names: list[str]) -> str:
    errors = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    true, predicted = np.unravel_index(errors.argmax(), errors.shape)
    return (
        f'{errors.sum()} of {counts.sum()} wrong, most often {names[true]} taken for '
        f'{names[predicted]} ({errors[true, predicted]} times)'
    )


def _stem_kernels(run: Run) -> dict[str, np.ndarray]:
    """{branch: kernel (P_h, P_w, C_in, hidden)}, in the order of the branches."""
    kernels = {}
    for name, kernel in run.weights.items():
        number = re.fullmatch(r'stem(?:_(\d+))?/kernel(?:_(\d+))?', name)
        if number and kernel.ndim == 4:
            kernels[int(number[1] or number[2] or 0)] = kernel
    texts = _branch_texts(run.branches)
    return {texts[k]: kernels[k] for k in sorted(kernels) if k < len(texts)}


def _branch_texts(branches: tuple[Patches, ...]) -> list[str]:
    """What tells the branches apart; of a single one its size and dilation."""
    parts = [
        (
            '{}×{} pixels'.format(*branch.size),
            f'dilation {setting_text(branch.dilation)}',
            f'offset {branch.offset}',
        )
        for branch in branches
    ]
    if len(parts) == 1:
        return [', '.join(parts[0][:2])]
    differing = [k for k in range(3) if len({part[k] for part in parts}) > 1]
    texts = [', '.join(part[k] for k in differing) for part in parts]
    same = len(set(texts)) < len(texts)
    return [f'branch {k}: {text}' if same else text for k, text in enumerate(texts)]
