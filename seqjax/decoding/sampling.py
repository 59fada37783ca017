"""Sampling sequences from any model that gives logits one step at a time."""

from functools import partial
from typing import Any, Callable, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from seqjax.errors import UserError
from seqjax.typing import AnyArray

TINY = float(np.finfo(np.float32).tiny)  # temperatures below it count as 0


class Samples(NamedTuple):
    """Sequences drawn from a model."""

    tokens: jax.Array  # int32 (B, length): what was drawn; after <eos>, pad_id
    log_probs: jax.Array  # float32 (B, length): log p(token) under the model itself, unfiltered; 0 after <eos>
    lengths: jax.Array  # int32 (B,): tokens drawn, <eos> included


def filter_logits(
    logits: jax.Array,
    *,
    temperature: float | jax.Array = 1.0,
    top_k: int | jax.Array = 0,
    top_p: float | jax.Array = 1.0,
    banned: Any = (),
) -> jax.Array:
    """Filters logits to those of the distribution to sample from; excluded ids get -inf.

      1. banned ids are removed, and p = softmax(logits / temperature) over the others;
      2. all but the `top_k` likeliest are removed, and p renormalised;
      3. all but the smallest set of likeliest ids whose probability reaches `top_p` are removed.

    Removing banned ids is equivalent to resampling until the id is allowed. In every filter, ties go to the lower id.
    At least one id always remains. The result is shifted so that the likeliest has logit 0.

    Args:
      logits: (..., V).
      temperature: at least 0; below 1 sharper, above 1 flatter; 0 keeps the likeliest id alone (greedy).
      top_k: number of ids to keep; 0 keeps all.
      top_p: the probability to keep, in (0, 1]; 1 keeps all.
      banned: ids never to draw: a tuple of ids, or bool (V,), true where banned.

    Returns:
      float32 (..., V).

    Raises:
      UserError: a setting out of its range, an id outside the vocabulary, or every id banned. Settings that are traced
        by jit cannot be checked.

    Example:
      >>> logits = jnp.log(jnp.array([0.1, 0.2, 0.3, 0.4]))
      >>> print(np.asarray(jax.nn.softmax(filter_logits(logits, top_k=2, banned=(3,)))).round(2))
      [0.  0.4 0.6 0. ]
      >>> print(np.asarray(jax.nn.softmax(filter_logits(logits, top_p=0.65))).round(2))
      [0.   0.   0.43 0.57]

    Source: top-k, Fan et al., "Hierarchical Neural Story Generation" (2018); top-p, Holtzman et al., "The Curious Case
    of Neural Text Degeneration" (2020).
    """
    _check_settings(temperature, top_k, top_p)
    logits = jnp.asarray(logits, jnp.float32)
    mask = jnp.broadcast_to(_banned_mask(banned, logits.shape[-1]), logits.shape)
    logits = jnp.where(mask, -jnp.inf, logits)
    best = jnp.argmax(logits, axis=-1, keepdims=True)
    logits = logits - jnp.take_along_axis(logits, best, axis=-1)
    is_best = _places(logits) == best
    temperature, top_p = jnp.asarray(temperature, jnp.float32), jnp.asarray(top_p, jnp.float32)
    top_k = jnp.asarray(top_k, jnp.int32)
    logits = logits / jnp.maximum(temperature, TINY)
    logits = jnp.where((temperature < TINY) & ~is_best, -jnp.inf, logits)
    return jax.lax.cond((top_k > 0) | (top_p < 1), _keep_likeliest, lambda logits, *_: logits, logits, top_k, top_p)


def _places(logits: jax.Array) -> jax.Array:
    """Returns 0, 1, ..., V - 1 along the last axis, in the shape of the logits."""
    return jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)


