"""Reporting during a run: records on disk, loggers that send them elsewhere, log lines and a progress bar."""

import importlib.util
import math
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from seqjax.errors import Styled, UserError, missing, printable
from seqjax.run.curves import plot_curves
from seqjax.run.events import Events
from seqjax.run.records import METRICS, TABLE, RecordFiles, read_records

__all__ = [
    "METRICS", "TABLE", "Logger", "Reporter", "Silent", "counted", "plot_curves", "printable", "read_records", "register_logger",
    "require_extras",
]  # fmt: skip

EXTRAS = ("rich", "tensorboardX", "matplotlib")
INDENT = 21  # columns of a line's step and kind


def require_extras() -> None:
    """Makes sure that the packages for reporting are installed.

    Raises:
      UserError: names what is missing.
    """
    absent = [name for name in EXTRAS if importlib.util.find_spec(name) is None]
    if absent:
        raise missing(f"experiments need {' and '.join(absent)}", "experiments")


class Logger(Protocol):
    """Sends the records of a run to another place."""

    def log(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Logs a record: kind is train, evaluation or sample; values are numbers, None or text."""

    def close(self) -> None:
        """Called when the run has ended or stopped."""


LoggerFactory = Callable[[pathlib.Path, dict[str, Any]], Logger]
_factories: list[LoggerFactory] = []


def register_logger(factory: LoggerFactory) -> LoggerFactory:
    """Registers a logger that gets the records of every run started after this.

    A record goes to the logger once it is on disk. An error in the logger ends the run with a line that names it; a
    logger that must not end a run catches its own errors. After a resume the records of the lost steps come again.

    Args:
      factory: called with a run's work directory and its config as dicts; gives an object with `log(kind, step, values)` and
        `close()`.

    Returns:
      The factory, so that this can be used as a decorator.

    Example, for Weights & Biases (https://docs.wandb.ai):

        @register_logger
        class WandbLogger:
            def __init__(self, workdir, config):
                import wandb

                # The id makes a resumed run continue the same curves.
                self.run = wandb.init(project="seqjax", id=workdir.name, resume="allow", dir=workdir, config=config)

            def log(self, kind, step, values):
                self.run.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)

            def close(self):
                self.run.finish()
    """
    if factory not in _factories:
        _factories.append(factory)
    return factory


def _name(factory: LoggerFactory) -> str:
    kind = factory if hasattr(factory, "__qualname__") else type(factory)
    return f"{kind.__module__}.{kind.__qualname__}"


class Reporter:
    """Writes the records of one run and shows its progress in the terminal.

    Every record is one JSON line with `kind` (train, evaluation, sample) and `step`; a value that is not finite is null.
    TensorBoard and the registered loggers get it after it is on the disk.

    Args:
      workdir: metrics go to metrics.jsonl and metrics.csv in it, events for TensorBoard to tensorboard/.
      first_step: the step that the run starts or resumes from.
      total_steps: where it will end.
      config: of the run, for the registered loggers.
      label: begins each text that is printed, where several runs report side by side.
      bar: show a progress bar; one of several runs does.

    Raises:
      UserError: a package is missing, a file cannot be written, the metrics file is damaged, or a logger cannot be made.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        first_step: int,
        total_steps: int,
        config: Mapping[str, Any] | None = None,
        label: str = "",
        bar: bool = True,
    ):
        require_extras()
        import rich.progress

        self._files = RecordFiles(workdir, first_step)
        self._loggers: dict[str, Logger] = {}  # in the order in which they get a record
        try:
            self._loggers["TensorBoard"] = Events(workdir / "tensorboard", first_step)
            for factory in _factories:
                name = _name(factory)
                self._loggers[name] = _guarded(name, "could not start", factory, workdir, dict(config or {}))
        except UserError as error:
            self._close(error)
            raise
        self._label = label
        self._to_terminal = sys.stdout.isatty()
        self._progress = rich.progress.Progress(
            rich.progress.TextColumn("{task.description} {task.completed:.0f}/{task.total:.0f}"),
            rich.progress.BarColumn(),
            rich.progress.TextColumn("{task.fields[metric]}"),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("left"),
            rich.progress.TimeRemainingColumn(elapsed_when_finished=False),
            transient=True,
            disable=not (bar and sys.stderr.isatty()),
            redirect_stdout=self._to_terminal,
            console=rich.console.Console(stderr=True),
        )
        self._bar = self._progress.add_task("step", total=total_steps, completed=first_step, metric="")
        self._second_bar = self._progress.add_task("evaluating", total=1, visible=False, metric="")

    def __enter__(self) -> "Reporter":
        self._progress.start()
        return self

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        self._progress.stop()
        self._close(error)

    def _close(self, error: BaseException | None) -> None:
        """Closes everything; raises the first error, or prints it if the run already ends with an error."""
        failures = []
        closing = [(name, logger.close) for name, logger in self._loggers.items()]
        for name, close in [("the records", self._files.abandon if error else self._files.close), *closing]:
            try:
                _guarded(name, "could not be closed", close)
            except UserError as failure:
                failures.append(failure)
        if failures and error is None:
            raise failures[0]
        for failure in failures:
            print(f"besides: {failure}", file=sys.stderr)

    def at(self, step: int) -> None:
        """Moves the progress bar."""
        self._progress.update(self._bar, completed=step)

    def evaluating(self, done: int, total: int | None) -> None:
        """Shows the progress of an evaluation in a second bar, until its record arrives; does nothing if no bar is shown."""
        if not self._progress.tasks[1].visible:
            self._progress.reset(self._second_bar)  # its clock
        self._progress.tasks[self._second_bar].total = total  # update() takes None for no change
        self._progress.update(self._second_bar, completed=done, visible=total is None or done < total)

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Writes one record to the metrics files, then to TensorBoard and the registered loggers.

        Raises:
          UserError: a file cannot be written, or a logger failed; the line names it.
        """
        self._progress.update(self._second_bar, visible=False)
        values = {name: value.plain if isinstance(value, Styled) else value for name, value in values.items()}
        self._files.write({"kind": kind, "step": step} | values)
        for name, logger in self._loggers.items():
            _guarded(name, f"failed at step {step}", logger.log, kind, step, dict(values))

    def show(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Prints a record's metrics, on several lines where the terminal is too narrow; a sample's text as it is."""
        if kind == "sample":
            text = values["text"]
            self.say(_indented(text) if not isinstance(text, Styled) else Styled(_indented(text), _indented(text.plain)))
            return
        parts = [f"{name.replace('_', ' ')} {_short(value)}" for name, value in values.items()]
        width = shutil.get_terminal_size().columns if self._to_terminal else math.inf
        self.say(_wrapped(f"{step:>7}  {kind:<10}  ", [printable(part) for part in parts], width))
        if kind == "train" and values:
            name, value = next(iter(values.items()))
            self._progress.update(self._bar, metric=f"{name} {value:.3f}")

    def say(self, text: str) -> None:
        """Prints a line, above the progress bar where there is one; control characters are shown by their escapes."""
        text = self._label + printable(text) if self._label else printable(text)
        if self._progress.disable or not self._to_terminal:
            print(text, flush=True)
        else:
            self._progress.console.out(text, highlight=False)


