"""The networks of the Mixer paper by their names: S/32, S/16, B/32, B/16, L/32, L/16, H/14."""

from mixer_dilated.errors import InputError

# Mixer paper (arXiv:2105.01601), Table 1: layers, hidden size C, widths of the MLPs D_S and D_C.
_SIZES = {
    'S': (8, 512, 256, 2048),
    'B': (12, 768, 384, 3072),
    'L': (24, 1024, 512, 4096),
    'H': (32, 1280, 640, 5120),
}

PRESETS = ('S/32', 'S/16', 'B/32', 'B/16', 'L/32', 'L/16', 'H/14')


def preset_values(name: str) -> dict:
    """The keys of `config.model` that a preset sets, nested: 'B/16' is Base with 16×16 patches.

    GELU is the tanh approximation, as in the original code and for its checkpoints.

    Raises:
      InputError: no such preset.
    """
    if name not in PRESETS:
        raise InputError(
            f'config.model = {name!r}: no such preset; allowed are {", ".join(PRESETS)}, or the '
            'keys of config.model one by one'
        )
    size, patch = name.split('/')
    num_blocks, hidden_dim, tokens_mlp_dim, channels_mlp_dim = _SIZES[size]
    return {
        'patches': {'size': int(patch), 'stride': int(patch)},
        'num_blocks': num_blocks,
        'hidden_dim': hidden_dim,
        'tokens_mlp_dim': tokens_mlp_dim,
        'channels_mlp_dim': channels_mlp_dim,
        'gelu': 'tanh',
    }
