"""Trained trials on corrupted test images."""

import itertools
import pathlib
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mixer_dilated.data.corruption import CORRUPTIONS
from mixer_dilated.data.datasets import load_examples
from mixer_dilated.data.examples import Examples
from mixer_dilated.data.stored_images import is_square, to_input
from mixer_dilated.inference.evaluation import restore_checkpoint
from mixer_dilated.random_keys import purpose_key
from mixer_dilated.reports.formatting import count_text
from mixer_dilated.studies.observer import StudyObserver
from mixer_dilated.studies.stats import compare, correct_together
from mixer_dilated.studies.sweep import PreparedTrial
from mixer_dilated.studies.trials import trial_folder
from mixer_dilated.studies.verdicts import is_significant, p_phrase, points_text
from mixer_dilated.training.compiled import CompiledFunctions


def robustness_rows(
    trials: Sequence[PreparedTrial], folder: pathlib.Path, observer: StudyObserver
) -> Iterator[dict]:
    """One row a trial, corruption, severity and seed: cell, corruption, strength, seed, accuracy.

    All trials, of which the newest checkpoints are read, and seeds see the same corrupted images.
    """
    for done, trial in enumerate(trials, 1):
        setup, dataset = trial.setup, trial.setup.config.dataset
        programs = CompiledFunctions(setup)
        state = restore_checkpoint(trial_folder(folder, trial), programs).state
        test = load_examples(setup.dataset, dataset.test_split, dataset.cache_dir)
        clean = jnp.asarray(test.images)
        if is_square(clean.shape[1:3], setup.image_size):  # with a row that is no image
            clean = to_input(clean, setup.image_size)
        for name, severity, images in corrupt(clean):
            inputs = programs.in_memory(Examples(np.asarray(images), test.labels))
            correct = programs.evaluate(state, inputs)['correct']
            for k, count in enumerate(correct):
                yield {
                    'cell': trial.name,
                    'corruption': name,
                    'strength': severity,
                    'seed': setup.config.seed + k,
                    'accuracy': int(count) / setup.num_examples['test'],
                }
        observer.on_measured(f'robustness of {trial.label}', done, len(trials))


def corrupt(images: jax.Array) -> Iterator[tuple[str, float, jax.Array]]:
    """(corruption, severity, images) of every corruption and severity, the same for every call."""
    for corruption in CORRUPTIONS:
        apply = jax.jit(corruption.apply)
        key = purpose_key(jax.random.key(0), f'corruption {corruption.name}')
        for severity in corruption.severities:
            yield corruption.name, severity, apply(key, images, severity)


def robustness_sentences(trials: Sequence[PreparedTrial], rows: Sequence[dict]) -> list[str]:
    """A sentence for each trial and corruption at its greatest severity: lost accuracy.

    What is compared, paired by seed, is the loss (accuracy of the clean images − accuracy of the
    corrupted ones), so that a trial that is better to begin with does not look more robust for
    that. p values are adjusted for the number of sentences by `correct_together`.
    """
    import pandas as pd

    labels = {trial.name: trial.label for trial in trials}
    keys = ['cell', 'corruption', 'strength', 'seed']
    accuracy = pd.DataFrame(rows).set_index(keys).accuracy.sort_index()
    pairs = [(trial.name, trial.reference) for trial in trials if trial.reference]
    compared = []
    for pair, corruption in itertools.product(pairs, CORRUPTIONS):
        clean, *_, most = corruption.severities
        losses = [
            accuracy[name, corruption.name, clean] - accuracy[name, corruption.name, most]
            for name in pair
        ]
        comparison = compare(*losses, reference=pair[1])
        compared.append((*(labels[name] for name in pair), corruption, comparison, losses))
    correct_together([comparison for *_, comparison, _ in compared])
    return [_sentence(*of_pair) for of_pair in compared]


def _sentence(label, reference_label, corruption, comparison, losses) -> str:
    """Which of two loses more, with the interval of the difference where there is one."""
    ours, theirs = (points_text(of_trial.mean(), signed=False)[0] for of_trial in losses)
    finding = 'neither loses significantly more'
    if is_significant(comparison['p_holm']):
        finding = f'{label if comparison["difference"] > 0 else reference_label} loses more'
    if comparison['low'] is not None:
        mean, low, high = points_text(*(comparison[key] for key in ('difference', 'low', 'high')))
        finding += (
            f': difference {mean}, 95 % interval {low} … {high}, '
            f"{p_phrase(comparison['p_holm'])} after Holm's correction"
        )
    return (
        f'{corruption.name.capitalize()} of {corruption.severities[-1]} ({corruption.unit}): '
        f'{label} loses {ours} points of accuracy, {reference_label} {theirs}; {finding} '
        f'({count_text(comparison["count"], "seed")}).'
    )
