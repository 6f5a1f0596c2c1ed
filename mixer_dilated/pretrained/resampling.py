"""Stem kernels resampled to other patches, and token mixing to another grid of tokens.

A stem kernel is an image that its pixels sample. A new patch samples the same image, from the first
pixel of the window to the last.

Token mixing has parameters for each token: `Dense_0` (S, D), `Dense_1` (D, S) and its bias (S,). On
another grid the features are resized to the old grid by R (S, S'), mixed, and resized back by
Q (S', S). Both are linear and are multiplied into the parameters, so that each hidden unit, a map
over the grid, is interpolated:

    Dense_0' = Rᵀ · Dense_0    Dense_1' = Dense_1 · Qᵀ    bias_1' = Q · bias_1

The rows of R and Q sum to one: features that are the same at all tokens come out as before.
"""

import numpy as np
from jaxtyping import Float

from mixer_dilated.errors import UserError
from mixer_dilated.patches.geometry import Pair, Patches

Arrays = dict[str, np.ndarray]
Grids = tuple[Pair, ...]
Kernel = Float[np.ndarray, 'height width channels_in hidden']
# Where the pixels of a patch lie in a window, from 0 to 1, along (height, width).
Positions = tuple[Float[np.ndarray, ' rows'], Float[np.ndarray, ' columns']]

# Singular values below this fraction of the largest are rounding errors.
_RCOND = 1e-5


def resample_stem_kernel(
    kernel: Kernel,
    branches: tuple[Patches, ...],
    image_shape: tuple[int, int, int],
    method: str,
    *,
    add_up: bool,
) -> list[Kernel]:
    """Resamples the stem kernel of plain patches to the kernel of each branch.

    A branch on its own with as many pixels keeps the values, whatever its dilation.

    Args:
      kernel: (P_h, P_w, C_in, hidden).
      branches: the new patches.
      image_shape: (height, width, channels) of the images, on which padding and offset move the
        windows of the branches against each other. A kernel for 3 channels is summed over them for
        images of 1; from 1 to 3, each channel gets a third.
      method: 'sample' takes the value of the kernel at each pixel, times the part of the window
        nearest to that pixel, so that a smooth image gives nearly the same feature. 'resize' takes
        the pseudo-inverse of Bᵀ, where B x is a window x resized to the pixels of all branches: of
        all kernels, the features of B x are nearest to the old ones of x, for x of white noise
        (FlexiViT, arXiv:2212.08013).
      add_up: whether the features of the branches add up in one token; the old kernel then spans
        all their windows, otherwise the window of each.

    Raises:
      UserError: the windows of branches that add up differ from token to token.
    """
    kernel = _convert_channels(kernel, image_shape[2])
    resample = {'sample': _sample, 'resize': _resize}[method]
    kernels = []
    for group in [branches] if add_up else [(patches,) for patches in branches]:
        positions = _pixel_positions(group, image_shape[:2])
        if len(group) == 1 and group[0].size == kernel.shape[:2]:
            kernels.append(kernel)
        else:
            resampled = resample(kernel.astype(np.float64), positions)
            kernels += [branch_kernel.astype(np.float32) for branch_kernel in resampled]
    return kernels


def _convert_channels(kernel: Kernel, channels: int) -> Kernel:
    if kernel.shape[2] == 3 and channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    if kernel.shape[2] == 1 and channels == 3:
        return np.repeat(kernel / 3, 3, axis=2).astype(np.float32)
    return kernel


def _pixel_positions(branches: tuple[Patches, ...], image_size: Pair) -> list[Positions]:
    """Where the pixels of each branch lie in the window that all branches span together."""
    axes = []
    for axis in (0, 1):
        strides = sorted({patches.stride[axis] for patches in branches})
        if len(strides) > 1 and branches[0].grid(image_size)[axis] > 1:
            raise UserError(
                f'config.model.branches: of strides {", ".join(map(str, strides))}, so that tokens '
                'have windows of different forms, which no one stem kernel of config.init_from '
                "fits; allowed is one stride, or config.model.branch_merge = 'tokens'"
            )
        pixels = [
            np.arange(patches.size[axis]) * patches.dilation[axis]
            - patches.pads(image_size)[axis][0]
            for patches in branches
        ]
        first = min(branch[0] for branch in pixels)
        span = max(branch[-1] for branch in pixels) - first
        axes.append([(branch - first) / span if span else np.full(1, 0.5) for branch in pixels])
    return [*zip(*axes, strict=True)]


def _plain_positions(length: int) -> Float[np.ndarray, ' length']:
    """Where the pixels of a plain patch lie along an axis of its window."""
    return np.linspace(0, 1, length) if length > 1 else np.full(1, 0.5)


