"""One process that imports everything, children that are forked from it, and what they leave.

The process starts no backend of JAX, whose threads would not be there in children.
"""

import importlib
import os
import pathlib
import pkgutil
import resource
import sys
import threading
import time
import zlib

import mixer_dilated
from tests.fuzz.originals import RESULTS

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


def fork(folder: pathlib.Path, words: list[str]) -> int:
    """Runs a command in a child, output to files in the folder; returns its process ID."""
    if pid := os.fork():
        return pid
    status = 99
    try:
        os.setsid()
        os.chdir(folder)
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
        if list_modules := os.environ.get('MIXER_FUZZ_MODULES'):
            pathlib.Path(list_modules).write_text('\n'.join(sys.modules))
        os._exit(status)


def snapshot(folder: pathlib.Path) -> dict:
    """Names, times and checksums of everything in a folder."""
    return {
        str(path): (path.lstat().st_mtime_ns, zlib.crc32(path.read_bytes()))
        if path.is_file() else path.lstat().st_mtime_ns
        for path in folder.rglob('*')
    }  # fmt: skip


def results(folder: pathlib.Path, words: list[str]) -> dict:
    """What has to be equal where a command succeeds: {name: content}."""
    content = {}
    if words[0] in ('evaluate', 'predict'):
        lines = (folder / 'stdout').read_text().splitlines()
        content['stdout'] = '\n'.join(line for line in lines if ' a second' not in line)
    if words[0] == 'report':
        content['report.html'] = (folder / words[1] / 'report.html').read_bytes()
    if words[0] == 'convert' and words[1] == 'run':
        content['out.npz'] = (folder / 'out.npz').read_bytes()
    if words[0] == 'export':
        content['weights.npz'] = (folder / 'out' / 'weights.npz').read_bytes()
    if words[0] in ('train', 'sweep') and '=new' not in words[-1]:
        workdir = words[-1].removeprefix('--workdir=')
        trials = ('dilation=1', 'dilation=2')
        runs = [f'{workdir}/cells/{name}' for name in trials] if workdir == 'study' else [workdir]
        for name in (f'{run}/{name}' for run in runs for name in RESULTS):
            content[name] = (folder / name).is_file() and (folder / name).read_bytes()
    return content
