"""Losses of a training step, and top-5 accuracy."""

import jax.numpy as jnp
import numpy as np
import pytest

from mixer_dilated.training.step import LOSSES, eval_step, train_step
from tests.conftest import small_config
from tests.data.test_augmentation import small_state
from tests.training.test_step import digits, fresh


@pytest.mark.parametrize('log_probs', [np.full((2, 12), np.nan), np.zeros((2, 12))])
def test_no_label_is_among_five_of_which_none_is_known(log_probs):
    """Of what is not a number, and of twelve that are equal."""
    state = small_state().replace(apply_fn=lambda *_, **__: jnp.asarray(log_probs))
    images, labels = jnp.zeros((2, 8, 8, 1), jnp.uint8), jnp.arange(2)
    sums, _ = eval_step(state, images, labels, jnp.ones(2, bool))
    assert int(sums['top5']) == 0


def test_losses_in_numpy():
    """big_vision's `softmax_xent` and `sigmoid_xent`, of each example."""
    logits, targets = np.float32(np.random.default_rng(0).normal(size=(2, 5, 7)) * 3)
    targets = abs(targets) / abs(targets).sum(-1, keepdims=True)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    sigmoid = 1 / (1 + np.exp(-logits))
    expected = {
        'softmax': -(targets * np.log(probabilities)).sum(-1),
        'sigmoid': -(targets * np.log(sigmoid) + (1 - targets) * np.log(1 - sigmoid)).sum(-1),
    }
    for name, loss in LOSSES.items():
        np.testing.assert_allclose(loss(logits, targets), expected[name], rtol=1e-5)


@pytest.mark.slow
def test_the_loss_of_a_step_is_the_one_of_the_config():
    config = small_config(**{'model.head_bias_init': -2.0})
    state, seed_key = fresh(config)
    images, labels = digits('train[:8]')
    _, metrics = train_step(state, images, labels, seed_key, loss='sigmoid')
    # The head starts at zero, so all logits are its bias.
    sigmoid = 1 / (1 + np.exp(2.0))
    np.testing.assert_allclose(
        metrics['loss'], -np.log(sigmoid) - 9 * np.log(1 - sigmoid), rtol=1e-5
    )
