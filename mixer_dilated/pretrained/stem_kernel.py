"""A stem kernel made to fit other patches: of another size, dilated, or of several branches.

A kernel (P, P) is seen as samples of an image that spans its window, and the new token's pixels
as samples of the same image, first on first and last on last. A kernel that only becomes dilated
has the same relative positions, and stays as it is.
"""

import numpy as np
from jaxtyping import Float

from mixer_dilated.errors import UserError
from mixer_dilated.patches.geometry import Pair, Patches

Kernel = Float[np.ndarray, 'height width channels_in hidden']
# Relative positions in the window, 0 to 1, of one branch's samples along (height, width).
Positions = tuple[Float[np.ndarray, ' rows'], Float[np.ndarray, ' columns']]


def adapt_stem_kernels(
    kernel: Kernel,
    branches: tuple[Patches, ...],
    image_shape: tuple[int, int, int],
    method: str,
    *,
    add_up: bool,
) -> list[Kernel]:
    """The kernel of each branch, from that of plain patches.

    Args:
      kernel: (P_h, P_w, C_in, hidden).
      branches: the patches wanted.
      image_shape: (height, width, channels) of the images. Padding and offset move the branches'
        windows against each other. Of 3 channels a kernel for grey images takes the sum; for 3
        from 1 each has a third.
      method: 'sample' takes the kernel's value at each pixel, times the part of the window that is
        nearer to it than to the token's other pixels, so that a smooth image gives nearly the same;
        'resize' takes the kernels that fit best what the old one says of the window resized, B x,
        over all x of white noise: the pseudo-inverse of Bᵀ (FlexiViT, arXiv:2212.08013), of all
        branches at once.
      add_up: whether the branches' features add up in one token, so that the old kernel spans all
        their windows; else each is a token's own, and spans its own.

    Raises:
      UserError: branches that add up have windows which no two tokens have alike.
    """
    kernel = _convert_channels(kernel, image_shape[2])
    tokens = [branches] if add_up else [(patches,) for patches in branches]
    return [
        branch_kernel
        for patches in tokens
        for branch_kernel in _adapt_token(kernel, _positions(patches, image_shape[:2]), method)
    ]


def _adapt_token(kernel: Kernel, positions: list[Positions], method: str) -> list[Kernel]:
    """The kernels of the branches of one token."""
    old = [_spread(length) for length in kernel.shape[:2]]
    if len(positions) == 1 and all(
        len(at) == len(before) and np.allclose(at, before)
        for at, before in zip(positions[0], old, strict=True)
    ):
        return [kernel]
    adapt = _sample if method == 'sample' else _resize
    kernels = adapt(kernel.astype(np.float64), positions)
    return [branch_kernel.astype(np.float32) for branch_kernel in kernels]


def _positions(branches: tuple[Patches, ...], image_size: Pair) -> list[Positions]:
    """Where the samples of a token's branches lie in the window that they span together."""
    axes = []
    for axis in (0, 1):
        strides = sorted({patches.stride[axis] for patches in branches})
        if len(strides) > 1 and branches[0].grid(image_size)[axis] > 1:
            raise UserError(
                f'config.model.branches: of strides {", ".join(map(str, strides))}, so that tokens '
                'have windows of different forms, which no one stem kernel of config.init_from '
                "fits; allowed is one stride, or config.model.branch_merge = 'tokens'"
            )
        samples = [
            np.arange(patches.size[axis]) * patches.dilation[axis]
            - patches.pads(image_size)[axis][0]
            for patches in branches
        ]
        first, last = min(s[0] for s in samples), max(s[-1] for s in samples)
        span = last - first
        axes.append([(s - first) / span if span else np.full(1, 0.5) for s in samples])
    return [*zip(*axes, strict=True)]


def _spread(length: int) -> Float[np.ndarray, ' length']:
    """Relative positions of the pixels of a plain patch."""
    return np.linspace(0, 1, length) if length > 1 else np.full(1, 0.5)


# Sampling


def _sample(kernel: Kernel, positions: list[Positions]) -> list[Kernel]:
    """The values at the samples, linearly interpolated, each times its part of the window."""
    points = [np.stack(np.meshgrid(*at, indexing='ij'), -1).reshape(-1, 2) for at in positions]
    different, which, often = np.unique(
        np.concatenate(points).round(9), axis=0, return_inverse=True, return_counts=True
    )
    # A pixel that several branches sample has one part of the window, of which each has its own.
    parts = (_parts(different, kernel.shape[:2]) / often)[which.reshape(-1)]
    parts *= kernel.shape[0] * kernel.shape[1]
    kernels, start = [], 0
    for at in positions:
        shape = len(at[0]), len(at[1])
        part = parts[start : start + shape[0] * shape[1]].reshape(shape)
        rows, columns = (
            _hats(_spread(length), where)
            for length, where in zip(kernel.shape[:2], at, strict=True)
        )
        kernels.append(np.einsum('hw,ih,jw,ijcd->hwcd', part, rows, columns, kernel, optimize=True))
        start += part.size
    return kernels


