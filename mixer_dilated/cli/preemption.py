"""SIGINT (Ctrl-C) and SIGTERM (a machine that is taken away): stop in good time, lose nothing.

Where nothing would be lost a signal ends the program at once. While a run trains it only requests
a stop: the run asks for it once a second, saves and stops. A watching thread handles both, since
Python's handlers do not run while it waits for a library; in training the thread ends the program
`GRACE_SECONDS` after the first signal in any case, and at once after a second one.

KeyboardInterrupt is only for commands that clean up ('raise'): raised in an import or in
a callback of a library it is lost, or becomes another error.
"""

import contextlib
import os
import signal
import sys
import threading
import time

from mixer_dilated.files import remove_unfinished

GRACE_SECONDS = 9.0
SAME_SIGNAL_SECONDS = 0.5  # some send one signal to a process and to its group
SIGNALS = (signal.SIGINT, signal.SIGTERM)

_received = 0  # the first signal
_action = 'exit'
_exit_message = 'interrupted'


def install_handlers() -> None:
    """Handles both signals from now on."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in SIGNALS:
        signal.signal(number, _handle)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()


def requested() -> bool:
    """Whether a signal was received."""
    return bool(_received)


def exit_if_requested() -> None:
    if _received:
        _write(sys.stderr, f'\n{_exit_message}\n')
        exit_now()


def on_signal(action: str) -> None:
    """From now on a signal does this:

    - 'exit' ends the program: nothing would be lost;
    - 'defer' is a request: the program polls `requested`, saves and stops;
    - 'raise' raises KeyboardInterrupt; the program ends within `GRACE_SECONDS`.
    """
    global _action
    _action = action


def set_exit_message(message: str) -> None:
    """The message to print where a signal ends the program at once."""
    global _exit_message
    _exit_message = message


def exit_now() -> None:
    """Ends the process with 128 + the number of the signal, as shells expect (130 and 143)."""
    if sys.stdout and sys.stdout.isatty():
        _write(sys.stdout, '\x1b[?25h')  # a progress bar hides the cursor
    remove_unfinished()
    # A compilation in the background crashes the interpreter's own shutdown.
    os._exit(128 + (_received or signal.SIGINT))


def _handle(signum, frame) -> None:
    global _received
    _received = _received or signum
    if _action == 'raise':
        raise KeyboardInterrupt


def _watch(reader: int) -> None:
    """Waits for the first signal, and ends the program when its time is over."""
    global _received
    number = _read_signal(reader)
    _received = _received or number
    if _action != 'exit':
        second = threading.Thread(target=_wait_for_second, args=(reader,), daemon=True)
        second.start()
        second.join(GRACE_SECONDS)
    lost = 'ended before it was saved; the newest checkpoint is kept'
    _write(sys.stderr, f'\n{lost if _action == "defer" else _exit_message}\n')
    exit_now()


def _wait_for_second(reader: int) -> None:
    first = time.monotonic()
    while _read_signal(reader) and time.monotonic() - first < SAME_SIGNAL_SECONDS:
        pass


def _read_signal(reader: int) -> int:
    number = 0
    while number not in SIGNALS:
        number = os.read(reader, 1)[0]
    return number


def _write(stream, text: str) -> None:
    """Past Python's buffer, which another thread may hold; nothing where nobody reads."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.write(stream.fileno(), text.encode())
