"""The next batches, on their way to the device while it computes: `DevicePrefetcher`."""

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from mixer_dilated.data.stream import Stream, signals_blocked

POLL_SECONDS = 0.1  # seconds between two looks whether it should end


class DevicePrefetcher:
    """The batches of a stream, some of which are on the device before they are used.

    A thread takes them from the stream and places them. What goes wrong there is raised where the
    batch is asked for.

    Args:
      open_stream: gives the `Stream`; the thread calls it.
      place: a batch on the host to the same on the devices.
      ahead: batches placed before they are asked for.

    Attributes:
      waited: seconds that were spent in asking for batches.
      taken: how many were given.
    """

    def __init__(self, open_stream: Callable[[], Stream], place: Callable, ahead: int):
        self.waited, self.taken = 0.0, 0
        self._open_stream, self._place, self._stream = open_stream, place, None
        self._ready = queue.Queue(ahead)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._fill, name='feed', daemon=True)
        self._thread.start()

    def next_batch(self, patience: float | None = None) -> Any:
        """The next batch; None if it is not there within `patience` seconds."""
        start = time.perf_counter()
        try:
            batch, error = self._ready.get(timeout=patience)
        except queue.Empty:
            return None
        finally:
            self.waited += time.perf_counter() - start
        if error is not None:
            self._ready.put((None, error))  # for whoever asks again
            raise error
        self.taken += 1
        return batch

    def close(self) -> None:
        """Ends the thread and the workers of its stream."""
        self._closing.set()
        if self._stream is not None:
            self._stream.stop()
        self._thread.join()

    def _fill(self) -> None:
        with signals_blocked():
            try:
                self._stream = self._open_stream()
                while not self._closing.is_set():
                    self._put((self._place(next(self._stream)), None))
            except BaseException as error:
                self._put((None, error))
            finally:
                if self._stream is not None:
                    self._stream.close()

    def _put(self, item: tuple) -> None:
        while not self._closing.is_set():
            try:
                self._ready.put(item, timeout=POLL_SECONDS)
                return
            except queue.Full:
                pass
