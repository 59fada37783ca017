"""The recurrent layer for Flax linen."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

import seqjax
from seqjax.errors import UserError
from seqjax.nn import layers
from seqjax.typing import Array, Carry, Cell, Params


class Recurrent(nn.Module):
    """A recurrent layer of any depth, in one or both directions, with torch's options.

      y = cell_L(... dropout(cell_1(x)))

    It runs `seqjax.unroll` over the stack from `make_cell`; its parameters are those of that stack by name, in plain
    dicts: `layer_0/kernel`, or `layer_0/forward/kernel` if it is bidirectional. `seqjax.nn.layers.to_names` and
    `from_names` convert between the two.

    Attributes:
      hidden_size: H of every cell.
      num_layers: L.
      cell: "lstm", "gru" or another name of `seqjax.cells.CELLS`; or a function of hidden_size that returns any Cell,
        such as `lambda size: seqjax.zoneout(seqjax.lstm(size, peepholes=True), 0.1)`.
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

    Example:
      >>> import jax
      >>> layer = Recurrent(hidden_size=8, num_layers=2, bidirectional=True)
      >>> xs = jax.numpy.ones((2, 5, 4))
      >>> variables = layer.init(jax.random.key(0), xs)
      >>> carry, ys = layer.apply(variables, xs, lengths=jax.numpy.array([5, 3]))
      >>> ys.shape, variables["params"]["layer_1"]["backward"]["kernel"].shape
      ((2, 5, 16), (16, 32))
    """

    hidden_size: int
    num_layers: int = 1
    cell: str | Callable[[int], Cell] = "lstm"
    dropout: float = 0.0
    bidirectional: bool = False
    merge: str | Callable[[Any, Any], Any] | None = "concat"
    proj_size: int = 0
    dtype: Any = None
    param_dtype: Any = jnp.float32
    engine: str = "auto"
    remat_every: int | None = None
    offload: bool = False
    padded_outputs: str = "zeros"

    @nn.compact
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
          train: applies noise, from the key `rngs={"dropout": key}`, which is required if there is any noise.

        Returns:
          (carry, ys): the carry after the last step, and the outputs (B, T, H), or 2 H if directions are concatenated.

        Raises:
          ValueError: as `seqjax.unroll`, or options of the layer do not fit.
        """
        cell = self.make_cell()
        rng = self.make_rng("dropout") if train and layers.has_noise(self.cell, self.dropout) else None
        return seqjax.unroll(
            cell,
            self._params(cell, xs.shape[-1]),
            xs,
            carry,
            lengths=lengths,
            resets=resets,
            rng=rng,
            reverse=reverse,
            time_major=time_major,
            engine=self.engine,
            remat_every=self.remat_every,
            offload=self.offload,
            padded_outputs=self.padded_outputs,
        )

    def make_cell(self) -> Cell:
        """Returns the stack of cells that this layer runs, the same one at every call."""
        return layers.layers(
            self.hidden_size,
            self.num_layers,
            self.cell,
            dropout=self.dropout,
            bidirectional=self.bidirectional,
            merge=self.merge,
            proj_size=self.proj_size,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )

    def step(self, carry: Carry, x: Array) -> tuple[Carry, Array]:
        """Runs one streaming step, x (B, D) -> (carry, y): `layer.apply(variables, carry, x, method="step")`."""
        cell = self.make_cell()
        return cell.step(self._params(cell), carry, x)

    def initial_carry(self, batch_size: int) -> Carry:
        """Returns the carry before the first step: `layer.apply(variables, batch_size, method="initial_carry")`."""
        cell = self.make_cell()
        return cell.initial_carry(self._params(cell), batch_size)

    def _params(self, cell: Cell, input_size: int | None = None) -> Params:
        """Returns the stack's parameters from their names; creates them if there are none yet and the input size is known."""
        params = []
        for depth, layer in enumerate(cell.inner):
            name = f"layer_{depth}"
            # Existing ones are used directly: `self.param` would trace the initializers at every call.
            if self.has_variable("params", name):
                named = self.get_variable("params", name)
            elif input_size is None:
                raise UserError(f"Recurrent has no parameters {name} yet; create them with layer.init(key, xs)")
            else:
                named = self.param(name, _init(layer, input_size))
            params.append(layers.from_names(layer, named))
            input_size = layer.hidden_size if input_size is not None else None
        return tuple(params)


def _init(layer, input_size):
    return lambda key: layers.to_names(layer.init(key, input_size))
