"""Training: the step, the epoch, evaluation, resuming, devices, the run's folder."""

import functools
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import typing

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mixer_dilated.config import resolve
from mixer_dilated.data.examples import Examples
from mixer_dilated.errors import InputError
from mixer_dilated.training.checkpoints import Checkpoints
from mixer_dilated.training.epoch import evaluate, train_epoch
from mixer_dilated.training.evaluation import evaluate_checkpoint
from mixer_dilated.training.loop import train_and_evaluate
from mixer_dilated.training.optimizer import kernels, learning_rate_schedule, make_optimizer
from mixer_dilated.training.programs import Programs
from mixer_dilated.training.progress import Progress
from mixer_dilated.training.randomness import purpose_key
from mixer_dilated.training.sharding import check_batch, make_mesh
from mixer_dilated.training.state import create_train_state
from mixer_dilated.training.step import normalise, train_step
from mixer_dilated.training.task import open_task
from tests.conftest import ROOT, small_config


def optimizer_config(**changes):
    return resolve({'optimizer': changes}).optimizer


def test_normalise_maps_bytes_to_minus_one_to_one():
    np.testing.assert_allclose(
        normalise(jnp.array([0, 51, 255], jnp.uint8)), [-1, -0.6, 1], atol=1e-6
    )


def test_purposes_and_indices_have_their_own_keys():
    seed_key = jax.random.key(0)
    keys = [
        tuple(jax.random.key_data(purpose_key(key, purpose, index)).tolist())
        for key in (seed_key, jax.random.key(1))
        for purpose in ('permutation', 'dropout')
        for index in (0, 1)
    ]
    assert len(set(keys)) == 8
    again = jax.random.key_data(purpose_key(seed_key, 'permutation', 0))
    assert tuple(again.tolist()) == keys[0]


@pytest.mark.parametrize(
    ('decay_type', 'warmup', 'step', 'expected'),
    [
        ('constant', 0, 99, 0.1),
        ('cosine', 0, 50, 0.05),
        ('cosine', 0, 100, 0.0),
        ('linear', 0, 25, 0.075),
        ('linear', 20, 10, 0.05),
        ('linear', 20, 60, 0.05),
        ('cosine', 20, 20, 0.1),
        ('constant', 20, 0, 0.0),
    ],
)
def test_learning_rate_schedules(decay_type, warmup, step, expected):
    config = optimizer_config(base_lr=0.1, decay_type=decay_type, warmup_steps=warmup)
    np.testing.assert_allclose(learning_rate_schedule(config, 100)(step), expected, atol=1e-7)


PARAMS = {
    'Dense_0': {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)},
    'LayerNorm_0': {'scale': jnp.ones(2), 'bias': jnp.ones(2)},
    'stem': {'kernel_0': jnp.ones((1, 1, 1, 2)), 'bias': jnp.ones(2)},
}


@pytest.mark.parametrize('name', ['adamw', 'sgd', 'lamb'])
def test_weight_decay_spares_biases_and_layer_norm(name):
    config = optimizer_config(name=name, weight_decay=0.5, base_lr=0.1, decay_type='constant')
    optimizer = make_optimizer(config, 10)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = optimizer.update(zeros, optimizer.init(PARAMS), PARAMS)
    shrunk = jax.tree.map(lambda update: bool((update < 0).all()), updates)
    assert shrunk == kernels(PARAMS)
    assert jax.tree.map(lambda update: bool((update == 0).all()), updates) == jax.tree.map(
        lambda kernel: not kernel, shrunk
    )


def test_sgd_with_momentum_and_clipping_in_numpy():
    config = optimizer_config(
        name='sgd',
        momentum=0.5,
        base_lr=0.1,
        decay_type='constant',
        weight_decay=0,
        grad_norm_clip=1.0,
    )
    optimizer = make_optimizer(config, 10)
    params = {'kernel': jnp.array([1.0, 2.0])}
    grads = {'kernel': jnp.array([3.0, 4.0])}  # norm 5, clipped to (0.6, 0.8)
    state = optimizer.init(params)
    for expected in ([-0.06, -0.08], [-0.09, -0.12]):
        updates, state = optimizer.update(grads, state, params)
        np.testing.assert_allclose(updates['kernel'], expected, rtol=1e-6)


def fresh(config, steps=10):
    seed_key = jax.random.key(config.seed)
    state = create_train_state(config, (8, 8, 1), 10, steps, seed_key)
    return state, seed_key


