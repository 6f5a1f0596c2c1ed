"""The compilers of devices that are not there, each asked in a process of its own."""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import pathlib
from collections.abc import Callable
from multiprocessing.connection import Connection

from mixer_dilated.errors import UserError
from mixer_dilated.files import exists, read_json, user_cache, write_json
from mixer_dilated.planning.devices import HARDWARE, Devices
from mixer_dilated.training.setup import Setup

PROGRAMS = ('initialise', 'train', 'evaluate')
PACKAGE = pathlib.Path(__file__).parents[1]
SOURCES = ('config*.py', *(f'{room}/*.py' for room in ('data', 'models', 'parallel', 'patches')))
SOURCES += ('planning/*.py', 'training/*.py')
VERSIONS = ('jax', 'jaxlib', 'libtpu', 'jax_cuda13_plugin', 'flax', 'optax')
ENVIRONMENT = {
    'JAX_PLATFORMS': 'cpu',
    'TPU_SKIP_MDS_QUERY': '1',  # asks no server whether this is a TPU's machine
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}
NO_AUTOTUNING = '--xla_gpu_autotune_level=0'  # there is no GPU to time kernels on


def compile_absent(
    devices: Devices, setup: Setup, programs: tuple[str, ...], report: Callable[[str], None]
) -> dict:
    """What `programs.compile_programs` returns, from the user's cache if it was compiled before.

    Args:
      devices: to compile for.
      setup: whose programs.
      programs: of `PROGRAMS`, 'train' always.
      report: called with a line before it is compiled.

    Raises:
      UserError: the compiler is not installed or failed, or the mesh or batch fits no devices.
    """
    plugin = 'libtpu' if devices.is_tpu else 'jax_cuda13_plugin'
    if not importlib.util.find_spec(plugin):
        package = 'jax[tpu]' if devices.is_tpu else 'jax[cuda13-local]'
        raise UserError(
            f'--devices={devices.word}: its compiler, {plugin}, is not installed; run '
            f"pip install '{package}', or plan for this machine with --devices=this"
        )
    files = sorted(file for pattern in SOURCES for file in PACKAGE.glob(pattern))
    key = [vars(devices), vars(setup.dataset), setup.config.to_json(), programs, versions()]
    key += [os.getenv('XLA_FLAGS'), *(file.read_text() for file in files)]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    file = user_cache() / 'plans' / f'{digest[:32]}.json'
    if exists(file):
        with contextlib.suppress(UserError):  # damaged: compiled again
            return read_json(file)
    report(f'{devices.word}, batch {setup.config.batch}: {", ".join(programs)}')
    compiled = _compile_in_process(devices, setup, programs)
    with contextlib.suppress(OSError, UserError):  # without a cache it is compiled every time
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, compiled)
    return compiled


def _compile_in_process(devices: Devices, setup: Setup, programs: tuple[str, ...]) -> dict:
    context = multiprocessing.get_context('spawn')
    receiver, sender = context.Pipe(duplex=False)
    arguments = sender, devices, setup, programs
    process = context.Process(target=_compile, args=arguments, daemon=True)
    flags = {'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} {NO_AUTOTUNING}'}
    environment = dict(os.environ)
    os.environ.update(ENVIRONMENT | flags)  # JAX reads it as soon as it is imported there
    try:
        process.start()
    finally:
        os.environ.clear()
        os.environ.update(environment)
    sender.close()
    try:
        kind, result = receiver.recv()
    except EOFError:
        kind, result = 'failed', 'its process ended'
    finally:
        process.kill()
    if kind == 'failed':
        hint = 'try other devices, or another version of jax'
        raise UserError(f'--devices={devices.word}: the compiler failed: {result}; {hint}')
    if kind == 'refused':
        raise UserError(result)
    return result


def _compile(sender: Connection, devices: Devices, setup: Setup, programs: tuple[str, ...]) -> None:
    """Sends ('compiled', result), ('refused', message) or ('failed', message)."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtpu logs that there is no TPU
    from mixer_dilated.planning.programs import compile_programs

    try:
        compiled = compile_programs(setup, devices, programs, HARDWARE[devices.kind])
        sender.send(('compiled', compiled))
    except UserError as error:
        sender.send(('refused', str(error)))
    except Exception as error:  # of many types, from XLA
        sender.send(('failed', ' '.join(str(error).split())[:300]))


def versions() -> dict[str, str]:
    """Of the packages that a result depends on, as far as they are installed."""
    installed = filter(importlib.util.find_spec, VERSIONS)
    return {name: importlib.metadata.version(name) for name in installed}
