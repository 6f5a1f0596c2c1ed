"""TensorBoard events, written by the thread that trains: an error of the disk ends the run there.

tensorboardX's own writer hands them to a thread; when that dies of a full disk, the next waits
for it for ever.
"""

import math
import pathlib
import time
from collections.abc import Mapping

FLUSH_SECONDS = 10.0


class EventsFile:
    """Scalars by step, in a new file of events.

    Args:
      folder: made if it is not there.
      first_step: what earlier files of the folder hold from this step on is void.

    Raises:
      OSError: as its methods, if the file cannot be written.
    """

    def __init__(self, folder: pathlib.Path, first_step: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        self._event = Event
        # A file of its own, though the run be stopped and resumed within a second.
        self._file = EventsWriter(str(folder / 'events'), f'.{time.time_ns()}')
        start = SessionLog(status=SessionLog.START)
        self._file.write_event(Event(wall_time=time.time(), step=first_step, session_log=start))
        self._flushed = time.monotonic()

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Adds a scalar a name; those that are not finite, which no curve shows, are left out."""
        from tensorboardX.proto.summary_pb2 import Summary

        scalars = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in values.items()
            if math.isfinite(value)
        ]
        self._file.write_event(
            self._event(wall_time=time.time(), step=step, summary=Summary(value=scalars))
        )
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._file.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Writes what is still in memory."""
        self._file.close()
