"""The programs of a run, compiled and never run: memory, cycles, kernels and exchanges."""

import collections
import math
import re

import jax
import jax.numpy as jnp

from mixer_dilated.data.examples import Examples
from mixer_dilated.data.input_pipeline import MAX_EVAL_EXAMPLES, eval_batch, eval_sharding
from mixer_dilated.models.costs import num_params
from mixer_dilated.parallel.mesh import check_batch, replicated
from mixer_dilated.planning.compiler import versions
from mixer_dilated.planning.devices import Devices, Hardware
from mixer_dilated.planning.hlo import Program, part_of
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.setup import Setup
from mixer_dilated.training.state import network_layers

IN_FLIGHT = 2  # streamed batches beside those that config.input.prefetch lets wait
NAMES = ('bytes_accessed', 'flops', 'cycles', 'cycles_by_part', 'kernels', 'kernels_by_part')
NAMES += ('bytes_by_part', 'largest', 'exchanges', 'model_flops', 'num_params', 'seconds')


def compile_programs(
    setup: Setup, devices: Devices, programs: tuple[str, ...], hardware: Hardware
) -> dict:
    """What each device needs and does, as the compiler lays programs out.

    Args:
      setup: whose programs; of its data only the shapes are looked at.
      devices: to compile for.
      programs: among 'initialise', 'evaluate' and 'train', which always is.
      hardware: one of the devices.

    Returns:
      'mesh', 'versions', 'compile_seconds', 'programs', {name: bytes of 'arguments', 'temporaries',
      'total'}, and 'memory_bytes', those of the largest. Of a training step `NAMES`, with None
      where the compiler does not say. Where memory does not suffice 'out_of_memory' has its words.

    Raises:
      UserError: the mesh or the batch does not fit the devices.
    """
    described, config = devices.describe(), setup.config
    functions = CompiledFunctions(setup, described)
    check_batch(config.batch, functions.mesh, config.accum_steps)
    answer = {'mesh': functions.mesh_shape, 'versions': versions(), 'out_of_memory': None}
    compilers = {
        'initialise': functions.init_function,
        'train': functions.train_function,
        'evaluate': lambda: _compile_evaluation(functions),
    }
    memory = {}
    try:
        for name in programs:
            sizes = compilers[name]().memory_analysis()
            arguments = sizes.argument_size_in_bytes + _resident_bytes(setup, functions, name)
            results = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
            temporaries = sizes.temp_size_in_bytes + results
            total = arguments + temporaries
            memory[name] = {'arguments': arguments, 'temporaries': temporaries, 'total': total}
        step = _training_step(functions, devices, hardware)
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        text = ' '.join(str(error).split())
        needed = re.search(r'Used ([\d.]+)G of|\(([\d.]+)G\) exceeds', text)
        total = round(float(needed[1] or needed[2]) * 2**30) if needed else None
        memory['train'] = {'arguments': None, 'temporaries': None, 'total': total}
        step, answer['out_of_memory'] = dict.fromkeys(NAMES), text[:300]
    largest = max(memory.values(), key=lambda sizes: sizes['total'] or math.inf)
    answer |= {'programs': memory, 'memory_bytes': largest}
    return answer | step | {'compile_seconds': functions.compile_seconds}


def _training_step(functions: CompiledFunctions, devices: Devices, hardware: Hardware) -> dict:
    """The `NAMES` of one device."""
    compiled, config = functions.train_function(), functions.setup.config
    cost, program = compiled.cost_analysis() or {}, Program(compiled.as_text())
    layers = network_layers(functions.setup)
    # A product has gradients of two factors; nobody needs that of the images.
    flops = sum((2 if layer.path[0].startswith('stem') else 3) * layer.flops for layer in layers)
    flops *= config.batch * config.num_seeds / devices.count
    cycles = program.cycles()
    work, parts, kernels = (collections.Counter(each) for each in (cycles, (), ()))
    for name, times, size in () if cycles else program.kernels():
        work[name] += times * size
        kernels[part_of(name)] += times
    largest = collections.Counter()
    for name, amount in work.items():
        parts[part_of(name)] += amount
        name = re.sub(r'^.*while/body/', '', name) or 'copies'
        largest[re.sub(r'MixerBlock_\d+', 'MixerBlock_*', name)] += amount
    by_part = dict(parts.most_common())
    step = {
        'flops': cost.get('flops'),
        'bytes_accessed': cost.get('bytes accessed', work.total()),
        'largest': dict(largest.most_common(3)),
        'exchanges': _exchanges(program, functions, devices, hardware),
        'model_flops': flops,
        'num_params': num_params(layers),
    }
    if cycles:
        seconds = work.total() / hardware.clock
        step |= {'cycles': work.total(), 'cycles_by_part': by_part}
    else:
        seconds = flops / hardware.peak_flops[config.dtype]
        seconds += work.total() / hardware.memory_bandwidth
        seconds += kernels.total() * hardware.launch_seconds
        step |= {'kernels': kernels.total(), 'kernels_by_part': kernels, 'bytes_by_part': by_part}
    return dict.fromkeys(NAMES) | step | {'seconds': seconds}


def _exchanges(program, functions, devices: Devices, hardware: Hardware) -> list[dict]:
    """By axis of the mesh, kind, and whether the device computes meanwhile."""
    places = devices.places([*functions.mesh.devices.flat])
    rows = collections.defaultdict(collections.Counter)
    for exchange in program.exchanges():
        group = [places[number] for number in exchange.group]
        row = rows[exchange.axis(functions.mesh_shape), exchange.kind, exchange.is_async]
        # An all-reduce scatters sums and gathers them; a permutation sends all, not (n - 1) / n.
        n = len(group)
        rounds = {'all-reduce': 2, 'collective-permute': n / (n - 1)}.get(exchange.kind, 1)
        seconds = rounds * hardware.links.gather_seconds(exchange.array_bytes, group)
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


def _compile_evaluation(functions: CompiledFunctions) -> jax.stages.Compiled:
    """The program of a chunk of the test set, of the shapes that the input pipelines have."""
    setup, sharding = functions.setup, eval_sharding(functions.mesh)
    seeds, count, array = setup.config.num_seeds, setup.test_examples, jax.ShapeDtypeStruct
    batch, steps = eval_batch(setup.config, count, functions.mesh), 1
    shape, images = (1, batch), sharding
    if not setup.streams('test'):
        steps = -(-count // batch)
        steps = -(-steps // -(-steps * batch * seeds // MAX_EVAL_EXAMPLES))
        shape, images = (count,), replicated(functions.mesh)
    examples = Examples(
        array((*shape, *setup.dataset.stored_shape), jnp.uint8, sharding=images),
        array(shape, jnp.int32, sharding=images),
    )
    sums = {'loss': array((seeds,), jnp.float32), 'correct': array((seeds,), jnp.int32)}
    sums = functions.abstract_of_seeds(sums)
    index = array((steps, batch), jnp.int32, sharding=sharding)
    return functions.eval_function(functions.abstract_state(), sums, (examples, index))
