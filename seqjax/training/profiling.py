"""A profiler trace of a few training steps, to view in a browser."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator

import jax

from seqjax.errors import UserError


def check_steps(steps: tuple[int, int], *, first: int, last: int) -> None:
    """Refuse to trace steps that this session will not run.

    Args:
      steps: the first and the last step to trace.
      first: steps already done.
      last: the run's last step.

      Raises:
        UserError: other steps; the message says which can be traced.

    Example:
      >>> check_steps((3, 12), first=0, last=10)
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: profile=3:12 must be steps of this session, 1 to 10
    """
    if not first < steps[0] <= steps[1] <= last:
        raise UserError(f"profile={steps[0]}:{steps[1]} must be steps of this session, {first + 1} to {last}")


class Profile:
    """Traces some steps of a run with `jax.profiler`; as a context manager, it ends a trace cut short by an error or a signal.

    Args:
      steps: the first and the last step to trace, counted as in the log, or None for no trace.
      workdir: the trace is written to its folder `profile`.
      first: steps already done.
      last: the run's last step.
      say: shows a line that says where the trace is and how to view it.

    Raises:
      UserError: the steps are not among those from `first` + 1 to `last`.
      ValueError: steps without a work directory.
    """

    def __init__(
        self,
        steps: tuple[int, int] | None,
        workdir: pathlib.Path | None,
        *,
        first: int,
        last: int,
        say: Callable[[str], None],
    ):
        self._steps, self._say, self._running = steps, say, False
        if steps is None:
            return
        if workdir is None:
            raise ValueError("profile needs a work directory")
        check_steps(steps, first=first, last=last)
        self._folder = workdir / "profile"

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_) -> None:
        self._stop()

    @contextlib.contextmanager
    def around(self, step: int, wait: Callable[[], None]) -> Iterator[None]:
        """Surrounds one step; starts the trace before the first and ends it after the last.

        Args:
          step: the number of the next step.
          wait: waits for the device, so that the trace holds exactly these steps.
        """
        if self._steps is None:
            yield
            return
        if step == self._steps[0]:
            wait()
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._running = True
        yield
        if step == self._steps[1]:
            wait()
            self._stop()

    def _stop(self) -> None:
        if self._running and self._steps is not None:
            self._running = False
            jax.profiler.stop_trace()
            self._say(
                f"trace of steps {self._steps[0]} to {self._steps[1]}: {self._folder}; open its perfetto_trace.json.gz at "
                "https://ui.perfetto.dev, or the folder with XProf or TensorBoard's profile plugin"
            )
