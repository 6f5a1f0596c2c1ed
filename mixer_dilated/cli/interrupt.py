"""SIGINT (Ctrl-C) and SIGTERM (a machine that is taken away): stop in good time, lose nothing.

Where nothing would be lost a signal ends the program at once. While a run trains it is only noted:
the run looks once a second, saves and stops. A thread of its own sees to both, for Python hears
nothing while it waits for a library; in training it ends the program in any case, `GRACE_SECONDS`
seconds after the first signal and at once after a second.

KeyboardInterrupt is not used but by commands that clean up (`clean_up_first`): raised in an import
or in a callback of a library it is lost, or turns into another error.
"""

import contextlib
import os
import signal
import sys
import threading
import time

from mixer_dilated.files import remove_unfinished

GRACE_SECONDS = 9.0
TOGETHER = 0.5  # seconds within which signals are one: some send it to a process and to its group
SIGNALS = (signal.SIGINT, signal.SIGTERM)

_received = 0
_at_once = True
_raises = False
_last_words = 'interrupted'


def listen() -> None:
    """Sees to both signals from now on."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    for number in SIGNALS:
        signal.signal(number, _note)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_see_to_the_end, args=(reading,), daemon=True).start()


def received() -> bool:
    """Whether there was one."""
    return bool(_received)


def check() -> None:
    """Ends the program if there was one that did not end it."""
    if _received:
        _write(sys.stderr, f'\n{_last_words}\n')
        exit_now()


def stop_when_asked() -> None:
    """From now on the program itself looks at `received`, and stops when it has saved."""
    global _at_once
    _at_once = False


def stop_at_once() -> None:
    """From now on a signal ends the program: nothing would be lost."""
    global _at_once
    _at_once = True


def clean_up_first() -> None:
    """From now on a signal raises KeyboardInterrupt; the program ends within `GRACE_SECONDS`."""
    global _at_once, _raises
    _at_once, _raises = False, True


def say_at_the_end(words: str) -> None:
    """What to say where a signal ends the program at once."""
    global _last_words
    _last_words = words


def exit_now() -> None:
    """Ends the process with 128 + the number of the signal, as shells expect (130 and 143)."""
    if sys.stdout and sys.stdout.isatty():
        _write(sys.stdout, '\x1b[?25h')  # a progress bar hides the cursor
    remove_unfinished()
    # A compilation that goes on in the background crashes the interpreter's own shutdown.
    os._exit(128 + (_received or signal.SIGINT))


def _note(signum, frame) -> None:
    global _received
    _received = _received or signum
    if _raises:
        raise KeyboardInterrupt


def _see_to_the_end(reading: int) -> None:
    global _received
    numbers = [0]
    while numbers[0] not in SIGNALS:
        numbers = os.read(reading, 1)
    _received = _received or numbers[0]
    if not _at_once:
        second = threading.Thread(target=_wait_for_another, args=(reading,), daemon=True)
        second.start()
        second.join(GRACE_SECONDS)
    lost = not _at_once and not _raises
    words = 'ended before it was saved; the newest checkpoint is kept' if lost else _last_words
    _write(sys.stderr, f'\n{words}\n')
    exit_now()


def _wait_for_another(reading: int) -> None:
    first = time.monotonic()
    while os.read(reading, 1)[0] not in SIGNALS or time.monotonic() - first < TOGETHER:
        pass


def _write(stream, text: str) -> None:
    """Past Python's buffer, which another thread may hold; nothing where nobody reads."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.write(stream.fileno(), text.encode())
