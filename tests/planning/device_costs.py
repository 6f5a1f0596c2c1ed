"""Prints what a training step of a small network costs an absent device, ours and plain Flax's.

    python -m tests.planning.device_costs v5e:1

JSON: of each 'cost', cycles of a TPU, else the bytes that kernels read and write, and 'kernels',
how many operations have a cost.
"""

import json
import pathlib
import runpy
import sys

import jax
import jax.numpy as jnp
import optax

from mixer_dilated.config import changed, patch_branches
from mixer_dilated.data.dataset_facts import abstract_dataset
from mixer_dilated.parallel.mesh import replicated
from mixer_dilated.planning.devices import parse_devices
from mixer_dilated.planning.hlo import Program
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.optimizer import make_optimizer
from mixer_dilated.training.setup import Setup, create_setup
from mixer_dilated.training.state import create_train_state
from tests.plain_mixer import PlainMixer

CONFIG = pathlib.Path(__file__).parents[2] / 'configs' / 'mnist_dilated.py'


def main(word: str) -> None:
    config = runpy.run_path(str(CONFIG))['get_config']()
    config = changed(config, {'model.num_blocks': 2})
    setup = create_setup(config, abstract_dataset(config.dataset))
    functions = CompiledFunctions(setup, parse_devices(word).describe())
    plain = compile_plain(setup, replicated(functions.mesh))
    print(json.dumps({'ours': costs(functions.train_function()), 'plain Flax': costs(plain)}))


def costs(compiled: jax.stages.Compiled) -> dict[str, int]:
    rows = Program(compiled.as_text()).costs()
    return {
        'cost': sum(times * cost for _, times, cost in rows),
        'kernels': sum(times for _, times, _ in rows),
    }


def compile_plain(setup: Setup, sharding: jax.sharding.Sharding) -> jax.stages.Compiled:
    """Steps of the original's network and optax, on rows of images that are in memory."""
    config = setup.config
    (patches,) = patch_branches(config.model)
    names = 'num_blocks', 'hidden_dim', 'tokens_mlp_dim', 'channels_mlp_dim', 'gelu'
    sizes = {name: config.model[name] for name in names}
    model = PlainMixer(patches=patches, num_classes=setup.dataset.num_classes, **sizes)
    optimizer = make_optimizer(config.optimizer, setup.total_steps)

    def train(state, images, labels, index, num_steps):
        def step(i, carry):
            state, total = carry
            loss, grads = jax.value_and_grad(loss_fn)(state.params, index[i])
            return state.apply_gradients(grads=grads), total + loss

        def loss_fn(params, rows):
            batch = images[rows].astype(jnp.float32) / 127.5 - 1
            logits = model.apply({'params': params}, batch, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()

        return jax.lax.fori_loop(0, num_steps, step, (state, 0.0))

    def create():
        return create_train_state(model, optimizer, setup.dataset.image_shape, jax.random.key(0))

    def array(shape, dtype=jnp.int32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    state = jax.tree.map(lambda leaf: array(leaf.shape, leaf.dtype), jax.eval_shape(create))
    count, images = (setup.train_examples,), (setup.train_examples, *setup.dataset.image_shape)
    index = array((setup.steps_per_epoch, config.batch))
    arguments = state, array(images, jnp.uint8), array(count), index, array(())
    return jax.jit(train, donate_argnums=0).lower(*arguments).compile()


if __name__ == '__main__':
    main(*sys.argv[1:])
