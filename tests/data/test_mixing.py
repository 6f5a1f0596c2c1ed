"""Mixup and cutmix: how much of each example is whose, and how often."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_dilated.data.augmentation import Augmentation, draw_cutmix, draw_mixup


@pytest.mark.parametrize(
    ('draw', 'alpha'),
    [(draw_mixup, 0.001), (draw_mixup, 0.2), (draw_mixup, 1000.0), (draw_cutmix, 1.0)],
)
def test_each_example_is_mixed_with_its_neighbour_and_so_are_the_targets(draw, alpha):
    images = np.random.default_rng(0).normal(size=(5, 7, 6, 2)).astype(np.float32)
    targets = np.eye(5, 7, dtype=np.float32)
    for number in range(8):
        size = ((7, 6),) if draw is draw_cutmix else ()
        mixing = draw(jax.random.key(number), alpha, *size)
        weight, share = np.asarray(mixing.pixel_weight), float(mixing.target_weight)
        np.testing.assert_allclose(weight.mean(), share, atol=1e-6)
        assert draw is draw_cutmix or 0.5 <= share <= 1
        expected = weight * images + (1 - weight) * np.roll(images, 1, axis=0)
        np.testing.assert_allclose(mixing.mix_images(images), expected, atol=1e-6)
        expected = share * targets + (1 - share) * np.roll(targets, 1, axis=0)
        np.testing.assert_allclose(mixing.mix_targets(targets), expected, atol=1e-6)


def test_shares_of_mixup_are_the_larger_of_a_beta_draw_and_its_rest():
    keys = jax.random.split(jax.random.key(0), 2000)
    shares = np.sort(jax.vmap(lambda key: draw_mixup(key, 0.4).target_weight)(keys))
    drawn = np.random.default_rng(0).beta(0.4, 0.4, 200_000)
    expected = np.quantile(np.maximum(drawn, 1 - drawn), (np.arange(2000) + 0.5) / 2000)
    np.testing.assert_allclose(shares, expected, atol=0.03)


HEIGHT, WIDTH, COUNT = 40, 31, 3000


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, None))
def draw_many(key, alpha):
    mixing = draw_cutmix(key, alpha, (HEIGHT, WIDTH))
    return mixing.pixel_weight, mixing.target_weight


@functools.cache
def draw_boxes(alpha):
    """Masks of cutmix, True in the box, and the shares of the targets."""
    own, shares = map(np.asarray, draw_many(jax.random.split(jax.random.key(1), COUNT), alpha))
    assert own.shape == (COUNT, HEIGHT, WIDTH, 1) and set(np.unique(own)) <= {0, 1}
    return own[..., 0] == 0, shares


def test_a_box_of_cutmix_is_a_rectangle_and_its_area_what_the_targets_lose():
    boxes, shares = draw_boxes(1.0)
    rows, columns = boxes.any(axis=2), boxes.any(axis=1)
    np.testing.assert_array_equal(boxes, rows[:, :, None] & columns[:, None, :])
    for along in (rows, columns):  # in one piece
        assert (np.abs(np.diff(along.astype(int), axis=1, prepend=0, append=0)).sum(1) <= 2).all()
    np.testing.assert_allclose(shares, 1 - boxes.mean(axis=(1, 2)), atol=1e-6)


@pytest.mark.parametrize('alpha', [0.3, 1.0, 1000.0])
def test_areas_of_boxes_are_those_of_a_beta_draw_cut_off_at_the_image(alpha):
    _, shares = draw_boxes(alpha)
    draw, area = np.random.default_rng(0), 1
    side = np.sqrt(1 - draw.beta(alpha, alpha, 100_000))
    for size in (HEIGHT, WIDTH):
        length = np.round(size * side).astype(int)
        start = draw.integers(size, size=len(side)) - length // 2
        area = area * (np.minimum(start + length, size) - np.maximum(start, 0))
    expected = 1 - area / (HEIGHT * WIDTH)
    at = (np.arange(COUNT) + 0.5) / COUNT
    np.testing.assert_allclose(np.sort(shares), np.quantile(expected, at), atol=0.04)


def test_of_mixup_and_cutmix_each_batch_has_one_with_equal_probability():
    settings = {'mixup': 0.4}, {'cutmix': 1.0}, {'mixup': 0.4, 'cutmix': 1.0}

    def draw(step):
        mixings = [Augmentation(**s).draw_mixing(jax.random.key(0), step, (6, 6)) for s in settings]
        pixels = [jnp.broadcast_to(mixing.pixel_weight, (6, 6, 1)) for mixing in mixings]
        return pixels, mixings[-1].target_weight

    (mixup, cutmix, pixels), shares = jax.jit(jax.vmap(draw))(jnp.arange(1000))
    is_mixup, is_cutmix = (
        np.all(np.asarray(pixels == alone), axis=(1, 2, 3)) for alone in (mixup, cutmix)
    )
    assert (is_mixup | is_cutmix).all() and (is_mixup & is_cutmix).sum() < 50
    assert abs(is_mixup.sum() - 500) < 5 * np.sqrt(1000 / 4) + 50
    np.testing.assert_allclose(shares, np.asarray(pixels).mean(axis=(1, 2, 3)), atol=1e-6)