def _sample(kernel: Kernel, positions: list[Positions]) -> list[Kernel]:
    """The interpolated kernel at each pixel, times the pixel's part of the window."""
    old = kernel.shape[:2]
    points = [np.stack(np.meshgrid(*axes, indexing='ij'), -1).reshape(-1, 2) for axes in positions]
    distinct, index, counts = np.unique(
        np.concatenate(points).round(9), axis=0, return_inverse=True, return_counts=True
    )
    # Branches that sample the same pixel share its part of the window.
    parts = (_voronoi_fractions(distinct, old) / counts)[index.reshape(-1)] * (old[0] * old[1])
    parts = np.split(parts, np.cumsum([len(branch) for branch in points])[:-1])
    kernels = []
    for pixels, part in zip(positions, parts, strict=True):
        part = part.reshape(*map(len, pixels))
        rows, columns = map(_hats, map(_plain_positions, old), pixels)
        kernels.append(np.einsum('hw,ih,jw,ijcd->hwcd', part, rows, columns, kernel, optimize=True))
    return kernels


def _voronoi_fractions(
    points: Float[np.ndarray, 'points 2'], old: Pair
) -> Float[np.ndarray, ' points']:
    """The fraction of the window that is nearest to each point: the area of its Voronoi cell.

    Args:
      points: positions in the window, all distinct.
      old: pixels of the window; half of the first and of the last lies outside of 0 … 1.
    """
    from scipy.spatial import ConvexHull, Voronoi

    margin = np.array([0.5 / max(length - 1, 1) for length in old])
    scale = np.maximum(np.array(old) - 1, 1)  # distances are in pixels
    points, low, high = points * scale, -margin * scale, (1 + margin) * scale
    mirrored = [  # at the borders of the window, where the cells then end
        np.where(np.arange(2) == axis, 2 * border - points, points)
        for axis in (0, 1)
        for border in (low, high)
    ]
    cells = Voronoi(np.concatenate([points, *mirrored]))
    areas = [
        ConvexHull(cells.vertices[cells.regions[region]]).volume
        for region in cells.point_region[: len(points)]
    ]
    return np.array(areas) / np.prod(high - low)


def _resize(kernel: Kernel, positions: list[Positions]) -> list[Kernel]:
    """The kernels w of all branches with the least |Bᵀ w - kernel|, and of these the smallest."""
    matrices = [
        tuple(map(_resize_matrix, kernel.shape[:2], axes, _joint_grid(axes, positions)))
        for axes in positions
    ]
    if len(matrices) == 1:  # the pseudo-inverse of a Kronecker product is that of its factors
        rows, columns = (np.linalg.pinv(matrix.T, rcond=_RCOND) for matrix in matrices[0])
        return [np.einsum('hi,wj,ijcd->hwcd', rows, columns, kernel, optimize=True)]
    # (Bᵀ)⁺ = B (BᵀB)⁺, where BᵀB has the size of the old window, however many the branches.
    squared = sum(np.kron(rows.T @ rows, columns.T @ columns) for rows, columns in matrices)
    inverse = np.linalg.pinv(squared, rcond=_RCOND**2, hermitian=True)
    shared = (inverse @ kernel.reshape(len(inverse), -1)).reshape(kernel.shape)
    return [
        np.einsum('hi,wj,ijcd->hwcd', rows, columns, shared, optimize=True)
        for rows, columns in matrices
    ]


def _resize_matrix(
    length: int, pixels: Float[np.ndarray, ' pixels'], grid: Float[np.ndarray, ' grid']
) -> Float[np.ndarray, 'pixels length']:
    """Resizes an axis of a window to `grid`, antialiased, and takes the pixels of it."""
    hats = _hats(grid, _plain_positions(length), min_reach=1 / max(length - 1, 1))
    hats = hats[np.searchsorted(grid, pixels.round(9))]
    return hats / hats.sum(axis=1, keepdims=True)


def _joint_grid(branch: Positions, positions: list[Positions]) -> Positions:
    """The grid that a branch and its phases make together; its own where they make none."""
    phases = [
        other
        for other in positions
        if all(
            len(one) == len(two) and np.allclose(one - one[0], two - two[0])
            for one, two in zip(branch, other, strict=True)
        )
    ]
    starts = [{round(pixels[0], 9) for pixels in axis} for axis in zip(*phases, strict=True)]
    if len(phases) != len(starts[0]) * len(starts[1]):
        phases = [branch]
    return tuple(np.unique(np.concatenate(axis).round(9)) for axis in zip(*phases, strict=True))


