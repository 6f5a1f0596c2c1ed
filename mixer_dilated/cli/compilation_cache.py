"""Compiled programs kept between runs, so that a second start does not compile again."""

import hashlib
import os
import pathlib
import platform
import tempfile
import warnings

from mixer_dilated.paths import user_cache

_MIN_SECONDS = 'jax_persistent_cache_min_compile_time_secs'


def keep_compiled_programs() -> None:
    """Switches JAX's persistent compilation cache on, in the user's cache folder.

    JAX's own settings go before: JAX_ENABLE_COMPILATION_CACHE=false switches it off, and with
    JAX_COMPILATION_CACHE_DIR it lies elsewhere. It stays off for Intel CPUs, where XLA refuses its
    own programs when it reads them back (https://github.com/jax-ml/jax/issues/38445). A folder
    that cannot be written costs compile time and a warning, nothing else.
    """
    import jax

    from mixer_dilated.parallel.multihost import all_devices

    if not jax.config.jax_enable_compilation_cache:
        return
    if _MIN_SECONDS.upper() not in os.environ:
        # JAX's default of a second leaves out programs that together take several.
        jax.config.update(_MIN_SECONDS, 0.2)
    if jax.config.jax_compilation_cache_dir:
        return
    processor = _processor()
    if 'GenuineIntel' in processor and all_devices()[0].platform == 'cpu':
        return
    # Programs for one kind of processor may not run on another that shares the folder.
    folder = user_cache() / 'compiled' / hashlib.sha256(processor.encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        warnings.warn(f'compiled programs are not kept: {folder}: {error}', stacklevel=2)
        return
    jax.config.update('jax_compilation_cache_dir', str(folder))


def _processor() -> str:
    try:
        lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    names = ('vendor_id', 'flags', 'Features')
    first = {line.split(':')[0].strip(): line for line in lines if line.startswith(names)}
    return ' '.join([platform.machine(), platform.processor(), *first.values()])
