"""Multi-host helpers; no-ops on a single host.

Every host calls them at the same place of the program.
"""

import contextlib
import json
import os
import pathlib
import re
import secrets
import time
import zlib
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from mixer_dilated.errors import AllHostsError, HostLostError, UserError
from mixer_dilated.files import read_bytes, write_text
from mixer_dilated.paths import exists

SHARED_DISK_SECONDS = 30  # within which all hosts see what the first has written
POLL_SECONDS = 0.1
MAX_TEXT_BYTES = 4096  # of a message, or a path
CONFIGS_DIFFER = (
    'the processes were started with different configs, or have different versions installed; '
    'start all with the same command, in the same environment (or independently, with '
    '--num_processes=1 and each in a separate folder)'
)
WEIGHTS_DIFFER = 'config.init_from: the processes read different weights; give all the same file'
DATA_DIFFERS = 'the processes found different examples; give all of them the same data'
# Settings of JAX that change results, or with which nothing can be computed.
SETTINGS = {
    'jax_enable_x64': False,
    'jax_default_prng_impl': 'threefry2x32',
    'jax_threefry_partitionable': True,
    'jax_random_seed_offset': 0,
    'jax_disable_jit': False,
    'jax_no_tracing': False,
    'jax_numpy_dtype_promotion': 'standard',
    'jax_numpy_rank_promotion': 'allow',
    'jax_transfer_guard': None,
}
PLATFORMS = ('JAX_PLATFORMS', 'JAX_PLATFORM_NAME')
# What libraries raise where another host has ended, or is out of reach.
LOST = re.compile(
    'gloo|nccl|unavailable|deadline_?exceeded|heartbeat|socket closed|coordination service|barrier',
    re.IGNORECASE,
)


def all_devices() -> list[jax.Device]:
    """`jax.devices()`; raises UserError if there are none, or for one of JAX's `SETTINGS`."""
    for name, needed in SETTINGS.items():
        value = getattr(jax.config, name, needed)
        if value != needed:
            raise UserError(
                f'{name.upper()}={value}: results would not be those of the config, or there would '
                f'be none; allowed is {needed}: unset it'
            )
    try:
        return jax.devices()
    # A platform that is not there is an AssertionError or a RuntimeError.
    except (AssertionError, RuntimeError) as error:
        cause = ' '.join(str(error).split()) or 'none of the platforms is here'
        given = [f'{name}={os.environ[name]}' for name in PLATFORMS if name in os.environ]
        names = ' and '.join(given or PLATFORMS)
        raise UserError(f'JAX finds no device: {cause}; check {names}') from None


def process_count() -> int:
    """`jax.process_count()`; raises UserError as `all_devices`."""
    all_devices()
    return jax.process_count()


def on_all_hosts(function: Callable, *args, **kwargs):
    """A function's result on this host; raises AllHostsError where it raised UserError on any."""
    if process_count() == 1:
        return function(*args, **kwargs)
    result = error = None
    try:
        result = function(*args, **kwargs)
    except HostLostError:
        raise
    except UserError as raised:
        error = raised
    failed = multihost_utils.process_allgather(np.int32(error is not None))
    if failed.any():
        host = int(failed.argmax())
        prefix = f'process {host}: ' if host else ''
        raise AllHostsError(prefix + _broadcast_text(str(error or ''), host)) from error
    return result


def on_primary(function: Callable, *args, **kwargs):
    """A function's result on the first host, None on others; raises as `on_all_hosts`."""
    return on_all_hosts(lambda: None if jax.process_index() else function(*args, **kwargs))


def broadcast(value):
    """A value of JSON as the first host has it."""
    if process_count() == 1:
        return value
    return json.loads(_broadcast_text(json.dumps(value)))


def any_host(value: bool) -> bool:
    """Whether a value is true on one of the hosts."""
    if process_count() == 1:
        return value
    return bool(multihost_utils.process_allgather(np.int32(value)).any())


def assert_equal_across_hosts(content, message: str) -> None:
    """Raises AllHostsError with a message unless all hosts have the same content, of JSON."""
    if process_count() == 1:
        return
    checksum = zlib.crc32(json.dumps(content, sort_keys=True).encode())
    try:
        multihost_utils.assert_equal(np.uint32(checksum))
    except AssertionError:
        raise AllHostsError(message) from None


def to_numpy(tree):
    """Whole NumPy arrays on every host, also of arrays whose shards lie on several."""

    def gather(leaf):
        is_local = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
        if is_local or leaf.is_fully_replicated:
            return np.asarray(leaf)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.device_get(tree) if process_count() == 1 else jax.tree.map(gather, tree)


@contextlib.contextmanager
def translate_host_loss():
    """Raises HostLostError for what libraries raise where another host has ended."""
    try:
        yield
    except Exception as error:
        # A UserError of this program's own is no loss, unless a library's error caused it.
        cause = error.__cause__ if isinstance(error, UserError) else error
        own = cause is None or isinstance(cause, UserError | OSError)
        if process_count() == 1 or own or not LOST.search(str(cause)):
            raise
        raise HostLostError(str(cause)) from error


def _broadcast_text(text: str, host: int = 0) -> str:
    """The text of one host, up to `MAX_TEXT_BYTES`."""
    buffer = np.zeros(MAX_TEXT_BYTES, np.uint8)
    encoded = np.frombuffer(text.encode(errors='surrogateescape')[:MAX_TEXT_BYTES], np.uint8)
    buffer[: len(encoded)] = encoded
    buffer = multihost_utils.broadcast_one_to_all(buffer, is_source=jax.process_index() == host)
    return np.asarray(buffer, np.uint8).tobytes().rstrip(b'\0').decode(errors='surrogateescape')


def check_shared_disk(workdir: pathlib.Path) -> None:
    """Raises AllHostsError unless all hosts see the folder in which the first writes."""
    if process_count() == 1:
        return
    mark, token = workdir / '.seen', broadcast(secrets.token_hex())
    on_primary(write_text, mark, token)
    on_all_hosts(
        wait_until_visible,
        lambda: exists(mark) and read_bytes(mark) == token.encode(),
        f'--workdir={workdir}: this process does not see the folder of process 0; name one on a '
        'disk that all processes share',
    )
    on_primary(mark.unlink)


def wait_until_visible(is_visible: Callable[[], bool], message: str) -> None:
    """Waits until this host sees on the shared disk what the first has written, or raises UserError
    with the message after `SHARED_DISK_SECONDS`.
    """
    deadline = time.monotonic() + SHARED_DISK_SECONDS
    while not is_visible():
        if time.monotonic() > deadline:
            raise UserError(message)
        time.sleep(POLL_SECONDS)
