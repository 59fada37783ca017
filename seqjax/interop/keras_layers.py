"""The layers of Keras models as pure functions, and chains of them, as `keras_models` builds from a Keras model.

Each layer is called as layer(params, xs, mask, rng) -> (xs, mask), xs (B, T, D) or, after the last step, (B, D), the
mask (B, T) or None if every step is real. Masks work as in Keras: a masked step leaves the state unchanged and repeats
the previous output, or gives zero with zero_output_for_mask, which Bidirectional sets; with go_backwards the outputs
are in the order of the run, and the mask for the next layer stays in the order of the inputs.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax._unroll import unroll
from seqjax.errors import UserError
from seqjax.interop import parts
from seqjax.nn.masks import real_steps
from seqjax.typing import Array, Cell, Key, Params
from seqjax.wrappers._bidirectional import MERGES

# Activations of layers that are not cells, by Keras's names.
ACTIVATIONS = {theirs: parts.ACTIVATIONS[ours] for ours, theirs in parts.KERAS_ACTIVATIONS.items()} | {
    "softmax": jax.nn.softmax,
    "log_softmax": jax.nn.log_softmax,
    "relu6": jax.nn.relu6,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "leaky_relu": functools.partial(jax.nn.leaky_relu, negative_slope=0.2),
    "mish": jax.nn.mish,
    "exponential": jnp.exp,
}


class Embedding(NamedTuple):
    """Looks tokens up in a table."""

    name: str
    dtype: str  # of its output
    mask_zero: bool  # whether token 0 is padding

    def __call__(self, params, tokens, mask, rng):
        del rng
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise UserError(f"the model begins with {self.name}, so inputs must be integers, got {tokens.dtype}")
        if self.mask_zero:
            mask = _both(mask, tokens != 0)
        return jnp.take(params["embeddings"], tokens, axis=0), mask


class Masking(NamedTuple):
    """Masks the steps whose features all equal one value."""

    name: str
    dtype: str
    mask_value: float

    def __call__(self, params, xs, mask, rng):
        del params, rng
        real = (xs != self.mask_value).any(-1)
        return jnp.where(real[..., None], xs, 0), _both(mask, real)


class Recurrent(NamedTuple):
    """Runs a cell over the sequences."""

    name: str
    dtype: str
    cell: Cell
    return_sequences: bool
    go_backwards: bool
    zero_output: bool  # at masked steps; otherwise the previous output is repeated

    def __call__(self, params, xs, mask, rng):
        padded = "zeros" if self.zero_output else "repeat"
        _, ys = unroll(self.cell, params, xs, lengths=mask, rng=rng, reverse=self.go_backwards, padded_outputs=padded)
        ys = jnp.flip(ys, 1) if self.go_backwards else ys
        return (ys, mask) if self.return_sequences else (ys[:, -1], None)


class Bidirectional(NamedTuple):
    """Runs two layers, usually in the two directions, and merges their outputs."""

    name: str
    dtype: str
    forward: Recurrent
    backward: Recurrent
    merge: str  # as that of `seqjax.bidirectional`

    def __call__(self, params, xs, mask, rng):
        keys = (None, None) if rng is None else jax.random.split(rng)
        ys, mask_after = _run(self.forward, params.forward, xs, mask, keys[0])
        zs, _ = _run(self.backward, params.backward, xs, mask, keys[1])
        zs = jnp.flip(zs, 1) if self.forward.return_sequences else zs
        return MERGES[self.merge](ys.astype(self.dtype), zs.astype(self.dtype)), mask_after


class Dropout(NamedTuple):
    """Drops features in training."""

    name: str
    dtype: str
    rate: float
    shared_over_time: bool

    def __call__(self, params, xs, mask, rng):
        del params
        if rng is None or not self.rate:
            return xs, mask
        shape = (xs.shape[0], 1, *xs.shape[2:]) if self.shared_over_time else xs.shape
        return jnp.where(jax.random.bernoulli(rng, 1 - self.rate, shape), xs / (1 - self.rate), 0), mask


class Dense(NamedTuple):
    """A product, a bias and an activation, applied to each step if there are steps."""

    name: str
    dtype: str
    activation: str

    def __call__(self, params, xs, mask, rng):
        del rng
        ys = xs @ params["kernel"].astype(self.dtype)
        if "bias" in params:
            ys += params["bias"].astype(self.dtype).reshape((1,) * (ys.ndim - 1) + (-1,))
        return ACTIVATIONS[self.activation](ys), mask


class Activation(NamedTuple):
    """An activation."""

    name: str
    dtype: str
    activation: str

    def __call__(self, params, xs, mask, rng):
        del params, rng
        return ACTIVATIONS[self.activation](xs), mask


@dataclasses.dataclass(frozen=True)
class KerasModel:
    """A Keras model as a chain of layers, built by `from_keras_model`.

    Attributes:
      layers: the layers in order, each of a class of this file; the cell of a recurrent one is its `cell`.
    """

    layers: tuple[Any, ...]

    def apply(self, params: Params, inputs: Array, lengths: Array | None = None, *, rng: Key | None = None) -> Array:
        """Runs the model on a batch, as a pure function of its arguments.

        Args:
          params: a tuple with one entry per layer, from `from_keras_model` or trained since.
          inputs: tokens (B, T), integers, if the first layer is an Embedding; else features (B, T, D).
          lengths: how many steps of each sequence are real, integers (B,) or a boolean mask (B, T), in addition to what
            the model itself masks by mask_zero or Masking. All by default.
          rng: a key for the dropout of training; None is evaluation, Keras's training=False.

        Returns:
          The last layer's output, (B, ...).

        Raises:
          UserError: the inputs or the params do not fit the model.
        """
        if len(params) != len(self.layers):
            raise UserError(f"params must have one entry per layer, {len(self.layers)}, got {len(params)}")
        xs = jnp.asarray(inputs)
        if xs.ndim != (2 if isinstance(self.layers[0], Embedding) else 3):
            wanted = "tokens (B, T)" if isinstance(self.layers[0], Embedding) else "features (B, T, D)"
            raise UserError(f"inputs of this model must be {wanted}, got shape {xs.shape}")
        mask = None if lengths is None else real_steps(lengths, *xs.shape[:2])
        keys = [None] * len(params) if rng is None else jax.random.split(rng, len(params))
        for layer, own, key in zip(self.layers, params, keys, strict=True):
            xs, mask = _run(layer, own, xs, mask, key)
        return xs


def _run(layer, params, xs, mask, rng):
    """Runs one layer, in its dtype."""
    if not isinstance(layer, Embedding):
        xs = xs.astype(layer.dtype)
    ys, mask = layer(params, xs, mask, rng)
    return ys.astype(layer.dtype), mask


def _both(mask, real):
    return real if mask is None else mask & real
