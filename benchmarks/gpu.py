"""How does seqjax run on a GPU: is it correct, how fast is it, which engine should "auto" choose?

    python -m benchmarks.gpu [--seconds=480] [--parts=device,layers,...] [--out=DIR] [--tag=_h100] [--dry_run]

One command for a session on a GPU. Each part is a separate process with a share of the time, so that a crash, a hang or a lack of memory
affects only that part. A part writes its results after every case, and all parts are merged into results/gpu.json after every part: however
the command ends, earlier measurements are kept. A part whose process crashes is restarted without the engine or case that crashed. In
order:

  device     hardware, and measured ceilings: matrix products, device copies, in JAX and torch
  layers     one large layer (LSTM, GRU; float32, bfloat16): our engines, torch (cuDNN), flax
  shapes     the six shapes of benchmarks.timing and the linear recurrences: which engine is the fastest
  suite      the tests of engines and of unroll, on the GPU
  cnn        training steps of CNNs against torch
  resume     a stopped and resumed run ends byte for byte like an uninterrupted one
  accuracy   every engine and cell against float64, at full float32, at the default precision, and in bfloat16
  training   throughput of the language model, the loop against the bare step
  offload    memory and time of a gradient whose kept carries lie in the host's memory

Needs jax for CUDA and torch with CUDA, flax, optax; pytest for suite (in parallel with pytest-xdist); ml_collections,
orbax-checkpoint, tensorboardX, rich and matplotlib for resume and training. seqjax itself need not be installed: start it in the
repository's root. With --dry_run everything is small enough for a CPU, to check that it runs.

Float32 is compared at each library's fast setting: JAX's default precision, which is TensorFloat32 on a GPU, and torch with
TensorFloat32 allowed in products and in cuDNN.
"""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
TAIL = 1500  # characters kept of a failed part's output
ATTEMPTS = 4  # maximum number of processes per part
NAMES = ("cell", "shape", "dtype", "precision", "what", "engine")  # fields that identify a row
LEAST = 8.0  # seconds below which no process is started


class Part(NamedTuple):
    """A part of the kit."""

    name: str
    weight: float  # its share of the time is its weight among the remaining parts
    command: tuple[str, ...] = ()  # --out, --deadline and --dry_run are appended; by default benchmarks.gpu_parts
    env: dict[str, str] = {}


# XLA's search for the fastest product takes 10 to 35 seconds per program on an H200, more than everything else together.
QUICK = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
# Without it the convolutions of ResNet-18 took 428 ms per step to torch's 8.8: one algorithm for all does not suit them.
SEARCH = {"XLA_FLAGS": "--xla_gpu_autotune_level=4"}
DETERMINISTIC = {"XLA_FLAGS": "--xla_gpu_deterministic_ops=true"}
PARTS = (
    Part("device", 15),
    Part("layers", 110),
    Part("shapes", 170),
    Part("suite", 150),
    Part("cnn", 200, env=SEARCH),  # ResNet-18 alone, ours and torch's, takes 60 s without the search
    Part("resume", 60, env=DETERMINISTIC),
    Part("accuracy", 45),
    Part("training", 15),
    Part("offload", 40),
)


def read(path: pathlib.Path) -> dict[str, Any]:
    """A part's results so far; {} if it wrote nothing."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def write(path: pathlib.Path, result: dict[str, Any]) -> None:
    """Writes JSON atomically: a reader finds either the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    new.replace(path)


def stop(process: subprocess.Popen) -> None:
    """Ends a process and its children, first with SIGTERM, then with SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(3)
    process.wait()


def run_once(part: Part, out: pathlib.Path, log: pathlib.Path, limit: float, dry_run: bool) -> int | None:
    """Runs a part's process for at most `limit` seconds; its exit status, or None if it was stopped."""
    command = list(part.command or (sys.executable, "-m", "benchmarks.gpu_parts", part.name))
    soft = max(1.0, limit - max(4.0, 0.08 * limit))  # the part stops itself, so that it ends cleanly
    command += [f"--out={out}", f"--deadline={soft:.1f}"] + ["--dry_run"] * dry_run
    env = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONUNBUFFERED": "1"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    env |= {name: " ".join(filter(None, [os.environ.get(name), value])) for name, value in part.env.items()}
    with log.open("ab") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=output, stderr=output, start_new_session=True)
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        stop(process)  # also its remaining children


