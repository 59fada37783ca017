"""Random networks of cells and wrappers, each with what it computes in NumPy, for the fuzzer.

A net is a cell, `run(params, carry, initial, xs, flow, key=None) -> (carry, ys)`, and `initial(params, like)`, its initial carry where
`like` is that of the cell before any training. Both are in NumPy, on pytrees of arrays that are built as the cell's and may be complex
(`numpy_reference` says why). Without a key this is evaluation, with one it is training.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
from net_cells import Net, Taken, fields, step_wise, without_inputs

import seqjax
from seqjax.wrappers import bidirectional, dropout, learned_initial_carry


def random_net(rng, options, depth=2, taken=None):
    """A net of at most `depth` nested wrappers."""
    if taken is None:
        taken = Taken(spatial=[(), (), (), (), (), (3,), (3, 2)][rng.integers(7)])
    what = rng.integers(10) if depth else 0
    if what < 3:
        return step_wise(rng, options, taken).net()
    if what == 3:
        return residual(rng, random_net(rng, options, depth - 1, taken._replace(keep=True, array=True)), taken)
    if what == 4:
        return learned(random_net(rng, options, depth - 1, taken))
    if what < 7:
        ahead, back = (random_net(rng, options, depth - 1, taken._replace(keep=True)) for _ in range(2))
        return pair(rng, ahead, back, taken)
    return stack(rng, options, depth, taken)


def residual(rng, inner, taken):
    """The input added to the output of what is under dropout."""
    if inner.size != taken.size:
        return inner
    shared = bool(rng.integers(2))

    def run(params, carry, initial, xs, flow, key=None):
        xs, below = flow.zeroed(xs), None
        given = xs
        if key is not None:
            mask_key, below = jax.random.split(key)
            given = without_inputs(mask_key, xs, 0.2, shared)
        carry, ys = inner.run(params, carry, initial, given, flow, below)
        return carry, flow.zeroed(ys + xs)

    cell = seqjax.residual(dropout(inner.cell, 0.2, shared))
    return inner._replace(cell=cell, run=run, said=f"residual({inner.said})")


def learned(inner):
    """Sequences start, and restart after a reset, from a parameter."""

    def run(params, carry, initial, xs, flow, key=None):
        return inner.run(params.cell, carry, initial, xs, flow, key)

    def initial(params, like):
        return jax.tree.map(lambda a, b: np.broadcast_to(a, b.shape), params.carry, like)

    return inner._replace(cell=learned_initial_carry(inner.cell), run=run, initial=initial, said=f"learned({inner.said})")


def between(function, said, taken):
    """A function of the outputs at one step; function(np or jnp, ys)."""
    like = jax.tree.map(lambda size: jax.ShapeDtypeStruct((*taken.spatial, size), jnp.float32), taken.size)
    found = jax.eval_shape(lambda ys: function(jnp, ys), like)

    def run(params, carry, initial, xs, flow, key=None):
        return carry, flow.zeroed(function(np, xs))

    size = jax.tree.map(lambda y: y.shape[-1], found)
    return Net(lambda ys: function(jnp, ys), run, lambda params, like: like, size, said, jax.tree.leaves(found)[0].shape[:-1])


def joined(taken):
    """All outputs as one."""
    return between(lambda m, ys: m.concatenate(jax.tree.leaves(ys), -1), "joined", taken)


def dense(rng, options):
    """A dense layer."""
    size, act = int(rng.integers(3, 6)), {"tanh": np.tanh, "relu": ref.relu, "identity": lambda a: a}
    name, bias = str(rng.choice(list(act))), bool(rng.integers(2))

    def run(params, carry, initial, xs, flow, key=None):
        return carry, flow.zeroed(act[name](flow.zeroed(xs) @ params.kernel + ref._bias(fields(params))))

    cell = seqjax.dense(size, name, use_bias=bias, **options)
    return Net(cell, run, lambda params, like: like, size, f"dense-{name}")


def layer_between(rng, options, taken):
    """A layer without a carry between two cells."""
    if not isinstance(taken.size, int):
        return between(lambda m, ys: jax.tree.map(m.sin, ys), "sin", taken)
    kinds = ["sin", "parts"] + (["space"] if taken.spatial and not taken.keep else []) + ([] if taken.spatial else ["dense"] * 2)
    kind = kinds[rng.integers(len(kinds))]
    if kind == "dense":
        return dense(rng, options)
    if kind == "sin":
        return between(lambda m, y: m.sin(y), "sin", taken)
    if kind == "space":
        return between(lambda m, y: y.mean(-2), "space", taken)
    return between(lambda m, y: {"some": y[..., 1:], "all": (m.tanh(y), y * y)}, "parts", taken)


def stack(rng, options, depth, taken):
    """Layers in sequence, with layers in between or skip connections."""
    skip, layers = [None, None, None, "input", "all"][rng.integers(5)], []
    now = taken._replace(keep=taken.keep or skip is not None, array=skip is not None)

    def above(layer):
        """What the next layer is given."""
        layers.append(layer)
        seen = layers if skip == "all" else layers[-1:]
        size = taken.size + sum(net.size for net in seen) if skip else layer.size
        return now._replace(size=size, spatial=layer.spatial)

    for left in reversed(range(rng.integers(1, 4))):
        now = above(random_net(rng, options, depth - 1, now))
        if not skip and rng.integers(2):
            now = above(layer_between(rng, options, now))
        if not isinstance(now.size, int) and (left or taken.array):
            now = above(joined(now))

    def run(params, carry, initial, xs, flow, key=None):
        keys = [None] * len(layers) if key is None else jax.random.split(key, len(layers))
        after, outputs = [], []
        xs = flow.zeroed(xs)
        for layer, own_key, *own in zip(layers, keys, params, carry, initial, strict=True):
            last = outputs[-1:] or [xs]
            below = {None: last, "input": [xs, *outputs[-1:]], "all": [xs, *outputs]}[skip]
            last, ys = layer.run(*own, np.concatenate(below, -1) if skip else below[0], flow, own_key)
            after.append(last)
            outputs.append(ys)
        return tuple(after), np.concatenate(outputs, -1) if skip else outputs[-1]

    def initial(params, like):
        return tuple(layer.initial(*own) for layer, *own in zip(layers, params, like, strict=True))

    size = sum(layer.size for layer in layers) if skip else layers[-1].size
    said = f"stack({', '.join([layer.said for layer in layers] + [skip] * bool(skip))})"
    return Net(seqjax.stack(*(layer.cell for layer in layers), skip_connections=skip), run, initial, size, said, layers[-1].spatial)


MERGES = {
    "concat": lambda a, b: np.concatenate([a, b], -1),
    "sum": lambda a, b: a + b,
    "mean": lambda a, b: (a + b) / 2,
    "multiply": lambda a, b: a * b,
}


def pair(rng, ahead, back, taken):
    """Two directions."""
    alike = jax.tree.structure(ahead.size) == jax.tree.structure(back.size)
    kinds = (list(MERGES) if ahead.size == back.size else ["concat"]) if alike else []
    kinds += ["function"] + ["pair"] * (not taken.array)
    merge, fresh = str(rng.choice(kinds)), bool(rng.integers(2))

    def both(m, f, b):
        """All of both, the second in another size."""
        return m.concatenate([*jax.tree.leaves(f), *(m.sin(y) for y in jax.tree.leaves(b))], -1)

    given = {"function": lambda f, b: both(jnp, f, b), "pair": None}.get(merge, merge)
    cell = bidirectional(ahead.cell, back.cell, given, fresh_backward=fresh)

    def merged(flow, ys, zs):
        if merge == "pair":
            return ys, zs
        return flow.zeroed(both(np, ys, zs)) if merge == "function" else jax.tree.map(MERGES[merge], ys, zs)

    def run(params, carry, initial, xs, flow, key=None):
        keys = (None, None) if key is None else jax.random.split(key)
        first, ys = ahead.run(params.forward, carry.forward, initial.forward, xs, flow, keys[0])
        second, zs = back.run(params.backward, carry.backward, initial.backward, xs, flow.turned(), keys[1])
        second = initial.backward if fresh else second
        return carry._replace(forward=first, backward=second), merged(flow, ys, zs)

    def initial(params, like):
        return like._replace(forward=ahead.initial(params.forward, like.forward), backward=back.initial(params.backward, like.backward))

    return Net(cell, run, initial, cell.hidden_size, f"{merge}({ahead.said}, {back.said})", ahead.spatial)