@functools.cache
def digits(split='train[:300]'):
    from mixer_dilated.data.digits import Digits

    return Digits().read(split)


def test_loss_is_cross_entropy_with_smoothed_labels():
    config = small_config(**{'label_smoothing': 0.1})
    state, seed_key = fresh(config)
    head = state.params['head']
    head['bias'] = jnp.arange(10.0)  # the head's kernel is zero: logits are the bias
    images, labels = digits('train[:32]')
    step = jax.jit(functools.partial(train_step, label_smoothing=0.1))
    next_state, metrics = step(state, images, labels, seed_key)
    log_probabilities = np.arange(10.0) - np.log(np.exp(np.arange(10.0)).sum())
    targets = 0.9 * np.eye(10)[labels] + 0.01
    np.testing.assert_allclose(
        metrics['loss'], -(targets * log_probabilities).sum(1).mean(), rtol=1e-5
    )
    assert metrics['correct'] == (labels == 9).sum()
    assert next_state.step == 1


def test_training_with_every_optimizer_lowers_the_loss():
    for name, base_lr in (('adamw', 0.01), ('sgd', 0.1), ('lamb', 0.03)):
        config = small_config(**{'optimizer.name': name, 'optimizer.base_lr': base_lr})
        state, seed_key = fresh(config)
        step = jax.jit(train_step)
        images, labels = digits('train[:64]')
        losses = []
        for _ in range(10):
            state, metrics = step(state, images, labels, seed_key)
            losses.append(float(metrics['loss']))
        assert losses[-1] < losses[0], name


class Seen(typing.NamedTuple):
    """A stand-in for the state that notes the order in which an epoch shows the examples."""

    step: jax.Array
    order: jax.Array


def note(state, images, labels, seed_key):
    order = jax.lax.dynamic_update_slice(state.order, labels, (state.step * len(labels),))
    return Seen(state.step + 1, order), {'loss': jnp.mean(images), 'correct': labels.sum()}


def test_an_epoch_shows_each_example_once_in_an_order_of_its_own():
    examples = Examples(np.ones((23, 1, 1, 1), np.uint8), np.arange(23, dtype=np.int32))
    epoch = functools.partial(train_epoch, step=note, batch=5, mesh=make_mesh())
    epoch = jax.jit(epoch)
    orders = []
    state = Seen(jnp.zeros((), jnp.int32), jnp.full(40, -1, jnp.int32))
    for _ in range(2):
        state, metrics = epoch(state, examples, jax.random.key(0))
        np.testing.assert_allclose(metrics['loss'], 1.0)
    for order in np.asarray(state.order).reshape(2, 20):
        assert len(set(order)) == 20 and set(order) <= set(range(23))
        orders.append(order.tolist())
    assert orders[0] != orders[1] and sorted(orders[0]) != orders[0]


@pytest.mark.parametrize('batch', [1, 7, 50, 99, 100, 101, 1000])
def test_evaluation_counts_every_example_once_whatever_the_batch(batch):
    config = small_config()
    state, _ = fresh(config)
    key = jax.random.key(5)
    state = state.replace(params=jax.tree.map(
        lambda leaf: leaf + 0.3 * jax.random.normal(key, leaf.shape), state.params
    ))  # fmt: skip
    images, labels = digits('train[:100]')
    result = jax.jit(functools.partial(evaluate, batch=batch, mesh=make_mesh()))(
        state, Examples(images, labels)
    )
    logits = state.apply_fn({'params': state.params}, normalise(jnp.asarray(images)), train=False)
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    assert int(result['correct']) == int((logits.argmax(-1) == labels).sum())
    np.testing.assert_allclose(result['loss'], expected, rtol=1e-5)


def test_dropout_and_shift_follow_seed_and_step():
    config = small_config(**{'model.dropout_rate': 0.5})
    state, seed_key = fresh(config)
    images, labels = digits('train[:32]')
    kernel = jax.random.normal(jax.random.key(3), (8, 10))
    state.params['head']['kernel'] = kernel  # it starts at zero, which hides what is before it
    step = jax.jit(functools.partial(train_step, max_shift=1))
    loss = [
        float(step(state.replace(step=at), images, labels, key)[1]['loss'])
        for at, key in ((0, seed_key), (0, seed_key), (1, seed_key), (0, jax.random.key(9)))
    ]
    assert loss[0] == loss[1] and len(set(loss)) == 3


