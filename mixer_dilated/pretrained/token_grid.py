"""Token mixing of one grid of tokens, made to fit another.

The kernels of token mixing have an entry a token: `Dense_0` (S, D), `Dense_1` (D, S) and its bias
(S,). On another grid the MLP is applied between two resizings: features are resized from the new
grid to the old one, mixed there, and what comes out is resized to the new grid. Both resizings are
linear, so that they are multiplied into the kernels once:

    Dense_0' = Rᵀ · Dense_0    Dense_1' = Dense_1 · Qᵀ    bias_1' = Q · bias_1

with R (S, S') from the new grid to the old and Q (S', S) back. Every hidden unit, a map over the
grid, is so interpolated on its own. The rows of R and Q sum to one: features that are the same
everywhere come out as before.
"""

import numpy as np
from jaxtyping import Float

from mixer_dilated.errors import UserError
from mixer_dilated.patches.geometry import Pair

Arrays = dict[str, np.ndarray]


def interpolate(mixing: Arrays, old: tuple[Pair, ...], new: tuple[Pair, ...]) -> Arrays:
    """A token mixing MLP on another grid, by linear interpolation, antialiased where it shrinks.

    Args:
      mixing: {'Dense_0/kernel': (S, D), 'Dense_0/bias': (D,), 'Dense_1/kernel': (D, S),
        'Dense_1/bias': (S,)}.
      old: (rows, columns) of its grid, S of them; several, one after another, where branches add
        tokens.
      new: the grids wanted: from several as many, each from its own; from one any number. The old
        ones give `mixing` as it is.

    Raises:
      UserError: from several grids another number is wanted.
    """
    if new == old:
        return mixing
    if len(old) not in (1, len(new)):
        raise UserError(
            f'config.model.branches: {len(new)} that add tokens, where the token mixing of '
            f'config.init_from is of {len(old)}; allowed is as many, or weights of a single grid'
        )
    if len(old) == 1:
        gather = np.concatenate([_resizing(grid, old[0]) for grid in new], axis=1) / len(new)
        spread = np.concatenate([_resizing(old[0], grid) for grid in new], axis=0)
    else:
        from scipy.linalg import block_diag

        gather = block_diag(*map(_resizing, new, old))
        spread = block_diag(*map(_resizing, old, new))
    return _mixed(mixing, gather, spread)


def block_diagonal(mixing: Arrays, old: tuple[Pair, ...], new: tuple[Pair, ...]) -> Arrays:
    """A token mixing MLP on a grid that has grown by a whole factor (Mixer paper, appendix C).

    The new grid is cut into parts of the old size, each of which gets a copy of the MLP of its
    own: the hidden width grows as the number of tokens.

    Args:
      mixing: as in `interpolate`.
      old: its grid, one.
      new: one, a multiple of it along each axis.

    Raises:
      UserError: it is none, or there are several.
    """
    if len(old) > 1 or len(new) > 1:
        raise UserError(
            "config.transfer.tokens = 'block_diagonal': branches that add tokens have no one "
            "grid; allowed is 'interpolate'"
        )
    (old,), (new,) = old, new
    factors = [after // before for before, after in zip(old, new, strict=True)]
    if tuple(f * before for f, before in zip(factors, old, strict=True)) != new:
        raise UserError(
            f"config.transfer.tokens = 'block_diagonal': a grid of {new[0]}×{new[1]} tokens is no "
            f"multiple of {old[0]}×{old[1]}; allowed is 'interpolate', or other patches"
        )
    positions = np.arange(new[0] * new[1]).reshape(factors[0], old[0], factors[1], old[1])
    order = positions.transpose(0, 2, 1, 3).reshape(-1)  # part by part, row-major in each
    copies = len(order) // (old[0] * old[1])
    diagonal = np.eye(copies, dtype=np.float32)
    into, out = (
        np.kron(diagonal, mixing['Dense_0/kernel']),
        np.kron(diagonal, mixing['Dense_1/kernel']),
    )
    adapted = {
        'Dense_0/kernel': np.empty_like(into),
        'Dense_0/bias': np.tile(mixing['Dense_0/bias'], copies),
        'Dense_1/kernel': np.empty_like(out),
        'Dense_1/bias': np.empty(len(order), np.float32),
    }
    adapted['Dense_0/kernel'][order] = into
    adapted['Dense_1/kernel'][:, order] = out
    adapted['Dense_1/bias'][order] = np.tile(mixing['Dense_1/bias'], copies)
    return adapted


def resampling(old: int, new: int) -> Float[np.ndarray, 'new old']:
    """Linear interpolation from `old` to `new` cells that share an axis, antialiased.

    Weights fall linearly with the distance of the cells' centres, to zero at the wider of the two
    spacings; each row sums to one.
    """
    if old == new:
        return np.eye(old)
    centres = (np.arange(new) + 0.5) / new
    neighbours = (np.arange(old) + 0.5) / old
    reach = max(1 / old, 1 / new)
    weights = np.maximum(0, 1 - np.abs(centres[:, None] - neighbours) / reach)
    return weights / weights.sum(axis=1, keepdims=True)


def _resizing(old: Pair, new: Pair) -> Float[np.ndarray, 'new old']:
    """From all tokens of one grid to all of another, both in row-major order."""
    return np.kron(resampling(old[0], new[0]), resampling(old[1], new[1]))


def _mixed(mixing: Arrays, gather: np.ndarray, spread: np.ndarray) -> Arrays:
    return {
        'Dense_0/kernel': (gather.T @ mixing['Dense_0/kernel']).astype(np.float32),
        'Dense_0/bias': mixing['Dense_0/bias'],
        'Dense_1/kernel': (mixing['Dense_1/kernel'] @ spread.T).astype(np.float32),
        'Dense_1/bias': (spread @ mixing['Dense_1/bias']).astype(np.float32),
    }
