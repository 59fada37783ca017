r"""The speech recogniser, many to many, unaligned: convolutions that shorten time, recurrent layers, label scores.

All convolutions end where a stride ends, so that output lengths are exact and nothing depends on later inputs:

  y_t = sum_j W_j x_{(t + 1) s - w + j},   j = 0 ... w - 1,   t = 0 ... T // s - 1,   zeros before the first step

So with unidirectional cells the same parameters can read a sound in chunks (`Recogniser.step`).
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

import seqjax
from seqjax.errors import UserError
from seqjax.nn.masks import real_steps
from seqjax.typing import Array, Carry, Cell


class SpeechCarry(NamedTuple):
    """A recogniser's state between chunks."""

    buffers: tuple[Array, ...]  # (B, w - s, features) of each convolution: its last inputs
    carry: Carry  # of the recurrent layers


class ShorteningConv(nn.Module):
    r"""Convolution over time with a stride, batch normalisation over real steps, relu.

    Attributes:
      features: channels out.
      width: w, the steps that one output sees; at least the stride.
      stride: s.
      dtype: computation dtype.

    Example:
      >>> import jax
      >>> conv = ShorteningConv(8, width=5, stride=2)
      >>> (ys, buffer), _ = conv.init_with_output(jax.random.key(0), jnp.ones((1, 7, 4)), jnp.array([6]))
      >>> ys.shape, buffer.shape
      ((1, 3, 8), (1, 3, 4))
    """

    features: int
    width: int
    stride: int
    dtype: Any = None

    @nn.compact
    def __call__(self, xs: Array, lengths: Array, before: Array | None = None, *, train: bool = False) -> tuple[Array, Array]:
        """Shortens sequences.

        Args:
          xs: (B, T, F).
          lengths: int (B,); values past an end have no effect.
          before: (B, w - s, F), the steps just before; zeros by default.
          train: normalise by the statistics of the batch, and keep them.

        Returns:
          (ys (B, T // s, features), 0 past each end; the last w - s steps, which come before the next ones).
        """
        if self.width < self.stride:
            raise UserError(f"model.conv_width={self.width} is below the stride {self.stride}: some steps would never be read")
        kernel = self.param("kernel", nn.initializers.he_normal(), (self.width, xs.shape[-1], self.features))
        xs = jnp.where(real_steps(lengths, *xs.shape[:2])[..., None], xs, 0)
        if before is None:
            before = jnp.zeros((xs.shape[0], self.width - self.stride, xs.shape[-1]), xs.dtype)
        number, whole = xs.shape[1] // self.stride, jnp.concatenate([before, xs], axis=1)
        ys = self._convolved(kernel, whole, number)
        lengths = jnp.asarray(lengths) // self.stride
        real = real_steps(lengths, *ys.shape[:2])[..., None]
        # If nothing is real the statistics would be 0 / 0; one step of zeros is counted instead.
        counted = real | ~jnp.any(real)
        norm = nn.BatchNorm(not train, momentum=0.98, use_fast_variance=False, dtype=self.dtype, name="norm")
        ys = nn.relu(norm(ys, mask=counted))
        return jnp.where(real, ys, 0), whole[:, number * self.stride :][:, : self.width - self.stride]

    def _convolved(self, kernel: Array, whole: Array, number: int) -> Array:
        """Computes the convolution as one product of concatenated steps and the kernel, which is faster on a CPU."""
        steps = [whole[:, j : j + (number - 1) * self.stride + 1 : self.stride] for j in range(self.width)] if number else []
        shape = (whole.shape[0], number, self.width * whole.shape[2])
        sides = jnp.concatenate(steps, axis=2) if steps else jnp.zeros(shape, whole.dtype)
        sides, kernel = promote_dtype(sides, kernel.reshape(-1, self.features), dtype=self.dtype)
        return sides @ kernel


