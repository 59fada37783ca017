"""All diagnostics of one recurrent network on one batch, and an HTML page with pictures of several."""

import base64
import html
import json
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from seqjax.diagnostics import gradient_pictures as pictures
from seqjax.diagnostics import jacobians, lyapunov, probes
from seqjax.diagnostics.carry_gradients import CarryGradients, carry_gradients
from seqjax.diagnostics.gates import Gate, Memory, effective_memory, gate_statistics
from seqjax.diagnostics.truncation import Truncation, truncation
from seqjax.errors import UserError
from seqjax.training.disk import write_atomically
from seqjax.typing import Array, Cell, Params

LARGEST = 2048  # the largest carry of a sequence, N, for which Jacobians are computed
SEQUENCES, EXPONENTS, SWEEPS = 4, 64, 2  # sequences of the batch, Lyapunov exponents, sweeps of the QR iteration
WORK = 6e9  # sum of N^3 over steps and sequences to spend on singular values, half a minute on two cores


class Findings(NamedTuple):
    """The findings on one network."""

    label: str
    cell: str
    end: CarryGradients  # through only the last output of each sequence
    all: CarryGradients  # through all outputs
    steps: jacobians.SingularValues | None  # like the next two, None for a cell without a step (bidirectional) or with too large a carry
    products: jacobians.ProductSingularValues | None
    lyapunov: lyapunov.Lyapunov | None
    truncation: Truncation
    gates: list[Gate]
    memory: list[Memory]
    ratios: dict[str, float]
    notes: tuple[str, ...]


def examine(
    function: Callable[..., Array], params: Params, *, label: str, ratios: dict[str, Array] | None = None, place: int = 0
) -> Findings:
    """Runs every diagnostic on a loss.

    Args:
      function: function(params) -> loss, (), which calls `seqjax.unroll` outside of any jit of its own.
      params: the model's parameters.
      label: the network's name in plots.
      ratios: from `update_ratios`, for a model in training.
      place: index of the call of `seqjax.unroll` to examine, from 0.

    Returns:
      Findings.

    Raises:
      UserError: as `captured`; or there is no call number `place`.

    Example:
      >>> import seqjax
      >>> cell = seqjax.gru(4)
      >>> xs = jax.random.normal(jax.random.key(1), (2, 6, 3))
      >>> params = cell.init(jax.random.key(0), 3)
      >>> found = examine(lambda params: (seqjax.unroll(cell, params, xs)[1] ** 2).mean(), params, label="GRU")
      >>> found.truncation.windows.tolist(), found.lyapunov.exponents.shape
      ([1, 2, 4, 6], (2, 4))
    """
    runs = probes.captured(function, params)
    if not 0 <= place < len(runs):
        raise UserError(f"the model runs {len(runs)} recurrent networks, numbered from 0, and number {place} is asked for")
    run, notes = runs[place], []
    end, every = (carry_gradients(function, params, through=through)[place] for through in ("last", "all"))
    size = sum(math.prod(a.shape[1:]) for a in jax.tree.leaves(jax.eval_shape(lambda: run.cell.initial_carry(run.params, 1))))
    spectra = (None, None, None)
    if not has_step(run.cell):
        notes.append(f"{run.cell.name} needs the whole sequence, so it has no step whose Jacobian could be taken")
    elif size > LARGEST:
        notes.append(f"the carry has {size:,} numbers a sequence; Jacobians are made up to {LARGEST:,}")
    else:
        spectra, note = _spectra(run, size)
        notes += note
    steps = run.xs.shape[1]
    windows = sorted({*(2**n for n in range(steps.bit_length()) if 2**n <= steps), steps})
    arguments, options = run[:4], run.options
    return Findings(
        label, run.cell.name, end, every, *spectra, truncation(function, params, windows=windows),
        gate_statistics(*arguments, **options), effective_memory(*arguments, **options),
        {path: float(ratio) for path, ratio in (ratios or {}).items()}, tuple(notes),
    )  # fmt: skip


