"""The programs of a run, compiled and never run: memory, cycles, kernels and exchanges."""

import collections
import functools
import math
import re

import jax
import jax.numpy as jnp

from mixer_dilated.data.examples import Examples
from mixer_dilated.data.input_pipeline import eval_shape, eval_sharding
from mixer_dilated.models.costs import num_params
from mixer_dilated.parallel.mesh import check_batch, replicated
from mixer_dilated.planning.compiler import compiler_versions
from mixer_dilated.planning.devices import Devices, Hardware
from mixer_dilated.planning.hlo import Program, part_of
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.setup import Setup
from mixer_dilated.training.state import network_layers

PROGRAMS = ('initialise', 'train', 'evaluate')
IN_FLIGHT = 2  # streamed batches beside those that config.input.prefetch lets wait
# Of a training step; None where the compiler does not say.
OF_STEP = ('seconds', 'flops', 'model_flops', 'bytes_accessed', 'cycles', 'cycles_by_part')
OF_STEP += ('kernels', 'kernels_by_part', 'bytes_by_part', 'largest', 'exchanges')


def compile_programs(
    setup: Setup, devices: Devices, hardware: Hardware, programs: tuple[str, ...] = PROGRAMS
) -> dict:
    """What each device needs and does, as the compiler lays programs out.

    Args:
      setup: whose programs; of its data only the shapes are looked at.
      devices: to compile for.
      hardware: one of them.
      programs: of `PROGRAMS`, 'train' among them.

    Returns:
      'programs', {name: bytes of 'arguments', 'temporaries', 'total'}, 'memory_bytes', those of the
      largest, `OF_STEP`, 'num_params', 'mesh', 'versions', 'compile_seconds'; and
      'out_of_memory', the compiler's words where memory does not suffice.

    Raises:
      UserError: the mesh or the batch does not fit the devices.
    """
    functions, layers = CompiledFunctions(setup, devices.describe()), network_layers(setup)
    check_batch(setup.config.batch, functions.mesh, setup.config.accum_steps)
    compilers = {
        'initialise': functions.init_function,
        'train': functions.train_function,
        'evaluate': lambda: functions.eval_function(*_evaluation_arguments(functions)),
    }
    memory, step, out_of_memory = {}, dict.fromkeys(OF_STEP), None
    try:
        for name in programs:
            sizes = compilers[name]().memory_analysis()
            arguments = sizes.argument_size_in_bytes + _resident_bytes(setup, functions, name)
            results = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
            memory[name] = _memory(arguments, sizes.temp_size_in_bytes + results)
        # A product has gradients of two factors; nobody needs that of the images.
        factors = (2 if layer.path[0].startswith('stem') else 3 for layer in layers)
        flops = sum(factor * layer.flops for factor, layer in zip(factors, layers, strict=True))
        flops *= setup.config.batch * setup.config.num_seeds / devices.count
        step |= _training_step(functions, flops, devices, hardware)
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
        'num_params': num_params(layers),
        'programs': memory,
        'memory_bytes': max(memory.values(), key=lambda sizes: sizes['total'] or math.inf),
        'out_of_memory': out_of_memory and out_of_memory[:300],
        **step,
        'compile_seconds': functions.compile_seconds,
    }


def _memory(arguments: int, temporaries: int) -> dict[str, int]:
    total = arguments + temporaries
    return {'arguments': arguments, 'temporaries': temporaries, 'total': total}


