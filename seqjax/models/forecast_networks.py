"""Building blocks of forecasters: windows and steps of series, their units, and the networks, direct and step by step."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn

import seqjax
from seqjax.errors import refuse_unknown
from seqjax.typing import AnyArray, Array, Carry, Cell

SCALINGS = ("series", "mean_abs", "standard")


class Window(NamedTuple):
    """Pieces of series: C steps of context and the H steps to forecast after them, C + H = T.

    The parts of `value`, `observed` and `past` after the origin are for training; no forecast reads them.
    """

    value: AnyArray  # (B, T), in the units of the data; arbitrary where not observed
    observed: AnyArray  # bool (B, T): false where a value is missing
    known: AnyArray  # (B, T, K): covariates known in the future, features of the time among them
    past: AnyArray  # (B, T, P): covariates known in the past only
    static: AnyArray  # (B, S)
    location: AnyArray  # (B,): mean of the series' training part
    scale: AnyArray  # (B,): its standard deviation
    mask: AnyArray  # bool (B,): false for a row that only fills the batch


class Steps(NamedTuple):
    """Pieces of series to learn one step ahead from, T steps each."""

    previous: AnyArray  # (B, T), the value before each, in the units of the data
    previous_observed: AnyArray  # bool (B, T)
    known: AnyArray  # (B, T, K)
    past: AnyArray  # (B, T, P), of the step before each
    static: AnyArray  # (B, T, S)
    value: AnyArray  # (B, T)
    counted: AnyArray  # bool (B, T): true where the value was observed and enters the loss
    resets: AnyArray  # bool (B, T): true where the carry is the initial carry before that step
    location: AnyArray  # (B, T)
    scale: AnyArray  # (B, T)
    level: AnyArray  # (B, T, 0 or 2), see `level_features`


def context_scale(kind: str, value: Array, observed: Array, location: Array, scale: Array) -> tuple[Array, Array]:
    """Computes the location and scale of a forecast from only the observed values of its context.

    Args:
      kind: "series" uses those of the series' training part; "mean_abs" uses 0 and the mean of |y|; "standard" the mean
        and the standard deviation.
      value, observed: (B, C), of the context.
      location, scale: (B,), of the series' training part: also used if nothing in the context was observed. The
        returned scale is at least a hundredth of this one.

    Returns:
      (location, scale), (B,) each.

    Raises:
      UserError: there is no such kind.

    Example:
      >>> value, observed = jnp.array([[1.0, 3.0, 99.0]]), jnp.array([[True, True, False]])
      >>> [float(x[0]) for x in context_scale("standard", value, observed, jnp.zeros(1), jnp.ones(1))]
      [2.0, 1.0]
    """
    refuse_unknown(f"model.scaling={kind!r} is unknown", kind, SCALINGS)
    if kind == "series":
        return location, scale
    count = observed.sum(1)
    any_seen, number = count > 0, jnp.maximum(count, 1)
    value = jnp.where(observed, value, 0)
    if kind == "mean_abs":
        middle, spread = jnp.zeros_like(location), jnp.abs(value).sum(1) / number
    else:
        middle = value.sum(1) / number
        spread = jnp.sqrt(jnp.where(observed, jnp.square(value - middle[:, None]), 0).sum(1) / number + 1e-12 * scale**2)
    spread = jnp.maximum(spread, 0.01 * scale)
    return jnp.where(any_seen, middle, location), jnp.where(any_seen, spread, scale)


def level_features(kind: str, middle: Array, spread: Array, window: Window) -> Array:
    """Returns what scaling by the context hides from the network: the context's level within its series, (B, 2); else (B, 0)."""
    if kind == "series":
        return jnp.zeros((middle.shape[0], 0))
    return jnp.stack([(middle - window.location) / window.scale, jnp.log(spread / window.scale)], -1)


