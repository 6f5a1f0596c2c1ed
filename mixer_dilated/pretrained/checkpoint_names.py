"""The names of the original's checkpoints, of before Linen and since, as those of this library."""

import re

import numpy as np

from mixer_dilated.errors import UserError

# What older files have around the names of the parameters.
_AROUND = re.compile(r'^(opt/)?(target|params)/')

_BEFORE_LINEN = (
    (re.compile(r'^embedding/'), 'stem/'),
    (re.compile(r'^Mixer/encoder_norm/'), 'pre_head_layer_norm/'),
    (re.compile(r'^Mixer/encoderblock_(\d+)/'), r'MixerBlock_\1/'),
    (re.compile(r'/(token|channel)_mixing_phase_0/(kernel|bias)1$'), r'/\1_mixing/Dense_0/\2'),
    (re.compile(r'/(token|channel)_mixing_phase_0/(kernel|bias)2$'), r'/\1_mixing/Dense_1/\2'),
)


def to_linen_names(arrays: dict[str, np.ndarray], file: str) -> dict[str, np.ndarray]:
    """Parameters by the Linen names of the original Mixer, whichever form the file has.

    The form of before Linen has `embedding`, `Mixer/encoderblock_i` with `token_mixing_phase_0`
    and `channel_mixing_phase_0` of `kernel1`, `bias1`, `kernel2`, `bias2`, whose arrays have axes
    of length 1, and `Mixer/encoder_norm`. Optimizer state beside `opt/target/` is left out.

    Args:
      arrays: {name: array}, as in the file.
      file: its name, for messages.

    Returns:
      {name: array}; the arrays of the Linen form are the very ones that were given.

    Raises:
      UserError: two arrays get one name, or there is no parameter of a Mixer.
    """
    inside = {name: array for name, array in arrays.items() if _AROUND.match(name)} or arrays
    inside, renamed = _count_norms(inside), {}
    for name, array in inside.items():
        linen = _rename(_AROUND.sub('', name), _BEFORE_LINEN)
        if linen in renamed:
            raise UserError(
                f'{file}: {name!r} and another array both are {linen}; the file holds two networks '
                'or is damaged: name another'
            )
        renamed[linen] = _without_axes_of_one(name, inside) if '_mixing_phase_0/' in name else array
    if not any(re.match(r'(stem(_\d+)?|MixerBlock_\d+|head)/', name) for name in renamed):
        some = ', '.join(sorted(renamed)[:3]) or 'nothing'
        raise UserError(
            f"{file}: no parameters of a Mixer: it has {some}; allowed are the original's "
            'stem/kernel, MixerBlock_0/…, or embedding/kernel, Mixer/encoderblock_0/…'
        )
    return renamed


def _rename(name: str, rules) -> str:
    for pattern, new in rules:
        name = pattern.sub(new, name)
    return name


def _count_norms(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The two norms of a block as LayerNorm_0 and LayerNorm_1.

    Before Linen all modules of a block were counted together, so that the second norm may be
    LayerNorm_1 or LayerNorm_2.
    """
    inside = re.compile(r'^(.*encoderblock_\d+)/LayerNorm_(\d+)/')
    numbers = {}
    for name in arrays:
        if found := inside.match(name):
            numbers.setdefault(found[1], set()).add(int(found[2]))

    def counted(found: re.Match) -> str:
        return f'{found[1]}/LayerNorm_{sorted(numbers[found[1]]).index(int(found[2]))}/'

    return {inside.sub(counted, name): array for name, array in arrays.items()}


def _without_axes_of_one(name: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """A kernel as a matrix (in, out), a bias as a vector; the bias tells which is `out`."""
    array = arrays[name]
    if name[:-1].endswith('bias'):
        return array.reshape(-1)
    bias = arrays.get(name.replace('/kernel', '/bias'))
    if bias is None or not bias.size or array.size % bias.size:
        return array.squeeze()
    return array.reshape(-1, bias.size)
