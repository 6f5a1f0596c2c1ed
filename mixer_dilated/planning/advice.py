"""What to change where a network does not fit, each change planned: `changes_that_help`."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping

from mixer_dilated.errors import UserError
from mixer_dilated.planning.plan import Plan, plan_of

FACTORS = tuple(2**k for k in range(1, 9))  # more parts of a batch than now


@dataclasses.dataclass(frozen=True)
class Change:
    """Other values of some keys, and the plan with them."""

    values: Mapping[str, object]
    plan: Plan


def changes_that_help(plan: Plan) -> list[Change]:
    """Single changes, then all of them one after the other until the network fits.

    Only changes that save memory and that the mesh allows are among them.

    Args:
      plan: one that does not fit.
    """
    helpful = []
    for values in _single(plan):
        change = _planned(plan, values)
        if change and change.plan.total_bytes < plan.total_bytes:
            helpful.append(change)
    if any(change.plan.fits for change in helpful):
        return helpful
    together = {}
    for change in helpful:
        for values in _up_to(plan, change.values):
            both = _planned(plan, together | values)
            if both and len(both.values) > 1 and both.plan.fits:
                return [*helpful, both]
        together |= change.values
    return helpful


def _up_to(plan: Plan, values: Mapping[str, object]) -> list[Mapping[str, object]]:
    """A change, after all smaller ones of the same key."""
    most = values.get('accum_steps')
    if most is None:
        return [values]
    return [{'accum_steps': each} for each in _parts(plan) if each <= most]


def _parts(plan: Plan) -> list[int]:
    """Of a batch, more than now."""
    return [plan.setup.config.accum_steps * factor for factor in FACTORS]


def _single(plan: Plan) -> Iterator[dict[str, object]]:
    """Changes of one thing, the cheapest in time first."""
    config, sizes = plan.setup.config, plan.share.mesh_shape
    if not plan.streamed:
        yield {'input.mode': 'stream'}
    if config.dtype == 'float32':
        yield {'dtype': 'bfloat16'}
    if sizes['data'] > 1 and not config.mesh.fsdp:
        yield {'mesh.fsdp': True}
    if not config.model.remat:
        yield {'model.remat': True}
    allowed = [each for each in _parts(plan) if _planned(plan, {'accum_steps': each})]
    enough = (each for each in allowed if _planned(plan, {'accum_steps': each}).plan.fits)
    if allowed:
        yield {'accum_steps': next(enough, allowed[-1])}
    for model in itertools.takewhile(lambda each: each <= plan.devices.count, (2, 4, 8)):
        if model > config.mesh.model:
            yield {'mesh.model': model, 'mesh.data': 0}


def _planned(plan: Plan, values: Mapping[str, object]) -> Change | None:
    """A change and its plan; None where the mesh or the batch does not allow it."""
    if plan.devices.measured and 'dtype' in values:
        return None  # its speed is not measured
    try:
        setup = plan.setup.changed(values)
        return Change(dict(values), plan_of(setup, plan.shapes, plan.devices, plan.hardware))
    except UserError:
        return None
