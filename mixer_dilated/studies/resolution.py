"""What a training step costs on larger images: tokens, FLOPs, seconds, memory."""

import collections
import statistics
from collections.abc import Iterator, Sequence

from mixer_dilated.models.costs import flops_per_image
from mixer_dilated.reports.quantities import QUANTITIES
from mixer_dilated.studies.observer import StudyObserver
from mixer_dilated.studies.stats import compare_times, fit_exponent
from mixer_dilated.studies.sweep import PreparedTrial
from mixer_dilated.studies.verdicts import (
    HELD,
    OPEN,
    REVERSED,
    is_significant,
    listing,
    ratio_text,
)
from mixer_dilated.training.state import network_layers
from mixer_dilated.training.timing import TimedEpoch, on_random_images, take_turns

STEPS, ROUNDS = 4, 7


def resolution_rows(
    trials: Sequence[PreparedTrial], image_sizes: Sequence[int], observer: StudyObserver
) -> Iterator[dict]:
    """One row a trial and image side; at each side the trials take turns, `ROUNDS` times.

    A row has cell (the trial), image_size (pixels a side), num_tokens, flops_per_image (forward),
    batch, memory_bytes (temporary buffers of the training program, as the compiler lays them out)
    and step_seconds with its quartiles step_seconds_low and step_seconds_high, of round_seconds.
    One seed is measured, on one device.
    """
    valid = [trial for trial in trials if not trial.invalid]
    for done, side in enumerate(sorted(image_sizes), 1):
        epochs, costs = {}, {}
        for trial in valid:
            one_seed = trial.setup.changed({'num_seeds': 1})
            setup = on_random_images(one_seed, (side, side), STEPS)
            epochs[trial.name] = epoch = TimedEpoch(setup)
            costs[trial.name] = {
                'num_tokens': setup.num_tokens,
                'flops_per_image': flops_per_image(network_layers(setup)),
                'memory_bytes': epoch.training_bytes['temporary'],
                'batch': setup.config.batch,
            }
        for name, seconds in take_turns(epochs, ROUNDS).items():
            of_steps = [of_epoch / STEPS for of_epoch in seconds]
            low, middle, high = statistics.quantiles(of_steps, n=4, method='inclusive')
            times = {'step_seconds': middle, 'step_seconds_low': low, 'step_seconds_high': high}
            row = {'cell': name, 'image_size': side, **costs[name], **times}
            yield row | {'round_seconds': of_steps}
        observer.on_measured(f'{side}×{side} pixels', done, len(image_sizes))


def resolution_statistics(trials: Sequence[PreparedTrial], rows: Sequence[dict]) -> dict:
    """Growth exponents over the image's side, and sentences: the content of `statistics.json`.

    Returns:
      {fits: {trial: {quantity: as `fit_exponent`}}, verdicts}, of rows of `resolution_rows`.
    """
    labels = {trial.name: trial.label for trial in trials if not trial.invalid}
    of_trial = {name: [row for row in rows if row['cell'] == name] for name in labels}
    fits = {}
    for name, by_side in of_trial.items():
        if len(by_side) > 1:
            sides = [row['image_size'] for row in by_side]
            fits[name] = {
                key: fit_exponent(sides, [row[key] for row in by_side]) for key in QUANTITIES
            }
    pairs = [(trial.name, trial.reference) for trial in trials if trial.reference]
    verdicts = [
        _verdict(labels[name], labels[other], of_trial[name][-1], of_trial[other][-1])
        for name, other in pairs
    ]
    verdicts += [_growth_sentence(labels[name], by_quantity) for name, by_quantity in fits.items()]
    return {'fits': fits, 'verdicts': verdicts}


def _verdict(label: str, reference_label: str, row: dict, reference: dict) -> str:
    """Whether less compute, time and memory, which the paper claims, held at the largest side."""
    times = compare_times(row['round_seconds'], reference['round_seconds'])
    outcomes, parts = collections.defaultdict(list), []
    for name, quantity in QUANTITIES.items():
        if name == 'num_tokens':
            continue
        # FLOPs and memory are counted, seconds are measured.
        ratio, is_open = row[name] / reference[name], False
        if name == 'step_seconds':
            ratio, is_open = times['ratio'], not is_significant(times['p'])
        outcomes[OPEN if is_open else HELD if ratio < 1 else REVERSED].append(quantity.noun)
        parts.append(f'{ratio_text(ratio)[0]} of the {quantity.noun}')
    held = listing([f'{outcome} for {listing(nouns)}' for outcome, nouns in outcomes.items()])
    side = row['image_size']
    return (
        f'That {label} needs less than {reference_label} {held}: at {side}×{side} pixels a '
        f'training step has {listing(parts)}, with {row["num_tokens"]} tokens for '
        f'{reference["num_tokens"]}.'
    )


def _growth_sentence(label: str, fits: dict) -> str:
    powers = []
    for name, quantity in QUANTITIES.items():
        error = fits[name]['standard_error']
        spread = '' if error is None else f' ± {error:.2f}'
        powers.append(f'{quantity.noun} {fits[name]["exponent"]:.2f}{spread}')
    growth = "powers of the image's side that fit the growth (± standard error)"
    return f'{label}: {growth} are {listing(powers)}.'