def _keep_likeliest(logits: jax.Array, top_k: jax.Array, top_p: jax.Array) -> jax.Array:
    """Applies top-k, then top-p, to float32 (..., V)."""
    order = jnp.argsort(logits, axis=-1, stable=True, descending=True)
    ranked = jnp.take_along_axis(logits, order, axis=-1)
    places = _places(logits)
    ranked = jnp.where((top_k > 0) & (places >= top_k), -jnp.inf, ranked)
    probs = jax.nn.softmax(ranked, axis=-1)
    before = jnp.cumsum(probs, axis=-1) - probs  # the probability of all likelier ids
    ranked = jnp.where((top_p < 1) & (places > 0) & (before >= top_p), -jnp.inf, ranked)
    return jnp.take_along_axis(ranked, jnp.argsort(order, axis=-1), axis=-1)


def sample(
    step: Callable[[Any, jax.Array], tuple[Any, jax.Array]],
    carry: Any,
    first_token: AnyArray,
    key: jax.Array,
    *,
    length: int,
    banned: Any = (),
    eos_id: int | None = None,
    temperature: float | jax.Array = 1.0,
    top_k: int | jax.Array = 0,
    top_p: float | jax.Array = 1.0,
    pad_id: int = 0,
) -> Samples:
    """Samples sequences token by token, feeding each back as the next input, in one compiled loop.

      carry, logits = step(carry, token);  token ~ softmax(filter_logits(logits))

    The loop ends early once every row has reached `<eos>`. The draw at time t of row b is seeded only by (key, b, t):
    it does not depend on the other rows, their number or `length`.

    The loop is compiled once for a function `step`, a `length`, a tuple `banned` and the shapes; another temperature,
    top_k, top_p or eos_id does not recompile. So pass the same `step` each time, and pass parameters in the carry,
    `carry=(params, state)`: arrays that `step` closes over are compiled in as constants.

    Args:
      step: (carry, tokens int (B,)) -> (carry, logits (B, V)).
      carry: the model's carry after everything before `first_token`.
      first_token: int (B,), the first input: bos, or the last token of a prompt.
      key: a JAX random key.
      length: the maximum number of tokens to draw.
      banned: ids never to draw: a tuple of ids, or bool (V,), true where banned.
      eos_id: the id that ends a row; None for no such id.
      temperature, top_k, top_p: as in `filter_logits`.
      pad_id: the token after a row's end.

    Returns:
      Samples of tokens, log probabilities (each (B, length)) and lengths (B,). The log probabilities are those of the
      model's own distribution, before temperature and filters, so they can be compared with `scoring.score`.

    Raises:
      UserError: a setting out of its range, an id outside the vocabulary, every id banned, or first tokens that are not
        integers (B,).

    Example:
      >>> def step(carry, tokens):  # counts: after token n comes n + 1
      ...     return carry, 100.0 * jax.nn.one_hot(tokens + 1, 5)
      >>> samples = sample(step, (), jnp.array([0, 2]), jax.random.key(0), length=5, eos_id=4)
      >>> samples.tokens.tolist(), samples.lengths.tolist()
      ([[1, 2, 3, 4, 0], [3, 4, 0, 0, 0]], [4, 2])
    """
    _check_settings(temperature, top_k, top_p)
    if not isinstance(length, (int, np.integer)) or isinstance(length, bool) or length < 1:
        raise UserError(f"length is {length!r}; it must be a whole number of at least 1")
    first_token = jnp.asarray(first_token)
    if first_token.ndim != 1 or not jnp.issubdtype(first_token.dtype, jnp.integer):
        raise UserError(f"first_token is {first_token.dtype} of shape {first_token.shape}; it must be integers (B,)")
    ids, mask = (tuple(int(i) for i in banned), None) if _is_ids(banned) else ((), banned)
    if mask is not None:
        _banned_mask(mask, np.size(mask))  # while its values are still concrete
    return _sample(
        step, int(length), ids, mask, carry, first_token.astype(jnp.int32), key,
        jnp.asarray(-1 if eos_id is None else eos_id, jnp.int32), jnp.asarray(pad_id, jnp.int32),
        jnp.asarray(temperature, jnp.float32), jnp.asarray(top_k, jnp.int32), jnp.asarray(top_p, jnp.float32),
    )  # fmt: skip


