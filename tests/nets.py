"""Random networks of cells and wrappers, each with what it computes in NumPy, for the fuzzer.

A net is a cell, `run(params, carry, initial, xs, flow) -> (carry, ys)`, and `initial(params, like)`, its initial carry where `like`
is that of the cell before any training. Both are in NumPy, on pytrees of arrays that are built as the cell's and may be complex
(`numpy_reference` says why), and without noise, as in evaluation.
"""

from typing import NamedTuple

import jax
import numpy as np
import numpy_reference as ref
from cells.table import CELLS, VARIANTS

import seqjax
from seqjax.wrappers import bidirectional, layer_norm, learned_initial_carry, recurrent_dropout, weight_drop, zoneout

ROWS = [row for row in CELLS + VARIANTS if not row.name.startswith("conv")]
H = 4  # outputs of each plain cell


class Flow(NamedTuple):
    """Which steps are real, where sequences begin, in both directions, and which of them is taken."""

    mask: np.ndarray  # (B, T)
    resets: np.ndarray  # (B, T)
    backward: bool = False
    other: np.ndarray | None = None  # resets of the other direction, where they are known

    def turned(self):
        """The other direction: what was parted before a step is now parted before the real step that follows it."""
        other = self.other
        if other is None:
            other = np.zeros_like(self.resets)
            for b, real in enumerate(self.mask):
                steps = np.flatnonzero(real)[:: -1 if self.backward else 1]
                other[b, steps[:-1]] = self.resets[b, steps[1:]]
        return Flow(self.mask, other, not self.backward, self.resets)


class Net(NamedTuple):
    """A cell and what it computes."""

    cell: seqjax.Cell
    run: object
    initial: object
    size: int  # of the output
    said: str


class Plain(NamedTuple):
    """A cell that takes one step after the other, by its step in NumPy."""

    cell: seqjax.Cell
    step: object  # step(p, carry, x) of dicts
    arrays: object  # of params, the dict of arrays that `step` reads
    said: str
    dense: bool  # whether layer_norm knows it

    def net(self):
        """The same as a net."""
        kind = ref.Reference(self.step)

        def run(params, carry, initial, xs, flow):
            ends = slice(None, None, -1 if flow.backward else 1)
            arrays = [a[:, ends] for a in (xs, flow.mask, flow.resets)]
            last, ys = ref.forward(kind, self.arrays(params), carry._asdict(), *arrays, initial=initial._asdict())
            return carry._replace(**last), ys[:, ends]

        return Net(self.cell, run, lambda params, like: like, H, self.said)


def fields(params):
    """The arrays of a NamedTuple by name, absent ones left out."""
    return {name: value for name, value in params._asdict().items() if value is not None}


def plain(rng, options):
    """A cell of the table."""
    row = ROWS[rng.integers(len(ROWS))]
    cell = row.make(**options)
    return Plain(cell, row.reference.step, fields, row.name, row.name in ("rnn", "gru", "lstm", "rnn-heads", "lstm-heads"))


def zoned(rng, inner):
    """zoneout: units move by the expectation."""
    rate, memory_rate = rng.choice([0.1, 0.4]), rng.choice([0.2, 0.5])
    memory = "c" in getattr(jax.eval_shape(lambda: start(inner.cell)), "_fields", ()) and not inner.said.startswith("slstm")
    rates = {"h": rate, "c": memory_rate if memory else 0.0}
    cell = zoneout(inner.cell, rate, *((memory_rate,) if memory else (0.0,) if inner.said.startswith("slstm") else ()))

    def step(p, carry, x):
        after, _ = inner.step(p, carry, x)
        after = {k: rates[k] * carry[k] + (1 - rates[k]) * v if k in rates else v for k, v in after.items()}
        return after, after["h"]

    return inner._replace(cell=cell, step=step, said=f"zoneout({inner.said})", dense=False)


def normed(inner):
    """layer_norm of a cell of plain products: LN(x W + b) gain + bias and LN(h U) recurrent gain."""
    cell = layer_norm(inner.cell)
    gates = {"rnn": 1, "gru": 3, "lstm": 4}[inner.said.split("-")[0]]

    def step(p, carry, x):
        own, (gain, bias, recurrent_gain) = p["cell"], p["gains"]
        projected = ref._normal(x @ own["kernel"] + ref._bias(own), gain) + bias
        recurrent = ref._normal(carry["h"] @ ref._recurrent(own, gates), recurrent_gain)
        # The cell of its own sums: its products are with identities.
        wide = np.eye(gates * H)
        if gates != 3:
            sums = projected + recurrent
            whole = {"kernel": wide, "recurrent_kernel": np.zeros((H, gates * H)), "bias": np.zeros(gates * H)}
            return inner.step(whole, carry, sums)
        r, z = (ref.sigmoid(a + b) for a, b in list(zip(ref._parts(projected, H), ref._parts(recurrent, H)))[:2])
        n = np.tanh(ref._parts(projected, H)[2] + r * (ref._parts(recurrent, H)[2] + own["recurrent_bias"]))
        h = (1 - z) * n + z * carry["h"]
        return {"h": h}, h

    def arrays(params):
        return {"cell": fields(params.cell), "gains": (params.gain, params.bias, params.recurrent_gain)}

    return Plain(cell, step, arrays, f"layer_norm({inner.said})", False)


