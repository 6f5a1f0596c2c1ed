"""SIGINT (Ctrl-C) and SIGTERM (a machine that is taken away): stop in good time, lose nothing.

The first signal ends the program at once where nothing would be lost. While a run trains it is
only noted: the run looks once a second, saves and stops. A thread of its own sees to it that the
program ends in any case, `PATIENCE` seconds after the first signal and at once after a second,
also while Python waits for a library and cannot hear.

Python raises KeyboardInterrupt wherever the program happens to be. Inside a callback of a library
it is printed and forgotten, inside an import it turns into another error. So it is also noted.
"""

import os
import signal
import sys
import threading
import time

PATIENCE = 9.0
TOGETHER = 0.5  # seconds within which signals are one: some send it to a process and to its group
SIGNALS = (signal.SIGINT, signal.SIGTERM)

_received = 0
_waiting = False


def listen() -> None:
    """Notes both signals from now on."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_see_to_the_end, args=(reading,), daemon=True).start()
    for number in SIGNALS:
        signal.signal(number, _note)


def received() -> bool:
    """Whether there was one."""
    return bool(_received)


def check() -> None:
    """Raises KeyboardInterrupt if there was one that did not stop the program."""
    if _received:
        raise KeyboardInterrupt


def stop_when_asked() -> None:
    """From now on the program itself looks at `received`, and stops when it has saved."""
    global _waiting
    check()
    _waiting = True


def stop_at_once() -> None:
    """From now on a signal raises KeyboardInterrupt: nothing would be lost."""
    global _waiting
    _waiting = False


def exit_now() -> None:
    """Ends the process with 128 + the number of the signal, as shells expect (130 and 143)."""
    if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), b'\x1b[?25h')  # a progress bar hides the cursor
    # A compilation that goes on in the background crashes the interpreter's own shutdown.
    os._exit(128 + (_received or signal.SIGINT))


def _note(signum, frame) -> None:
    global _received
    _received = _received or signum
    if not _waiting:
        raise KeyboardInterrupt


def _see_to_the_end(reading: int) -> None:
    global _received
    numbers = [0]
    while numbers[0] not in SIGNALS:
        numbers = os.read(reading, 1)
    _received = _received or numbers[0]
    second = threading.Thread(target=_wait_for_another, args=(reading,), daemon=True)
    second.start()
    second.join(PATIENCE)
    how = 'ended before it was saved; the newest checkpoint is kept' if _waiting else 'interrupted'
    os.write(sys.stderr.fileno(), f'\n{how}\n'.encode())
    exit_now()


def _wait_for_another(reading: int) -> None:
    first = time.monotonic()
    while os.read(reading, 1)[0] not in SIGNALS or time.monotonic() - first < TOGETHER:
        pass
