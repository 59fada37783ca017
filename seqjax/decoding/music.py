"""Music from a model: sampling frame by frame, optionally with a fixed voice; and scoring pieces."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.data.pipeline.rolls import roll_windows
from seqjax.errors import UserError
from seqjax.models.music import Context, MusicModel

FREE = -1  # in place of a fixed pitch
VOICES = {"top": "descending", "bass": "ascending"}  # the voice that can be fixed -> the order in which notes must be written


def draw_frames(
    model: MusicModel,
    params: Any,
    context: Context,
    key: jax.Array | None = None,
    *,
    temperature: float = 1.0,
    voice: str = "top",
    fixed: jax.Array | None = None,
) -> jax.Array:
    """Draws one frame for each context.

    Args:
      model, params: the model.
      context: leaves (B, T, ...), as the model gives it.
      key: a random key; not used at a temperature of 0.
      temperature: divisor of the scores; 0 takes the likeliest: pitches above one half, or note by note.
      voice: "top" or "bass", the voice given by `fixed`.
      fixed: (B, T) int, the index of the pitch that is the highest (or lowest) of each frame; -1 leaves it to the model.

    Returns:
      bool (B, T, P): which pitches sound.

    Raises:
      UserError: the model writes notes in an order that begins with another voice.

    Example:
      >>> import seqjax
      >>> model = MusicModel(seqjax.gru(8), "notes", embed_size=6, max_notes=4)
      >>> none = jnp.zeros((1, 3, 88))
      >>> params = model.init(jax.random.key(0), none, none, method="whole")["params"]
      >>> context = model.apply({"params": params}, none)[1]
      >>> frames = draw_frames(model, params, context, jax.random.key(1), fixed=jnp.array([[40, 45, 40]]))
      >>> [int(jnp.flatnonzero(frame)[-1]) for frame in frames[0]]
      [40, 45, 40]
    """
    if fixed is not None:
        check_voice(model, voice)
    shape = context.past.shape[:2]
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, 1, *leaf.shape[2:]), context)
    fixed = jnp.full(shape, FREE) if fixed is None else jnp.asarray(fixed)
    draw = _draw_notes if model.output == "notes" else functools.partial(_draw_pitches, voice=voice)
    return draw(model, params, flat, key, temperature, fixed.reshape(-1)).reshape(*shape, -1)


def check_voice(model: MusicModel, voice: str) -> None:
    """Refuses a fixed voice that the model cannot write around.

    Example:
      >>> import seqjax
      >>> check_voice(MusicModel(seqjax.gru(8), "notes", order="ascending"), "top")
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: this model writes the notes of a frame in ascending order, which can hold the bass fixed and not the top
    """
    if voice not in VOICES:
        raise UserError(f"voice={voice!r} is not known; choose one of {', '.join(VOICES)}")
    if model.output == "notes" and VOICES[voice] != model.order:
        able = next(name for name, order in VOICES.items() if order == model.order)
        raise UserError(
            f"this model writes the notes of a frame in {model.order} order, which can hold the {able} fixed and not the {voice}"
        )


def _draw_pitches(model, params, context, key, temperature, fixed, *, voice):
    logits = model.apply({"params": params}, context, method="logits")[:, 0]
    if temperature:
        sounding = jax.random.bernoulli(key, jax.nn.sigmoid(logits / temperature))
    else:
        sounding = logits > 0
    places, pitch = jnp.arange(model.pitches)[None], fixed[:, None]
    within = places < pitch if voice == "top" else places > pitch
    return jnp.where(pitch == FREE, sounding, (sounding & within) | (places == pitch))


def _draw_notes(model, params, context, key, temperature, fixed):
    rows = len(fixed)
    variables = {"params": params}
    keys = jax.random.split(key, model.max_notes) if temperature else jnp.zeros((model.max_notes,))

    def write(state, inputs):
        carry, before, frames, ended = state
        key, place = inputs
        carry, scores = model.apply(variables, context, carry, before, method="note_step")
        note = jax.random.categorical(key, scores / temperature) if temperature else jnp.argmax(scores, axis=-1)
        note = jnp.where((place == 0) & (fixed != FREE), fixed, note).astype(jnp.int32)
        ended = ended | (note == model.pitches)
        frames = frames | (jax.nn.one_hot(note, model.pitches, dtype=bool) & ~ended[:, None])
        return (carry, jnp.where(ended, before, note), frames, ended), None

    carry = model.apply(variables, rows, method="note_carry")
    state = (carry, jnp.full((rows,), model.pitches, jnp.int32), jnp.zeros((rows, model.pitches), bool), jnp.zeros((rows,), bool))
    return jax.lax.scan(write, state, (keys, jnp.arange(model.max_notes)))[0][2]


class RollSampler:
    """Draws pieces from a model, compiled once for each length.

    Args:
      model: the model.

    Example:
      >>> import seqjax
      >>> model = MusicModel(seqjax.gru(8), embed_size=6)
      >>> none = jnp.zeros((1, 3, 88))
      >>> params = model.init(jax.random.key(0), none, none, method="whole")["params"]
      >>> RollSampler(model)(params, jax.random.key(1), length=4, prompt=np.ones((2, 88))).shape
      (6, 88)
    """

    def __init__(self, model: MusicModel):
        self._model = model
        self._read = jax.jit(lambda params, before: model.apply({"params": params}, before)[0])
        self._write = jax.jit(self._written, static_argnames=("length", "temperature", "voice"))

    def __call__(
        self,
        params: Any,
        key: jax.Array,
        *,
        length: int,
        prompt: np.ndarray | None = None,
        temperature: float = 1.0,
        fixed: np.ndarray | None = None,
        voice: str = "top",
    ) -> np.ndarray:
        """Draws a piece.

        Args:
          params: the model's parameters.
          key: a random key; the same key gives the same piece.
          length: frames to draw.
          prompt: (T, P), the first frames of the piece.
          temperature: as in `draw_frames`.
          fixed: (length,) int, the pitch index of a voice in each frame that is drawn, -1 where it is free.
          voice: as in `draw_frames`.

        Returns:
          uint8 (T + length, P), the prompt first.

        Raises:
          UserError: as `draw_frames`.
        """
        model = self._model
        if fixed is not None:
            check_voice(model, voice)
        start = np.zeros((0, model.pitches), np.uint8) if prompt is None else (np.asarray(prompt) != 0).astype(np.uint8)
        carry, last, first = model.initial_carry(params, 1), np.zeros((1, model.pitches), np.uint8), not len(start)
        if len(start):
            before = np.concatenate([np.zeros_like(start[:1]), start[:-1]])
            carry, last = self._read(params, before[None]), start[-1:]
        how = {"length": length, "temperature": float(temperature), "voice": voice}
        drawn = self._write(params, carry, last, jnp.asarray(first), key, None if fixed is None else jnp.asarray(fixed), **how)
        return np.concatenate([start, np.asarray(drawn, np.uint8)])

    def _written(self, params, carry, last, first, key, fixed, *, length, temperature, voice):
        model = self._model

        def step(state, inputs):
            carry, before, first = state
            key, pitch = inputs
            carry, context = cast(Any, model.apply({"params": params}, before[:, None], carry, first=first[None]))
            pitch = None if pitch is None else pitch[None, None]
            frame = draw_frames(model, params, context, key, temperature=temperature, voice=voice, fixed=pitch)[:, 0]
            return (carry, frame.astype(before.dtype), jnp.zeros_like(first)), frame[0]

        return jax.lax.scan(step, (carry, last, first), (jax.random.split(key, length), fixed))[1]


class Scored(NamedTuple):
    """A model's scores of a piece."""

    nats: np.ndarray  # float32 (T,), -log p of each frame, the first from nothing
    answers: np.ndarray  # bool (T, P), the likeliest pitches of each frame


