"""A differential fuzzer: random networks on every engine against NumPy in float64, values and gradients.

    python tests/fuzzing.py [--cases=10000] [--seed=0] [--draws=8] [--out=FILE]

A program is a random network (a cell of the table or a convolutional one, in wrappers, stacks with what stands between cells,
and two directions), an engine, a dtype, a transformation, and what the run is given: lengths or a mask with holes, resets, a
carry, a direction, a key for the noise of training, whose masks NumPy is given too. Each is compiled
once and run on several draws of parameters, inputs and flags; each such run is a case. Outputs and the last carry are
compared entry by entry, the gradients by their product with random directions, one each for parameters, carry and inputs.
Padded inputs are NaN. A mismatch is an error above the bound of the dtype. Some draws are so ill conditioned (a layer
normalisation of numbers that lie close together, say) that float32 itself errs more: such a case is none if the same numbers
in float64 are within that bound, and the plain scan in float32 errs at least a quarter as much. A mismatch is reported with
the number that gives it again: `--only=PROGRAM`.
"""

import argparse
import collections
import json
import os
import pathlib
import sys
import time
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import net_cells  # noqa: E402
import nets  # noqa: E402
import numpy as np  # noqa: E402
import numpy_reference as ref  # noqa: E402

import seqjax  # noqa: E402
from seqjax.errors import UserError  # noqa: E402

ENGINES = ("auto", "scan", "fused", "native", "associative")
TRANSFORMS = ("jit", "jit", "vmap over examples", "vmap over parameters", "remat", "time major", "every carry", "no jit")
DTYPES = {"float64": 1e-11, "float32": 3e-5, "bfloat16": 0.03}  # with the bound of an error over 1 + the largest value


class Program(NamedTuple):
    """What is compiled once."""

    net: net_cells.Net
    engine: str
    dtype: str
    transform: str
    lengths: str | None  # "lengths", "holes"
    resets: bool
    carry: bool
    reverse: bool
    training: bool
    shape: tuple[int, int]  # B, T

    def __str__(self):
        given = [self.lengths, *(name for name in ("resets", "carry", "reverse", "training") if getattr(self, name))]
        return f"{self.net.said} | {self.engine} {self.dtype} {self.transform} {self.shape} {' '.join(filter(None, given))}"


def program(rng: np.random.Generator, make: Any = nets.random_net, wanted: str | None = None) -> Program:
    """A random program, on an engine that can run it; or the same in a dtype that is wanted."""
    dtype = str(rng.choice(list(DTYPES), p=[0.45, 0.45, 0.1]))
    dtype = wanted or dtype
    options = {"param_dtype": jnp.float64} if dtype == "float64" else {"dtype": jnp.bfloat16} if dtype == "bfloat16" else {}
    net = make(rng, options)
    transform, engine = str(rng.choice(TRANSFORMS)), str(rng.choice(ENGINES))
    shape = (int(rng.integers(1, 4)), int(rng.choice([1, 2, 5, 8])))
    lengths, given = [None, "lengths", "holes"][rng.integers(3)], [bool(flag) for flag in rng.integers(2, size=3)]
    # A vmap over examples draws the masks of each by itself, in the shapes of one.
    training = transform != "vmap over examples" and rng.random() < 0.35
    prog = Program(net, engine, dtype, transform, lengths, *given, training, shape)
    params = jax.eval_shape(lambda: net.cell.init(jax.random.key(0), net_cells.H))
    xs = jax.ShapeDtypeStruct((*shape, *net.cell.spatial, net_cells.H), jnp.float64 if dtype == "float64" else jnp.float32)
    options = {"engine": engine, "return_carries": transform == "every carry", "rng": jax.random.key(0) if training else None}
    try:
        jax.eval_shape(lambda p, x: seqjax.unroll(net.cell, p, x, **options), params, xs)
    except UserError:
        return prog._replace(engine="auto")
    return prog


