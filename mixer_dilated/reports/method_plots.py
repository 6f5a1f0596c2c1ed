"""The plots of runs, one or several side by side: what they see, learn, reach and get wrong."""

import re
from collections.abc import Iterator, Mapping

import numpy as np

from mixer_dilated.patches.geometry import Patches
from mixer_dilated.reports.augmentation_picture import augmentation_picture
from mixer_dilated.reports.cell_text import count_text, setting_text, share_text, spread_text
from mixer_dilated.reports.confusion import confusion_matrices, confusion_matrix
from mixer_dilated.reports.coverage_picture import Seen, coverage_picture
from mixer_dilated.reports.curves import training_curves
from mixer_dilated.reports.mistakes import Mistake, mistakes_picture
from mixer_dilated.reports.plot import Omitted, Plot
from mixer_dilated.reports.run_files import Run
from mixer_dilated.reports.weights_picture import weight_images
from mixer_dilated.studies.stats import describe

IMAGES_SHOWN = 3
PREFERRED_CLASSES = (4, 2, 8)


def coverage_plot(runs: Mapping[str, Run]) -> Plot:
    """Which pixels each method sees, on three test images.

    Args:
      runs: {label: run}, of one data set.
    """
    shown = _classes_to_show(next(iter(runs.values())).predictions['class_images'])
    methods = []
    for label, run in runs.items():
        summary, model = run.summary, run.config.model
        random_phase = run.config.augment.random_phase
        facts = [
            count_text(summary['num_tokens'], 'token'),
            'sees ' + share_text(summary['pixels_seen'], summary['pixels']).replace(' (', '\n('),
            *(['smoothed before', 'it is sampled'] if model.blur else []),
            *(['in all its phases,', 'of which one is drawn'] if random_phase else []),
        ]
        images = run.predictions['class_images'][shown]
        methods.append(Seen(label, run.branches, model.branch_merge, images, tuple(facts)))
    alt = '; '.join(
        f'{label}: {run.summary["num_tokens"]} tokens see {run.summary["pixels_seen"]} of '
        f'{run.summary["pixels"]} pixels'
        for label, run in runs.items()
    )
    return Plot(
        'pixels_seen',
        'Which pixels each method sees',
        'Blue pixels are seen by at least one token, plain ones by none; orange are the pixels of '
        'one token and its window, grey borders are padding.',
        alt,
        coverage_picture(methods),
    )


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
        augmentation_picture(run.augmented),
    )


def curves_plot(runs: Mapping[str, Run]) -> Plot:
    """Accuracy and loss by epoch."""
    alt = '; '.join(
        f'{label}: test accuracy {spread_text(describe(run.values("test_accuracy")))}, train '
        f'accuracy {spread_text(describe(run.values("train_accuracy")))} at the end'
        for label, run in runs.items()
    )
    return Plot(
        'training_curves',
        'Training curves',
        'Each line is the mean over seeds after that epoch, its band one standard deviation either '
        'way (train figures are taken while training, axes of accuracy leave out the first climb, '
        'those of loss are logarithmic).',
        alt,
        training_curves({label: run.curves for label, run in runs.items()}),
    )


def confusion_plot(runs: Mapping[str, Run]) -> Plot:
    """Which class is taken for which, all seeds together."""
    counts = {
        label: confusion_matrix(run.predictions['labels'], run.predictions['probabilities'])
        for label, run in runs.items()
    }
    names = next(iter(runs.values())).class_names
    return Plot(
        'confusion',
        'Confusion matrices',
        'A row is a true class, a column what it was taken for, counts are summed over seeds; the '
        'grey diagonal is right, the darker the orange the more errors.',
        '; '.join(f'{label}: {_worst_confusion(found, names)}' for label, found in counts.items()),
        confusion_matrices(counts, names),
    )


def mistake_plots(runs: Mapping[str, Run]) -> Iterator[Plot | Omitted]:
    """The first seed's most confident mistakes, a plot a method."""
    for label, suffix, run in _numbered(runs):
        title = f'Most confident mistakes: {label}'
        found = _mistakes(run)
        if not found:
            yield Omitted(title, 'the first seed makes no mistake on the test images')
            continue
        listed = ', '.join(f'{one.true} taken for {one.predicted}' for one in found)
        yield Plot(
            f'mistakes{suffix}',
            title,
            'Test images that the first seed gets wrong, the surest first: above each true → '
            'predicted class, and the probability given to the predicted one.',
            listed,
            mistakes_picture(found),
        )


