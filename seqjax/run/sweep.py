"""A sweep: one run for each value of some settings, in one process, and a table of the results.

The work directory of a sweep holds:

    workdir/seed=0/            a run of its own: resumed, evaluated and sampled from like any other
    workdir/seed=1/
    workdir/sweep.json         each point with its best evaluation; over seeds, the spread of each metric
    workdir/sweep.csv          the points alone
"""

import csv
import io
import itertools
import json
import pathlib
import statistics
import sys
import types
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from seqjax.errors import UserError
from seqjax.run import cli, driver, evaluation, records, resuming, settings, together, workdir
from seqjax.run.experiment import Experiment
from seqjax.training.checkpoints.record import list_steps
from seqjax.training.disk import write_atomically

RESULTS, TABLE = "sweep.json", "sweep.csv"
SPREAD = {"mean": statistics.mean, "standard deviation": statistics.stdev, "minimum": min, "maximum": max}


class Point(NamedTuple):
    """One run of a sweep."""

    values: dict[str, Any]  # the swept settings
    command: cli.Command

    @property
    def name(self) -> str:
        """The name of its directory."""
        return name_of(self.values)


class Ending(NamedTuple):
    """The status of a point."""

    status: int  # 0 where it is finished, otherwise 128 and the signal's number
    error: str = ""  # what ended it


def name_of(values: Mapping[str, Any]) -> str:
    """The directory name of a point; characters that could be misread are written as %XX.

    Example:
      >>> name_of({"seed": 3, "optimizer.learning_rate": 1e-3, "schedule.milestones": "0.5,0.75"})
      'seed=3,optimizer.learning_rate=0.001,schedule.milestones=0.5%2C0.75'
    """
    return ",".join(f"{name}={urllib.parse.quote(str(value), safe=' ')}" for name, value in values.items())


def values_of(name: str, fields: Mapping[str, settings.Field]) -> dict[str, Any]:
    """The values in a directory name: the inverse of `name_of`.

    Example:
      >>> values_of("seed=3,name=a%2Fb", {"seed": settings.Field(0, "Seed."), "name": settings.Field("", "Name.")})
      {'seed': 3, 'name': 'a/b'}
    """
    pairs = [part.split("=", 1) for part in name.split(",")]
    return {field: cli.parser_of(fields[field].default).parse(urllib.parse.unquote(text)) for field, text in pairs}


def swept(texts: Sequence[str], fields: Mapping[str, settings.Field]) -> dict[str, list[Any]]:
    """Parses the flags --sweep: setting -> values.

    Args:
      texts: of the flags, such as "seed=0,1,2"; a value that contains a comma goes in double quotes.
      fields: the settings that there are.

    Raises:
      UsageError: a text has another form, a setting is unknown or comes twice, or a value is not of its type or comes twice.

    Example:
      >>> fields = {"seed": settings.Field(0, "Seed."), "schedule.milestones": settings.Field("", "Shares of the run.")}
      >>> swept(["seed=0,1e3", 'schedule.milestones="0.5,0.75",0.9'], fields)
      {'seed': [0, 1000], 'schedule.milestones': ['0.5,0.75', '0.9']}
    """
    found: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        name = name.strip().removeprefix("config.")
        if not equals or not rest:
            raise cli.UsageError(f"--sweep={text} must name a setting and its values, such as --sweep=seed=0,1,2")
        if name not in fields:
            raise cli.UsageError(f"--sweep={text}: {settings.unknown_field(name, fields)}")
        if name in found:
            raise cli.UsageError(f"--sweep names {name} twice; give all its values in one flag")
        parser = cli.parser_of(fields[name].default)
        try:
            values = [parser.parse(value) for value in next(csv.reader([rest]))]
        except (ValueError, TypeError) as error:
            raise cli.UsageError(f"--sweep={text}: {error}") from None
        if len(set(values)) < len(values):
            raise cli.UsageError(f"--sweep={text} names a value twice")
        found[name] = values
    return found


