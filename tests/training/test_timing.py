"""Timing in turns: epochs of random images, functions that are repeated inside one program."""

import re

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_dilated.training.setup import create_setup
from mixer_dilated.training.timing import (
    TimedEpoch,
    TimedFunction,
    on_random_images,
    take_turns,
    time_matmul,
)
from tests.conftest import refuses, small_config


def test_turns_are_taken_round_by_round():
    order, after = [], []

    class Recorded(str):
        def seconds(self):
            order.append(str(self))
            return len(order)

    timed = {name: Recorded(name) for name in 'ab'}
    seconds = take_turns(timed, rounds=3, after_each=lambda: after.append(len(order)))
    assert order == list('ababab') and after == [1, 2, 3, 4, 5, 6]
    assert seconds == {'a': [1, 3, 5], 'b': [2, 4, 6]}


def test_an_epoch_trains_all_its_steps_each_time():
    setup = on_random_images(create_setup(small_config()), (8, 8), steps=2)
    epoch = TimedEpoch(setup)
    assert epoch.seconds() > 0 and epoch.compile_seconds > 0
    assert epoch.training_bytes['temporary'] > 0
    assert int(epoch._state.step[0]) == 4  # of an untimed epoch and a timed one
    again = TimedEpoch(setup, epoch.examples)
    assert again.examples.images is epoch.examples.images


def test_random_images_of_another_size_keep_the_network_and_give_whole_batches():
    setup = on_random_images(create_setup(small_config()), (8, 12), steps=2)
    assert setup.steps_per_epoch == 2 and setup.dataset.image_shape == (8, 12, 1)
    assert setup.num_tokens == 3 * 4
    images, labels = setup.dataset.read('train')
    chex.assert_shape(images, (64, 8, 12, 1))
    assert images.dtype == np.uint8 and set(labels) <= set(range(10))
    unpadded = create_setup(small_config(**{'model.patches.padding': 'VALID'}))
    with refuses('2×2'):
        on_random_images(unpadded, (2, 2), steps=1)


def test_a_function_is_called_as_often_as_it_is_counted():
    left, right = jnp.arange(12.0).reshape(3, 4), jnp.ones((4, 5))
    timed = TimedFunction(jnp.matmul, left, right, milliseconds=1)
    np.testing.assert_allclose(timed.repeat(3, left, right), left @ right, rtol=1e-6)
    assert timed.seconds() > 0


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_product_stays_inside_the_loop_that_repeats_it(dtype):
    """XLA moves what is the same every time out of a loop, and then would compute it once."""
    timed = time_matmul(3, 4, 5, dtype, milliseconds=1)
    program = timed.repeat.lower(7, *timed._arguments).compile().as_text()
    (body,) = re.findall(r'body=(%?[\w.-]+)', program)
    (block,) = (part for part in program.split('\n\n') if part.strip().startswith(f'{body} '))
    assert 'dot_general' in block
