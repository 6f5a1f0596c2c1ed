"""Prints what a training step of a small network costs an absent device, ours and plain Flax's.

    python -m tests.planning.device_costs v5e:1

JSON: of each 'cost', cycles of a TPU, else the bytes that kernels read and write, and 'kernels',
how many operations have a cost.
"""

import json
import pathlib
import runpy
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax
from jaxtyping import Array, Float

from mixer_dilated.config import changed, patch_branches
from mixer_dilated.data.dataset_facts import abstract_dataset
from mixer_dilated.parallel.mesh import replicated
from mixer_dilated.patches.geometry import Patches
from mixer_dilated.planning.devices import parse_devices
from mixer_dilated.planning.hlo import Program
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.optimizer import make_optimizer
from mixer_dilated.training.setup import Setup, create_setup
from mixer_dilated.training.state import create_train_state

CONFIG = pathlib.Path(__file__).parents[2] / 'configs' / 'mnist_dilated.py'


class PlainMixer(nn.Module):
    """The Mixer in plain Flax, as the original code has it: a dilated convolution, blocks, head."""

    patches: Patches
    num_classes: int
    sizes: ml_collections.FrozenConfigDict  # config.model

    @nn.compact
    def __call__(
        self, images: Float[Array, 'batch height width channels_in'], *, train: bool
    ) -> Float[Array, 'batch classes']:
        def mlp(x, width):
            y = nn.gelu(nn.Dense(width)(x), approximate=self.sizes.gelu == 'tanh')
            return nn.Dense(x.shape[-1])(y)

        pads = [(low, high, 0) for low, high in self.patches.pads(images.shape[1:3])]
        padded = jax.lax.pad(images, images.dtype.type(0), [(0, 0, 0), *pads, (0, 0, 0)])
        size, stride, dilation = self.patches.size, self.patches.stride, self.patches.dilation
        stem = nn.Conv(self.sizes.hidden_dim, size, stride, 'VALID', kernel_dilation=dilation)
        x = stem(padded).reshape(len(images), -1, self.sizes.hidden_dim)
        for _ in range(self.sizes.num_blocks):
            y = mlp(jnp.swapaxes(nn.LayerNorm()(x), 1, 2), self.sizes.tokens_mlp_dim)
            x = x + jnp.swapaxes(y, 1, 2)
            x = x + mlp(nn.LayerNorm()(x), self.sizes.channels_mlp_dim)
        x = nn.LayerNorm()(x).mean(axis=1)
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros)(x)


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
    config, dataset = setup.config, setup.dataset
    (patches,) = patch_branches(config.model)
    sizes = ml_collections.FrozenConfigDict(config.model)
    model = PlainMixer(patches, dataset.num_classes, sizes)
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
        return create_train_state(model, optimizer, dataset.image_shape, jax.random.key(0))

    def array(shape, dtype=jnp.int32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    state = jax.tree.map(lambda leaf: array(leaf.shape, leaf.dtype), jax.eval_shape(create))
    count = (setup.num_examples['train'],)
    images = (*count, *dataset.image_shape)
    index = array((setup.steps_per_epoch, config.batch))
    arguments = state, array(images, jnp.uint8), array(count), index, array(())
    return jax.jit(train, donate_argnums=0).lower(*arguments).compile()


if __name__ == '__main__':
    main(*sys.argv[1:])
