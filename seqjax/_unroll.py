"""The one entry point for whole sequences: lengths, resets, direction, layout, noise and the choice of engine."""

import contextlib
import contextvars
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, Literal, Unpack, overload

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from seqjax import _checks as checks
from seqjax import engines, placement
from seqjax._leading import leading
from seqjax.engines import every
from seqjax.typing import Array, CarryT, Cell, Key, ParamsT, Pointwise, UnrollOptions

_watch: contextvars.ContextVar[Callable | None] = contextvars.ContextVar("watch", default=None)


@contextlib.contextmanager
def watched(watch: Callable | None) -> Iterator[None]:
    """Replaces every call of `unroll` inside the context by a function, for diagnostics of whole models.

    Args:
      watch: watch(cell, params, xs, carry, options) -> what unroll returns; inside it, `unroll` is the plain one.

    Example:
      >>> import jax, seqjax
      >>> cell, seen = seqjax.gru(8), []
      >>> def watch(cell, params, xs, carry, options):
      ...     seen.append((cell.name, xs.shape))
      ...     return seqjax.unroll(cell, params, xs, carry, **options)
      >>> with watched(watch):
      ...     carry, ys = seqjax.unroll(cell, cell.init(jax.random.key(0), 4), jnp.ones((2, 5, 4)))
      >>> seen
      [('gru', (2, 5, 4))]
    """
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


@overload
def unroll(
    cell: Cell[ParamsT, CarryT], params: ParamsT, xs: ArrayLike, carry: CarryT | None = None, *,
    return_carries: Literal[False] = False, **options: Unpack[UnrollOptions],
) -> tuple[CarryT, Array]: ...  # fmt: skip
@overload
def unroll(
    cell: Cell[ParamsT, CarryT], params: ParamsT, xs: ArrayLike, carry: CarryT | None = None, *,
    return_carries: Literal[True], **options: Unpack[UnrollOptions],
) -> tuple[CarryT, Array, CarryT]: ...  # fmt: skip
@overload
def unroll(
    cell: Cell[ParamsT, CarryT], params: ParamsT, xs: ArrayLike, carry: CarryT | None = None, *,
    return_carries: bool, **options: Unpack[UnrollOptions],
) -> tuple[CarryT, Array] | tuple[CarryT, Array, CarryT]: ...  # fmt: skip
def unroll(
    cell: Cell[ParamsT, CarryT],
    params: ParamsT,
    xs: ArrayLike,
    carry: CarryT | None = None,
    *,
    lengths: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    rng: Key | None = None,
    reverse: bool = False,
    time_major: bool = False,
    engine: str = "auto",
    remat_every: int | None = None,
    offload: bool = False,
    return_carries: bool = False,
    padded_outputs: str = "zeros",
) -> tuple[CarryT, Array] | tuple[CarryT, Array, CarryT]:
    """Runs a cell over whole sequences.

      carry_t, y_t = step(params, carry_{t-1}, x_t),  t = 1 ... T

    A padded step leaves the carry unchanged and outputs zeros; its input does not affect values or gradients, even if
    it is NaN. A reset restores the initial carry (not the `carry` argument) *before* its step, in the direction of the
    run; at a padded step it does nothing.

    Args:
      cell: the cell, which may be a stack.
      params: what `cell.init` returned.
      xs: inputs (B, T, D), or (T, B, D) with time_major. Floating point. A single sequence, (T, D), and several batch
        axes, (A, B, T, D) or (T, A, B, D), also work; all other arguments then have these batch axes, or none, instead
        of B.
      carry: the carry to start from, each array (B, ...). `cell.initial_carry(params, B)` by default.
      lengths: integers (B,), each 0 to T, how many steps of each sequence are real; or a boolean mask in the layout of
        xs, (B, T), or (T, B) with time_major, true where a step is real; holes are allowed. Lengths outside 0 ... T are
        an error where their values can be checked, and are clipped to that range inside jit and on an accelerator.
      resets: bool in the layout of xs, (B, T), or (T, B) with time_major; or numbers, 0 for no reset and 1 for a reset.
      rng: a key for training noise. None is evaluation, without noise.
      reverse: runs from each sequence's last real step to its first. Outputs stay in the order of the inputs.
      time_major: whether xs, ys, a mask and resets are (T, B, ...).
      engine: "scan" (plain, differentiable in every mode), "fused" (its own derivative, reverse mode), "associative"
        (linear recurrences, parallel in time), "native" (a C++ library, on a CPU in float32), "cudnn" (the plain LSTM on an
        NVIDIA GPU), or "auto", the fastest measured for the cell and case; `seqjax.explain` says which. All give the
        same results up to rounding. Forward mode (jax.jvp, jax.jacfwd, jax.hessian) needs "scan" or "associative".
      remat_every: saves memory in the backward pass: keeps the carry every this many steps and recomputes the rest.
      offload: moves the carries that `remat_every` keeps to the host's memory, and back when they are needed. Worth its time
        for large carries, such as the maps of a ConvLSTM, on an accelerator whose memory is full. A second derivative then
        needs forward mode over reverse mode, as in jax.hessian: JAX cannot run reverse mode twice over offloaded arrays.
      return_carries: also returns the carry after every step, to restart from any of them or to look at the memory c.
      padded_outputs: "zeros", as in torch; or "repeat": a padded step outputs that of the last real step before it, in
        the direction of the run, or zeros if there is none, as in Keras (zero_output_for_mask=False; its Bidirectional
        gives zeros). Then ys[:, -1] is the last real output of a forward run.

    Returns:
      (carry, ys): the carry after each sequence's last step, and the outputs (B, T, H), or (T, B, H) with time_major; for a
      cell whose outputs are a pytree, the pytree of such arrays. With `return_carries` (carry, ys, carries), where
      carries has the structure of carry and arrays (B, T, ...), or (T, B, ...): the carry after step t in the direction
      of the run; a padded step repeats the one before it. Where a wrapper replaces the carry
      (`bidirectional(..., fresh_backward=True)`), the replacement appears at every step.

    Raises:
      ValueError: a shape does not fit, a length is outside 0 ... T, padded_outputs or engine is unknown, offload without
        remat_every or on a CPU, or the engine cannot run this case (the message says why, and which engines can), such
        as forward mode, which "scan" has.
      TypeError: a dtype does not fit.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.stack(seqjax.lstm(16), seqjax.dropout(seqjax.lstm(16), 0.5))
      >>> params = cell.init(jax.random.key(0), 4)
      >>> xs = jax.random.normal(jax.random.key(1), (2, 5, 4))
      >>> carry, ys = seqjax.unroll(cell, params, xs, lengths=jax.numpy.array([5, 3]), rng=jax.random.key(2))
      >>> ys.shape, bool((ys[1, 3:] == 0).all())
      ((2, 5, 16), True)
    """
    if (watch := _watch.get()) is not None:
        given = {"lengths": lengths, "resets": resets, "rng": rng, "reverse": reverse, "time_major": time_major, "engine": engine}
        given |= {"remat_every": remat_every, "offload": offload, "return_carries": return_carries, "padded_outputs": padded_outputs}
        with watched(None):
            return watch(cell, params, xs, carry, given)
    lead, xs, carry, lengths, resets = _folded(cell, xs, carry, lengths, resets, time_major)
    options = reverse, time_major, engine, remat_every, offload, padded_outputs
    static, arrays = _checked(cell, params, xs, carry, lengths, resets, *options)
    checks.check_rng(rng)
    last, *stacked = _unroll(*static, bool(return_carries), engines.choosers(), *arrays, rng)
    if lead is not None:
        last = jax.tree.map(lambda a: lead.unfold(a, timed=False), last)
        stacked = jax.tree.map(lead.unfold, stacked)
    return last, *stacked


