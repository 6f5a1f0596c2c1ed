"""One process that imports everything, children that are forked from it, and what they leave.

The process starts no backend of JAX, whose threads would not be there in children.
"""

import importlib
import os
import pathlib
import pkgutil
import resource
import signal
import sys
import threading
import time

import mixer_dilated
from tests.fuzz.originals import CELLS, RESULTS

NOT_IMPORTED = ('__main__', 'export_example', 'configs')


def import_everything() -> None:
    modules = pkgutil.walk_packages(mixer_dilated.__path__, 'mixer_dilated.')
    for module in modules:
        if not set(NOT_IMPORTED) & set(module.name.split('.')):
            importlib.import_module(module.name)
    for name in ('seaborn', 'sklearn.datasets', 'tensorboardX', 'tensorflow_datasets'):
        importlib.import_module(name)


def check_forkable() -> None:
    from jax._src import xla_bridge

    assert not xla_bridge.backends_are_initialized()
    assert threading.enumerate() == [threading.main_thread()]


def fork(folder: pathlib.Path, words: list[str], seconds: float = 0.0) -> int:
    """Runs a command in a child, which SIGALRM ends after some seconds; returns its process ID.

    Its output, and the names of what it imported, are in files in the folder.
    """
    if pid := os.fork():
        return pid
    status = 99
    try:
        os.setsid()
        os.chdir(folder)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        for number, name in enumerate(('/dev/null', 'stdout', 'stderr')):
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(name, flags), number)
        resource.setrlimit(resource.RLIMIT_AS, (24 * 2**30,) * 2)
        from mixer_dilated.cli import preemption
        from mixer_dilated.cli.main import main

        sys.argv = ['run.py', *words]
        preemption.install_handlers()
        status = main(words, time.perf_counter())
        sys.stdout.flush()
    except SystemExit as error:
        status = error.code
    finally:
        (folder / 'modules').write_text('\n'.join(sys.modules))
        os._exit(status)


def snapshot(folder: pathlib.Path) -> dict[str, int]:
    """When each file and folder in a folder changed last, which no program can set, by name."""
    return {str(path): path.lstat().st_ctime_ns for path in folder.rglob('*')}


def results(folder: pathlib.Path, words: list[str]) -> dict:
    """What has to be equal where a command succeeds: {name: content}."""
    if words[0] in ('evaluate', 'predict'):
        lines = (folder / 'stdout').read_text().splitlines()
        return {'stdout': [line for line in lines if ' a second' not in line]}
    workdir = words[-1].removeprefix('--workdir=')
    names = {
        'report': [f'{words[1]}/report.html'],
        'convert': ['out.npz'],
        'export': ['out/weights.npz'],
        'train': [f'{workdir}/{name}' for name in RESULTS],
        'sweep': [f'{workdir}/cells/{cell}/{name}' for cell in CELLS for name in RESULTS],
    }
    files = {name: folder / name for name in names[words[0]]}
    return {name: file.is_file() and file.read_bytes() for name, file in files.items()}
