"""Training: the losses, the step, the chunk, the epoch, evaluation."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_dilated.data.augmentation import Augmentation, MixupCutmix
from mixer_dilated.data.datasets import Digits
from mixer_dilated.data.examples import Examples
from mixer_dilated.random_keys import purpose_key
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.optimizer import make_optimizer
from mixer_dilated.training.run_state import TrainMetrics
from mixer_dilated.training.setup import create_setup
from mixer_dilated.training.state import create_model, create_train_state
from mixer_dilated.training.step import (
    EVALUATION,
    LOSSES,
    eval_step,
    normalise,
    train_chunk,
    train_step,
)
from tests.conftest import small_config
from tests.data.test_augmentation import small_state
from tests.training.runs import after_an_epoch


def test_purposes_and_indices_have_their_own_keys():
    words = itertools.product((0, 1), ('permutation', 'dropout'), (0, 1))
    keys = [jax.random.key_data(purpose_key(jax.random.key(seed), *more)) for seed, *more in words]
    assert len({tuple(key.tolist()) for key in keys}) == 8


def test_losses_in_numpy():
    """big_vision's `softmax_xent` and `sigmoid_xent`, of each example."""
    logits, targets = np.float32(np.random.default_rng(0).normal(size=(2, 5, 7)) * 3)
    targets = abs(targets) / abs(targets).sum(-1, keepdims=True)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    sigmoid = 1 / (1 + np.exp(-logits))
    binary = targets * np.log(sigmoid) + (1 - targets) * np.log(1 - sigmoid)
    expected = {'softmax': -(targets * np.log(probabilities)).sum(-1), 'sigmoid': -binary.sum(-1)}
    for name, loss in LOSSES.items():
        np.testing.assert_allclose(loss(logits, targets), expected[name], rtol=1e-5)


@pytest.mark.parametrize('log_probs', [np.full((2, 12), np.nan), np.zeros((2, 12))])
def test_no_label_is_among_five_of_which_none_is_known(log_probs):
    """Of what is not a number, and of twelve that are equal."""
    state = small_state().replace(apply_fn=lambda *_, **__: jnp.asarray(log_probs))
    images, labels = jnp.zeros((2, 8, 8, 1), jnp.uint8), jnp.arange(2)
    batch = Examples(images[None], labels[None]), jnp.arange(2)[None]
    sums, _ = eval_step(state, dict.fromkeys(EVALUATION, 0), batch)
    assert int(sums['top5']) == 0


def fresh(config):
    seed_key = jax.random.key(config.seed)
    optimizer = make_optimizer(config.optimizer, 10)
    return create_train_state(create_model(config, 10), optimizer, (8, 8, 1), seed_key), seed_key


@functools.cache
def digits(split='train[:300]'):
    return Digits().read(split)


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'base_lr'), [('adamw', 0.01), ('sgd', 0.1), ('lamb', 0.03)])
def test_training_with_every_optimizer_lowers_the_loss(name, base_lr):
    config = small_config(**{'optimizer.name': name, 'optimizer.base_lr': base_lr})
    (state, seed_key), step, losses = fresh(config), jax.jit(train_step), []
    for _ in range(10):
        state, metrics = step(state, *digits('train[:64]'), seed_key)
        losses.append(float(metrics['loss']))
    assert losses[-1] < losses[0]


def move_up_left(images, up, left):
    """By the definition: rows and columns leave at the top and left, zeros follow."""
    moved = np.zeros_like(images)
    height, width = images.shape[1:3]
    moved[:, : height - up, : width - left] = images[:, up:, left:]
    return moved