class Silent:
    """A reporter that does nothing, for all processes except the first."""

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing."""

    def at(self, step: int) -> None:
        """Nothing."""

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Nothing."""

    def show(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def evaluating(self, done: int, total: int | None) -> None:
        """Nothing."""


def counted(what: str, every: float = 10.0) -> Callable[[int, int], None]:
    """Makes a progress callback (done, total) that prints to standard error now and then, and nothing for quick work.

    Args:
      what: what is done, such as "image files checked".
      every: seconds between two lines.

    Example:
      >>> import contextlib, sys
      >>> with contextlib.redirect_stderr(sys.stdout):
      ...     counted("image files checked", every=0)(12000, 50000)
      image files checked: 12,000 of 50,000
    """
    last = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= every:
            last = time.monotonic()
            print(f"{what}: {done:,} of {total:,}", file=sys.stderr, flush=True)

    return tell


def _guarded(name: str, what: str, call: Callable[..., Any], *args: Any) -> Any:
    """Calls a logger; an error in it becomes a one-line UserError that names it."""
    try:
        return call(*args)
    except UserError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise UserError(f"the logger {name} {what} ({reason}); repair it or leave it out, then resume the run") from error


def _indented(text: str) -> str:
    return "\n".join("    " + line for line in text.split("\n"))


def _wrapped(head: str, parts: Sequence[str], width: float) -> str:
    """The parts after the head, two spaces between them, on as many lines as the width needs."""
    indent = " " * (INDENT if width >= 2 * INDENT else 4)
    lines = [head + "".join(parts[:1])]
    for part in parts[1:]:
        if len(lines[-1]) + 2 + len(part) > width:
            lines.append(indent + part)
        else:
            lines[-1] += f"  {part}"
    return "\n".join(lines)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
