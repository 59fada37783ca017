"""The linear-chain conditional random field: tags of a whole sequence at once, as pure functions of a NamedTuple of weights.

Axis letters besides those of seqjax.typing: K tags. A path is one tag for each real step. A weight of -inf forbids a
tag or transition: paths through it do not count, and values and gradients stay finite as long as one path is left.

Inside, arrays are (K, B) and a step works on (K from, K to, B): the sum over the first axis then runs over whole rows of
the batch, which is the fastest layout on a CPU. The sum over paths stays in log space; with exponentials and a matrix
product instead, a step would be twice as fast, but would lose every path that is 87 nats behind at some step, with or
without constraints.
"""

from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from seqjax.cells import parts
from seqjax.nn.crf_constraints import Constraints, entity_constraints
from seqjax.nn.crf_paths import FORBIDDEN, best_path, best_paths
from seqjax.nn.masks import check_sequences, real_steps
from seqjax.typing import Array, Key

__all__ = [
    "CRFParams", "Constraints", "crf_decode", "crf_decode_nbest", "crf_init", "crf_log_likelihood", "crf_log_partition",
    "crf_marginals", "crf_score", "entity_constraints", "forbid",
]  # fmt: skip


class CRFParams(NamedTuple):
    """Weights of a linear-chain CRF; -inf forbids."""

    transitions: Array  # of moving from one tag to another, [from, to], (K, K)
    start: Array  # of the first tag, (K,)
    end: Array  # of the last tag, (K,)


def crf_init(key: Key, num_tags: int) -> CRFParams:
    """Initialises weights that prefer no path: all zeros.

    The emissions break every symmetry, so randomness is not needed, and training starts as a softmax at each step.

    Args:
      key: not used; present because every `init` takes one.
      num_tags: K.

    Returns:
      CRFParams in float32.

    Raises:
      ValueError: num_tags is below 1.

    Example:
      >>> import jax
      >>> crf_init(jax.random.key(0), 3).transitions.shape
      (3, 3)
    """
    del key
    size = parts.check_size("num_tags", num_tags)
    return CRFParams(transitions=jnp.zeros((size, size)), start=jnp.zeros(size), end=jnp.zeros(size))


def crf_score(params: CRFParams, emissions: Array, tags: Array, lengths: Array | None = None) -> Array:
    """Computes the score of one path, the logarithm of its unnormalised probability.

      s(y) = start[y_1] + sum_{t=1..n} emissions_t[y_t] + sum_{t=2..n} transitions[y_{t-1}, y_t] + end[y_n]

    Args:
      params: the weights.
      emissions: (B, T, K), the score of each tag at each step.
      tags: y, (B, T) int, in [0, K) at real steps. Inside jit, where values are not known, tags outside are clipped.
      lengths: integers (B,), each 0 to T, or a bool mask (B, T) whose real steps come first; None if all are real.
        Padded steps affect neither values nor gradients, even with NaN, inf or tags out of range.

    Returns:
      (B,) in float32 or wider; 0 for length 0, -inf for a forbidden path.

    Raises:
      ValueError: a shape does not fit, a tag of a real step is outside [0, K), or a mask has holes.
      TypeError: a dtype does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> params = CRFParams(transitions=jnp.array([[0.0, 1.0], [2.0, 0.0]]), start=jnp.zeros(2), end=jnp.zeros(2))
      >>> crf_score(params, jnp.ones((1, 3, 2)), jnp.array([[0, 1, 0]])).tolist()  # three emissions, and 1 + 2
      [6.0]

    Reference:
      Lafferty, McCallum and Pereira 2001, "Conditional Random Fields"; Lample et al. 2016, "Neural Architectures for
      Named Entity Recognition".
    """
    params, emissions, mask = _checked(params, emissions, lengths)
    return _open(_score(params, emissions, _check_tags(tags, emissions, mask), mask))


def crf_log_partition(params: CRFParams, emissions: Array, lengths: Array | None = None) -> Array:
    """Computes log Z, the logarithm of the sum over all paths, by the forward algorithm.

      log Z = log sum_y exp(s(y))

    Args:
      params: the weights.
      emissions: (B, T, K).
      lengths: as for `crf_score`.

    Returns:
      (B,) in float32 or wider; 0 for length 0, -inf where every path is forbidden.

    Raises:
      ValueError: a shape does not fit, or a mask has holes.
      TypeError: a dtype does not fit.

    Example:
      >>> import jax
      >>> z = crf_log_partition(crf_init(jax.random.key(0), 2), jax.numpy.zeros((1, 3, 2)))
      >>> round(float(jax.numpy.exp(z[0])), 4)  # the number of paths
      8.0
    """
    return _open(_log_partition(*_checked(params, emissions, lengths)))


