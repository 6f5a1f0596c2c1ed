"""Numbers, intervals and settings as text for tables, plots and sentences."""

from collections.abc import Mapping

NOTHING = '–'


def optional_text(value: float | None, form: str) -> str:
    """`value` in a format, with a minus sign as long as a plus; a dash for None."""
    return NOTHING if value is None else format(value, form).replace('-', '−')


def spread_text(described: Mapping) -> str:
    """'0.9669 ± 0.0023': mean and standard deviation; of one seed the number alone."""
    std = described['std']
    return f'{described["mean"]:.4f}' + ('' if std is None else f' ± {std:.4f}')


def interval_text(low: float | None, high: float | None, form: str = '.4f') -> str:
    """'0.9650 … 0.9688'; a dash where there is none."""
    return NOTHING if low is None else f'{optional_text(low, form)} … {optional_text(high, form)}'


def p_text(value: float | None) -> str:
    """'0.0042', '< 0.001'."""
    return '< 0.001' if value is not None and value < 0.001 else optional_text(value, '.4f')


def grouped_text(number: float) -> str:
    """'10 000', its digits in groups that no line breaks apart."""
    return f'{number:,.0f}'.replace(',', '\N{NO-BREAK SPACE}')


def count_text(number: int, noun: str) -> str:
    """'1 token', '16 tokens', '10 000 images'."""
    return f'{grouped_text(number)} {noun}' + ('' if number == 1 else 's')


def share_text(part: int, whole: int) -> str:
    """'256 of 784 (33 %)'."""
    return f'{part} of {whole} ({100 * part / whole:.0f} %)'


def setting_text(value) -> str:
    """A setting as a person writes it: 4 for the pair (4, 4), '4×2', 'yes'; else as it is."""
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if isinstance(value, list | tuple):
        if len(value) == 2 and all(type(part) is int for part in value):
            return str(value[0]) if value[0] == value[1] else f'{value[0]}×{value[1]}'
        return f'({", ".join(map(setting_text, value))})'
    if isinstance(value, Mapping):
        return f'({", ".join(f"{name} {setting_text(part)}" for name, part in value.items())})'
    return f'{value:g}' if isinstance(value, float) else str(value)


def cut_front(text: str, length: int) -> str:
    """The end of a path or name, which says more than its beginning."""
    return text if len(text) <= length else f'…{text[1 - length :]}'


def digits_text(value: float) -> str:
    """Three digits, or all that stand before the point: '1.50', '150', '1500'."""
    return f'{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}'


def scaled_text(value: float, unit: str) -> str:
    """'5.76 TFLOP', '197 GB'."""
    scales = ((1e12, 'T'), (1e9, 'G'), (1e6, 'M'), (1e3, 'k'), (1.0, ''))
    scale, prefix = next((row for row in scales if value >= row[0]), scales[-1])
    return f'{digits_text(value / scale)} {prefix}{unit}'


def seconds_text(seconds: float | None) -> str:
    """'293 µs', '1.50 s', '5.20 hours', '3.10 days'; a dash for None."""
    if seconds is None:
        return NOTHING
    scales = (
        (172800, 86400, 'days'), (7200, 3600, 'hours'), (120, 60, 'minutes'),
        (1, 1, 's'), (1e-3, 1e-3, 'ms'), (0, 1e-6, 'µs'),
    )  # fmt: skip
    scale, unit = next(row[1:] for row in scales if seconds >= row[0])
    return f'{digits_text(seconds / scale)} {unit}'
