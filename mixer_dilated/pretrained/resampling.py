"""Stem kernels resampled to other patches, and token mixing to another grid of tokens.

A stem kernel has a value for each pixel that a patch samples, at the pixel's centre in the window
that the patch spans. The old window and the new one show the same.

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
Places = tuple[Float[np.ndarray, ' rows'], Float[np.ndarray, ' columns']]


def resample_stem_kernel(
    kernel: Kernel,
    old: Patches,
    new: tuple[Patches, ...],
    image_shape: tuple[int, int, int],
    method: str,
    *,
    add_up: bool,
) -> list[Kernel]:
    """Resamples the stem kernel of the `old` patches to the kernel of each of the `new` branches.

    A branch on its own with as many pixels keeps the values, whatever its dilation.

    Args:
      image_shape: (height, width, channels) of the images. A kernel for 3 channels is summed over
        them for images of 1; from 1 to 3, each channel gets a third.
      method: 'sample' takes the kernel at each new pixel, times the number of old pixels for each.
        'resize' of plain patches to plain ones is FlexiViT's pinv(Bᵀ) · kernel, with B x a patch x
        resized to the new size (arXiv:2212.08013, section 3); otherwise Aᵀ · kernel, with A x the
        old pixels interpolated from new ones x: a linear image has the same features.
      add_up: whether the features of the branches add up in one token; the old window is then the
        one that they span together, otherwise the window of each.

    Raises:
      UserError: the windows of branches that add up differ from token to token.
    """
    if kernel.shape[2] == 3 and image_shape[2] == 1:
        kernel = kernel.sum(axis=2, keepdims=True)
    elif kernel.shape[2] == 1 and image_shape[2] == 3:
        kernel = np.repeat(kernel / 3, 3, axis=2)
    (axes,) = _pixel_places((old,), image_shape[:2])
    kernels = []
    for group in [new] if add_up else [(patches,) for patches in new]:
        places = _pixel_places(group, image_shape[:2])
        plain = all(patches.window == patches.size for patches in (old, *group))
        if len(group) == 1 and group[0].size == old.size:
            kernels.append(kernel)
        elif method == 'sample':
            count = sum(len(rows) * len(columns) for rows, columns in places)
            scaled = kernel * (kernel.shape[0] * kernel.shape[1] / count)
            kernels += [_multiply(scaled, *map(_interpolation, axes, to)) for to in places]
        elif len(group) == 1 and plain:
            # The pseudo-inverse of a Kronecker product, of rows and columns, is that of its parts.
            resizes = map(_interpolation, axes, places[0])
            kernels.append(_multiply(kernel, *(np.linalg.pinv(resize.T) for resize in resizes)))
        else:
            kernels += _resize(kernel, axes, places)
    return [resampled.astype(np.float32) for resampled in kernels]


def _pixel_places(branches: tuple[Patches, ...], image_size: Pair) -> list[Places]:
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
        window = max(branch[-1] for branch in pixels) - first + 1
        axes.append([(branch - first + 0.5) / window for branch in pixels])
    return [*zip(*axes, strict=True)]


def _resize(kernel: Kernel, old: Places, new: list[Places]) -> list[Kernel]:
    """Aᵀ · kernel, where A takes each old pixel from the branch, or branches, nearest to it."""
    distances = [
        np.add.outer(*(np.square(np.subtract.outer(old[k], places[k])).min(axis=1) for k in (0, 1)))
        for places in new
    ]
    nearest = np.isclose(distances, np.min(distances, axis=0))
    kernels = kernel * (nearest / nearest.sum(axis=0))[..., None, None]
    return [
        _multiply(part, *(_interpolation(places[k], old[k], clip=False).T for k in (0, 1)))
        for part, places in zip(kernels, new, strict=True)
    ]


def _multiply(kernel: Kernel, rows: np.ndarray, columns: np.ndarray) -> Kernel:
    return np.einsum('hi,wj,ijcd->hwcd', rows, columns, kernel, optimize=True)


def _interpolation(
    knots: Float[np.ndarray, ' knots'], points: Float[np.ndarray, ' points'], *, clip: bool = True
) -> Float[np.ndarray, 'points knots']:
    """The matrix of linear interpolation; beyond the knots the last one, or extrapolation."""
    if len(knots) == 1:
        return np.ones((len(points), 1))
    points = points.clip(knots[0], knots[-1]) if clip else points
    left = np.searchsorted(knots, points, side='right').clip(1, len(knots) - 1) - 1
    part = ((points - knots[left]) / (knots[left + 1] - knots[left]))[:, None]
    return (1 - part) * np.eye(len(knots))[left] + part * np.eye(len(knots))[left + 1]


def interpolate_token_mixing(mixing: Arrays, old: Grids, new: Grids) -> Arrays:
    """Adapts a token mixing MLP to another grid by antialiased linear interpolation.

    Args:
      mixing: {'Dense_0/kernel': (S, D), 'Dense_0/bias': (D,), 'Dense_1/kernel': (D, S),
        'Dense_1/bias': (S,)}.
      old: (rows, columns) of its grid, or of several where branches add tokens.
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
    adapted = {
        'Dense_0/kernel': to_old.T @ mixing['Dense_0/kernel'],
        'Dense_0/bias': mixing['Dense_0/bias'],
        'Dense_1/kernel': mixing['Dense_1/kernel'] @ to_new.T,
        'Dense_1/bias': to_new @ mixing['Dense_1/bias'],
    }
    return {name: array.astype(np.float32) for name, array in adapted.items()}


def _grid_matrix(old: Pair, new: Pair) -> Float[np.ndarray, 'new old']:
    return np.kron(*map(_antialiased_interpolation, old, new))


def _antialiased_interpolation(old: int, new: int) -> Float[np.ndarray, 'new old']:
    """From `old` cells along an axis to `new`, as `jax.image.resize` with 'linear', in float64.

    Weights fall linearly with the distance of the cells' centres, to zero at the wider of the two
    spacings.
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
    D grows with the number of tokens S. Arguments are those of `interpolate_token_mixing`.

    Raises:
      UserError: the new grid is no multiple of the old one, or there are several.
    """
    (height, width), (new_height, new_width) = old[0], new[0]
    if len(old) > 1 or len(new) > 1 or new_height % height or new_width % width:
        texts = (
            ' and '.join(f'{rows}×{columns}' for rows, columns in grids) for grids in (new, old)
        )
        raise UserError(
            "config.transfer.tokens = 'block_diagonal': {} tokens are no multiple of {}, one grid "
            "of one; allowed is 'interpolate', or other patches".format(*texts)
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
