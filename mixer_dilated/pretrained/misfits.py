"""The table of what does not fit: found, expected, what to do."""

import re

from mixer_dilated.pretrained.weights import sizes

Shape = tuple[int, ...]


def misfits(found: dict[str, Shape], expected: dict[str, Shape]) -> list[tuple[str, str, str, str]]:
    """Rows (names, found, expected, what to do) of what differs: one for all that has one cure.

    Args:
      found: the shapes of the weights, as adapted, {name: shape}.
      expected: those of the network.
    """
    told, ours = sizes(found), sizes(expected)
    keys = {key: (told[key], ours[key]) for key in told if told[key] != ours.get(key, told[key])}
    rows = {}
    for name in (*expected, *(name for name in found if name not in expected)):
        one, other = found.get(name), expected.get(name)
        if one != other:
            alike = re.sub(r'MixerBlock_\d+', 'MixerBlock_…', name)
            rows.setdefault((alike, one, other), name)
    cures = {}
    for name, one, other in rows:
        cures.setdefault(_what_to_do(name, one, other, keys), []).append((name, one, other))
    return [
        (
            f'{name} and {len(others)} more' if others else name,
            _shape_text(one),
            _shape_text(other),
            cure,
        )
        for cure, ((name, one, other), *others) in cures.items()
    ]


def _shape_text(shape: Shape | None) -> str:
    return 'not there' if shape is None else '×'.join(map(str, shape)) or 'a number'


# The keys of config.model that shapes of a parameter come from, by how its name starts.
_TOLD_BY = {
    'stem': ('hidden_dim',),
    'MixerBlock_…/token_mixing': ('tokens_mlp_dim',),
    'MixerBlock_…/channel_mixing': ('hidden_dim', 'channels_mlp_dim'),
    'MixerBlock_…/LayerNorm': ('hidden_dim',),
    'pre_head': ('hidden_dim',),
    'head': ('hidden_dim',),
}


def _what_to_do(
    name: str, one: Shape | None, other: Shape | None, keys: dict[str, tuple[int, int]]
) -> str:
    """The cure of one row.

    Args:
      name: of the parameter.
      one: its shape in the weights.
      other: its shape in the network.
      keys: those of config.model in which both differ: values of the weights and of the network.
    """
    if one is None or other is None:
        wanted = ('num_blocks',) if name.startswith('MixerBlock') else ()
    elif name == 'head/bias' or (name == 'head/kernel' and one[:-1] == other[:-1]):
        return 'transfer.head=new'
    else:
        (wanted,) = [_TOLD_BY[start] for start in _TOLD_BY if name.startswith(start)] or [()]
        # A shape is mended by keys whose value it has, where the network has another.
        wanted = [key for key in wanted if key in keys and _has(one, other, *keys[key])]
    known = [f'model.{key}={keys[key][0]}' for key in wanted if key in keys and keys[key][0]]
    if not known and name.startswith('stem'):
        return 'another file, or branches'
    return ', '.join(known) or 'another file'


def _has(one: Shape, other: Shape, before: int, now: int) -> bool:
    return any(pair == (before, now) for pair in zip(one, other, strict=False))