def step(
    cell: Cell[ParamsT, CarryT], params: ParamsT, carry: CarryT, x: ArrayLike, *, resets: ArrayLike | None = None
) -> tuple[CarryT, Array]:
    """Runs one time step, for streaming and acting: `cell.step` with checks, and with resets as in `unroll`.

    A reset replaces `carry` with the initial carry before the step, for example where an environment's episode begins.

    Args:
      cell: the cell, which may be a stack.
      params: what `cell.init` returned.
      carry: the carry before the step, each array (B, ...).
      x: inputs (B, D), or without a batch axis, or with several, as in `unroll`. Floating point.
      resets: bool (B,); or numbers, 0 for no reset and 1 for a reset, as environments return them.

    Returns:
      (carry, y): the carry after the step, and the output (B, H).

    Raises:
      ValueError: a shape does not fit, or a reset is neither 0 nor 1.
      TypeError: a dtype does not fit.
      UserError: the cell needs the whole sequence, like a bidirectional one.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.gru(8)
      >>> params = cell.init(jax.random.key(0), 4)
      >>> carry, y = seqjax.step(cell, params, cell.initial_carry(params, 2), jax.numpy.ones((2, 4)))
      >>> carry, again = seqjax.step(cell, params, carry, jax.numpy.ones((2, 4)), resets=jax.numpy.array([1.0, 0.0]))
      >>> (y == again).all(axis=1).tolist()
      [True, False]
    """
    checks.check_cell(cell)
    x = jnp.asarray(x)
    lead = leading(x, len(cell.spatial) + 1, None)
    if lead is not None:
        x, carry = lead.fold(x, "x"), lead.fold_carry(carry)
        resets = None if resets is None else lead.fold(resets, "resets")
    checks.check_params(cell, params)
    checks.check_inputs(cell, params, x, "B", name="x")
    carry = jax.tree.map(jnp.asarray, carry)
    checks.check_carry(cell, params, carry, x.shape[0])
    found = _step(cell, params, carry, x, checks.check_resets(resets, x.shape[:1]))
    return found if lead is None else jax.tree.map(lead.unfold, found)


