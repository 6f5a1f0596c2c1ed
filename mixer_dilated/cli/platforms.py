"""A machine that can compile for TPUs and GPUs need not have any."""

import glob
import importlib.util
import os
import pathlib

PLUGINS = ('libtpu', 'jax_cuda13_plugin', 'jax_cuda12_plugin')
# Files of devices: NVIDIA's, WSL's, and TPUs' before and since v5p.
DEVICES = ('/dev/nvidia*', '/dev/dxg', '/dev/accel*', '/dev/vfio/[0-9]*')
VENDORS = {'0x1ae0', '0x10de', '0x1002'}  # Google, NVIDIA, AMD
VARIABLES = ('TPU_NAME', 'TPU_WORKER_ID', 'TPU_ACCELERATOR_TYPE', 'COLAB_TPU_ADDR')


def ignore_absent_accelerators() -> None:
    """Selects the CPU if a plugin of JAX's is installed whose device is not here.

    JAX would load each plugin and print why it finds no device. Has to be called before JAX is
    imported; JAX_PLATFORMS goes before.
    """
    installed = any(map(importlib.util.find_spec, PLUGINS))
    if installed and 'JAX_PLATFORMS' not in os.environ and not _has_accelerator():
        os.environ['JAX_PLATFORMS'] = 'cpu'


def _has_accelerator() -> bool:
    if any(map(glob.glob, DEVICES)) or not os.environ.keys().isdisjoint(VARIABLES):
        return True
    for file in pathlib.Path('/sys/bus/pci/devices').glob('*/vendor'):
        try:
            if file.read_text().strip() in VENDORS:
                return True
        except OSError:
            return True  # in doubt JAX looks itself
    return False