def run_part(part: Part, folder: pathlib.Path, limit: float, dry_run: bool) -> dict[str, Any]:
    """Runs a part, restarting it after a crash in a known case; its results with status, reason and the end of its output."""
    out, log, begin = folder / f"{part.name}.json", folder / f"{part.name}.log", time.monotonic()
    for _ in range(ATTEMPTS):
        status = run_once(part, out, log, limit - (time.monotonic() - begin), dry_run)
        result = read(out)
        # A part that reports the case it was at is restarted without it.
        left = limit - (time.monotonic() - begin)
        if status in (0, None) or not result.get("current") or left < LEAST:
            break
    result |= {"seconds": time.monotonic() - begin, "limit_seconds": limit}
    if status == 0 and result.get("status") in ("ok", "timed out"):
        return result
    if status == 0 and result.get("status") == "incomplete":
        result["reason"] = "a process before the last was lost"
    elif status is None:
        result |= {"status": "timed out", "reason": f"stopped after {limit:.0f} s"}
    else:
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        result |= {"status": "failed", "reason": f"ended with {how}"}
    return result | {"tail": log.read_text(encoding="utf-8", errors="replace")[-TAIL:]}


def run(parts: Sequence[Part], seconds: float, path: pathlib.Path, dry_run: bool = False) -> dict[str, Any]:
    """Runs the parts in order within the given seconds and writes everything to `path` after each."""
    end = time.monotonic() + seconds
    result = {"question": "seqjax on this device", "dry_run": dry_run, "xla_flags": os.environ.get("XLA_FLAGS", ""), "parts": {}}
    with tempfile.TemporaryDirectory(prefix="gpu-kit-") as folder:
        for number, part in enumerate(parts):
            left = end - time.monotonic() - 2  # the rest is for the table
            limit = left * part.weight / sum(later.weight for later in parts[number:])
            if limit < 1:
                found = {"status": "skipped", "reason": "no time was left"}
            else:
                found = run_part(part, pathlib.Path(folder), limit, dry_run)
            result["parts"][part.name] = found
            write(path, result)
            print(f"{part.name}: {describe(found)}", flush=True)
    return result


def describe(found: dict[str, Any]) -> str:
    """The outcome of a part in one line."""
    rows = found.get("cases", [])
    bad = [row for row in rows if row.get("error") or row.get("passed") is False]
    parts = [found["status"], found.get("reason"), f"{found['seconds']:.0f} s" if "seconds" in found else None]
    parts += [f"{len(rows)} rows" if rows else None, f"{len(bad)} with errors or failed" if bad else None]
    parts += [f"lost: {lost['at']} ({lost['reason'][:200]})" for lost in found.get("lost", [])]
    return ", ".join(filter(None, parts))


def table(result: dict[str, Any]) -> list[str]:
    """The results as lines of text, the least important first, since the end is what stays on screen."""
    lines = []
    for name, found in reversed(result["parts"].items()):
        lines += ["", f"== {name}: {describe(found)}"]
        lines += [f"  {line}" for line in found.get("summary", [])]
        lines += timed(found.get("cases", []))
        for row in found.get("cases", []):
            if row.get("error") or row.get("passed") is False:
                what = [str(row[key]) for key in NAMES if key in row]
                lines.append(f"  ! {' '.join(what)}: {str(row.get('error') or row.get('worst'))[:160]}")
        if found.get("tail"):
            lines += ["  " + line[:160] for line in found["tail"].strip().splitlines()[-4:]]
    return lines


def timed(rows: Sequence[dict[str, Any]]) -> list[str]:
    """One line per timed case: minimum milliseconds, fastest first."""
    cases: dict[tuple, list] = {}
    for row in rows:
        if "min" in row:
            key = tuple(row[key] for key in ("cell", "shape", "dtype", "what") if key in row)
            cases.setdefault(key, []).append((row["min"], row["engine"]))
    return [f"  {' '.join(key)} | " + ", ".join(f"{engine} {ms:.3g}" for ms, engine in sorted(times)) for key, times in cases.items()]


def main() -> None:
    """Runs the parts, saves, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=480.0, help="for everything")
    parser.add_argument("--parts", default=",".join(part.name for part in PARTS), help="comma-separated names")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benchmarks" / "results", help="folder of gpu.json")
    parser.add_argument("--tag", default="", help="suffix of the result's name")
    parser.add_argument("--dry_run", action="store_true", help="small sizes and short times, on any device")
    parser.add_argument("--autotune", action="store_true", help=f"compile with XLA's own search, minutes longer; else with {QUICK}")
    options = parser.parse_args()
    if not options.autotune:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}".strip()
    names, known = options.parts.split(","), {part.name: part for part in PARTS}
    if unknown := set(names) - set(known):
        parser.error(f"no part is named {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    chosen = [part for part in PARTS if part.name in names]
    path = options.out.absolute() / f"gpu{options.tag}.json"
    result = run(chosen, options.seconds, path, options.dry_run)
    print("\n".join(table(result)), flush=True)
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