class DirectNetwork(nn.Module):
    r"""Forecasts all horizons at once from the state at the origin, with the covariates known in the future.

    .. math:: h_t = \mathrm{cell}(x_{\le t}), \quad u_{t,k} = \mathrm{gelu}(W_k h_t + V f_{t+k} + b_k), \quad
       o_{t,k} = U u_{t,k} + c + (A_k z_{t-L+1 \dots t}, 0, \dots)

    Attributes:
      cell: any Cell.
      horizon: H.
      output_size: P, the numbers of an output distribution.
      width: of u.
      highway: L, how many of the last values the location depends on linearly as well; 0 for none.
      dropout: on u, in training.
      dtype: computation dtype; parameters and outputs are float32.

    Example:
      >>> import jax
      >>> model = DirectNetwork(seqjax.gru(8), horizon=3, output_size=2, width=4)
      >>> inputs, lags, future = jnp.zeros((2, 5, 6)), jnp.zeros((2, 1, 0)), jnp.zeros((2, 1, 3, 4))
      >>> model.init_with_output(jax.random.key(0), inputs, lags, future)[0].shape
      (2, 1, 3, 2)

    Reference:
      Wen et al. 2017, "A Multi-Horizon Quantile Recurrent Forecaster", arXiv:1711.11053, for the direct form and for
      learning from several origins of a window; Lai et al. 2018, "Modeling Long- and Short-Term Temporal Patterns with
      Deep Neural Networks", arXiv:1703.07015, for the highway.
    """

    cell: Cell
    horizon: int
    output_size: int
    width: int
    highway: int = 0
    dropout: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, inputs: Array, lags: Array, future: Array, *, train: bool = False) -> Array:
        """Computes the outputs for every forecast.

        Args:
          inputs: (B, C, D).
          lags: (B, F, L), the last scaled values before each of the last F origins.
          future: (B, F, H, K), what is known of the steps to forecast from each of them.
          train: applies noise, from the key `rngs={"dropout": key}`, which is then required.

        Returns:
          (B, F, H, P).
        """
        params = self.param("rnn", self.cell.init, inputs.shape[-1])
        rng = self.make_rng("dropout") if train else None
        _, ys = seqjax.unroll(self.cell, params, inputs, rng=rng)
        state = nn.Dense(self.horizon * self.width, dtype=self.dtype, name="state")(ys[:, -future.shape[1] :])
        hidden = state.reshape(*state.shape[:2], self.horizon, self.width)
        if future.shape[-1]:
            hidden = hidden + nn.Dense(self.width, use_bias=False, dtype=self.dtype, name="future")(future)
        hidden = nn.Dropout(self.dropout, deterministic=not train)(nn.gelu(hidden))
        raw = nn.Dense(self.output_size, dtype=self.dtype, name="output")(hidden).astype(jnp.float32)
        if not self.highway:
            return raw
        line = nn.Dense(self.horizon, use_bias=False, kernel_init=nn.initializers.zeros, name="highway")(lags)
        return raw.at[..., 0].add(line)


class StepNetwork(nn.Module):
    """Forecasts one step ahead: a cell maps what is known before each step to the parameters of its distribution.

    Attributes:
      cell: any Cell.
      output_size: P.
      dropout: on the outputs of the cell, in training.
      dtype: computation dtype; parameters and outputs are float32.

    Example:
      >>> import jax
      >>> model = StepNetwork(seqjax.gru(8), output_size=2)
      >>> (carry, raw), _ = model.init_with_output(jax.random.key(0), jnp.zeros((2, 5, 6)))
      >>> raw.shape
      (2, 5, 2)

    Reference:
      Salinas, Flunkert and Gasthaus 2017, "DeepAR", arXiv:1704.04110.
    """

    cell: Cell
    output_size: int
    dropout: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(
        self, inputs: Array, carry: Carry | None = None, *, resets: Array | None = None, train: bool = False
    ) -> tuple[Carry, Array]:
        """Maps inputs (B, T, D) to (the carry after them, (B, T, P)); arguments as for `seqjax.unroll`."""
        params = self.param("rnn", self.cell.init, inputs.shape[-1])
        rng = self.make_rng("dropout") if train else None
        carry, ys = seqjax.unroll(self.cell, params, inputs, carry, resets=resets, rng=rng)
        ys = nn.Dropout(self.dropout, deterministic=not train)(ys)
        return carry, nn.Dense(self.output_size, dtype=self.dtype, name="output")(ys).astype(jnp.float32)


def step_inputs(steps: Steps) -> Array:
    """Builds the inputs of a StepNetwork, (B, T, D): the scaled value before each step, and what is known about the step."""
    z = jnp.where(steps.previous_observed, (steps.previous - steps.location) / steps.scale, 0)
    columns = [z[..., None], steps.previous_observed[..., None], steps.known, steps.past, steps.static, steps.level]
    return jnp.concatenate([column.astype(jnp.float32) for column in columns], -1)
