"""The recurrent layer for Flax NNX: a thin adapter over the same functions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import seqjax
from seqjax.nn import layers
from seqjax.typing import Array, Carry, Cell, Params


class Recurrent(nnx.Module):
    """A recurrent layer of any depth, in one or both directions, with torch's options: `seqjax.nn.Recurrent` for NNX.

      y = cell_L(... dropout(cell_1(x)))

    Its parameters are dicts of `nnx.Param` by name, one per layer: `layer_0["kernel"]`, or
    `layer_0["forward"]["kernel"]` if it is bidirectional.

    Attributes:
      cell: the stack of cells; the layer runs `seqjax.unroll` with it and `params()`.

    Example:
      >>> from flax import nnx
      >>> import jax
      >>> layer = Recurrent(4, hidden_size=8, num_layers=2, dropout=0.1, rngs=nnx.Rngs(0))
      >>> carry, ys = layer(jax.numpy.ones((2, 5, 4)), train=True)
      >>> ys.shape, layer.layer_0["kernel"].shape
      ((2, 5, 8), (4, 32))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        cell: str | Callable[[int], Cell] = "lstm",
        *,
        dropout: float = 0.0,
        bidirectional: bool = False,
        merge: str | Callable[[Any, Any], Any] | None = "concat",
        proj_size: int = 0,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        engine: str = "auto",
        remat_every: int | None = None,
        offload: bool = False,
        padded_outputs: str = "zeros",
        rngs: nnx.Rngs,
    ):
        """Makes the parameters; the arguments are the attributes of `seqjax.nn.Recurrent`.

        Args:
          input_size: D.
          hidden_size: H of every cell.
          num_layers: L.
          cell: a name, or a function of hidden_size that returns any Cell.
          dropout: fraction of each layer's outputs dropped in training, except the last layer's.
          bidirectional: whether every layer has a cell in each direction; there is then no `step`.
          merge: how the two directions become one output, as in `seqjax.bidirectional`.
          proj_size: size of the projected output of an "lstm"; 0 for none.
          dtype: dtype to compute in, for cells by name.
          param_dtype: dtype of the parameters, for cells by name.
          engine: as in `seqjax.unroll`.
          remat_every: as in `seqjax.unroll`.
          offload: as in `seqjax.unroll`.
          padded_outputs: as in `seqjax.unroll`.
          rngs: keys for the parameters ("params") and, if there is noise, for training ("dropout").
        """
        settings = {"merge": merge, "proj_size": proj_size, "dtype": dtype, "param_dtype": param_dtype}
        stack = layers.layers(hidden_size, num_layers, cell, dropout=dropout, bidirectional=bidirectional, **settings)
        self.cell = nnx.static(stack)
        self.engine = engine
        self.remat_every = remat_every
        self.offload = offload
        self.padded_outputs = padded_outputs
        for depth, layer in enumerate(stack.inner):
            named = layers.to_names(layer.init(rngs.params(), input_size))
            setattr(self, f"layer_{depth}", nnx.data(jax.tree.map(nnx.Param, named)))
            input_size = layer.hidden_size
        self.noise = nnx.data(rngs.dropout.fork() if layers.has_noise(cell, dropout) else None)

    def __call__(
        self,
        xs: Array,
        carry: Carry | None = None,
        *,
        lengths: Array | None = None,
        resets: Array | None = None,
        reverse: bool = False,
        time_major: bool = False,
        train: bool = False,
    ) -> tuple[Carry, Array]:
        """Runs the layer over sequences; the arguments are those of `seqjax.unroll`.

        Args:
          xs: inputs (B, T, D), or (T, B, D) with time_major.
          carry: a tuple with the carry of each layer; None starts from the initial one.
          lengths: integers (B,), or a boolean mask in the layout of xs.
          resets: bool, in the layout of xs.
          reverse: runs from each sequence's last step to its first.
          time_major: whether xs, ys, a mask and resets are (T, B, ...).
          train: applies noise, from the stream "dropout" of the rngs given at construction.

        Returns:
          (carry, ys): the carry after the last step, and the outputs (B, T, H), or 2 H if directions are concatenated.

        Raises:
          ValueError: as `seqjax.unroll` does.
        """
        return seqjax.unroll(
            self.cell,
            self.params(),
            xs,
            carry,
            lengths=lengths,
            resets=resets,
            rng=self.noise() if train and self.noise is not None else None,
            reverse=reverse,
            time_major=time_major,
            engine=self.engine,
            remat_every=self.remat_every,
            offload=self.offload,
            padded_outputs=self.padded_outputs,
        )

    def params(self) -> Params:
        """Returns the parameters of `cell`: arrays in a tuple with one entry per layer."""
        is_param = lambda leaf: isinstance(leaf, nnx.Variable)  # noqa: E731
        return tuple(
            layers.from_names(layer, jax.tree.map(lambda p: p[...], getattr(self, f"layer_{depth}"), is_leaf=is_param))
            for depth, layer in enumerate(self.cell.inner)
        )

    def step(self, carry: Carry, x: Array) -> tuple[Carry, Array]:
        """Runs one streaming step, x (B, D) -> (carry, y), never with noise."""
        return self.cell.step(self.params(), carry, x)

    def initial_carry(self, batch_size: int) -> Carry:
        """Returns the carry before the first step, each array (B, ...)."""
        return self.cell.initial_carry(self.params(), batch_size)