def crf_log_likelihood(params: CRFParams, emissions: Array, tags: Array, lengths: Array | None = None) -> Array:
    """Computes the log-probability of one path.

      log p(y) = s(y) - log Z

    Args:
      params: the weights.
      emissions: (B, T, K).
      tags: y, (B, T) int, as for `crf_score`.
      lengths: as for `crf_score`.

    Returns:
      (B,) in float32 or wider, in nats; 0 for length 0, -inf for a forbidden path.

    Raises:
      ValueError: as `crf_score`.
      TypeError: as `crf_score`.

    Example:
      >>> import jax
      >>> params = crf_init(jax.random.key(0), 2)
      >>> p = crf_log_likelihood(params, jax.numpy.zeros((1, 3, 2)), jax.numpy.array([[0, 1, 0]]))
      >>> round(float(jax.numpy.exp(p[0])), 4)
      0.125
    """
    params, emissions, mask = _checked(params, emissions, lengths)
    tags = _check_tags(tags, emissions, mask)
    return _log_likelihood(params, emissions, tags, mask)


def crf_marginals(params: CRFParams, emissions: Array, lengths: Array | None = None) -> Array:
    """Computes the probability of each tag at each step, over all paths.

      p(y_t = k) = d log Z / d emissions_t[k]

    The gradient is the backward algorithm: it costs the same, and no second recursion has to agree with the first.

    Args:
      params: the weights.
      emissions: (B, T, K).
      lengths: as for `crf_score`.

    Returns:
      (B, T, K) in float32 or wider; 0 at padded steps, and where every path is forbidden.

    Raises:
      ValueError: a shape does not fit, or a mask has holes.
      TypeError: a dtype does not fit.

    Example:
      >>> import jax
      >>> crf_marginals(crf_init(jax.random.key(0), 2), jax.numpy.zeros((1, 2, 2)), jax.numpy.array([1])).tolist()
      [[[0.5, 0.5], [0.0, 0.0]]]
    """
    params, emissions, mask = _checked(params, emissions, lengths)
    return jax.grad(lambda e: _open(_log_partition(params, e, mask)).sum())(emissions)


def crf_decode(params: CRFParams, emissions: Array, lengths: Array | None = None) -> tuple[Array, Array]:
    """Finds the best path and its score by Viterbi's algorithm.

      y* = argmax_y s(y)

    Ties go to the path with the lowest last tag, then the lowest tag before it, and so on.

    Args:
      params: the weights.
      emissions: (B, T, K).
      lengths: as for `crf_score`.

    Returns:
      tags (B, T) int32, 0 at padded steps, and scores (B,) in float32 or wider: 0 for length 0, -inf where every path
      is forbidden, in which case the tags are meaningless.

    Raises:
      ValueError: a shape does not fit, or a mask has holes.
      TypeError: a dtype does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> emissions = jnp.array([[[0.0, 1.0], [2.0, 0.0], [0.0, 3.0]]])
      >>> tags, score = crf_decode(crf_init(None, 2), emissions, jnp.array([2]))
      >>> tags.tolist(), score.tolist()
      ([[1, 0, 0]], [3.0])

    Reference:
      Viterbi 1967, "Error Bounds for Convolutional Codes and an Asymptotically Optimum Decoding Algorithm".
    """
    tags, score = best_path(*_checked(params, emissions, lengths))
    return tags, _open(score)


def crf_decode_nbest(params: CRFParams, emissions: Array, lengths: Array | None = None, *, n: int) -> tuple[Array, Array]:
    """Finds the n best paths, best first, by Viterbi's algorithm with n paths for each tag.

    Args:
      params: the weights.
      emissions: (B, T, K).
      lengths: as for `crf_score`.
      n: number of paths.

    Returns:
      tags (B, n, T) int32, 0 at padded steps, and scores (B, n), descending. If there are fewer than n paths, the
      remaining scores are -inf and their tags are meaningless; length 0 has one path, with score 0.

    Raises:
      ValueError: n is below 1, a shape does not fit, or a mask has holes.
      TypeError: a dtype does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> tags, scores = crf_decode_nbest(crf_init(None, 2), jnp.array([[[0.0, 1.0], [5.0, 2.0]]]), n=3)
      >>> tags.tolist(), scores.tolist()
      ([[[1, 0], [0, 0], [1, 1]]], [[6.0, 5.0, 3.0]])
    """
    tags, scores = best_paths(*_checked(params, emissions, lengths), parts.check_size("n", n))
    return tags, _open(scores)


