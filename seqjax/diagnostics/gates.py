"""Open, shut and saturated gates, and how long each unit remembers."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import seqjax
from seqjax.cells import block_diagonal, parts
from seqjax.cells._lstm import COUPLED, GATES
from seqjax.cells.parts import check_activation
from seqjax.diagnostics import jacobians, probes
from seqjax.engines.steps import with_reads
from seqjax.typing import Array, Carry, Cell, Linear, Params

# Cells whose gates are sigmoids (or the cell's gate_activation) of sums: the sums in order; lower-case names are gates.
SHOWN = {"gru": "rzN", "mgu": "fN", "block_gru": "rNz", "lem": "ab"}


class Gate(NamedTuple):
    """One gate of one layer, over all real steps of the batch."""

    layer: str
    gate: str
    mean: Array  # (H,)
    open: Array  # (H,), share of steps above the upper bound
    shut: Array  # (H,), share of steps below the lower bound

    @property
    def saturated(self) -> Array:
        """Fraction of steps, (H,), in which the gate is saturated, open or shut, so that its own gradient is small."""
        return self.open + self.shut


class Memory(NamedTuple):
    """How long the units of one layer remember."""

    layer: str
    field: str  # field of the carry, or "state" for a linear recurrence
    half_life: Array  # (H,), steps after which a unit's content is halved; 0: immediately, inf: never
    source: str  # "gate", or "jacobian": the diagonal of the step's Jacobian


def gate_statistics(
    cell: Cell, params: Params, xs: Array, carry: Carry | None = None, *, bounds: tuple[float, float] = (0.1, 0.9), **options: Any
) -> list[Gate]:
    """How far each gate is open, unit by unit, in every layer with gates.

    The gates are i, f and o for the LSTM (also convolutional, with peepholes or coupled gates); r and z for the GRU and the block GRU;
    f for the minimal gated unit; a and b for LEM, as shares of dt; "keep", the factor on the memory, for minGRU and minLSTM; o for the
    sLSTM, with i and f as the shares of new and old in its weighted mean. Other cells have no gates, or gates that do not depend on the
    step, like the LRU.

    Args:
      cell: any cell, including wrappers, stacks and bidirectional ones.
      params, xs, carry: as for `seqjax.unroll`, xs (B, T, D).
      bounds: below the first a gate is shut, above the second it is open.
      **options: lengths, resets, reverse of `seqjax.unroll`.

    Returns:
      A Gate for each gate of each layer, by name.

    Example:
      >>> cell = seqjax.lstm(8, forget_bias=5.0)
      >>> params = cell.init(jax.random.key(0), 4)
      >>> [(gate.gate, bool(gate.open.min() > 0.9)) for gate in gate_statistics(cell, params, jnp.zeros((2, 9, 4)))]
      [('f', True), ('i', False), ('o', False)]

    Source: Karpathy, Johnson, Fei-Fei 2015 (arXiv:1506.02078), section 4.2.
    """
    low, high = bounds
    found = []
    for name, gates, real in _seen(cell, gate_values, params, xs, carry, options):
        for gate, values in sorted(gates.items()):
            above, below, mean = (_mean(a, real) for a in (values > high, values < low, values))
            found.append(Gate(name, gate, mean, above, below))
    return found


def effective_memory(cell: Cell, params: Params, xs: Array, carry: Carry | None = None, **options: Any) -> list[Memory]:
    r"""The half-life of each unit's content, from the mean logarithm of the factor by which a step keeps it.

    .. math:: \tau = -\ln 2 \,/\, \overline{\ln |a_t|}

    If the cell has a leaky memory, a_t is the derivative of a unit's new memory with respect to its old one at fixed gates: f in the LSTM,
    z in the GRU, a in a linear recurrence. Otherwise it is the diagonal of the step's Jacobian, which ignores memory passed between units.

    Args:
      cell, params, xs, carry: as for `gate_statistics`.
      **options: lengths, resets, reverse of `seqjax.unroll`.

    Returns:
      A Memory for each layer.

    Example:
      >>> cell = seqjax.lstm(8, forget_bias=0.0)
      >>> params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0), 4))  # f is 1/2 at every step
      >>> (memory,) = effective_memory(cell, params, jnp.ones((2, 9, 4)))
      >>> memory.field, memory.source, round(float(memory.half_life[0]), 3)
      ('c', 'gate', 1.0)

    Source: Tallec, Ollivier 2018, "Can recurrent neural networks warp time?" (arXiv:1804.11188).
    """
    found = []
    for name, kept, real in _seen(cell, kept_by_step, params, xs, carry, options):
        for (field, source), values in kept.items():
            rate = _mean(jnp.log(jnp.abs(values)), real)
            half_life = jnp.where(rate < 0, -math.log(2) / jnp.where(rate < 0, rate, -1), jnp.inf)
            found.append(Memory(name, field, half_life, source))
    return found


def _seen(cell, observe, params, xs, carry, options):
    """(name of the layer, observations, real steps) of each layer that has any."""
    _, seen = seqjax.unroll(probes.watching_layers(cell, observe), params, xs, carry, engine="scan", **options)
    real = probes.real_steps(xs, options.get("lengths"))
    return [(name, found, real) for (name, _), found in zip(probes.layers(cell), seen, strict=True) if found]


def _mean(values, real):
    """The mean over the real steps of values (B, T, ..., H); positions of a convolutional layer count as steps."""
    positions = math.prod(values.shape[2:-1])
    total = jnp.where(real.reshape(*real.shape, *(1,) * (values.ndim - 2)), values, 0).sum(axis=tuple(range(values.ndim - 1)))
    return total / jnp.maximum(real.sum() * positions, 1)


def gate_values(cell: Cell, params: Params, before: Carry, x: Array, after: Carry) -> dict[str, Array]:
    """An `Observe`: the gates of a step by name, each (B, H), between 0 and 1; none where the cell's gates are not known."""
    inside = probes.innermost(cell)
    settings, name = dict(inside.settings), inside.name
    if isinstance(cell.split, Linear):
        return {"keep": cell.split.coefficients(params, x)[0]} if name in ("mingru", "minlstm") else {}
    if name not in (*SHOWN, "lstm", "conv_lstm", "slstm"):
        return {}
    act = check_activation(settings.get("gate_activation") or "sigmoid", "gate_activation")
    sums = _sums(cell, params, before, x)
    if name == "slstm":
        return _of_slstm(sums, after)
    if name == "block_gru":
        sums[2] = sums[2] - 1
    if name in SHOWN:
        return {gate: act(value) for gate, value in zip(SHOWN[name], sums) if gate.islower()}
    names = COUPLED if settings.get("coupled") else GATES
    if getattr(_params_of(params, "kernel"), "peepholes", None) is not None:
        seeing = names.replace("g", "")
        weights = dict(zip(seeing, jnp.split(_params_of(params, "kernel").peepholes, len(seeing), axis=-1)))
        memory = {gate: after.c if gate == "o" else before.c for gate in seeing}
        more = {gate: weights[gate][None] * memory[gate] for gate in seeing}
        sums = [value + more.get(gate, 0) for gate, value in zip(names, sums)]
    return {gate: act(value) for gate, value in zip(names, sums, strict=True) if gate != "g"}


