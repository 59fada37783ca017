"""Encoder and decoder: reads a whole sequence, then writes another, with or without attention to the source."""

from typing import Any

from flax import linen as nn

import seqjax
from seqjax.errors import UserError
from seqjax.models.attention_decoder import DecoderCarry, DecoderParams, init_decoder
from seqjax.models.token_decoder import ATTENTIONS, Decoded, Encoded, TokenDecoder, make_attention
from seqjax.nn.attention import Attention, make_memory, pool
from seqjax.typing import Array, Cell


class Seq2Seq(TokenDecoder):
    r"""A recurrent encoder and a recurrent decoder.

    The encoder reads the source, m = encoder(E x); the decoder's layers start from s_0 = tanh(W_s m_last + b_s), one
    linear map for each array of their carry, where m_last is the encoder's last output in each direction. Then it
    writes one token at a time, each from the one before:

      none      s_t = cell(E y_{t-1});                          o_t = s_t
      bahdanau  c_t = attend(s_{t-1}, m), s_t = cell([E y_{t-1}; c_t]);  o_t = tanh(W [c_t; s_t])
      luong     s_t = cell(E y_{t-1}), c_t = attend(s_t, m);    o_t = tanh(W [c_t; s_t])
      luong with input feeding: s_t = cell([E y_{t-1}; o_{t-1}]), the rest as before

    and p(y_t) = softmax(V o_t + b). If nothing is fed back (none, luong), training runs all steps of a layer at once.

    Attributes:
      source_size, target_size: vocabularies.
      encoder: any Cell, usually bidirectional.
      layers: the decoder's cells, from the bottom up, without noise of their own; the query of attention is the top
        layer's output.
      embed_size: E, the width of both embeddings.
      attention: from make_attention; None for none.
      input_feeding: for Luong's kinds: o_{t-1} goes into the next step too.
      bidirectional: whether the second half of the encoder's features runs backward.
      dropout: on the embeddings, between the decoder's layers (one mask for all steps), and on o_t, in training.
      share_embeddings: source and target have one vocabulary and one embedding.
      tie_embeddings: the softmax weights are the target embedding's, o_t then has E features.
      dtype: computation dtype; parameters and logits are float32.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from seqjax.models import make_stack
      >>> encoder = make_stack("gru", 8, 1, bidirectional=True)
      >>> model = Seq2Seq(20, 30, encoder, (seqjax.gru(8),), embed_size=4, attention=make_attention("bahdanau", 8))
      >>> source, lengths, inputs = jnp.array([[4, 5, 6], [7, 0, 0]]), jnp.array([3, 1]), jnp.array([[2, 4], [2, 5]])
      >>> variables = model.init(jax.random.key(0), source, lengths, inputs)
      >>> out = model.apply(variables, source, lengths, inputs)
      >>> out.logits.shape, out.weights.shape
      ((2, 2, 30), (2, 2, 3))
      >>> encoded = model.apply(variables, source, lengths, method="encode")
      >>> carry = model.apply(variables, encoded, method="initial_carry")
      >>> carry, logits = model.apply(variables, encoded, carry, inputs[:, 0], method="step")
      >>> bool(jnp.allclose(logits, out.logits[:, 0], atol=1e-6))
      True

    Reference:
      Sutskever, Vinyals and Le 2014; Bahdanau, Cho and Bengio 2014, arXiv:1409.0473; Luong, Pham and Manning 2015,
      arXiv:1508.04025; Press and Wolf 2017, arXiv:1608.05859, for tied embeddings.
    """

    source_size: int
    target_size: int
    encoder: Cell
    layers: tuple[Cell, ...]
    embed_size: int
    attention: Attention | None = None
    input_feeding: bool = False
    bidirectional: bool = True
    dropout: float = 0.0
    share_embeddings: bool = False
    tie_embeddings: bool = False
    dtype: Any = None

    def setup(self):
        self._check()
        self.source_embed = nn.Embed(self.source_size, self.embed_size, dtype=self.dtype)
        if not self.share_embeddings:
            self.target_embed = nn.Embed(self.target_size, self.embed_size, dtype=self.dtype)
        self.encoder_params = self.param("encoder", self.encoder.init, self.embed_size)
        width = self.encoder.hidden_size
        self.decoder = self.param("decoder", init_decoder, self.layers, self.attention, self._feeds(), self.embed_size, width, self._out())
        self.bridge = nn.Dense(sum(leaf.shape[-1] for leaf in self._carry_leaves()), dtype=self.dtype)
        self.noise = nn.Dropout(self.dropout)
        if self.tie_embeddings:
            self.softmax_bias = self.param("softmax_bias", nn.initializers.zeros, (self.target_size,))
        else:
            self.softmax = nn.Dense(self.target_size, dtype=self.dtype)

    def _check(self):
        if self.share_embeddings and self.source_size != self.target_size:
            raise UserError(f"shared embeddings need one vocabulary, got sizes {self.source_size} and {self.target_size}")
        self.check_layers()

    def output_embed(self) -> nn.Embed:
        """The embedding of the target's tokens."""
        return self.source_embed if self.share_embeddings else self.target_embed

    def encode(self, source: Array, lengths: Array, *, train: bool = False) -> Encoded:
        """Reads the source.

        Args:
          source: (B, S) int.
          lengths: integers (B,); padding has no effect.
          train: applies noise, from the key `rngs={"dropout": key}`, which is then required.
        """
        xs = self.noise(self.source_embed(source), deterministic=not train)
        rng = self.make_rng("dropout") if train else None
        _, values = seqjax.unroll(self.encoder, self.encoder_params, xs, lengths=lengths, rng=rng)
        summary = pool("last", values, lengths, bidirectional=self.bidirectional)
        memory = None
        if self.attention is not None:
            memory = make_memory(self.attention, self.decoder.attention, values, lengths)
        return Encoded(memory, summary)

    def __call__(self, source: Array, lengths: Array, inputs: Array, *, train: bool = False, samples: Array | None = None) -> Decoded:
        """Runs teacher forcing: the scores of every target token given those before it.

        Args:
          source: (B, S) int.
          lengths: integers (B,), of the source.
          inputs: (B, T) int, the target with `<bos>` before it and without its last token. Padding at its end does not
            affect earlier positions, since later steps never influence earlier ones.
          train: applies noise, from the key `rngs={"dropout": key}`, which is then required.
          samples: (B, T) bool: where true, the input is replaced by the model's own likeliest token of the previous
            step (scheduled sampling; never at the first step). Slower: every step computes its softmax.

        Returns:
          Decoded(logits, weights).
        """
        encoded = self.encode(source, lengths, train=train)
        return self.teacher_forcing(encoded, inputs, train=train, samples=samples)


__all__ = ["ATTENTIONS", "Decoded", "DecoderCarry", "DecoderParams", "Encoded", "Seq2Seq", "make_attention"]