class _Loop(NamedTuple):
    """The carry of the loop of `_sample`."""

    time: jax.Array  # int32 ()
    carry: Any  # the model's
    token: jax.Array  # int32 (B,): the next input
    done: jax.Array  # bool (B,): <eos> was drawn
    drawn: Samples


@partial(jax.jit, static_argnums=(0, 1, 2))
def _sample(step, length, ids, mask, carry, first_token, key, eos_id, pad_id, temperature, top_k, top_p):
    (rows,) = first_token.shape
    row_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows))
    banned = ids if mask is None else mask

    def draw(loop: _Loop) -> _Loop:
        time, carry, token, done, drawn = loop
        carry, logits = step(carry, token)
        logits = jnp.asarray(logits, jnp.float32)
        allowed = filter_logits(logits, temperature=temperature, top_k=top_k, top_p=top_p, banned=banned)
        keys = jax.vmap(jax.random.fold_in, (0, None))(row_keys, time)
        token = jax.vmap(jax.random.categorical)(keys, allowed).astype(jnp.int32)
        log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=1)[:, 0]
        token = jnp.where(done, pad_id, token)
        drawn = Samples(
            tokens=drawn.tokens.at[:, time].set(token),
            log_probs=drawn.log_probs.at[:, time].set(jnp.where(done, 0.0, log_prob)),
            lengths=drawn.lengths + ~done,
        )
        return _Loop(time + 1, carry, token, done | (token == eos_id), drawn)

    empty = Samples(
        tokens=jnp.full((rows, length), pad_id, jnp.int32),
        log_probs=jnp.zeros((rows, length), jnp.float32),
        lengths=jnp.zeros((rows,), jnp.int32),
    )
    loop = _Loop(jnp.int32(0), carry, first_token, jnp.zeros((rows,), bool), empty)
    return jax.lax.while_loop(lambda loop: (loop.time < length) & ~jnp.all(loop.done), draw, loop).drawn


def _check_settings(temperature: Any, top_k: Any, top_p: Any) -> None:
    """Refuses settings out of their ranges; traced values pass."""
    if not isinstance(temperature, jax.core.Tracer) and not 0 <= float(temperature) < float("inf"):
        raise UserError(f"temperature is {temperature}; it must be at least 0 (0 is greedy)")
    if not isinstance(top_k, jax.core.Tracer) and not (int(top_k) == top_k and top_k >= 0):
        raise UserError(f"top_k is {top_k}; it must be a whole number of at least 0 (0 keeps all)")
    if not isinstance(top_p, jax.core.Tracer) and not 0 < float(top_p) <= 1:
        raise UserError(f"top_p is {top_p}; it must be above 0 and at most 1 (1 keeps all)")


def _is_ids(banned: Any) -> bool:
    return isinstance(banned, (tuple, list, set, frozenset))


def _banned_mask(banned: Any, vocab: int) -> Any:
    """Returns bool (V,), true where banned."""
    if _is_ids(banned):
        wrong = [i for i in banned if not 0 <= i < vocab]
        if wrong:
            raise UserError(f"banned id {wrong[0]} is not in the vocabulary; ids run from 0 to {vocab - 1}")
        mask = np.zeros(vocab, bool)
        mask[list(banned)] = True
    else:
        mask = banned
        if mask.shape != (vocab,) or mask.dtype != bool:
            raise UserError(f"banned is {mask.dtype} of shape {mask.shape}; it must be ids, or bool ({vocab},)")
    if not isinstance(mask, jax.core.Tracer) and np.all(mask):
        raise UserError("every id of the vocabulary is banned; leave at least one to draw")
    return mask
