"""A stem kernel made to fit other patches: of another size, dilated, or of several branches.

A kernel (P, P) is seen as samples of a picture that spans its window, and the new patch's pixels
as samples of the same picture, first on first and last on last. A kernel that only becomes dilated
has the same relative positions, and stays as it is.
"""

import numpy as np
from jaxtyping import Float

from mixer_dilated.patches.geometry import Patches

METHODS = ('sample', 'resize')

Kernel = Float[np.ndarray, 'height width channels_in hidden']


def fitted_kernels(
    kernel: Kernel, branches: tuple[Patches, ...], channels: int, method: str, *, add_up: bool
) -> list[Kernel]:
    """The kernel of each branch, from that of plain patches.

    Args:
      kernel: (P_h, P_w, C_in, hidden).
      branches: the patches wanted. Phases of one grid share its window.
      channels: of the images. Of 3 channels a kernel for grey images takes the sum; for 3 from 1
        each has a third.
      method: 'sample' takes the kernel's value at each pixel, times the part of the window that is
        nearest to it, so that a smooth image gives nearly the same; 'resize' takes the kernel that
        fits best what the old one says of the patch resized, B x, over all x of white noise: the
        pseudo-inverse of Bᵀ (FlexiViT, arXiv:2212.08013).
      add_up: whether the branches' features add up in one token; else each is a token's own.
    """
    kernel = _with_channels(kernel, channels)
    pixels = [patches.size[0] * patches.size[1] for patches in branches]
    positions = _positions(branches)
    if not add_up:
        return [
            _fitted(kernel, at, at, method, count)
            for at, count in zip(positions, pixels, strict=True)
        ]
    of_token = [np.unique(np.concatenate(axis)) for axis in zip(*positions, strict=True)]
    return [_fitted(kernel, at, of_token, method, sum(pixels)) for at in positions]


def _fitted(
    kernel: Kernel,
    positions: list[np.ndarray],
    of_token: list[np.ndarray],
    method: str,
    pixels: int,
) -> Kernel:
    """One branch's kernel.

    Args:
      kernel: of plain patches.
      positions: of the branch's samples, relative, along (height, width).
      of_token: those of all branches that add up, each once, in order.
      method: as in `fitted_kernels`.
      pixels: of a token.
    """
    lengths = kernel.shape[:2]
    unchanged = all(
        len(at) == length and np.allclose(at, np.linspace(0, 1, length) if length > 1 else 0.5)
        for at, length in zip(positions, lengths, strict=True)
    )
    if unchanged and pixels == lengths[0] * lengths[1]:
        return kernel
    matrices = [
        _interpolation(length, at, antialias=method == 'resize')
        for at, length in zip(positions, lengths, strict=True)
    ]
    if method == 'resize':
        share = len(positions[0]) * len(positions[1]) / pixels  # branches share what they add up to
        matrices = [np.linalg.pinv(matrix.T) for matrix in matrices]
    else:
        matrices = [
            _parts(length, at, every)[:, None] * matrix
            for length, at, every, matrix in zip(
                lengths, positions, of_token, matrices, strict=True
            )
        ]
        share = lengths[0] * lengths[1] / pixels
    found = np.einsum('hi,wj,ijcd->hwcd', *matrices, kernel.astype(np.float64)) * share
    return found.astype(np.float32)


def _positions(branches: tuple[Patches, ...]) -> list[list[np.ndarray]]:
    """Of every branch the relative positions, 0 to 1, of its samples in the window they share."""
    found = [[] for _ in branches]
    for axis in (0, 1):
        samples = [
            np.arange(patches.size[axis]) * patches.dilation[axis] + patches.offset[axis]
            for patches in branches
        ]
        first = min(each[0] for each in samples)
        span = max(each[-1] for each in samples) - first
        for positions, each in zip(found, samples, strict=True):
            positions.append((each - first) / span if span else np.full(len(each), 0.5))
    return found


def _parts(old: int, at: np.ndarray, every: np.ndarray) -> Float[np.ndarray, ' new']:
    """Parts of a window of `old` pixels that are nearest to samples; their mean is 1.

    Args:
      old: pixels.
      at: the samples' relative positions.
      every: positions of these and of the other samples of a token, in order.
    """
    if old == 1 or len(at) == 1:
        return np.ones(len(at))
    half = 0.5 / (old - 1)  # of the first and the last pixel lies outside of 0 … 1
    borders = np.concatenate([[-half], (every[1:] + every[:-1]) / 2, [1 + half]])
    parts = np.diff(borders)[np.searchsorted(every, at)]
    return parts / parts.mean()


def _interpolation(old: int, at: np.ndarray, *, antialias: bool) -> Float[np.ndarray, 'new old']:
    """Linear interpolation at relative positions from samples of relative positions 0 to 1."""
    if old == 1:
        return np.ones((len(at), 1))
    spacing = 1 / (old - 1)
    reach = max(spacing, 1 / (len(at) - 1)) if antialias and len(at) > 1 else spacing
    weights = np.maximum(0, 1 - np.abs(at[:, None] - np.linspace(0, 1, old)) / reach)
    return weights / weights.sum(axis=1, keepdims=True)


def _with_channels(kernel: Kernel, channels: int) -> Kernel:
    if kernel.shape[2] == 3 and channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    if kernel.shape[2] == 1 and channels == 3:
        return np.repeat(kernel / 3, 3, axis=2).astype(np.float32)
    return kernel
