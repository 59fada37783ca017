"""Attention over a memory, as pure functions built like cells; re-exports the pooling of `seqjax.nn.pooling`.

Axis letters besides those of seqjax.typing: S steps of the memory, M features of the memory, Q features of a query, A
hidden units of additive attention. What depends only on the memory is computed once, by `make_memory`; a decoder's loop
then calls `attend` with one query at a time, or with all at once.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqjax import initializers
from seqjax.cells import parts
from seqjax.nn.masks import check_sequences, masked_softmax, real_steps
from seqjax.nn.pooling import attention_pooling, pool, pool_init
from seqjax.typing import Array, Key, Params

__all__ = [
    "AdditiveParams", "Attention", "GeneralParams", "Memory", "NoParams", "attend", "attention_pooling", "bahdanau", "luong",
    "make_memory", "pool", "pool_init", "real_steps", "scaled_dot",
]  # fmt: skip

LUONG = ("dot", "general", "concat")


class Attention(NamedTuple):
    """A way to score the steps of a memory for a query: pure functions that close over their settings.

    All compute in the dtype of the memory. `keys` and `scores` accept only finite numbers: `make_memory` and `attend`
    handle padding.

    Attributes:
      name: the name used in error messages, such as "luong_dot".
      init: init(key, query_size, memory_size) -> params.
      keys: keys(params, values) -> keys, all that depends only on the memory: values (B, S, M), keys (B, S, ...).
      scores: scores(params, query, keys) -> scores, query (B, Q) or (B, T, Q), and scores (B, S) or (B, T, S).
    """

    name: str
    init: Callable[[Key, int, int], Params]
    keys: Callable[[Params, Array], Array]
    scores: Callable[[Params, Array, Array], Array]


class Memory(NamedTuple):
    """What queries attend to."""

    values: Array  # (B, S, M), zero at padded steps
    keys: Array  # what scores need from the values, (B, S, ...)
    mask: Array  # true where a step is real, (B, S) bool


class AdditiveParams(NamedTuple):
    """Parameters of additive attention: Bahdanau's, and Luong's "concat"."""

    query_kernel: Array  # W, (Q, A)
    memory_kernel: Array  # U, (M, A)
    bias: Array | None  # b, (A,); None for Luong's
    score: Array  # v, (A,)


class GeneralParams(NamedTuple):
    """Parameters of Luong's "general" attention."""

    kernel: Array  # W, (Q, M)


class NoParams(NamedTuple):
    """Empty: attention by a plain product of query and memory has no parameters."""


def bahdanau(size: int) -> Attention:
    """Additive attention.

      score(q, m) = v' tanh(W q + U m + b)

    Args:
      size: A, the number of hidden units.

    Returns:
      An Attention with AdditiveParams. Scoring T queries at once needs memory for B T S A numbers.

    Raises:
      ValueError: size is below 1.

    Example:
      >>> import jax
      >>> attention = bahdanau(8)
      >>> params = attention.init(jax.random.key(0), 3, 4)  # queries with 3 features, a memory with 4
      >>> memory = make_memory(attention, params, jax.numpy.ones((2, 5, 4)), jax.numpy.array([5, 2]))
      >>> context, weights = attend(attention, params, jax.numpy.ones((2, 3)), memory)
      >>> context.shape, weights[1].tolist()
      ((2, 4), [0.5, 0.5, 0.0, 0.0, 0.0])

    Reference:
      Bahdanau, Cho and Bengio 2014, "Neural Machine Translation by Jointly Learning to Align and Translate".
    """
    size = parts.check_size("size", size)

    def init(key, query_size, memory_size):
        return _additive_init(key, query_size, memory_size, size, True)

    return Attention("bahdanau", init, _additive_keys, _additive_scores)


def luong(kind: str = "general", size: int | None = None) -> Attention:
    """Luong's three kinds of attention.

      score(q, m) = q' m              dot, needs Q = M
      score(q, m) = q' W m            general
      score(q, m) = v' tanh(W [q; m]) concat

    Args:
      kind: "dot", "general" or "concat".
      size: A, for "concat" only; Q by default.

    Returns:
      An Attention with NoParams, GeneralParams or AdditiveParams.

    Raises:
      ValueError: the kind is unknown, or size is given and the kind is not "concat"; (from `init`) "dot" with Q
        different from M.

    Example:
      >>> import jax
      >>> attention = luong("general")
      >>> attention.init(jax.random.key(0), 3, 4).kernel.shape
      (3, 4)

    Reference:
      Luong, Pham and Manning 2015, "Effective Approaches to Attention-based Neural Machine Translation".
    """
    if kind not in LUONG:
        raise ValueError(f"kind must be one of {', '.join(LUONG)}, got {kind!r}")
    if size is not None and kind != "concat":
        raise ValueError(f"size={size} is an option of kind='concat' only, got kind={kind!r}")
    if kind == "dot":
        return _product("luong_dot", lambda features: 1.0)
    if kind == "general":
        return Attention("luong_general", _general_init, _general_keys, _product_scores)
    size = None if size is None else parts.check_size("size", size)

    def init(key, query_size, memory_size):
        return _additive_init(key, query_size, memory_size, size or query_size, False)

    return Attention("luong_concat", init, _additive_keys, _additive_scores)


