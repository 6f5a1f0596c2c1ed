"""Losses, gradients and parameters that are not finite end a run."""

import jax
import numpy as np

from mixer_dilated.errors import NonFiniteError
from mixer_dilated.parallel.multihost import any_host, to_numpy
from mixer_dilated.training.checkpoint import Checkpoints
from mixer_dilated.training.run_state import RunState


def check_finite(run: RunState, epoch: int, checkpoints: Checkpoints) -> None:
    """Raises NonFiniteError at a step whose loss or gradient was not finite.

    With `config.on_nonfinite` = 'skip' only if a parameter is not finite.
    """
    config, metrics = checkpoints.config, to_numpy(run.epoch_metrics)
    if not metrics.skipped.any():
        return
    if config.on_nonfinite == 'skip':
        check_parameters(run, checkpoints)
        return
    first = metrics.first_skipped[metrics.skipped > 0].min()
    seeds = [str(config.seed + k) for k in (metrics.first_skipped == first).nonzero()[0]]
    raise NonFiniteError(
        f'epoch {epoch}, step {first}: the loss or its gradient is not finite (seed '
        f'{", ".join(seeds)}); {_likely_causes(checkpoints)}, or leave such steps out: '
        '--config.on_nonfinite=skip'
    )


def check_parameters(run: RunState, checkpoints: Checkpoints) -> None:
    """Raises NonFiniteError if a parameter is not finite, after steps whose losses were."""
    shards = (s for leaf in jax.tree.leaves(run.state.params) for s in leaf.addressable_shards)
    finite = all(np.isfinite(s.data).all() for s in shards if s.replica_id == 0)
    if any_host(not finite):
        raise NonFiniteError(
            f'step {run.step}: parameters are not finite, which no further step can mend; '
            f'{_likely_causes(checkpoints)}'
        )


def _likely_causes(checkpoints: Checkpoints) -> str:
    newest, optimizer = checkpoints.newest, checkpoints.config.optimizer
    kept = 'there is no checkpoint yet' if newest is None else f'that of step {newest} is kept'
    return (
        f'{kept}. Likely a learning rate too high '
        f'(config.optimizer.base_lr = {optimizer.base_lr}), gradients without a limit '
        f'(config.optimizer.grad_norm_clip = {optimizer.grad_norm_clip}) or no warm-up '
        f'(config.optimizer.warmup_steps = {optimizer.warmup_steps}). Train with other values '
        'in another folder'
    )
