"""A training step on this machine, timed: what a plan for `--devices=this` is held against."""

from mixer_dilated.planning.epoch_timing import TimedEpoch, on_noise
from mixer_dilated.planning.plan import Plan

TURNS = 5
TURN_SECONDS = 0.5


def measured_step(plan: Plan) -> float:
    """Seconds of a training step on random images, on one device: the fastest of some turns.

    Args:
      plan: for this machine, whose estimate says how many steps make a turn.
    """
    steps = min(max(round(TURN_SECONDS / plan.step), 1), 500)
    setup = on_noise(plan.setup, plan.setup.image_size, steps)
    epoch = TimedEpoch(setup, setup.dataset.read('train'))
    return min(epoch.seconds() for _ in range(TURNS)) / steps