class RollScorer:
    """Scores pieces in windows, with the carry passed on; compiled once per shape.

    Args:
      model: the model.
      batch_size: pieces per batch.
      boundaries, window: as in `roll_windows`.

    Example:
      >>> import seqjax
      >>> model = MusicModel(seqjax.gru(8), embed_size=6)
      >>> none = jnp.zeros((1, 3, 88))
      >>> params = model.init(jax.random.key(0), none, none, method="whole")["params"]
      >>> [piece] = RollScorer(model, batch_size=2, boundaries=(4,), window=4)(params, [np.ones((7, 88), np.uint8)])
      >>> piece.nats.shape, piece.answers.shape
      ((7,), (7, 88))
    """

    def __init__(self, model: MusicModel, *, batch_size: int, boundaries: Sequence[int], window: int):
        self._model, self._how = model, {"batch_size": batch_size, "boundaries": boundaries, "window": window}
        self._step = jax.jit(self._scored)

    def _scored(self, params, carry, batch):
        variables, model = {"params": params}, self._model
        carry, context = cast(Any, model.apply(variables, batch.before, carry, first=batch.first, lengths=batch.lengths))
        nats = model.apply(variables, context, batch.frames, method="nats")
        return carry, nats, draw_frames(model, params, context, temperature=0)

    def __call__(self, params: Any, rolls: Sequence[np.ndarray]) -> list[Scored]:
        """Scores of pieces, uint8 (T, P) each."""
        found: list[list[Scored]] = [[] for _ in rolls]
        carry = self._model.initial_carry(params, self._how["batch_size"])
        for places, batch in roll_windows(rolls, **self._how):
            carry, nats, answers = self._step(params, carry, batch)
            for place, end, *row in zip(places, batch.lengths, np.asarray(nats), np.asarray(answers)):
                found[place].append(Scored(*(column[:end] for column in row)))
        return [Scored(*map(np.concatenate, zip(*windows))) for windows in found]


def sounding_shares(model: MusicModel, params: Any, roll: np.ndarray, key: jax.Array, draws: int = 64) -> np.ndarray:
    """Estimates the probability of each pitch in each frame of a piece, given the frames before.

    Args:
      model, params: the model.
      roll: uint8 (T, P).
      key: a random key; with "notes", the result is the share of sampled frames that have it.
      draws: number of samples.

    Returns:
      float32 (T, P).

    Example:
      >>> import seqjax
      >>> model = MusicModel(seqjax.gru(8), embed_size=6)
      >>> none = jnp.zeros((1, 3, 88))
      >>> params = model.init(jax.random.key(0), none, none, method="whole")["params"]
      >>> sounding_shares(model, params, np.ones((3, 88), np.uint8), jax.random.key(1)).shape
      (3, 88)
    """
    before = np.concatenate([np.zeros_like(roll[:1]), roll[:-1]])
    _, context = cast(Any, model.apply({"params": params}, before[None]))
    if model.output == "frames":
        logits = cast(jax.Array, model.apply({"params": params}, context, method="logits"))
        return np.asarray(jax.nn.sigmoid(logits)[0])
    draw = jax.jit(lambda key: draw_frames(model, params, context, key)[0])
    return np.asarray(np.mean([np.asarray(draw(key)) for key in jax.random.split(key, draws)], axis=0, dtype=np.float32))
