"""A plan as plain values, for files and tables: `plan_content`."""

import dataclasses

from mixer_dilated.planning.advice import Change
from mixer_dilated.planning.plan import Plan

# What the numbers take for granted, told with every plan.
ASSUMPTIONS = (
    'An estimate, and of the time a lower bound: no program reaches peak FLOP/s or full bandwidth.',
    'A product takes its FLOPs at the peak or its arrays at the memory bandwidth, whichever is '
    'longer; LayerNorm, GELU, residual connections and the optimizer read and write each array '
    'once; augmentation, dropout, evaluation, start and reading images are not counted.',
    "Along 'data' devices exchange beside the computation, as far as that lasts; along 'model' the "
    'products wait for it. Links send at full bandwidth, without latency.',
)
MEMORY_COUNT = (
    "Memory is counted array by array, held against what XLA's CPU compiler lays out. Other "
    'compilers fuse more, and pad arrays to tiles.'
)


def plan_content(plan: Plan, changes: list[Change] = ()) -> dict:
    """All numbers of a plan, in bytes, seconds and FLOPs, of one device and one step.

    Args:
      plan: which.
      changes: that help where it does not fit.
    """
    setup, hardware, share = plan.setup, plan.hardware, plan.share
    config = setup.config
    return {
        'devices': {
            **dataclasses.asdict(plan.devices),
            'title': hardware.title,
            'peak_flops': hardware.peak_flops[config.dtype],
            'memory_bytes': hardware.memory_bytes,
            'usable_bytes': plan.usable_bytes,
            'memory_bandwidth': hardware.memory_bandwidth,
            'elementwise_bandwidth': hardware.elementwise_bandwidth or hardware.memory_bandwidth,
            'remark': hardware.remark,
            'sources': [list(source) for source in hardware.sources],
        },
        'mesh': share.mesh_shape,
        'fsdp': share.fsdp,
        'dataset': config.dataset.name,
        'image_shape': list(setup.dataset.image_shape),
        'num_tokens': setup.num_tokens,
        'num_params': plan.shapes.num_params,
        'num_seeds': config.num_seeds,
        'dtype': config.dtype,
        'batch': config.batch,
        'accum_steps': share.parts,
        'images': share.images,
        'memory': plan.memory,
        'streamed_batches': plan.streamed,
        'total_bytes': plan.total_bytes,
        'fits': plan.fits,
        'work': {
            'flops': plan.work.flops,
            'memory_bytes': plan.work.memory_bytes,
            'elementwise_bytes': plan.work.elementwise_bytes,
            'update_bytes': plan.work.update_bytes,
        },
        'exchanges': [
            {
                'axis': each.axis,
                'kind': each.kind,
                'what': each.what,
                'array_bytes': each.array_bytes,
                'sent_bytes': each.sent_bytes,
                'seconds': seconds,
            }
            for each, seconds in plan.exchanges
        ],
        'seconds': {
            **plan.seconds,
            'computing': plan.computing,
            'data': plan.exchanging('data'),
            'model': plan.exchanging('model'),
            'step': plan.step,
            'step_in_turn': plan.step_in_turn,
            'run': plan.run,
        },
        'steps': setup.total_steps,
        'images_per_second': plan.images_per_second,
        'peak_share': plan.work.flops / plan.step / hardware.peak_flops[config.dtype],
        'changes': [
            {
                'values': dict(change.values),
                'total_bytes': change.plan.total_bytes,
                'fits': change.plan.fits,
                'step': change.plan.step,
            }
            for change in changes
        ],
        'assumptions': [*ASSUMPTIONS, MEMORY_COUNT],
    }