@functools.partial(jax.jit, static_argnums=0)
def _step(cell, params, carry, x, resets):
    if resets is not None:
        carry = engines.steps.select(resets, cell.initial_carry(params, x.shape[0]), carry)
    return cell.step(params, carry, x)


def explain(
    cell: Cell[ParamsT, CarryT],
    params: ParamsT,
    xs: ArrayLike,
    carry: CarryT | None = None,
    *,
    return_carries: bool = False,
    **options: Unpack[UnrollOptions],
) -> list[engines.Choice]:
    """Prints which engine `unroll` chooses for each cell inside, and why, without running anything.

    Args:
      cell: the cell, which may be a stack.
      params: what `cell.init` returned.
      xs: inputs as for `unroll`.
      carry: as for `unroll`.
      **options: the other arguments of `unroll`: lengths, resets, rng, reverse, time_major, engine, remat_every, offload,
        return_carries, padded_outputs.

    Returns:
      A list of choices (cell, engine, reason), one for each cell that an engine runs, in order. Cells without a carry,
      such as `seqjax.dense`, need no engine and are not listed.

    Raises:
      ValueError: as `unroll`.
      TypeError: as `unroll`.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.stack(seqjax.lstm(16), seqjax.gru(16, reset_after=False))
      >>> params = cell.init(jax.random.key(0), 4)
      >>> choices = seqjax.explain(cell, params, jax.numpy.ones((2, 5, 4)), engine="scan")
      lstm: scan, asked for
      gru: scan, asked for
    """
    defaults = {"lengths": None, "resets": None, "reverse": False, "time_major": False, "engine": "auto"}
    given: dict[str, Any] = defaults | {"remat_every": None, "offload": False, "padded_outputs": "zeros"} | dict(options)
    rng, lengths, resets = given.pop("rng", None), given.pop("lengths"), given.pop("resets")
    _, xs, carry, lengths, resets = _folded(cell, xs, carry, lengths, resets, given["time_major"])
    static, arrays = _checked(cell, params, xs, carry, lengths, resets, **given)
    choices = []
    jax.eval_shape(
        lambda *arrays: inspect.unwrap(_unroll)(*static, bool(return_carries), engines.choosers(), *arrays, note=choices.append),
        *arrays,
        rng,
    )
    for choice in choices:
        print(f"{choice.cell}: {choice.engine}, {choice.reason}")
    return choices


def _folded(cell, xs, carry, lengths, resets, time_major):
    """Returns the arguments with one batch axis, and their `Leading` if they had none or several."""
    checks.check_cell(cell)
    xs = jnp.asarray(xs)
    lead = leading(xs, len(cell.spatial) + 1, time_major)
    if lead is not None:
        xs = lead.fold(xs, "xs")
        carry = None if carry is None else lead.fold_carry(carry)
        lengths = None if lengths is None else lead.fold_lengths(lengths)
        resets = None if resets is None else lead.fold(resets, "resets")
    return lead, xs, carry, lengths, resets


def _checked(cell, params, xs, carry, lengths, resets, reverse, time_major, engine, remat_every, offload, padded_outputs):
    """Returns the arguments of `_unroll`, static and arrays; raises an error that names the one that does not fit."""
    engines.check_name(engine)
    if padded_outputs not in ("zeros", "repeat"):
        raise ValueError(f'padded_outputs must be "zeros" or "repeat", got {padded_outputs!r}')
    checks.check_params(cell, params)
    checks.check_inputs(cell, params, xs, *("TB" if time_major else "BT"))
    batch, steps = xs.shape[:2][::-1] if time_major else xs.shape[:2]
    layout = (steps, batch) if time_major else (batch, steps)
    if carry is not None:
        carry = jax.tree.map(jnp.asarray, carry)
        checks.check_carry(cell, params, carry, batch)
    lengths = checks.check_lengths(lengths, batch, steps, layout)
    resets = checks.check_resets(resets, layout)
    remat_every = checks.check_remat(remat_every, offload)
    static = (cell, engine, bool(reverse), bool(time_major), remat_every, bool(offload), padded_outputs == "repeat")
    return static, (params, xs, carry, lengths, resets)


