"""A network that reads a sequence of features and answers at any step, and cells configured for long memory."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

import seqjax
from seqjax import initializers
from seqjax.errors import UserError
from seqjax.typing import Array, Cell

# name -> make(hidden_size, longest, **options): a cell for tasks whose memory spans `longest` steps.
KINDS: dict[str, Callable[..., Cell]] = {
    "tanh": lambda size, longest, **how: seqjax.rnn(size, **{"recurrent_init": initializers.glorot_uniform(), **how}),
    "orthogonal": lambda size, longest, **how: seqjax.rnn(size, **how),
    "irnn": lambda size, longest, **how: seqjax.rnn(size, "relu", **{"recurrent_init": initializers.identity(), **how}),
    "lstm": lambda size, longest, **how: seqjax.lstm(size, **how),
    "lstm_forget_0": lambda size, longest, **how: seqjax.lstm(size, **{"forget_bias": 0.0, **how}),
    "lstm_chrono": lambda size, longest, **how: seqjax.lstm(size, **{"bias_init": initializers.chrono(longest), **how}),
    "lstm_peepholes": lambda size, longest, **how: seqjax.lstm(size, **{"peepholes": True, **how}),
    "gru": lambda size, longest, **how: seqjax.gru(size, **how),
    "gru_chrono": lambda size, longest, **how: seqjax.gru(
        size, **{"bias_init": initializers.chrono(longest, keep=1, write=None, gates=3), **how}
    ),
    "indrnn": lambda size, longest, **how: seqjax.indrnn(size, **{"recurrent_init": _up_to(2 ** (1 / longest)), **how}),
    "slstm": lambda size, longest, **how: seqjax.slstm(size, **how),
    "mingru": lambda size, longest, **how: seqjax.mingru(size, **how),
    "lru": lambda size, longest, **how: seqjax.lru(size, **how),
    "cornn": lambda size, longest, **how: seqjax.cornn(size, **how),
    "unicornn": lambda size, longest, **how: seqjax.unicornn(size, **how),
    "lem": lambda size, longest, **how: seqjax.lem(size, **how),
}


@functools.cache  # one function per limit, so that equal calls give equal cells
def _up_to(limit: float) -> Any:
    return nn.initializers.uniform(limit)


def make_memory_cell(kind: str, hidden_size: int, num_layers: int, longest: int, *, options: str = "", dtype: Any = None) -> Cell:
    """Builds a stack of one of KINDS.

    Args:
      kind: its name.
      hidden_size: H of each layer.
      num_layers: L.
      longest: the steps that the task's memory spans, for initialisers that depend on a length (chrono, IndRNN).
      options: further arguments of the cell, "dt=0.06,gamma=66"; numbers, True or False, or names.
      dtype: computation dtype.

    Raises:
      UserError: an unknown kind, or options that the cell does not have.

    Example:
      >>> make_memory_cell("cornn", 8, 1, 100, options="dt=0.06,gamma=66")
      cornn(8, dt=0.06, gamma=66)
    """
    if kind not in KINDS:
        raise UserError(f"model.cell={kind!r} is unknown; choose one of {', '.join(KINDS)}")
    given = _parsed(options)
    try:
        cells = [KINDS[kind](hidden_size, longest, dtype=dtype, **given) for _ in range(num_layers)]
    except (TypeError, ValueError) as error:
        made = {"tanh": "rnn", "orthogonal": "rnn", "irnn": "rnn"}.get(kind, kind.split("_")[0])
        there = ", ".join(name for name in inspect.signature(getattr(seqjax, made)).parameters if name != "hidden_size")
        raise UserError(f"model.options={options!r} does not fit {kind}: {error}; available are {there}") from None
    return cells[0] if num_layers == 1 else seqjax.stack(*cells)


def _parsed(options: str) -> dict[str, Any]:
    found = {}
    for part in filter(None, options.split(",")):
        name, equals, value = (text.strip() for text in part.partition("="))
        if not equals:
            raise UserError(f"model.options={options!r} must be of the form name=value,name=value")
        found[name] = _value(value)
    return found


def _value(text: str) -> Any:
    for of in (int, float):
        try:
            return of(text)
        except ValueError:
            continue
    return {"True": True, "False": False, "None": None}.get(text, text)


class SequenceReader(nn.Module):
    r"""Answers at every step of a sequence: z_t = W h_t + b, h = cell(x).

    Attributes:
      cell: the cell that reads the sequence.
      outputs: K numbers at each step.
      window: steps that gradients flow back, in blocks of that many steps, as in `truncated_unroll`; 0 for all.
      remat_every: as in `seqjax.unroll`; None keeps everything.
      dtype: computation dtype of the answers.

    Example:
      >>> import jax
      >>> model = SequenceReader(seqjax.gru(8), 3)
      >>> xs = jnp.ones((2, 5, 4))
      >>> model.init_with_output(jax.random.key(0), xs, jnp.array([5, 2]))[0].shape
      (2, 5, 3)
    """

    cell: Cell
    outputs: int
    window: int = 0
    remat_every: int | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, xs: Array, lengths: Array | None = None, train: bool = False) -> Array:
        """Gives (B, T, K), float32 or wider, for xs (B, T, D) and lengths (B,); None for sequences without padding."""
        del train  # nothing here is random
        params = self.param("rnn", self.cell.init, xs.shape[-1])
        if self.window:
            _, ys = seqjax.truncated_unroll(self.cell, params, xs, every=self.window, lengths=lengths, remat_every=self.remat_every)
        else:
            _, ys = seqjax.unroll(self.cell, params, xs, lengths=lengths, remat_every=self.remat_every)
        answers = nn.Dense(self.outputs, dtype=self.dtype, name="answer")(ys)
        return answers.astype(jnp.promote_types(answers.dtype, jnp.float32))
