"""The parts of benchmarks.gpu that time things, and the process that runs any part: `python -m benchmarks.gpu_parts NAME`."""

import argparse
import contextlib
import functools
import pathlib
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import seqjax
from benchmarks import cnn_training, common, engines, gpu, timing
from benchmarks.gpu_record import OutOfTime, Recorder, lower, on_gpu, one_line, time_group
from seqjax.cells import CELLS

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
LAYER = timing.Shape(16, 1024, 768, 768)
LINEAR = (timing.Shape(16, 1024, 256, 256), timing.Shape(16, 8192, 256, 256))
SMALL = timing.Shape(2, 16, 16, 16)  # for a dry run
# Name in a result -> engine, layout of the fused engine.
DENSE = {
    "scan": ("scan", None),
    "fused rows": ("fused", "rows"),
    "fused columns": ("fused", "columns"),
    "fused apart": ("fused", "apart"),
    "cudnn": ("cudnn", None),
}
PARALLEL = {"associative": ("associative", None), "scan": ("scan", None)}


@functools.lru_cache(maxsize=4)
def params_of(kind: str, shape: timing.Shape) -> Any:
    """Parameters of a cell, made on the CPU, where this compiles faster."""
    with jax.default_device(jax.devices("cpu")[0]):
        params = CELLS[kind](shape.hidden).init(jax.random.key(0), shape.features)
    return jax.tree.map(np.asarray, params)


def ours(kind: str, engine: str, layout: str | None, shape: timing.Shape, dtype: str) -> dict[str, tuple]:
    """One of our engines, traced."""
    cell = CELLS[kind](shape.hidden, dtype=None if dtype == "float32" else DTYPES[dtype])
    params = params_of(kind, shape)
    xs = timing.make_data(shape)[0].astype(DTYPES[dtype])

    def apply(params, xs):
        with engines.forcing(layout):
            return seqjax.unroll(cell, params, xs, time_major=True, engine=engine)[1]

    return lower(apply, params, xs)


def flax(kind: str, shape: timing.Shape, dtype: str) -> dict[str, tuple]:
    """flax.linen.RNN, traced; for the LSTM, its cell with joined products."""
    from flax import linen as nn

    cell = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell, "rnn": nn.SimpleCell}[kind]
    layer = nn.RNN(cell(shape.hidden, dtype=DTYPES[dtype]), time_major=True)
    xs = timing.make_data(shape)[0].astype(DTYPES[dtype])
    return lower(layer.apply, jax.jit(layer.init)(jax.random.key(0), xs[:1]), xs)


