"""Shared by all token decoders with attention: the initial state, one step, and teacher forcing."""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from seqjax.errors import UserError
from seqjax.models.attention_decoder import DecoderCarry, decode_steps, decode_whole
from seqjax.nn.attention import Attention, Memory, bahdanau, luong
from seqjax.typing import Array

ATTENTIONS = ("none", "bahdanau", "luong_dot", "luong_general", "luong_concat")


def make_attention(name: str, size: int) -> Attention | None:
    """Builds attention by its name in a config; None for "none".

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
    """What the decoder needs from the source; every array has B as its first axis."""

    memory: Memory | None  # what attention reads; None without attention
    summary: Array  # the encoder's last states, (B, M)


class Decoded(NamedTuple):
    """The output of teacher forcing."""

    logits: Array  # (B, T, V) in float32
    weights: Array | None  # (B, T, S), the attention at each step; None without attention


class TokenDecoder(nn.Module):
    """The decoder of `Seq2Seq` and `Captioner`, which define what it reads and how tokens are embedded.

    A subclass has the attributes `layers`, `embed_size`, `attention`, `input_feeding`, `dropout`, `tie_embeddings` and `dtype`,
    and sets up `decoder` (from `init_decoder`), `bridge` (a Dense layer to all arrays of the carry), `noise` (Dropout), and
    `softmax` or `softmax_bias`.
    """

    def check_layers(self) -> None:
        """Refuses cells that the decoder cannot use.

        Raises:
          UserError: cells that have their own noise, or that lack what the attention needs.
        """
        if self.input_feeding and (self.attention is None or self.attention.name == "bahdanau"):
            raise UserError("model.input_feeding=True feeds the attentional vector of Luong's kinds of attention; choose one of those")
        if any(layer.wrap and layer.wrap.noise for layer in self.layers):
            raise UserError(f"the decoder's cells must not have noise of their own; use {type(self).__name__}'s dropout and plain cells")
        if self._feeds() == "context" and not self._remembers_h():
            raise UserError(f"bahdanau queries with h, which the carry of {self.layers[-1].name} does not have; take another cell")
        if self.tie_embeddings and self.attention is None and self.embed_size != self.layers[-1].hidden_size:
            raise UserError(
                f"model.tie_embeddings without attention needs model.embed_size={self.embed_size} equal to "
                f"the decoder's size, {self.layers[-1].hidden_size}"
            )

    def output_embed(self) -> nn.Embed:
        """The embedding of the tokens that are written."""
        raise NotImplementedError

    def _remembers_h(self) -> bool:
        """Whether the top cell's carry holds its output."""
        top = self.layers[-1]
        carry = jax.eval_shape(lambda: top.initial_carry(top.init(jax.random.key(0), 1), 1))
        return getattr(getattr(carry, "h", None), "shape", None) == (1, top.hidden_size)

    def _feeds(self) -> str:
        """What a step reads besides the embedding: "nothing", "context" or "output"."""
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
            return [layer.initial_carry(layer.init(jax.random.key(0), size), 1) for layer, size in zip(self.layers, sizes)]

        leaves = jax.tree.leaves(jax.eval_shape(carries))
        if any(leaf.ndim != 2 or not jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
            raise UserError("the decoder's cells must have carries of real vectors (B, H)")
        return leaves

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
        return self.output_embed()(tokens)

    def _logits(self, outputs):
        if self.tie_embeddings:
            logits = self.output_embed().attend(outputs)
            logits += self.softmax_bias.astype(logits.dtype).reshape((1,) * (logits.ndim - 1) + (-1,))
        else:
            logits = self.softmax(outputs)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

    def step(self, encoded: Encoded, carry: DecoderCarry, tokens: Array) -> tuple[DecoderCarry, Array]:
        """Runs one step of the decoder.

        Args:
          encoded: the encoded source.
          carry: from the previous step, or the initial one.
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

    def teacher_forcing(self, encoded: Encoded, inputs: Array, *, train: bool = False, samples: Array | None = None) -> Decoded:
        """The scores of every target token given those before it; see `Seq2Seq.__call__`."""
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
        """Mixes the model's own choices into the inputs; no gradient flows through a choice."""
        params = jax.lax.stop_gradient(self.variables["params"])
        frozen = self.clone(parent=None)

        def body(state, now):
            carry, own = state
            token, sampled = now
            token = jnp.where(sampled, own, token)
            carry, logits = cast(Any, frozen.apply({"params": params}, encoded, carry, token, method="step"))
            return (carry, jnp.argmax(logits, axis=-1).astype(inputs.dtype)), token

        del masks  # the choices are made without noise
        encoded, carry = jax.lax.stop_gradient((encoded, carry))
        samples = samples.at[:, 0].set(False)
        _, tokens = jax.lax.scan(body, (carry, inputs[:, 0]), (inputs.T, samples.T))
        return tokens.T
