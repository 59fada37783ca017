"""Cells that take a step at a time, at random, in the wrappers that work inside a step, each with its step in NumPy.

Used by `nets`, which says what a net is. In training the masks are drawn by the wrappers' split of the key, which is all
that is taken over from them: they are applied in NumPy, to weights where the wrappers mask a product.
"""

from typing import NamedTuple

import jax
import numpy as np
import numpy_reference as ref
from cells.table import CELLS, VARIANTS

import seqjax
from seqjax.wrappers import dropout, layer_norm, recurrent_dropout, weight_drop, zoneout

ROWS = [row for row in CELLS + VARIANTS if not row.name.startswith("conv")]
H = 4  # outputs of each plain cell


class Flow(NamedTuple):
    """The real steps, where sequences start in both directions, and the current direction."""

    mask: np.ndarray  # (B, T)
    resets: np.ndarray  # (B, T)
    backward: bool = False
    other: np.ndarray | None = None  # resets of the other direction, where they are known

    def turned(self):
        """The other direction: a split before a step becomes a split before the next real step."""
        other = self.other
        if other is None:
            other = np.zeros_like(self.resets)
            for b, real in enumerate(self.mask):
                steps = np.flatnonzero(real)[:: -1 if self.backward else 1]
                other[b, steps[:-1]] = self.resets[b, steps[1:]]
        return Flow(self.mask, other, not self.backward, self.resets)

    def zeroed(self, tree):
        """Zeros at padded steps."""
        return jax.tree.map(lambda a: np.where(self.mask.reshape(self.mask.shape + (1,) * (a.ndim - 2)), a, 0), tree)


class Taken(NamedTuple):
    """The inputs of a net, and its required outputs."""

    size: int = H
    spatial: tuple = ()
    keep: bool = False  # spatial axes as they are
    array: bool = False  # one array


class Net(NamedTuple):
    """A cell and what it computes."""

    cell: seqjax.Cell
    run: object
    initial: object
    size: object  # of the output: a number, or the pytree of such
    said: str
    spatial: tuple = ()  # of the output


def no_noise(key, ps, xs):
    """Training equals evaluation."""
    del key
    return ps, xs


class Plain(NamedTuple):
    """A cell that runs step by step, given its step in NumPy."""

    cell: seqjax.Cell
    step: object  # step(p, carry, x) of dicts
    arrays: object  # of params, the dict of arrays that `step` reads
    said: str
    dense: bool  # whether layer_norm knows it
    noise: object = no_noise  # noise(key, ps, xs) -> (ps, xs), ps with a p for each sequence

    def net(self):
        """The same as a net."""
        kind = ref.Reference(self.step)

        def run(params, carry, initial, xs, flow, key=None):
            ends, xs = slice(None, None, -1 if flow.backward else 1), flow.zeroed(xs)
            batches, ps = [slice(None)], [self.arrays(params)]
            if key is not None:
                batches = [slice(b, b + 1) for b in range(len(xs))]
                ps, xs = self.noise(key, ps * len(xs), xs)
            found = []
            for rows, p in zip(batches, ps, strict=True):
                arrays = [a[rows, ends] for a in (xs, flow.mask, flow.resets)]
                start, again = ({k: v[rows] for k, v in c._asdict().items()} for c in (carry, initial))
                found.append(ref.forward(kind, p, start, *arrays, initial=again))
            last, ys = jax.tree.map(lambda *a: np.concatenate(a), *found)
            return carry._replace(**last), ys[:, ends]

        return Net(self.cell, run, lambda params, like: like, H, self.said, self.cell.output_spatial)


def fields(params):
    """The arrays of a NamedTuple by name, absent ones left out."""
    return {name: value for name, value in params._asdict().items() if value is not None}


def start(cell):
    """An initial carry, for its fields."""
    return cell.initial_carry(cell.init(jax.random.key(0), H), 1)


def drawn(key, share, shape):
    """True for that share."""
    return np.asarray(jax.random.bernoulli(key, share, shape))


# ---- cells that take a step at a time


