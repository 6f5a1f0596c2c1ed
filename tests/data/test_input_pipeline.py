"""The input pipeline: what streaming shares with memory, to the bit."""

import contextlib
import shutil
import threading

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer_dilated.data import input_pipeline
from mixer_dilated.data.batch_stream import BatchStream, IndexSampler
from mixer_dilated.data.examples import Examples, InMemoryDataSource
from mixer_dilated.data.input_pipeline import (
    InMemoryPipeline,
    StreamingPipeline,
    epoch_permutations,
)
from mixer_dilated.parallel.mesh import make_mesh
from mixer_dilated.random_keys import purpose_key
from tests.conftest import small_config
from tests.data.image_sets import open_folder
from tests.tfds_files import encoded, open_set, write_set

SEEDS = {k: jax.random.key(k) for k in (5, 6)}


def numbered(count):
    """Examples whose pixels and labels tell their number."""
    numbers = np.arange(count, dtype=np.int32)
    images = numbers.astype(np.uint8)[:, None, None, None] * np.ones((1, 2, 3, 1), np.uint8)
    return InMemoryDataSource(Examples(images, numbers))


def permutation(seed_key, epoch, count):
    """The order of an epoch, as the program of an epoch in memory draws it."""
    return np.asarray(jax.random.permutation(purpose_key(seed_key, 'permutation', epoch), count))


def shuffled(count, seed=5, num_seeds=2):
    return lambda epoch: np.asarray(epoch_permutations(seed, num_seeds, count, epoch))


