"""Several processes that train together, with `jax.distributed`."""

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
from collections.abc import Callable

from mixer_dilated.cli.arguments import Arguments
from mixer_dilated.errors import HostLostError, UserError, printable

HEARTBEAT_SECONDS = 30  # after which a process that says nothing counts as ended
WAIT_SECONDS = 300  # for all processes to come
END_SECONDS = 30  # that a process which is done waits for the others
SILENT_SECONDS = 30  # of these without a word
CAUSES = {  # by what JAX says
    'DEADLINE_EXCEEDED': f'not all of them were there within {WAIT_SECONDS // 60} minutes',
    'newer incarnation': 'another one has the same --process_id',
    'Unexpected task registered': 'process 0 was told of another number of processes',
    'UNIMPLEMENTED': 'at that address something else answers',
}
FLAGS = ('coordinator', 'num_processes', 'process_id')

_index = None  # of this process among several


def is_one_of_several() -> bool:
    """Whether this is one of several processes."""
    return _index is not None


def is_silent() -> bool:
    """Whether another process is the one that prints."""
    return bool(_index)


def of_process(text: str) -> str:
    """What this process says of itself: with its number, where there are others."""
    return f'process {_index}: {text}' if is_one_of_several() else text


def init_distributed(arguments: Arguments) -> None:
    """Joins the other processes, if there are any; to be called before JAX is used.

    With --coordinator, --num_processes and --process_id those of these flags; with
    --num_processes=1 alone none; else those that Slurm (`srun`) or the Cloud TPU has started.

    Raises:
      UserError: flags that do not go together, or not all processes come.
    """
    if arguments.num_processes == 1 and arguments.coordinator is None:
        return
    settings = _from_flags(arguments)
    if settings is None and not _started_by_slurm() and not _may_be_tpu_pod():
        return
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')  # the end of others is told in a line
    import jax

    # It would take SIGTERM for itself; here a signal to one process stops all.
    jax.config.update('jax_enable_preemption_service', False)
    waiting = threading.Timer(SILENT_SECONDS, _say_waiting, [settings])
    waiting.daemon = True
    waiting.start()
    try:
        with replace_stderr(functools.partial(_not_together, settings)):
            jax.distributed.initialize(
                **settings or {},
                initialization_timeout=WAIT_SECONDS,
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
                shutdown_timeout_seconds=END_SECONDS,
            )
    except Exception as error:
        if settings is None and not _started_by_slurm() and not _hosts_of_tpu():
            _warn_alone(' '.join(str(error).split())[:300])
            return
        raise UserError(_not_together(settings, str(error))) from None
    finally:
        waiting.cancel()
    _become_one()


def _say_waiting(settings: dict | None) -> None:
    at = f' at {settings["coordinator_address"]}' if settings else ''
    print(
        f'waits for the other processes{at}, for {WAIT_SECONDS // 60} minutes at most',
        file=sys.stderr,
    )


def _not_together(settings: dict | None, said: str) -> str:
    """Why the processes did not come together, of what JAX says."""
    status = re.search(r'absl::Status: (.+)', said)
    cause = status[1] if status else ' '.join(said.split())[:300]
    for sign, meaning in CAUSES.items():
        if sign in cause:
            cause = meaning
    hint = (
        'start all of them with the same --coordinator=HOST:PORT and --num_processes, each '
        'with its own --process_id, and a port that is free on that host'
        if settings
        else 'start the same command on all of them, or this one alone with --num_processes=1'
    )
    return f'the processes did not come together: {cause}; {hint}'


def _become_one() -> None:
    global _index
    import jax

    if jax.process_count() == 1:
        return
    counts = collections.Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:
        raise UserError(
            f'the processes have different numbers of devices ({dict(sorted(counts.items()))}, by '
            'process); give each as many, for example by CUDA_VISIBLE_DEVICES'
        )
    _keep_output_to_python()
    _index = jax.process_index()
    print_on_abort(
        lambda: of_process(str(HostLostError('JAX or a library aborted this one; see above')))
    )


