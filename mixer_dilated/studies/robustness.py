"""Trained cells on corrupted test images."""

import pathlib
import statistics
from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp

from mixer_dilated.data.corruption import CORRUPTIONS
from mixer_dilated.data.datasets import load_examples
from mixer_dilated.data.examples import Examples
from mixer_dilated.studies.observer import StudyProgress
from mixer_dilated.studies.sweep import PreparedCell
from mixer_dilated.studies.wording import is_settled, p_text, points_text
from mixer_dilated.inference.evaluation import restore_checkpoint
from mixer_dilated.random_keys import purpose_key
from mixer_dilated.reports.cell_text import count_text
from mixer_dilated.studies.stats import compare, holm
from mixer_dilated.training.compiled import CompiledFunctions


def robustness_rows(
    cells: Sequence[PreparedCell], folder: pathlib.Path, progress: StudyProgress
) -> Iterator[dict]:
    """One row a cell, corruption, strength and seed: cell, corruption, strength, seed, accuracy.

    All cells and seeds see the same corrupted images.

    Args:
      cells: trained ones.
      folder: of the study; the newest checkpoint of each cell is read.
      progress: told of every finished cell.
    """
    for done, cell in enumerate(cells, 1):
        setup, dataset = cell.setup, cell.setup.config.dataset
        programs = CompiledFunctions(setup)
        state = restore_checkpoint(folder / 'cells' / cell.name, programs).state
        test = load_examples(setup.dataset, dataset.test_split, dataset.cache_dir)
        for name, strength, images in corrupted(jnp.asarray(test.images)):
            inputs = programs.in_memory(Examples(images, test.labels))
            correct = programs.evaluate(state, inputs)['correct']
            for k, count in enumerate(correct):
                yield {
                    'cell': cell.name,
                    'corruption': name,
                    'strength': strength,
                    'seed': setup.config.seed + k,
                    'accuracy': int(count) / setup.test_examples,
                }
        progress.measured(f'robustness of {cell.label}', done, len(cells))


def corrupted(images: jax.Array) -> Iterator[tuple[str, float, jax.Array]]:
    """(corruption, severity, images) of every corruption and severity, the same for every call."""
    for corruption in CORRUPTIONS.values():
        apply = jax.jit(corruption.apply)
        key = purpose_key(jax.random.key(0), f'corruption {corruption.name}')
        for severity in corruption.severities:
            yield corruption.name, severity, apply(key, images, severity)


def robustness_statistics(
    cells: Sequence[PreparedCell], rows: Sequence[dict], references: Mapping[str, str]
) -> list[str]:
    """A sentence for each cell, corruption and its largest strength: lost accuracy, paired by seed.

    What is compared is the loss (accuracy of the clean images − accuracy of the corrupted ones), so
    that a cell that is better to begin with does not look more robust for that. p values are
    adjusted for the number of sentences by `holm`.

    Args:
      cells: trained ones.
      rows: as `robustness_rows` yields them.
      references: {cell: cell that it is compared with}.
    """
    labels = {cell.name: cell.label for cell in cells}
    accuracy = {
        (row['cell'], row['corruption'], row['strength'], row['seed']): row['accuracy']
        for row in rows
    }
    seeds = sorted({row['seed'] for row in rows})
    compared = []
    for name, reference in references.items():
        for corruption in CORRUPTIONS.values():
            none, *_, most = corruption.severities
            lost = {
                cell: [
                    accuracy[cell, corruption.name, none, seed]
                    - accuracy[cell, corruption.name, most, seed]
                    for seed in seeds
                ]
                for cell in (name, reference)
            }
            compared.append(
                (name, corruption, compare(lost[name], lost[reference], reference=reference), lost)
            )
    adjusted = holm([comparison['p'] for _, _, comparison, _ in compared])
    return [
        _sentence(labels, name, corruption, comparison, p, lost)
        for (name, corruption, comparison, lost), p in zip(compared, adjusted, strict=True)
    ]


def _sentence(labels, name, corruption, comparison, p, lost) -> str:
    reference = comparison['reference']
    ours, theirs = (
        points_text(statistics.fmean(lost[cell]), signed=False)[0] for cell in (name, reference)
    )
    most = f'{corruption.severities[-1]} ({corruption.unit})'
    return (
        f'{corruption.name.capitalize()} of {most}: {labels[name]} loses {ours} points of '
        f'accuracy, {labels[reference]} {theirs}; {_settled(labels, name, comparison, p)} '
        f'({count_text(comparison["count"], "seed")}).'
    )


def _settled(labels, name, comparison, p) -> str:
    """Which of two loses more, with the interval of the difference where there is one."""
    more = name if comparison['difference'] > 0 else comparison['reference']
    which = f'{labels[more]} loses more' if is_settled(p) else 'which loses more is not settled'
    if comparison['low'] is None:
        return which
    mean, low, high = points_text(*(comparison[key] for key in ('difference', 'low', 'high')))
    return (
        f"{which}: difference {mean}, 95 % interval {low} … {high}, {p_text(p)} after Holm's "
        'correction'
    )
