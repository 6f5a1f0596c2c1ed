"""Where patches lie: size, dilation, stride and padding, and everything that follows from them."""

import dataclasses
from typing import Literal

import numpy as np

from mixer_dilated.errors import UserError

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]


@dataclasses.dataclass(frozen=True)
class Patches:
    """Geometry of one kind of patch: P_h×P_w pixels sampled `dilation` apart (paper, section 3).

    A plain Mixer patch is `Patches(size=P, stride=P)`. The paper's dilated patch is
    `Patches(size=4, dilation=2, stride=7)`: 4×4 pixels, 2 apart, from a window of 7×7.

    Every number may be an int, meant for both axes, or a pair (height, width); attributes always
    hold pairs.

    Attributes:
      size: pixels that a patch samples along (height, width).
      dilation: distance in pixels between neighbouring samples; 1 is a solid patch.
      stride: distance in pixels between neighbouring patches.
      padding: 'VALID' (no padding), 'SAME' (zeros around the image until there are
        ceil(image / stride) patches an axis, the odd one at the end), or explicit
        ((top, bottom), (left, right)) in pixels. A negative number crops instead.
      offset: pixels by which every patch is moved down and right (up and left if negative), the
        phase of the grid. The grid itself stays; zeros stand where a patch leaves the image.

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
            pair = whole_pair(f'patches.{name}', getattr(self, name), minimum)
            object.__setattr__(self, name, pair)
        object.__setattr__(self, 'padding', _padding(self.padding))

    @property
    def window(self) -> Pair:
        """(height, width) in pixels that one patch spans: (size - 1) · dilation + 1."""
        return tuple((p - 1) * d + 1 for p, d in zip(self.size, self.dilation, strict=True))

    def pads(self, image_size: Pair) -> Pads:
        """Pixels of zeros added ((top, bottom), (left, right)); negative where cropped."""
        if self.padding == 'VALID':
            pads = ((0, 0), (0, 0))
        elif self.padding == 'SAME':
            totals = [
                max((-(-length // stride) - 1) * stride + window - length, 0)
                for length, stride, window in zip(image_size, self.stride, self.window, strict=True)
            ]
            pads = tuple((total // 2, total - total // 2) for total in totals)
        else:
            pads = self.padding
        return tuple(
            (low - offset, high + offset)
            for (low, high), offset in zip(pads, self.offset, strict=True)
        )

    def grid(self, image_size: Pair) -> Pair:
        """(rows, columns) of patches on an image of (height, width) pixels.

        Raises:
          UserError: not one patch fits, or a patch would see nothing but padding.
        """
        return tuple(len(axis) for axis in self._samples(image_size))

    def num_tokens(self, image_size: Pair) -> int:
        """Number of patches, S, on an image of (height, width) pixels. Raises as `grid` does."""
        rows, columns = self.grid(image_size)
        return rows * columns

    def pixel_indices(self, image_size: Pair) -> np.ndarray:
        """Which pixels each token samples.

        Returns:
          An int array (tokens, P_h·P_w, 2) of (row, column), tokens and samples in row-major
          order. A row outside 0 … H-1 or a column outside 0 … W-1 is padding, a zero.

        Raises:
          UserError: as `grid` does.
        """
        rows, columns = self._samples(image_size)
        (grid_h, size_h), (grid_w, size_w) = rows.shape, columns.shape
        shape = (grid_h, grid_w, size_h, size_w)
        rows = np.broadcast_to(rows[:, None, :, None], shape)
        columns = np.broadcast_to(columns[None, :, None, :], shape)
        return np.stack([rows, columns], axis=-1).reshape(grid_h * grid_w, size_h * size_w, 2)

    def coverage(self, image_size: Pair) -> np.ndarray:
        """How many samples fall on each pixel: an int array (height, width).

        Raises:
          UserError: as `grid` does.
        """
        counts = []
        for length, samples in zip(image_size, self._samples(image_size), strict=True):
            inside = samples[(samples >= 0) & (samples < length)]
            counts.append(np.bincount(inside, minlength=length))
        return np.outer(*counts)

    def phases(self, number: int | Pair) -> tuple['Patches', ...]:
        """These patches at several phases of their dilated grid, side by side.

        Args:
          number: n phases, or (n_height, n_width). Along an axis phase k = 0 … n-1 is moved by
            floor(k · dilation / n) pixels; with n = dilation they see every pixel of a window.

        Returns:
          n_height · n_width patches of the same grid, in row-major order of (k_height, k_width).

        Raises:
          UserError: a number below 1 or above the dilation, or more than 1024 phases.
        """
        pair = whole_pair('phases', number, 1)
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
        downs, rights = (
            [offset + k * dilation // n for k in range(n)]
            for offset, dilation, n in zip(self.offset, self.dilation, pair, strict=True)
        )
        return tuple(
            dataclasses.replace(self, offset=(down, right)) for down in downs for right in rights
        )

    def _samples(self, image_size: Pair) -> tuple[np.ndarray, np.ndarray]:
        """For each axis the coordinates (patches along it, samples of a patch along it)."""
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
            if not ((samples >= 0) & (samples < length)).any(axis=1).all():
                raise UserError(
                    f'patches {self}: on an image of {name} {length} some patches would see '
                    'nothing but padding; choose a smaller stride, dilation or padding'
                )
            axes.append(samples)
        return tuple(axes)

    def __str__(self) -> str:
        size, dilation, stride = (
            '×'.join(map(str, pair)) for pair in (self.size, self.dilation, self.stride)
        )
        moved = f', offset {self.offset}' if any(self.offset) else ''
        return f'(size {size}, dilation {dilation}, stride {stride}, padding {self.padding}{moved})'


def num_tokens(branches: tuple[Patches, ...], join: str, image_size: Pair) -> int:
    """Number of tokens, S, of a stem with one or several patch branches.

    Args:
      branches: the patch geometries.
      join: 'channels' (the branches' patches at one grid position are one token) or 'tokens'
        (every patch of every branch is a token of its own).
      image_size: (height, width) in pixels.

    Raises:
      UserError: impossible geometry, or grids that differ where one token needs all of them.
    """
    grids = [branch.grid(image_size) for branch in branches]
    if join == 'tokens':
        return sum(rows * columns for rows, columns in grids)
    if len(set(grids)) > 1:
        listed = ', '.join(
            f'{rows}×{columns} {branch}'
            for (rows, columns), branch in zip(grids, branches, strict=True)
        )
        raise UserError(
            f'model.branches give different grids on {image_size[0]}×{image_size[1]} images: '
            f"{listed}; model.branch_merge='channels' needs one grid: adjust stride or "
            "padding, or use model.branch_merge='tokens'"
        )
    rows, columns = grids[0]
    return rows * columns


def whole_pair(name: str, value, minimum: int | None = None) -> Pair:
    """An integer, meant for both axes, or a pair (height, width) of them, as a pair.

    Args:
      name: what messages call it.
      value: what was given.
      minimum: the least that is allowed; None for no limit.

    Raises:
      UserError: something else was given.
    """
    pair = (value, value) if _is_whole(value) else value
    least = -(2**31) if minimum is None else minimum
    if (
        not isinstance(pair, tuple | list)
        or len(pair) != 2
        or not all(_is_whole(v) and least <= v < 2**31 for v in pair)
    ):
        limit = '' if minimum is None else f' of at least {minimum}'
        raise UserError(
            f'{name} = {value!r}: allowed is an integer{limit}, or a pair of them (height, width)'
        )
    return int(pair[0]), int(pair[1])


def _is_whole(value) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _padding(value) -> str | Pads:
    if isinstance(value, str) and value.upper() in ('VALID', 'SAME'):
        return value.upper()
    if not isinstance(value, str):
        try:
            pads = tuple((low, high) for low, high in value)
        except (TypeError, ValueError):
            pads = ()
        if len(pads) == 2 and all(_is_whole(v) and abs(v) < 2**31 for pair in pads for v in pair):
            return tuple((int(low), int(high)) for low, high in pads)
    raise UserError(
        f"patches.padding = {value!r}: allowed is 'VALID', 'SAME' or integers "
        '((top, bottom), (left, right))'
    )
