"""The programs of a run, compiled and never run: memory, cycles, kernels and exchanges.

`python -m mixer_dilated.planning.programs` compiles what `compiler.compile_for` pickles for it.
"""

import collections
import importlib.metadata
import importlib.util
import json
import math
import pickle
import re
import sys

import jax

from mixer_dilated.errors import UserError
from mixer_dilated.models.costs import num_params
from mixer_dilated.parallel.mesh import check_batch
from mixer_dilated.planning.devices import Devices
from mixer_dilated.planning.hlo import Program, mesh_axis, part_of
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.setup import Setup
from mixer_dilated.training.state import network_layers

VERSIONS = ('jax', 'jaxlib', 'libtpu', 'jax_cuda13_plugin', 'flax', 'optax')
PROGRAMS = ('initialise', 'train', 'evaluate')
IN_FLIGHT = 2  # streamed batches beside those that config.input.prefetch lets wait
# Of a training step; None where the compiler does not say.
OF_STEP = ('seconds', 'flops', 'model_flops', 'bytes_accessed', 'cycles', 'cycles_by_part')
OF_STEP += ('kernels', 'kernels_by_part', 'bytes_by_part', 'largest', 'exchanges')


def compile_programs(setup: Setup, devices: Devices, programs: tuple[str, ...] = PROGRAMS) -> dict:
    """What each device needs and does, as the compiler lays programs out, 'train' among them.

    Of the data only the shapes are looked at.

    Returns:
      'programs', {name: bytes of 'arguments', 'temporaries' and in 'total'}, 'memory_bytes', those
      of the largest, `OF_STEP`, 'num_params', 'mesh', 'versions', 'compile_seconds'; and
      'out_of_memory', the compiler's words where memory does not suffice.

    Raises:
      UserError: the mesh or the batch does not fit the devices.
    """
    functions = CompiledFunctions(setup, devices.describe())
    check_batch(setup.config.batch, functions.mesh, setup.config.accum_steps)
    compilers = {
        'initialise': functions.init_function,
        'train': functions.train_function,
        'evaluate': lambda: functions.eval_function_of(setup.epoch_split),
    }
    memory, step, out_of_memory = {}, dict.fromkeys(OF_STEP), None
    try:
        for name in programs:
            sizes = compilers[name]().memory_analysis()
            arguments = sizes.argument_size_in_bytes + _resident_bytes(functions, name)
            results = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
            total = arguments + (temporaries := sizes.temp_size_in_bytes + results)
            memory[name] = {'arguments': arguments, 'temporaries': temporaries, 'total': total}
        step |= _training_step(functions, devices)
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        out_of_memory = ' '.join(str(error).split())
        needed = re.search(r'Used ([\d.]+)G of|\(([\d.]+)G\) exceeds', out_of_memory)
        total = needed and round(float(needed[1] or needed[2]) * 2**30)
        memory[name] = {'arguments': None, 'temporaries': None, 'total': total}
    return {
        'versions': compiler_versions(),
        'mesh': functions.mesh_shape,
        'num_params': num_params(network_layers(setup)),
        'programs': memory,
        'memory_bytes': max(memory.values(), key=lambda sizes: sizes['total'] or math.inf),
        'out_of_memory': out_of_memory and out_of_memory[:300],
        **step,
        'compile_seconds': functions.compile_seconds,
    }


def _training_step(functions: CompiledFunctions, devices: Devices) -> dict:
    setup, hardware, compiled = functions.setup, devices.hardware, functions.train_function()
    analysis, program = compiled.cost_analysis() or {}, Program(compiled.as_text())
    costs, parts, kernels = (collections.Counter() for _ in range(3))
    for name, times, cost in program.costs():
        label = re.sub(r'MixerBlock_\d+', 'MixerBlock_*', name.split('while/body/')[-1])
        costs[label or 'copies'] += times * cost
        parts[part_of(name)] += times * cost
        kernels[part_of(name)] += times
    peak = hardware.peak_flops[setup.config.dtype]
    total, by_part = costs.total(), dict(parts.most_common())
    # A product has gradients of two factors; nobody needs that of the images.
    model_flops = sum(
        (2 if layer.path[0].startswith('stem') else 3) * layer.flops
        for layer in network_layers(setup)
    )
    model_flops *= setup.config.batch * setup.config.num_seeds / devices.count
    step = {
        'flops': analysis.get('flops'),
        'model_flops': model_flops,
        'bytes_accessed': analysis.get('bytes accessed', None if program.has_cycles else total),
        'largest': dict(costs.most_common(3)),
        'exchanges': _exchanges(program, functions, devices),
    }
    if program.has_cycles:
        seconds = total * hardware.flops_per_cycle / peak
        return step | {'seconds': seconds, 'cycles': total, 'cycles_by_part': by_part}
    seconds = model_flops / peak + total / hardware.memory_bandwidth
    seconds += kernels.total() * hardware.launch_seconds
    step |= {'kernels': kernels.total(), 'kernels_by_part': kernels, 'bytes_by_part': by_part}
    return step | {'seconds': seconds}


def _exchanges(program: Program, functions: CompiledFunctions, devices: Devices) -> list[dict]:
    """By axis of the mesh, kind, and whether the device computes meanwhile."""
    mesh, rows = functions.mesh, collections.defaultdict(collections.Counter)
    for kind, array_bytes, group, times, is_async in program.exchanges():
        # An all-reduce scatters sums and gathers them; a permutation sends all, not (n - 1) / n.
        rounds = {'all-reduce': 2, 'collective-permute': len(group) / (len(group) - 1)}.get(kind, 1)
        seconds = rounds * devices.gather_seconds(array_bytes, [*mesh.devices.flat[group]])
        rows[mesh_axis(group, mesh.shape), kind, is_async].update(
            count=times, array_bytes=times * array_bytes, seconds=times * seconds
        )
    return [
        {'axis': axis, 'kind': kind, 'is_async': is_async, **row}
        for (axis, kind, is_async), row in sorted(rows.items())
    ]


def _resident_bytes(functions: CompiledFunctions, program: str) -> int:
    """Images on a device that are no arguments of a program: of other splits, or waiting."""
    setup, config, mesh = functions.setup, functions.setup.config, functions.mesh_shape
    if program == 'initialise':
        return 0
    examples = 0
    if program == 'evaluate' and not setup.streams('train'):
        examples = setup.num_examples['train']
    if program == 'train' and setup.streams('train'):
        batches = (config.input.prefetch + IN_FLIGHT) * config.num_seeds // mesh['seeds']
        examples += batches * config.batch // mesh['data']
    return examples * (math.prod(setup.dataset.stored_shape) + 4)


def compiler_versions() -> dict[str, str]:
    """Of the packages that a result depends on, as far as they are installed."""
    installed = filter(importlib.util.find_spec, VERSIONS)
    return {name: importlib.metadata.version(name) for name in installed}


if __name__ == '__main__':
    setup, devices, programs = pickle.load(sys.stdin.buffer)
    try:
        answer = compile_programs(setup, devices, programs)
    except UserError as error:
        answer = {'error': str(error)}
    except Exception as error:  # of many types, from XLA
        answer = {'failure': ' '.join(str(error).split())[:300]}
    print(json.dumps(answer))
