"""Runs whose data streams: as in memory to rounding, resumed to the bit, and how they end."""

import functools
import threading

import chex
import pytest

from mixer_dilated.config import flat
from mixer_dilated.data.batch_stream import BatchStream
from mixer_dilated.data.tfds_dataset import TfdsDataSource
from mixer_dilated.errors import Preempted, UserError
from mixer_dilated.files import read_arrays
from mixer_dilated.training import compiled, train
from mixer_dilated.training.train import train_and_evaluate
from tests.conftest import raising, refuses, small_config
from tests.tfds_files import encoded, grey, write_set
from tests.training.runs import OF_SEEDS, Recorder, check_same_bytes, newest, rows_of

STREAM = {**OF_SEEDS, 'input.mode': 'stream'}


@pytest.fixture(scope='module')
def streamed(tmp_path_factory):
    """In batches of 64 the 100 test examples do not fill the second."""
    workdir = tmp_path_factory.mktemp('stream') / 'run'
    config = small_config(**STREAM)
    return config, workdir, train_and_evaluate(config, workdir)


def arrays_of(workdir):
    files = {name: read_arrays(workdir / f'{name}.npz') for name in ('predictions', 'weights')}
    augmented = read_arrays(workdir / 'augmented.npz')
    return {**files, 'augmented': [augmented['images'], augmented['drawn']]}


def test_a_stream_trains_and_evaluates_as_memory_does(run_of_seeds, streamed):
    (config, folder, _), (memory_config, memory_folder, _) = streamed, run_of_seeds
    chex.assert_trees_all_close(rows_of(folder), rows_of(memory_folder), rtol=1e-5)
    pairs = zip((config, memory_config), (folder, memory_folder), strict=True)
    arrays = [(arrays_of(workdir), newest(config, workdir)[0]) for config, workdir in pairs]
    chex.assert_trees_all_close(*arrays, rtol=1e-4, atol=1e-5)
    names = [{file.name for file in workdir.iterdir()} for workdir in (folder, memory_folder)]
    assert names[0] == names[1]


@pytest.mark.parametrize('mode', ['memory', 'stream'])
def test_a_run_traces_its_network_once_to_initialise_and_once_to_evaluate(
    mode, tmp_path, monkeypatch
):
    """Also where the evaluation is compiled while the run trains."""
    traced = []

    def count(name, function, *arguments, **settings):
        traced.append(name)
        return function(*arguments, **settings)

    for name in ('create_train_state', 'eval_step'):
        counted = functools.partial(count, name, getattr(compiled, name))
        monkeypatch.setattr(compiled, name, counted)
    train_and_evaluate(small_config(**{'input.mode': mode, 'num_epochs': 2}), tmp_path)
    assert sorted(traced) == ['create_train_state', 'eval_step']


@pytest.mark.slow
def test_a_stream_that_is_resumed_in_an_epoch_has_the_bits_of_one_that_was_not(streamed, tmp_path):
    config, workdir, _ = streamed
    pieces = small_config(**STREAM | {'checkpoints.every_steps': 4})
    with refuses('step 12', error=Preempted):  # an epoch has 9
        train_and_evaluate(pieces, tmp_path, progress=Recorder(5))
    train_and_evaluate(pieces, tmp_path)
    chex.assert_trees_all_equal(newest(pieces, tmp_path), newest(config, workdir))
    check_same_bytes(tmp_path, workdir, 'metrics.jsonl', 'predictions.npz')
    assert [row['epoch'] for row in rows_of(tmp_path, 'speed')] == [1, 2, 3]


@pytest.mark.slow
def test_a_run_may_go_on_in_the_other_mode(run_of_seeds, streamed, tmp_path):
    config, _, summary = run_of_seeds
    with pytest.raises(Preempted):
        train_and_evaluate(config, tmp_path, progress=Recorder(3))
    results = train_and_evaluate(streamed[0], tmp_path)['results']
    chex.assert_trees_all_close(results, summary['results'], rtol=1e-5)


def test_what_goes_wrong_in_the_background_ends_the_run_and_what_works_there(
    streamed, tmp_path, monkeypatch
):
    batches, closed = [], []

    def next_batch(self, next_batch=BatchStream.__next__):
        if len(batches) == 3:
            raise UserError('record 7: an image that cannot be decoded')
        batches.append(next_batch(self))
        return batches[-1]

    def close(self, close=BatchStream.close):
        closed.append(self)
        close(self)

    monkeypatch.setattr(BatchStream, '__next__', next_batch)
    monkeypatch.setattr(BatchStream, 'close', close)
    with refuses('record 7: an image that cannot be decoded'):
        train_and_evaluate(streamed[0], tmp_path)
    assert len(closed) == 1
    assert 'prefetcher' not in [thread.name for thread in threading.enumerate()]


@pytest.mark.slow
def test_a_run_stops_while_it_waits_for_its_data(streamed, tmp_path, monkeypatch):
    def decode_long(_):
        threading.Event().wait(3)
        raise RuntimeError('nobody waits for this any more')

    monkeypatch.setattr(train, 'CHUNK_SECONDS', 0.05)
    monkeypatch.setattr(BatchStream, '_next_slice', decode_long)
    with refuses('step 0', error=Preempted):
        train_and_evaluate(streamed[0], tmp_path, progress=Recorder(3))


@pytest.mark.parametrize('workers', [0, pytest.param(2, marks=pytest.mark.slow)])
def test_images_kept_on_disk_are_decoded_once_and_train_the_same(workers, tmp_path, monkeypatch):
    write_set(tmp_path, [(encoded(grey(k)), k % 10) for k in range(40)])
    dataset = {'name': 'tiny', 'data_dir': str(tmp_path), 'train_split': 'train'}
    dataset |= {'test_split': 'test', 'cache_dir': str(tmp_path / 'cache')}
    data = flat({'dataset': dataset, 'batch': 8, 'num_epochs': 2, 'input': {'workers': workers}})
    for mode in ('stream', 'disk'):
        train_and_evaluate(small_config(**data, **{'input.mode': mode}), tmp_path / mode)
    check_same_bytes(tmp_path / 'disk', tmp_path / 'stream')
    assert len([*(tmp_path / 'cache' / 'decoded').iterdir()]) == 2  # splits
    monkeypatch.setattr(TfdsDataSource, 'decode', raising(AssertionError('decoded again')))
    train_and_evaluate(small_config(**data, **{'input.mode': 'disk'}), tmp_path / 'again')
    check_same_bytes(tmp_path / 'again', tmp_path / 'stream')
