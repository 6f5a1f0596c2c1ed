"""The compilers of devices that are not there, each asked in a process of its own."""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import pickle
import subprocess
import sys
from collections.abc import Callable

from mixer_dilated.errors import UserError
from mixer_dilated.files import exists, read_json, user_cache, write_json
from mixer_dilated.planning.devices import HARDWARE, Devices
from mixer_dilated.training.setup import Setup

PACKAGE = pathlib.Path(__file__).parents[1]
VERSIONS = ('jax', 'jaxlib', 'libtpu', 'jax_cuda13_plugin', 'flax', 'optax')
ENVIRONMENT = {
    'JAX_PLATFORMS': 'cpu',
    'TPU_SKIP_MDS_QUERY': '1',  # asks no server whether this is a TPU's machine
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}
NO_AUTOTUNING = '--xla_gpu_autotune_level=0'  # there is no GPU to time kernels on


def check_compiler(devices: Devices) -> None:
    """Raises UserError, which says what to install, if the devices' compiler is not there."""
    plugin, package = 'libtpu', 'jax[tpu]'
    if not devices.is_tpu:
        plugin, package = 'jax_cuda13_plugin', 'jax[cuda13-local]'
    if devices.kind != 'this' and not importlib.util.find_spec(plugin):
        raise UserError(
            f'--devices={devices.word}: its compiler, {plugin}, is not installed; run '
            f"pip install '{package}', or plan for this machine with --devices=this"
        )


def compile_absent(
    setup: Setup, devices: Devices, programs: tuple[str, ...], report: Callable[[str], None]
) -> dict:
    """What `programs.compile_programs` returns, from the user's cache if it was compiled before.

    Args:
      setup, devices, programs: its arguments.
      report: called with a line before it is compiled.

    Raises:
      UserError: the compiler failed, or the mesh or batch fits no devices.
    """
    sources = [file.read_text() for file in sorted(PACKAGE.rglob('*.py'))]
    key = [
        sources,
        os.getenv('XLA_FLAGS'),
        vars(devices),
        vars(setup.dataset),
        setup.config.to_json(),
        programs,
        compiler_versions(),
    ]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    file = user_cache() / 'plans' / f'{digest[:32]}.json'
    if exists(file):
        with contextlib.suppress(UserError):  # damaged: compiled again
            return read_json(file)
    report(f'{devices.word}, batch {setup.config.batch}: {", ".join(programs)}')
    compiled = _compile_in_process(setup, devices, programs)
    with contextlib.suppress(OSError, UserError):  # without a cache it is compiled every time
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, compiled)
    return compiled


def _compile_in_process(setup: Setup, devices: Devices, programs: tuple[str, ...]) -> dict:
    flags = {
        'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} {NO_AUTOTUNING}',
        'PYTHONPATH': os.pathsep.join(sys.path),
    }
    process = subprocess.run(
        [sys.executable, '-m', __name__],
        env=os.environ | ENVIRONMENT | flags,
        input=pickle.dumps((setup, devices, HARDWARE[devices.kind], programs)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # libtpu logs that there is no TPU
    )
    if process.returncode:
        raise UserError(_failure(devices, f'its process ended with {process.returncode}'))
    answer = json.loads(process.stdout.splitlines()[-1])
    if 'error' in answer:
        raise UserError(answer['error'])
    return answer


def _failure(devices: Devices, text: str) -> str:
    hint = 'try other devices, or another version of jax'
    return f'--devices={devices.word}: the compiler failed: {text}; {hint}'


def _answer(setup: Setup, devices: Devices, *arguments) -> dict:
    """What `compile_programs` returns, or the message of an 'error'."""
    from mixer_dilated.planning.programs import compile_programs

    try:
        return compile_programs(setup, devices, *arguments)
    except UserError as error:
        return {'error': str(error)}
    except Exception as error:  # of many types, from XLA
        return {'error': _failure(devices, ' '.join(str(error).split())[:300])}


def compiler_versions() -> dict[str, str]:
    """Of the packages that a result depends on, as far as they are installed."""
    installed = filter(importlib.util.find_spec, VERSIONS)
    return {name: importlib.metadata.version(name) for name in installed}


if __name__ == '__main__':
    print(json.dumps(_answer(*pickle.load(sys.stdin.buffer))))
