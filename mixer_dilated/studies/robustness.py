"""Trained trials on corrupted test images."""

import pathlib
import statistics
from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp

from mixer_dilated.data.corruption import CORRUPTIONS
from mixer_dilated.data.datasets import load_examples
from mixer_dilated.data.examples import Examples
from mixer_dilated.inference.evaluation import restore_checkpoint
from mixer_dilated.random_keys import purpose_key
from mixer_dilated.reports.formatting import count_text
from mixer_dilated.studies.observer import StudyObserver
from mixer_dilated.studies.stats import compare, correct_together
from mixer_dilated.studies.sweep import PreparedTrial
from mixer_dilated.studies.trials import trial_folder
from mixer_dilated.studies.wording import is_significant, p_phrase, points_text
from mixer_dilated.training.compiled import CompiledFunctions


def robustness_rows(
    trials: Sequence[PreparedTrial], folder: pathlib.Path, observer: StudyObserver
) -> Iterator[dict]:
    """One row a trial, corruption, severity and seed: cell, corruption, strength, seed, accuracy.

    All trials and seeds see the same corrupted images.

    Args:
      trials: trained ones.
      folder: of the study; the newest checkpoint of each trial is read.
      observer: of every finished trial.
    """
    for done, trial in enumerate(trials, 1):
        setup, dataset = trial.setup, trial.setup.config.dataset
        programs = CompiledFunctions(setup)
        state = restore_checkpoint(trial_folder(folder, trial), programs).state
        test = load_examples(setup.dataset, dataset.test_split, dataset.cache_dir)
        for name, severity, images in corrupt(jnp.asarray(test.images)):
            inputs = programs.in_memory(Examples(images, test.labels))
            correct = programs.evaluate(state, inputs)['correct']
            for k, count in enumerate(correct):
                yield {
                    'cell': trial.name,
                    'corruption': name,
                    'strength': severity,
                    'seed': setup.config.seed + k,
                    'accuracy': int(count) / setup.test_examples,
                }
        observer.on_measured(f'robustness of {trial.label}', done, len(trials))


def corrupt(images: jax.Array) -> Iterator[tuple[str, float, jax.Array]]:
    """(corruption, severity, images) of every corruption and severity, the same for every call."""
    for corruption in CORRUPTIONS.values():
        apply = jax.jit(corruption.apply)
        key = purpose_key(jax.random.key(0), f'corruption {corruption.name}')
        for severity in corruption.severities:
            yield corruption.name, severity, apply(key, images, severity)


def robustness_sentences(
    trials: Sequence[PreparedTrial], rows: Sequence[dict], references: Mapping[str, str]
) -> list[str]:
    """A sentence for each trial and corruption at its greatest severity: lost accuracy.

    What is compared, paired by seed, is the loss (accuracy of the clean images − accuracy of the
    corrupted ones), so that a trial that is better to begin with does not look more robust for
    that. p values are adjusted for the number of sentences by `holm`.

    Args:
      trials: trained ones.
      rows: as `robustness_rows` yields them.
      references: {trial: trial that it is compared with}.
    """
    labels = {trial.name: trial.label for trial in trials}
    accuracy = {
        (row['cell'], row['corruption'], row['strength'], row['seed']): row['accuracy']
        for row in rows
    }
    seeds = sorted({row['seed'] for row in rows})
    compared = []
    for name, reference in references.items():
        for corruption in CORRUPTIONS.values():
            clean, *_, most = corruption.severities
            lost = {
                trial: [
                    accuracy[trial, corruption.name, clean, seed]
                    - accuracy[trial, corruption.name, most, seed]
                    for seed in seeds
                ]
                for trial in (name, reference)
            }
            comparison = compare(lost[name], lost[reference], reference=reference)
            compared.append((name, corruption, comparison, lost))
    correct_together([comparison for _, _, comparison, _ in compared])
    return [_sentence(labels, *of_trial) for of_trial in compared]


def _sentence(labels, name, corruption, comparison, lost) -> str:
    reference = comparison['reference']
    ours, theirs = (
        points_text(statistics.fmean(lost[trial]), signed=False)[0] for trial in (name, reference)
    )
    most = f'{corruption.severities[-1]} ({corruption.unit})'
    return (
        f'{corruption.name.capitalize()} of {most}: {labels[name]} loses {ours} points of '
        f'accuracy, {labels[reference]} {theirs}; {_finding(labels, name, comparison)} '
        f'({count_text(comparison["count"], "seed")}).'
    )


def _finding(labels, name, comparison) -> str:
    """Which of two loses more, with the interval of the difference where there is one."""
    p, more = (
        comparison['p_holm'],
        name if comparison['difference'] > 0 else comparison['reference'],
    )
    which = (
        f'{labels[more]} loses more' if is_significant(p) else 'neither loses significantly more'
    )
    if comparison['low'] is None:
        return which
    mean, low, high = points_text(*(comparison[key] for key in ('difference', 'low', 'high')))
    return (
        f"{which}: difference {mean}, 95 % interval {low} … {high}, {p_phrase(p)} after Holm's "
        'correction'
    )