class Recogniser(nn.Module):
    r"""Scores of the labels, and of blank, for each step of a shortened sound.

    .. math:: z_t = W\,\mathrm{dropout}(h_t) + b, \quad h = \mathrm{cell}(\mathrm{conv}(x))

    Attributes:
      vocab_size: V, labels with blank, which is 0.
      cell: any Cell; bidirectional ones can only read whole sounds.
      filters: channels of each convolution.
      strides: stride of each convolution; a step of the result covers their product of frames.
      width: w of each convolution.
      input_dropout: on the outputs of the convolutions, in training.
      dropout: on the outputs of the cell, in training.
      dtype: computation dtype; parameters and scores are float32.

    Example:
      >>> import jax
      >>> from seqjax.models import make_stack
      >>> model = Recogniser(6, make_stack("gru", 8, 1), filters=8, strides=(2, 2))
      >>> features = jnp.ones((2, 19, 10))
      >>> variables = model.init(jax.random.key(0), features, jnp.array([19, 8]))
      >>> scores, steps = model.apply(variables, features, jnp.array([19, 8]))
      >>> scores.shape, steps.tolist()
      ((2, 4, 6), [4, 2])

    Source: Graves et al. 2006, "Connectionist Temporal Classification"; Amodei et al. 2015, arXiv:1512.02595, for convolutions
    with batch normalisation below recurrent layers.
    """

    vocab_size: int
    cell: Cell
    filters: int = 64
    strides: tuple[int, ...] = (2, 2)
    width: int = 5
    input_dropout: float = 0.0
    dropout: float = 0.0
    dtype: Any = None

    @property
    def shortening(self) -> int:
        """Frames per output step."""
        product = 1
        for stride in self.strides:
            product *= stride
        return product

    def setup(self):
        self.convs = [ShorteningConv(self.filters, self.width, stride, self.dtype) for stride in self.strides]
        self.rnn = self.param("rnn", self.cell.init, self.filters)
        self.head = nn.Dense(self.vocab_size, dtype=self.dtype)
        self.noises = nn.Dropout(self.input_dropout), nn.Dropout(self.dropout)

    def __call__(self, features: Array, frames: Array, *, train: bool = False) -> tuple[Array, Array]:
        """Reads whole sounds.

        Args:
          features: (B, T, F).
          frames: int (B,); values past an end, even NaN, affect neither outputs nor gradients.
          train: use batch statistics, and noise from the key `rngs={"dropout": key}`, which is then required.

        Returns:
          (scores (B, T // shortening, V) in float32 or wider; steps of each, int (B,)).
        """
        _, scores, steps = self._read(features, frames, None, train)
        return scores, steps

    def step(self, state: SpeechCarry, features: Array) -> tuple[SpeechCarry, Array]:
        """Reads the next chunk: `model.apply(variables, state, features, method="step")`.

        Args:
          state: after the chunk before, or `initial_carry`.
          features: (B, T, F), T a multiple of `shortening`.

        Returns:
          (the state after, scores (B, T // shortening, V)).
        """
        if features.shape[1] % self.shortening:
            raise ValueError(f"a chunk has {features.shape[1]} frames; it must be a multiple of {self.shortening}")
        state, scores, _ = self._read(features, jnp.full(features.shape[:1], features.shape[1]), state, False)
        return state, scores

    def _read(self, xs, lengths, state, train):
        lengths, buffers = jnp.asarray(lengths), []
        for depth, conv in enumerate(self.convs):
            xs, buffer = conv(xs, lengths, None if state is None else state.buffers[depth], train=train)
            lengths = lengths // conv.stride
            buffers.append(buffer)
        xs = self.noises[0](xs, deterministic=not train)
        rng = self.make_rng("dropout") if train else None
        carry = None if state is None else state.carry
        carry, ys = seqjax.unroll(self.cell, self.rnn, xs, carry, lengths=lengths if state is None else None, rng=rng)
        scores = self.head(self.noises[1](ys, deterministic=not train))
        return SpeechCarry(tuple(buffers), carry), scores.astype(jnp.promote_types(scores.dtype, jnp.float32)), lengths

    def initial_carry(self, batch_size: int, features: int) -> SpeechCarry:
        """The state before the first chunk: `model.apply(variables, B, F, method="initial_carry")`."""
        sizes = (features, *(self.filters for _ in self.strides[1:]))
        dtype = jnp.float32 if self.dtype is None else self.dtype
        buffers = tuple(
            jnp.zeros((batch_size, self.width - stride, size), jnp.float32 if depth == 0 else dtype)
            for depth, (stride, size) in enumerate(zip(self.strides, sizes))
        )
        return SpeechCarry(buffers, self.cell.initial_carry(self.rnn, batch_size))
