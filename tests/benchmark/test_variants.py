"""Variants of a step: they do the same work, and what one leaves out is noted."""

import jax
import numpy as np
import pytest

from mixer_dilated.benchmark import variants
from mixer_dilated.training.setup import create_setup
from mixer_dilated.training.timing import TimedEpoch, on_random_images
from tests.conftest import raising, small_config

BRANCHES = {'model.branches': ({'dilation': 1}, {'dilation': 2})}
SLOW = [
    pytest.param(changes, marks=pytest.mark.slow) for changes in (BRANCHES, {'model.blur': True})
]


@pytest.mark.parametrize('changes', [{}, *SLOW], ids=['plain', 'branches', 'blur'])
def test_all_variants_train_the_same_batches(changes):
    """What is timed side by side does the same work: as many steps of as many parameters."""
    config = small_config(**{'optimizer.name': 'sgd', 'optimizer.base_lr': 0.01}, **changes)
    setup = on_random_images(create_setup(config), (8, 8), steps=2)
    plain, fast, forward = (
        variants.time_plain_flax(setup),
        TimedEpoch(setup),
        variants.time_forward(setup),
    )
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
    assert variants.choose_variants(setup, set(), notes) == variants.OWN
    assert (
        variants.choose_variants(setup, {'reference'}, notes) == variants.OWN | variants.REFERENCE
    )
    assert notes == []
    assert variants.choose_variants(setup, {'torch'}, notes) == variants.OWN | variants.TORCH
    assert 'config.augment.translate = 2 and config.augment.mixup = 0.5' in notes[0]
    monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
    assert variants.choose_variants(setup, {'torch'}, notes) == variants.OWN
    assert 'tpu' in notes[1]


def test_a_compiler_that_fails_is_noted_with_the_end_of_its_cause():
    fail = raising(RuntimeError('no compiler: ' + 'word ' * 99 + 'g++ is missing'))
    notes = []
    assert variants.compile_variant(variants.COMPILED._replace(timed=fail), None, notes) is None
    assert notes[0].startswith('torch.compile failed here: RuntimeError: … word ')
    assert notes[0].endswith(' g++ is missing')
    with pytest.raises(RuntimeError):
        variants.compile_variant(variants.Variant(fail), None, notes)
