"""Shallow fusion of a recogniser with a language model: an n-gram as one table, or a recurrent model of this project."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.errors import UserError
from seqjax.text import BOS, EOS, PAD, UNK, NGramModel

MOST_ENTRIES = 1 << 24  # of an n-gram's table: 64 MB
IMPOSSIBLE = -1e9  # finite, so that a weight of 0 gives 0


@dataclasses.dataclass(frozen=True)
class First:
    """The initial state of a language model."""

    memory: Any = ()  # arrays without the axis of the hypotheses
    first: int = BOS  # the label before the first one
    end: int = EOS  # the label that ends a text; -1 if it predicts none


jax.tree_util.register_dataclass(First, data_fields=["memory"], meta_fields=["first", "end"])


class Fusion(NamedTuple):
    r"""A language model and its weighting: :math:`\alpha \log p_{LM}(y) + \beta |y|`.

    A step is `memory, scores = step(params, memory, labels)`: arrays (n, ...), labels int (n,), scores (n, V) over the recogniser's
    labels before they are normalised, -inf for impossible ones.
    """

    step: Callable[..., Any] | None = None
    params: Any = ()
    start: First = First()
    weight: float = 0.0  # alpha
    bonus: float = 0.0  # beta, nats for each label


def ngram_fusion(model: NGramModel, *, weight: float, bonus: float = 0.0) -> Fusion:
    """Builds an n-gram over the recogniser's labels as a table of every context.

    Args:
      model: fitted on the labels of texts, each ended by `<eos>`.
      weight: alpha.
      bonus: beta.

    Raises:
      UserError: a table of more than 16 million entries.

    Example:
      >>> model = NGramModel.fit(np.array([4, 5, 3, 4, 5, 3]), np.array([True, False, False] * 2), order=2, vocab_size=6)
      >>> fusion = ngram_fusion(model, weight=1.0)
      >>> memory, scores = fusion.step(fusion.params, jnp.array([0]), jnp.array([4]))
      >>> int(scores[0].argmax())
      5
    """
    vocab, order = model.vocab_size, model.order
    if vocab**order > MOST_ENTRIES:
        many = f"a {order}-gram of {vocab} labels has {vocab**order:,} entries"
        raise UserError(f"{many}, more than the limit of {MOST_ENTRIES:,}; use a lower order")
    return Fusion(_ngram_step, jnp.asarray(ngram_table(model), jnp.float32), First(np.int32(0)), weight, bonus)


def ngram_table(model: NGramModel) -> np.ndarray:
    """Computes log p of each label after each context of n - 1 labels, float64 (V^(n-1), V).

    A context is numbered in base V; at the beginning of a text it is `<pad>` ... `<pad>` `<bos>` and the labels so far. The labels
    `<pad>`, `<unk>` and `<bos>` are never predicted and have -inf.

    Example:
      >>> model = NGramModel.fit(np.array([4, 4, 5]), np.array([True, False, True]), order=1, vocab_size=6)
      >>> ngram_table(model).shape
      (1, 6)
    """
    vocab, width = model.vocab_size, model.order - 1
    table = np.full((vocab**width, vocab), -np.inf)
    labels = np.array([each for each in range(vocab) if each not in (PAD, UNK, BOS)])
    powers = vocab ** np.arange(width - 1, -1, -1)
    inner = labels[labels != EOS]
    for known in range(width + 1):  # known labels of the context; fewer than n - 1 are preceded by the beginning
        contexts = np.stack(np.meshgrid(*[inner] * known, indexing="ij"), axis=-1).reshape(-1, known) if known else np.zeros((1, 0), int)
        whole = np.repeat(contexts, len(labels), axis=0)
        documents = np.concatenate([whole, np.tile(labels, len(contexts))[:, None]], axis=1)
        starts = np.zeros(documents.shape, bool)
        starts[:, 0] = True
        found = model.log_probs(documents.reshape(-1), starts.reshape(-1)).reshape(documents.shape)[:, -1]
        begin = np.concatenate([np.full(max(width - known - 1, 0), PAD), [BOS] * (known < width)]).astype(int)
        numbers = np.concatenate([np.tile(begin, (len(contexts), 1)), contexts], axis=1) @ powers if width else np.zeros(1, int)
        table[numbers[:, None], labels[None]] = found.reshape(len(contexts), -1)
    return table


def _ngram_step(table: jax.Array, context: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    contexts, vocab = table.shape
    # The number of the context after one more label: all but the oldest move up one place.
    context = (context * vocab + labels) % contexts
    scores = table[context]
    return context, jnp.maximum(scores, IMPOSSIBLE)
