"""TensorBoard event files, written synchronously."""

import math
import pathlib
import time
from typing import Any

from seqjax.errors import printable
from seqjax.run.records import accessing


class Events:
    """A logger that writes a TensorBoard event file.

    tensorboardX's SummaryWriter hands events to a thread through a queue: where the disk is full the thread dies, the
    queue fills, and the run hangs. Its parts are used without the thread, so that the error comes to the caller.

    Args:
      folder: where the file is written.
      first_step: the step that the run starts or resumes from; later steps of earlier sessions are hidden.

    Raises:
      UserError: the folder cannot be written.
    """

    def __init__(self, folder: pathlib.Path, first_step: int):
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2

        self._folder, self._summary, self._event = folder, summary, event_pb2.Event  # pyright: ignore[reportAttributeAccessIssue]
        with accessing(folder):
            folder.mkdir(exist_ok=True)
            self._writer = event_file_writer.EventsWriter(str(folder / "events"))
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)  # pyright: ignore[reportAttributeAccessIssue]
            self._put(session_log=start, step=first_step + 1)

    def log(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Writes the numbers and texts of a record."""
        with accessing(self._folder):
            for name, value in values.items():
                if isinstance(value, str):
                    self._put(summary=self._summary.text(f"{kind}/{name}", printable(value)), step=step)
                elif value is not None and math.isfinite(value):
                    self._put(summary=self._summary.scalar(f"{kind}/{name}", value), step=step)
            self._writer.flush()

    def _put(self, **content: Any) -> None:
        self._writer.write_event(self._event(wall_time=time.time(), **content))

    def close(self) -> None:
        """Closes the file."""
        with accessing(self._folder):
            self._writer.close()
