"""The part of benchmarks.gpu that measures what offloading saves and costs: the carries of `remat_every` in the host's memory."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

import seqjax
from benchmarks import timing
from benchmarks.gpu_record import Recorder, on_gpu


class Case(NamedTuple):
    """A cell whose carries take much memory, and the sizes of its sequences."""

    name: str
    cell: seqjax.Cell
    batch: int
    steps: int
    features: int

    @property
    def every(self) -> int:
        """Steps between two kept carries, near the square root of T."""
        return max(1, math.isqrt(self.steps))


def cases(dry_run: bool) -> list[Case]:
    """A ConvLSTM over maps of 64 x 64, whose carry is 4 MB a sequence, and a wide LSTM over a long sequence."""
    if dry_run:
        return [Case("conv_lstm", seqjax.conv_lstm(2, 3, (8, 8)), 2, 9, 1), Case("lstm", seqjax.lstm(8), 2, 16, 8)]
    return [
        Case("conv_lstm", seqjax.conv_lstm(128, 3, (64, 64)), 8, 256, 16),
        Case("lstm", seqjax.lstm(1024), 256, 4096, 64),
    ]


def gradient(case: Case, **options: Any) -> Any:
    """The loss's gradient with respect to the parameters, a function of (params, xs)."""

    def loss(params, xs):
        return (seqjax.unroll(case.cell, params, xs, time_major=True, **options)[1] ** 2).mean()

    return jax.jit(jax.grad(loss))


def offload(recorder: Recorder, dry_run: bool) -> None:
    """Memory planned on the device and on the host, time, and the distance between the gradients."""
    for case in cases(dry_run):
        if recorder.begin(case.name):
            rows = list(compare(case, *((2, 0) if dry_run else (10, 1.0))))
            lines = [f"{r['cell']}, {r['way']}: {r['device_bytes'] / 1e6:,.0f} MB, {r['min']:.1f} ms" for r in rows]
            recorder.finish(case.name, rows, summary=[*recorder.data.get("summary", []), *lines])


def compare(case: Case, rounds: int, seconds: float) -> Iterator[dict[str, Any]]:
    """A row for `remat_every` alone and, on a GPU, one with offload."""
    xs = np.random.default_rng(0).standard_normal((case.steps, case.batch, *case.cell.spatial, case.features), np.float32)
    arrays = jax.device_put((case.cell.init(jax.random.key(0), case.features), xs))
    ways = {"remat_every": False} | ({"remat_every, offload": True} if on_gpu() else {})
    compiled = {name: gradient(case, remat_every=case.every, offload=way).lower(*arrays).compile() for name, way in ways.items()}
    found = {name: jax.device_get(call(*arrays)) for name, call in compiled.items()}
    times = timing.interleave(
        {name: lambda call=call: jax.block_until_ready(call(*arrays)) for name, call in compiled.items()}, rounds, seconds
    )
    for name, call in compiled.items():
        plan = call.memory_analysis()
        planned = {"device_bytes": plan.temp_size_in_bytes, "host_bytes": plan.host_temp_size_in_bytes}
        sizes = {"batch": case.batch, "steps": case.steps, "remat_every": case.every}
        error = _distance(found[name], found["remat_every"])
        yield {"cell": case.name, "way": name} | sizes | times[name] | planned | {"error": error}


def _distance(got: Any, want: Any) -> float:
    """The largest difference of any array, relative to that array's largest entry."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return float(max(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30) for a, b in pairs))