def _parts(points: Float[np.ndarray, 'points 2'], old: Pair) -> Float[np.ndarray, ' points']:
    """Of the window, the share that is nearest to each point: the area of its Voronoi cell.

    Args:
      points: relative positions, all different.
      old: pixels of the window: half of the first and of the last lies outside of 0 … 1.
    """
    from scipy.spatial import ConvexHull, Voronoi

    margin = np.array([0.5 / max(length - 1, 1) for length in old])
    scale = np.maximum(np.array(old) - 1, 1)  # distances are those of pixels
    points, low, high = points * scale, -margin * scale, (1 + margin) * scale
    mirrored = [points]
    for axis in (0, 1):
        for border in (low, high):
            other = points.copy()
            other[:, axis] = 2 * border[axis] - other[:, axis]
            mirrored.append(other)
    cells = Voronoi(np.concatenate(mirrored))
    areas = [
        ConvexHull(cells.vertices[cells.regions[cells.point_region[k]]]).volume
        for k in range(len(points))
    ]
    return np.array(areas) / np.prod(high - low)


# Resizing

# Singular values below this share of the largest are those of rounding.
_RCOND = 1e-5


def _resize(kernel: Kernel, positions: list[Positions]) -> list[Kernel]:
    """The kernels w of all branches with the least |Bᵀ w - kernel|, and of these the smallest."""
    matrices = _resizings(kernel.shape[:2], positions)
    if len(matrices) == 1:  # of a product of matrices, the pseudo-inverse is that of each
        rows, columns = (np.linalg.pinv(matrix.T, rcond=_RCOND) for matrix in matrices[0])
        return [np.einsum('hi,wj,ijcd->hwcd', rows, columns, kernel, optimize=True)]
    # That of all branches' Bᵀ is B (BᵀB)⁺, whose inside has the size of the old window alone.
    squared = sum(np.kron(rows.T @ rows, columns.T @ columns) for rows, columns in matrices)
    inverse = np.linalg.pinv(squared, rcond=_RCOND**2, hermitian=True)
    shared = (inverse @ kernel.reshape(len(inverse), -1)).reshape(kernel.shape)
    return [
        np.einsum('hi,wj,ijcd->hwcd', rows, columns, shared, optimize=True)
        for rows, columns in matrices
    ]


def _resizings(old: Pair, positions: list[Positions]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each branch, the resizing of the old window to its samples, along (height, width)."""
    resizings = []
    for branch in positions:
        matrices = []
        for length, at, every in zip(old, branch, _side_by_side(branch, positions), strict=True):
            before = _spread(length)
            hats = _hats(every, before, at_least=1 / max(length - 1, 1))
            hats = hats[np.searchsorted(every, at.round(9))]
            matrices.append(hats / hats.sum(axis=1, keepdims=True))
        resizings.append(tuple(matrices))
    return resizings


def _side_by_side(branch: Positions, positions: list[Positions]) -> Positions:
    """The samples along each axis of a branch and of its phases, if they are one finer grid."""
    phases = [
        other
        for other in positions
        if all(
            len(one) == len(two) and np.allclose(one - one[0], two - two[0])
            for one, two in zip(branch, other, strict=True)
        )
    ]
    starts = [{round(other[axis][0], 9) for other in phases} for axis in (0, 1)]
    if len(phases) != len(starts[0]) * len(starts[1]):
        phases = [branch]
    return tuple(
        np.unique(np.concatenate([other[axis] for other in phases]).round(9)) for axis in (0, 1)
    )


def _hats(
    knots: Float[np.ndarray, ' knots'], at: Float[np.ndarray, ' points'], at_least: float = 0.0
) -> Float[np.ndarray, 'knots points']:
    """Functions that fall from 1 at their knot to 0 at its neighbours, each at all points.

    Their sum is 1 between the knots. That of a single knot is 1 everywhere.

    Args:
      knots: in order.
      at: where.
      at_least: the functions reach that far at least.
    """
    if len(knots) == 1:
        return np.ones((1, len(at)))
    gaps = np.maximum(np.diff(knots), at_least)
    before, after = np.r_[gaps[0], gaps], np.r_[gaps, gaps[-1]]
    distance = at - knots[:, None]
    reach = np.where(distance < 0, before[:, None], after[:, None])
    return np.maximum(0, 1 - np.abs(distance) / reach)


def _convert_channels(kernel: Kernel, channels: int) -> Kernel:
    if kernel.shape[2] == 3 and channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    if kernel.shape[2] == 1 and channels == 3:
        return np.repeat(kernel / 3, 3, axis=2).astype(np.float32)
    return kernel
