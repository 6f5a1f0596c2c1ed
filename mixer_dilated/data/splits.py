"""TFDS split syntax ('train[:10000]', 'train[:80%]+test') for any data source."""

from mixer_dilated.errors import InputError


def split_slices(key: str, split: str, split_sizes: dict[str, int]) -> list[tuple[str, int, int]]:
    """The (name, start, stop) slices that a split string asks for.

    Args:
      key: the config key that holds the string, for the message.
      split: the string.
      split_sizes: examples in each named split.

    Raises:
      InputError: a string that cannot be read, a split that does not exist, or no examples.
    """
    import tensorflow_datasets as tfds

    infos = {
        name: tfds.core.SplitInfo(name=name, shard_lengths=[size], num_bytes=0)
        for name, size in split_sizes.items()
    }
    try:
        instructions = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
    except (ValueError, AssertionError, KeyError) as error:
        cause = ' '.join(str(error).split())
        raise InputError(
            f'{key} = {split!r}: {cause} Available: {_listed(split_sizes)}; for example '
            f"'{next(iter(split_sizes))}[:100]'"
        ) from None
    slices = [
        (
            part.splitname,
            part.from_ or 0,
            split_sizes[part.splitname] if part.to is None else part.to,
        )
        for part in instructions
    ]
    if any(stop <= start for _, start, stop in slices):
        raise InputError(
            f'{key} = {split!r}: a part of it holds no examples; available: {_listed(split_sizes)}'
        )
    return slices


def num_examples(key: str, split: str, split_sizes: dict[str, int]) -> int:
    """Number of examples in a split. Raises as `split_slices` does."""
    return sum(stop - start for _, start, stop in split_slices(key, split, split_sizes))


def check_disjoint(
    key: str, split: str, others: dict[str, str], split_sizes: dict[str, int]
) -> None:
    """Raises InputError if a split shares examples with one of several others.

    Args:
      key: the flag or config key that holds `split`, for the message.
      split: TFDS split syntax.
      others: the flags or keys of the others, and what they hold.
      split_sizes: examples in each named split.
    """
    slices = split_slices(key, split, split_sizes)
    for other_key, other in others.items():
        shared = sum(
            max(0, min(stop, other_stop) - max(start, other_start))
            for name, start, stop in slices
            for other_name, other_start, other_stop in split_slices(other_key, other, split_sizes)
            if name == other_name
        )
        if shared:
            raise InputError(
                f'{key} = {split!r}: {shared} of its examples are in {other_key} = {other!r} too; '
                f'name others; available: {_listed(split_sizes)}'
            )


def _listed(split_sizes: dict[str, int]) -> str:
    return ', '.join(f'{name} ({size} examples)' for name, size in split_sizes.items())