class Recorder(Progress):
    """Keeps every row, and stops the run after `stop_after` epochs as Ctrl-C would."""

    def __init__(self, stop_after=None):
        self.rows, self.resumed_after, self.stop_after = [], None, stop_after

    def compiled(self, task, epochs_done):
        self.resumed_after = epochs_done

    def epoch_done(self, row):
        self.rows.append(row)
        if row['epoch'] == self.stop_after:
            raise KeyboardInterrupt


def content(state):
    """The arrays of a state (its static functions are made anew for each)."""
    return jax.device_get((state.step, state.params, state.opt_state))


def newest(config, workdir):
    """Arrays and metrics of the newest checkpoint in a folder."""
    programs = Programs(open_task(config))
    with Checkpoints(workdir) as checkpoints:
        state, history = checkpoints.restore(programs.abstract_state())
    return content(state), without_times(history)


def without_times(rows):
    return [{name: value for name, value in row.items() if 'second' not in name} for row in rows]


RUN = {'model.dropout_rate': 0.1, 'augment.shift': 1}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A finished small run: its config, folder and summary."""
    config = small_config(**RUN)
    workdir = tmp_path_factory.mktemp('runs') / 'first'
    return config, workdir, train_and_evaluate(config, workdir, name='small')


def metrics_of(workdir):
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def test_two_runs_have_the_same_bits(run, tmp_path):
    config, workdir, summary = run
    again = train_and_evaluate(config, tmp_path / 'again')
    chex.assert_trees_all_equal(newest(config, tmp_path / 'again'), newest(config, workdir))
    assert without_times(metrics_of(tmp_path / 'again')) == without_times(metrics_of(workdir))
    assert again['test_correct'] == summary['test_correct']


def test_a_damaged_summary_is_told_with_the_way_on(run, tmp_path):
    config, workdir, _ = run
    shutil.copytree(workdir, tmp_path / 'copy')
    (tmp_path / 'copy' / 'summary.json').write_text('{')
    with pytest.raises(InputError, match='remove it, and the same command'):
        train_and_evaluate(config, tmp_path / 'copy')


def test_another_seed_has_other_bits(run, tmp_path):
    _, workdir, _ = run
    other = small_config(**RUN, seed=1)
    train_and_evaluate(other, tmp_path / 'other')
    assert without_times(metrics_of(tmp_path / 'other')) != without_times(metrics_of(workdir))


def test_a_resumed_run_has_the_bits_of_the_undisturbed_one(run, tmp_path):
    config, workdir, summary = run
    with pytest.raises(KeyboardInterrupt):
        train_and_evaluate(config, tmp_path / 'run', progress=Recorder(stop_after=2))
    assert not (tmp_path / 'run' / 'summary.json').exists()
    # A line that was written after the last checkpoint must not appear twice.
    with (tmp_path / 'run' / 'metrics.jsonl').open('a') as file:
        file.write('{"epoch": 3, "unfinis')
    recorder = Recorder()
    resumed = train_and_evaluate(config, tmp_path / 'run', progress=recorder)
    assert recorder.resumed_after == 2 and [row['epoch'] for row in recorder.rows] == [3]
    chex.assert_trees_all_equal(newest(config, tmp_path / 'run'), newest(config, workdir))
    assert without_times(metrics_of(tmp_path / 'run')) == without_times(metrics_of(workdir))
    same = [key for key in summary if key not in ('seconds', 'config_name')]
    assert {key: resumed[key] for key in same} == {key: summary[key] for key in same}


def test_a_finished_run_is_not_trained_again(run):
    config, workdir, summary = run
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob('*')}
    recorder = Recorder()
    assert train_and_evaluate(config, workdir, progress=recorder) == summary
    assert recorder.rows == [] and recorder.resumed_after is None
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob('*')} == before


def test_each_checkpoint_holds_its_own_epoch(tmp_path):
    """Saving goes on in the background while the next epoch reuses the state's memory."""
    config = small_config(num_epochs=4, **{'checkpoints.keep': 4})
    task = open_task(config)
    programs = Programs(task)
    train = programs.place(digits())
    state = programs.create_state()
    run_epoch = programs.compile_train_epoch(state, train)
    copies = []
    with Checkpoints(tmp_path, keep=4) as checkpoints:
        for epoch in range(1, 5):
            state, _ = run_epoch(state)
            copies.append(jax.tree.map(np.array, content(state)))
            checkpoints.save(epoch, state, [{'epoch': epoch}])
    folders = sorted((tmp_path / 'checkpoints').iterdir(), key=lambda path: int(path.name))
    for folder, copy in reversed(list(zip(folders, copies, strict=True))):
        with Checkpoints(tmp_path) as checkpoints:
            restored, history = checkpoints.restore(programs.abstract_state())
        assert history == [{'epoch': int(folder.name)}]
        chex.assert_trees_all_equal(content(restored), copy)
        shutil.rmtree(folder)


