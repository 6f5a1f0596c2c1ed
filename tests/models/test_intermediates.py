"""What the network returns of its insides on request, and that it costs nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_dilated.patches.geometry import Patches
from tests.models.test_mixer import FORMS, random_images, random_variables, small_mixer

IMAGES = random_images((3, 28, 28, 1))
TOKENS = {'branches': (Patches(7, stride=7), Patches(14, stride=14)), 'branch_merge': 'tokens'}


@pytest.mark.parametrize(
    ('changes', 'tokens', 'dtype'),
    [
        ({'remat': True}, 16, jnp.float32),
        ({'dtype': jnp.bfloat16}, 16, jnp.bfloat16),
        (TOKENS, 20, jnp.float32),
    ],
    ids=['remat', 'bfloat16', 'tokens'],
)
@pytest.mark.parametrize('form', FORMS)
def test_shapes_are_batch_tokens_channels_for_every_kind_of_network(form, changes, tokens, dtype):
    """Their values stand in the test of the paper's equations."""
    model = small_mixer(form, **changes)
    variables = random_variables(model, IMAGES, train=False)

    def apply(variables, **request):
        return model.apply(variables, IMAGES, train=False, **request)

    shapes = jax.eval_shape(lambda v: apply(v, return_intermediates=True)[1], variables)
    for name in ('stem', 'block_0', 'block_1'):
        assert (shapes[name].shape, shapes[name].dtype) == ((3, tokens, 12), dtype)
    assert (shapes['pre_logits'].shape, shapes['pre_logits'].dtype) == ((3, 12), jnp.float32)


@pytest.mark.parametrize('form', FORMS)
def test_the_request_adds_nothing_to_the_program_of_the_logits(form):
    model = small_mixer(form)
    variables = random_variables(model, IMAGES, train=False)

    def loss(variables, *, requested):
        output = model.apply(variables, IMAGES, train=True, return_intermediates=requested)
        return (output[0] if requested else output).sum()

    programs = [
        jax.jit(jax.grad(lambda v, requested=requested: loss(v, requested=requested)))
        .lower(variables)
        .compile()
        for requested in (False, True)
    ]
    flops = [program.cost_analysis()['flops'] for program in programs]
    memory = [program.memory_analysis().temp_size_in_bytes for program in programs]
    assert flops[0] == flops[1] and memory[0] == memory[1]
    gradients = (jax.tree.leaves(program(variables)) for program in programs)
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_array_equal(one, other)