def _training_step(
    functions: CompiledFunctions, model_flops: float, devices: Devices, hardware: Hardware
) -> dict:
    compiled = functions.train_function()
    analysis, program = compiled.cost_analysis() or {}, Program(compiled.as_text())
    costs, parts, kernels = (collections.Counter() for _ in range(3))
    for name, times, cost in program.costs():
        label = re.sub(r'MixerBlock_\d+', 'MixerBlock_*', name.split('while/body/')[-1])
        costs[label or 'copies'] += times * cost
        parts[part_of(name)] += times * cost
        kernels[part_of(name)] += times
    by_part = dict(parts.most_common())
    step = {
        'flops': analysis.get('flops'),
        'model_flops': model_flops,
        'bytes_accessed': analysis.get(
            'bytes accessed', None if program.has_cycles else costs.total()
        ),
        'largest': dict(costs.most_common(3)),
        'exchanges': _exchanges(program, functions, devices, hardware),
    }
    if program.has_cycles:
        seconds = costs.total() / hardware.clock
        return step | {'seconds': seconds, 'cycles': costs.total(), 'cycles_by_part': by_part}
    seconds = model_flops / hardware.peak_flops[functions.setup.config.dtype]
    seconds += costs.total() / hardware.memory_bandwidth
    seconds += kernels.total() * hardware.launch_seconds
    step |= {'kernels': kernels.total(), 'kernels_by_part': kernels, 'bytes_by_part': by_part}
    return step | {'seconds': seconds}


def _exchanges(
    program: Program, functions: CompiledFunctions, devices: Devices, hardware: Hardware
) -> list[dict]:
    """By axis of the mesh, kind, and whether the device computes meanwhile."""
    places = devices.places([*functions.mesh.devices.flat])
    rows = collections.defaultdict(collections.Counter)
    for exchange in program.exchanges():
        group = [places[number] for number in exchange.group]
        # An all-reduce scatters sums and gathers them; a permutation sends all, not (n - 1) / n.
        n = len(group)
        rounds = {'all-reduce': 2, 'collective-permute': n / (n - 1)}.get(exchange.kind, 1)
        seconds = rounds * hardware.links.gather_seconds(exchange.array_bytes, group)
        row = rows[exchange.axis(functions.mesh_shape), exchange.kind, exchange.is_async]
        row['count'] += exchange.times
        row['array_bytes'] += exchange.times * exchange.array_bytes
        row['seconds'] += exchange.times * seconds
    return [
        {'axis': axis, 'kind': kind, 'is_async': is_async, **row}
        for (axis, kind, is_async), row in sorted(rows.items())
    ]


def _resident_bytes(setup: Setup, functions: CompiledFunctions, program: str) -> int:
    """Images on a device that are no arguments of a program: of the other split, or waiting."""
    config, mesh, examples = setup.config, functions.mesh_shape, 0
    if program == 'train' and setup.streams('train'):
        batches = (config.input.prefetch + IN_FLIGHT) * config.num_seeds // mesh['seeds']
        examples = batches * config.batch // mesh['data']
    if program == 'train' and not setup.streams('test'):
        examples += setup.test_examples
    if program == 'evaluate' and not setup.streams('train'):
        examples += setup.train_examples
    return examples * (math.prod(setup.dataset.stored_shape) + 4)


def _evaluation_arguments(functions: CompiledFunctions) -> tuple:
    """Shapes, dtypes and shardings of the arguments of `eval_chunk` on the test split."""
    setup, sharding = functions.setup, eval_sharding(functions.mesh)
    _, steps, batch = eval_shape(setup.config, setup.test_examples, functions.mesh)
    shape, of_examples = (setup.test_examples,), replicated(functions.mesh)
    if setup.streams('test'):
        steps, shape, of_examples = 1, (1, batch), sharding
    array = functools.partial(jax.ShapeDtypeStruct, sharding=of_examples)
    images = array((*shape, *setup.dataset.stored_shape), jnp.uint8)
    examples = Examples(images, array(shape, jnp.int32))
    index = jax.ShapeDtypeStruct((steps, batch), jnp.int32, sharding=sharding)
    seeds = (setup.config.num_seeds,)
    sums = {
        'loss': jax.ShapeDtypeStruct(seeds, jnp.float32),
        'correct': jax.ShapeDtypeStruct(seeds, jnp.int32),
    }
    return functions.abstract_state(), functions.abstract_of_seeds(sums), (examples, index)