def test_the_runs_folder_explains_itself(run):
    config, workdir, summary = run
    assert json.loads((workdir / 'summary.json').read_text()) == summary
    assert resolve(json.loads((workdir / 'config.json').read_text())) == config
    rows = metrics_of(workdir)
    assert [row['epoch'] for row in rows] == [1, 2, 3]
    assert [row['step'] for row in rows] == [9, 18, 27]
    assert set(rows[0]) == {
        'epoch', 'step', 'train_loss', 'train_accuracy', 'test_loss', 'test_accuracy',
        'learning_rate', 'seconds', 'images_per_second',
    }  # fmt: skip
    assert rows[-1]['test_accuracy'] == summary['test_accuracy'] == summary['test_correct'] / 100
    assert rows[0]['learning_rate'] > rows[1]['learning_rate'] > rows[2]['learning_rate'] > 0
    for key in (
        'config_name', 'dataset', 'train_examples', 'test_examples', 'seed', 'num_tokens',
        'num_params', 'flops_per_image', 'train_accuracy', 'versions', 'device',
    ):  # fmt: skip
        assert key in summary
    assert set(summary['seconds']) == {'startup', 'compile', 'train', 'epoch_median'}
    assert sorted(path.name for path in (workdir / 'checkpoints').iterdir()) == ['2', '3']


def test_tensorboard_events_hold_the_metrics(run):
    from tensorboardX.proto.event_pb2 import Event

    _, workdir, _ = run
    scalars = {}
    for path in sorted((workdir / 'tensorboard').iterdir()):
        content = path.read_bytes()
        while content:  # TFRecord: length (8 bytes), its checksum (4), data, its checksum (4)
            (length,) = struct.unpack('<Q', content[:8])
            event = Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            for value in event.summary.value:
                scalars[value.tag, event.step] = value.simple_value
    for row in metrics_of(workdir):
        np.testing.assert_allclose(scalars['test_accuracy', row['step']], row['test_accuracy'])
        np.testing.assert_allclose(scalars['train_loss', row['step']], row['train_loss'])


