"""The convolutional network for sentences: windows of words with max pooling over time."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from seqjax.cnn.blocks import Conv, torch_bias, torch_kernel
from seqjax.cnn.sequence import check_sequences, last_real, real_steps
from seqjax.typing import Array


class TextCNN(nn.Module):
    r"""Classifies a sentence by the strongest response of each feature anywhere in it.

    .. math:: c_w = \max_t \mathrm{relu}(W_w [e_t; \dots; e_{t+w-1}] + b_w), \quad y = V\,\mathrm{dropout}([c_3; c_4; c_5]) + b

    Attributes:
      num_classes: number of logits.
      vocab_size: V, the number of tokens in the embedding.
      embed_size: D, the width of an embedding.
      widths: window sizes, in words.
      maps: features per window size.
      dropout: the fraction of the pooled features dropped in training.
      dtype: computation dtype; None takes what embeddings and parameters promote to. Parameters stay float32.

    Widths, maps, dropout and the embedding's initialisation, uniform in +-0.25, are the paper's; convolutions and head
    start from torch's defaults. The paper also rescales the head's weights to a norm of at most 3 after each step,
    which is left to the optimiser.

    Example:
      >>> import jax
      >>> model = TextCNN(num_classes=2, vocab_size=100, embed_size=8, maps=4)
      >>> tokens, lengths = jnp.ones((3, 12), int), jnp.array([12, 7, 2])
      >>> model.init_with_output(jax.random.key(0), tokens, lengths)[0].shape
      (3, 2)

    Source: Kim 2014, arXiv:1408.5882.
    """

    num_classes: int = 2
    vocab_size: int = 20_000
    embed_size: int = 300
    widths: Sequence[int] = (3, 4, 5)
    maps: int = 100
    dropout: float = 0.5
    dtype: Any = None

    @nn.compact
    def __call__(self, tokens: Array, lengths: Array | None = None, *, train: bool = False) -> Array:
        """Gives the logits.

        Args:
          tokens: (B, T) int, or embeddings (B, T, D) of a float type, which skip the network's own.
          lengths: integers (B,), how many tokens of each sentence are real, or a boolean mask (B, T), whose holes count
            as zeros. Padding has no effect: each sentence gives the same result as on its own; one that is shorter than
            the widest window is padded with zeros to that window.
          train: applies dropout, from the key `rngs={"dropout": key}`, which is then required.

        Returns:
          (B, num_classes) in the dtype of the computation.

        Raises:
          ValueError: the shape is neither (B, T) nor (B, T, embed_size), T is smaller than the widest window, or lengths
            do not fit.
          TypeError: tokens are not integers, embeddings are not floats, or lengths are neither integers nor bool.
        """
        xs = self._embed(tokens)
        xs = xs if self.dtype is None else xs.astype(self.dtype)
        mask = real_steps(lengths, *xs.shape[:2])
        if mask is not None:
            xs = jnp.where(mask[..., None], xs, 0)
            ends = jnp.maximum(last_real(mask), max(self.widths))[:, None, None]
        convs, pooled = _Convolutions(self.widths, self.maps, self.dtype, name="convs"), []
        for width, hs in zip(self.widths, convs(xs)):
            if mask is not None:
                begins = jnp.arange(hs.shape[1])[None, :, None]
                hs = jnp.where(begins + width <= ends, hs, 0)  # after relu the minimum is zero
            pooled.append(jnp.max(hs, axis=1))
        pooled = nn.Dropout(self.dropout, deterministic=not train)(jnp.concatenate(pooled, axis=-1))
        return nn.Dense(self.num_classes, kernel_init=torch_kernel, bias_init=torch_bias(pooled.shape[-1]), dtype=self.dtype, name="fc")(
            pooled
        )

    def _embed(self, tokens):
        widest = max(self.widths)
        if tokens.ndim == 3:
            check_sequences("TextCNN", tokens, self.embed_size, "embed_size", widest)
            return tokens
        shape = tuple(tokens.shape)
        if tokens.ndim != 2:
            raise ValueError(f"TextCNN takes tokens (B, T) or embeddings (B, T, {self.embed_size}), got shape {shape}")
        if shape[1] < widest:
            raise ValueError(f"TextCNN takes sequences of at least {widest} steps, got shape {shape}; pad them")
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise TypeError(f"TextCNN takes tokens (B, T) of an integer type, got {tokens.dtype}")
        uniform = _uniform(0.25)
        return nn.Embed(self.vocab_size, self.embed_size, embedding_init=uniform, dtype=self.dtype, name="embedding")(tokens)


class _Convolutions(nn.Module):
    """Applies one unpadded convolution per width: (B, T, D) to a list of (B, T - width + 1, maps)."""

    widths: Sequence[int]
    maps: int
    dtype: Any

    @nn.compact
    def __call__(self, xs: Array) -> list[Array]:
        return [
            nn.relu(
                Conv(
                    self.maps, (width,), padding="VALID", kernel_init=torch_kernel,
                    bias_init=torch_bias(width * xs.shape[-1]), dtype=self.dtype, name=str(i),
                )(xs)
            )
            for i, width in enumerate(self.widths)
        ]  # fmt: skip


def _uniform(bound):
    """Returns an initializer, uniform in +-bound."""
    positive = nn.initializers.uniform(2 * bound)
    return lambda key, shape, dtype=float: positive(key, shape, dtype) - bound


MODELS: dict[str, Callable[..., nn.Module]] = {"text_cnn": functools.partial(TextCNN)}
