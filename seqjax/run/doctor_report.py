"""The report of --doctor: pure functions from the processes' findings to lines."""

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

SAME_VARIABLES = ("JAX_PLATFORMS", "XLA_FLAGS", "LIBTPU_INIT_ARGS", "SEQJAX_NATIVE_ISA")  # if these differ, so do the programs
OK, NOTE, WRONG = "ok", "note", "WRONG"
LITTLE = 1 << 30  # warn below this many free bytes
LONGEST = 160  # maximum number of characters shown of a value


class Line(NamedTuple):
    """A line of the report."""

    state: str
    name: str
    text: str
    advice: str = ""  # shown on a separate line if something is wrong or could be better


Seen = Sequence[Mapping[str, Any]]  # findings of each process, by its index: see doctor.see


def lines(seen: Seen, disk: Mapping[str, Any], together: float) -> list[Line]:
    """The report.

    Args:
      seen: findings of each process.
      disk: see doctor.look_at_disk.
      together: seconds of a round trip between the processes; 0 for a single one.
    """
    found = [
        *_machines(seen, together),
        *_packages(seen),
        *_devices(seen),
        *_settings(seen),
        *_data(seen),
        *_model(seen),
        *_disk(disk, any(one.get("all_write") for one in seen)),
    ]
    return [*found, *_engine(seen), *_environment(seen)]


def wrong(found: Iterable[Line]) -> int:
    """The number of lines that report a problem.

    Example:
      >>> wrong([Line(OK, "mesh", "data=2"), Line(WRONG, "data", "not found")])
      1
    """
    return sum(line.state == WRONG for line in found)


def shown(found: Sequence[Line]) -> list[str]:
    """The lines as text, ending with the outcome.

    Example:
      >>> print("\\n".join(shown([Line(OK, "mesh", "data=2"), Line(WRONG, "data", "not found", "copy it")])))
      ok     mesh        data=2
      WRONG  data        not found
                         -> copy it
      1 thing is wrong
    """
    text = []
    for line in found:
        text.append(f"{line.state:<5}  {line.name:<10}  {line.text}")
        text += [f"{'':<17}  -> {line.advice}"] if line.advice else []
    count = wrong(found)
    end = f"{count} thing{'s are' if count > 1 else ' is'} wrong" if count else "ready: the command without --doctor trains"
    return [*text, end]


def grouped(values: Sequence[Any]) -> str:
    """A value that all share, or the processes with each value.

    Example:
      >>> grouped(["a", "a"]), grouped(["a", "b", "a"])
      ('a', 'a in process 0, 2; b in process 1')
    """
    where = collections.defaultdict(list)
    for index, value in enumerate(values):
        where[value].append(str(index))
    if len(where) == 1:
        return str(values[0])
    return "; ".join(f"{value} in process {', '.join(indices)}" for value, indices in where.items())


def size(count: float) -> str:
    """A number of bytes in readable form.

    Example:
      >>> size(3 << 30), size(900e6), size(5)
      ('3.0 GiB', '858.3 MiB', '0.0 MiB')
    """
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _machines(seen: Seen, together: float) -> Iterable[Line]:
    """A line for each process."""
    if len(seen) > 1:
        yield Line(OK, "processes", f"{len(seen)} are connected; they hear of each other in {1000 * together:.1f} ms")
    count = len(seen)
    for index, one in enumerate(seen):
        memory = f" of {size(one['memory'])}" if one["memory"] else ""
        rows = ""
        if "batch" in one and one["batch"] % count == 0:
            first, stop = index * one["batch"] // count, (index + 1) * one["batch"] // count
            rows = f"; rows {first} to {stop - 1} of {one['batch']}" if stop - first > 1 else f"; row {first} of {one['batch']}"
        devices = f"{one['devices']} x {one['kind']}{memory}, {one['cores']} cores"
        yield Line(OK, f"process {index}", f"{one['host']}, pid {one['pid']}: {devices}{rows}")