def scaled_dot() -> Attention:
    """Attention by the product of query and memory, scaled so that it does not grow with their size.

      score(q, m) = q' m / sqrt(M), needs Q = M

    Returns:
      An Attention with NoParams.

    Raises:
      ValueError: (from `init`) Q differs from M.

    Example:
      >>> import jax
      >>> attention = scaled_dot()
      >>> attention.scores((), jax.numpy.ones((1, 4)), attention.keys((), jax.numpy.ones((1, 2, 4)))).tolist()
      [[2.0, 2.0]]

    Reference:
      Vaswani et al. 2017, "Attention Is All You Need".
    """
    return _product("scaled_dot", lambda features: 1 / math.sqrt(features))


def make_memory(attention: Attention, params: Params, values: Array, lengths: Array | None = None) -> Memory:
    """Prepares a memory: computes once, for all queries, what depends only on it.

    Args:
      attention: how it will be scored.
      params: what `attention.init` returned.
      values: (B, S, M), such as the outputs of an encoder. Values at padded steps, even NaN, have no effect.
      lengths: integers (B,), each 0 to S, or a bool mask (B, S), which may have holes; None if all steps are real.

    Returns:
      A Memory, a pytree of arrays (B, S, ...).

    Raises:
      ValueError: a shape does not fit.
      TypeError: lengths are neither integers nor bool.

    Example:
      >>> import jax.numpy as jnp
      >>> values = jnp.array([[[1.0], [jnp.nan]]])
      >>> make_memory(luong("dot"), (), values, jnp.array([1])).values.tolist()
      [[[1.0], [0.0]]]
    """
    values = check_sequences("values", values, "(B, S, M)")
    mask = real_steps(lengths, *values.shape[:2])
    values = jnp.where(mask[..., None], values, 0)
    return Memory(values=values, keys=attention.keys(params, values), mask=mask)


def attend(attention: Attention, params: Params, query: Array, memory: Memory) -> tuple[Array, Array]:
    """Computes the mean of the memory for each query, weighted by how well each real step matches.

      weights_s = exp(score(q, m_s)) / sum_r exp(score(q, m_r)),  context = sum_s weights_s m_s,  r and s real steps

    Args:
      attention: how steps are scored.
      params: what `attention.init` returned.
      query: one for each sequence (B, Q), or T of them (B, T, Q). Finite at every step.
      memory: what `make_memory` returned with the same attention and params.

    Returns:
      context (B, M) or (B, T, M) in the memory's dtype, and weights (B, S) or (B, T, S) in float32 or wider: exactly 0
      at padded steps, summing to 1. If no step is real, both are 0.

    Raises:
      ValueError: query has the wrong number of axes or sequences.

    Example:
      >>> import jax.numpy as jnp
      >>> memory = make_memory(luong("dot"), (), jnp.eye(2)[None])
      >>> context, weights = attend(luong("dot"), (), jnp.array([[9.0, 0.0]]), memory)
      >>> [round(w, 4) for w in weights[0].tolist()]
      [0.9999, 0.0001]
    """
    if query.ndim not in (2, 3) or query.shape[0] != memory.values.shape[0]:
        raise ValueError(
            f"query must be (B, Q) or (B, T, Q) for a memory of shape {memory.values.shape}, (B, S, M), got shape {query.shape}"
        )
    scores = attention.scores(params, query.astype(memory.values.dtype), memory.keys)
    mask = memory.mask if query.ndim == 2 else memory.mask[:, None, :]
    weights = masked_softmax(scores, mask)
    equation = "bs,bsm->bm" if query.ndim == 2 else "bts,bsm->btm"
    return jnp.einsum(equation, weights.astype(memory.values.dtype), memory.values), weights


def _additive_init(key, query_size, memory_size, size, bias):
    keys = jax.random.split(key, 3)
    init = initializers.glorot_uniform()
    return AdditiveParams(
        query_kernel=init(keys[0], (parts.check_size("query_size", query_size), size)),
        memory_kernel=init(keys[1], (parts.check_size("memory_size", memory_size), size)),
        bias=jnp.zeros(size) if bias else None,
        score=init(keys[2], (size, 1))[:, 0],
    )


def _additive_keys(params, values):
    keys = values @ params.memory_kernel.astype(values.dtype)
    return keys if params.bias is None else parts.add_bias(keys, params.bias)


def _additive_scores(params, query, keys):
    query = query @ params.query_kernel.astype(query.dtype)
    keys = keys if query.ndim == 2 else keys[:, None, :, :]
    return jnp.tanh(query[..., None, :] + keys) @ params.score.astype(query.dtype)


def _general_init(key, query_size, memory_size):
    shape = (parts.check_size("query_size", query_size), parts.check_size("memory_size", memory_size))
    return GeneralParams(kernel=initializers.glorot_uniform()(key, shape))


def _general_keys(params, values):
    return values @ params.kernel.T.astype(values.dtype)


def _product(name, scale):
    """Attention by the product of query and memory times a factor that depends on their size."""

    def init(key, query_size, memory_size):
        del key
        if query_size != memory_size:
            raise ValueError(f"{name} needs query_size = memory_size, got {query_size} and {memory_size}")
        return NoParams()

    return Attention(name, init, lambda params, values: values * scale(values.shape[-1]), _product_scores)


def _product_scores(params, query, keys):
    del params
    if query.shape[-1] != keys.shape[-1]:
        raise ValueError(f"query of shape {query.shape} and keys of shape {keys.shape} must have the same number of features")
    return jnp.einsum("bq,bsq->bs" if query.ndim == 2 else "btq,bsq->bts", query, keys)
