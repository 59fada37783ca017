"""The parts of benchmarks.gpu that check results: accuracy against float64, the test suite, exact resume."""

import contextlib
import functools
import importlib.util
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import seqjax
from benchmarks import engines, gpu
from benchmarks.gpu_record import UNTRIED, OutOfTime, Recorder, compile_all, on_gpu
from seqjax.typing import Dense, Linear

CELLS: dict[str, Callable[..., seqjax.Cell]] = {
    **{name: make for name, make in seqjax.cells.CELLS.items() if name not in ("irnn", "minlstm")},
    "lstm layer norm": lambda hidden, **options: seqjax.lstm(hidden, layer_norm=True, **options),
    "lstm peepholes": lambda hidden, **options: seqjax.lstm(hidden, peepholes=True, **options),
    "lstm proj": lambda hidden, **options: seqjax.lstm(hidden, proj_size=hidden // 2, **options),
}
# Precision of products: dtype of the computation, JAX's matmul precision, bound of ‖out - ref‖ / ‖ref‖ of any array.
PRECISIONS = {
    "highest": (None, "highest", 2e-5),
    "default": (None, None, 1e-2),
    "bfloat16": (jnp.bfloat16, None, 8e-2),
}
NARROW = ("lstm", "gru", "rnn", "mingru")  # cells also checked in bfloat16
LAYOUTS = ("rows", "columns", "apart")


def variants(cell: seqjax.Cell) -> dict[str, tuple[str, str | None]]:
    """The engines to check a cell on: name -> (engine, layout)."""
    forced = LAYOUTS if isinstance(cell.split, Dense) else (None,)
    found = {"scan": ("scan", None)}
    if cell.parts is not None:
        found |= {f"fused {layout}" if layout else "fused": ("fused", layout) for layout in forced}
    if isinstance(cell.split, Linear):
        found["associative"] = ("associative", None)
    return found | {name: (name, None) for name in UNTRIED}


def gradients(make: Callable[[], seqjax.Cell], engine: str, layout: str | None, options: dict) -> Callable:
    """A function of (params, carry, xs, weights): outputs, last carry, and gradients of their product with weights."""
    cell = make()

    def loss(params, carry, xs, weights):
        with engines.forcing(layout):
            last, ys = seqjax.unroll(cell, params, xs, carry, engine=engine, time_major=True, **options)
        leaves = [ys, *jax.tree.leaves(last)]
        wide = [(w * (a if a.dtype == w.dtype else a.astype(w.dtype))).real.sum() for w, a in zip(weights, leaves)]
        return sum(wide), (ys, last)

    def run(params, carry, xs, weights):
        grads, (ys, last) = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(params, carry, xs, weights)
        return {"ys": ys, "carry": last, "d_params": grads[0], "d_carry": grads[1], "d_xs": grads[2]}

    return run


def draw(name: str, shape: tuple[int, int, int, int], seed: int) -> tuple:
    """Random params, carry, inputs and weights of the loss in float32, with lengths and resets."""
    batch, steps, features, hidden = shape
    rng = np.random.default_rng(seed)
    cell = CELLS[name](hidden)

    def near(a, scale):
        return np.asarray(a) + (scale * rng.standard_normal(np.shape(a), np.float32)).astype(a.dtype)

    with jax.default_device(jax.devices("cpu")[0]):
        params = jax.tree.map(lambda a: near(a, 0.1), cell.init(jax.random.key(seed), features))
        carry = jax.tree.map(lambda a: near(a, 0.5), cell.initial_carry(params, batch))
    xs = rng.standard_normal((steps, batch, features), np.float32)
    last, ys = jax.eval_shape(lambda *a: seqjax.unroll(cell, *a, time_major=True, engine="scan"), params, xs, carry)
    weights = [rng.standard_normal(a.shape, np.float32) for a in (ys, *jax.tree.leaves(last))]
    lengths = rng.integers(0, steps + 1, batch).astype(np.int32)
    lengths[:2] = steps, 0
    return (params, carry, xs, weights), lengths, rng.random((steps, batch)) < 0.1


def options_of(engine: str, lengths: np.ndarray, resets: np.ndarray) -> dict[str, Any]:
    """The options to run an engine with: all of them, or those that cuDNN supports."""
    return {"lengths": lengths, "reverse": True} | ({} if engine == "cudnn" else {"resets": resets})


@functools.lru_cache(maxsize=64)
def reference(name: str, shape: tuple[int, int, int, int], seed: int, engine: str) -> Any:
    """The plain scan in float64 on the CPU, on the data from `draw`, with the options of an engine."""
    arguments, *given = draw(name, shape, seed)
    options, hidden = options_of(engine, *given), shape[3]
    wide = {np.dtype(np.float32): np.float64, np.dtype(np.complex64): np.complex128}
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        cast = jax.tree.map(lambda a: np.asarray(a).astype(wide.get(np.asarray(a).dtype, a.dtype)), arguments)
        run = gradients(lambda: CELLS[name](hidden, param_dtype=jnp.float64), "scan", None, options)
        found = jax.tree.map(np.asarray, jax.jit(run)(*cast))
    kinds = {str(a.dtype) for a in jax.tree.leaves(found)}
    if not kinds <= {"float64", "complex128"}:
        raise TypeError(f"the reference is in {kinds}")
    return found


def errors(got: Any, want: Any) -> dict[str, float]:
    """‖got - want‖ / ‖want‖ of every array by its path; NaN counts as infinite."""
    found = {}
    for (path, b), a in zip(jax.tree_util.tree_leaves_with_path(want), jax.tree.leaves(got), strict=True):
        a = np.asarray(a)
        a = a.astype(np.complex128 if np.iscomplexobj(a) else np.float64)
        error = float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(b)), 1e-30)
        found[jax.tree_util.keystr(path)] = error if np.isfinite(error) else float("inf")
    return found


