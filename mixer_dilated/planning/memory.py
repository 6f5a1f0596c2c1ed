"""Memory of one device in training, counted array by array: `memory_bytes`."""

import math
from collections.abc import Callable

import jax.numpy as jnp

from mixer_dilated.parallel.partition import Partition, named_leaves
from mixer_dilated.planning.shapes import Shapes
from mixer_dilated.planning.share import Share
from mixer_dilated.training.setup import Setup

FLOAT32 = 4
UINT8 = 1
# Arrays that the gradient of a hidden layer keeps: before and after its bias, and after GELU.
OF_HIDDEN = 3
# Arrays of the width of a token that the gradient of a block keeps: the input of either LayerNorm
# and what it makes of it.
OF_TOKENS = 4


def memory_bytes(
    setup: Setup, shapes: Shapes, share: Share, streamed: int, *, on_cpu: bool
) -> dict[str, int]:
    """Bytes that each device needs, by what they are for.

    Args:
      setup: what is trained.
      shapes: of its network and state.
      share: what a device does of it.
      streamed: batches of images on the devices, if the training set is not there as a whole;
        else 0.
      on_cpu: whether XLA compiles for CPUs, where bfloat16 is computed by way of float32 arrays,
        seeds take turns, and gathered parameters stay.

    Returns:
      'parameters', 'optimizer' (its state), 'data' (images and labels), 'activations' (what the
      gradient keeps of the forward pass), 'temporaries' (gradients, and what else is there at the
      fullest moment).
    """
    state = shapes.state
    partition = Partition(share.mesh_shape, share.fsdp)
    parameters, optimizer = (
        _tree_bytes(tree, partition.spec, partition) for tree in (state.params, state.opt_state)
    )
    whole = _tree_bytes(state.params, partition.gathered_spec, partition)
    # While it is computed a gradient is whole; on CPUs it stays so until all of them are there.
    last = {name: part for name, part in state.params.items() if name in _last(share)}
    gradients_of_last = _tree_bytes(last, partition.gathered_spec, partition)
    gradients = whole if on_cpu else parameters
    at_once = 1 if on_cpu else share.seeds
    kept, of_block, other = activation_bytes(share, on_cpu=on_cpu)
    # Backward, activations go block by block while gradients come: it is fullest at one end.
    temporaries = other + max(gradients_of_last, of_block + gradients - kept)
    if share.parts > 1:
        temporaries += parameters  # the gradients of the parts so far, added up
        temporaries += share.parts * share.images * share.pixels * UINT8
    if partition.gathers:
        # On CPUs all of them, and again in another layout; elsewhere a block is computed while the
        # next one's come.
        temporaries += 2 * whole if on_cpu else min(whole, 2 * gradients_of_last)
    if share.dtype_bytes < FLOAT32:
        temporaries += whole * share.dtype_bytes // FLOAT32  # parameters in the computation's dtype
    return {
        'parameters': share.seeds * parameters,
        'optimizer': share.seeds * optimizer,
        'data': data_bytes(setup, share, streamed),
        'activations': at_once * kept,
        'temporaries': at_once * temporaries,
    }


def activation_bytes(share: Share, *, on_cpu: bool) -> tuple[int, int, int]:
    """Bytes of one seed: what the gradient keeps in all, in one block, and needs beside that.

    A block keeps for each image 4·S·C numbers (input and output of both LayerNorms) and 3 of each
    hidden layer, D_t·C and S·D_c; rematerialised, the S·C of its input, and all of that for one
    block at a time. Dropout keeps random bits, a mask and what it leaves of an array.
    """
    number = FLOAT32 if on_cpu else share.dtype_bytes
    hidden = sum(share.hidden)
    block = number * (OF_TOKENS * share.stream + OF_HIDDEN * hidden)
    block += 2 * 2 * FLOAT32 * share.images * share.tokens  # statistics of LayerNorm
    if share.dropout:
        block += (4 + 1 + number) * (2 * share.stream + hidden)
    before = (share.num_blocks - 1) * (number * share.stream if share.remat else block)
    patches = share.images * share.features * number
    images = share.images * share.pixels * FLOAT32
    # The gradients of the widest hidden layer, after and before GELU, and what is exchanged.
    exchanged = 2 * share.stream if share.mesh_shape['model'] > 1 else 0
    other = number * (2 * max(share.hidden) + exchanged) + images
    return before + block + patches, block + patches, other


def data_bytes(setup: Setup, share: Share, streamed: int) -> int:
    """Bytes of images and labels on each device: the whole set, or some batches of it."""
    example = math.prod(setup.dataset.stored_shape) * UINT8 + 4
    if not streamed:
        return example * setup.train_examples
    return example * streamed * share.seeds * setup.config.batch // share.mesh_shape['data']


def _last(share: Share) -> tuple[str, ...]:
    """The modules whose gradients are computed first."""
    return f'MixerBlock_{share.num_blocks - 1}', 'pre_head_layer_norm', 'head'


def _tree_bytes(tree, spec: Callable, partition: Partition) -> int:
    """Bytes on one device of a tree whose arrays lie as `spec(name, shape)` says."""
    return sum(
        leaf_bytes(leaf, spec(name, leaf.shape), partition) for name, leaf in named_leaves(tree)
    )


def leaf_bytes(leaf, spec, partition: Partition) -> int:
    """Bytes of an array on one device."""
    split = math.prod(
        partition.mesh_shape[axis]
        for entry in spec
        if entry
        for axis in (entry if isinstance(entry, tuple) else (entry,))
    )
    return math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize // split