def stem_plots(runs: Mapping[str, Run]) -> Iterator[Plot | Omitted]:
    """The stem's kernels, a plot a method, a panel a branch."""
    for label, suffix, run in _numbered(runs):
        title = f'What the stem has learned: {label}'
        kernels = _stem_kernels(run)
        if not kernels:
            yield Omitted(title, 'weights.npz has no stem kernel')
            continue
        colours = next(iter(kernels.values())).shape[2] > 1
        panels = {name: kernel.mean(axis=2) for name, kernel in kernels.items()}
        units = next(iter(panels.values())).shape[-1]
        yield Plot(
            f'stem_kernels{suffix}',
            title,
            f'Each small image is what one channel of a token weighs its {_pixels(run)} sampled '
            'pixels with (first seed, largest first): red adds, blue subtracts, white ignores'
            + ('; mean over the colours of the image.' if colours else '.'),
            f'{min(units, 64)} of {units} kernels in {len(panels)} panels',
            weight_images(panels, 'weight'),
        )


def mixing_plots(runs: Mapping[str, Run]) -> Iterator[Plot | Omitted]:
    """The first layer of the first block's token mixing, a plot a method."""
    for label, suffix, run in _numbered(runs):
        title = f'How the first block mixes tokens: {label}'
        kernel = run.weights.get('MixerBlock_0/token_mixing/Dense_0/kernel')
        grids = {patches.grid(run.image_size) for patches in run.branches}
        if len(run.branches) > 1 and run.config.model.branch_merge == 'tokens':
            yield Omitted(
                title,
                'its branches add their tokens one after the other '
                '(model.branch_merge is tokens), so '
                'they form no one grid',
            )
            continue
        rows, columns = grids.pop()
        if kernel is None or kernel.ndim != 2 or kernel.shape[0] != rows * columns:
            yield Omitted(title, f'weights.npz has no kernel for its grid of {rows}×{columns}')
            continue
        panel = {f'{rows}×{columns} tokens': kernel.reshape(rows, columns, -1)}
        yield Plot(
            f'token_mixing{suffix}',
            title,
            'Each small image is one hidden unit of the token mixing MLP: a square is the weight '
            f'of the token at that place of the {rows}×{columns} grid (first seed, largest first); '
            'red adds, blue subtracts.',
            f'{min(kernel.shape[1], 64)} of {kernel.shape[1]} units',
            weight_images(panel, 'weight'),
        )


def _numbered(runs: Mapping[str, Run]) -> Iterator[tuple[str, str, Run]]:
    """(label, ending of a file's name, run): a number where there are several."""
    for number, (label, run) in enumerate(runs.items(), 1):
        yield label, f'_{number}' if len(runs) > 1 else '', run


def _classes_to_show(class_images: np.ndarray) -> list[int]:
    """Three classes that have an image: 4, 2 and 8 where they do."""
    there = [k for k in range(len(class_images)) if class_images[k].any()] or [0]
    preferred = [k for k in PREFERRED_CLASSES if k in there]
    others = [k for k in there if k not in preferred]
    return (preferred + others)[:IMAGES_SHOWN]


def _mistakes(run: Run) -> list[Mistake]:
    found, names = run.predictions, run.class_names
    probabilities = found['probabilities'][0, found['shown_index']].astype(np.float64)
    return [
        Mistake(image, names[found['labels'][index]], names[each.argmax()], float(each.max()))
        for image, index, each in zip(
            found['shown_images'], found['shown_index'], probabilities, strict=True
        )
    ]


def _worst_confusion(counts: np.ndarray, names: list[str]) -> str:
    errors = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    true, predicted = np.unravel_index(errors.argmax(), errors.shape)
    return (
        f'{errors.sum()} of {counts.sum()} wrong, most often {names[true]} taken for '
        f'{names[predicted]} ({errors[true, predicted]} times)'
    )


def _stem_kernels(run: Run) -> dict[str, np.ndarray]:
    """{branch: kernel (P_h, P_w, C_in, hidden)}, in the order of the branches."""
    found = {}
    for name, kernel in run.weights.items():
        number = re.fullmatch(r'stem(?:_(\d+))?/kernel(?:_(\d+))?', name)
        if number and kernel.ndim == 4:
            found[int(number[1] or number[2] or 0)] = kernel
    texts = _branch_texts(run.branches)
    return {texts[k]: found[k] for k in sorted(found) if k < len(texts)}


def _branch_texts(branches: tuple[Patches, ...]) -> list[str]:
    """What tells the branches apart; of a single one its size and dilation."""
    parts = [
        [
            f'{each.size[0]}×{each.size[1]} pixels',
            f'dilation {setting_text(each.dilation)}',
            f'offset {each.offset}',
        ]
        for each in branches
    ]
    if len(branches) == 1:
        return [', '.join(parts[0][:2])]
    differing = [k for k in range(3) if len({part[k] for part in parts}) > 1]
    texts = [', '.join(part[k] for k in differing) for part in parts]
    same = len(set(texts)) < len(texts)
    return [f'branch {k}: {text}' if same else text for k, text in enumerate(texts)]


def _pixels(run: Run) -> str:
    return ' or '.join(dict.fromkeys('×'.join(map(str, each.size)) for each in run.branches))