def _packages(seen: Seen) -> Iterable[Line]:
    names = list(seen[0]["versions"])
    values = {name: [one["versions"].get(name, "missing") for one in seen] for name in names}
    same = [name for name in names if len(set(values[name])) == 1]
    if same:
        yield Line(OK, "versions", ", ".join(f"{name} {values[name][0]}" for name in same))
    for name in names:
        if name not in same:
            yield Line(WRONG, name, grouped(values[name]), f"install the same version of {name} for every process")
    yield from _errors(seen, "packages", "packages")


def _devices(seen: Seen) -> Iterable[Line]:
    backends = [one["backend"] for one in seen]
    if len(set(backends)) > 1:
        yield Line(WRONG, "backend", grouped(backends), "give every process the same JAX_PLATFORMS, and the same jax extra (cuda13, tpu)")
    else:
        yield Line(OK, "backend", backends[0])
    if broken := list(_errors(seen, "mesh", "mesh")):
        yield from broken
        return
    there, used = sum(one["devices"] for one in seen), sum(one.get("used", 0) for one in seen)
    if "mesh" not in seen[0]:
        return
    axes = ", ".join(f"{name}={number}" for name, number in seen[0]["mesh"].items())
    if used == there:
        yield Line(OK, "mesh", f"{axes}: all {there} devices" if there > 1 else f"{axes}: one device")
    else:
        counts = [one["devices"] for one in seen]
        advice = f"make data.batch_size (over train.accumulate) and data.eval_batch_size multiples of {there}"
        if len(set(counts)) > 1:
            advice = f"the processes have different numbers of devices ({grouped(counts)}); each uses as many as the one with the fewest"
        yield Line(NOTE, "mesh", f"{axes}: {used} of {there} devices", advice)


def _settings(seen: Seen) -> Iterable[Line]:
    if broken := list(_errors(seen, "settings", "settings")):
        yield from broken
        return
    if len({one["settings"] for one in seen}) > 1:
        yield Line(WRONG, "settings", grouped([one["settings"] for one in seen]), "start every process with the same flags")
    else:
        yield Line(OK, "settings", f"{seen[0]['settings']}, the same everywhere" if len(seen) > 1 else seen[0]["settings"])
    steps = [one["step"] for one in seen]
    begins = [f"resumes from the checkpoint of step {step:,}" if step else "starts" for step in steps]
    lengths = {one["steps"] for one in seen if "steps" in one}
    end = f", {min(lengths):,} steps in all" if lengths else ""
    if len(set(steps)) > 1:
        yield Line(WRONG, "run", grouped(begins), "give every process the same --workdir, on a file system that all share")
    else:
        yield Line(OK, "run", begins[0] + end)


def _data(seen: Seen) -> Iterable[Line]:
    if broken := list(_errors(seen, "data", "data")):
        yield from broken
        return
    there = [one["data"] for one in seen if "data" in one]
    if not there:
        return
    if len({one["fingerprint"] for one in there}) > 1:
        prints = [one["fingerprint"][:12] for one in there]
        yield Line(WRONG, "data", grouped(prints), "give every process the same files, and the same packages where data are made from them")
        return
    parts = ", ".join(f"{number:,} {name}" for name, number in there[0]["parts"].items())
    yield Line(OK, "data", f"{there[0]['name']} ({there[0]['unit']}: {parts})")
    if broken := list(_errors(seen, "batches", "batches")):
        yield from broken
        return
    made = [one for one in seen if "rows" in one]
    if made:
        rows = grouped([f"{one['rows']} row{'s' if one['rows'] != 1 else ''}" for one in made])
        slowest = max(one["seconds"] for one in made)
        each = " each" if len(seen) > 1 else ""
        evaluation = f"{made[0]['eval_batch'] // len(seen)}{each} in evaluation"
        yield Line(OK, "batches", f"{rows}{each} in training, {evaluation}; the first took {slowest:.2f} s")


def _model(seen: Seen) -> Iterable[Line]:
    if broken := list(_errors(seen, "model", "model")):
        yield from broken
        return
    built = [one["model"] for one in seen if one.get("model")]
    if built:
        parameters, state = built[0]["parameters"], built[0]["state"]
        yield Line(OK, "model", f"{parameters:,} parameters, {size(state)} with the optimiser's state")


