"""The tagger, many to many and aligned: a tag for each word, from the word, its characters and its neighbours."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

import seqjax
from seqjax.cnn.blocks import Conv
from seqjax.errors import UserError
from seqjax.models.classifier import drop_words
from seqjax.nn.attention import pool
from seqjax.nn.crf import crf_decode, crf_init, crf_log_likelihood, forbid
from seqjax.nn.crf_constraints import entity_constraints
from seqjax.nn.masks import real_steps
from seqjax.typing import Array, Cell, MaybeArray

CHAR_FEATURES = ("none", "rnn", "cnn")


class CharFeatures(nn.Module):
    r"""Computes a vector for each word from its characters.

    "rnn": the last states of a bidirectional LSTM over the characters (Ling et al. 2015, Lample et al. 2016). "cnn": the
    strongest response of each feature of windows of three characters anywhere in the word (Ma and Hovy 2016).

    Attributes:
      kind: "rnn" or "cnn".
      num_chars: the number of characters in the embedding.
      embed_size: width of a character's embedding.
      size: of the vector; "rnn" needs an even one.
      dtype: computation dtype.

    Example:
      >>> features = CharFeatures("cnn", num_chars=30, embed_size=8, size=6)
      >>> chars = jnp.array([[[4, 5, 0], [6, 0, 0]]])  # one sentence of two words
      >>> features.init_with_output(jax.random.key(0), chars)[0].shape
      (1, 2, 6)
    """

    kind: str
    num_chars: int
    embed_size: int
    size: int
    dtype: Any = None

    @nn.compact
    def __call__(self, chars: Array) -> Array:
        """Gives (B, T, size) for characters (B, T, C) int, of which 0 is padding at a word's end."""
        batch, steps, width = chars.shape
        chars = chars.reshape(batch * steps, width)
        lengths = jnp.sum(chars != 0, axis=1)
        xs = nn.Embed(self.num_chars, self.embed_size, dtype=self.dtype, name="embed")(chars)
        if self.kind == "rnn":
            if self.size % 2:
                raise UserError(f"model.char_size={self.size} must be even with char_features='rnn', half for each direction")
            one = seqjax.lstm(self.size // 2, dtype=self.dtype)
            cell = seqjax.bidirectional(one, one)
            params = self.param("rnn", cell.init, self.embed_size)
            _, ys = seqjax.unroll(cell, params, xs, lengths=lengths)
            features = pool("last", ys, lengths, bidirectional=True)
        else:
            real = jnp.arange(width)[None, :] < lengths[:, None]
            xs = jnp.where(real[..., None], xs, 0)
            ys = Conv(self.size, (3,), padding="SAME", dtype=self.dtype, name="conv")(xs)
            features = pool("max", ys, lengths)
        return features.reshape(batch, steps, self.size)


class Tagger(nn.Module):
    r"""Scores each tag for each word of a sentence, and finds the likeliest tags.

    .. math:: z_t = W\,\mathrm{dropout}(h_t) + b, \quad h = \mathrm{cell}([E x_t; \mathrm{chars}(x_t)])

    With `crf` the tags of a sentence are one decision: a linear-chain conditional random field over z. Without it each is
    its own softmax.

    Attributes:
      vocab_size: V, words.
      num_tags: K.
      cell: any Cell, usually bidirectional.
      embed_size: D, the width of a word's embedding.
      char_features: "none", "rnn" or "cnn": see CharFeatures.
      num_chars: number of known characters; used with char_features.
      char_embed_size, char_size: widths of a character's embedding and of a word's features.
      crf: whether tags depend on their neighbours.
      entity_tags: with the CRF: the names of the tags, "B-X", "I-X" and "O"; sequences that do not form valid spans get
        probability 0.
      dropout: on the outputs of the cell, in training.
      embed_dropout: on the words' features, the cell's inputs.
      word_dropout: the fraction of words that become `<unk>` in training; their characters stay.
      dtype: computation dtype; parameters and scores are float32.

    Example:
      >>> from seqjax.models import make_stack
      >>> cell = make_stack("lstm", 8, 1, bidirectional=True)
      >>> model = Tagger(50, 3, cell, embed_size=4, char_features="cnn", num_chars=30, crf=True)
      >>> words, chars, lengths = jnp.array([[4, 5]]), jnp.array([[[4, 5, 0], [6, 0, 0]]]), jnp.array([2])
      >>> variables = model.init(jax.random.key(0), words, chars, lengths)
      >>> scores = model.apply(variables, words, chars, lengths)
      >>> nats = model.apply(variables, scores, jnp.array([[0, 2]]), lengths, method="nats")
      >>> tags = model.apply(variables, scores, lengths, method="decode")
      >>> scores.shape, nats.shape, tags.shape
      ((1, 2, 3), (1,), (1, 2))

    Reference:
      Huang, Xu and Yu 2015, arXiv:1508.01991; Lample et al. 2016, arXiv:1603.01360; Ma and Hovy 2016, arXiv:1603.01354.
    """

    vocab_size: int
    num_tags: int
    cell: Cell
    embed_size: int
    char_features: str = "none"
    num_chars: int = 0
    char_embed_size: int = 25
    char_size: int = 50
    crf: bool = False
    entity_tags: tuple[str, ...] = ()
    dropout: float = 0.0
    embed_dropout: float = 0.0
    word_dropout: float = 0.0
    dtype: Any = None

    def setup(self):
        if self.char_features not in CHAR_FEATURES:
            raise UserError(f"model.char_features={self.char_features!r} is unknown; choose one of {', '.join(CHAR_FEATURES)}")
        self.embed = nn.Embed(self.vocab_size, self.embed_size, dtype=self.dtype)
        width = self.embed_size
        if self.char_features != "none":
            self.chars = CharFeatures(self.char_features, self.num_chars, self.char_embed_size, self.char_size, self.dtype)
            width += self.char_size
        self.rnn = self.param("rnn", self.cell.init, width)
        self.head = nn.Dense(self.num_tags, dtype=self.dtype)
        self.embed_noise, self.noise = nn.Dropout(self.embed_dropout), nn.Dropout(self.dropout)
        if self.crf:
            transitions = self.param("crf", crf_init, self.num_tags)
            self.transitions = forbid(transitions, entity_constraints(self.entity_tags)) if self.entity_tags else transitions

    def __call__(self, words: Array, chars: MaybeArray, lengths: Array, *, train: bool = False) -> Array:
        """Scores of the tags.

        Args:
          words: (B, T) int.
          chars: (B, T, C) int, 0 at the end of shorter words; not used without char_features.
          lengths: integers (B,) or a mask (B, T); padding has no effect.
          train: applies noise, from the key `rngs={"dropout": key}`, which is then required.

        Returns:
          (B, T, K) in float32.
        """
        if train:
            words = drop_words(self.make_rng("dropout"), words, self.word_dropout)
        features = [self.embed(words)]
        if self.char_features != "none":
            features.append(self.chars(chars))
        xs = self.embed_noise(jnp.concatenate(features, axis=-1), deterministic=not train)
        rng = self.make_rng("dropout") if train else None
        _, ys = seqjax.unroll(self.cell, self.rnn, xs, lengths=lengths, rng=rng)
        scores = self.head(self.noise(ys, deterministic=not train))
        return scores.astype(jnp.promote_types(scores.dtype, jnp.float32))

    def nats(self, scores: Array, tags: Array, lengths: Array) -> Array:
        """-log p(tags | words) of each sentence.

        Args:
          scores: (B, T, K), what the module gives.
          tags: (B, T) int.
          lengths: as before.

        Returns:
          (B,), 0 for a sentence of length 0.
        """
        if self.crf:
            return -crf_log_likelihood(self.transitions, scores, tags, lengths)
        real = real_steps(lengths, *tags.shape)
        scores, tags = jnp.where(real[..., None], scores, 0), jnp.where(real, tags, 0)
        log_probs = jnp.take_along_axis(jax.nn.log_softmax(scores), tags[..., None], axis=-1)[..., 0]
        return -jnp.sum(jnp.where(real, log_probs, 0), axis=1)

    def decode(self, scores: Array, lengths: Array) -> Array:
        """Finds the likeliest tags: of each sentence as a whole with the CRF, else of each word.

        Returns:
          (B, T) int32, 0 at padding.
        """
        if self.crf:
            return crf_decode(self.transitions, scores, lengths)[0]
        best = jnp.argmax(scores, axis=-1).astype(jnp.int32)
        return jnp.where(real_steps(lengths, *scores.shape[:2]), best, 0)