def accuracy(recorder: Recorder, dry_run: bool) -> None:
    """Every engine and cell on random inputs, with lengths, resets and reverse if the engine supports them."""
    shape = (3, 6, 16, 16) if dry_run else (24, 40, 48, 64)
    for precision in PRECISIONS:
        for number, name in enumerate(CELLS):
            if precision != "bfloat16" or name in NARROW:
                _check_cell(recorder, name, precision, shape, seed=number)
                _sum_up(recorder)


def _sum_up(recorder):
    rows = recorder.data["cases"]
    worst = {
        p: max([row["worst_error"] for row in rows if row.get("precision") == p and "worst_error" in row], default=None) for p in PRECISIONS
    }
    passed = sum(bool(row.get("passed")) for row in rows)
    ran = sum("passed" in row for row in rows)
    alike = sum(bool(row.get("repeatable")) for row in rows)
    words = ", ".join(f"{name} {error:.1e}" for name, error in worst.items() if error is not None)
    recorder.data["summary"] = [
        f"{passed} of {ran} within their bounds, worst error: {words}",
        f"{alike} of {ran} give the same bits twice",
    ]


def _check_cell(recorder, name, precision, shape, seed):
    group, (dtype, products, bound) = f"{name} {precision}", PRECISIONS[precision]
    if not recorder.begin(group):
        return
    arguments, lengths, resets = draw(name, shape, seed)
    able = variants(CELLS[name](shape[3]))
    settings = {variant: options_of(engine, lengths, resets) for variant, (engine, _) in able.items()}

    def make(variant):
        def lowered():
            run = gradients(lambda: CELLS[name](shape[3], dtype=dtype), *able[variant], settings[variant])
            params, carry, xs, weights = jax.device_put(arguments)
            cell = CELLS[name](shape[3], dtype=dtype)
            like = jax.eval_shape(lambda p: cell.initial_carry(p, shape[0]), params)
            given = (params, jax.tree.map(lambda a, b: a.astype(b.dtype), carry, like), xs, weights)
            with jax.default_matmul_precision(products) if products else contextlib.nullcontext():
                return {"all": (jax.jit(run).lower(*given), given)}

        return lowered

    ready, bad = compile_all(recorder, group, {variant: make(variant) for variant in able})
    rows = [{"cell": name, "precision": precision, "engine": variant} | reason for variant, reason in bad.items()]
    for variant, made in ready.items():
        want = reference(name, shape, seed, "cudnn" if variant == "cudnn" else "scan")
        first, second = (jax.tree.map(np.asarray, made.functions["all"]()) for _ in range(2))
        found = errors(first, want)
        worst = max(found, key=found.get)
        same = all(a.tobytes() == b.tobytes() for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second)))
        rows.append({
            "cell": name, "precision": precision, "engine": variant, "options": list(settings[variant]), "errors": found, "bound": bound,
            "worst": f"{worst} {found[worst]:.1e}, bound {bound:.0e}", "worst_error": found[worst],
            "passed": found[worst] <= bound, "repeatable": same,
        })  # fmt: skip
    recorder.finish(group, rows)