@pytest.mark.parametrize(
    ('batch', 'num_phases'), [(1, (1, 1)), (7, (2, 3)), (100, (1, 1)), (101, (2, 1))]
)
def test_evaluation_counts_every_example_once_by_the_mean_over_all_phases(batch, num_phases):
    """Of one phase the probabilities are the softmax of the logits."""
    state = small_state()
    images, labels = examples = digits('train[:100]')
    apply = jax.jit(lambda images: state.apply_fn({'params': state.params}, images, train=False))
    logits = [
        apply(normalise(jnp.asarray(move_up_left(images, *phase))))
        for phase in np.ndindex(*num_phases)
    ]
    expected = np.log(np.mean([jax.nn.softmax(logit) for logit in logits], axis=0))
    index = np.arange(-(-100 // batch) * batch).reshape(-1, 1, batch)
    index[index >= 100] = -1
    result, log_probs = {name: dtype(0) for name, dtype in EVALUATION.items()}, []
    evaluate = jax.jit(functools.partial(eval_step, num_phases=num_phases))
    for numbers in index:
        of_batch = Examples(*(array[numbers] for array in examples))
        result, rows = evaluate(state, result, (of_batch, numbers))
        log_probs.append(rows)
    log_probs = np.concatenate(log_probs)[:100]
    assert log_probs.dtype == np.float32
    np.testing.assert_allclose(log_probs, expected, rtol=1e-4, atol=1e-5)
    loss = -expected[np.arange(100), labels].sum()
    np.testing.assert_allclose(result['loss'], loss, rtol=1e-5)
    assert int(result['correct']) == (expected.argmax(-1) == labels).sum()
    best_five = np.argsort(-expected, axis=-1)[:, :5]
    assert int(result['top5']) == (best_five == labels[:, None]).any(axis=1).sum()


@pytest.fixture(scope='module')
def plain_parameters():
    return after_an_epoch(small_config(**{'model.num_blocks': 2}))[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    'changes',
    [
        {'label_smoothing': 0.3},
        {'loss': 'sigmoid'},
        {'model.head_bias_init': -1.0, 'loss': 'sigmoid'},
        {'augment.translate': 1},
        {'model.dropout_rate': 0.5},
        {'model.gelu': 'tanh'},
        {'optimizer.weight_decay': 0.9},
        {'optimizer.grad_norm_clip': 1e-9},
        {'optimizer.warmup_steps': 5},
        {'model.stoch_depth': 0.5},
        {'augment.mixup': 0.5},
        {'dtype': 'bfloat16'},
        {'augment.random_phase': True},
        {'model.blur': True},
        {'model.patches.offset': 1},
    ],
    ids=str,
)
def test_every_setting_reaches_the_compiled_program(changes, plain_parameters):
    # Two blocks: stochastic depth never drops the first.
    changed = after_an_epoch(small_config(**{'model.num_blocks': 2, **changes}))[0]
    chex.assert_trees_all_equal_shapes(changed, plain_parameters)
    kernels = [
        params['MixerBlock_0']['channel_mixing']['Dense_0']['kernel']
        for params in (changed, plain_parameters)
    ]
    assert not np.array_equal(*kernels)


def test_an_epoch_in_pieces_has_the_bits_of_one_in_one_piece():
    config = small_config(**{'model.dropout_rate': 0.1, 'augment.translate': 1})
    programs = CompiledFunctions(create_setup(config))
    inputs = programs.in_memory(digits())

    def after(*pieces):
        state, metrics, step = programs.init_state(), programs.empty_metrics(), 0
        for count in pieces:
            (chunk,) = inputs.train_chunks(step, count, 0.0)
            state, metrics = programs.train_chunk(state, metrics, chunk)
            step += count
        return jax.device_get((state.params, state.opt_state, state.step, metrics))

    whole = after(9)
    for pieces in ((1,) * 9, (4, 5), (0, 8, 1)):
        chex.assert_trees_all_equal(after(*pieces), whole)
    state = programs.init_state()  # is used up
    programs.train_epoch(state, inputs)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


@jax.custom_vjp
def poison(value, loss_factor, gradient_factor):
    """`value` times a factor; its gradient times another."""
    return value * loss_factor


poison.defvjp(
    lambda value, loss_factor, gradient_factor: (value * loss_factor, gradient_factor),
    lambda gradient_factor, dy: (dy * gradient_factor, None, None),
)


@functools.cache
def poisoned_chunk():
    """`train_chunk` of two seeds, of which seed 1 is poisoned at steps 3 and 5."""

    def train(state, empty, keys, index, shared, factors):
        def step(state, images, labels, seed_key):
            number = state.step + 1
            at = (jax.random.key_data(seed_key)[-1] == 1) & ((number == 3) | (number == 5))
            now = [jnp.where(at, factor, 1) for factor in factors]
            apply = state.apply_fn
            state = state.replace(apply_fn=lambda *args, **kw: poison(apply(*args, **kw), *now))
            state, metrics = train_step(state, images, labels, seed_key)
            return state.replace(apply_fn=apply), metrics

        train = jax.vmap(
            functools.partial(train_chunk, step=step), in_axes=(None, 0, 0, None, None)
        )
        return train(state, empty, keys, (None, index), shared)

    state, _ = fresh(small_config())
    return jax.jit(train), state


@pytest.mark.parametrize(
    'factors',
    [(jnp.nan, jnp.nan), (1.0, jnp.inf), (1.0, 1e25)],
    ids=['loss', 'gradient', 'square of the gradient'],
)
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(factors):
    """Of seed 1, steps 3 and 5 break; seed 0 goes on undisturbed."""
    train, state = poisoned_chunk()
    examples, index = Examples(*digits('train[:160]')), np.arange(160).reshape(5, 32)
    start = state, TrainMetrics.empty((2,)), jnp.stack([jax.random.key(0), jax.random.key(1)])
    after = {count: train(*start, index, (examples, 0, count), factors) for count in (2, 3, 5)}
    metrics = after[5][1]
    assert metrics.skipped.tolist() == [0, 2] and metrics.first_skipped.tolist() == [0, 3]
    assert np.isfinite(metrics.loss).all() and after[5][0].step.tolist() == [5, 5]
    leaves = {n: jax.tree.leaves((s.params, s.opt_state)) for n, (s, _) in after.items()}
    pairs = [*zip(leaves[2], leaves[3], strict=True)]
    assert all(np.array_equal(one[1], other[1]) for one, other in pairs)
    assert not all(np.array_equal(one[0], other[0]) for one, other in pairs)
    assert all(np.isfinite(leaf).all() for leaf in leaves[5])


def test_metrics_of_an_epoch_leave_skipped_steps_out():
    sums = TrainMetrics(np.float32([6, 0]), np.int32([9, 0]), np.int32([1, 4]), np.int32([2, 1]))
    means = sums.compute(num_steps=4, batch=6)
    np.testing.assert_allclose(means['loss'], [2.0, np.nan])
    np.testing.assert_allclose(means['accuracy'], [0.5, np.nan])
    assert means['skipped'].tolist() == [1, 4]


class HalfMixed(Augmentation):
    """Mixes in three tenths of each image's neighbour: nothing to draw, so quick to compile."""

    def draw_mixing(self, *_):
        return MixupCutmix(jnp.float32(0.7), jnp.float32(0.7))


def test_a_batch_in_parts_makes_the_step_of_the_whole_in_the_memory_of_a_part():
    """Mixed examples find their neighbours in other parts."""
    widths = {'model.hidden_dim': 32, 'model.channels_mlp_dim': 256}
    state, key = fresh(small_config(**widths, **{'optimizer.name': 'sgd'}))
    outputs, memory = [], []
    for parts in (1, 8):
        augmentation = HalfMixed(label_smoothing=0.1)
        step = functools.partial(train_step, augmentation=augmentation, accum_steps=parts)
        program = jax.jit(step).lower(state, *digits('train[:256]'), key).compile()
        next_state, metrics = program(state, *digits('train[:256]'), key)
        outputs.append((next_state.params, metrics))
        memory.append(program.memory_analysis().temp_size_in_bytes)
    chex.assert_trees_all_close(*outputs, atol=1e-5)
    assert memory[1] < 0.35 * memory[0]