def draw(rng: np.random.Generator, prog: Program) -> dict[str, Any]:
    """Random arrays for a program: params, carry, xs, mask, lengths, resets, and cotangents of the results."""
    (batch, steps), cell = prog.shape, prog.net.cell
    wide = np.float64 if prog.dtype == "float64" else np.float32
    start = cell.init(jax.random.key(int(rng.integers(2**31))), net_cells.H)

    def near(a, scale=0.4):
        return (np.asarray(a, np.float64) + scale * rng.uniform(-1, 1, np.shape(a))).astype(a.dtype)

    params = jax.tree.map(near, start)
    initial = jax.tree.map(np.asarray, cell.initial_carry(params, batch))
    carry = jax.tree.map(lambda a: near(np.zeros_like(a), 0.8), initial) if prog.carry else initial
    counts = rng.integers(0, steps + 1, batch)
    mask = {None: np.ones((batch, steps), bool), "lengths": np.arange(steps) < counts[:, None]}.get(
        prog.lengths, rng.random((batch, steps)) < 0.7
    )
    xs = rng.normal(size=(batch, steps, *cell.spatial, net_cells.H)).astype(wide)
    xs[~mask] = np.nan
    resets = rng.random((batch, steps)) < 0.3 if prog.resets else np.zeros((batch, steps), bool)
    lengths = {None: None, "lengths": counts.astype(np.int32)}.get(prog.lengths, mask)
    d_carry = jax.tree.map(lambda a: rng.normal(size=a.shape), carry)
    d_ys = jax.tree.map(lambda size: rng.normal(size=(batch, steps, *prog.net.spatial, size)), prog.net.size)
    return {
        "params": params, "carry": carry, "initial": initial, "xs": xs, "mask": mask, "lengths": lengths, "resets": resets,
        "d_carry": d_carry, "d_ys": d_ys, "key": jax.random.key(int(rng.integers(2**31))),
    }  # fmt: skip


def compiled(prog: Program) -> Any:
    """f(params, carry, xs, lengths, resets, d_carry, d_ys, key) -> (last, ys, gradients to params, carry and xs)."""
    options = {"engine": prog.engine, "reverse": prog.reverse}
    options |= {"remat_every": 2} if prog.transform == "remat" else {}
    turn = prog.transform == "time major"

    def loss(params, carry, xs, lengths, resets, d_carry, d_ys, key):
        given = {"carry": carry} if prog.carry else {}
        given |= {"resets": resets} if prog.resets else {}
        given |= {"rng": key} if prog.training else {}
        if turn:
            xs = xs.swapaxes(0, 1)
            lengths = lengths.T if prog.lengths == "holes" else lengths
            given |= {name: flags.T for name, flags in given.items() if name == "resets"}
        more = {"time_major": turn, "return_carries": prog.transform == "every carry"}
        last, ys, *_ = seqjax.unroll(prog.net.cell, params, xs, lengths=lengths, **given, **options, **more)
        ys = jax.tree.map(lambda y: y.swapaxes(0, 1), ys) if turn else ys
        parts = zip(jax.tree.leaves((last, ys)), jax.tree.leaves((d_carry, d_ys)), strict=True)
        return sum((a.astype(d.dtype) * d).sum() for a, d in parts), (last, ys)

    def run(*arrays):
        gradient = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)
        grads, (last, ys) = gradient(*arrays)
        return last, ys, grads

    if prog.transform == "vmap over examples":
        whole = run

        def run(params, carry, xs, lengths, resets, d_carry, d_ys, key):
            """Each sequence as a batch of one."""
            each = jax.tree.map(lambda a: a[:, None], (carry, xs, lengths, resets, d_carry, d_ys))
            last, ys, grads = jax.vmap(whole, in_axes=(None, 0, 0, 0 if prog.lengths else None, 0, 0, 0, None))(params, *each, key)
            last, ys, d_start, d_xs = jax.tree.map(lambda a: a[:, 0], (last, ys, *grads[1:]))
            return last, ys, (jax.tree.map(lambda a: a.sum(0), grads[0]), d_start, d_xs)

    if prog.transform == "vmap over parameters":
        one = run

        def run(params, *arrays):
            """The second of two seeds."""
            both = jax.tree.map(lambda a: jnp.stack([0.5 * a, a]), params)
            return jax.tree.map(lambda a: a[1], jax.vmap(one, in_axes=(0, *[None] * 7))(both, *arrays))

    return run if prog.transform == "no jit" else jax.jit(run)


def reference(prog: Program, data: dict[str, Any], rng: np.random.Generator) -> tuple:
    """(last, ys) in NumPy, and for params, carry and xs a random direction with the slope of the loss along it."""
    flow = net_cells.Flow(data["mask"], data["resets"], prog.reverse)
    wide = {k: jax.tree.map(lambda a: np.asarray(a, np.float64), data[k]) for k in ("params", "carry", "initial", "xs")}

    def run(params, carry, xs):
        initial = prog.net.initial(params, wide["initial"])
        key = data["key"] if prog.training else None
        return prog.net.run(params, carry if prog.carry else initial, initial, xs, flow, key)

    last, ys = run(wide["params"], wide["carry"], wide["xs"])
    slopes = []
    for name in ("params", "carry", "xs"):
        along = jax.tree.map(lambda a: rng.normal(size=a.shape), wide[name])
        moved = {k: wide[k] for k in ("params", "carry", "xs")}
        moved[name] = jax.tree.map(lambda a, v: a + 1j * ref.STEP * v, wide[name], along)
        out, out_ys = run(**moved)
        terms = zip(jax.tree.leaves((out, out_ys)), jax.tree.leaves((data["d_carry"], data["d_ys"])), strict=True)
        slopes.append((along, sum((a * d).sum() for a, d in terms).imag / ref.STEP))
    return last, ys, slopes


