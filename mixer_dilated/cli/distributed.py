"""Joins the processes that train together, with `jax.distributed`, and ends them."""

import collections
import contextlib
import ctypes
import functools
import importlib.util
import os
import re
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import NoReturn

from mixer_dilated.errors import AllHostsError, HostLostError, UserError, printable

HEARTBEAT_SECONDS = 30  # after which a process that sends no heartbeat counts as ended
INIT_SECONDS = 300  # for all processes to join
SHUTDOWN_SECONDS = 30  # that a process which is done waits for the others
QUIET_SECONDS = 30  # of joining before a message says what is waited for
CAUSES = {  # by what JAX says, the first that applies
    'Gloo': 'they reach process 0, but not each other',
    'DEADLINE_EXCEEDED': f'not all of them were there within {INIT_SECONDS // 60} minutes',
    'newer incarnation': 'another one has the same --process_id',
    'Unexpected task registered': 'process 0 was started with another --num_processes',
    'UNIMPLEMENTED': 'something else answers at that address',
    'stopped sending heartbeats': 'another one has ended, and its own output says why',
}

_process_index = None  # of this process among several


def is_distributed() -> bool:
    """Whether this is one of several processes."""
    return _process_index is not None


def is_primary() -> bool:
    """Whether this process prints for all."""
    return not _process_index


def prefix_process(text: str) -> str:
    """A message of this process alone, after its number where there are others."""
    return f'process {_process_index}: {text}' if is_distributed() else text


