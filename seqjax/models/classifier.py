"""The recurrent classifier, many to one: it reads a whole sequence and gives one answer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

import seqjax
from seqjax.errors import UserError
from seqjax.nn.attention import attention_pooling, pool, pool_init
from seqjax.typing import Array, Cell

POOLING = ("last", "mean", "max", "attention")
UNK = 1  # the id of <unk>, as everywhere in seqjax.text


class Classified(NamedTuple):
    """The output of the classifier."""

    logits: Array  # (B, K) in float32
    weights: Array | None  # (B, T), the weight of each step, with pooling "attention"; None otherwise


class TextClassifier(nn.Module):
    r"""Classifies a text from its tokens.

    .. math:: p(k \mid x) = \mathrm{softmax}(W\,\mathrm{dropout}(\mathrm{pool}(h_1 \dots h_T)) + b)_k, \quad h = \mathrm{cell}(E x)

    Attributes:
      vocab_size: V.
      num_classes: K.
      cell: any Cell, such as `make_stack("lstm", 128, 1, bidirectional=True)`.
      embed_size: D, the width of the embedding.
      pooling: "last" (the last real step; of a bidirectional cell each direction's own last), "mean", "max", or
        "attention": additive attention, as Yang et al. 2016 pool words.
      bidirectional: for "last": whether the second half of the features runs backward.
      dropout: on the pooled vector, in training.
      word_dropout: the fraction of tokens that become `<unk>` in training.
      dtype: computation dtype; parameters and logits are float32.

    Example:
      >>> from seqjax.models import make_stack
      >>> cell = make_stack("gru", 8, 1, bidirectional=True)
      >>> model = TextClassifier(vocab_size=50, num_classes=3, cell=cell, embed_size=4, pooling="attention")
      >>> tokens, lengths = jnp.array([[4, 5, 6], [7, 0, 0]]), jnp.array([3, 1])
      >>> out, _ = model.init_with_output(jax.random.key(0), tokens, lengths)
      >>> out.logits.shape, out.weights.tolist()[1]
      ((2, 3), [1.0, 0.0, 0.0])

    Reference:
      Yang et al. 2016, "Hierarchical Attention Networks for Document Classification", for the pooling.
    """

    vocab_size: int
    num_classes: int
    cell: Cell
    embed_size: int
    pooling: str = "max"
    bidirectional: bool = False
    dropout: float = 0.0
    word_dropout: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, tokens: Array, lengths: Array | None = None, *, train: bool = False) -> Classified:
        """Classifies texts.

        Args:
          tokens: (B, T) int.
          lengths: integers (B,) or a mask (B, T), how many tokens are real; the others have no effect.
          train: applies noise, from the key `rngs={"dropout": key}`, which is then required.

        Returns:
          Classified(logits, weights).

        Raises:
          UserError: there is no such pooling.
        """
        if self.pooling not in POOLING:
            raise UserError(f"model.pooling={self.pooling!r} is unknown; choose one of {', '.join(POOLING)}")
        embed = nn.Embed(self.vocab_size, self.embed_size, dtype=self.dtype, name="embed")
        params = self.param("rnn", self.cell.init, self.embed_size)
        if train:
            tokens = drop_words(self.make_rng("dropout"), tokens, self.word_dropout)
        rng = self.make_rng("dropout") if train else None
        _, ys = seqjax.unroll(self.cell, params, embed(tokens), lengths=lengths, rng=rng)
        if self.pooling == "attention":
            pooling_params = self.param("pooling", pool_init, self.cell.hidden_size, self.cell.hidden_size)
            pooled, weights = attention_pooling(pooling_params, ys, lengths)
        else:
            pooled, weights = pool(self.pooling, ys, lengths, bidirectional=self.bidirectional), None
        pooled = nn.Dropout(self.dropout, deterministic=not train)(pooled)
        logits = nn.Dense(self.num_classes, dtype=self.dtype, name="softmax")(pooled)
        return Classified(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), weights)


def drop_words(rng: Array, tokens: Array, rate: float) -> Array:
    """Replaces tokens by `<unk>` at random, each with probability `rate`.

    Example:
      >>> drop_words(jax.random.key(0), jnp.array([[4, 5]]), 0.0).tolist()
      [[4, 5]]
    """
    return jnp.where(jax.random.bernoulli(rng, rate, tokens.shape), UNK, tokens) if rate else tokens