def _disk(disk: Mapping[str, Any], all_write: bool) -> Iterable[Line]:
    where = f"{disk['folder']} ({grouped(disk['type'])})"
    if disk["error"]:
        yield Line(WRONG, "disk", f"{where}: {disk['error']}", "choose a --workdir on another disk, or change its permissions")
        return
    free = f"{where}: {size(disk['free'])} free, {size(disk['speed'])}/s written and synced"
    little = "a checkpoint takes about three times the parameters, and train.keep of them stay" if disk["free"] < LITTLE else ""
    yield Line(NOTE if little else OK, "disk", free, little)
    if disk["blind"]:
        blind = ", ".join(map(str, disk["blind"]))
        yield Line(WRONG, "shared", f"process {blind} does not see it", "choose a --workdir on a file system that all processes share")
    elif disk["unlocked"]:
        them = ", ".join(map(str, disk["unlocked"]))
        advice = "mount it with locks (NFS 4, or local_lock=none), or make sure yourself that no two runs share a --workdir"
        yield Line(NOTE, "lock", f"process {them} can lock what process 0 holds, so two runs would not be told apart", advice)
    if disk["unwritable"]:
        them = ", ".join(map(str, disk["unwritable"]))
        why = "and every process writes checkpoints" if all_write else "so it was not seen whether locks hold; process 0 alone writes"
        yield Line(
            WRONG if all_write else NOTE, "writing", f"process {them} cannot write there, {why}", "change its permissions or the mount"
        )
    if disk["user"]:
        yield Line(WRONG, "lock", f"the run is in use by process {disk['user']}", "wait for it, stop it, or choose another --workdir")
    elif not disk["unlocked"] and not disk["blind"] and not disk["unwritable"]:
        seen_by = "seen by all, and locks hold between them" if len(disk["type"]) > 1 else "can be taken"
        yield Line(OK, "lock", seen_by)


def _engine(seen: Seen) -> Iterable[Line]:
    if {one["backend"] for one in seen} == {"cpu"}:
        missing = [one["native_missing"] or f"there ({one['native']})" for one in seen]
        broken, several = any(one["native_missing"] for one in seen), len(seen) > 1 or seen[0].get("used", 1) > 1
        unused = ", and not used where a mesh has several devices" if several else ""
        advice = "without it training is slower; `python -m seqjax.engines.native` builds it" if broken and not several else ""
        yield Line(NOTE if advice else OK, "native", grouped(missing) + unused, advice)
    hosts = collections.Counter(one["host"] for one in seen)
    crowded = [
        f"{host}: {count} processes, {cores} cores"
        for host, count in hosts.items()
        if count > (cores := min(one["cores"] for one in seen if one["host"] == host))
    ]
    if crowded:
        yield Line(NOTE, "cores", "; ".join(crowded), "start fewer processes on a machine than it has cores")


def _environment(seen: Seen) -> Iterable[Line]:
    caches = grouped([one["cache"] or "none" for one in seen])
    yield Line(OK, "cache", f"compiled programs: {caches}")
    for name in sorted({name for one in seen for name in one["environment"]}):
        values = [one["environment"].get(name, "unset") for one in seen]
        differs = name in SAME_VARIABLES and len(set(values)) > 1
        text = f"{name}={grouped([value[:LONGEST] for value in values])}"
        yield Line(WRONG if differs else OK, "variable", text, f"set {name} the same for every process" if differs else "")


def _errors(seen: Seen, part: str, name: str) -> Iterable[Line]:
    """A line for each distinct error in the processes; its text says what to do."""
    texts = [one["errors"].get(part, "") for one in seen]
    for text in dict.fromkeys(filter(None, texts)):
        where = [str(index) for index, other in enumerate(texts) if other == text]
        yield Line(WRONG, name, text if len(where) == len(seen) else f"in process {', '.join(where)}: {text}")
