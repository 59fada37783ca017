"""Beam search for a decoder's likeliest sequences, several per row, in one compiled loop."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from seqjax.decoding.decoder import DecoderStep, Limits, Start, allowed_ids, check_start
from seqjax.errors import UserError
from seqjax.typing import AnyArray

BLOCK = 64  # ids whose greatest logit is found first; see _likeliest


class Beams(NamedTuple):
    """The best sequences for each row, best first: those that ended with `<eos>`, then those cut at the length."""

    tokens: jax.Array  # int32 (B, n_best, length); after <eos>, pad_id
    scores: jax.Array  # float32 (B, n_best): log_prob / penalty, by which they are ordered; -inf where there is none
    log_probs: jax.Array  # float32 (B, n_best): the sum of log p(token), in nats; -inf where there is none
    lengths: jax.Array  # int32 (B, n_best): tokens written, <eos> included; 0 where there is none
    finished: jax.Array  # bool (B, n_best): ended by <eos>


def beam_search(
    step: DecoderStep,
    params: Any,
    memory: Any,
    carry: Any,
    first_token: AnyArray,
    *,
    width: int,
    length: int,
    eos_id: int | None,
    pad_id: int = 0,
    banned: Any = (),
    length_penalty: float | jax.Array = 0.0,
    n_best: int = 1,
) -> Beams:
    r"""Finds the sequences with the highest scores by beam search.

    .. math:: \mathrm{score}(y) = \frac{\sum_t \log p(y_t \mid y_{<t}, \mathrm{memory})}{((5 + |y|) / 6)^{\alpha}}

    At every step each of the `width` hypotheses of a row is continued by every id, and the continuations are ordered by
    log probability. Those with `<eos>` among the first `width` are finished; the first `width` of the others continue,
    so that a finished hypothesis does not take a slot in the beam. Ties go to the earlier hypothesis, then to the lower
    id; among equal scores, to the hypothesis that ended first. With width 1 and no penalty this is `greedy`.

    Hypotheses that are unfinished when `length` is reached fill the slots that finished ones leave, and rank after them
    regardless of score. The loop ends early once no hypothesis of any row can still reach the n-best of its row, which
    does not change the result. It is compiled once for a step, `width`, `length`, `n_best`, banned ids and the shapes;
    another penalty or eos_id does not compile again.

    Args:
      step, params, memory, carry: the decoder, and its carry before the first token, as in `decoder`.
      first_token: int (B,), usually bos.
      width: K, the number of hypotheses kept per row.
      length: the maximum number of tokens to write.
      eos_id: the id that ends a hypothesis; None for no such id.
      pad_id: the token after a hypothesis's end.
      banned: ids never to write: a tuple of ids, or bool (V,), true where banned.
      length_penalty: alpha, at least 0; 0 for no penalty; larger values favour longer sequences.
      n_best: the number of sequences to return per row; it does not change which are found.

    Returns:
      Beams. The log probabilities are the model's own, as `score_outputs` gives them.

    Raises:
      UserError: a width, length or n_best below 1, a negative penalty, a banned id outside the vocabulary, or every id
        banned.
      ValueError: first tokens that are not integers (B,), or an array of memory or carry without B as its first axis.

    Example:
      >>> table = jnp.log(jnp.array([[0.0, 0.0, 0.55, 0.45], [0, 1, 0, 0], [0, 0.4, 0.3, 0.3], [0, 0.9, 0.1, 0.0]]))
      >>> step = lambda table, memory, carry, tokens: (carry, table[tokens])  # p(next | last)
      >>> beams = beam_search(step, table, (), (), jnp.array([0]), width=2, length=3, eos_id=1, n_best=2)
      >>> print(beams.tokens[0].tolist(), np.exp(np.asarray(beams.scores[0])).round(3))
      [[3, 1, 0], [2, 1, 0]] [0.405 0.22 ]

    Reference:
      Wu et al. 2016, arXiv:1609.08144, equation 14 (the penalty; coverage left out).
    """
    limits, start = check_start(length, first_token, eos_id, pad_id, banned)
    for name, count in (("width", width), ("n_best", n_best)):
        if not isinstance(count, (int, np.integer)) or isinstance(count, bool) or count < 1:
            raise UserError(f"{name} is {count!r}; it must be a whole number of at least 1")
    if not isinstance(length_penalty, jax.core.Tracer) and not 0 <= float(length_penalty) < float("inf"):
        raise UserError(f"length_penalty is {length_penalty}; it must be a number of at least 0 (0 is none)")
    _check_rows(start.first_token.shape[0], memory=memory, carry=carry)
    alpha = jnp.asarray(length_penalty, jnp.float32)
    return _beam_search(step, limits, int(width), int(n_best), True, start, alpha, params, memory, carry)


class _Alive(NamedTuple):
    """The unfinished hypotheses; those with log probability -inf do not exist."""

    carry: Any  # the decoder's, arrays (B * K, ...)
    last: jax.Array  # int32 (B * K,): the next input
    tokens: jax.Array  # int32 (B, K, length)
    log_probs: jax.Array  # float32 (B, K), the highest first


class _Loop(NamedTuple):
    """The carry of the loop."""

    time: jax.Array  # int32 ()
    alive: _Alive
    ended: Beams  # the best hypotheses that have met <eos>


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _beam_search(step, limits: Limits, width, n_best, early, start: Start, alpha, params, memory, carry) -> Beams:
    """Runs the search; `early` leaves the loop as soon as the result is certain (tests compare both)."""
    memory = _repeat(memory, width)
    final_penalty = _penalty(limits.length, alpha)

    def advance(loop: _Loop) -> _Loop:
        time, alive, ended = loop
        carry, logits = step(params, memory, alive.carry, alive.last)
        logits = jnp.asarray(logits, jnp.float32)
        candidates = _likeliest(logits, alive.log_probs, allowed_ids(limits, start, logits.shape[1]), 2 * width)
        tokens = _rows(alive.tokens, candidates.parents).at[:, :, time].set(candidates.ids)
        ends = candidates.ids == start.eos_id
        return _Loop(
            time=time + 1,
            alive=_go_on(carry, tokens, candidates, ends, width),
            ended=_end(ended, tokens, candidates, ends, width, time + 1, alpha),
        )

    def undecided(loop: _Loop) -> jax.Array:
        bound = loop.alive.log_probs[:, 0] / final_penalty  # log probabilities only decrease, penalties only grow
        return jnp.any(bound > loop.ended.scores[:, -1])

    def goes_on(loop: _Loop) -> jax.Array:
        return (loop.time < limits.length) & (undecided(loop) | (not early))

    loop = _Loop(jnp.int32(0), _first(start, carry, width, limits.length), _none(start, n_best, limits.length))
    time, alive, ended = jax.lax.while_loop(goes_on, advance, loop)
    return _fill(ended, alive, time, alpha)


class _Candidates(NamedTuple):
    """Continuations of the hypotheses of each row, likeliest first."""

    log_probs: jax.Array  # float32 (B, n)
    parents: jax.Array  # int32 (B, n): which hypothesis is continued
    ids: jax.Array  # int32 (B, n): by which id


def _likeliest(logits: jax.Array, log_probs: jax.Array, allowed: jax.Array, number: int) -> _Candidates:
    """Finds the likeliest continuations of each row, by allowed ids.

    A continuation among the first n is in one of the first n blocks of ids, ordered by their best, since every earlier
    block contains a better continuation. So only n * BLOCK continuations have to be sorted, not K * V.

    Args:
      logits: float32 (B * K, V).
      log_probs: float32 (B, K), of the hypotheses.
      allowed: bool (V,).
      number: n, the number to return; fewer if there are fewer than n.
    """
    (rows, width), vocab = log_probs.shape, logits.shape[1]
    blocks = -(-vocab // BLOCK)
    log_norms = jax.nn.logsumexp(logits, axis=1).reshape(rows, width)
    logits = jnp.where(allowed[None, :], logits, -jnp.inf)

    def continued(logits, log_probs, log_norms):
        # Rounding may put a logit above the log-sum-exp; the bound of the early exit needs log p <= 0.
        totals = log_probs[..., None] + jnp.minimum(logits - log_norms[..., None], 0.0)
        # The model's output for hypotheses that do not exist may be NaN: they were continued by ids that it never saw.
        return jnp.where(log_probs[..., None] > -jnp.inf, totals, -jnp.inf)

    ends = ((0, 0), (0, -vocab % BLOCK))
    best = jax.lax.reduce_window(logits, -jnp.inf, jax.lax.max, (1, BLOCK), (1, BLOCK), ends)
    best = continued(best.reshape(rows, width, blocks), log_probs, log_norms).reshape(rows, -1)
    _, chosen = jax.lax.top_k(best, min(number, width * blocks))
    chosen = jnp.sort(chosen, axis=1)  # indices in the order of hypotheses and ids: top_k breaks ties by the earlier
    owners, first_ids = chosen // blocks, chosen % blocks * BLOCK

    ids = first_ids[..., None] + jnp.arange(BLOCK)[None, None, :]  # the last block may reach beyond V
    inside = logits.at[_flat(owners, width)[..., None], ids].get(mode="fill", fill_value=-jnp.inf)
    inside = continued(inside, _rows(log_probs, owners), _rows(log_norms, owners)).reshape(rows, -1)
    log_probs, places = jax.lax.top_k(inside, min(number, width * vocab))
    ids = jnp.minimum(_rows(ids.reshape(rows, -1), places), vocab - 1)
    return _Candidates(log_probs, _rows(owners, places // BLOCK), ids)


def _first(start: Start, carry: Any, width: int, length: int) -> _Alive:
    """Returns the empty hypothesis of each row; the other `width - 1` do not exist yet."""
    (rows,) = start.first_token.shape
    return _Alive(
        carry=_repeat(carry, width),
        last=jnp.repeat(start.first_token, width),
        tokens=jnp.full((rows, width, length), start.pad_id, jnp.int32),
        log_probs=jnp.full((rows, width), -jnp.inf, jnp.float32).at[:, 0].set(0.0),
    )


def _none(start: Start, n_best: int, length: int) -> Beams:
    """Returns an empty set of finished hypotheses."""
    shape = (*start.first_token.shape, n_best)
    return Beams(
        tokens=jnp.full((*shape, length), start.pad_id, jnp.int32),
        scores=jnp.full(shape, -jnp.inf, jnp.float32),
        log_probs=jnp.full(shape, -jnp.inf, jnp.float32),
        lengths=jnp.zeros(shape, jnp.int32),
        finished=jnp.zeros(shape, bool),
    )


def _go_on(carry: Any, tokens: jax.Array, candidates: _Candidates, ends: jax.Array, width: int) -> _Alive:
    """Returns the first `width` continuations that do not end."""
    log_probs, places = jax.lax.top_k(jnp.where(ends, -jnp.inf, candidates.log_probs), width)
    parents = _flat(_rows(candidates.parents, places), width).reshape(-1)
    return _Alive(
        carry=jax.tree.map(lambda array: array[parents], carry),
        last=_rows(candidates.ids, places).reshape(-1),
        tokens=_rows(tokens, places),
        log_probs=log_probs,
    )


def _end(ended: Beams, tokens: jax.Array, candidates: _Candidates, ends: jax.Array, width: int, time: Any, alpha: jax.Array) -> Beams:
    """Returns the n-best of the finished hypotheses and those that finish now, among the first `width` continuations."""
    ends = (ends & (candidates.log_probs > -jnp.inf))[:, :width]
    log_probs = jnp.where(ends, candidates.log_probs[:, :width], -jnp.inf)
    now = Beams(tokens[:, :width], log_probs / _penalty(time, alpha), log_probs, jnp.where(ends, time, 0), ends)
    both = jax.tree.map(lambda old, new: jnp.concatenate([old, new], axis=1), ended, now)
    _, places = jax.lax.top_k(both.scores, ended.scores.shape[1])
    return jax.tree.map(lambda array: _rows(array, places), both)


def _fill(ended: Beams, alive: _Alive, time: jax.Array, alpha: jax.Array) -> Beams:
    """Adds hypotheses cut at the length, after the finished ones, as far as there are slots."""
    exist = alive.log_probs > -jnp.inf
    lengths, nothing = jnp.where(exist, time, 0), jnp.zeros_like(exist)
    cut = Beams(alive.tokens, alive.log_probs / _penalty(time, alpha), alive.log_probs, lengths, nothing)
    both = jax.tree.map(lambda first, then: jnp.concatenate([first, then], axis=1), ended, cut)
    order = jnp.argsort(jnp.where(both.finished, 0, jnp.where(both.lengths > 0, 1, 2)), axis=1, stable=True)
    return jax.tree.map(lambda array: _rows(array, order[:, : ended.scores.shape[1]]), both)


def _penalty(length: jax.Array | int, alpha: jax.Array) -> jax.Array:
    return ((5.0 + jnp.asarray(length, jnp.float32)) / 6.0) ** alpha


def _rows(array: jax.Array, places: jax.Array) -> jax.Array:
    """Gathers array[b, places[b]] for every b: (B, n, ...) and (B, m) to (B, m, ...)."""
    return jax.vmap(lambda row, place: row[place])(array, places)


def _flat(places: jax.Array, width: int) -> jax.Array:
    """Converts hypotheses (B, m) of each row to rows of the arrays (B * K, ...)."""
    return places + width * jnp.arange(places.shape[0])[:, None]


def _repeat(tree: Any, width: int) -> Any:
    """Repeats each row `width` times."""
    return jax.tree.map(lambda array: jnp.repeat(array, width, axis=0), tree)


def _check_rows(rows: int, **trees: Any) -> None:
    """Checks that every array has B as its first axis."""
    for name, tree in trees.items():
        for path, array in jax.tree_util.tree_leaves_with_path(tree):
            if jnp.shape(array)[:1] != (rows,):
                where = name + jax.tree_util.keystr(path)
                raise ValueError(f"{where} has shape {jnp.shape(array)}; its first axis must be B={rows}, like that of first_token")
