"""What a run tells while it goes: a progress bar, a metrics file, TensorBoard events, curves as PNG."""

import importlib.util
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Iterable
from typing import Any

from seqjax.errors import UserError
from seqjax.training.disk import write_atomically

METRICS = "metrics.jsonl"
EXTRAS = ("rich", "tensorboardX", "matplotlib")


def require_extras() -> None:
    """Makes sure that what a run reports with is installed.

    Raises:
      UserError: names what is missing.
    """
    missing = [name for name in EXTRAS if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"this needs {', '.join(missing)}: pip install 'seqjax[experiments]'")


def read_records(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The records of a run's metrics file in order; a last line that was cut off by a crash is left out."""
    path = workdir / METRICS
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    if lines.pop():  # a complete file ends with a newline
        print(f"{path}: the last line was cut off; it is left out", file=sys.stderr)
    try:
        return [_parse(number, line) for number, line in enumerate(lines, start=1)]
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); move it away and start the command again") from error


def _parse(number: int, line: str) -> dict[str, Any]:
    record = json.loads(line)
    if not (isinstance(record, dict) and isinstance(record.get("step"), int) and isinstance(record.get("kind"), str)):
        raise ValueError(f"line {number} is not a record with kind and step")
    return record


def _line_of(record: dict[str, Any]) -> str:
    """One line of JSON, which has no word for a number that is not finite: it becomes null."""
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(finite, allow_nan=False) + "\n"


class Reporter:
    """Writes the records of one run, and shows its progress to whoever looks on.

    Every record is one JSON line with `kind` (train, evaluation, sample) and `step`; a value that is not finite is null.
    After a resume from step s the records of later steps, which will be made again, are taken out first, so the file reads
    like that of a run never stopped.

    Args:
      workdir: metrics go to metrics.jsonl in it, events for TensorBoard to tensorboard/.
      first_step: the step that the run begins or goes on from.
      total_steps: where it will end.

    Raises:
      UserError: a package is missing, or the metrics file is damaged.
    """

    def __init__(self, workdir: pathlib.Path, *, first_step: int, total_steps: int):
        require_extras()
        import rich.progress

        kept = [record for record in read_records(workdir) if record["step"] <= first_step]
        write_atomically(workdir / METRICS, "".join(map(_line_of, kept)))
        self._file = open(workdir / METRICS, "a", encoding="utf-8")
        self._events = _Events(workdir / "tensorboard", first_step)
        self._progress = rich.progress.Progress(
            rich.progress.TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            rich.progress.BarColumn(),
            rich.progress.TextColumn("{task.fields[figures]}"),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("left"),
            rich.progress.TimeRemainingColumn(elapsed_when_finished=False),
            transient=True,
            disable=not sys.stderr.isatty(),
            console=rich.console.Console(stderr=True),
        )
        self._bar = self._progress.add_task("train", total=total_steps, completed=first_step, figures="")

    def __enter__(self) -> "Reporter":
        self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._progress.stop()
        self._file.close()
        self._events.close()

    def at(self, step: int) -> None:
        """Moves the progress bar."""
        self._progress.update(self._bar, completed=step)

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Writes one record to the metrics file and TensorBoard."""
        self._file.write(_line_of({"kind": kind, "step": step} | values))
        self._file.flush()
        os.fsync(self._file.fileno())  # on the disk before the checkpoint that follows it
        self._events.write(kind, step, values)

    def show(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Prints a record's figures on a line, a sample's text as it is."""
        if kind == "sample":
            self.say("\n".join("    " + line for line in values["text"].split("\n")))
            return
        figures = "  ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in values.items())
        self.say(f"{step:>7}  {kind:<10}  {figures}")
        if kind == "train" and values:
            name, value = next(iter(values.items()))
            self._progress.update(self._bar, figures=f"{name} {value:.3f}")

    def say(self, text: str) -> None:
        """Prints a line above the progress bar."""
        if self._progress.disable:
            print(text, flush=True)
        else:
            self._progress.console.out(text, highlight=False)


