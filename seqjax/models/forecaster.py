"""Forecasters of time series on any cell: all horizons at once from the state at the origin, or one step after the other."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import seqjax
from seqjax.errors import refuse_unknown
from seqjax.nn.outputs import LEVELS, Output
from seqjax.typing import Array, Carry, Cell, Key, Params

KINDS = ("direct", "autoregressive")
SCALINGS = ("series", "mean_abs", "standard")


class Window(NamedTuple):
    """Pieces of series: C steps of context and the H steps to forecast after them, C + H = T.

    What follows the origin of `value`, `observed` and `past` is there to learn from; no forecast reads it.
    """

    value: Array  # (B, T), in the units of the data; anything where it was not observed
    observed: Array  # bool (B, T): false where a value is missing
    known: Array  # (B, T, K): covariates known in the future, features of the time among them
    past: Array  # (B, T, P): covariates known in the past only
    static: Array  # (B, S)
    location: Array  # (B,): mean of the series' training part
    scale: Array  # (B,): its standard deviation
    mask: Array  # bool (B,): false for a row that only fills the batch


class Steps(NamedTuple):
    """Pieces of series to learn one step ahead from, T steps each."""

    previous: Array  # (B, T), the value before each, in the units of the data
    previous_observed: Array  # bool (B, T)
    known: Array  # (B, T, K)
    past: Array  # (B, T, P), of the step before each
    static: Array  # (B, T, S)
    value: Array  # (B, T)
    counted: Array  # bool (B, T): true where the value was observed and enters the loss
    resets: Array  # bool (B, T): true where the carry is the initial carry before that step
    location: Array  # (B, T)
    scale: Array  # (B, T)
    level: Array  # (B, T, 0 or 2), see `level_features`


def context_scale(kind: str, value: Array, observed: Array, location: Array, scale: Array) -> tuple[Array, Array]:
    """Location and scale that a forecast is made in, from the observed values of its context alone.

    Args:
      kind: "series" takes those of the series' training part; "mean_abs" is 0 and the mean of |y|; "standard" the mean
        and the standard deviation.
      value, observed: (B, C), of the context.
      location, scale: (B,), of the series' training part: also taken where nothing in the context was observed. A
        hundredth of this scale is the least that is returned.

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
    """What scaling by the context hides from the network: where the context stands in its series, (B, 2); else (B, 0)."""
    if kind == "series":
        return jnp.zeros((middle.shape[0], 0))
    return jnp.stack([(middle - window.location) / window.scale, jnp.log(spread / window.scale)], -1)


class DirectNetwork(nn.Module):
    r"""All horizons at once from the state at the origin, with the covariates that are known in the future.

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
        """The numbers of every forecast.

        Args:
          inputs: (B, C, D).
          lags: (B, F, L), the last scaled values before each of the last F origins.
          future: (B, F, H, K), what is known of the steps to forecast from each of them.
          train: with noise, from the key `rngs={"dropout": key}`, which is then needed.

        Returns:
          (B, F, H, P).
        """
        params = self.param("rnn", self.cell.init, inputs.shape[-1])
        rng = self.make_rng("dropout") if train else None
        _, ys = seqjax.unroll(self.cell, params, inputs, rng=rng)
        state = nn.Dense(self.horizon * self.width, dtype=self.dtype, name="state")(ys[:, -future.shape[1] :])
        hidden = state.reshape(*state.shape[:2], self.horizon, self.width)
        hidden = nn.gelu(hidden + nn.Dense(self.width, use_bias=False, dtype=self.dtype, name="future")(future))
        hidden = nn.Dropout(self.dropout, deterministic=not train)(hidden)
        raw = nn.Dense(self.output_size, dtype=self.dtype, name="output")(hidden).astype(jnp.float32)
        if not self.highway:
            return raw
        line = nn.Dense(self.horizon, use_bias=False, kernel_init=nn.initializers.zeros, name="highway")(lags)
        return raw.at[..., 0].add(line)


class StepNetwork(nn.Module):
    """One step ahead: what is known before each step, through a cell, to the numbers of its distribution.

    Attributes:
      cell: any Cell.
      output_size: P.
      dropout: on the outputs of the cell, in training.
      dtype: computation dtype; parameters and outputs are float32.

    Example:
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
        """Inputs (B, T, D) to (the carry after them, (B, T, P)); arguments as of `seqjax.unroll`."""
        params = self.param("rnn", self.cell.init, inputs.shape[-1])
        rng = self.make_rng("dropout") if train else None
        carry, ys = seqjax.unroll(self.cell, params, inputs, carry, resets=resets, rng=rng)
        ys = nn.Dropout(self.dropout, deterministic=not train)(ys)
        return carry, nn.Dense(self.output_size, dtype=self.dtype, name="output")(ys).astype(jnp.float32)


