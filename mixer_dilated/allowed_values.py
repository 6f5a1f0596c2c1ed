"""What values a key of the config, or a field of a file, can have."""

from collections.abc import Callable
from typing import Any, NamedTuple

from mixer_dilated.errors import UserError
from mixer_dilated.patches.geometry import Patches


class Allowed(NamedTuple):
    """The values that a key can have: as messages describe them, and as a test."""

    text: str
    test: Callable[[Any], bool]


def integer(minimum: int, maximum: int = 2**31 - 1) -> Allowed:
    text = f'an integer from {minimum} to {maximum}'
    return Allowed(text, lambda v: type(v) is int and minimum <= v <= maximum)


def number(text: str, test: Callable[[float], bool]) -> Allowed:
    # Larger integers cannot become a float.
    return Allowed(
        f'a number {text}', lambda v: type(v) in (int, float) and abs(v) < 1e300 and test(v)
    )


def one_of(*values: Any) -> Allowed:
    text = f'one of {", ".join(map(repr, values))}'
    return Allowed(text, lambda v: type(v) is type(values[0]) and v in values)


def either(value: Any, other: Allowed) -> Allowed:
    text = f'{value!r} or {other.text}'
    return Allowed(text, lambda v: (type(v) in (str, int, float) and v == value) or other.test(v))


def geometry(attribute: str, text: str) -> Allowed:
    """What an attribute of `Patches` can be; `Patches` itself tests it."""

    def test(value) -> bool:
        try:
            return bool(Patches(**{'size': 1, attribute: value}))
        except UserError:
            return False

    return Allowed(text, test)


BOOLEAN = Allowed('True or False', lambda v: type(v) is bool)
TEXT = Allowed('text', lambda v: type(v) is str)
NAME = Allowed('text that is not empty', lambda v: type(v) is str and v.strip() != '')
RATE = number('in [0, 1)', lambda v: 0 <= v < 1)
FRACTION = number('in (0, 1)', lambda v: 0 < v < 1)
FACTOR = number('in (0, 1]', lambda v: 0 < v <= 1)
NON_NEGATIVE = number('of at least 0', lambda v: v >= 0)
POSITIVE = number('above 0', lambda v: v > 0)
# Beyond these bounds a float32 draw from the Beta distribution is not a number.
MIXUP_ALPHA = either(0, number('in [0.001, 1000]', lambda v: 1e-3 <= v <= 1e3))
SIDE = integer(1, 8192).test
IMAGE_SIZE = Allowed(
    'an integer from 1 to 8192, or a pair (height, width) of such',
    lambda v: SIDE(v) or (type(v) is tuple and len(v) == 2 and all(map(SIDE, v))),
)
LENGTH = geometry('size', 'an integer of at least 1, or a pair (height, width) of such')
OFFSET = geometry('offset', 'an integer, or a pair (height, width) of such')
PADDING = geometry('padding', "'VALID', 'SAME' or integers ((top, bottom), (left, right))")
BRANCHES = Allowed(
    "a tuple of dicts, like ({'dilation': 1}, {'dilation': 2})",
    lambda v: type(v) is tuple and all(type(branch) is dict for branch in v),
)
