"""Trains a small network on every mesh of eight devices.

`python -m tests.parallel.mesh_runs FOLDER`
Writes what `tests/parallel/test_mesh_runs.py` looks at: `results.json`, and a run's folder.
"""

import contextlib
import io
import itertools
import json
import math
import os
import pathlib
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from mixer_dilated.cli import main as command_line
from mixer_dilated.data.datasets import Digits
from mixer_dilated.parallel import mesh
from mixer_dilated.parallel.partition import named_leaves
from mixer_dilated.planning.hlo import groups_of
from mixer_dilated.training import compiled as compiled_module
from mixer_dilated.training import state
from mixer_dilated.training.checkpoint import Checkpoints
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.run_state import RunState
from mixer_dilated.training.setup import create_setup
from mixer_dilated.training.train import train_and_evaluate
from tests.conftest import ROOT, small_config

SEEDS = 8
NETWORK = {
    'num_seeds': SEEDS,
    'num_epochs': 2,
    'dataset.train_split': 'train[:100]',
    'dataset.test_split': 'test[:50]',
    # AdamW makes steps of the learning rate out of the rounding of gradients that are zero, as that
    # of the output bias of token mixing is, which the next LayerNorm removes.
    'optimizer.name': 'sgd',
    'optimizer.base_lr': 0.1,
}
RANDOM = {
    'num_seeds': 1,
    'optimizer.name': 'adamw',  # with dropout no gradient is zero
    'optimizer.base_lr': 0.01,
    'model.dropout_rate': 0.1,
    'augment.translate': 1,
}
SHAPES = [
    {'seed': seed, 'data': data, 'model': model, 'fsdp': fsdp}
    for seed, data, model in itertools.product((1, 2, 4, 8), repeat=3)
    for fsdp in (False, True)
    if seed * data * model == 8 and (data > 1 or not fsdp)
]
if not os.environ.get('MIXER_LONG'):  # which takes all of them
    FEW = {(1, 8, 1), (2, 2, 2), (1, 1, 8), (8, 1, 1)}
    SHAPES = [shape for shape in SHAPES if (*shape.values(),)[:3] in FEW]
COLLECTIVES = 'all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute'


def config_on(shape: dict, **changes):
    """The network of all, on a mesh."""
    return small_config(**{**NETWORK, **changes}, **{f'mesh.{key}': shape[key] for key in shape})


class Trained:
    """A network on a mesh, from the arrays of `start`."""

    def __init__(self, config, start: list | None = None, devices=None):
        self.config, self.programs = config, CompiledFunctions(create_setup(config), devices)
        splits = 'train[:100]', 'test[:50]'
        self.examples = [self.programs.in_memory(Digits().read(split)) for split in splits]
        self.start = start or jax.device_get(jax.tree.leaves(self.programs.init_state()))
        leaves, structure = jax.tree.flatten(self.programs.abstract_state)
        pairs = zip(self.start, leaves, strict=True)
        put = [jax.device_put(array, leaf.sharding) for array, leaf in pairs]
        self.state = jax.tree.unflatten(structure, put)

    def epoch(self) -> list[np.ndarray]:
        """Trains the next one: parameters, metrics and evaluation."""
        train, test = self.examples
        self.state, metrics = self.programs.train_epoch(self.state, train)
        testing = self.programs.evaluate(self.state, test)
        return jax.device_get(jax.tree.leaves((self.state.params, metrics, testing)))

    def results(self, expected: list[np.ndarray]) -> dict:
        """What the tests look at."""
        pairs = zip(self.epoch(), expected, strict=True)
        compiled = self.programs._compiled.items()
        evaluation = next(program for name, program in compiled if name != 'train')
        return {
            'difference': max(float(np.abs(one - other).max()) for one, other in pairs),
            'training': collectives(self.programs.train_function().as_text()),
            'evaluation': collectives(evaluation.as_text()),
            'shapes_on_a_device': {
                name: leaf.sharding.shard_shape(leaf.shape)
                for name, leaf in named_leaves(self.state)
            },
        }