def step_inputs(steps: Steps) -> Array:
    """What a StepNetwork reads, (B, T, D): the value before each step, scaled, and what is known of the step itself."""
    z = jnp.where(steps.previous_observed, (steps.previous - steps.location) / steps.scale, 0)
    columns = [z[..., None], steps.previous_observed[..., None], steps.known, steps.past, steps.static, steps.level]
    return jnp.concatenate([column.astype(jnp.float32) for column in columns], -1)


@dataclasses.dataclass(frozen=True)
class Forecaster:
    """A network, how its inputs are made of windows, its loss and its forecasts.

    Args:
      kind: "direct" or "autoregressive".
      cell: any Cell.
      output: the family of distributions.
      context: C, the steps before an origin that a forecast reads.
      horizon: H, the steps that it gives; an autoregressive forecaster can go on for longer.
      scaling: see `context_scale`. Where the loss is taken at several origins, only what precedes the first is read.
      width, highway: see `DirectNetwork`.
      dropout: in the head; that of the cell is its own.
      members: networks of the same form with other initial values, trained side by side on the same batches; their
        quantiles are averaged.
      paths: sample paths of an autoregressive forecast.
      dtype: computation dtype.

    Example:
      >>> from seqjax.nn.outputs import make_output
      >>> model = Forecaster("direct", seqjax.gru(8), make_output("gaussian"), context=4, horizon=2)
      >>> rows = [jnp.zeros((1, 6)), jnp.ones((1, 6), bool), *(jnp.zeros((1, 6, 0)),) * 2, jnp.zeros((1, 0))]
      >>> window = Window(*rows, jnp.zeros(1), jnp.ones(1), jnp.ones(1, bool))
      >>> params = model.init(jax.random.key(0), window)
      >>> model.quantiles(params, window).shape
      (1, 2, 39)
    """

    kind: str
    cell: Cell
    output: Output
    context: int
    horizon: int
    scaling: str = "series"
    width: int = 32
    highway: int = 0
    dropout: float = 0.0
    members: int = 1
    paths: int = 200
    dtype: Any = None

    @functools.cached_property
    def network(self) -> nn.Module:
        """The network of each member."""
        if self.kind == "direct":
            sizes = (self.horizon, self.output.size, self.width, self.highway)
            return DirectNetwork(self.cell, *sizes, self.dropout, self.dtype)
        return StepNetwork(self.cell, self.output.size, self.dropout, self.dtype)

    def init(self, key: Key, window: Window) -> Mapping[str, Params]:
        """Initial parameters, a subtree for each member."""
        if self.kind == "direct":
            inputs = self._direct_inputs(window, 1)[:3]
        else:
            inputs = (step_inputs(self.as_steps(window)),)
        keys = jax.random.split(key, self.members)
        return {f"member_{i}": self.network.init(key, *inputs)["params"] for i, key in enumerate(keys)}

    def initial_carry(self, params: Mapping[str, Params], batch_size: int) -> Carry:
        """The carry of every member, for training with a carry that passes from window to window."""
        return {name: self.cell.initial_carry(member["rnn"], batch_size) for name, member in params.items()}

    def loss(
        self, params: Mapping[str, Params], batch: Window | Steps, carry: Carry = (), rng: Key | None = None, *, forks: int = 1
    ) -> tuple[Carry, Array, Array]:
        """The loss of every value that is counted, the mean over the members.

        Args:
          params: as `init` gave.
          batch: Window; or Steps for training with a carry that is kept.
          carry: as `initial_carry` gave, for Steps; with a Window it is returned as it is.
          rng: a key for training noise. With a Window an autoregressive forecaster also learns from the context then.
          forks: F, how many of the last origins of each window a direct forecaster learns from.

        Returns:
          (carry, summed loss, number of values counted).
        """
        keys = [None] * self.members if rng is None else jax.random.split(rng, self.members)
        steps = batch if isinstance(batch, Steps) else None
        if self.kind == "autoregressive" and steps is None:
            steps = self.as_steps(batch, learn_context=rng is not None)
        carried, total, count = {}, 0.0, None
        for (name, member), key in zip(sorted(params.items()), keys, strict=True):
            noise = {} if key is None else {"train": True, "rngs": {"dropout": key}}
            if steps is None:
                losses, counted = self._direct_losses(member, batch, forks, noise)
            else:
                start = carry[name] if isinstance(batch, Steps) else None
                carried[name], raw = self.network.apply(
                    {"params": member}, step_inputs(steps), start, resets=steps.resets, **noise
                )
                y = jnp.where(steps.counted, steps.value, steps.location)
                losses = self.output.loss(self.output.distribution(raw, steps.location, steps.scale), y, steps.scale)
                counted = steps.counted
            total, count = total + jnp.sum(jnp.where(counted, losses, 0)) / self.members, counted
        return (carried if isinstance(batch, Steps) else carry), total, jnp.sum(count, dtype=jnp.float32)

    def quantiles(
        self, params: Mapping[str, Params], window: Window, levels: np.ndarray = LEVELS, *, steps: int = 0, seed: int = 0
    ) -> np.ndarray:
        """The forecasts of a window.

        Args:
          params: as `init` gave.
          window: of which nothing after the context is read but what is known in the future.
          levels: (Q,).
          steps: of the forecast; 0 is the horizon.
          seed: of the sample paths of an autoregressive forecaster.

        Returns:
          (B, steps, Q), in the units of the data, never crossing.
        """
        if self.kind == "direct":
            short = max(self.context + self.horizon - window.value.shape[1], 0)  # steps that nobody asked for
            grow = lambda column: np.pad(column, [(0, 0), (0, short)] + [(0, 0)] * (column.ndim - 2))
            long = {name: grow(getattr(window, name)) for name in ("value", "observed", "known", "past")} if short else {}
            window = window._replace(**long)
            found = [self.output.quantiles(jax.device_get(one), levels) for one in _direct(self, params, window)]
            return np.mean(found, 0, dtype=np.float64)[:, 0, : steps or self.horizon]
        draws = _paths(self, params, window, jax.random.key(seed), steps or self.horizon)
        return np.moveaxis(np.quantile(np.asarray(draws, np.float64), levels, axis=0), 0, -1)

    def as_steps(self, window: Window, *, learn_context: bool = False) -> Steps:
        """A window as steps to learn from: past-only covariates end at the origin.

        Args:
          window: of C + H steps or more.
          learn_context: the loss is taken in the context too, and not only after the origin.
        """
        total = window.value.shape[1]
        middle, spread = self._scale(window, self.context)
        level = level_features(self.scaling, middle, spread, window)
        before = lambda column: jnp.pad(column[:, :-1], [(0, 0), (1, 0)] + [(0, 0)] * (column.ndim - 2))
        past = jnp.where((jnp.arange(total) < self.context)[None, :, None], window.past, 0)
        after = jnp.arange(total)[None, :] >= (1 if learn_context else self.context)
        wide = lambda column: jnp.broadcast_to(column[:, None], (*window.value.shape, *column.shape[1:]))
        return Steps(
            before(window.value), before(window.observed), window.known, before(past), wide(window.static), window.value,
            counted=window.observed & window.mask[:, None] & after, resets=jnp.zeros_like(window.observed),
            location=wide(middle), scale=wide(spread), level=wide(level),
        )  # fmt: skip

    def _scale(self, window: Window, before: int) -> tuple[Array, Array]:
        seen = (window.value[:, :before], window.observed[:, :before])
        return context_scale(self.scaling, *seen, window.location, window.scale)

    def _direct_inputs(self, window: Window, forks: int) -> tuple[Array, Array, Array, Array, Array]:
        """(inputs, lags, future) of a DirectNetwork, then location and scale (B, 1, 1)."""
        first = self.context - forks + 1  # the first origin: so many steps lie before it
        middle, spread = self._scale(window, first)
        level = level_features(self.scaling, middle, spread, window)
        value, observed = window.value[:, : self.context], window.observed[:, : self.context]
        z = jnp.where(observed, (value - middle[:, None]) / spread[:, None], 0)
        wide = lambda column: jnp.broadcast_to(column[:, None], (*z.shape, column.shape[-1]))
        columns = [z[..., None], observed[..., None], window.known[:, : self.context], window.past[:, : self.context]]
        inputs = jnp.concatenate([c.astype(jnp.float32) for c in (*columns, wide(window.static), wide(level))], -1)
        origins = first + np.arange(forks)[:, None]
        lags = z[:, origins + np.arange(-self.highway, 0)]
        future = window.known[:, origins + np.arange(self.horizon)]
        still = jnp.concatenate([window.static, level], -1)[:, None, None]
        future = jnp.concatenate([future, jnp.broadcast_to(still, (*future.shape[:3], still.shape[-1]))], -1)
        return inputs, lags, future, middle[:, None, None], spread[:, None, None]

    def _direct_losses(self, params: Params, window: Window, forks: int, noise: dict[str, Any]) -> tuple[Array, Array]:
        *inputs, middle, spread = self._direct_inputs(window, forks)
        raw = self.network.apply({"params": params}, *inputs, **noise)
        places = self.context - forks + 1 + np.arange(forks)[:, None] + np.arange(self.horizon)
        counted = (window.observed & window.mask[:, None])[:, places]
        y = jnp.where(counted, window.value[:, places], middle)
        return self.output.loss(self.output.distribution(raw, middle, spread), y, jnp.broadcast_to(spread, y.shape)), counted