def points(experiment: Experiment, command: cli.Command) -> list[Point]:
    """The points of a sweep, the last setting changing fastest.

    Raises:
      UserError: its directory holds a run itself, or a flag --sweep cannot be: see `swept`.
    """
    if list_steps(command.workdir / "checkpoints"):
        raise UserError(f"{command.workdir} holds a run itself; give the sweep another --workdir")
    grid = swept(command.options.sweep, experiment.fields)
    for name in grid.keys() & command.given.keys():
        raise cli.UsageError(f"--config.{name} and --sweep={name} both set {name}; leave one out")
    options = types.SimpleNamespace(**vars(command.options) | {"sweep": [], "sweep_vmap": "auto"})
    found = []
    for combination in itertools.product(*grid.values()):
        values = dict(zip(grid, combination))
        folder, given = command.workdir / name_of(values), command.given | values
        found.append(Point(values, cli.Command(**vars(command) | {"workdir": folder, "given": given, "options": options})))
    return found


def run(experiment: Experiment, command: cli.Command) -> int:
    """Trains every point that is not finished, prints the table and writes it; returns the exit status.

    The status is 0, or 128 and the signal's number where a signal stopped the sweep, or 1 where a point ended with an error.

    Raises:
      UserError: what `points` refuses, or the settings of a point cannot be, or are not those of the run in its directory. Nothing is
        trained then.
    """
    found = points(experiment, command)
    with workdir.locked(command.workdir):
        before = read_results(command.workdir)
        endings = {p.name: Ending(0) for p in found if _is_finished(experiment, p, before.get(p.name))}
        todo = [point for point in found if point.name not in endings]
        print(f"sweep: {len(found)} runs, {len(endings)} of them finished, in {command.workdir}")
        endings = _train(experiment, command, found, todo, endings)
        results = _write(experiment, command.workdir, found, endings)
    print("\n".join(table(results)))
    print(f"{command.workdir / RESULTS}\n{command.workdir / TABLE}")
    return max((ending.status for ending in endings.values()), default=0)


def _is_finished(experiment: Experiment, point: Point, before: Mapping[str, Any] | None) -> bool:
    """Whether a point was finished with these settings and its newest checkpoint is still the last one."""
    stored = resuming.stored(point.command.workdir, experiment)
    config = settings.to_json(resuming.settings_of(experiment, point.command, stored))
    if stored is None or before is None or before["status"] != "finished":
        return False
    return stored.step == before["last_step"] and config == before["config"]


def _train(
    experiment: Experiment, command: cli.Command, found: list[Point], todo: list[Point], endings: dict[str, Ending]
) -> dict[str, Ending]:
    """Trains points that differ only in the seed together, group after group; returns the status of all points."""
    groups = _groups(todo)
    for group in groups:
        reason = _why_apart(command, group)
        if len(groups) > 1 and not reason:
            print(f"--- {name_of(_others(group[0]))}, {len(group)} seeds")
        try:
            ended = reason or together.train(experiment, [(point.name, point.command) for point in group])
        except UserError as error:
            if len(groups) == 1:
                raise
            print(f"error: {group[0].name}: {error}", file=sys.stderr, flush=True)
            ended = [error] * len(group)
        if isinstance(ended, str):
            if len(group) > 1:
                print(f"training one after another: {ended}")
            endings = _one_after_another(experiment, command.workdir, found, group, endings)
        else:
            endings |= {p.name: Ending(1, str(e)) if isinstance(e, UserError) else Ending(e) for p, e in zip(group, ended)}
            _write(experiment, command.workdir, found, endings)
        if any(ending.status > 1 for ending in endings.values()):
            break  # a signal
    return endings


def _others(point: Point) -> dict[str, Any]:
    return {name: value for name, value in point.values.items() if name != "seed"}


def _groups(points: list[Point]) -> list[list[Point]]:
    """Groups points by their settings other than the seed, in the order of each group's first point."""
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(name_of(_others(point)), []).append(point)
    return list(groups.values())


def _why_apart(command: cli.Command, group: list[Point]) -> str:
    """Why points that differ in their seeds are not trained together; "" if they can be."""
    if command.options.sweep_vmap == "off":
        return "--sweep_vmap=off"
    if command.options.profile:
        return "--profile looks at one run at a time"
    return "" if len(group) > 1 else "there is one seed"


def _one_after_another(
    experiment: Experiment, folder: pathlib.Path, found: list[Point], todo: list[Point], before: Mapping[str, Ending]
) -> dict[str, Ending]:
    endings = dict(before)
    for point in todo:
        print(f"--- {point.name} ({found.index(point) + 1} of {len(found)})")
        try:
            endings[point.name] = Ending(driver.train(experiment, point.command))
        except UserError as error:
            print(f"error: {point.name}: {error}", file=sys.stderr, flush=True)
            endings[point.name] = Ending(1, str(error))
        _write(experiment, folder, found, endings)
        if endings[point.name].status > 1:
            break  # a signal
    return endings