def torch_device() -> tuple[Any, str, Callable[[], None]]:
    """torch with TensorFloat32 allowed, its device, and a function that waits for it."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    if on_gpu():
        return torch, "cuda", torch.cuda.synchronize
    return torch, "cpu", lambda: None


def torch_layer(kind: str, shape: timing.Shape, dtype: str) -> dict[str, Callable]:
    """torch.nn, which is cuDNN on a GPU; in bfloat16 its weights are bfloat16 too."""
    torch, device, wait = torch_device()
    layer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[kind](shape.features, shape.hidden)
    layer = layer.to(device, getattr(torch, dtype))
    xs, cotangent = (torch.tensor(a).to(device, getattr(torch, dtype)) for a in timing.make_data(shape))
    xs.requires_grad_()

    def forward():
        with torch.no_grad():
            layer(xs)
        wait()

    def training():
        xs.grad = None
        layer.zero_grad(set_to_none=True)
        layer(xs)[0].backward(cotangent)
        wait()

    return {"forward": forward, "training": training}


def sides(kind: str, shape: timing.Shape, dtype: str, variants: dict) -> dict[str, Callable]:
    """Makers of our variants, and of torch's and flax's if they have the cell."""
    made = {name: lambda v=variant: ours(kind, *v, shape, dtype) for name, variant in variants.items()}
    if kind in ("lstm", "gru", "rnn"):
        made["torch"] = lambda: torch_layer(kind, shape, dtype)
        made["flax"] = lambda: flax(kind, shape, dtype)
    return made


def matmul(dtype: str, precision: str | None, size: int, library: str = "jax") -> float:
    """TFLOP/s of a square product on random data, the median of ten rounds of five."""
    if library == "torch":
        torch, device, wait = torch_device()
        torch.backends.cuda.matmul.allow_tf32 = precision is None
        a, b = (torch.randn(size, size, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
        rates = _rates(lambda: a @ b, wait, 2e-12 * size**3)
        torch.backends.cuda.matmul.allow_tf32 = True
        return rates
    a, b = (jax.random.normal(jax.random.key(n), (size, size), DTYPES[dtype]) for n in range(2))
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision=precision))
    kept = []
    return _rates(lambda: kept.append(product(a, b)), lambda: (jax.block_until_ready(kept), kept.clear()), 2e-12 * size**3)


def _rates(start, wait, amount):
    for _ in range(3):
        start()
    wait()
    times = []
    for _ in range(10):
        begin = time.perf_counter()
        for _ in range(5):
            start()
        wait()
        times.append((time.perf_counter() - begin) / 5)
    return amount / float(np.median(times))


def copy_rate(size: int, library: str) -> float:
    """GB/s of copying an array of `size` float32 numbers, counting reads and writes."""
    if library == "torch":
        torch, device, wait = torch_device()
        x = torch.randn(size, device=device)
        y = torch.empty_like(x)
        return _rates(lambda: y.copy_(x), wait, 8e-9 * size)
    x, kept = jax.random.normal(jax.random.key(0), (size,)), []
    shift = jax.jit(lambda x: x + 1)
    return _rates(lambda: kept.append(shift(x)), lambda: (jax.block_until_ready(kept), kept.clear()), 8e-9 * size)


def device(recorder: Recorder, dry_run: bool) -> None:
    """The device and its measured ceilings."""
    found = jax.devices()[0]
    facts = {"kind": found.device_kind, "backend": jax.default_backend(), "platform": found.client.platform_version}
    facts |= {"memory": found.memory_stats(), **common.hardware()}
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version,clocks.sm,clocks.max.sm", "--format=csv"]
        facts["nvidia_smi"] = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    recorder.finish("facts", [], facts=facts, summary=[f"{facts['kind']}, jax {jax.__version__}"])
    size, numbers = (256, 10**5) if dry_run else (8192, 2**28)
    with contextlib.suppress(ImportError):
        import torch

        facts |= {"torch_cuda": torch.version.cuda, "torch_cudnn": torch.backends.cudnn.version()}
    cases = {
        f"{library} {name}": lambda library=library, arguments=arguments: matmul(*arguments, size, library)
        for library in ("jax", "torch")
        for name, arguments in {
            "bfloat16": ("bfloat16", None),
            "float32 default": ("float32", None),
            "float32 highest": ("float32", "highest"),
        }.items()
    }
    cases |= {f"{library} copy": lambda library=library: copy_rate(numbers, library) for library in ("jax", "torch")}
    for name, measure in cases.items():
        if recorder.begin(name):
            unit = "GB/s" if "copy" in name else "TFLOP/s"
            try:
                rate = measure()
                row, line = {"what": name, "unit": unit, "rate": rate}, f"{name}: {rate:.4g} {unit}"
            except Exception as error:
                row, line = {"what": name, "error": one_line(error)}, f"{name}: failed"
                recorder.check_alive(error)
            recorder.finish(name, [row], facts=facts, summary=[*recorder.data["summary"], line])


def layers(recorder: Recorder, dry_run: bool) -> None:
    """One large layer in two dtypes, with its distance from the measured ceiling of products."""
    shape = SMALL if dry_run else LAYER
    ceilings = {dtype: matmul(dtype, None, 128 if dry_run else 8192) for dtype in DTYPES}
    for dtype in DTYPES:
        for kind, gates in (("lstm", 4), ("gru", 3)):
            forward = 2e-12 * shape.batch * shape.steps * (shape.features + shape.hidden) * gates * shape.hidden

            def add(what, row, forward=forward, dtype=dtype):
                floor = 1e3 * forward * (3 if what == "training" else 1) / ceilings[dtype]
                return {"floor": floor, "over_floor": row["min"] / floor, "microseconds_per_step": 1e3 * row["min"] / shape.steps}

            key = {"cell": kind, "shape": str(shape), "dtype": dtype}
            rounds, seconds = (4, 0) if dry_run else (30, 2.5)
            variants = {name: DENSE[name] for name in ("scan", "fused rows", "fused apart", "cudnn")}
            time_group(recorder, key, sides(kind, shape, dtype, variants), rounds, seconds, add)


def shapes(recorder: Recorder, dry_run: bool) -> None:
    """The grid of shapes for the three dense cells, and the linear recurrences, most important first."""
    rounds, seconds = (4, 0) if dry_run else (30, 0.4)
    grid, linear = ((SMALL,), (SMALL,)) if dry_run else (timing.GRID, LINEAR)
    cases = [(kind, shape, DENSE) for kind in ("lstm", "rnn", "gru") for shape in grid]
    cases += [(kind, shape, PARALLEL) for shape in linear for kind in ("mingru", "lru")]
    for kind, shape, variants in cases:
        key = {"cell": kind, "shape": str(shape), "dtype": "float32"}
        time_group(recorder, key, sides(kind, shape, "float32", variants), rounds, seconds)


NETS = {
    "lenet5": cnn_training.NETS["lenet5"],
    "resnet18": cnn_training.NETS["resnet18"]._replace(batch=256),
    "resnet50": cnn_training.Net(64, 224, 3, ("resnet", "resnet50", {})),
    "mobilenet_v1": cnn_training.NETS["mobilenet_v1"]._replace(batch=64, size=224),
}


def cnn(recorder: Recorder, dry_run: bool) -> None:
    """Training steps of CNNs, float32 and bfloat16, ours and torch's."""
    device = torch_device()[1]
    import torch

    torch.backends.cudnn.benchmark = True  # torch chooses algorithms by timing, like XLA
    nets = {"lenet5": NETS["lenet5"]._replace(batch=2)} if dry_run else NETS  # the others take minutes to compile on a CPU
    for name, net in nets.items():
        if not recorder.begin(name):
            continue
        key = {"cell": name, "shape": f"{net.batch},{net.size},{net.size},{net.channels}", "what": "training"}
        functions, rows = {}, []
        for side, make in cnn_training.gpu_sides(name, net, device).items():
            if recorder.left <= 0 or not recorder.trying(name, side):
                continue
            try:
                begin = time.perf_counter()
                functions[side] = make()
                functions[side]()
                first = time.perf_counter() - begin
                rows.append(key | {"engine": side, "first_call_seconds": first})
            except Exception as error:
                functions.pop(side, None)
                rows.append(key | {"engine": side, "error": one_line(error)})
                recorder.check_alive(error)
        recorder.trying(name)
        rounds, seconds = (4, 0) if dry_run else (15, 3)
        times = timing.interleave(functions, rounds, seconds, again=True)
        for row in rows:
            if row["engine"] in times:
                times[row["engine"]].pop("first_call_seconds")
                row |= times[row["engine"]]
                row["images_per_second"] = 1e3 * net.batch / row["min"]
        recorder.finish(name, rows)