@functools.partial(jax.jit, static_argnums=0)
def _direct(model: Forecaster, params: Mapping[str, Params], window: Window) -> list[Any]:
    *inputs, middle, spread = model._direct_inputs(window, 1)
    raw = [model.network.apply({"params": member}, *inputs) for _, member in sorted(params.items())]
    return [model.output.distribution(one, middle, spread) for one in raw]


@functools.partial(jax.jit, static_argnums=(0, 4))
def _paths(model: Forecaster, params: Mapping[str, Params], window: Window, key: Key, horizon: int) -> Array:
    """Sample paths of all members, (paths, B, horizon)."""
    members = sorted(params.items())
    shares = np.diff(np.linspace(0, model.paths, len(members) + 1).round().astype(int))
    steps = model.as_steps(window)
    cut = lambda first, last: jax.tree.map(lambda x: x[:, first:last], steps)
    found = []
    for (_, member), share, own in zip(members, shares, jax.random.split(key, len(members))):

        def run(carry, piece, member=member):
            return model.network.apply({"params": member}, step_inputs(piece), carry)

        carry, raw = run(None, cut(0, model.context + 1))  # the last of these inputs is the value at the origin
        rest = cut(model.context + 1, model.context + horizon)
        found.append(sample_paths(run, model.output, carry, raw[:, -1], rest, steps.location[:, 0], steps.scale[:, 0], own, int(share)))
    return jnp.concatenate(found)


