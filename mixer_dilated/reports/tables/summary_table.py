"""What a config's patches see and what its network costs, as text; nothing is trained."""

import math
import re
import textwrap

from mixer_dilated.config import num_phases, patch_branches, pixels_seen
from mixer_dilated.models.costs import flops_per_image, num_params
from mixer_dilated.reports.tables.terminal import print_table
from mixer_dilated.training.setup import Setup
from mixer_dilated.training.state import network_layers


def print_summary(
    setup: Setup,
    training_bytes: dict[str, int],
    mesh_shape: dict[str, int],
    unsharded_params: list[str],
) -> None:
    """Prints tokens, window, coverage, parameters and FLOPs by layer, and memory of a setup."""
    config, devices = setup.config, math.prod(mesh_shape.values())
    height, width, channels = setup.dataset.image_shape
    print(f'{config.dataset.name}: {height}×{width}×{channels}, {setup.num_tokens} tokens')
    for patches in patch_branches(config.model):
        rows, columns = patches.grid((height, width))
        coverage = patches.coverage((height, width))
        seen = int((coverage > 0).sum())
        _print_indented(
            f'patches {patches}',
            f'window {"×".join(map(str, patches.window))}, grid {rows}×{columns}, '
            f'sees {seen} of {coverage.size} pixels ({seen / coverage.size:.1%}), '
            f'each of them at most {coverage.max()}×',
        )
    if config.augment.random_phase:
        seen, phases = pixels_seen(config, (height, width)), math.prod(num_phases(config))
        _print_indented(
            'random_phase',
            f'training shows an image at one of {phases} phases, evaluation averages over all of '
            f'them ({phases} times these FLOPs); together they see {seen.sum()} of '
            f'{seen.size} pixels',
        )
    _print_layers(setup)
    arguments, temporary = (training_bytes[name] / 2**20 for name in ('arguments', 'temporary'))
    parts = f' in {config.accum_steps} parts' if config.accum_steps > 1 else ''
    print(
        f'\nmemory while training: {arguments + temporary:.1f} MiB on each device '
        f'(of {devices}),\n{arguments:.1f} for images and state, '
        f'{temporary:.1f} for activations and gradients (batch {config.batch}{parts})'
    )
    if devices > 1:
        seeds, data, model = (mesh_shape[axis] for axis in ('seeds', 'data', 'model'))
        fully = config.mesh.fsdp and data > 1
        state = '; data splits parameters and optimizer state too' if fully else ''
        print(f'mesh: seed {seeds} × data {data} × model {model}{state}')
        if unsharded_params:
            names = dict.fromkeys(f'  {_of_all_blocks(name, setup)}' for name in unsharded_params)
            print('less split than that, since the devices do not divide them:', *names, sep='\n')
    print('FLOPs: matrix products forward, 2 a multiply-add')


def _print_indented(title: str, text: str) -> None:
    print(title, textwrap.fill(text, 80, initial_indent='  ', subsequent_indent='  '), sep='\n')


def _print_layers(setup: Setup) -> None:
    """A table of the network's parts; its blocks, which are alike, are taken together."""
    layers, parts = network_layers(setup), {}
    for layer in layers:
        parts.setdefault(_of_all_blocks('/'.join(layer.path[:2]), setup), []).append(layer)
    rows = [
        (name, '×'.join(map(str, part[-1].output_shape)), *_costs(part))
        for name, part in parts.items()
    ]
    headings = 'layer', 'output', 'parameters', 'MFLOPs an image'
    print_table(headings, rows, left=(0, 1), footer=('total', '', *_costs(layers)))


def _costs(layers: list) -> tuple[str, str]:
    return str(num_params(layers)), f'{flops_per_image(layers) / 1e6:.3f}'


def _of_all_blocks(name: str, setup: Setup) -> str:
    return re.sub(r'MixerBlock_\d+', f'{setup.config.model.num_blocks} × MixerBlock', name)