def plain(rng, options, taken):
    """A cell of the table, or a convolutional one."""
    if taken.spatial:
        return convolution(rng, options, taken)
    rows = [row for row in ROWS if taken.size == H or row.name != "lru-diagonal"]
    row = rows[rng.integers(len(rows))]
    cell = row.make(**options)
    return Plain(cell, row.reference.step, fields, row.name, row.name in ("rnn", "gru", "lstm", "rnn-heads", "lstm-heads"))


def convolution(rng, options, taken):
    """A convolutional LSTM, which may change the spatial axes."""
    axes, flags = len(taken.spatial), [bool(flag) for flag in rng.integers(2, size=2)]
    window, more = (tuple(rng.integers(1, most + 1, axes).tolist()) for most in (3, 2))
    how = {} if taken.keep else [{}, {"strides": more}, {"dilation_rate": more}][rng.integers(3)]
    far = how.get("dilation_rate", (1,) * axes)
    if not taken.keep and rng.integers(2) and all(n > d * (k - 1) for n, d, k in zip(taken.spatial, far, window)):
        how["padding"] = "valid"
    cell = seqjax.conv_lstm(H, window, taken.spatial, peepholes=flags[0], use_bias=flags[1], **how, **options)
    step = ref.conv_lstm(how.get("strides"), how.get("padding", "same"), how.get("dilation_rate")).step
    return Plain(cell, step, fields, f"conv-{window}{how}", False)


def zoned(rng, inner):
    """zoneout: units move by the expectation, or in training keep their value by the masks behind x."""
    slstm = inner.said.startswith("slstm")  # whose c and m cannot be parted
    memory = "c" in getattr(jax.eval_shape(lambda: start(inner.cell)), "_fields", ()) and not slstm
    rates = {"h": float(rng.choice([0.1, 0.4])), "c": float(rng.choice([0.2, 0.5])) if memory else 0.0}
    cell = zoneout(inner.cell, rates["h"], *((rates["c"],) if memory or slstm else ()))
    zoned_out = [field for field, rate in rates.items() if rate]

    def step(p, carry, x):
        keep = {field: rates[field] for field in zoned_out}
        if "zoneout" in p:
            ends = -np.cumsum([carry[field].shape[-1] for field in zoned_out[::-1]])[::-1]
            x, *masks = np.split(x, ends, axis=-1)
            keep = dict(zip(zoned_out, masks))
        after, _ = inner.step(p, carry, x)
        after = after | {k: share * carry[k] + (1 - share) * after[k] for k, share in keep.items()}
        return after, after["h"]

    def noise(key, ps, xs):
        mask_key, cell_key = jax.random.split(key)
        keys = dict(zip(rates, jax.random.split(mask_key)))
        like = jax.eval_shape(lambda: start(inner.cell))
        shapes = {field: (xs.shape[1], xs.shape[0], *getattr(like, field).shape[1:]) for field in zoned_out}
        masks = [drawn(keys[field], rates[field], shapes[field]).swapaxes(0, 1) for field in zoned_out]
        ps, xs = inner.noise(cell_key, ps, xs)
        return [p | {"zoneout": True} for p in ps], np.concatenate([xs, *masks], -1)

    return inner._replace(cell=cell, step=step, said=f"zoneout({inner.said})", dense=False, noise=noise)


def normed(inner):
    """layer_norm of a cell of plain products: LN(x W + b) gain + bias and LN(h U) recurrent gain."""
    cell = layer_norm(inner.cell)
    gates = inner.cell.parts.gates

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

    def noise(key, ps, xs):
        inside, xs = inner.noise(key, [p["cell"] for p in ps], xs)
        return [p | {"cell": own} for p, own in zip(ps, inside)], xs

    return Plain(cell, step, arrays, f"layer_norm({inner.said})", False, noise)


