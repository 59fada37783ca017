"""Forecasters of time series on any cell: all horizons at once from the state at the origin, or one step after the other."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from seqjax.models.forecast_networks import (
    DirectNetwork,
    StepNetwork,
    Steps,
    Window,
    context_scale,
    level_features,
    step_inputs,
)
from seqjax.nn.outputs import LEVELS, Output
from seqjax.typing import Array, Carry, Cell, Key, Params

KINDS = ("direct", "autoregressive")


@dataclasses.dataclass(frozen=True)
class Forecaster:
    """A network with the preparation of its inputs from windows, its loss and its forecasts.

    Args:
      kind: "direct" or "autoregressive".
      cell: any Cell.
      output: the family of distributions.
      context: C, the steps before an origin that a forecast reads.
      horizon: H, the steps that it gives; an autoregressive forecaster can forecast further.
      scaling: see `context_scale`. If the loss is taken at several origins, only values before the first are read.
      width, highway: see `DirectNetwork`.
      dropout: in the head; the cell has its own dropout.
      members: networks of the same form with different initial values, trained in parallel on the same batches; their
        quantiles are averaged.
      paths: sample paths of an autoregressive forecast.
      dtype: computation dtype.

    Example:
      >>> import seqjax
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
        self,
        params: Mapping[str, Params],
        batch: Window | Steps,
        carry: Carry = (),
        rng: Key | None = None,
        *,
        forks: int = 1,
    ) -> tuple[Carry, Array, Array]:
        """Sums the loss over all counted values, averaged over the members.

        Args:
          params: from `init`.
          batch: Window; or Steps for training with a carry that is kept.
          carry: from `initial_carry`, for Steps; with a Window it is returned unchanged.
          rng: a key for training noise. With one, and a Window, an autoregressive forecaster also learns from the context.
          forks: F, how many of the last origins of each window a direct forecaster learns from.

        Returns:
          (carry, summed loss, number of values counted).
        """
        keys = [None] * self.members if rng is None else jax.random.split(rng, self.members)
        steps = batch if isinstance(batch, Steps) else None
        if self.kind == "autoregressive" and steps is None:
            steps = self.as_steps(cast(Window, batch), learn_context=rng is not None)
        carried, total, count = {}, 0.0, cast(Array, None)
        for (name, member), key in zip(sorted(params.items()), keys, strict=True):
            noise = {} if key is None else {"train": True, "rngs": {"dropout": key}}
            if steps is None:
                losses, counted = self._direct_losses(member, cast(Window, batch), forks, noise)
            else:
                start = carry[name] if isinstance(batch, Steps) else None
                found = self.network.apply({"params": member}, step_inputs(steps), start, resets=steps.resets, **noise)
                carried[name], raw = cast(Any, found)
                y = jnp.where(steps.counted, steps.value, steps.location)
                losses = self.output.loss(self.output.distribution(raw, steps.location, steps.scale), y, steps.scale)
                counted = steps.counted
            total, count = total + jnp.sum(jnp.where(counted, losses, 0)) / self.members, counted
        return (carried if isinstance(batch, Steps) else carry), cast(Array, total), jnp.sum(count, dtype=jnp.float32)

    def quantiles(
        self,
        params: Mapping[str, Params],
        window: Window,
        levels: np.ndarray = LEVELS,
        *,
        steps: int = 0,
        seed: int = 0,
    ) -> np.ndarray:
        """Forecasts a window.

        Args:
          params: from `init`.
          window: after its context only what is known in the future is read.
          levels: quantile levels, (Q,).
          steps: length of the forecast; 0 is the horizon.
          seed: determines the sample paths of an autoregressive forecaster.

        Returns:
          (B, steps, Q), in the units of the data, never crossing.
        """
        if self.kind == "direct":
            short = max(self.context + self.horizon - window.value.shape[1], 0)  # steps that were not requested

            def grow(column):
                return np.pad(column, [(0, 0), (0, short)] + [(0, 0)] * (column.ndim - 2))

            long = {name: grow(getattr(window, name)) for name in ("value", "observed", "known", "past")} if short else {}
            window = window._replace(**long)
            found = [self.output.quantiles(jax.device_get(one), levels) for one in _direct(self, params, window)]
            return np.asarray(np.mean(found, 0, dtype=np.float64))[:, 0, : steps or self.horizon]
        draws = _paths(self, params, window, jax.random.key(seed), steps or self.horizon)
        return np.moveaxis(np.quantile(np.asarray(draws, np.float64), levels, axis=0), 0, -1)

    def as_steps(self, window: Window, *, learn_context: bool = False) -> Steps:
        """Converts a window to steps to learn from: past-only covariates end at the origin.

        Args:
          window: a window of C + H steps or more.
          learn_context: whether the loss also covers the context, not only the steps after the origin.
        """
        total = window.value.shape[1]
        middle, spread = self._scale(window, self.context)
        level = level_features(self.scaling, middle, spread, window)

        def before(column):
            return jnp.pad(column[:, :-1], [(0, 0), (1, 0)] + [(0, 0)] * (column.ndim - 2))

        past = jnp.where((jnp.arange(total) < self.context)[None, :, None], window.past, 0)
        after = jnp.arange(total)[None, :] >= (1 if learn_context else self.context)

        def wide(column):
            return jnp.broadcast_to(column[:, None], (*window.value.shape, *column.shape[1:]))

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
        first = self.context - forks + 1  # the first origin: the number of steps before it
        middle, spread = self._scale(window, first)
        level = level_features(self.scaling, middle, spread, window)
        value, observed = window.value[:, : self.context], window.observed[:, : self.context]
        z = jnp.where(observed, (value - middle[:, None]) / spread[:, None], 0)

        def wide(column):
            return jnp.broadcast_to(column[:, None], (*z.shape, column.shape[-1]))

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
        raw = cast(Array, self.network.apply({"params": params}, *inputs, **noise))
        places = self.context - forks + 1 + np.arange(forks)[:, None] + np.arange(self.horizon)
        counted = (window.observed & window.mask[:, None])[:, places]
        y = jnp.where(counted, window.value[:, places], middle)
        return self.output.loss(self.output.distribution(raw, middle, spread), y, jnp.broadcast_to(spread, y.shape)), counted