# Jitted here, so that a call outside jit is compiled once and not at every call.
@functools.partial(jax.jit, static_argnums=range(9))
def _unroll(
    cell,
    engine,
    reverse,
    time_major,
    remat_every,
    offload,
    repeat,
    return_carries,
    choosers,
    params,
    xs,
    carry,
    lengths,
    resets,
    rng,
    note=None,
):
    """Runs the cell; everything inside is time-major, and layouts are transposed here, once."""
    del choosers  # part of the compilation cache key
    if not time_major:
        xs = xs.swapaxes(0, 1)
        lengths = lengths.T if lengths is not None and lengths.ndim == 2 else lengths
        resets = None if resets is None else resets.T
    mask = lengths
    if lengths is not None:
        if lengths.ndim == 1:
            mask = jnp.arange(xs.shape[0])[:, None] < lengths[None, :]
        xs = _zeroed(xs, mask)
    initial = placement.cut_as(cell.initial_carry(params, xs.shape[1]), xs)
    arrays = (params, xs, carry, initial, mask, resets)
    params, xs, carry, initial, mask, resets = placement.tree_varies_together(arrays)
    run = _Runner(engine, mask, resets, reverse, remat_every, offload, return_carries, note)
    carry, ys = run(cell, params, initial if carry is None else carry, initial, xs, rng)
    stacked = [engines.steps.held(ys, mask, reverse) if repeat and mask is not None else ys]
    if return_carries:
        carry, stacked = every.last_of(carry), [*stacked, every.all_of(carry, xs.shape[0])]
    return carry, *(stacked if time_major else jax.tree.map(lambda a: a.swapaxes(0, 1), stacked))


def _zeroed(tree, mask):
    """Sets arrays (T, B, ...) to zero where mask (T, B) is false."""
    return jax.tree.map(lambda a: jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - 2)), a, 0), tree)


@dataclasses.dataclass(frozen=True)
class _Runner:
    """Runs a cell in one direction; `Wrap.sequence` receives it to run the inner cells."""

    engine: str
    mask: Array | None
    resets: Array | None
    reverse: bool
    remat_every: int | None
    offload: bool
    return_carries: bool  # the carry it returns is an `every.Carries`, which a `sequence` passes on like any carry
    note: Callable[[engines.Choice], None] | None
    flipped: Array | None = None  # the other direction's resets if they are known: converting them twice would lose the first

    def __call__(self, cell, params, carry, initial, xs, rng, flip=False):
        if flip:
            return self._turned()(cell, params, carry, initial, xs, rng)
        if cell.wrap and cell.wrap.sequence:
            return cell.wrap.sequence(self, params, carry, initial, xs, rng)
        choice, cell, params, xs = self._ready(cell, params, xs, rng)
        if choice is None:
            ys = cell.split.every_step(params, xs)
            return carry, ys if self.mask is None else _zeroed(ys, self.mask)
        return self._collected(choice, carry, engines.run(choice, cell, params, carry, initial, xs, **self._settings))

    def both(self, cells, params, carries, initials, xs, rngs):
        """Runs two cells, the second in the other direction: in one call if the native engine runs both."""
        runs = self, self._turned()
        if self.remat_every is None and not any(cell.wrap and cell.wrap.sequence for cell in cells):
            choices, *ready = zip(*(run._ready(*its) for run, *its in zip(runs, cells, params, (xs, xs), rngs)))
            if all(choice and choice.engine == "native" for choice in choices):
                cells, params, inputs = ready
                settings = [run._settings for run in runs]
                found = engines.run_both(*zip(choices, cells, params, carries, initials, inputs, settings))
                return [run._collected(*its) for run, *its in zip(runs, choices, carries, found)]
        return [run(*its) for run, *its in zip(runs, cells, params, carries, initials, (xs, xs), rngs)]

    @property
    def _settings(self):
        return {name: getattr(self, name) for name in ("mask", "resets", "reverse", "remat_every", "offload")}

    def _turned(self):
        there = engines.steps.flip_resets(self.resets, self.mask, self.reverse) if self.flipped is None else self.flipped
        return dataclasses.replace(self, resets=there, reverse=not self.reverse, flipped=self.resets)

    def _ready(self, cell, params, xs, rng) -> tuple[engines.Choice | None, Any, Any, Any]:
        """Returns the engine choice (None if there is nothing to choose) and what it runs: noise drawn, wrapper removed."""
        if rng is not None and cell.wrap and cell.wrap.noise:
            cell, params, xs = cell.wrap.noise(rng, params, xs)
        while cell.wrap and cell.wrap.training_only:
            (cell,) = cell.inner
        if isinstance(cell.split, Pointwise):
            return None, cell, params, xs
        if self.return_carries:
            cell = every.recorded(cell)
        return engines.choose(self.engine, cell, params, xs, **self._settings), cell, params, xs

    def _collected(self, choice, carry, found: tuple[Any, Any]):
        if self.note is not None:
            self.note(choice)
        return every.collected(carry, *found, self.mask, self.reverse) if self.return_carries else found
