"""The compilers of devices that are not there, each asked in a separate process."""

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import os
import pathlib
import pickle
import subprocess
import sys
from collections.abc import Callable

from mixer_dilated.errors import UserError
from mixer_dilated.files import read_json, write_json
from mixer_dilated.paths import user_cache
from mixer_dilated.planning.devices import Devices
from mixer_dilated.planning.programs import compile_programs, compiler_versions
from mixer_dilated.training.setup import Setup

PACKAGE = pathlib.Path(__file__).parents[1]
ENVIRONMENT = {
    'JAX_PLATFORMS': 'cpu',
    'TPU_SKIP_MDS_QUERY': '1',  # asks no server whether this is a TPU's machine
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}
NO_AUTOTUNING = '--xla_gpu_autotune_level=0'  # there is no GPU to time kernels on
# Without timing XLA may tile a product of few columns as none of its kernels can.
NO_TRITON_PRODUCTS = '--xla_gpu_enable_triton_gemm=false'


def check_compiler(devices: Devices) -> None:
    """Raises UserError, which says what to install, if the devices' compiler is not there."""
    plugin, package = 'jax_cuda13_plugin', 'jax[cuda13-local]'
    if devices.is_tpu:
        plugin, package = 'libtpu', 'jax[tpu]'
    if devices.kind != 'this' and not importlib.util.find_spec(plugin):
        raise UserError(
            f'--devices={devices.word}: its compiler, {plugin}, is not installed; run '
            f"pip install '{package}', or plan for this machine with --devices=this"
        )


def compile_for(
    setup: Setup, devices: Devices, programs: tuple[str, ...], report: Callable[[str], None]
) -> dict:
    """What `compile_programs` returns; for absent devices it is kept in the user's cache.

    Before programs are compiled for absent devices, `report` is called with a line.

    Raises:
      UserError: the compiler failed, or the mesh or batch fits no devices.
    """
    if devices.kind == 'this':
        return compile_programs(setup, devices, programs)
    key = [
        [file.read_text() for file in sorted(PACKAGE.rglob('*.py'))],
        os.getenv('XLA_FLAGS'),
        dataclasses.asdict(devices),
        vars(setup.dataset),
        setup.config.to_json(),
        programs,
        compiler_versions(),
    ]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    file = user_cache() / 'plans' / f'{digest[:32]}.json'
    with contextlib.suppress(UserError):  # not there, or damaged
        return read_json(file)
    report(f'{devices.word}, batch {setup.config.batch}: {", ".join(programs)}')
    work = pickle.dumps((setup, devices, programs))
    compiled = _compile_in_process(work, NO_AUTOTUNING)
    if 'failure' in compiled and not devices.is_tpu:
        compiled = _compile_in_process(work, f'{NO_AUTOTUNING} {NO_TRITON_PRODUCTS}')
    if 'failure' in compiled:
        raise UserError(
            f'--devices={devices.word}: the compiler failed: {compiled["failure"]}; try other '
            'devices, or another version of jax'
        )
    if 'error' in compiled:
        raise UserError(compiled['error'])
    with contextlib.suppress(OSError, UserError):  # without a cache it is compiled every time
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, compiled)
    return compiled


def _compile_in_process(work: bytes, xla_flags: str) -> dict:
    """What `programs` prints of pickled (setup, devices, programs), or its 'failure'."""
    flags = {
        'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} {xla_flags}',
        'PYTHONPATH': os.pathsep.join(sys.path),
    }
    process = subprocess.run(
        [sys.executable, '-m', compile_programs.__module__],
        env=os.environ | ENVIRONMENT | flags,
        input=work,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # libtpu logs that there is no TPU
    )
    if process.returncode:
        return {'failure': f'its process ended with {process.returncode}'}
    return json.loads(process.stdout.splitlines()[-1])
