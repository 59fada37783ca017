"""Work directories with checkpoints of a small state, and readers of them; shared by the tests of checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.training.checkpoints import Checkpoints


def make_state(seed: int):
    """A small state with several dtypes, a scalar and a tuple, no two values alike."""
    a, b, c = jax.random.split(jax.random.key(seed), 3)
    return {
        "params": {"w": jax.random.normal(a, (7, 5)), "b": jax.random.normal(b, (5,)).astype(jnp.bfloat16)},
        "carry": (jax.random.normal(c, (2, 3)),),
        "key": jax.random.key_data(c),
        "step": jnp.int32(seed),
    }


def same(a, b) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)


def save(workdir, steps, keep=3):
    """Saves a state made from each step; steps is a dict step -> loss or a list of steps. Returns the lines reported."""
    lines = []
    store = Checkpoints(workdir, keep=keep, report=lines.append)
    losses = steps if isinstance(steps, dict) else {}
    for step in steps:
        extra = (losses[step],) if step in losses else ()
        store.save(step, make_state(step), {"note": f"of step {step}", "place": {"window": step * 3}}, *extra)
    store.close()
    return lines


def restore(workdir, **options):
    lines = []
    store = Checkpoints(workdir, keep=3, report=lines.append)
    restored = store.restore(lambda meta: make_state(0), **options)
    store.close()
    return restored, lines


def listing(folder):
    """Every file's bytes, and every link's target."""

    def content(path):
        if path.is_symlink():
            return path.readlink()
        return path.read_bytes() if path.is_file() else None

    return {path.relative_to(folder).as_posix(): content(path) for path in folder.rglob("*")}
