"""Decoded images kept as memory-mapped arrays, so that a second start does not decode again."""

import hashlib
import json
import pathlib
import shutil
import tempfile
import warnings

import numpy as np

from mixer_dilated.data.examples import Examples, Source, checksums
from mixer_dilated.user_cache import user_cache


def cached_read(source: Source, split: str, cache_dir: str) -> Examples:
    """`source.read(split)`, from the cache if it is there and undamaged.

    An entry is a folder with `images.npy`, `labels.npy` and `entry.json` (fingerprint of the
    source, checksums of the arrays). It appears whole or not at all. An entry that is damaged is
    made again; a cache that cannot be written costs time and a warning, nothing else.

    Args:
      source: where the examples come from.
      split: TFDS split syntax.
      cache_dir: folder of the cache; '' is the user's cache folder.
    """
    entry = _entry(source, split, cache_dir)
    examples = _load(entry, source)
    if examples is None:
        examples = source.read(split)
        try:
            _store(entry, source, examples)
        except OSError as error:
            warnings.warn(f'decoded images are not cached: {entry}: {error}', stacklevel=2)
    return examples


def _entry(source: Source, split: str, cache_dir: str) -> pathlib.Path:
    root = pathlib.Path(cache_dir).expanduser() if cache_dir else user_cache()
    identity = hashlib.sha256(f'{source.fingerprint}\n{split}'.encode()).hexdigest()[:16]
    return root / f'{source.name.replace("/", "-")}-{identity}'


def _load(entry: pathlib.Path, source: Source) -> Examples | None:
    try:
        facts = json.loads((entry / 'entry.json').read_text())
        examples = Examples(
            *(
                np.load(entry / f'{name}.npy', mmap_mode='r', allow_pickle=False)
                for name in Examples._fields
            )
        )
        return examples if facts == _facts(source, examples) else None
    # NumPy's reader raises a dozen kinds of error on damaged headers; all mean: make it again.
    except Exception:
        return None


def _store(entry: pathlib.Path, source: Source, examples: Examples) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    unfinished = pathlib.Path(tempfile.mkdtemp(prefix='unfinished-', dir=entry.parent))
    try:
        for name, array in examples._asdict().items():
            np.save(unfinished / f'{name}.npy', array, allow_pickle=False)
        (unfinished / 'entry.json').write_text(json.dumps(_facts(source, examples), indent=2))
        if _load(entry, source) is None:  # else another process was quicker: its entry stays
            shutil.rmtree(entry, ignore_errors=True)
            unfinished.rename(entry)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _facts(source: Source, examples: Examples) -> dict:
    return {
        'source': source.name,
        'fingerprint': source.fingerprint,
        'checksums': checksums(examples),
    }
