"""The folder for what can be made again: decoded images, compiled programs."""

import os
import pathlib


def user_cache() -> pathlib.Path:
    """`mixer_dilated` in XDG_CACHE_HOME, which is ~/.cache if it is not set."""
    root = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    return pathlib.Path(root, 'mixer_dilated')