def forbid(params: CRFParams, constraints: Constraints) -> CRFParams:
    """Sets weights to -inf where the constraints forbid a tag or transition; their gradient is 0 there.

    Args:
      params: the weights, of K tags.
      constraints: which tags and transitions are allowed, for the same number of tags.

    Returns:
      CRFParams.

    Raises:
      ValueError: the numbers of tags differ.

    Example:
      >>> params = forbid(crf_init(None, 2), entity_constraints(["O", "I-X"]))
      >>> params.start.tolist()
      [0.0, -inf]
    """
    if params.transitions.shape != constraints.transitions.shape:
        shapes = f"{params.transitions.shape} and {constraints.transitions.shape}"
        raise ValueError(f"params and constraints must have the same number of tags, got transitions {shapes}")
    return CRFParams(*(jnp.where(allowed, weight, -jnp.inf) for weight, allowed in zip(params, constraints)))


def _checked(params, emissions, lengths):
    """Returns the arguments in one dtype, float32 at least, finite, zero at padded steps; and the mask (B, T)."""
    emissions = check_sequences("emissions", emissions, "(B, T, K)")
    batch, steps, size = emissions.shape
    for name, want in (("transitions", (size, size)), ("start", (size,)), ("end", (size,))):
        shape = jnp.shape(getattr(params, name))
        if shape != want:
            raise ValueError(f"params.{name} must have shape {want} for emissions {emissions.shape}, got {shape}")
    mask = real_steps(lengths, batch, steps)
    given = None if lengths is None or isinstance(lengths, jax.core.Tracer) else np.asarray(lengths)
    if given is not None and given.ndim == 2 and (np.diff(given.astype(int), axis=1) > 0).any():
        raise ValueError("lengths as a mask must be true only at the first steps of a sequence, but it has holes")
    dtype = jnp.promote_types(jnp.result_type(emissions, *params), jnp.float32)
    finite = lambda a: jnp.maximum(jnp.asarray(a, dtype), FORBIDDEN)  # noqa: E731
    return CRFParams(*map(finite, params)), finite(jnp.where(mask[..., None], emissions, 0)), mask


def _check_tags(tags, emissions, mask):
    """Returns tags (B, T), 0 at padded steps."""
    tags, size = jnp.asarray(tags), emissions.shape[-1]
    if not jnp.issubdtype(tags.dtype, jnp.integer):
        raise TypeError(f"tags must be integers, got dtype {tags.dtype}")
    if tags.shape != mask.shape:
        raise ValueError(f"tags must have shape {mask.shape} for emissions {emissions.shape}, got {tags.shape}")
    tags = jnp.where(mask, tags, 0)
    if not isinstance(tags, jax.core.Tracer) and tags.size and not 0 <= tags.min() <= tags.max() < size:
        raise ValueError(f"tags must lie in 0 ... {size - 1}, got values from {tags.min()} to {tags.max()}")
    return jnp.clip(tags, 0, size - 1)


def _open(scores):
    """Sets scores back to -inf where a path passes something forbidden."""
    return jnp.where(scores > FORBIDDEN / 2, scores, -jnp.inf)


@jax.jit
def _score(params, emissions, tags, mask):
    """The score of a path (B,), finite."""
    if not mask.shape[1]:
        return jnp.zeros(mask.shape[0], emissions.dtype)
    last = jnp.take_along_axis(tags, jnp.maximum(mask.sum(axis=1, keepdims=True) - 1, 0), axis=1)[:, 0]
    ends = params.start[tags[:, 0]] + params.end[last]
    emitted = jnp.take_along_axis(emissions, tags[..., None], axis=-1)[..., 0]
    moved = params.transitions[tags[:, :-1], tags[:, 1:]]
    inner = jnp.where(mask, emitted, 0).sum(axis=1) + jnp.where(mask[:, 1:], moved, 0).sum(axis=1)
    return jnp.where(mask[:, 0], ends + inner, 0)


@jax.jit
def _log_partition(params, emissions, mask):
    """log Z (B,), finite."""
    if not emissions.shape[1]:
        return jnp.zeros(emissions.shape[0], emissions.dtype)
    emissions = emissions.transpose(1, 2, 0)

    def step(alpha, inputs):
        emission, real = inputs
        paths = alpha[:, None, :] + params.transitions[:, :, None]
        return jnp.where(real[None, :], _log_sum(paths) + emission, alpha), None

    alpha, _ = jax.lax.scan(step, params.start[:, None] + emissions[0], (emissions[1:], mask.T[1:]))
    return jnp.where(mask[:, 0], _log_sum(alpha + params.end[:, None]), 0)


def _log_sum(scores):
    """log sum exp over the first axis of finite scores."""
    highest = jax.lax.stop_gradient(scores.max(axis=0))
    return jnp.log(jnp.exp(scores - highest[None]).sum(axis=0)) + highest


@jax.jit
def _log_likelihood(params, emissions, tags, mask):
    score = _score(params, emissions, tags, mask)
    # For a forbidden path and a log Z without any path, this would be the difference of two rounded numbers.
    return jnp.where(score > FORBIDDEN / 2, score - _log_partition(params, emissions, mask), -jnp.inf)