def _hats(
    knots: Float[np.ndarray, ' knots'], points: Float[np.ndarray, ' points'], min_reach: float = 0.0
) -> Float[np.ndarray, 'knots points']:
    """The basis of linear interpolation: functions that are 1 at a knot and 0 at its neighbours.

    Each reaches at least `min_reach` to both sides; that of a single knot is 1 everywhere.
    """
    if len(knots) == 1:
        return np.ones((1, len(points)))
    gaps = np.maximum(np.diff(knots), min_reach)
    before, after = np.r_[gaps[0], gaps], np.r_[gaps, gaps[-1]]
    distance = points - knots[:, None]
    reach = np.where(distance < 0, before[:, None], after[:, None])
    return np.maximum(0, 1 - np.abs(distance) / reach)


def interpolate_token_mixing(mixing: Arrays, old: Grids, new: Grids) -> Arrays:
    """Adapts a token mixing MLP to another grid by antialiased linear interpolation.

    Args:
      mixing: {'Dense_0/kernel': (S, D), 'Dense_0/bias': (D,), 'Dense_1/kernel': (D, S),
        'Dense_1/bias': (S,)}.
      old: (rows, columns) of its grid; of several, one after another, where branches add tokens.
      new: the new grids: as many, each interpolated from its own, or any number from a single one.

    Raises:
      UserError: there are several old grids and another number of new ones.
    """
    if len(old) not in (1, len(new)):
        raise UserError(
            f'config.model.branches: {len(new)} that add tokens, where the token mixing of '
            f'config.init_from is of {len(old)}; allowed is as many, or weights of a single grid'
        )
    if len(old) == 1:
        to_old = np.concatenate([_grid_matrix(grid, old[0]) for grid in new], axis=1) / len(new)
        to_new = np.concatenate([_grid_matrix(old[0], grid) for grid in new], axis=0)
    else:
        from scipy.linalg import block_diag

        to_old = block_diag(*map(_grid_matrix, new, old))
        to_new = block_diag(*map(_grid_matrix, old, new))
    return {
        'Dense_0/kernel': (to_old.T @ mixing['Dense_0/kernel']).astype(np.float32),
        'Dense_0/bias': mixing['Dense_0/bias'],
        'Dense_1/kernel': (mixing['Dense_1/kernel'] @ to_new.T).astype(np.float32),
        'Dense_1/bias': (to_new @ mixing['Dense_1/bias']).astype(np.float32),
    }


def _grid_matrix(old: Pair, new: Pair) -> Float[np.ndarray, 'new old']:
    return np.kron(interpolation_matrix(old[0], new[0]), interpolation_matrix(old[1], new[1]))


def interpolation_matrix(old: int, new: int) -> Float[np.ndarray, 'new old']:
    """Linear interpolation along an axis of `old` cells to `new` cells, antialiased.

    As `jax.image.resize` with 'linear', in float64: weights fall linearly with the distance of the
    cells' centres, to zero at the wider of the two spacings; each row sums to one.
    """
    if old == new:
        return np.eye(old)
    old_centres, new_centres = ((np.arange(length) + 0.5) / length for length in (old, new))
    reach = max(1 / old, 1 / new)
    weights = np.maximum(0, 1 - np.abs(new_centres[:, None] - old_centres) / reach)
    return weights / weights.sum(axis=1, keepdims=True)


def tile_token_mixing(mixing: Arrays, old: Grids, new: Grids) -> Arrays:
    """Adapts a token mixing MLP to a larger grid as a block-diagonal one (Mixer paper, appendix C).

    Every tile of the new grid, of the size of the old one, gets a copy of the MLP: the hidden width
    D grows with the number of tokens S.

    Args:
      mixing, old, new: as in `interpolate_token_mixing`; one grid each.

    Raises:
      UserError: the new grid is no multiple of the old one, or there are several.
    """
    if len(old) > 1 or len(new) > 1:
        raise UserError(
            "config.transfer.tokens = 'block_diagonal': branches that add tokens have no one "
            "grid; allowed is 'interpolate'"
        )
    ((height, width),), ((new_height, new_width),) = old, new
    if new_height % height or new_width % width:
        raise UserError(
            f"config.transfer.tokens = 'block_diagonal': a grid of {new_height}×{new_width} tokens "
            f"is no multiple of {height}×{width}; allowed is 'interpolate', or other patches"
        )
    tokens = np.arange(new_height * new_width)
    by_tile = tokens.reshape(new_height // height, height, new_width // width, width)
    row_in_blocks = np.argsort(by_tile.transpose(0, 2, 1, 3), axis=None)  # of each token
    num_tiles = len(tokens) // (height * width)
    blocks = np.eye(num_tiles, dtype=np.float32)
    return {
        'Dense_0/kernel': np.kron(blocks, mixing['Dense_0/kernel'])[row_in_blocks],
        'Dense_0/bias': np.tile(mixing['Dense_0/bias'], num_tiles),
        'Dense_1/kernel': np.kron(blocks, mixing['Dense_1/kernel'])[:, row_in_blocks],
        'Dense_1/bias': np.tile(mixing['Dense_1/bias'], num_tiles)[row_in_blocks],
    }
