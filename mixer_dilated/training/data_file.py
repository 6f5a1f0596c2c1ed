"""`data.json`: which examples a run is made of."""

import hashlib
import json
import pathlib

from mixer_dilated.errors import UserError
from mixer_dilated.files import UNREADABLE, write_json
from mixer_dilated.training.setup import Setup


def data_facts(setup: Setup, part: str, checksums: dict[str, int]) -> dict:
    """What tells the examples of 'train' or 'test' from others.

    Always 'identity', of names and sizes of the files; `checksums` where examples are in memory.
    """
    split = setup.config.dataset[f'{part}_split']
    identity = hashlib.sha256(f'{setup.dataset.identity}\n{split}'.encode()).hexdigest()
    return {'identity': identity, **checksums}


def check_same_data(workdir: pathlib.Path, facts: dict[str, dict], *, saved: bool) -> None:
    """Notes which examples a run is made of, or compares with what was noted.

    Args:
      workdir: the run's folder.
      facts: `data_facts` of 'train' and 'test'.
      saved: whether something was trained; else what was noted does not count.

    Raises:
      UserError: the run was begun on other examples.
    """
    path = workdir / 'data.json'
    if not saved:
        write_json(path, facts)
        return
    try:
        recorded = json.loads(path.read_text())
    except FileNotFoundError:
        write_json(path, facts)
        return
    except UNREADABLE as error:
        raise UserError(
            f'{path}: cannot be read: {error}; remove it, and the examples are noted anew'
        ) from None
    if not isinstance(recorded, dict) or not all(
        _same(recorded.get(part), current) for part, current in facts.items()
    ):
        raise UserError(
            f'--workdir={workdir}: this run was begun on other examples ({path} differs from the '
            'data that is there now); give it its own data again, or name a new folder'
        )


def _same(recorded: dict | None, current: dict) -> bool:
    """Whether two facts are of the same examples: by checksums if both have them.

    A run may change between memory and streaming; runs of earlier versions noted checksums alone.
    """
    if not isinstance(recorded, dict):
        return False
    common = recorded.keys() & current.keys()
    compared = common - {'identity'} or common
    if not compared:
        raise UserError(
            "config.input.mode = 'stream': this run was begun in memory by an earlier version, "
            'which did not note what a stream is known by; go on with --config.input.mode=memory'
        )
    return all(recorded[name] == current[name] for name in compared)