def without_rows(kernel, keep, rate, gates):
    """A kernel whose rows are dropped: keep (R,), or (G, R) for each gate its own. Then x (kernel) is (keep x / (1 - rate)) kernel."""
    scale = np.broadcast_to(keep / (1 - rate), (gates, keep.shape[-1]))
    if kernel.ndim == 1:
        return kernel * scale[0]
    blocks = kernel.reshape(-1, *kernel.shape[-2:])  # (K, R / K, G S)
    parted = blocks.reshape(*blocks.shape[:2], gates, -1)
    scale = np.moveaxis(scale.reshape(gates, *blocks.shape[:2]), 0, -1)
    return (parted * scale[..., None]).reshape(kernel.shape)


def dropped(rng, inner):
    """Dropout of the recurrent weights, and of the h that they meet: in training the rows of U that h would have met."""
    per_gate, gates = bool(rng.integers(2)), inner.cell.parts.gates
    cell = recurrent_dropout(weight_drop(inner.cell, 0.2), 0.3, per_gate=per_gate)

    def noise(key, ps, xs):
        h_key, cell_key = jax.random.split(key)
        u_key, own_key = jax.random.split(cell_key)
        keep = drawn(h_key, 0.7, (gates, len(xs), H) if per_gate and gates > 1 else (len(xs), H))
        weights = drawn(u_key, 1 - 0.2, ps[0]["recurrent_kernel"].shape)
        kernels = [np.where(weights, p["recurrent_kernel"] / (1 - 0.2), 0) for p in ps]
        kernels = [without_rows(kernel, keep[..., b, :], 0.3, gates) for b, kernel in enumerate(kernels)]
        return inner.noise(own_key, [p | {"recurrent_kernel": kernel} for p, kernel in zip(ps, kernels)], xs)

    return inner._replace(cell=cell, said=f"dropped({inner.said})", noise=noise)


def dropped_inputs(rng, inner):
    """Dropout of the inputs: of each step its own, one for all time, or one for each gate, which drops rows of W."""
    rate, shared = float(rng.choice([0.2, 0.5])), bool(rng.integers(2))
    normalised = "norm" in inner.said or inner.said.endswith("-all")  # there the gates of a mask are normalised together
    per_gate = shared and bool(rng.integers(2)) and _has_product(inner) and not normalised
    cell = dropout(inner.cell, rate, shared, per_gate=per_gate)
    gates = inner.cell.parts.gates if per_gate else 1

    def noise(key, ps, xs):
        mask_key, cell_key = jax.random.split(key)
        if gates == 1:
            return inner.noise(cell_key, ps, without_inputs(mask_key, xs, rate, shared))
        keep = drawn(mask_key, 1 - rate, (gates, len(xs), xs.shape[-1]))
        ps = [p | {"kernel": without_rows(p["kernel"], keep[:, b], rate, gates)} for b, p in enumerate(ps)]
        return inner.noise(cell_key, ps, xs)

    return inner._replace(cell=cell, said=f"dropout({inner.said})", noise=noise)


def without_inputs(key, xs, rate, shared):
    """xs (B, T, ...) with some dropped; masks are drawn with time first."""
    keep = drawn(key, 1 - rate, (1 if shared else xs.shape[1], xs.shape[0], *xs.shape[2:]))
    return np.where(keep.swapaxes(0, 1), xs / (1 - rate), 0)


def _has_product(inner):
    """Whether its parts have a recurrent product that knows no spatial axes."""
    return inner.cell.parts is not None and inner.cell.parts.recur is not None and not inner.cell.spatial


def step_wise(rng, options, taken):
    """A plain cell, perhaps in wrappers that work inside a step."""
    inner = plain(rng, options, taken)
    what, kind = rng.integers(8, size=2), inner.said.split("-")[0]
    if what[0] == 0 and _has_product(inner):
        inner = dropped(rng, inner)
    if what[0] == 1:
        inner = dropped_inputs(rng, inner)
    same = inner.cell.spatial == inner.cell.output_spatial
    if what[1] == 0 and same and kind in ("rnn", "lstm", "gru", "mgu", "indrnn", "slstm", "block_gru", "irnn", "conv"):
        return zoned(rng, inner)
    return normed(inner) if what[1] == 1 and inner.dense else inner
