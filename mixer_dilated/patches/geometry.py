"""Patch geometry: size, dilation, stride and padding, and the token grid that follows."""

import dataclasses
import itertools
import math
from typing import Literal

import numpy as np
from jaxtyping import Int

from mixer_dilated.errors import UserError

Pair = tuple[int, int]
Shape = tuple[int, int, int]  # (height, width, channels) of an image
Pads = tuple[Pair, Pair]


@dataclasses.dataclass(frozen=True)
class Patches:
    """Patches of P_h×P_w pixels that are sampled `dilation` apart (paper, section 3).

    A plain Mixer patch is `Patches(size=P, stride=P)`. The paper's dilated patch is
    `Patches(size=4, dilation=2, stride=7)`: 4×4 pixels, 2 apart, from a window of 7×7. Token (r, c)
    samples the pixels

        (r · stride_h + i · dilation_h - top, c · stride_w + j · dilation_w - left)

    for 0 ≤ i < P_h, 0 ≤ j < P_w, with (top, left) from `pads`; pixels outside the image are 0.
    Dilation widens the window, (P - 1) · dilation + 1 pixels a side, so with 'VALID' padding the
    grid has fewer patches; the number of pixels in a patch stays.
    An integer applies to both axes, a pair is (height, width); attributes are always pairs.

    Attributes:
      size: pixels that a patch samples along each axis.
      dilation: distance in pixels between neighbouring samples; 1 is a solid patch.
      stride: distance in pixels between neighbouring patches.
      padding: 'VALID' (none), 'SAME' (zeros, the odd one at the end, for ceil(image / stride)
        patches along each axis), or pixels ((top, bottom), (left, right)), negative to crop.
      offset: pixels by which every patch is moved down and right, the phase of the grid. The
        number of patches stays.

    Raises:
      UserError: a size, dilation or stride below 1, or a padding or offset of another form.
    """

    size: int | Pair
    dilation: int | Pair = 1
    stride: int | Pair = 1
    padding: Literal['VALID', 'SAME'] | Pads = 'VALID'
    offset: int | Pair = 0

    def __post_init__(self):
        for name, minimum in (('size', 1), ('dilation', 1), ('stride', 1), ('offset', None)):
            pair = integer_pair(f'patches.{name}', getattr(self, name), minimum)
            object.__setattr__(self, name, pair)
        object.__setattr__(self, 'padding', _parse_padding(self.padding))

    @property
    def window(self) -> Pair:
        """Pixels (height, width) that a patch spans: (size - 1) · dilation + 1."""
        return tuple((p - 1) * d + 1 for p, d in zip(self.size, self.dilation, strict=True))

    def pads(self, image_size: Pair) -> Pads:
        """Zeros added ((top, bottom), (left, right)) in pixels; negative numbers crop."""
        pads = ((0, 0), (0, 0)) if self.padding == 'VALID' else self.padding
        if self.padding == 'SAME':
            axes = zip(image_size, self.stride, self.window, strict=True)
            ends = ((-(-length // stride) - 1) * stride + w - length for length, stride, w in axes)
            pads = [(end // 2, end - end // 2) for end in (max(end, 0) for end in ends)]
        moved = zip(pads, self.offset, strict=True)
        return tuple((low - offset, high + offset) for (low, high), offset in moved)

    def grid(self, image_size: Pair) -> Pair:
        """Numbers of patches (rows, columns) on an image of (height, width) pixels.

        Raises:
          UserError: no patch fits, or a patch would sample nothing but padding.
        """
        return tuple(len(axis) for axis in self._sample_coordinates(image_size))

    def num_tokens(self, image_size: Pair) -> int:
        """Number of patches, S, on an image of (height, width) pixels. Raises as `grid` does."""
        return math.prod(self.grid(image_size))

    def pixel_indices(self, image_size: Pair) -> Int[np.ndarray, 'tokens samples 2']:
        """(row, column) of the pixels that each token samples. Raises as `grid` does.

        Tokens and samples are in row-major order. Coordinates outside the image are padding.
        """
        rows, columns = self._sample_coordinates(image_size)
        axes = np.broadcast_arrays(rows[:, None, :, None], columns[None, :, None, :])
        return np.stack(axes, axis=-1).reshape(-1, math.prod(self.size), 2)

    def coverage(self, image_size: Pair) -> Int[np.ndarray, 'height width']:
        """Number of samples on each pixel. Raises as `grid` does."""
        axes = zip(self._sample_coordinates(image_size), image_size, strict=True)
        rows, columns = (np.bincount(a[(a >= 0) & (a < n)], minlength=n) for a, n in axes)
        return np.outer(rows, columns)

    def phases(self, number: int | Pair) -> tuple['Patches', ...]:
        """These patches at n phases of their dilated grid, or (n_height, n_width).

        Along an axis phase k = 0 … n-1 is moved by floor(k · dilation / n) pixels; n = dilation
        phases sample every pixel of a window.

        Returns:
          n_height · n_width patches with the same grid, in row-major order of (k_height, k_width).

        Raises:
          UserError: a number below 1 or above the dilation, or more than 1024 phases.
        """
        pair = integer_pair('phases', number, 1)
        if any(n > d for n, d in zip(pair, self.dilation, strict=True)):
            raise UserError(
                f'phases = {number!r}: a grid has as many phases as its dilation; allowed is 1 to '
                f'{self.dilation[0]} along the height and 1 to {self.dilation[1]} along the width '
                f'of the patches {self}'
            )
        if pair[0] * pair[1] > 1024:
            raise UserError(
                f'phases = {number!r}: each phase is a branch of the network; allowed is a product '
                'of at most 1024'
            )
        axes = zip(self.offset, self.dilation, pair, strict=True)
        offsets = ([offset + k * dilation // n for k in range(n)] for offset, dilation, n in axes)
        return tuple(dataclasses.replace(self, offset=o) for o in itertools.product(*offsets))

    def _sample_coordinates(self, image_size: Pair) -> tuple[np.ndarray, np.ndarray]:
        """Row and column coordinates, each an array (patches, samples) along its axis."""
        pads = self.pads(image_size)
        axes = []
        for axis, name in enumerate(('height', 'width')):
            length, (low, high), window = image_size[axis], pads[axis], self.window[axis]
            room = length + low + high - window
            if room < 0:
                padded = f' padded to {length + low + high}' if low + high else ''
                raise UserError(
                    f'patches {self}: a window of {window} pixels does not fit an image of '
                    f'{name} {length}{padded}; choose a smaller size or dilation, more padding, or '
                    'larger images (config.dataset.image_size)'
                )
            starts = np.arange(room // self.stride[axis] + 1) * self.stride[axis] - low
            samples = starts[:, None] + np.arange(self.size[axis]) * self.dilation[axis]
            if ((samples < 0) | (samples >= length)).all(axis=1).any():
                raise UserError(
                    f'patches {self}: on an image of {name} {length} some patches would sample '
                    'nothing but padding; choose a smaller stride, dilation or padding'
                )
            axes.append(samples)
        return tuple(axes)

    def __str__(self) -> str:
        pairs = self.size, self.dilation, self.stride
        size, dilation, stride = ('×'.join(map(str, pair)) for pair in pairs)
        moved = f', offset {self.offset}' if any(self.offset) else ''
        return f'(size {size}, dilation {dilation}, stride {stride}, padding {self.padding}{moved})'


def num_tokens(branches: tuple[Patches, ...], branch_merge: str, image_size: Pair) -> int:
    """Number of tokens, S, of a stem with one or several patch branches.

    With `branch_merge` = 'channels' the branches' patches at a grid position are one token, with
    'tokens' every patch of every branch is one. Raises UserError as `Patches.grid`, and for
    different grids with 'channels'.
    """
    grids = [branch.grid(image_size) for branch in branches]
    if branch_merge == 'tokens':
        return sum(map(math.prod, grids))
    if len(set(grids)) > 1:
        of_grids = zip(grids, branches, strict=True)
        listed = ', '.join(f'{rows}×{columns} {branch}' for (rows, columns), branch in of_grids)
        raise UserError(
            f'model.branches give different grids on {image_size[0]}×{image_size[1]} images: '
            f"{listed}; model.branch_merge='channels' needs one grid: adjust stride or "
            "padding, or use model.branch_merge='tokens'"
        )
    return math.prod(grids[0])


def integer_pair(name: str, value, minimum: int | None = None) -> Pair:
    """A pair (height, width) from an integer for both axes, or from a pair of integers.

    Raises:
      UserError: another value, or an integer below `minimum`; `name` is its name in the message.
    """
    pair = (value, value) if _is_integer(value) else value
    low = -(2**31) if minimum is None else minimum
    is_pair = isinstance(pair, tuple | list) and len(pair) == 2
    if is_pair and all(_is_integer(item) and low <= item < 2**31 for item in pair):
        return int(pair[0]), int(pair[1])
    limit = '' if minimum is None else f' of at least {minimum}'
    allowed = f'an integer{limit}, or a pair of them (height, width)'
    raise UserError(f'{name} = {value!r}: allowed is {allowed}')


def _is_integer(value) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _parse_padding(value) -> str | Pads:
    if isinstance(value, str) and value.upper() in ('VALID', 'SAME'):
        return value.upper()
    try:
        (top, bottom), (left, right) = value
        return integer_pair('', (top, bottom)), integer_pair('', (left, right))
    except (TypeError, ValueError):  # a UserError is one
        allowed = "'VALID', 'SAME' or integers ((top, bottom), (left, right))"
        raise UserError(f'patches.padding = {value!r}: allowed is {allowed}') from None
