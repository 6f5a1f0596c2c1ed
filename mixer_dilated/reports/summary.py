"""What a config's patches see and what its network costs, as text; nothing is trained."""

import collections
import math
import re
import textwrap

import jax
from rich import box
from rich.table import Table

from mixer_dilated.config import patch_branches, phase_range, pixels_seen
from mixer_dilated.models.costs import Layer, flops_per_image, num_params
from mixer_dilated.reports.tables import print_table
from mixer_dilated.training.task import Task


def print_summary(task: Task, training_bytes: dict[str, int]) -> None:
    """Prints tokens, window, coverage, parameters and FLOPs by layer, and memory.

    Args:
      task: whose patches and network.
      training_bytes: `Programs.training_bytes` of the task.
    """
    height, width, channels = task.source.image_shape
    print(f'{task.config.dataset.name}: {height}×{width}×{channels}, {task.num_tokens} tokens')
    for patches in patch_branches(task.config.model):
        rows, columns = patches.grid((height, width))
        window = '×'.join(map(str, patches.window))
        coverage = patches.coverage((height, width))
        seen = int((coverage > 0).sum())
        print(f'patches {patches}')
        _print_indented(
            f'window {window}, grid {rows}×{columns}, '
            f'sees {seen} of {coverage.size} pixels ({seen / coverage.size:.1%}), '
            f'each of them at most {coverage.max()}×'
        )
    if task.config.augment.random_phase:
        seen = pixels_seen(task.config, (height, width))
        phases = math.prod(phase_range(task.config))
        print('random_phase')
        _print_indented(
            f'training shows an image at one of {phases} phases, evaluation averages over all of '
            f'them ({phases} times these FLOPs); together they see {seen.sum()} of '
            f'{seen.size} pixels'
        )
    print_table(_layer_table(task))
    arguments, temporary = (training_bytes[name] / 2**20 for name in ('arguments', 'temporary'))
    print(
        f'\nmemory while training: {arguments + temporary:.1f} MiB on each device '
        f'(of {jax.device_count()}),\n{arguments:.1f} for images and state, {temporary:.1f} '
        f'for activations and gradients (batch {task.config.batch})\n'
        'FLOPs: matrix products forward, 2 a multiply-add'
    )


def _print_indented(text: str) -> None:
    print(textwrap.fill(text, 80, initial_indent='  ', subsequent_indent='  '))


def _layer_table(task: Task) -> Table:
    found = task.layers
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, show_footer=True)
    table.add_column('layer', 'total')
    table.add_column('output')
    table.add_column('parameters', f'{num_params(found)}', justify='right')
    table.add_column('MFLOPs an image', f'{flops_per_image(found) / 1e6:.3f}', justify='right')
    for name, part in _parts(found, task.config.model.num_blocks).items():
        table.add_row(
            name,
            '×'.join(map(str, part[-1].output_shape)),
            str(num_params(part)),
            f'{flops_per_image(part) / 1e6:.3f}',
        )
    return table


def _parts(found: list[Layer], num_blocks: int) -> dict[str, list[Layer]]:
    """Layers by part of the network; the blocks, which are alike, are taken together."""
    parts = collections.defaultdict(list)
    for layer in found:
        top = re.sub(r'MixerBlock_\d+', f'{num_blocks} × MixerBlock', layer.path[0])
        parts['/'.join((top, *layer.path[1:2]))].append(layer)
    return parts
