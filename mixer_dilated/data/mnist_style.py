"""Images of a digit, or of a thing, in the style of MNIST's: light on black, centred."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

BLACK = 16  # grey levels above the background that are not ink yet
SPECK = 0.02  # share of the ink that a part needs to count for the size


def to_mnist_style(
    grey: UInt8[np.ndarray, 'height width'], size: tuple[int, int], *, fill: bool = False
) -> UInt8[np.ndarray, 'height_out width_out']:
    """Brings an image of one digit, on an even background, to the style of MNIST's images.

    As LeCun, Cortes and Burges describe it: the digit, light on black, fits a box of 20×20 pixels
    with its aspect ratio kept, and is centred by its centre of mass in a field of 28×28. Before
    that, an image whose border is bright is inverted, the grey of its border is made black, and
    the digit is cut out; after it, its brightest pixel is made white. Without a digit all is black.

    Args:
      grey: an image of any size.
      size: (height, width) of the result.
      fill: whether the box is as large as the field allows, and the middle of the digit, not its
        centre of mass, is put to the centre.
    """
    ink, noise = _extract_ink(grey)
    field, digit = np.zeros(size, np.uint8), ink[_bounding_box(ink, noise) or (slice(0), slice(0))]
    if not digit.size:
        return field
    share = 1 if fill else 20 / 28
    scale = max(1, round(share * min(size))) / max(digit.shape)
    height, width = (max(1, round(scale * length)) for length in digit.shape)
    image = Image.fromarray(digit).resize((width, height), Image.Resampling.BICUBIC)
    digit = np.asarray(image)
    if digit.any():
        digit = np.round(digit * (255 / digit.max())).astype(np.uint8)
        corner = (_start(digit, axis, size[axis], fill) for axis in (0, 1))
        rows, columns = (slice(at, at + n) for at, n in zip(corner, digit.shape, strict=True))
        field[rows, columns] = digit
    return field


def _extract_ink(grey: np.ndarray) -> tuple[np.ndarray, float]:
    """The image as uint8 light on black, and how much its background varies."""
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]]).astype(np.int16)
    background = _median(border)
    # Half of a normal distribution is within 0.67 standard deviations.
    noise = _median(np.abs(border - background)) / 0.6745
    if background > 127:
        grey, background = 255 - grey, 255 - background
    if background:
        grey = np.maximum(grey, background) - np.uint8(background)
    return grey, noise


def _median(values: np.ndarray) -> int:
    """NumPy's takes the time of ten sorts for a few values."""
    return int(np.sort(values)[len(values) // 2])


def _bounding_box(ink: np.ndarray, noise: float) -> tuple[slice, slice] | None:
    """Rows and columns of all parts of the ink but specks; None if there is none."""
    from scipy import ndimage

    parts, count = ndimage.label(ink > max(BLACK, 4 * noise), np.ones((3, 3)))
    if not count:
        return None
    inside = parts > 0
    if count > 1:
        masses = np.bincount(parts[inside], ink[inside])  # 16 bytes a pixel: of ink only
        counts = masses >= SPECK * masses.sum()
        inside = counts[parts] if counts.any() else inside
    axes = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    return tuple(slice(int(indices[0]), int(indices[-1]) + 1) for indices in axes)


def _start(digit: np.ndarray, axis: int, length: int, fill: bool) -> int:
    """Row or column in a field of that length at which the digit begins."""
    middle = digit.shape[axis] / 2
    if not fill:
        weights = digit.sum(axis=1 - axis, dtype=float)
        # MNIST's own have it at pixel 14 of 0 … 27, half a pixel beside the middle.
        middle = np.arange(len(weights)) @ weights / weights.sum()
    return min(max(round(length / 2 - middle), 0), length - digit.shape[axis])