def sample_paths(
    run: Any, output: Output, carry: Carry, raw: Array, rest: Steps, location: Array, scale: Array, key: Key, paths: int
) -> Array:
    """Ancestral sampling: draws a value, gives it back as input, and so on.

    Args:
      run: (carry, Steps of one step) -> (carry, (B, 1, P)).
      output: the family of distributions.
      carry: after the context.
      raw: (B, P), the numbers of the first step's distribution.
      rest: the H - 1 steps after the first; their `previous` is not read.
      location, scale: (B,).
      key: of the draws.
      paths: N.

    Returns:
      (N, B, H), in the units of the data.

    Reference:
      Salinas, Flunkert and Gasthaus 2017, "DeepAR", arXiv:1704.04110.
    """
    by_step = jax.tree.map(lambda column: jnp.moveaxis(column, 1, 0), rest)

    def one(key):
        first, *keys = jax.random.split(key, 1 + rest.value.shape[1])

        def step(state, at):
            carry, drawn = state
            row, key = at
            row = row._replace(previous=drawn, previous_observed=jnp.ones_like(drawn, bool))
            carry, raw = run(carry, jax.tree.map(lambda column: column[:, None], row))
            drawn = output.sample(key, output.distribution(raw[:, 0], location, scale))
            return (carry, drawn), drawn

        start = output.sample(first, output.distribution(raw, location, scale))
        if not keys:
            return start[None]
        _, others = jax.lax.scan(step, (carry, start), (by_step, jnp.stack(keys)))
        return jnp.concatenate([start[None], others])

    return jnp.moveaxis(jax.vmap(one)(jax.random.split(key, paths)), 1, 2)