def _keep_output_to_python() -> None:
    """What libraries print past Python goes nowhere: gloo tells of every group of processes."""
    sys.stdout.flush()
    sys.stdout = open(  # noqa: SIM115
        os.dup(1), 'w', buffering=1, encoding=sys.stdout.encoding, errors='replace'
    )
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def leave(status: int) -> None:
    """Ends the process at once, without waiting for the others."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def end_together() -> None:
    """Waits until all processes are here, and leaves them."""
    import jax

    if is_one_of_several():
        with contextlib.suppress(Exception):
            jax.distributed.shutdown()


def _from_flags(arguments: Arguments) -> dict | None:
    """Settings of `jax.distributed.initialize`; None without flags."""
    given = {name: getattr(arguments, name) for name in FLAGS}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(FLAGS):
        return None
    if missing:
        raise UserError(
            f'--{missing[0]} is missing; --coordinator=HOST:PORT, --num_processes=N and '
            '--process_id=K, from 0 to N-1, go together'
        )
    host, _, port = given['coordinator'].rpartition(':')
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 2**16:
        raise UserError(
            f'--coordinator={given["coordinator"]}: allowed is the host of process 0 and a free '
            'port there, like 10.0.0.1:1234'
        )
    if given['process_id'] >= given['num_processes']:
        raise UserError(
            f'--process_id={given["process_id"]}: allowed are 0 to {given["num_processes"] - 1}, '
            f'of --num_processes={given["num_processes"]}'
        )
    return {
        'coordinator_address': given['coordinator'],
        'num_processes': given['num_processes'],
        'process_id': given['process_id'],
        'cluster_detection_method': 'deactivate',
    }


def _started_by_slurm() -> bool:
    """Whether `srun` started this process and others with it."""
    tasks = os.environ.get('SLURM_STEP_NUM_TASKS', '')
    return 'SLURM_STEP_NODELIST' in os.environ and tasks.isdecimal() and int(tasks) > 1


def _hosts_of_tpu() -> bool:
    """Whether a Cloud TPU has said that it has several hosts."""
    return ',' in os.environ.get('TPU_WORKER_HOSTNAMES', '')


def _may_be_tpu_pod() -> bool:
    """Whether there may be hosts of a Cloud TPU, which JAX finds out; not so on Colab."""
    if importlib.util.find_spec('libtpu') is None or os.environ.get('JAX_PLATFORMS') == 'cpu':
        return False
    if 'TPU_WORKER_HOSTNAMES' in os.environ:
        return _hosts_of_tpu()
    return 'TPU_SKIP_MDS_QUERY' not in os.environ


def _warn_alone(cause: str) -> None:
    warnings.warn(
        f'no other hosts of a Cloud TPU were found ({cause}): this one computes alone', stacklevel=3
    )


_abort_handler = None  # kept as long as the process lives


def print_on_abort(text: Callable[[], str], to: int = 2) -> None:
    """Makes an abort of this process print one line as its error, with exit status 2.

    JAX aborts from a thread of its own, which Python's signal handlers do not reach in time.
    """
    global _abort_handler

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def handler(_):
        os.write(to, f'error: {printable(text())}\n'.encode())
        os._exit(2)

    ctypes.CDLL(None).signal(signal.SIGABRT, handler)
    _abort_handler = handler


@contextlib.contextmanager
def replace_stderr(text: Callable[[str], str]):
    """Holds back what libraries write to standard error; an abort prints `text` of it instead."""
    own, real = sys.stderr, os.dup(2)
    with (
        tempfile.TemporaryFile() as written,
        open(os.dup(2), 'w', buffering=1, errors='replace') as sys.stderr,
    ):

        def content() -> bytes:
            return os.pread(written.fileno(), 2**16, 0)

        os.dup2(written.fileno(), 2)
        print_on_abort(lambda: text(content().decode(errors='replace')), real)
        try:
            yield
        finally:
            ctypes.CDLL(None).signal(signal.SIGABRT, None)
            sys.stderr = own
            os.dup2(real, 2)
            os.close(real)
            os.write(2, content())