def start(cell):
    """An initial carry, for its fields."""
    return cell.initial_carry(cell.init(jax.random.key(0), H), 1)


def step_wise(rng, options):
    """A plain cell, perhaps in a wrapper that works inside a step."""
    inner = plain(rng, options)
    what = rng.integers(6)
    kind = inner.said.split("-")[0]
    if what == 0 and kind in ("rnn", "lstm", "gru", "mgu", "indrnn", "slstm", "block_gru", "irnn"):
        return zoned(rng, inner)
    if what == 1 and inner.dense:
        return normed(inner)
    if what == 2 and kind in ("rnn", "lstm", "gru") and inner.cell.parts is not None:
        return inner._replace(cell=recurrent_dropout(weight_drop(inner.cell, 0.2), 0.3), said=f"dropped({inner.said})")
    return inner


def random_net(rng, options, depth=2):
    """A net of at most so many wrappers around each other."""
    what = rng.integers(8) if depth else 0
    if what < 3:
        return step_wise(rng, options).net()
    if what == 3:
        return residual(random_net(rng, options, depth - 1))
    if what == 4:
        return learned(random_net(rng, options, depth - 1))
    if what < 7:
        return pair(rng, *(random_net(rng, options, depth - 1) for _ in range(2)))
    return stack([random_net(rng, options, depth - 1) for _ in range(rng.integers(1, 4))])


def residual(inner):
    """The input added to the output; dropout around it does nothing here."""
    if inner.size != H:
        return inner

    def run(params, carry, initial, xs, flow):
        carry, ys = inner.run(params, carry, initial, xs, flow)
        return carry, np.where(flow.mask[..., None], ys + np.where(flow.mask[..., None], xs, 0), 0)

    return Net(seqjax.residual(seqjax.dropout(inner.cell, 0.2)), run, inner.initial, H, f"residual({inner.said})")


def learned(inner):
    """Sequences begin, and begin again after a reset, at a parameter."""

    def run(params, carry, initial, xs, flow):
        return inner.run(params.cell, carry, initial, xs, flow)

    def initial(params, like):
        return jax.tree.map(lambda a, b: np.broadcast_to(a, b.shape), params.carry, like)

    return Net(learned_initial_carry(inner.cell), run, initial, inner.size, f"learned({inner.said})")


def stack(layers):
    """One after the other."""

    def run(params, carry, initial, xs, flow):
        after = []
        for layer, *own in zip(layers, params, carry, initial, strict=True):
            last, xs = layer.run(*own, xs, flow)
            after.append(last)
        return tuple(after), xs

    def initial(params, like):
        return tuple(layer.initial(*own) for layer, *own in zip(layers, params, like, strict=True))

    # A residual adds its own input, whose size goes by the layer below.
    sizes = [H, *(layer.size for layer in layers[:-1])]
    layers = [layer for layer, size in zip(layers, sizes) if size == H or not layer.said.startswith("residual")]
    said = f"stack({', '.join(layer.said for layer in layers)})"
    return Net(seqjax.stack(*(layer.cell for layer in layers)), run, initial, layers[-1].size, said)


MERGES = {
    "concat": lambda a, b: np.concatenate([a, b], -1),
    "sum": lambda a, b: a + b,
    "mean": lambda a, b: (a + b) / 2,
    "multiply": lambda a, b: a * b,
}


def pair(rng, ahead, back):
    """Two directions."""
    merge = rng.choice(list(MERGES)) if ahead.size == back.size else "concat"
    fresh = bool(rng.integers(2))
    cell = bidirectional(ahead.cell, back.cell, str(merge), fresh_backward=fresh)

    def run(params, carry, initial, xs, flow):
        first, ys = ahead.run(params.forward, carry.forward, initial.forward, xs, flow)
        second, zs = back.run(params.backward, carry.backward, initial.backward, xs, flow.turned())
        second = initial.backward if fresh else second
        return carry._replace(forward=first, backward=second), MERGES[merge](ys, zs)

    def initial(params, like):
        return like._replace(
            forward=ahead.initial(params.forward, like.forward), backward=back.initial(params.backward, like.backward)
        )

    size = ahead.size + back.size if merge == "concat" else ahead.size
    return Net(cell, run, initial, size, f"{merge}({ahead.said}, {back.said})")
