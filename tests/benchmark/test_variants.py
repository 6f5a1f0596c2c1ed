"""Variants of a step: they do the same work, and what one leaves out is noted."""

import jax
import numpy as np
import pytest

from mixer_dilated.benchmark.variants import (
    COMPILED,
    DTYPES,
    OWN,
    REFERENCE,
    TORCH,
    Variant,
    choose_variants,
    compile_variant,
    time_forward,
    time_plain_flax,
)
from mixer_dilated.training.setup import create_setup
from mixer_dilated.training.timing import TimedEpoch, on_random_images
from tests.conftest import raising, small_config


@pytest.mark.parametrize(
    'changes',
    [
        pytest.param({}, id='plain'),
        pytest.param(
            {'model.branches': ({'dilation': 1}, {'dilation': 2})},
            id='branches',
            marks=pytest.mark.slow,
        ),
        pytest.param({'model.blur': True}, id='blur', marks=pytest.mark.slow),
    ],
)
def test_all_variants_train_the_same_batches(changes):
    """What is timed side by side does the same work: as many steps of as many parameters."""
    config = small_config(**{'optimizer.name': 'sgd', 'optimizer.base_lr': 0.01}, **changes)
    setup = on_random_images(create_setup(config), (8, 8), steps=2)
    plain, fast, forward = time_plain_flax(setup), TimedEpoch(setup), time_forward(setup)
    for timed in (plain, fast, forward):
        assert timed.seconds() > 0 and timed.compile_seconds > 0
    # Two epochs each, and one more here; the fast one in the order of its permutations.
    state = plain._call()
    assert int(state.step) == int(fast._state.step[0]) + 2 == 6
    of_seed = jax.tree.map(lambda leaf: leaf[0], fast._state.params)
    assert jax.tree.map(np.shape, state.params) == jax.tree.map(np.shape, of_seed)


def test_what_is_compared_is_what_was_asked_for(monkeypatch):
    notes = []
    setup = create_setup(small_config(**{'augment.translate': 2, 'augment.mixup': 0.5}))
    assert choose_variants(setup, set(), notes) == OWN
    assert choose_variants(setup, {'reference'}, notes) == OWN | REFERENCE
    assert notes == []
    assert choose_variants(setup, {'torch'}, notes) == OWN | TORCH
    assert 'config.augment.translate = 2 and config.augment.mixup = 0.5' in notes[0]
    monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
    assert choose_variants(setup, {'torch'}, notes) == OWN
    assert 'tpu' in notes[1]
    kinds = {(own.kind, own.dtype, own.seeds, own.scale) for own in OWN.values()}
    assert kinds == {
        *((kind, dtype, 1, 1.0) for kind in ('training', 'forward') for dtype in DTYPES),
        ('training', 'float32', 8, 1.0),
        ('training', 'float32', 1, 0.5),
        ('training', 'float32', 1, 2.0),
    }  # fmt: skip


def test_a_compiler_that_fails_is_noted_with_the_end_of_its_cause():
    fail = raising(RuntimeError('no compiler: ' + 'word ' * 99 + 'g++ is missing'))
    notes = []
    assert compile_variant(COMPILED._replace(timed=fail), None, notes) is None
    assert notes[0].startswith('torch.compile failed here: RuntimeError: … word ')
    assert notes[0].endswith(' g++ is missing')
    with pytest.raises(RuntimeError):
        compile_variant(Variant(fail), None, notes)