def training(recorder: Recorder, dry_run: bool) -> None:
    """benchmarks.loop_overhead on the default language model, with its result saved separately."""
    import tempfile

    from benchmarks import loop_overhead
    from benchmarks.experiment import config_of
    from experiments.language_model import EXPERIMENT

    preset = "hello" if dry_run else "char_small"
    if not recorder.begin("training"):
        return
    found = []
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(common, "RESULTS", pathlib.Path(folder)):
        with mock.patch("sys.argv", ["loop_overhead", f"--preset={preset}", f"--blocks={1 if dry_run else 4}"]):
            loop_overhead.main()
        found = [gpu.read(path) for path in pathlib.Path(folder).glob("*.json")]
    data, times = config_of(EXPERIMENT, preset).data, found[0]["milliseconds_per_step"]
    tokens = data.batch_size * data.window
    rates = {side: 1e3 * tokens / row["median"] for side, row in times.items()}
    summary = [f"{preset}, tokens a second: " + ", ".join(f"{side} {rate:,.0f}" for side, rate in rates.items())]
    recorder.finish("training", [], loop_overhead=found[0], tokens_per_second=rates, summary=summary)


def parts() -> Iterator[tuple[str, Callable[[Recorder, bool], None]]]:
    """Every part's name and function."""
    from benchmarks import gpu_checks, gpu_memory

    yield from ((part.__name__, part) for part in (device, layers, shapes, cnn, training))
    others = (gpu_checks.accuracy, gpu_checks.suite, gpu_checks.resume, gpu_memory.offload)
    yield from ((part.__name__, part) for part in others)


def main() -> None:
    """Runs one part."""
    known = dict(parts())
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=known)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the file to write")
    parser.add_argument("--deadline", type=float, default=600.0, help="seconds after which no new case starts")
    parser.add_argument("--dry_run", action="store_true")
    options = parser.parse_args()
    recorder = Recorder(options.out, options.deadline)
    timing.prepare()
    try:
        known[options.part](recorder, options.dry_run)
    except OutOfTime:
        recorder.end("timed out")
    except Exception as error:
        recorder.fail(error)
        raise
    else:
        recorder.end("ok")


if __name__ == "__main__":
    main()
