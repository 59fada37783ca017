r"""Decoding for connectionist temporal classification: the likeliest path, prefix search, alignments.

Many paths give the same text. Prefix search (Graves 2012; Hannun et al. 2014) keeps for each prefix the probability of
all its paths, separately for those that end in blank and those that end in its last label:

  p_b(y)   <-  p_t(blank) (p_b(y) + p_n(y))
  p_n(y)   <-  p_t(last of y) p_n(y)  +  p_n that extends y's own prefix to y
  p_n(y c)  =  p_t(c) (p_b(y) + (c is not the last of y) p_n(y))
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.decoding.fusion import Fusion
from seqjax.errors import UserError

BLANK = 0
NEVER = -1e30


def collapse(path: np.ndarray) -> np.ndarray:
    """Converts a path to labels: merges repeats, then drops blanks.

    Example:
      >>> collapse(np.array([0, 4, 4, 0, 4, 5])).tolist()
      [4, 4, 5]
    """
    path = np.asarray(path)
    new = np.concatenate([[True], path[1:] != path[:-1]]) if len(path) else np.zeros(0, bool)
    return path[new & (path != BLANK)].astype(np.int32)


class Prefixes(NamedTuple):
    """The best texts of each row, best first; if there are fewer, the rest have a score of -inf."""

    labels: jax.Array  # int32 (B, K, T), 0 past the end
    lengths: jax.Array  # int32 (B, K)
    scores: jax.Array  # float32 (B, K): log_probs, plus the language model's contribution if there is one
    log_probs: jax.Array  # float32 (B, K): log of the summed probability of the paths that were kept


class _Beam(NamedTuple):
    """The prefixes of each row."""

    labels: jax.Array  # int32 (B, K, T)
    lengths: jax.Array  # int32 (B, K)
    blank: jax.Array  # float32 (B, K): log p of paths that end in blank
    label: jax.Array  # float32 (B, K): log p of paths that end in the last label
    bonus: jax.Array  # float32 (B, K): the language model's contribution
    memory: Any  # the language model's, arrays (B K, ...)
    next_scores: jax.Array  # float32 (B, K, V): its contribution for each next label; (B, K, 1) zeros without one


def prefix_search(log_probs: Any, steps: Any, *, width: int, fusion: Fusion | None = None) -> Prefixes:
    r"""Finds the likeliest texts, each scored by the sum over its paths, in one compiled loop.

    .. math:: \log p(y \mid x) + \alpha \log p_{LM}(y) + \beta |y|

    If the width is at least the number of all prefixes, nothing is pruned and the result is exact.

    Args:
      log_probs: (B, T, V), normalised; blank is 0.
      steps: int (B,), real steps; later steps have no effect.
      width: K, prefixes that are kept at each step.
      fusion: a language model, its weight and a bonus for each label; None for none.

    Returns:
      Prefixes.

    Raises:
      UserError: a width below 1.

    Example:
      >>> probs = np.array([[[0.6, 0.4], [0.6, 0.4]]])  # the likeliest path is blank, blank; the likeliest text is label 1
      >>> found = prefix_search(np.log(probs), np.array([2]), width=4)
      >>> found.labels[0, 0].tolist(), round(float(np.exp(found.log_probs[0, 0])), 2)
      ([1, 0], 0.64)
    """
    if not isinstance(width, (int, np.integer)) or isinstance(width, bool) or width < 1:
        raise UserError(f"the width of a beam is {width!r}; it must be a whole number of at least 1")
    fusion = fusion or Fusion()
    numbers = jnp.asarray(fusion.weight, jnp.float32), jnp.asarray(fusion.bonus, jnp.float32)
    return _search(fusion.step, int(width), jnp.asarray(log_probs, jnp.float32), jnp.asarray(steps), fusion.params, fusion.start, *numbers)


@partial(jax.jit, static_argnums=(0, 1))
def _search(lm, width, log_probs, steps, params, start, weight, bonus):
    rows, length, vocab = log_probs.shape
    bonuses = jnp.where(jnp.arange(vocab) == BLANK, 0.0, bonus)[None, None]

    def predict(memory, last):
        """Returns the memory after the last labels (B, K), and the contribution for each next one."""
        memory, scores = lm(params, memory, last.reshape(-1))
        return memory, weight * jax.nn.log_softmax(scores).reshape(rows, -1, vocab) + bonuses

    empty = jnp.full((rows, width), NEVER).at[:, 0].set(0.0)
    beam = _Beam(
        jnp.zeros((rows, width, length), jnp.int32), jnp.zeros((rows, width), jnp.int32), empty, jnp.full((rows, width), NEVER),
        jnp.zeros((rows, width)), (), jnp.zeros((rows, width, 1)) + bonuses,
    )  # fmt: skip
    if lm is not None:
        memory = jax.tree.map(lambda array: jnp.repeat(array[None], rows * width, axis=0), start.memory)
        memory, next_scores = predict(memory, jnp.full((rows, width), start.first))
        beam = beam._replace(memory=memory, next_scores=next_scores)

    def advance(beam, now):
        scores, going = now
        new, parents, ids = _advance(beam, scores, width)
        if lm is not None:
            extended = ids > 0
            memory = jax.tree.map(lambda array: _flat_rows(array, parents), beam.memory)
            after, next_scores = predict(memory, jnp.where(extended, ids, start.first))
            memory = jax.tree.map(lambda a, b: jnp.where(_wide(extended.reshape(-1), a), a, b), after, memory)
            new = new._replace(memory=memory, next_scores=jnp.where(extended[..., None], next_scores, _rows(beam.next_scores, parents)))
        return jax.tree.map(lambda a, b: jnp.where(_wide(_for(going, a), a), a, b), new, beam), None

    going = jnp.arange(length)[:, None] < steps[None, :]
    beam, _ = jax.lax.scan(advance, beam, (log_probs.swapaxes(0, 1), going))
    totals = jnp.logaddexp(beam.blank, beam.label)
    ends = 0.0 if lm is None or start.end < 0 else beam.next_scores[..., start.end] - bonus
    scores = jnp.where(totals > NEVER / 2, totals + beam.bonus + ends, -jnp.inf)
    scores, order = jax.lax.top_k(scores, width)
    labels, lengths, totals = (_rows(array, order) for array in (beam.labels, beam.lengths, totals))
    return Prefixes(labels, lengths, scores, jnp.where(scores > -jnp.inf, totals, -jnp.inf))


def _advance(beam: _Beam, scores: jax.Array, width: int) -> tuple[_Beam, jax.Array, jax.Array]:
    """Runs one step: the new beam, the parent prefix of each entry (B, K), and the label it adds, 0 if none."""
    (rows, vocab), length = scores.shape, beam.labels.shape[2]
    last = jnp.take_along_axis(beam.labels, jnp.maximum(beam.lengths - 1, 0)[..., None], axis=2)[..., 0]
    total = jnp.logaddexp(beam.blank, beam.label)
    exists = total > NEVER / 2
    of_last = jnp.take_along_axis(scores, last, axis=1)
    stay_blank, stay_label = total + scores[:, :1], jnp.where(beam.lengths > 0, beam.label + of_last, NEVER)
    ids = jnp.arange(vocab)[None, None]
    repeats = (ids == last[..., None]) & (beam.lengths > 0)[..., None]
    longer = jnp.where(repeats, beam.blank[..., None], total[..., None]) + scores[:, None, :]
    longer = jnp.where((ids == BLANK) | ~exists[..., None] | (beam.lengths >= length)[..., None], NEVER, longer)
    # A prefix in the beam can also be reached by extending its own prefix: that probability is added to it, not to a
    # new entry.
    place = jnp.arange(length)[None, None]
    without_last = jnp.where(place == (beam.lengths - 1)[..., None], 0, beam.labels)
    child_of = jnp.all(without_last[:, :, None] == beam.labels[:, None], axis=3) & (beam.lengths[:, :, None] == beam.lengths[:, None] + 1)
    child_of &= exists[:, :, None] & exists[:, None]
    reached = jnp.where(child_of, jnp.take_along_axis(longer, last[:, None, :], axis=2).swapaxes(1, 2), NEVER)
    stay_label = jnp.logaddexp(stay_label, jax.nn.logsumexp(reached, axis=2))
    taken = jnp.any(child_of[..., None] & (ids == last[..., None])[:, :, None], axis=1)  # (B, parent, V)
    longer = jnp.where(taken, NEVER, longer)
    own = jnp.where(exists, jnp.logaddexp(stay_blank, stay_label) + beam.bonus, NEVER)
    others = jnp.where(longer > NEVER / 2, longer + beam.bonus[..., None] + beam.next_scores, NEVER)
    _, chosen = jax.lax.top_k(jnp.concatenate([own, others.reshape(rows, -1)], axis=1), width)
    extends = chosen >= width
    parents = jnp.where(extends, (chosen - width) // vocab, chosen)
    added = jnp.where(extends, (chosen - width) % vocab, 0)
    pick = partial(_rows, places=parents)
    of_label = jnp.take_along_axis(longer.reshape(rows, -1), jnp.maximum(chosen - width, 0), axis=1)
    gained = jnp.take_along_axis(pick(jnp.broadcast_to(beam.next_scores, longer.shape)), added[..., None], axis=2)[..., 0]
    lengths = pick(beam.lengths)
    new = beam._replace(
        labels=jnp.where((place == lengths[..., None]) & extends[..., None], added[..., None], pick(beam.labels)),
        lengths=lengths + extends,
        blank=jnp.where(extends, NEVER, pick(stay_blank)),
        label=jnp.where(extends, of_label, pick(stay_label)),
        bonus=pick(beam.bonus) + jnp.where(extends, gained, 0),
    )
    return new, parents, added


def _rows(array: jax.Array, places: jax.Array) -> jax.Array:
    """array[b, places[b]] for every b."""
    return jax.vmap(lambda row, place: row[place])(array, places)


def _flat_rows(array: jax.Array, parents: jax.Array) -> jax.Array:
    """Rows (B K, ...) by the parents (B, K) of each."""
    rows, width = parents.shape
    return array[(parents + width * jnp.arange(rows)[:, None]).reshape(-1)]


def _for(going: jax.Array, array: jax.Array) -> jax.Array:
    """(B,) for arrays (B, ...) and, repeated, for arrays (B K, ...)."""
    return jnp.repeat(going, array.shape[0] // going.shape[0])


def _wide(mask: jax.Array, array: jax.Array) -> jax.Array:
    return mask.reshape(mask.shape + (1,) * (array.ndim - mask.ndim))


def align(log_probs: np.ndarray, labels: np.ndarray) -> list[tuple[int, int]]:
    """Aligns labels with steps: when each label occurs on the likeliest path of a text.

    Args:
      log_probs: (T, V).
      labels: (U,), which fit into the steps.

    Returns:
      For each label its first step and the one after its last.

    Raises:
      ValueError: they do not fit.

    Example:
      >>> probs = np.array([[0.1, 0.9, 0.0], [0.2, 0.8, 0.0], [0.9, 0.1, 0.0], [0.1, 0.1, 0.8]])
      >>> align(np.log(probs + 1e-9), np.array([1, 2]))
      [(0, 2), (3, 4)]
    """
    states = np.zeros(2 * len(labels) + 1, np.int64)
    states[1::2] = labels
    skips = np.zeros(len(states), bool)
    skips[3::2] = states[3::2] != states[1:-2:2]
    best = np.full(len(states), -np.inf)
    best[0] = 0.0
    back = np.zeros((len(log_probs), len(states)), np.int64)
    for step, scores in enumerate(np.asarray(log_probs, np.float64)):
        ways = np.stack([best, _behind(best, 1), np.where(skips, _behind(best, 2), -np.inf)])
        back[step] = ways.argmax(axis=0)
        best = ways.max(axis=0) + scores[states]
    state = len(states) - 1 - int(len(labels) > 0 and best[-2] > best[-1])
    if not np.isfinite(best[state]):
        raise ValueError(f"{len(labels)} labels do not fit into {len(log_probs)} steps")
    path = np.zeros(len(log_probs), np.int64)
    for step in range(len(log_probs) - 1, -1, -1):
        path[step] = state
        state -= back[step, state]
    found = [np.flatnonzero(path == 2 * place + 1) for place in range(len(labels))]
    return [(int(steps[0]), int(steps[-1]) + 1) for steps in found]


def _behind(values: np.ndarray, by: int) -> np.ndarray:
    return np.concatenate([np.full(by, -np.inf), values])[: len(values)]
