"""The input pipeline: what streaming shares with memory, to the bit."""

import contextlib
import threading

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer_dilated.data.batch_stream import BatchStream, IndexSampler
from mixer_dilated.data.examples import Examples, InMemoryDataSource
from mixer_dilated.data.input_pipeline import (
    InMemoryPipeline,
    StreamingPipeline,
    epoch_permutations,
)
from mixer_dilated.parallel.mesh import make_mesh
from mixer_dilated.random_keys import purpose_key
from tests.conftest import random_bytes, small_config
from tests.data.image_sets import open_folder
from tests.tfds_files import encoded, open_set, write_set

SEED_KEYS = [jax.random.key(seed) for seed in (5, 6)]


def numbered(count):
    """Examples whose pixels and labels tell their number."""
    numbers = np.arange(count, dtype=np.int32)
    images = numbers.astype(np.uint8)[:, None, None, None] * np.ones((1, 2, 3, 1), np.uint8)
    return InMemoryDataSource(Examples(images, numbers))


def expected_labels(step, batch, count=40):
    """Of both seeds, as the program of an epoch in memory draws them."""
    epoch, number = divmod(step, count // batch)
    keys = [purpose_key(key, 'permutation', epoch) for key in SEED_KEYS]
    orders = [np.asarray(jax.random.permutation(key, count)) for key in keys]
    return [order[number * batch : (number + 1) * batch].tolist() for order in orders]


def shuffled(count, seed=5, num_seeds=2):
    return lambda epoch: np.asarray(epoch_permutations(seed, num_seeds, count, epoch))


def take(stream, count):
    with contextlib.closing(stream):
        return [next(stream) for _ in range(count)]


def open_pipeline(kind, source, **changes):
    config = small_config(**changes)
    examples = source.examples if kind is InMemoryPipeline else source
    return contextlib.closing(kind(examples, config, make_mesh(config, jax.devices()[:1])))


@settings(max_examples=15)
@given(data=st.data())
def test_the_shares_of_all_processes_are_the_batches_of_memory_in_order(data):
    processes = data.draw(st.integers(1, 4))
    batch = processes * data.draw(st.integers(1, 40 // processes))
    steps = 40 // batch
    first = data.draw(st.integers(0, 3 * steps))
    # Which examples are whose is the mesh's to say; they need not be neighbours.
    places = np.array(data.draw(st.permutations(range(batch))))
    parts = np.sort(places.reshape(processes, -1))
    shares = []
    for part in parts:
        sampler, own = IndexSampler(shuffled(40), batch, steps), (np.arange(2), part)
        shares.append(take(BatchStream(numbered(40), sampler, first_step=first, own=own), 3))
    for step, batches in enumerate(zip(*shares, strict=True), first):
        labels, images = (
            np.concatenate([getattr(share, name) for share in batches], axis=1)[
                :, np.argsort(parts.reshape(-1))
            ]
            for name in ('labels', 'images')
        )
        np.testing.assert_array_equal(labels, expected_labels(step, batch))
        assert images.shape == (2, batch, 2, 3, 1)
        np.testing.assert_array_equal(images[..., 1, 2, 0], labels)


@pytest.mark.parametrize('shared', [False, True])
def test_a_sampler_follows_its_epochs_for_ever_and_leaves_no_file(shared):
    sampler = IndexSampler(lambda epoch: 100 * epoch + np.arange(7)[None], 2, 3)
    if shared:
        sampler.share()
    for step in range(10):
        sampler.prepare(step)
        first = 100 * (step // 3) + 2 * (step % 3)
        np.testing.assert_array_equal(sampler.batch(step), [[first, first + 1]])
        assert not shared or len([*sampler.folder.iterdir()]) == 2
    sampler.close()
    assert not shared or not sampler.folder.exists()


@pytest.mark.parametrize('kind', ['one file', 'many files', 'folder'])
def test_records_have_the_pixels_that_reading_all_of_them_has(kind, tmp_path):
    """JPEGs of several sizes: as a TFDS set, as one of many files, as a folder."""
    images = [random_bytes((40 + 3 * k, 60 - 2 * k, 3), k) for k in range(7)]
    records = [(encoded(image, 'JPEG'), k % 2) for k, image in enumerate(images)]
    if kind == 'folder':
        for k, (content, label) in enumerate(records):
            (tmp_path / 'ab'[label]).mkdir(exist_ok=True)
            (tmp_path / 'ab'[label] / f'{k}.jpg').write_bytes(content)
        source = open_folder(tmp_path, image_size=16, channels=3)
    else:
        write_set(tmp_path, records, (None, None, 3), files=1 if kind == 'one file' else 7)
        source = open_set(tmp_path, image_size=16)
    split = 'train[1:]+test'
    expected, records = source.read(split), source.data_source(split)
    index = [3, 0, len(records) - 1, 3]
    assert len(records) == len(expected.labels) and records.image_shape == (16, 16, 3)
    for values, array in zip(records.read(index), expected, strict=True):
        np.testing.assert_array_equal(values, array[index])
    np.testing.assert_array_equal(records.labels(index), expected.labels[index])
    with open_pipeline(StreamingPipeline, records) as inputs:
        np.testing.assert_array_equal(inputs.labels, expected.labels)


def chunks_of(inputs, step, num_steps):
    """Labels of the batches of training, (steps, seeds, batch)."""
    rows = []
    for chunk in inputs.train_chunks(step, num_steps, None):
        labels, index = np.asarray(chunk.examples.labels), chunk.index
        labels = labels if index is None else labels[np.asarray(index)]
        rows += np.moveaxis(labels, 1, 0)[step - chunk.first_step :][: chunk.num_steps].tolist()
        step += chunk.num_steps
    return rows


def test_a_first_batch_that_is_slow_is_waited_for_and_its_stream_not_opened_again(monkeypatch):
    opened, ready, next_slice = set(), threading.Event(), BatchStream._next_slice

    def slow(stream):
        opened.add(stream)
        ready.wait(1)
        return next_slice(stream)

    monkeypatch.setattr(BatchStream, '_next_slice', slow)
    with open_pipeline(StreamingPipeline, numbered(40), num_seeds=2, batch=8, seed=5) as inputs:
        for _ in range(3):
            assert list(inputs.train_chunks(5, 2, 0.01)) == []
        ready.set()
        chunks_of(inputs, 5, 2)
    assert len(opened) == 1


@pytest.mark.parametrize('kind', [InMemoryPipeline, StreamingPipeline])
def test_chunks_from_any_step_on_are_the_batches_of_the_permutations(kind):
    """Also after an evaluation of the same examples."""
    with open_pipeline(kind, numbered(40), num_seeds=2, batch=8, seed=5) as inputs:
        for first, count in ((0, 3), (3, 2), (5, 5), (11, 2), (2, 1)):
            expected = [expected_labels(step, 8) for step in range(first, first + count)]
            assert chunks_of(inputs, first, count) == expected
            if first == 3:
                assert sum((batch.index >= 0).sum() for batch in inputs.eval_batches()) == 40


@settings(max_examples=20)
@given(count=st.integers(1, 300), batch=st.integers(1, 40))
def test_eval_batches_in_memory_hold_every_example_once(count, batch):
    changes = {'batch_eval': batch, 'batch': 1, 'num_seeds': 2}
    examples = numbered(count)
    with open_pipeline(InMemoryPipeline, examples, **changes) as inputs:
        batches = [*inputs.eval_batches()]
    assert {b.index.shape for b in batches} == {(1, min(batch, count))}  # one compiled function
    index = np.concatenate([np.ravel(b.index) for b in batches])
    np.testing.assert_array_equal(index[:count], np.arange(count))
    assert (index[count:] == -1).all()
    images = np.concatenate([b.examples.images[0] for b in batches])
    np.testing.assert_array_equal(images[:count], examples.examples.images)
