"""Captions for images: a decoder of tokens that reads the feature map of a CNN."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from seqjax.models.attention_decoder import DecoderCarry, decode_steps, init_decoder
from seqjax.models.token_decoder import Decoded, Encoded, TokenDecoder
from seqjax.nn.attention import Attention, make_memory
from seqjax.nn.masks import real_steps
from seqjax.typing import Array, Cell


class Captioner(TokenDecoder):
    r"""Writes captions for feature maps: Show and Tell without attention, Show, Attend and Tell with it.

    The map is S positions a_1, ..., a_S of M features, their mean is a. With attention the decoder's layers start from
    tanh(W a + b), one linear map for each array of their carry, and each step reads a context, as in `Seq2Seq`:

      bahdanau  c_t = attend(s_{t-1}, a_1..S), s_t = cell([E y_{t-1}; c_t]);  o_t = tanh(W [c_t; s_t])
      luong     s_t = cell(E y_{t-1}), c_t = attend(s_t, a_1..S);             o_t = tanh(W [c_t; s_t])

    Without it the mean is the first input: s_0 = cell(W a + b) from the initial carry, then s_t = cell(E y_{t-1}) and
    o_t = s_t. In both cases p(y_t) = softmax(V o_t + b).

    Attributes:
      vocab_size: V.
      feature_size: M.
      layers: the decoder's cells, from the bottom up, without noise of their own.
      embed_size: E, the width of the embedding.
      attention: from make_attention; None for Show and Tell.
      input_feeding: for Luong's kinds: o_{t-1} goes into the next step too.
      dropout: on the embeddings and the mean, between the decoder's layers (one mask for all steps), and on o_t, in training.
      tie_embeddings: the softmax weights are the embedding's, o_t then has E features.
      dtype: computation dtype; parameters and logits are float32.

    Example:
      >>> import jax, seqjax
      >>> from seqjax.models.token_decoder import make_attention
      >>> model = Captioner(20, 6, (seqjax.lstm(8),), embed_size=4, attention=make_attention("bahdanau", 8))
      >>> features, inputs = jnp.ones((2, 9, 6)), jnp.array([[2, 4, 5], [2, 6, 0]])
      >>> variables = model.init(jax.random.key(0), features, inputs)
      >>> out = model.apply(variables, features, inputs)
      >>> out.logits.shape, out.weights.shape
      ((2, 3, 20), (2, 3, 9))

    Reference:
      Vinyals, Toshev, Bengio and Erhan 2015, "Show and Tell", arXiv:1411.4555; Xu et al. 2015, "Show, Attend and Tell", arXiv:1502.03044.
    """

    vocab_size: int
    feature_size: int
    layers: tuple[Cell, ...]
    embed_size: int
    attention: Attention | None = None
    input_feeding: bool = False
    dropout: float = 0.0
    tie_embeddings: bool = False
    dtype: Any = None

    def setup(self):
        self.check_layers()
        self.embed = nn.Embed(self.vocab_size, self.embed_size, dtype=self.dtype)
        sizes = self.embed_size, self.feature_size, self._out()
        self.decoder = self.param("decoder", init_decoder, self.layers, self.attention, self._feeds(), *sizes)
        leaves = sum(leaf.shape[-1] for leaf in self._carry_leaves())
        self.bridge = nn.Dense(self.embed_size if self.attention is None else leaves, dtype=self.dtype)
        self.noise = nn.Dropout(self.dropout)
        if self.tie_embeddings:
            self.softmax_bias = self.param("softmax_bias", nn.initializers.zeros, (self.vocab_size,))
        else:
            self.softmax = nn.Dense(self.vocab_size, dtype=self.dtype)

    def output_embed(self) -> nn.Embed:
        """The embedding of the words."""
        return self.embed

    def encode(self, features: Array, mask: Array | None = None, *, train: bool = False) -> Encoded:
        """Prepares a feature map for the decoder.

        Args:
          features: (B, S, M). Values at positions that are not real, even NaN, have no effect.
          mask: (B, S) bool, true for a real position; None if all are.
          train: applies noise, from the key `rngs={"dropout": key}`, which is then required.
        """
        if mask is None:
            mask = jnp.ones(features.shape[:2], bool)
        real = real_steps(mask, *features.shape[:2])[..., None]
        features = jnp.where(real, features, 0)
        total = jnp.maximum(jnp.sum(real, axis=1), 1).astype(features.dtype)
        mean = self.noise(jnp.sum(features, axis=1) / total, deterministic=not train)
        if self.attention is None:
            return Encoded(None, mean)
        return Encoded(make_memory(self.attention, self.decoder.attention, features, mask), mean)

    def initial_carry(self, encoded: Encoded) -> DecoderCarry:
        """The decoder's state before its first token."""
        if self.attention is not None:
            return super().initial_carry(encoded)
        self._carry_leaves()  # refuses cells that cannot be used
        first = self.bridge(encoded.summary)
        cells = tuple(layer.initial_carry(params, first.shape[0]) for layer, params in zip(self.layers, self.decoder.layers))
        carry = DecoderCarry(cells, jnp.zeros((first.shape[0], 0), first.dtype))
        carry, _ = decode_steps(self.layers, None, "nothing", self.decoder, None, carry, first[None], ())
        return carry

    def __call__(self, features: Array, inputs: Array, mask: Array | None = None, *, train: bool = False) -> Decoded:
        """Runs teacher forcing: the scores of every word given those before it.

        Args:
          features: (B, S, M), the feature map.
          inputs: (B, T) int, the caption with `<bos>` before it and without its last token. Padding at its end does not
            affect earlier positions.
          mask: as in `encode`.
          train: applies noise, from the key `rngs={"dropout": key}`, which is then required.

        Returns:
          Decoded(logits, weights): weights (B, T, S), each row summing to 1; None without attention.
        """
        return self.teacher_forcing(self.encode(features, mask, train=train), inputs, train=train)


def coverage_penalty(weights: Array, mask: Array, real: Array | None = None) -> Array:
    r"""Computes the doubly stochastic regulariser: how unevenly attention covers the positions over a whole caption.

    .. math:: \sum_b \sum_s \left( 1 - \sum_t \alpha_{bts} \right)^2 \quad \text{over real steps } t \text{ and real positions } s

    Args:
      weights: (B, T, S), of attention. Values at steps or positions that are not real, even NaN, have no effect.
      mask: (B, T) bool, true for a real token; a row without any adds nothing.
      real: (B, S) bool, true for a real position; None if all are.

    Returns:
      The sum, ().

    Example:
      >>> even = jnp.full((1, 4, 4), 0.25)
      >>> float(coverage_penalty(even, jnp.ones((1, 4), bool))), float(coverage_penalty(even, jnp.array([[True, True, False, False]])))
      (0.0, 1.0)

    Reference:
      Xu et al. 2015, arXiv:1502.03044, equation 14.
    """
    looked = jnp.sum(jnp.where(mask[..., None], weights, 0), axis=1)
    counted = jnp.any(mask, axis=1)[:, None] & (jnp.ones_like(looked, bool) if real is None else real)
    return jnp.sum(jnp.where(counted, (1 - looked) ** 2, 0))