def check(prog: Program, run: Any, data: dict[str, Any], rng: np.random.Generator) -> float:
    """The worst error of a case, over 1 + the largest value it stands beside; NaN counts as infinite."""
    names = ("params", "carry", "xs", "lengths", "resets", "d_carry", "d_ys", "key")
    last, ys, grads = jax.tree.map(np.asarray, run(*(data[name] for name in names)))
    want_last, want_ys, slopes = reference(prog, data, rng)
    pairs, found = zip(jax.tree.leaves((last, ys)), jax.tree.leaves((want_last, want_ys)), strict=True), []
    for a, b in pairs:
        if a.shape != b.shape:
            return float("inf")
        found.append(np.abs(a.astype(np.float64) - b).max() / (1 + np.abs(b).max()))
    for name, grad, (along, slope) in zip(("params", "carry", "xs"), grads, slopes, strict=True):
        if prog.dtype == "bfloat16" or (name == "carry" and not prog.carry):
            continue  # sums of roundings in bfloat16 have no bound of use; without a carry there is no gradient to it
        terms = [(np.asarray(g, np.float64) * v) for g, v in zip(jax.tree.leaves(grad), jax.tree.leaves(along), strict=True)]
        size = 1 + sum(np.abs(term).sum() for term in terms)
        found.append(abs(sum(term.sum() for term in terms) - slope) / size)
    return float(np.nan_to_num(np.max(found), nan=np.inf))  # `max` would pass over a NaN that is not the first


class Found(NamedTuple):
    """What a program gave."""

    program: Program
    errors: list[float]  # the worst of each case
    mismatches: list[float]  # those above the bound, but for the ill conditioned


def run(seed: int, number: int, draws: int, make: Any = nets.random_net) -> Found:
    """A program by its number, on several draws."""
    rng = np.random.default_rng([seed, number])
    prog = program(rng, make)
    function, found = compiled(prog), Found(prog, [], [])
    for _ in range(draws):
        data = draw(rng, prog)
        found.errors.append(check(prog, function, data, rng))
        if found.errors[-1] > DTYPES[prog.dtype]:
            wide = program(np.random.default_rng([seed, number]), make, "float64")
            if not is_ill_conditioned(prog, wide, data, found.errors[-1]):
                found.mismatches.append(found.errors[-1])
    return found


def is_ill_conditioned(prog: Program, wide: Program, data: dict[str, Any], error: float) -> bool:
    """Whether a case errs by rounding alone: it is right in float64, and the plain scan errs as much."""
    if prog.dtype == "float64" or not np.isfinite(error):
        return False
    wider = data | jax.tree.map(lambda a: a.astype(np.float64), {k: data[k] for k in ("params", "carry", "initial", "xs")})
    plain = prog._replace(engine="scan", transform="jit")
    in_scan = [check(plain, compiled(plain), data, np.random.default_rng(k)) for k in range(3)]  # in several directions
    in_float64 = check(wide, compiled(wide), wider, np.random.default_rng(0))
    return in_float64 <= DTYPES["float64"] and 4 * max(in_scan) >= error


def main() -> None:
    """Runs cases, reports mismatches, and saves what was run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=8, help="cases of one program")
    parser.add_argument("--only", type=int, help="runs this program alone")
    parser.add_argument("--out", type=pathlib.Path, help="where to save the counts")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    numbers = range(-(-options.cases // options.draws)) if options.only is None else [options.only]
    counts, bad, worst, begin = collections.Counter(), [], collections.defaultdict(float), time.monotonic()
    for number in numbers:
        prog, errors, mismatches = run(options.seed, number, options.draws)
        counts.update({f"{name} {getattr(prog, name)}": len(errors) for name in ("engine", "dtype", "transform", "lengths", "training")})
        ill = sum(error > DTYPES[prog.dtype] for error in errors) - len(mismatches)
        counts.update({"cases": len(errors), "programs": 1, "ill conditioned": ill, "kinds " + prog.net.said.split("(")[0]: len(errors)})
        worst[prog.dtype] = max(worst[prog.dtype], *errors)
        if mismatches:
            bad.append(f"{number}: {prog}: {max(mismatches):.1e}")
            print(bad[-1], flush=True)
        if number % 50 == 49:
            print(f"{number + 1} programs, {time.monotonic() - begin:.0f} s, worst {dict(worst)}", flush=True)
            jax.clear_caches()
    found = {
        "question": "Random networks against NumPy in float64", "seed": options.seed, "draws": options.draws, "jax": jax.__version__,
        "bounds": DTYPES, "seconds": round(time.monotonic() - begin), "worst": worst,
        "mismatches": bad, "counts": dict(sorted(counts.items())),
    }  # fmt: skip
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{counts['cases']} cases of {counts['programs']} programs, {len(bad)} programs with a mismatch")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
