"""Measurements in processes of their own: how they are called, and how long a run starts up."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable

import ml_collections

from mixer_dilated.config import changed
from mixer_dilated.errors import printable

ROOT = pathlib.Path(__file__).parents[2]
MAX_CAUSE_CHARS = 300
CALL = (
    'import json, sys; from {module} import {name}; '
    'print(json.dumps({name}(**json.loads(sys.argv[1]))))'
)
CONFIG_FILE = (
    'import json\nimport ml_collections\n\n\ndef get_config():\n'
    '    return ml_collections.ConfigDict(json.loads({content!r}))\n'
)


class ProcessError(Exception):
    """A process failed; the message names it and the cause."""


def call_in_process(function: Callable, **arguments):
    """Calls a function of a module in a new process; arguments and what it returns are JSON. Raises
    ProcessError, with the end of what the process printed, if it fails."""
    label = f'{function.__module__}.{function.__name__}'
    program = CALL.format(module=function.__module__, name=function.__name__)
    output = run_python(['-c', program, json.dumps(arguments)], label)
    try:
        return json.loads(output.splitlines()[-1])
    except (ValueError, IndexError):
        raise ProcessError(f'{label} printed no result: {end_of(output)}') from None


def start_up_seconds(config: ml_collections.ConfigDict) -> dict[str, float | bool]:
    """Seconds from `python run.py` to the first training step, 'cold' and 'warm'; 'programs_kept'.

    Each is a whole run of one epoch in a separate process; the decoded images and the compiled
    programs of the first, which on Intel CPUs are not kept, are there for the second. Raises
    ProcessError if one fails.
    """
    changes = {'num_epochs': 1, 'total_steps': 0, 'optimizer.warmup_steps': 0}
    content = changed(config, changes | {'dataset.cache_dir': ''}).to_json()
    seconds = {}
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            cache = {'XDG_CACHE_HOME': name, 'JAX_COMPILATION_CACHE_DIR': ''}
            file = folder / 'config.py'
            file.write_text(CONFIG_FILE.format(content=content))
            for state in ('cold', 'warm'):
                words = ['-m', 'mixer_dilated', f'--config={file}', f'--workdir={folder / state}']
                run_python(words, 'run.py', JAX_ENABLE_COMPILATION_CACHE='true', **cache)
                summary = json.loads((folder / state / 'summary.json').read_text())
                seconds[state] = summary['seconds']['startup']
            kept = (folder / 'mixer_dilated' / 'compiled').is_dir()
    except (OSError, ValueError, LookupError) as error:
        raise ProcessError(f'run.py left no result: {type(error).__name__}: {error}') from None
    return {**seconds, 'programs_kept': kept}


def run_python(words: list[str], label: str, **environment: str) -> str:
    """What a Python process in the user's own folder prints; raises ProcessError if it fails."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    try:
        process = subprocess.run(
            [sys.executable, '-P', *words],  # -P: nothing in that folder is taken for a module
            env={**os.environ, 'PYTHONPATH': path, **environment},
            capture_output=True,
            text=True,
            errors='replace',
        )
    except OSError as error:
        raise ProcessError(f'{label} could not start: {error}') from None
    if process.returncode < 0:
        raise ProcessError(f'{label} was ended: {signal.strsignal(-process.returncode)}')
    if process.returncode:
        status = f'exit status {process.returncode}'
        raise ProcessError(f'{label} failed: {end_of(process.stderr) or status}')
    return process.stdout


def end_of(text: str, max_chars: int = MAX_CAUSE_CHARS) -> str:
    """The last words of a text, on one line, '…' for the others."""
    line = ' '.join(text.split())
    if len(line) > max_chars:
        words = line[2 - max_chars :]
        line = f'… {words.partition(" ")[2] or words}'
    return printable(line)
