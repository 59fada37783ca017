"""Keeps non-finite numbers out of the training state: the checks, and a global norm that does not overflow."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

PyTree = Any

# What is checked, in the order in which trouble spreads; the index of each is its bit in the number from `faults`.
CHECKED = ("loss", "gradient norm", "optimizer state", "parameters", "model state", "moving average", "carry")

_LARGE = 1e12  # squares of smaller values do not overflow float32, nor does their sum over all parameters
_SCALE = 2.0**84  # scales values between that and the largest float32 to where squares neither overflow nor underflow


def all_finite(tree: PyTree) -> jax.Array:
    """Whether all float leaves are finite.

    Example:
      >>> bool(all_finite({"a": jnp.arange(3), "b": jnp.ones(2)})), bool(all_finite(jnp.array([1.0, jnp.inf])))
      (True, False)
    """
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in leaves], bool))


def faults(parts: dict[str, PyTree]) -> jax.Array:
    """Which of these parts of a training step are not finite, as bits of one number; 0 if all are finite.

    Args:
      parts: arrays by name; the names are from CHECKED.

    Returns:
      () int32, which `fault_names` translates.

    Example:
      >>> found = faults({"loss": jnp.float32(1.0), "carry": jnp.array([jnp.inf])})
      >>> fault_names(int(found))
      ['carry']
    """
    bits = [jnp.where(all_finite(part), 0, 1 << CHECKED.index(name)) for name, part in parts.items()]
    return jnp.sum(jnp.array(bits), dtype=jnp.int32)


def fault_names(found: int) -> list[str]:
    """The names behind the bits of `faults`, in the order of CHECKED.

    Example:
      >>> fault_names(0b1001)
      ['loss', 'parameters']
    """
    return [name for place, name in enumerate(CHECKED) if found >> place & 1]


def global_norm(tree: PyTree) -> jax.Array:
    r"""Euclidean norm of all leaves together, even if the sum of squares would overflow.

    .. math:: \|g\| = s \sqrt{\sum_i (g_i / s)^2}

    where s is a power of two if a value is very large, otherwise 1, when the result is that of `optax.tree.norm`, bit for bit.

    Args:
      tree: float arrays.

    Returns:
      (), not finite if a leaf is not.

    Example:
      >>> float(global_norm({"a": jnp.array([3.0]), "b": jnp.array([4.0])}))
      5.0
      >>> float(global_norm(jnp.full(4, 1e20))) == float(jnp.float32(2e20))
      True
    """
    scaled, scale = _scaled(tree)
    return optax.tree.norm(scaled) * scale


def _scaled(tree: PyTree) -> tuple[PyTree, jax.Array]:
    """The tree divided by s, and s."""
    leaves = jax.tree.leaves(tree)
    largest = jnp.max(jnp.array([jnp.max(jnp.abs(leaf), initial=0) for leaf in leaves]), initial=0)
    large = (largest > _LARGE) & jnp.isfinite(largest)
    scaled = jax.tree.map(lambda leaf: leaf * jnp.where(large, 1 / _SCALE, 1).astype(leaf.dtype), tree)
    return scaled, jnp.where(large, _SCALE, 1)


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales a gradient down to this Euclidean norm if it exceeds it, as `optax.clip_by_global_norm` does, but using `global_norm`.

    Args:
      max_norm: the maximum norm.

    Returns:
      An optax transformation.

    Example:
      >>> clip = clip_by_global_norm(1.0)
      >>> clipped, _ = clip.update(jnp.array([3e30, 4e30]), clip.init(None))
      >>> [round(float(g), 6) for g in clipped]
      [0.6, 0.8]

    Reference: Pascanu et al. 2012, arXiv:1211.5063.
    """

    def update(updates, state, params=None):
        scaled, scale = _scaled(updates)
        norm = optax.tree.norm(scaled)

        def clip(leaf, small):
            return jnp.where(norm * scale < max_norm, leaf, small / norm.astype(leaf.dtype) * max_norm)

        return jax.tree.map(clip, updates, scaled), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