def sequential(count, batch):
    rows = np.arange(count)[None]
    return IndexSampler(lambda _: rows, batch, rows.shape[1] // batch)


def take(stream, count):
    try:
        return [next(stream) for _ in range(count)]
    finally:
        stream.close()


@settings(max_examples=15)
@given(data=st.data())
def test_the_shares_of_all_processes_are_the_batches_of_memory_in_order(data):
    count, processes = 40, data.draw(st.integers(1, 4))
    share = data.draw(st.integers(1, 40 // processes))
    batch = processes * share
    steps = count // batch
    first = data.draw(st.integers(0, 3 * steps))
    # Which examples are whose is the mesh's to say; they need not be neighbours.
    places = np.array(data.draw(st.permutations(range(batch))))
    parts = np.sort(places.reshape(processes, share))
    back = np.argsort(parts.reshape(-1))
    shares = []
    for part in parts:
        sampler = IndexSampler(shuffled(count), batch, steps)
        own = (np.arange(2), part)
        shares.append(take(BatchStream(numbered(count), sampler, first_step=first, own=own), 3))
    for i, batches in enumerate(zip(*shares, strict=True)):
        epoch, number = divmod(first + i, steps)
        expected = [
            permutation(key, epoch, count)[number * batch : (number + 1) * batch]
            for key in SEEDS.values()
        ]
        labels = np.concatenate([batch.labels for batch in batches], axis=1)[:, back]
        np.testing.assert_array_equal(labels, expected)
        images = np.concatenate([batch.images for batch in batches], axis=1)[:, back]
        assert images.shape == (2, batch, 2, 3, 1)
        np.testing.assert_array_equal(images[..., 1, 2, 0], labels)


@pytest.mark.parametrize('shared', [False, True])
def test_a_sampler_follows_its_epochs_for_ever_and_leaves_no_file(shared):
    sampler = IndexSampler(lambda epoch: 100 * epoch + np.arange(7)[None], 2, 3)
    if shared:
        sampler.share()
    for step in range(10):
        sampler.prepare(step)
        epoch, number = divmod(step, 3)
        first = 100 * epoch + 2 * number
        np.testing.assert_array_equal(sampler.batch(step), [[first, first + 1]])
        assert not shared or len([*sampler.folder.iterdir()]) == 2
    sampler.close()
    assert not shared or not sampler.folder.exists()


def datasets_of(folder):
    """JPEGs of several sizes: as a TFDS set, as one of many files, as a folder."""
    draw = np.random.default_rng(0)
    sizes = [(40 + 3 * k, 60 - 2 * k, 3) for k in range(7)]
    records = [
        (encoded(draw.integers(0, 256, size, np.uint8), 'JPEG'), k % 2)
        for k, size in enumerate(sizes)
    ]
    write_set(folder / 'one', records, (None, None, 3))
    write_set(folder / 'many', records, (None, None, 3), files=len(records))
    for k, (content, label) in enumerate(records):
        (folder / 'images' / 'ab'[label]).mkdir(parents=True, exist_ok=True)
        (folder / 'images' / 'ab'[label] / f'{k}.jpg').write_bytes(content)
    return {
        'one file': open_set(folder / 'one', image_size=16),
        'many files': open_set(folder / 'many', image_size=16),
        'folder': open_folder(folder / 'images', image_size=16, channels=3),
    }


@pytest.mark.parametrize('kind', ['one file', 'many files', 'folder'])
def test_records_have_the_pixels_that_reading_all_of_them_has(kind, tmp_path):
    source = datasets_of(tmp_path)[kind]
    split = 'train[1:]+test'
    expected, records = source.read(split), source.data_source(split)
    index = [3, 0, len(records) - 1, 3]
    assert len(records) == len(expected.labels) and records.image_shape == (16, 16, 3)
    for values, array in zip(records.read(index), expected, strict=True):
        np.testing.assert_array_equal(values, array[index])
    np.testing.assert_array_equal(records.labels(index), expected.labels[index])
    streamed = StreamingPipeline(records, small_config(), make_mesh(small_config()))
    np.testing.assert_array_equal(streamed.labels, expected.labels)


def test_a_copy_of_the_data_has_the_same_identity_and_other_data_another(tmp_path):
    sources = datasets_of(tmp_path / 'one')
    shutil.copytree(tmp_path / 'one', tmp_path / 'two', copy_function=shutil.copyfile)
    copies = {
        'one file': open_set(tmp_path / 'two' / 'one', image_size=16),
        'folder': open_folder(tmp_path / 'two' / 'images', image_size=16, channels=3),
    }
    for kind, copy in copies.items():
        assert copy.identity == sources[kind].identity
        assert copy.fingerprint != sources[kind].fingerprint
    (tmp_path / 'two' / 'images' / 'a' / '8.jpg').write_bytes(b'more')
    other = open_folder(tmp_path / 'two' / 'images', image_size=16, channels=3)
    assert other.identity != copies['folder'].identity


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
    opened, ready = [], threading.Event()
    next_slice, first = BatchStream._next_slice, BatchStream.__init__

    def slow(stream):
        ready.wait(1)
        return next_slice(stream)

    def counted(stream, *args, **kwargs):
        opened.append(stream)
        first(stream, *args, **kwargs)

    monkeypatch.setattr(BatchStream, '_next_slice', slow)
    monkeypatch.setattr(BatchStream, '__init__', counted)
    config = small_config(num_seeds=2, batch=8, seed=5)
    with contextlib.closing(
        StreamingPipeline(numbered(40), config, make_mesh(config, jax.devices()[:1]))
    ) as inputs:
        for _ in range(3):
            assert list(inputs.train_chunks(5, 2, 0.01)) == []
        ready.set()
        chunks_of(inputs, 5, 2)
    assert len(opened) == 1


@pytest.mark.parametrize('kind', [InMemoryPipeline, StreamingPipeline])
def test_chunks_from_any_step_on_are_the_batches_of_the_permutations(kind):
    """Also after an evaluation of the same examples."""
    config = small_config(num_seeds=2, batch=8, seed=5)
    source = numbered(40)
    inputs = kind(source if kind is StreamingPipeline else source.examples, config,
                  make_mesh(config, jax.devices()[:1]))  # fmt: skip
    with contextlib.closing(inputs):
        for first, count in ((0, 3), (3, 2), (5, 5), (11, 2), (2, 1)):
            epoch, row = divmod(first, 5)
            expected = [
                [permutation(key, epoch, 40)[k * 8 : k * 8 + 8].tolist() for key in SEEDS.values()]
                for k in range(row, row + count)
            ]
            assert chunks_of(inputs, first, count) == expected
            if first == 3:
                assert sum((chunk.index >= 0).sum() for chunk in inputs.eval_chunks()) == 40


@settings(max_examples=20)
@given(count=st.integers(1, 300), batch=st.integers(1, 40), limit=st.integers(1, 400))
def test_eval_chunks_in_memory_hold_every_example_once(count, batch, limit):
    config = small_config(batch_eval=batch, batch=1, num_seeds=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(input_pipeline, 'MAX_EVAL_EXAMPLES', limit)
        inputs = InMemoryPipeline(
            numbered(count).examples, config, make_mesh(config, jax.devices()[:1])
        )
        index = np.concatenate([np.ravel(chunk.index) for chunk in inputs.eval_chunks()])
        shapes = {chunk.index.shape for chunk in inputs.eval_chunks()}
    assert len(shapes) == 1  # one compiled function
    np.testing.assert_array_equal(index[:count], np.arange(count))
    assert (index[count:] == -1).all()