class _Events:
    """A TensorBoard event file, written on the spot.

    tensorboardX's SummaryWriter hands events to a thread through a queue: where the disk is full the thread dies, the
    queue fills, and the run hangs. Its parts are used without the thread, so that the error comes to the caller.
    """

    def __init__(self, folder: pathlib.Path, first_step: int):
        from tensorboardX import event_file_writer, proto, summary

        self._summary, self._event = summary, proto.event_pb2.Event
        folder.mkdir(exist_ok=True)
        self._writer = event_file_writer.EventsWriter(str(folder / "events"))
        start = proto.event_pb2.SessionLog(status=proto.event_pb2.SessionLog.START)
        self._put(session_log=start, step=first_step + 1)  # hides what an earlier sitting wrote of later steps

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, str):
                self._put(summary=self._summary.text(f"{kind}/{name}", value), step=step)
            elif value is not None and math.isfinite(value):
                self._put(summary=self._summary.scalar(f"{kind}/{name}", value), step=step)
        self._writer.flush()

    def _put(self, **content: Any) -> None:
        self._writer.write_event(self._event(wall_time=time.time(), **content))

    def close(self) -> None:
        self._writer.close()


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def plot_curves(workdir: pathlib.Path, records: Iterable[dict[str, Any]], *, baselines: dict[str, float]) -> pathlib.Path:
    """Draws loss, gradient norm, learning rate and speed against the step into workdir/curves.png.

    The error is there where evaluations give one, and so is each figure that only they give, such as BLEU, up to four.

    Args:
      workdir: the run's folder.
      records: of the metrics file.
      baselines: name to nats, drawn as level lines beside the losses.

    Returns:
      The picture's path.
    """
    from matplotlib.figure import Figure

    records = list(records)
    train = [r for r in records if r["kind"] == "train"]
    evaluations = [r for r in records if r["kind"] == "evaluation"]
    error_name = ["error"] if any("error" in r for r in evaluations) else []
    scores = _only_evaluated(train, evaluations)[:4]
    count = 4 + len(error_name) + len(scores)
    columns = (count + 1) // 2
    figure = Figure(figsize=(1 + 5 * columns, 7), layout="constrained")
    panels = figure.subplots(2, columns).flat
    loss, norm, *others, rate, speed = panels[:count]
    errors, others = others[: len(error_name)], others[len(error_name) :]
    unit = next((n.removesuffix("_per_second") for r in train for n in r if n.endswith("_per_second")), "tokens")
    _both(loss, train, evaluations, "loss", "Loss", f"nats, mean over {unit}")
    for name, nats in baselines.items():
        loss.axhline(nats, linestyle="--", color="tab:gray", label=f"{name} ({nats:.4f})")
    for axes in errors:
        _both(axes, train, evaluations, "error", "Error", f"share of {unit} answered wrongly")
        if min([r["error"] for r in evaluations if r.get("error") is not None], default=1.0) < 0.1:
            axes.set_yscale("symlog", linthresh=1e-3)  # as log, and shows an error of 0
    for axes, name in zip(others, scores):
        _both(axes, [], evaluations, name, name.replace("_", " "), "on the validation part")
    for axes in (loss, *errors, *others):
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    _line(norm, train, "grad_norm", "Gradient norm before clipping (mean of interval)", "global norm")
    share = norm.twinx()
    share.set(ylim=(0, 1.05), ylabel="share of clipped steps")
    share.fill_between([r["step"] for r in train], _values(train, "clipped_share"), color="tab:red", alpha=0.15)
    _line(rate, train, "learning_rate", "Learning rate", "learning rate")
    _line(speed, train, f"{unit}_per_second", "Speed", f"{unit} per second")
    speed.set_ylim(bottom=0)
    for axes in panels[:count]:
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    for axes in panels[count:]:
        axes.set_axis_off()
    path = workdir / "curves.png"
    figure.savefig(path, dpi=110)
    return path


def _only_evaluated(train, evaluations) -> list[str]:
    """Names of the figures that evaluations give and training does not, in their order."""
    known = {name for r in train for name in r} | {"kind", "step", "loss", "error", "best", "minutes"}
    return list(dict.fromkeys(name for r in evaluations for name in r if name not in known))


def _both(axes, train, evaluations, name, title, ylabel):
    """A figure of the training and the validation against the step, as far as there is one."""
    values = _values(train, name)
    if not all(map(math.isnan, values)):
        axes.plot([r["step"] for r in train], values, label="training", color="tab:blue", alpha=0.6)
    values = _values(evaluations, name)
    found = [value for value in values if not math.isnan(value)]
    if found:
        best = f"best {min(found):.4f}" if name in ("loss", "error") else f"last {found[-1]:.4g}"
        axes.plot([r["step"] for r in evaluations], values, "o-", label=f"validation ({best})", color="tab:orange")
    axes.set(title=title, ylabel=ylabel)


def _line(axes, records, name, title, ylabel):
    axes.plot([r["step"] for r in records], _values(records, name), color="tab:blue")
    axes.set(title=title, ylabel=ylabel)


def _values(records: list[dict[str, Any]], name: str) -> list[float]:
    """A gap, which is not a number, where a record has no finite value."""
    values = [record.get(name) for record in records]
    return [value if isinstance(value, (int, float)) and math.isfinite(value) else math.nan for value in values]