def collectives(text: str) -> list[dict]:
    """Of a compiled program: each one's kind, sizes of its results, groups of devices."""
    listed = []
    for results, kind, rest in re.findall(rf'= (.+?) ({COLLECTIVES})(?:-start)?\((.+)', text):
        shapes = [shape.split(',') for shape in re.findall(r'\w+\[([\d,]*)\]', results)]
        sizes = [math.prod(int(length or 1) for length in shape) for shape in shapes]
        groups = groups_of(rest, jax.device_count())
        listed.append({'kind': kind, 'sizes': sizes, 'groups': groups})
    return listed


def restore(trained: Trained, run_state: RunState, folder: pathlib.Path) -> tuple[RunState, bool]:
    """A state written, and read as other programs lay it out; whether it has its bits."""
    with Checkpoints(folder, trained.config) as checkpoints:
        checkpoints.save(run_state)
        checkpoints.wait()
        restored = checkpoints.restore(trained.programs.abstract_run_state())
    arrays, expected = (jax.tree.leaves(state.arrays) for state in (restored, run_state))
    same = all(np.array_equal(one, other) for one, other in zip(arrays, expected, strict=True))
    leaves, laid_out = (jax.tree.leaves(state) for state in (restored.state, trained.state))
    pairs = zip(leaves, laid_out, strict=True)
    return restored, same and all(one.sharding == other.sharding for one, other in pairs)


def seeds_take_turns(mesh) -> bool:
    """Whether they do so on a device, as on CPUs, or are computed at once, as on accelerators."""
    return mesh.shape['data'] in (1, 8)


def create_model(config, num_classes: int, platform: str):
    """The form of accelerators where the seeds of a device are computed at once, as they do."""
    platform = platform if config.mesh.data in (0, 1, 8) else 'tpu'
    return state.create_model(config, num_classes, platform)


def printed_summary() -> str:
    """What `run.py summary` prints of a network that a mesh does not divide everywhere."""
    words = ('mesh.model=2', 'mesh.fsdp=True', 'model.tokens_mlp_dim=12', 'model.num_blocks=2')
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        config = f'--config={ROOT}/configs/digits_dilated.py'
        command_line.main(['summary', config, *(f'--config.{word}' for word in words)], 0.0)
    return printed.getvalue()


def main(folder: pathlib.Path) -> None:
    """Everything; the meshes differ in the form of the network, and how a device computes seeds."""
    mesh.on_cpu = compiled_module.on_cpu = seeds_take_turns
    compiled_module.create_model = create_model
    devices = jax.devices()
    whole = Trained(config_on({}), devices=devices[:1])
    expected = whole.epoch()
    trained = {json.dumps(shape): Trained(config_on(shape), whole.start) for shape in SHAPES}
    shape = {'seed': 2, 'data': 2, 'model': 2, 'fsdp': True}
    parts = Trained(config_on(shape, accum_steps=2), whole.start)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda t: t.programs.train_function(), (*trained.values(), parts)))
    meshes = {name: network.results(expected) for name, network in trained.items()}
    results_of_parts = parts.results(expected)
    by_data = {'seed': 1, 'data': 8, 'model': 1, 'fsdp': False}
    alone = Trained(config_on({}, **RANDOM), devices=devices[:1])
    random = Trained(config_on(by_data, **RANDOM), alone.start)
    results_of_random = random.results(alone.epoch())
    # 8 devices, fully sharded → 1 → 4, whole on each → 8 in another mesh, which goes on.
    eight = trained[json.dumps(shape)]
    run_state = RunState(eight.state, eight.programs.empty_metrics())
    same_bits = []
    four = Trained(config_on({}), whole.start, devices[:4])
    other = trained[json.dumps(by_data)]
    for number, network in enumerate((whole, four, other)):
        run_state, same = restore(network, run_state, folder / str(number))
        same_bits.append(same)
    other.state = run_state.state
    results = {
        'meshes': meshes,
        'parts': results_of_parts,
        'random': results_of_random,
        'alone': collectives(alone.programs.train_function().as_text()),
        'temporary': [one.programs.training_bytes()['temporary'] for one in (alone, random)],
        'same_bits': same_bits,
        'second_epoch': other.results(whole.epoch())['difference'],
        'summary': train_and_evaluate(config_on(shape, num_epochs=1), folder / 'run'),
        'printed': printed_summary(),
    }
    (folder / 'results.json').write_text(json.dumps(results))


if __name__ == '__main__':
    main(pathlib.Path(sys.argv[1]))