def _spectra(run, size):
    """Singular values of steps and products, and Lyapunov exponents, for as much of the run as is affordable; and a note."""
    pairs = max(8, int(WORK / size**3))
    few = min(SEQUENCES, run.xs.shape[0], max(1, pairs // run.xs.shape[1]))
    some, note = _first(run, few, min(run.xs.shape[1], pairs // few)), []
    if some.xs.shape[1] < run.xs.shape[1]:
        note = [f"the carry has {size:,} numbers, so singular values are those of the first {some.xs.shape[1]} steps of one sequence"]
    steps = jacobians.singular_values(*some[:4], **some.options)
    products = jacobians.product_singular_values(*some[:4], sweeps=SWEEPS, **some.options)
    whole = _first(run, SEQUENCES, run.xs.shape[1])
    return (steps, products, lyapunov.lyapunov_exponents(*whole[:4], count=min(size, EXPONENTS), **whole.options)), note


def _first(run, sequences, steps):
    """The first steps of the first sequences of a run."""
    real, resets = probes.real_steps(run.xs, run.options.get("lengths")), run.options.get("resets")
    options = run.options | {"lengths": real[:sequences, :steps]}
    options |= {} if resets is None else {"resets": resets[:sequences, :steps]}
    carry = jax.tree.map(lambda a: a[:sequences], run.carry)
    return run._replace(xs=run.xs[:sequences, :steps], carry=carry, options=options)


def has_step(cell: Cell) -> bool:
    """Whether a cell can be run step by step; a bidirectional one cannot.

    Example:
      >>> import seqjax
      >>> has_step(seqjax.gru(4)), has_step(seqjax.stack(seqjax.bidirectional(seqjax.gru(4), seqjax.gru(4))))
      (True, False)
    """
    return not cell.name.startswith("bidirectional(") and all(map(has_step, cell.inner))


def summary(found: Findings) -> dict[str, Any]:
    """The findings as JSON values: means over sequences and units, curves over steps and windows.

    Example:
      >>> import seqjax
      >>> cell = seqjax.gru(4)
      >>> xs, params = jax.numpy.ones((2, 6, 3)), cell.init(jax.random.key(0), 3)
      >>> found = summary(examine(lambda params: seqjax.unroll(cell, params, xs)[1].mean(), params, label="GRU"))
      >>> found["cell"], [memory["layer"] for memory in found["memory"]]
      ('gru', ['layer 1 (gru)'])
    """
    told = {
        "label": found.label,
        "cell": found.cell,
        "notes": list(found.notes),
        "carry_gradient_end": _numbers(pictures.typical(found.end.total, found.end.real)),
        "carry_gradient_all": _numbers(pictures.typical(found.all.total, found.all.real)),
        "windows": found.truncation.windows.tolist(),
        "cut_off": _numbers(found.truncation.cut_off),
        "cosine": _numbers(found.truncation.cosine),
        "gradient_norm": _numbers(found.truncation.full_norm),
        "gates": [
            {"layer": g.layer, "gate": g.gate} | {n: _numbers(np.mean(getattr(g, n))) for n in ("mean", "open", "shut", "saturated")}
            for g in found.gates
        ],
        "memory": [
            {"layer": m.layer, "field": m.field, "source": m.source, "half_life": _numbers(np.sort(np.ravel(m.half_life)))}
            for m in found.memory
        ],
        "update_ratios": {path: _numbers(ratio) for path, ratio in found.ratios.items()},
    }
    if found.lyapunov is not None:
        told |= {
            "singular_values": _numbers(pictures.median_spectrum(found.steps)),
            "log_largest_product": _numbers(pictures.by_length(found.products)),
            "lyapunov": _numbers(np.mean(found.lyapunov.exponents, axis=0)),
        }
    return told


def _numbers(values: Any) -> Any:
    """Values for JSON: non-finite numbers become text."""
    values = np.asarray(values, np.float64)
    if values.ndim:
        return [_numbers(value) for value in values]
    return float(f"{values:.6g}") if np.isfinite(values) else str(values)


def write_report(folder: pathlib.Path, findings: Sequence[Findings], *, title: str, intro: str) -> pathlib.Path:
    """Writes gradients.html, a self-contained page, its plots as PNG files, and gradients.json.

    Args:
      folder: created if it does not exist.
      findings: the findings on one network, or on several to compare.
      title: the title of the page.
      intro: what was run, in a sentence or two.

    Returns:
      The page's path.

    Example:
      >>> import seqjax, tempfile
      >>> cell = seqjax.gru(4)
      >>> xs, params = jax.numpy.ones((2, 6, 3)), cell.init(jax.random.key(0), 3)
      >>> found = examine(lambda params: seqjax.unroll(cell, params, xs)[1].mean(), params, label="GRU")
      >>> with tempfile.TemporaryDirectory() as name:
      ...     page = write_report(pathlib.Path(name), [found], title="A GRU", intro="Fresh.")
      ...     page.name, "data:image/png;base64," in page.read_text()
      ('gradients.html', True)
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = [part for draw in pictures.ALL if (part := draw(folder, findings)) is not None]
    notes = [f"{found.label}: {note}." for found in findings for note in found.notes]
    body = [f"<h1>{html.escape(title)}</h1>", *(f"<p>{html.escape(text)}</p>" for text in (intro, *notes))]
    for part in parts:
        data = base64.b64encode(part.path.read_bytes()).decode()
        body.append(f"<h2>{html.escape(part.title)}</h2>")
        body.append(f'<img alt="{html.escape(part.title)}" src="data:image/png;base64,{data}">')
        body.append(f"<p>{html.escape(part.text)}</p>")
    page = folder / "gradients.html"
    write_atomically(page, PAGE.format(title=html.escape(title), body="\n".join(body)))
    write_atomically(folder / "gradients.json", json.dumps({"title": title, "networks": [summary(f) for f in findings]}, indent=1) + "\n")
    return page


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font-family: sans-serif; line-height: 1.5; color: #222; background: #fff; }}
img {{ max-width: 100%; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""