# Results.


def read_results(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """The points in sweep.json by their names; none if there is no such file, or one that cannot be understood."""
    try:
        return {entry["point"]: entry for entry in json.loads((folder / RESULTS).read_text(encoding="utf-8"))["points"]}
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return {}  # then each point is looked at: the file saves time, and decides nothing


def _write(experiment: Experiment, folder: pathlib.Path, found: list[Point], endings: Mapping[str, Ending]) -> dict[str, Any]:
    """Writes sweep.json and sweep.csv with the results so far."""
    entries = [_entry(experiment, point, endings.get(point.name)) for point in found]
    results = {"experiment": experiment.name, "points": entries, "spread": spread(entries)}
    write_atomically(folder / RESULTS, json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    rows = [e["values"] | {"status": e["status"], "step": e["step"]} | e["metrics"] for e in entries]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(folder / TABLE, text.getvalue())
    return results


def _entry(experiment: Experiment, point: Point, ending: Ending | None) -> dict[str, Any]:
    folder = point.command.workdir
    stored = resuming.stored(folder, experiment)
    config = resuming.settings_of(experiment, point.command, stored)
    best = records.best_evaluation(records.read_records(folder), experiment.criterion(config)) or {}
    status = "not finished" if ending is None or ending.status > 1 else "failed" if ending.error else "finished"
    return {
        "point": point.name, "values": point.values, "status": status, "error": ending.error if ending else "",
        "step": best.pop("step", None), "metrics": best, "last_step": stored.step if stored else None,
        "config": settings.to_json(config),
    }  # fmt: skip


def spread(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean, standard deviation (n - 1), minimum and maximum of each metric over the seeds of finished points.

    Example:
      >>> entries = [{"status": "finished", "values": {"seed": i}, "metrics": {"loss": 1.0 + i}} for i in range(3)]
      >>> spread(entries)[0]["metrics"]["loss"]
      {'mean': 2.0, 'standard deviation': 1.0, 'minimum': 1.0, 'maximum': 3.0}
    """
    groups: dict[str, tuple[dict[str, Any], list[Mapping[str, Any]]]] = {}
    for entry in entries:
        if "seed" in entry["values"] and entry["status"] == "finished" and entry["metrics"]:
            others = {name: value for name, value in entry["values"].items() if name != "seed"}
            groups.setdefault(name_of(others), (others, []))[1].append(entry["metrics"])
    found = []
    for others, metrics in groups.values():
        columns = {name: [row[name] for row in metrics if isinstance(row.get(name), (int, float))] for name in metrics[0]}
        over = {n: {how: of(column) for how, of in SPREAD.items()} for n, column in columns.items() if len(column) > 1}
        if over:
            found.append({"values": others, "seeds": len(metrics), "metrics": over})
    return found


def table(results: Mapping[str, Any]) -> list[str]:
    """The lines of the table: a point each with its best evaluation, then the spread over seeds."""
    rows = []
    for entry in results["points"]:
        state = {"finished": "", "failed": f"  failed: {entry['error']}"}.get(entry["status"], f"  {entry['status']}")
        rows.append((entry["point"], entry["step"], entry["metrics"], state))
    for group in results["spread"]:
        for how in SPREAD:
            metrics = {name: of[how] for name, of in group["metrics"].items()}
            rows.append((", ".join(filter(None, [name_of(group["values"]), how])), None, metrics, f"  {group['seeds']} seeds"))
    names = list(dict.fromkeys(name for row in rows for name in row[2]))
    head = ["best validation", "step", *map(evaluation.shown_name, names)]
    cells = [
        [name, "" if step is None else str(step), *(evaluation.shown_value(n, metrics[n]) if n in metrics else "" for n in names)]
        for name, step, metrics, _ in rows
    ]
    widths = [max(len(row[i]) for row in [head, *cells]) for i in range(len(head))]
    lines = ["  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]) for row in [head, *cells]]
    return [(line + state).rstrip() for line, state in zip(lines, ["", *(row[3] for row in rows)])]