def _sums(cell, params, before, x) -> list[Any]:
    """The pre-activations of a cell's gates, in order, except those of products that need another's result."""
    if cell.parts is not None:
        projected, recurrent = _products(cell, params, before, x)
        sums = [jnp.split(a, cell.parts.gates, -1) for a in cell.parts.join(params, projected, recurrent)]
        return [sum(pair[1:], pair[0]) for pair in zip(*sums)]
    params = _params_of(params, "kernel")
    size = before.h.shape[-1]
    projected = parts.affine(x, params.kernel, params.bias, params.kernel.dtype)
    recurrent = block_diagonal.product(before.h, params.recurrent_kernel, params.kernel.shape[-1] // size)
    pairs = zip(jnp.split(projected, projected.shape[-1] // size, -1), jnp.split(recurrent, recurrent.shape[-1] // size, -1))
    return [a + b for a, b in pairs]


def _of_slstm(sums, after):
    """The shares of old and new in the weighted mean c / n, which sum to 1, and the output gate."""
    i, _, _, o = sums
    new = jnp.exp(i - after.m) / after.n
    return {"f": 1 - new, "i": new, "o": jax.nn.sigmoid(o)}


def _params_of(params, field):
    """The params of the inner cell, which a wrapper may hold as `cell`."""
    while not hasattr(params, field) and hasattr(params, "cell"):
        params = params.cell
    return params


def _products(cell, params, before, x):
    parts = cell.parts
    return parts.project(params, x), None if parts.recur is None else parts.recur(params, before)


def kept_by_step(cell: Cell, params: Params, before: Carry, x: Array, after: Carry) -> dict[tuple[str, str], Array]:
    """An `Observe`: the factor by which each unit's memory is kept, (B, H), by the field of the carry and its source."""
    del after
    if isinstance(cell.split, Linear):
        return {("state", "gate"): jnp.abs(cell.split.coefficients(params, x)[0])}
    fields = getattr(before, "_fields", ())
    for field in ("c",) if "c" in fields else fields:
        if cell.parts is not None and (kept := _leak(cell, params, before, x, field)) is not None:
            return {(field, "gate"): kept}
    _, unflatten = jacobians.flatten(before)
    diagonal = unflatten(jnp.diagonal(jacobians.step_jacobians(cell, params, before, x), axis1=1, axis2=2))
    field = fields[0] if fields else "carry"
    return {(field, "jacobian"): getattr(diagonal, field) if fields else jax.tree.leaves(diagonal)[0]}


def _leak(cell, params, before, x, field):
    """d field' / d field, unit by unit, at fixed gates; None if `combine` does not read the field."""
    products = _products(cell, params, before, x)

    def new(old):
        return getattr(cell.parts.after(params, before._replace(**{field: old}), *products)[0], field)

    old = getattr(before, field)
    _, read = with_reads(new, old)
    return jax.jvp(new, (old,), (jnp.ones_like(old),))[1] if read[0][0] else None
