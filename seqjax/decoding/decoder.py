"""The interface of decoders, and what every decoder can do: greedy decoding, sampling, and scoring given outputs.

A decoder writes one sequence for each row, token by token. It is a function, a `DecoderStep`,

  carry, logits = step(params, memory, carry, tokens)

of

  params: any pytree, the same for all rows.
  memory: constant inputs that are read at every step, such as the outputs of an encoder and their mask: a pytree whose
    arrays have B as their first axis; () for none.
  carry: what changes from step to step: a pytree whose arrays have B as their first axis.
  tokens: int32 (B,), the token before the one to predict.
  logits: (B, V), of the next token.

Row b of the new carry and of the logits depends only on row b of memory, carry and tokens. Everything here is compiled
once per step function, so pass the same function each time; arrays belong in params, memory and carry, since arrays
that a step closes over are compiled in as constants.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.decoding import sampling
from seqjax.decoding.sampling import Samples
from seqjax.decoding.scoring import sequence_log_probs
from seqjax.errors import UserError
from seqjax.typing import AnyArray

DecoderStep = Callable[[Any, Any, Any, jax.Array], tuple[Any, jax.Array]]


class Limits(NamedTuple):
    """The static settings of a search."""

    length: int  # the maximum number of tokens to write
    banned: tuple[int, ...]  # ids never to write; () if they are given as a mask


class Start(NamedTuple):
    """The dynamic inputs of a search; changing values does not recompile."""

    first_token: jax.Array  # int32 (B,)
    eos_id: jax.Array  # int32 (); -1 if no id ends a row
    pad_id: jax.Array  # int32 ()
    banned: jax.Array | None  # bool (V,), if given as a mask


def check_start(length: Any, first_token: Any, eos_id: Any, pad_id: Any, banned: Any) -> tuple[Limits, Start]:
    """Checks and converts the arguments shared by all searches; see `greedy` for their meaning.

    Raises:
      UserError: a length below 1, or every id banned.
      ValueError: first tokens that are not integers (B,).

    Example:
      >>> check_start(5, np.array([2, 2]), None, 0, [1])[0]
      Limits(length=5, banned=(1,))
    """
    if not isinstance(length, (int, np.integer)) or isinstance(length, bool) or length < 1:
        raise UserError(f"length is {length!r}; it must be a whole number of at least 1")
    first_token = jnp.asarray(first_token)
    if first_token.ndim != 1 or not jnp.issubdtype(first_token.dtype, jnp.integer):
        raise ValueError(f"first_token is {first_token.dtype} of shape {first_token.shape}; it must be integers (B,)")
    ids, mask = (tuple(sorted(map(int, banned))), None) if sampling._is_ids(banned) else ((), banned)
    if mask is not None:
        sampling._banned_mask(mask, np.size(mask))  # while its values are still concrete
    eos_id, pad_id = jnp.asarray(-1 if eos_id is None else eos_id, jnp.int32), jnp.asarray(pad_id, jnp.int32)
    return Limits(int(length), ids), Start(first_token.astype(jnp.int32), eos_id, pad_id, mask)


def allowed_ids(limits: Limits, start: Start, vocab: int) -> jax.Array:
    """Returns bool (V,), true for the ids that a search may write.

    Raises:
      UserError: a banned id outside the vocabulary, a mask of another length, or every id banned.

    Example:
      >>> allowed_ids(*check_start(5, np.array([2, 2]), None, 0, [1]), 3).tolist()
      [True, False, True]
    """
    return ~jnp.asarray(sampling._banned_mask(limits.banned if start.banned is None else start.banned, vocab))


@dataclasses.dataclass(frozen=True)
class _Packed:
    """A decoder step as `sampling.sample` takes it. Equal for equal steps, so that the jit cache is reused."""

    step: DecoderStep

    def __call__(self, carry: Any, tokens: jax.Array) -> tuple[Any, jax.Array]:
        params, memory, inner = carry
        inner, logits = self.step(params, memory, inner, tokens)
        return (params, memory, inner), logits


def draw(
    step: DecoderStep,
    params: Any,
    memory: Any,
    carry: Any,
    first_token: AnyArray,
    key: jax.Array,
    *,
    length: int,
    eos_id: int | None,
    pad_id: int = 0,
    banned: Any = (),
    temperature: float | jax.Array = 1.0,
    top_k: int | jax.Array = 0,
    top_p: float | jax.Array = 1.0,
) -> Samples:
    """Samples sequences token by token from a decoder: `sampling.sample` for a DecoderStep.

    Args:
      step, params, memory, carry: the decoder, and its carry before the first token.
      first_token: int (B,), usually bos.
      key: a JAX random key; row b depends on (key, b), not on the other rows.
      length: the maximum number of tokens to draw.
      eos_id: the id that ends a row; None for no such id.
      pad_id: the token after a row's end.
      banned: ids never to draw: a tuple of ids, or bool (V,), true where banned.
      temperature, top_k, top_p: as in `sampling.filter_logits`.

    Returns:
      Samples of tokens and log probabilities (B, length), and lengths (B,).

    Raises:
      UserError: what `sampling.sample` refuses.

    Example:
      >>> def step(params, memory, carry, tokens):  # a copy of the memory (B, S), one token a step
      ...     here = jnp.take_along_axis(memory, carry[:, None], axis=1)[:, 0]
      ...     return carry + 1, params * jax.nn.one_hot(here, 8)
      >>> memory, carry = jnp.array([[5, 6, 3], [7, 3, 3]]), jnp.zeros(2, jnp.int32)
      >>> first = jnp.array([2, 2])
      >>> draw(step, 100.0, memory, carry, first, jax.random.key(0), length=3, eos_id=3).tokens.tolist()
      [[5, 6, 3], [7, 3, 0]]
    """
    return sampling.sample(
        _Packed(step), (params, memory, carry), first_token, key, length=length, banned=banned, eos_id=eos_id,
        temperature=temperature, top_k=top_k, top_p=top_p, pad_id=pad_id,
    )  # fmt: skip


def greedy(
    step: DecoderStep,
    params: Any,
    memory: Any,
    carry: Any,
    first_token: AnyArray,
    *,
    length: int,
    eos_id: int | None,
    pad_id: int = 0,
    banned: Any = (),
) -> Samples:
    r"""Decodes greedily: each token is the likeliest given those before it.

    .. math:: y_t = \mathrm{argmax}_{v \notin \mathrm{banned}}\; p(v \mid y_{<t}, \mathrm{memory})

    Ties go to the lower id. The result equals that of `draw` at temperature 0, with a separate loop that neither
    samples nor filters. The loop is compiled once per step, length, banned ids and shapes, and ends early once every
    row has reached `<eos>`.

    Args:
      step, params, memory, carry: the decoder, and its carry before the first token.
      first_token: int (B,), usually bos.
      length: the maximum number of tokens to write.
      eos_id: the id that ends a row; None for no such id.
      pad_id: the token after a row's end.
      banned: ids never to write: a tuple of ids, or bool (V,), true where banned.

    Returns:
      Samples of tokens and log probabilities (B, length), and lengths (B,).

    Raises:
      UserError: a length below 1, a banned id outside the vocabulary, or every id banned.
      ValueError: first tokens that are not integers (B,).

    Example:
      >>> def step(params, memory, carry, tokens):  # a copy of the memory (B, S), one token a step
      ...     here = jnp.take_along_axis(memory, carry[:, None], axis=1)[:, 0]
      ...     return carry + 1, params * jax.nn.one_hot(here, 8)
      >>> memory, carry = jnp.array([[5, 6, 3], [7, 3, 3]]), jnp.zeros(2, jnp.int32)
      >>> samples = greedy(step, 9.0, memory, carry, jnp.array([2, 2]), length=3, eos_id=3)
      >>> samples.tokens.tolist(), samples.lengths.tolist()
      ([[5, 6, 3], [7, 3, 0]], [3, 2])
    """
    return _greedy(step, *check_start(length, first_token, eos_id, pad_id, banned), params, memory, carry)


class _Loop(NamedTuple):
    """The carry of the loop of `_greedy`."""

    time: jax.Array  # int32 ()
    carry: Any  # the decoder's
    token: jax.Array  # int32 (B,): the next input
    done: jax.Array  # bool (B,): <eos> was written
    written: Samples


@partial(jax.jit, static_argnums=(0, 1))
def _greedy(step, limits, start, params, memory, carry):
    (rows,) = start.first_token.shape

    def write(loop: _Loop) -> _Loop:
        time, carry, token, done, written = loop
        carry, logits = step(params, memory, carry, token)
        logits = jnp.asarray(logits, jnp.float32)
        allowed = jnp.where(allowed_ids(limits, start, logits.shape[1])[None, :], logits, -jnp.inf)
        token = jnp.argmax(allowed, axis=1).astype(jnp.int32)
        log_prob = jnp.take_along_axis(logits, token[:, None], axis=1)[:, 0] - jax.nn.logsumexp(logits, axis=1)
        token = jnp.where(done, start.pad_id, token)
        written = Samples(
            tokens=written.tokens.at[:, time].set(token),
            log_probs=written.log_probs.at[:, time].set(jnp.where(done, 0.0, log_prob)),
            lengths=written.lengths + ~done,
        )
        return _Loop(time + 1, carry, token, done | (token == start.eos_id), written)

    empty = Samples(
        tokens=jnp.full((rows, limits.length), start.pad_id, jnp.int32),
        log_probs=jnp.zeros((rows, limits.length), jnp.float32),
        lengths=jnp.zeros((rows,), jnp.int32),
    )
    loop = _Loop(jnp.int32(0), carry, start.first_token, jnp.zeros((rows,), bool), empty)
    return jax.lax.while_loop(lambda loop: (loop.time < limits.length) & ~jnp.all(loop.done), write, loop).written


def force(step: DecoderStep, params: Any, memory: Any, carry: Any, inputs: jax.Array) -> jax.Array:
    """Computes the logits of a decoder with all inputs given (teacher forcing), step by step.

    Args:
      step, params, memory, carry: the decoder, and its carry before the first token.
      inputs: int (B, T), the token before each one to predict.

    Returns:
      logits (B, T, V).

    Raises:
      ValueError: inputs that are not integers (B, T).

    Example:
      >>> step = lambda params, memory, carry, tokens: (carry + 1, jnp.stack([carry, tokens, memory], axis=1))
      >>> force(step, (), jnp.array([9]), jnp.array([0]), jnp.array([[5, 6]])).tolist()
      [[[0, 5, 9], [1, 6, 9]]]
    """
    inputs = _check_ids("inputs", inputs)
    return _force(step, params, memory, carry, inputs)


@partial(jax.jit, static_argnums=0)
def _force(step, params, memory, carry, inputs):
    _, logits = jax.lax.scan(lambda carry, tokens: step(params, memory, carry, tokens), carry, inputs.T)
    return jnp.swapaxes(logits, 0, 1)


def score_outputs(
    step: DecoderStep,
    params: Any,
    memory: Any,
    carry: Any,
    first_token: AnyArray,
    targets: jax.Array,
    mask: jax.Array,
) -> jax.Array:
    r"""Computes the log probability of given outputs, including `<eos>` if the mask includes it.

    .. math:: \mathrm{score}_b = \sum_{t:\, \mathrm{mask}_{bt}} \log p(y_{bt} \mid y_{b,<t}, \mathrm{memory}_b)

    This is the sum over teacher forcing, without the (B, T, V) logits in memory. Padding is at the end of a row;
    targets there have no effect.

    Args:
      step, params, memory, carry: the decoder, and its carry before the first token.
      first_token: int (B,), usually bos.
      targets: int (B, T).
      mask: bool (B, T), true for a real token.

    Returns:
      float32 (B,), in nats.

    Raises:
      ValueError: targets that are not integers (B, T), or a mask or first tokens that do not match them.

    Example:
      >>> step = lambda params, memory, carry, tokens: (carry, jnp.zeros((*tokens.shape, 8)))
      >>> targets, mask = jnp.array([[5, 3, 0]]), jnp.array([[True, True, False]])
      >>> score = score_outputs(step, (), (), (), jnp.array([2]), targets, mask)
      >>> print(np.asarray(jnp.exp(-score)).round(3))  # 8 ids a step, two steps
      [64.]
    """
    targets, mask, first_token = _check_ids("targets", targets), jnp.asarray(mask), jnp.asarray(first_token)
    if mask.shape != targets.shape or mask.dtype != bool:
        raise ValueError(f"mask is {mask.dtype} of shape {mask.shape}; it must be bool {targets.shape} like targets")
    if first_token.shape != targets.shape[:1]:
        raise ValueError(f"first_token has shape {first_token.shape}, targets {targets.shape}; (B,) and (B, T) expected")
    return _score_outputs(step, params, memory, carry, first_token.astype(jnp.int32), targets, mask)


@partial(jax.jit, static_argnums=0)
def _score_outputs(step, params, memory, carry, first_token, targets, mask):
    targets = jnp.where(mask, targets, 0)
    inputs = jnp.concatenate([first_token[:, None], targets[:, :-1]], axis=1)

    def add(state, now):
        carry, total = state
        tokens, target, real = now
        carry, logits = step(params, memory, carry, tokens)
        return (carry, total + sequence_log_probs(logits[:, None], target[:, None], real[:, None])), None

    (_, total), _ = jax.lax.scan(add, (carry, jnp.zeros(mask.shape[:1], jnp.float32)), (inputs.T, targets.T, mask.T))
    return total


def _check_ids(name: str, ids: Any) -> jax.Array:
    """Checks and converts ids to int32 (B, T)."""
    ids = jnp.asarray(ids)
    if ids.ndim != 2 or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(f"{name} is {ids.dtype} of shape {ids.shape}; it must be integers (B, T)")
    return ids.astype(jnp.int32)