def test_evaluating_a_checkpoint_repeats_the_summary(run):
    _, workdir, summary = run
    result = evaluate_checkpoint(workdir)
    assert (result['correct'], result['examples'], result['epoch']) == (
        summary['test_correct'], 100, 3,
    )  # fmt: skip
    train = evaluate_checkpoint(workdir, 'train[:300]')
    assert train['correct'] == summary['train_correct'] and train['split'] == 'train[:300]'


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'batch': 301}, 'config.batch = 301: .* 300 examples'),
        ({'augment.shift': 8}, 'config.augment.shift = 8'),
        ({'optimizer.warmup_steps': 27}, 'warmup_steps = 27: the run has 27 steps'),
        ({'model.patches.dilation': 9}, 'window of 10 pixels does not fit'),
        ({'dataset.train_split': 'train[:9999]'}, "config.dataset.train_split = 'train.:9999.'"),
        ({'dataset.test_split': 'validation'}, r"test_split = 'validation': .*train \(1433"),
    ],
)
def test_a_config_that_does_not_fit_its_data_is_refused(changes, words, tmp_path):
    if 'model.patches.dilation' in changes:
        changes = {**changes, 'model.patches.padding': 'VALID'}
    with pytest.raises(InputError, match=words):
        train_and_evaluate(small_config(**changes), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_a_folder_of_another_config_is_refused_with_the_keys(run):
    _, workdir, _ = run
    other = small_config(**RUN, **{'model.hidden_dim': 9, 'seed': 4})
    with pytest.raises(InputError, match=r'model.hidden_dim: 8, 9; seed: 0, 4'):
        train_and_evaluate(other, workdir)
    with pytest.raises(InputError, match=r'model.hidden_dim: 8, 9'):
        evaluate_checkpoint(workdir, config=other)


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / 'thesis.tex').write_text('precious')
    with pytest.raises(InputError, match='not empty'):
        train_and_evaluate(small_config(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.tex']


def test_evaluating_without_a_run_or_checkpoint_is_refused(tmp_path):
    with pytest.raises(InputError, match='no run there'):
        evaluate_checkpoint(tmp_path / 'nothing')
    (tmp_path / 'config.json').write_text(json.dumps(small_config().to_dict()))
    with pytest.raises(InputError, match='no checkpoint there yet'):
        evaluate_checkpoint(tmp_path)
    (tmp_path / 'config.json').write_text('{"seed":')
    with pytest.raises(InputError, match='cannot be read as a config'):
        evaluate_checkpoint(tmp_path)


ON_DEVICES = """
import json, sys, numpy as np, jax
from mixer_dilated.data.digits import Digits
from mixer_dilated.training.programs import Programs
from mixer_dilated.training.task import open_task
from tests.conftest import small_config
config = small_config(**json.loads(sys.argv[2]))
programs = Programs(open_task(config))
train = programs.place(Digits().read('train[:300]'))
test = programs.place(Digits().read('test[:100]'))
state = programs.create_state()
state, metrics = programs.compile_train_epoch(state, train)(state)
result = programs.compile_evaluate(state, test)(state)
leaves = jax.tree.leaves((state.params, metrics, result))
np.savez(sys.argv[1], *map(np.asarray, leaves), devices=jax.device_count())
"""


SGD = {'optimizer.name': 'sgd', 'optimizer.base_lr': 0.1}


@pytest.mark.parametrize('changes', [SGD, RUN], ids=['sgd', 'adamw, dropout and shift'])
def test_one_and_eight_devices_agree_after_an_epoch(changes, tmp_path):
    """Plain AdamW is left out: the output bias of token mixing has a gradient of zero, since the
    next LayerNorm removes it, and AdamW makes steps of the learning rate out of its rounding."""
    saved = []
    for devices in (1, 8):
        path = tmp_path / f'{devices}.npz'
        flags = f'--xla_force_host_platform_device_count={devices}'
        subprocess.run(
            [sys.executable, '-c', ON_DEVICES, str(path), json.dumps(changes)],
            cwd=ROOT, env={**os.environ, 'XLA_FLAGS': flags}, check=True, timeout=300,
        )  # fmt: skip
        saved.append(dict(np.load(path)))
        assert saved[-1].pop('devices') == devices
    assert set(saved[0]) == set(saved[1])
    for name, array in saved[0].items():
        np.testing.assert_allclose(saved[1][name], array, atol=1e-5, err_msg=name)


class EightDevices:
    shape = {'data': 8}


def test_a_batch_that_the_devices_do_not_divide_is_refused_with_the_numbers():
    check_batch('batch', 32, EightDevices())
    with pytest.raises(InputError, match=r'config.batch = 30: 8 devices .* like 24 or 32'):
        check_batch('batch', 30, EightDevices())


def test_a_diverged_run_warns_and_still_writes_json(tmp_path):
    config = small_config(**{'optimizer.name': 'sgd', 'optimizer.base_lr': 1e6, 'num_epochs': 1})
    with pytest.warns(UserWarning, match='epoch 1: the training loss is not finite'):
        train_and_evaluate(config, tmp_path / 'run')

    def refuse(constant):
        raise AssertionError(constant)

    (line,) = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
    assert json.loads(line, parse_constant=refuse)['train_loss'] is None


def test_state_and_batches_are_laid_over_the_mesh():
    programs = Programs(open_task(small_config()))
    for leaf in jax.tree.leaves((programs.create_state(), programs.abstract_state())):
        assert leaf.sharding.mesh.axis_names == ('data',)
    assert programs.activation_bytes() > 0


def test_real_mnist_trains_through_the_whole_path(mnist, tmp_path):
    config = small_config(
        **{
            'num_epochs': 2,
            'dataset.name': 'mnist',
            'dataset.data_dir': mnist,
            'dataset.train_split': 'train[:2000]',
            'dataset.test_split': 'test[:500]',
            'model.patches.size': 4,
            'model.patches.stride': 7,
            'model.patches.padding': 'VALID',
            'model.hidden_dim': 32,
            'optimizer.base_lr': 0.01,
        }
    )
    summary = train_and_evaluate(config, pathlib.Path(tmp_path / 'run'))
    assert summary['num_tokens'] == 16 and summary['train_examples'] == 2000
    assert summary['test_accuracy'] > 0.6  # chance is 0.1
