"""Polyphonic music, frame by frame: which pitches sound next, given all frames before."""

import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import seqjax
from seqjax.errors import UserError
from seqjax.models.stacks import make_cell
from seqjax.typing import Array, Carry, Cell

PITCHES, LOWEST = 88, 21  # the keys of a piano, from MIDI pitch 21 (A0) to 108 (C8)
OUTPUTS = ("frames", "notes")
ORDERS = ("descending", "ascending")
NEVER = -1e9  # the logit of an impossible event


class MusicCarry(NamedTuple):
    """The model's carry between windows."""

    rnn: Carry  # of the recurrent layers, leaves (B, ...)
    past: Array  # (B, M, P), the last M frames read, newest last


class Context(NamedTuple):
    """The model's information before a frame."""

    features: Array  # (B, T, H), the top layer's outputs, with dropout in training
    past: Array  # (B, T, M, P), the M frames before, newest last


def roll_to_notes(frames: Array, most: int, order: str = "descending") -> tuple[Array, Array]:
    """Lists the pitches of each frame in order.

    Args:
      frames: (..., P), not 0 where a pitch sounds.
      most: K, the maximum number of notes.
      order: "descending" or "ascending".

    Returns:
      (notes, counts): int32 (..., K), the indices of the pitches, P past the last; and int32 (...), the number of
      sounding pitches, which may exceed K.

    Example:
      >>> notes, counts = roll_to_notes(jnp.array([[0, 1, 0, 1], [0, 0, 0, 0]]), 3)
      >>> notes.tolist(), counts.tolist()
      ([[3, 1, 4], [4, 4, 4]], [2, 0])
    """
    marked, counts = _marked(frames, most, order)
    notes = jnp.argmax(marked, axis=-1).astype(jnp.int32)
    return jnp.where(_places(notes.shape) < counts[..., None], notes, frames.shape[-1]), counts


def _marked(frames: Array, most: int, order: str) -> tuple[Array, Array]:
    """Returns the k-th note of each frame one-hot, bool (..., K, P), and the number of notes, int32 (...)."""
    sounding = frames != 0
    pitches = frames.shape[-1]
    earlier = jnp.tri(pitches) if order == "descending" else jnp.tri(pitches).T
    ranks = (sounding.astype(jnp.float32) @ earlier)[..., None, :]  # a sort would take far longer, to run and to compile
    marked = sounding[..., None, :] & (ranks == 1 + _places((*frames.shape[:-1], most, pitches), -2))
    return marked, jnp.sum(sounding, axis=-1, dtype=jnp.int32)


def _places(shape: tuple[int, ...], axis: int = -1) -> Array:
    """0, 1, 2, ... along an axis, int32."""
    return jax.lax.broadcasted_iota(jnp.int32, shape, axis % len(shape))


