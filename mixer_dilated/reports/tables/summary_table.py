"""What a config's patches see and what its network costs, as text; nothing is trained."""

import collections
import math
import re
import textwrap

from rich.table import Table

from mixer_dilated.config import num_phases, patch_branches, pixels_seen
from mixer_dilated.models.costs import Layer, flops_per_image, num_params
from mixer_dilated.reports.tables.terminal import new_table, print_table
from mixer_dilated.training.setup import Setup
from mixer_dilated.training.state import network_layers


def print_summary(
    setup: Setup,
    training_bytes: dict[str, int],
    mesh_shape: dict[str, int],
    unsharded_params: list[str],
) -> None:
    """Prints tokens, window, coverage, parameters and FLOPs by layer, and memory.

    Args:
      setup: whose patches and network.
      training_bytes, mesh_shape, unsharded_params: of the setup.
    """
    height, width, channels = setup.dataset.image_shape
    print(f'{setup.config.dataset.name}: {height}×{width}×{channels}, {setup.num_tokens} tokens')
    for patches in patch_branches(setup.config.model):
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
    if setup.config.augment.random_phase:
        seen = pixels_seen(setup.config, (height, width))
        phases = math.prod(num_phases(setup.config))
        print('random_phase')
        _print_indented(
            f'training shows an image at one of {phases} phases, evaluation averages over all of '
            f'them ({phases} times these FLOPs); together they see {seen.sum()} of '
            f'{seen.size} pixels'
        )
    print_table(_layer_table(setup))
    arguments, temporary = (training_bytes[name] / 2**20 for name in ('arguments', 'temporary'))
    parts = setup.config.accum_steps
    batch = f'batch {setup.config.batch}' + (f' in {parts} parts' if parts > 1 else '')
    print(
        f'\nmemory while training: {arguments + temporary:.1f} MiB on each device '
        f'(of {math.prod(mesh_shape.values())}),\n{arguments:.1f} for images and state, '
        f'{temporary:.1f} for activations and gradients ({batch})'
    )
    if math.prod(mesh_shape.values()) > 1:
        _print_mesh(setup, mesh_shape, unsharded_params)
    print('FLOPs: matrix products forward, 2 a multiply-add')


def _print_mesh(setup: Setup, mesh_shape: dict[str, int], unsharded_params: list[str]) -> None:
    """How many devices do what, and which parameters that leaves whole."""
    seeds, data, model = (mesh_shape[axis] for axis in ('seeds', 'data', 'model'))
    fully = setup.config.mesh.fsdp and data > 1
    state = '; data splits parameters and optimizer state too' if fully else ''
    print(f'mesh: seed {seeds} × data {data} × model {model}{state}')
    if unsharded_params:
        names = [_of_all_blocks(name, setup.config.model.num_blocks) for name in unsharded_params]
        print('less split than that, since the devices do not divide them:')
        print('\n'.join(f'  {name}' for name in dict.fromkeys(names)))


def _print_indented(text: str) -> None:
    print(textwrap.fill(text, 80, initial_indent='  ', subsequent_indent='  '))


def _layer_table(setup: Setup) -> Table:
    layers = network_layers(setup)
    table = new_table('layer', 'output', 'parameters', 'MFLOPs an image', show_footer=True)
    table.columns[1].justify = 'left'
    footers = 'total', '', *_cost_texts(layers)
    for column, footer in zip(table.columns, footers, strict=True):
        column.footer = footer
    for name, part in _parts(layers, setup.config.model.num_blocks).items():
        table.add_row(name, '×'.join(map(str, part[-1].output_shape)), *_cost_texts(part))
    return table


def _cost_texts(layers: list[Layer]) -> tuple[str, str]:
    return str(num_params(layers)), f'{flops_per_image(layers) / 1e6:.3f}'


def _parts(layers: list[Layer], num_blocks: int) -> dict[str, list[Layer]]:
    """Layers by part of the network; the blocks, which are alike, are taken together."""
    parts = collections.defaultdict(list)
    for layer in layers:
        top = _of_all_blocks(layer.path[0], num_blocks)
        parts['/'.join((top, *layer.path[1:2]))].append(layer)
    return parts


def _of_all_blocks(name: str, num_blocks: int) -> str:
    return re.sub(r'MixerBlock_\d+', f'{num_blocks} × MixerBlock', name)