def init_distributed(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the other processes, if there are any; to be called before JAX is used.

    Without arguments those that Slurm (`srun`) or the Cloud TPU has started; `num_processes` = 1
    alone joins none.

    Args:
      coordinator: HOST:PORT of process 0.
      num_processes: how many train together.
      process_id: which of them this is, from 0.

    Raises:
      UserError: flags that do not go together, processes that do not join or that cannot reach each
        other, or different numbers of devices.
    """
    if num_processes == 1 and coordinator is None:
        return
    settings = _parse_settings(coordinator, num_processes, process_id)
    has_others = True if settings else _has_others()
    if has_others is False:
        return
    at = f' at {coordinator}' if settings else ''
    text = f'waits for the other processes{at}, for {INIT_SECONDS // 60} minutes at most'
    waiting = threading.Timer(QUIET_SECONDS, lambda: print(text, file=sys.stderr))
    waiting.daemon = True
    waiting.start()
    try:
        with hold_back_stderr(functools.partial(_init_error, settings)):
            _initialize(settings)
    except UserError:
        raise
    except Exception as error:
        if has_others or is_distributed():
            raise UserError(_init_error(settings, str(error))) from None
        cause = ' '.join(str(error).split())[:300]
        text = f'no other hosts of a Cloud TPU were found ({cause}): this one computes alone'
        warnings.warn(text, stacklevel=2)
    finally:
        waiting.cancel()
    if is_distributed():
        aborted = HostLostError('JAX or a library aborted this one; see above')
        print_on_abort(lambda: prefix_process(str(aborted)))


def _initialize(settings: dict) -> None:
    global _process_index
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')  # a lost process is one line of ours
    import jax
    from jax.experimental import multihost_utils

    from mixer_dilated.parallel.multihost import all_devices

    # It would take SIGTERM for itself; here a signal to one process stops all.
    jax.config.update('jax_enable_preemption_service', False)
    jax.distributed.initialize(
        **settings,
        initialization_timeout=INIT_SECONDS,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=SHUTDOWN_SECONDS,
    )
    if jax.process_count() == 1:
        return
    _process_index = jax.process_index()
    counts = collections.Counter(device.process_index for device in all_devices())
    if len(set(counts.values())) > 1:
        numbers = f'different numbers of devices ({dict(sorted(counts.items()))}, by process)'
        hint = 'give each as many, for example by CUDA_VISIBLE_DEVICES'
        raise AllHostsError(f'the processes have {numbers}; {hint}')
    # gloo prints every group of processes to the descriptor 1, which Python leaves to it.
    sys.stdout.flush()
    own, encoding = os.dup(1), sys.stdout.encoding
    sys.stdout = open(own, 'w', buffering=1, encoding=encoding, errors='replace')  # noqa: SIM115
    with open(os.devnull, 'w') as devnull:
        os.dup2(devnull.fileno(), 1)
    # So far all reached process 0; this connects each with the others.
    multihost_utils.sync_global_devices('init_distributed')


def shutdown() -> None:
    """Waits until all processes are here, and leaves them."""
    if is_distributed():
        import jax

        with contextlib.suppress(Exception):
            jax.distributed.shutdown()


def exit_now(status: int) -> NoReturn:
    """Ends the process at once, without waiting for the others."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _parse_settings(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> dict:
    """Arguments of `jax.distributed.initialize`; none without flags."""
    flags = {'coordinator': coordinator, 'num_processes': num_processes, 'process_id': process_id}
    missing = [name for name, value in flags.items() if value is None]
    if len(missing) == len(flags):
        return {}
    if missing:
        together = '--coordinator=HOST:PORT, --num_processes=N and --process_id=K, from 0 to N-1,'
        raise UserError(f'--{missing[0]} is missing; {together} go together')
    address = re.fullmatch('.+:([0-9]{1,5})', flags.pop('coordinator'))
    if not address or not 0 < int(address[1]) < 2**16:
        allowed = 'the host of process 0 and a free port there, like 10.0.0.1:1234'
        raise UserError(f'--coordinator={coordinator}: allowed is {allowed}')
    if process_id >= num_processes:
        allowed = f'0 to {num_processes - 1}, of --num_processes={num_processes}'
        raise UserError(f'--process_id={process_id}: allowed are {allowed}')
    flags['cluster_detection_method'] = 'deactivate'
    return {'coordinator_address': coordinator, **flags}


def _has_others() -> bool | None:
    """Whether `srun` or a Cloud TPU has started others with this one; None if JAX has to ask."""
    tasks = os.environ.get('SLURM_STEP_NUM_TASKS', '')
    if 'SLURM_STEP_NODELIST' in os.environ and tasks.isdecimal() and int(tasks) > 1:
        return True
    if importlib.util.find_spec('libtpu') is None or os.environ.get('JAX_PLATFORMS') == 'cpu':
        return False
    if 'TPU_WORKER_HOSTNAMES' in os.environ:
        return ',' in os.environ['TPU_WORKER_HOSTNAMES']
    return False if 'TPU_SKIP_MDS_QUERY' in os.environ else None  # there is none to ask on Colab


def _init_error(settings: dict, message: str) -> str:
    """Why the processes did not come together, from the message of JAX."""
    status = re.search(r'absl::Status: (.+)', message)
    cause = status[1] if status else ' '.join(message.split())[:300]
    cause = next((CAUSES[sign] for sign in CAUSES if sign in cause), cause)
    prefix = f'--coordinator={settings["coordinator_address"]}: ' if settings else ''
    hint = 'start the same command on all of them, or this one alone with --num_processes=1'
    if settings:
        hint = 'start all of them with the same --coordinator=HOST:PORT and --num_processes, '
        hint += 'each with its own --process_id, and a port that is free on that host'
    if cause == CAUSES['Gloo']:
        hint = 'open all ports between the hosts, and let the name of each resolve on the others'
    return f'{prefix}the processes did not come together: {cause}; {hint}'


_abort_handler = None  # kept as long as the process lives


def print_on_abort(text: Callable[[], str], to: int = 2) -> None:
    """Makes an abort of this process print one line as its error, with exit status 2.

    JAX aborts from a separate thread, which Python's signal handlers do not reach in time.
    """
    global _abort_handler

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def handler(_):
        os.write(to, f'error: {printable(text())}\n'.encode())
        os._exit(2)

    ctypes.CDLL(None).signal(signal.SIGABRT, handler)
    _abort_handler = handler


@contextlib.contextmanager
def hold_back_stderr(abort_text: Callable[[str], str]) -> Iterator[None]:
    """Holds back what libraries write to standard error; Python's `sys.stderr` still works.

    An abort prints `abort_text` of it instead, and an exception, which says it all, drops it.
    """
    python_stderr, real = sys.stderr, os.dup(2)
    own = open(os.dup(2), 'w', buffering=1, errors='replace')  # noqa: SIM115
    with tempfile.TemporaryFile() as held, own as sys.stderr:
        content = functools.partial(os.pread, held.fileno(), 2**16, 0)
        os.dup2(held.fileno(), 2)
        print_on_abort(lambda: abort_text(content().decode(errors='replace')), real)
        try:
            yield
            os.write(real, content())
        finally:
            ctypes.CDLL(None).signal(signal.SIGABRT, None)
            sys.stderr = python_stderr
            os.dup2(real, 2)
            os.close(real)