@functools.partial(jax.jit, static_argnums=0)
def _direct(model: Forecaster, params: Mapping[str, Params], window: Window) -> list[Any]:
    *inputs, middle, spread = model._direct_inputs(window, 1)
    raw = [cast(Array, model.network.apply({"params": member}, *inputs)) for _, member in sorted(params.items())]
    return [model.output.distribution(one, middle, spread) for one in raw]


@functools.partial(jax.jit, static_argnums=(0, 4))
def _paths(model: Forecaster, params: Mapping[str, Params], window: Window, key: Key, horizon: int) -> Array:
    """Draws sample paths of all members, (paths, B, horizon)."""
    members = sorted(params.items())
    shares = np.diff(np.linspace(0, model.paths, len(members) + 1).round().astype(int))
    steps = model.as_steps(window)

    def cut(first, last):
        return jax.tree.map(lambda x: x[:, first:last], steps)

    found = []
    for (_, member), share, own in zip(members, shares, jax.random.split(key, len(members))):

        def run(carry, piece, member=member) -> Any:
            return model.network.apply({"params": member}, step_inputs(piece), carry)

        carry, raw = run(None, cut(0, model.context + 1))  # the last of these inputs is the value at the origin
        rest = cut(model.context + 1, model.context + horizon)
        found.append(sample_paths(run, model.output, carry, raw[:, -1], rest, steps.location[:, 0], steps.scale[:, 0], own, int(share)))
    return jnp.concatenate(found)


def sample_paths(
    run: Any, output: Output, carry: Carry, raw: Array, rest: Steps, location: Array, scale: Array, key: Key, paths: int
) -> Array:
    """Runs ancestral sampling: draws a value, feeds it back as input, and so on.

    Args:
      run: (carry, Steps of one step) -> (carry, (B, 1, P)).
      output: the family of distributions.
      carry: after the context.
      raw: (B, P), the numbers of the first step's distribution.
      rest: the H - 1 steps after the first; their `previous` is not read.
      location, scale: (B,).
      key: a random key for the draws.
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