class Child:
    """A process in its own group, with its output in a file, that never outlives its `with` block."""

    def __init__(self, command: list[str], log: pathlib.Path, env: dict[str, str]):
        self.log = log
        with log.open("ab") as output:
            env = os.environ | env
            self.process = subprocess.Popen(command, cwd=gpu.ROOT, env=env, stdout=output, stderr=output, start_new_session=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        gpu.stop(self.process)

    @property
    def text(self) -> str:
        """Its output so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")


# This test reads the JAX settings that are changed here.
LEFT_OUT = "tests/engines/test_cudnn.py::test_precision_follows_the_setting_of_jax"
TESTS = ("tests/engines", "tests/test_unroll.py", "--ignore-glob=tests/engines/test_native*")  # CPU only
OUTCOME = re.compile(
    r"(?:\] \[ *\d+%\] (PASSED|FAILED|ERROR|SKIPPED|XFAIL) (tests/\S+))|^(tests/\S+) (PASSED|FAILED|ERROR|SKIPPED|XFAIL)",
    re.M,
)


def outcomes(text: str) -> dict[str, list[str]]:
    """The tests that pytest -v has reported so far, by outcome; with or without xdist."""
    found: dict[str, list[str]] = {}
    for outcome, name, name_alone, outcome_alone in OUTCOME.findall(text):
        found.setdefault((outcome or outcome_alone).lower(), []).append(name or name_alone)
    collection = set(re.findall(r"^ERROR (tests/\S+\.py)(?: |$)", text, re.M))
    if collection:
        found.setdefault("error", []).extend(sorted(collection))
    return found


def suite(recorder: Recorder, dry_run: bool) -> None:
    """The project's tests of engines and of unroll with products in full float32; stopped when time runs out."""
    if not recorder.begin("suite"):
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that pytest is stopped too
    chosen = ("tests/engines/test_cudnn.py",) if dry_run else TESTS
    # A newer JAX's deprecations are not a failure of this device.
    old = [f"-Wdefault::{kind}" for kind in ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning")]
    command = [sys.executable, "-m", "pytest", *chosen, "-vv", "-rfE", "--tb=short", "--continue-on-collection-errors"]
    command += ["-p", "no:cacheprovider", "-p", "no:benchmark", f"--deselect={LEFT_OUT}", *old]
    if importlib.util.find_spec("xdist"):
        command += ["-n", "2" if dry_run else "12"]
    env = {"JAX_DEFAULT_MATMUL_PRECISION": "highest", "JAX_PLATFORMS": "cuda,cpu" if on_gpu() else "cpu"}
    with tempfile.TemporaryDirectory() as folder:
        env["SEQJAX_CACHE"] = f"{folder}/cache"
        with Child(command, pathlib.Path(folder) / "log", env) as tests:
            status = None
            while status is None and recorder.left > 0:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    status = tests.process.wait(2)
                _note_outcomes(recorder, tests.text, status)
        recorder.finish("suite", [])
    if status is None:
        raise OutOfTime


def _note_outcomes(recorder, text, status):
    found = outcomes(text)
    counts = {outcome: len(names) for outcome, names in found.items()}
    bad = {outcome: sorted(set(found.get(outcome, []))) for outcome in ("failed", "error")}
    messages = re.findall(r"^(?:FAILED|ERROR) tests/.*$", text, re.M)[:60]
    state = "finished" if status is not None else "not finished"
    listed = messages or [f"{kind} {name}" for kind, names in bad.items() for name in names]
    recorder.data |= {"exit_status": status, "counts": counts, **bad, "messages": messages}
    recorder.data["output"] = text[-20_000:] if status not in (None, 0) else text[-1000:]
    recorder.data["summary"] = [f"{state}: {counts}", *(line[:200] for line in listed[:12])]
    recorder.trying("suite")


def _processes():
    """The helpers of the experiments' tests, which read a run without the project's code."""
    path = gpu.ROOT / "tests" / "experiments" / "processes.py"
    spec = importlib.util.spec_from_file_location("processes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def resume(recorder: Recorder, dry_run: bool) -> None:
    """The language model with dropout, once to the end and once stopped by SIGTERM and resumed, compared byte for byte."""
    if recorder.begin("resume"):
        _compare_runs(recorder, dry_run)
    _repeat(recorder, dry_run)


def _compare_runs(recorder, dry_run):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    processes = _processes()
    steps = 600 if dry_run else 1000
    changes = {
        "model.cell": "lstm", "model.dropout": 0.2, "data.batch_size": 4, "train.steps": steps, "train.keep": 2,
        "train.log_every": 50, "train.eval_every": 75, "train.checkpoint_every": 75, "sample.length": 10,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        command = [sys.executable, "-m", "experiments.language_model", processes.HELLO]
        command += processes.config_flags(changes, {})
        # Compiled by the first run, loaded by the others, as for a user.
        env = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"}

        def start(workdir):
            return Child([*command, f"--workdir={folder / workdir}"], folder / f"{workdir}.log", env)

        with start("whole") as whole:
            _wait(whole, recorder, lambda: processes.sealed(folder / "whole"))
            with start("parts") as run:
                _wait(run, recorder, lambda: processes.sealed(folder / "parts"))
                run.process.send_signal(signal.SIGTERM)
                _wait(run, recorder)
                _expect(run, 143)
            stopped = processes.sealed(folder / "parts")[-1]
            if not 0 < stopped < steps:
                raise RuntimeError(f"the run was to be stopped in the middle; its last checkpoint is of step {stopped}")
            with start("parts") as run:
                _wait(run, recorder)
                _expect(run, 0)
            _wait(whole, recorder)
            _expect(whole, 0)
        states = [processes.final_state(folder / workdir) for workdir in ("whole", "parts")]
        lines = [processes.records(folder / workdir) for workdir in ("whole", "parts")]
    differing = sorted(key for key in states[0].keys() | states[1].keys() if states[0].get(key) != states[1].get(key))
    pairs = list(zip(*lines))
    first = next((pair for pair in pairs if pair[0] != pair[1]), None)
    passed = not differing and lines[0] == lines[1]
    row = {
        "what": "resume", "passed": passed, "steps": steps, "stopped_at": stopped, "arrays": len(states[0]),
        "differing_arrays": differing, "records": len(lines[0]), "first_differing_records": first,
        "worst": f"{len(differing)} of {len(states[0])} arrays differ, first record that differs: {first}",
    }  # fmt: skip
    same = "byte for byte the same" if passed else "NOT the same"
    line = f"stopped at {stopped} of {steps}, resumed: {same} ({len(states[0])} arrays, {len(lines[0])} records)"
    recorder.finish("resume", [row], summary=[line])


def _wait(run, recorder, condition=lambda: False):
    """Waits until the process ends or the condition holds."""
    while run.process.poll() is None and not condition():
        if recorder.left <= 0:
            raise TimeoutError(f"still running: {run.text[-600:]}")
        time.sleep(0.002)


def _expect(run, status):
    if run.process.poll() != status:
        raise RuntimeError(f"ended with {run.process.poll()} instead of {status}: {run.text[-1200:]}")


def _repeat(recorder, dry_run):
    """Whether each engine gives the same bits twice with deterministic operations."""
    shape = (3, 6, 16, 16) if dry_run else (24, 40, 48, 64)
    for name in ("lstm", "gru", "mingru"):
        _check_cell(recorder, name, "default", shape, seed=50)
    rows = [row for row in recorder.data["cases"] if "repeatable" in row]
    alike = sum(row["repeatable"] for row in rows)
    recorder.data.setdefault("summary", []).append(f"deterministic operations: {alike} of {len(rows)} give the same bits twice")
