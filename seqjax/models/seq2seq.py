"""Encoder and decoder: reads a whole sequence, then writes another, with attention to what was read or without."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

import seqjax
from seqjax.errors import UserError
from seqjax.models.attention_decoder import DecoderCarry, DecoderParams, decode_steps, decode_whole, init_decoder
from seqjax.nn.attention import Attention, Memory, bahdanau, luong, make_memory, pool
from seqjax.typing import Array, Cell

ATTENTIONS = ("none", "bahdanau", "luong_dot", "luong_general", "luong_concat")


def make_attention(name: str, size: int) -> Attention | None:
    """Attention by its name in a config; None for "none".

    Args:
      name: one of ATTENTIONS.
      size: hidden units of the additive kinds.

    Raises:
      UserError: the name is unknown.

    Example:
      >>> make_attention("luong_dot", 8).name
      'luong_dot'
    """
    if name not in ATTENTIONS:
        raise UserError(f"model.attention={name!r} is unknown; choose one of {', '.join(ATTENTIONS)}")
    if name == "none":
        return None
    kind = name.removeprefix("luong_")
    return bahdanau(size) if name == "bahdanau" else luong(kind, size if kind == "concat" else None)


class Encoded(NamedTuple):
    """What the decoder needs of the source; every array has B as its first axis."""

    memory: Memory | None  # what attention looks at; None without attention
    summary: Array  # the encoder's last states, (B, M)


class Seq2Seq(nn.Module):
    r"""A recurrent encoder and a recurrent decoder.

    The encoder reads the source, m = encoder(E x); the decoder's layers begin at s_0 = tanh(W_s m_last + b_s), one map for
    each array of their carry, m_last the encoder's last output in each direction. Then one token at a time, each from the
    one before:

      none      s_t = cell(E y_{t-1});                          o_t = s_t
      bahdanau  c_t = attend(s_{t-1}, m), s_t = cell([E y_{t-1}; c_t]);  o_t = tanh(W [c_t; s_t])
      luong     s_t = cell(E y_{t-1}), c_t = attend(s_t, m);    o_t = tanh(W [c_t; s_t])
      luong with input feeding: s_t = cell([E y_{t-1}; o_{t-1}]), the rest as before

    and p(y_t) = softmax(V o_t + b). Where nothing is fed back (none, luong) training runs all steps of a layer at once.

    Attributes:
      source_size, target_size: vocabularies.
      encoder: any Cell, bidirectional as a rule.
      layers: the decoder's cells, from the bottom up, without noise of their own; the query of attention is the topmost's
        output.
      embed_size: E, the width of both embeddings.
      attention: from make_attention; None for none.
      input_feeding: for Luong's kinds: o_{t-1} goes into the next step too.
      bidirectional: says that the encoder's second half of features runs backward.
      dropout: on the embeddings, between the decoder's layers (one mask for all steps), and on o_t, in training.
      share_embeddings: source and target have one vocabulary and one embedding.
      tie_embeddings: the softmax weights are the target embedding's, o_t then has E features.
      dtype: computation dtype; parameters and logits are float32.

    Example:
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
        self.decoder = self.param(
            "decoder", init_decoder, self.layers, self.attention, self._feeds(), self.embed_size, width, self._out()
        )
        self.bridge = nn.Dense(sum(leaf.shape[-1] for leaf in self._carry_leaves()), dtype=self.dtype)
        self.noise = nn.Dropout(self.dropout)
        if self.tie_embeddings:
            self.softmax_bias = self.param("softmax_bias", nn.initializers.zeros, (self.target_size,))
        else:
            self.softmax = nn.Dense(self.target_size, dtype=self.dtype)

    def _check(self):
        if self.input_feeding and (self.attention is None or self.attention.name == "bahdanau"):
            raise UserError(
                "model.input_feeding=True feeds the attentional vector of Luong's kinds of attention; choose one of those"
            )
        if self.share_embeddings and self.source_size != self.target_size:
            raise UserError(
                f"shared embeddings need one vocabulary, and the sizes are {self.source_size} and {self.target_size}"
            )
        if any(layer.noise is not None for layer in self.layers):
            raise UserError("the decoder's cells draw no noise of their own; use Seq2Seq's dropout, and plain cells")
        if self._feeds() == "context" and not self._remembers_h():
            raise UserError(f"bahdanau queries with h, which the carry of {self.layers[-1].name} does not have; take another cell")
        if self.tie_embeddings and self.attention is None and self.embed_size != self.layers[-1].hidden_size:
            raise UserError(
                f"model.tie_embeddings without attention needs model.embed_size={self.embed_size} equal to "
                f"the decoder's size, {self.layers[-1].hidden_size}"
            )

    def _remembers_h(self) -> bool:
        """Whether the topmost cell's carry holds its output."""
        top = self.layers[-1]
        carry = jax.eval_shape(lambda: top.initial_carry(top.init(jax.random.key(0), 1), 1))
        return getattr(getattr(carry, "h", None), "shape", None) == (1, top.hidden_size)

    def _feeds(self) -> str:
        """What a step takes besides the embedding: "nothing", "context" or "output"."""
        if self.attention is not None and self.attention.name == "bahdanau":
            return "context"
        return "output" if self.input_feeding else "nothing"

    def _out(self) -> int:
        """Features of o_t."""
        if self.tie_embeddings:
            return self.embed_size
        return self.layers[-1].hidden_size

    def _carry_leaves(self):
        """One row of the decoder's carry, as shapes."""
        sizes = [self.embed_size, *(layer.hidden_size for layer in self.layers)]

        def carries():
            return [
                layer.initial_carry(layer.init(jax.random.key(0), size), 1) for layer, size in zip(self.layers, sizes)
            ]

        leaves = jax.tree.leaves(jax.eval_shape(carries))
        if any(leaf.ndim != 2 or not jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
            raise UserError("the decoder's cells must have carries of real vectors (B, H)")
        return leaves

    def encode(self, source: Array, lengths: Array, *, train: bool = False) -> Encoded:
        """Reads the source.

        Args:
          source: (B, S) int.
          lengths: integers (B,); what stands at padding has no influence.
          train: with noise, from the key `rngs={"dropout": key}`, which is then needed.
        """
        xs = self.noise(self.source_embed(source), deterministic=not train)
        rng = self.make_rng("dropout") if train else None
        _, values = seqjax.unroll(self.encoder, self.encoder_params, xs, lengths=lengths, rng=rng)
        summary = pool("last", values, lengths, bidirectional=self.bidirectional)
        memory = None
        if self.attention is not None:
            memory = make_memory(self.attention, self.decoder.attention, values, lengths)
        return Encoded(memory, summary)

    def initial_carry(self, encoded: Encoded) -> DecoderCarry:
        """The decoder's state before its first token."""
        states, cells, start = jnp.tanh(self.bridge(encoded.summary)), [], 0
        for layer, params in zip(self.layers, self.decoder.layers):
            leaves, tree = jax.tree.flatten(layer.initial_carry(params, states.shape[0]))
            parts = []
            for leaf in leaves:
                parts.append(states[:, start : start + leaf.shape[-1]].astype(leaf.dtype))
                start += leaf.shape[-1]
            cells.append(jax.tree.unflatten(tree, parts))
        compute = encoded.summary.dtype
        if self._feeds() == "context":  # the first query is the state before the first step
            return DecoderCarry(tuple(cells), cells[-1].h.astype(compute))
        size = self._out() if self._feeds() == "output" else 0
        return DecoderCarry(tuple(cells), jnp.zeros((states.shape[0], size), compute))

    def _embed(self, tokens):
        return (self.source_embed if self.share_embeddings else self.target_embed)(tokens)

    def _logits(self, outputs):
        if self.tie_embeddings:
            embed = self.source_embed if self.share_embeddings else self.target_embed
            logits = embed.attend(outputs)
            logits += self.softmax_bias.astype(logits.dtype).reshape((1,) * (logits.ndim - 1) + (-1,))
        else:
            logits = self.softmax(outputs)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

    def step(self, encoded: Encoded, carry: DecoderCarry, tokens: Array) -> tuple[DecoderCarry, Array]:
        """One step of the decoder.

        Args:
          encoded: of the source.
          carry: of the step before, or the initial one.
          tokens: (B,) int, the tokens before the ones to predict.

        Returns:
          The carry and logits (B, V).
        """
        carry, (outputs, _) = decode_steps(
            self.layers,
            self.attention,
            self._feeds(),
            self.decoder,
            encoded.memory,
            carry,
            self._embed(tokens)[None],
            (),
        )
        return carry, self._logits(outputs[0])

    def __call__(
        self, source: Array, lengths: Array, inputs: Array, *, train: bool = False, samples: Array | None = None
    ) -> "Decoded":
        """Teacher forcing: the scores of every target token given those before it.

        Args:
          source: (B, S) int.
          lengths: integers (B,), of the source.
          inputs: (B, T) int, the target with `<bos>` before it and without its last token. Later steps never reach back to
            earlier ones, so that padding at its end has no influence on what comes before.
          train: with noise, from the key `rngs={"dropout": key}`, which is then needed.
          samples: (B, T) bool: where true the model's own likeliest token of the step before stands in the place of the
            input (scheduled sampling; never at the first step). Slower: every step computes its softmax.

        Returns:
          Decoded(logits, weights).
        """
        encoded = self.encode(source, lengths, train=train)
        carry = self.initial_carry(encoded)
        masks = self._masks(inputs.shape[0]) if train else ()
        if samples is not None:
            inputs = self._own_inputs(encoded, carry, inputs, samples, masks)
        xs = self.noise(self._embed(inputs), deterministic=not train)
        decode = decode_whole if self._feeds() == "nothing" else decode_steps
        _, (outputs, weights) = decode(
            self.layers, self.attention, self._feeds(), self.decoder, encoded.memory, carry, xs.swapaxes(0, 1), masks
        )
        outputs = self.noise(outputs.swapaxes(0, 1), deterministic=not train)
        return Decoded(self._logits(outputs), None if weights is None else weights.swapaxes(0, 1))

    def _masks(self, batch: int) -> tuple[Array, ...]:
        """Dropout between the decoder's layers: one mask (B, H) for all steps."""
        if not self.dropout:
            return ()
        keep = 1 - self.dropout
        sizes = [layer.hidden_size for layer in self.layers[:-1]]
        return tuple(jax.random.bernoulli(self.make_rng("dropout"), keep, (batch, size)) / keep for size in sizes)

    def _own_inputs(self, encoded, carry, inputs, samples, masks):
        """The inputs with the model's own choices among them; no gradient goes through a choice."""
        params = jax.lax.stop_gradient(self.variables["params"])
        frozen = self.clone(parent=None)

        def body(state, now):
            carry, own = state
            token, sampled = now
            token = jnp.where(sampled, own, token)
            carry, logits = frozen.apply({"params": params}, encoded, carry, token, method="step")
            return (carry, jnp.argmax(logits, axis=-1).astype(inputs.dtype)), token

        del masks  # the choices are made without noise
        encoded, carry = jax.lax.stop_gradient((encoded, carry))
        samples = samples.at[:, 0].set(False)
        _, tokens = jax.lax.scan(body, (carry, inputs[:, 0]), (inputs.T, samples.T))
        return tokens.T


class Decoded(NamedTuple):
    """What teacher forcing gives."""

    logits: Array  # (B, T, V) in float32
    weights: Array | None  # (B, T, S), where attention looked at each step; None without attention


__all__ = ["ATTENTIONS", "Decoded", "DecoderCarry", "DecoderParams", "Encoded", "Seq2Seq", "make_attention"]
