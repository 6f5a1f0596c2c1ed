"""What a training step costs on larger images: tokens, FLOPs, seconds, memory."""

import statistics
from collections.abc import Iterator, Mapping, Sequence

from mixer_dilated.benchmark.epoch_timing import TimedEpoch, on_noise, seconds_in_turns
from mixer_dilated.studies.observer import StudyProgress
from mixer_dilated.studies.sweep import PreparedCell
from mixer_dilated.studies.verdicts import HELD, OPEN, REVERSED
from mixer_dilated.studies.wording import is_settled, listing, ratio_text
from mixer_dilated.models.costs import flops_per_image
from mixer_dilated.reports.quantities import QUANTITIES
from mixer_dilated.studies.stats import compare_times, fit_exponent
from mixer_dilated.training.setup import Setup
from mixer_dilated.training.state import network_layers

STEPS, ROUNDS = 4, 7


def resolution_rows(
    cells: Sequence[PreparedCell], image_sizes: Sequence[int], progress: StudyProgress
) -> Iterator[dict]:
    """One row a cell and image side; at each side the cells take turns, `ROUNDS` times.

    A row has cell, image_size (pixels a side), num_tokens, flops_per_image (forward), batch,
    memory_bytes (temporary buffers of the training program, as the compiler lays them out) and
    step_seconds with its quartiles step_seconds_low and step_seconds_high, of round_seconds. It is
    one seed on one device that is measured.
    """
    for done, side in enumerate(sorted(image_sizes), 1):
        measured = {cell.name: _at_side(cell.setup, side) for cell in cells if not cell.impossible}
        seconds = seconds_in_turns({name: epoch for name, (epoch, _) in measured.items()}, ROUNDS)
        for name, (_, costs) in measured.items():
            of_steps = [of_epoch / STEPS for of_epoch in seconds[name]]
            low, middle, high = statistics.quantiles(of_steps, n=4, method='inclusive')
            yield {
                'cell': name,
                'image_size': side,
                **costs,
                'step_seconds': middle,
                'step_seconds_low': low,
                'step_seconds_high': high,
                'round_seconds': of_steps,
            }
        progress.measured(f'{side}×{side} pixels', done, len(image_sizes))


def resolution_statistics(
    cells: Sequence[PreparedCell], rows: Sequence[dict], references: Mapping[str, str]
) -> dict:
    """Growth exponents over the image's side, and sentences: the content of `statistics.json`.

    Args:
      cells: the study's cells.
      rows: as `resolution_rows` yields them.
      references: {cell: cell that it is compared with at the largest side}.

    Returns:
      {fits: {cell: {quantity: as `fit_exponent`}}, verdicts}.
    """
    possible = [cell for cell in cells if not cell.impossible]
    of_cell = {cell.name: [row for row in rows if row['cell'] == cell.name] for cell in possible}
    fits = {
        name: {
            quantity: fit_exponent(
                [row['image_size'] for row in found], [row[quantity] for row in found]
            )
            for quantity in QUANTITIES
        }
        for name, found in of_cell.items()
        if len(found) > 1
    }
    labels = {cell.name: cell.label for cell in possible}
    verdicts = [
        _verdict(labels[name], labels[other], of_cell[name][-1], of_cell[other][-1])
        for name, other in references.items()
    ] + [_growth(labels[name], found) for name, found in fits.items()]
    return {'fits': fits, 'verdicts': verdicts}


def _verdict(label: str, reference_label: str, row: dict, reference: dict) -> str:
    """Whether less compute, time and memory, which the paper claims, held at the largest side."""
    ratios = {
        quantity.noun: row[name] / reference[name]
        for name, quantity in QUANTITIES.items()
        if name != 'num_tokens'
    }
    times = compare_times(row['round_seconds'], reference['round_seconds'], reference='')
    step_time = QUANTITIES['step_seconds'].noun
    ratios[step_time] = times['ratio']
    outcomes = {noun: HELD if ratio < 1 else REVERSED for noun, ratio in ratios.items()}
    if not is_settled(times['p']):  # FLOPs and memory are counted, seconds are measured
        outcomes[step_time] = OPEN
    found = listing(
        [
            f'{outcome} for {listing([noun for noun in outcomes if outcomes[noun] == outcome])}'
            for outcome in dict.fromkeys(outcomes.values())
        ]
    )
    listed = listing([f'{ratio_text(ratio)[0]} of the {noun}' for noun, ratio in ratios.items()])
    side = row['image_size']
    return (
        f'That {label} needs less than {reference_label} {found}: at {side}×{side} pixels a '
        f'training step has {listed}, with {row["num_tokens"]} tokens for '
        f'{reference["num_tokens"]}.'
    )


def _growth(label: str, fits: dict) -> str:
    powers = []
    for name, quantity in QUANTITIES.items():
        error = fits[name]['standard_error']
        spread = '' if error is None else f' ± {error:.2f}'
        powers.append(f'{quantity.noun} {fits[name]["exponent"]:.2f}{spread}')
    return (
        f"{label}: powers of the image's side that fit the growth (± standard error) are "
        f'{listing(powers)}.'
    )


def _at_side(setup: Setup, side: int) -> tuple[TimedEpoch, dict]:
    """An epoch of `STEPS` steps of a task's network on images of another side, and its costs."""
    setup = on_noise(setup.changed({'num_seeds': 1}), (side, side), STEPS)
    epoch = TimedEpoch(setup, setup.dataset.read('train'))
    return epoch, {
        'num_tokens': setup.num_tokens,
        'flops_per_image': flops_per_image(network_layers(setup)),
        'memory_bytes': epoch.training_bytes['temporary'],
        'batch': setup.config.batch,
    }