class MusicModel(nn.Module):
    r"""Models the probability of the next frame of a piece, a set of pitches.

    The recurrent layers read each frame as its pitches and pitch classes,
    :math:`h_t = \mathrm{cell}(\mathrm{relu}(W x_{t-1}))`. There are two forms of output. "frames", the form of the
    published tables, treats pitches as independent:

    .. math:: p(x_t \mid x_{<t}) = \prod_p \sigma(z_{t,p})^{x_{t,p}} (1 - \sigma(z_{t,p}))^{1 - x_{t,p}}

    "notes" writes the frame note by note, from the top or from the bass, until "end", with a second recurrent cell that has read
    h_t and the notes before; the softmax is over the pitches that can still follow, and "end". So each set of pitches
    can be written in exactly one way, and probabilities sum to one:

    .. math:: p(x_t \mid x_{<t}) = \prod_{k=1}^{n+1} \mathrm{softmax}(z_{t,k})_{p_k}, \quad p_1 > \dots > p_n, \quad p_{n+1} = \mathrm{end}

    In either form the scores have a relative part: what a pitch gains by its distance d from each pitch of the last M
    frames (and, with "notes", from the note just written) is a function of h_t, the same everywhere on the keyboard.

    .. math:: z_{t,p} = (W h_t + b)_p + \sum_{m=1}^{M} \sum_{|d| \le R} (K_m h_t)_d \, x_{t-m,p+d}

    Attributes:
      cell: any Cell; dropout between its layers is set in the cell.
      output: "frames" or "notes".
      embed_size: D, the width of a frame's projection, and of a note's embedding.
      note_cell, note_size: name (see `make_cell`) and size of the cell over the notes of a frame.
      order: the order in which the notes of a frame are written: "descending" from the highest, or "ascending".
      max_notes: K, the maximum number of notes in a frame.
      reach: R, how far relative scores look, in semitones.
      memory: M, how many frames back.
      dropout: on the outputs of the top layer, and on those of the cell over notes, in training.
      pitches: P.
      dtype: computation dtype; parameters and scores are float32.

    Example:
      >>> model = MusicModel(seqjax.gru(8), "notes", embed_size=6, max_notes=4)
      >>> frames = jnp.zeros((2, 5, 88)).at[:, :, 40].set(1)
      >>> before = jnp.pad(frames, ((0, 0), (1, 0), (0, 0)))[:, :-1]
      >>> params = model.init(jax.random.key(0), before, frames, method="whole")["params"]
      >>> carry, context = model.apply({"params": params}, before)
      >>> model.apply({"params": params}, context, frames, method="nats").shape
      (2, 5)

    Reference:
      Boulanger-Lewandowski, Bengio and Vincent 2012, arXiv:1206.6392, for the task and both forms (their RNN-NADE writes pitches
      one by one); Johnson 2017, "Generating Polyphonic Music Using Tied Parallel Networks", for the relative scores.
    """

    cell: Cell
    output: str = "frames"
    embed_size: int = 64
    note_cell: str = "gru"
    note_size: int = 64
    order: str = "descending"
    max_notes: int = 8
    reach: int = 12
    memory: int = 1
    dropout: float = 0.0
    pitches: int = PITCHES
    dtype: Any = None

    def setup(self):
        for name, value, known in (("output", self.output, OUTPUTS), ("order", self.order, ORDERS)):
            if value not in known:
                raise UserError(f"model.{name}={value!r} is unknown; choose one of {', '.join(known)}")
        self.embed = nn.Dense(self.embed_size, dtype=self.dtype)
        self.rnn = self.param("rnn", self.cell.init, self.embed_size)
        self.noise = nn.Dropout(self.dropout)
        scores = self.pitches + (self.output == "notes")
        self.head = nn.Dense(scores, dtype=self.dtype)
        self.relative = nn.Dense(self.memory * (2 * self.reach + 1), dtype=self.dtype, kernel_init=nn.initializers.zeros)
        if self.output == "notes":
            self.inner = make_cell(self.note_cell, self.note_size, dtype=self.dtype)
            self.note_embed = nn.Embed(scores, self.embed_size, dtype=self.dtype)
            self.note_context = nn.Dense(self.embed_size, dtype=self.dtype)
            self.note_rnn = self.param("note_rnn", self.inner.init, 2 * self.embed_size)
            self.note_head = nn.Dense(scores, dtype=self.dtype)
            self.note_relative = nn.Dense(self.memory * (2 * self.reach + 1), dtype=self.dtype, kernel_init=nn.initializers.zeros)
            self.interval = nn.Dense(self.pitches, dtype=self.dtype)
            self.interval_context = nn.Dense(self.pitches, dtype=self.dtype, kernel_init=nn.initializers.zeros)

    def initial_carry(self, params: Any, batch_size: int) -> MusicCarry:
        """The carry before a piece.

        Args:
          params: parameters of the module.
          batch_size: B.
        """
        return MusicCarry(
            self.cell.initial_carry(params["rnn"], batch_size), jnp.zeros((batch_size, self.memory, self.pitches), jnp.float32)
        )

    def __call__(
        self,
        frames: Array,
        carry: MusicCarry | None = None,
        *,
        first: Array | None = None,
        lengths: Array | None = None,
        train: bool = False,
    ) -> tuple[MusicCarry, Context]:
        """Reads windows of frames.

        Args:
          frames: (B, T, P), the frame before each one to predict, not 0 where a pitch sounds; zeros before a piece.
          carry: from the previous window; if None, all rows start a piece.
          first: (B,) bool, rows that begin a piece: their carry is the initial one, regardless of `carry`. By default
            all rows do if there is no carry, and none otherwise.
          lengths: (B,) int, how many steps are real.
          train: applies dropout, from the key `rngs={"dropout": key}`, which is then required.

        Returns:
          The carry after the last real step, and the context of each frame.
        """
        batch, steps, pitches = frames.shape
        frames = (frames != 0).astype(jnp.float32)
        initial = MusicCarry(self.cell.initial_carry(self.rnn, batch), jnp.zeros((batch, self.memory, pitches), jnp.float32))
        first = jnp.full((batch,), carry is None) if first is None else first
        start = initial
        if carry is not None:
            start = jax.tree.map(lambda new, old: jnp.where(first.reshape((-1,) + (1,) * (old.ndim - 1)), new, old), initial, carry)
        xs = nn.relu(self.embed(_features(frames, first)))
        rng = self.make_rng("dropout") if train else None
        rnn, ys = seqjax.unroll(self.cell, self.rnn, xs, start.rnn, lengths=lengths, rng=rng)
        known = jnp.concatenate([start.past, frames], axis=1)  # (B, M + T, P)
        past = jnp.stack([known[:, m + 1 : m + 1 + steps] for m in range(self.memory)], axis=2)
        ends = jnp.full((batch,), steps) if lengths is None else lengths
        newest = jax.vmap(lambda rows, end: jax.lax.dynamic_slice_in_dim(rows, end, self.memory))(known, ends)
        return MusicCarry(rnn, newest), Context(self.noise(ys, deterministic=not train), past)

    def whole(self, before: Array, frames: Array) -> Array:
        """-log p of each frame of whole pieces; touches all parameters, for `init`."""
        return self.nats(self(before)[1], frames)

    def logits(self, context: Context) -> Array:
        """Scores of the pitches, for "frames": (B, T, P) in float32."""
        kernels = self.relative(context.features)[:, :, None]
        return self.head(context.features).astype(jnp.float32) + self._relative(context.past, kernels)[:, :, 0]

    def nats(self, context: Context, frames: Array, train: bool = False) -> Array:
        """-log p of frames, (B, T).

        Args:
          context: the context of each frame.
          frames: (B, T, P), not 0 where a pitch sounds. With "notes", infinite where more than `max_notes` do.
          train: apply dropout to the cell over notes.
        """
        if self.output == "frames":
            logits = self.logits(context)
            return jnp.sum(jnp.where(frames != 0, nn.softplus(-logits), nn.softplus(logits)), axis=-1)
        marked, counts = _marked(frames, self.max_notes, self.order)
        notes = jnp.where(jnp.any(marked, axis=-1), jnp.argmax(marked, axis=-1), self.pitches)
        batch, steps = counts.shape
        before = jnp.concatenate([jnp.full((batch, steps, 1), self.pitches), notes], axis=-1)
        xs = self._note_inputs(before, context.features[:, :, None])
        _, ys = seqjax.unroll(self.inner, self.note_rnn, xs.reshape(batch * steps, self.max_notes + 1, -1))
        ys = self.noise(ys.reshape(batch, steps, self.max_notes + 1, -1), deterministic=not train)
        log_probs = jax.nn.log_softmax(self._note_logits(ys, before, context))
        written = jnp.sum(jnp.where(marked, log_probs[..., :-1, :-1], 0), axis=(-2, -1))
        ended = jnp.sum(jnp.where(_places(before.shape) == counts[..., None], log_probs[..., -1], 0), axis=-1)
        nats = -(written + ended)
        return jnp.where(counts > self.max_notes, jnp.inf, nats)

    def note_step(self, context: Context, carry: Carry, before: Array) -> tuple[Carry, Array]:
        """Scores of the next note of a frame.

        Args:
          context: the frame's context, T = 1.
          carry: the carry of the cell over notes, after the notes so far; for the first note, from `note_carry`.
          before: (B,) int, the note before; P at the first.

        Returns:
          The carry, and scores (B, P + 1) of the pitches and of the end.
        """
        xs = self._note_inputs(before[:, None, None], context.features[:, :, None])
        carry, ys = self.inner.step(self.note_rnn, carry, xs[:, 0, 0])
        return carry, self._note_logits(ys[:, None, None], before[:, None, None], context)[:, 0, 0]

    def note_carry(self, batch_size: int) -> Carry:
        """The carry of the cell over notes at the start of a frame."""
        return self.inner.initial_carry(self.note_rnn, batch_size)

    def _note_inputs(self, before: Array, features: Array) -> Array:
        about = self.note_context(features)
        return jnp.concatenate([self.note_embed(before), jnp.broadcast_to(about, (*before.shape, self.embed_size))], axis=-1)

    def _note_logits(self, ys: Array, before: Array, context: Context) -> Array:
        """Computes scores (B, T, K, P + 1), with impossible events at NEVER."""
        features = context.features[:, :, None]
        scores = (self.note_head(ys) + self.head(features)).astype(jnp.float32)
        relative = self._relative(context.past, self.note_relative(ys) + self.relative(features))
        intervals = (self.interval(ys) + self.interval_context(features)).astype(jnp.float32)
        places = _places((*before.shape, self.pitches))
        at_start = (before == self.pitches)[..., None]
        possible = at_start | (places < before[..., None] if self.order == "descending" else places > before[..., None])
        gained = cast(Array, _by_interval(self.order, intervals, before))
        pitches = scores[..., :-1] + relative + gained
        return jnp.concatenate([jnp.where(possible, pitches, NEVER), scores[..., -1:]], axis=-1)

    def _relative(self, past: Array, kernels: Array) -> Array:
        """sum_m sum_d K[m, d] x[m, p + d] of each pitch p.

        Args:
          past: (B, T, M, P).
          kernels: (B, T, K, M (2 R + 1)).

        Returns:
          (B, T, K, P) in float32.
        """
        padded = jnp.pad(past, ((0, 0),) * (past.ndim - 1) + ((self.reach, self.reach),))
        around = padded[..., np.arange(self.pitches)[:, None] + np.arange(2 * self.reach + 1)]  # (..., M, P, 2 R + 1)
        around = jnp.moveaxis(around, -3, -2).reshape(*past.shape[:-2], self.pitches, -1)
        return jnp.einsum("btpd,btkd->btkp", around, kernels.astype(jnp.float32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _by_interval(order: str, scores: Array, before: Array) -> Array:
    """Computes what each pitch gains by its distance from the note before, (..., P); 0 if there is none (P).

    Descending, pitch p gets scores[before - p - 1]. That is its own transpose, since q = before - p - 1 is p = before - q - 1; a
    gradient by scatter would take much longer on a CPU.

    Args:
      order: "descending" or "ascending".
      scores: (..., P), of the distances 1, 2, ...
      before: (...) int.
    """
    places = _places(scores.shape)
    sources = before[..., None] - 1 - places if order == "descending" else places - before[..., None] - 1
    return _taken(scores, sources, before)


def _taken(values: Array, sources: Array, before: Array) -> Array:
    pitches = values.shape[-1]
    known = (sources >= 0) & (sources < pitches) & (before < pitches)[..., None]
    return jnp.where(known, jnp.take_along_axis(values, jnp.clip(sources, 0, pitches - 1), axis=-1), 0)


def _by_interval_forward(order, scores, before):
    return _by_interval(order, scores, before), before


def _by_interval_backward(order, before, gradient):
    places = _places(gradient.shape)
    sources = before[..., None] - 1 - places if order == "descending" else places + before[..., None] + 1
    return _taken(gradient, sources, before), None


_by_interval.defvjp(_by_interval_forward, _by_interval_backward)


def _features(frames: Array, first: Array) -> Array:
    """Pitches, pitch classes (how often each sounds), and whether a piece begins: (B, T, P + 13)."""
    batch, steps, pitches = frames.shape
    octaves = -(-pitches // 12)
    padded = jnp.pad(frames, ((0, 0), (0, 0), (0, 12 * octaves - pitches)))
    classes = jnp.sum(padded.reshape(batch, steps, octaves, 12), axis=2)
    begins = first[:, None] & (_places((batch, steps)) == 0)
    return jnp.concatenate([frames, classes, begins[..., None].astype(frames.dtype)], axis=-1)
