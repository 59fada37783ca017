"""Streaming speech recognition: samples arrive in pieces of any size, scores are returned as soon as they are certain.

A recogniser with unidirectional cells, and features normalised by the frames so far, never looks ahead. So it can read
a sound block by block: the samples that the next frame still needs, the running mean and variance, the last inputs of
each convolution and the carry of the recurrent layers pass from one block to the next. All blocks have one size, so
there is one compiled step; a sound read at once (`whole`) uses the same blocks, so the scores are bit-identical however
the samples arrive.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.data.transforms.sounds import WHOLE, FrontEnd, as_float, running, running_start
from seqjax.errors import UserError
from seqjax.models.speech import SpeechCarry
from seqjax.wrappers._bidirectional import BidirectionalCarry


class BlockState(NamedTuple):
    """The state passed from block to block."""

    before: jax.Array  # float32 (B, window - hop): the last samples
    statistics: Any  # of the frames so far; () if features are not normalised
    model: SpeechCarry


class StreamState(NamedTuple):
    """The state of a stream."""

    waiting: np.ndarray  # float32 (n,): samples that do not fill a block yet
    read: int  # samples so far
    given: int  # steps whose scores were returned
    block: BlockState


class SpeechStream:
    """Reads one sound as it arrives.

    Args:
      model: a Recogniser with cells in one direction.
      front: the FrontEnd, with normalize "running" or "none".
      steps: steps per block, which is how many scores are returned at a time.

    Raises:
      UserError: a bidirectional cell, or features normalised by the whole sound.

    Example:
      >>> from seqjax.models import make_stack
      >>> from seqjax.models.speech import Recogniser
      >>> front = FrontEnd(rate=8000, window=200, hop=80, mels=20, normalize="running")
      >>> model = Recogniser(5, make_stack("gru", 8, 1), filters=8)
      >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 4, 20)), jnp.array([4]))
      >>> stream = SpeechStream(model, front, steps=2)
      >>> state = stream.start(variables)
      >>> state, first = stream.feed(variables, state, np.ones(1000))
      >>> last = stream.finish(variables, state)
      >>> first.shape, last.shape, stream.whole(variables, np.ones(1000)).shape
      ((2, 5), (1, 5), (3, 5))
    """

    def __init__(self, model: Any, front: FrontEnd, *, steps: int = 5):
        front.check()
        if front.normalize in WHOLE:
            raise UserError("features normalised by the whole sound cannot be streamed; train with features.normalize=running")
        self._model, self._front = model, front
        self._per_step = front.hop * model.shortening
        self.samples = steps * self._per_step  # of a block

        def step(variables, state, samples):
            features = front.mel_spectra(state.before, samples)
            before = jnp.concatenate([state.before, samples], axis=1)[:, samples.shape[1] :]
            statistics = state.statistics
            if front.normalize == "running":
                statistics, features = running(statistics, features, front.horizon)
            carry, scores = model.apply(variables, state.model, features, method="step")
            return BlockState(before, statistics, carry), jax.nn.log_softmax(scores)

        self._step = jax.jit(step)
        self._scan = jax.jit(lambda variables, state, blocks: jax.lax.scan(lambda s, x: step(variables, s, x), state, blocks)[1])

    def start(self, variables: Any) -> StreamState:
        """The state before the first sample."""
        front = self._front
        carry = self._model.apply(variables, 1, front.mels, method="initial_carry")
        parts = jax.tree.leaves(carry, is_leaf=lambda part: isinstance(part, BidirectionalCarry))
        if any(isinstance(part, BidirectionalCarry) for part in parts):
            raise UserError("a recogniser that reads in both directions cannot be streamed; train with model.bidirectional=False")
        statistics = running_start(jnp.zeros((1, 1, front.mels))) if front.normalize == "running" else ()
        return StreamState(np.zeros(0, np.float32), 0, 0, BlockState(jnp.zeros((1, front.window - front.hop)), statistics, carry))

    def feed(self, variables: Any, state: StreamState, samples: np.ndarray) -> tuple[StreamState, np.ndarray]:
        """Reads the next samples.

        Args:
          variables: the model's variables.
          state: after the samples before.
          samples: (n,) float in [-1, 1] or int16; any number.

        Returns:
          (the state after, log probabilities (t, V) of the steps that are certain now, perhaps none).
        """
        waiting = np.concatenate([state.waiting, np.asarray(as_float(np.asarray(samples)), np.float32)])
        block, found = state.block, []
        for first in range(0, len(waiting) - self.samples + 1, self.samples):
            block, scores = self._step(variables, block, waiting[None, first : first + self.samples])
            found.append(np.asarray(scores[0]))
        used = len(found) * self.samples
        given = state.given + used // self._per_step
        return StreamState(waiting[used:], state.read + len(samples), given, block), self._joined(found)

    def finish(self, variables: Any, state: StreamState) -> np.ndarray:
        """Returns the log probabilities (t, V) of the last steps, once no more samples come."""
        missing = self.samples - len(state.waiting)
        _, scores = self._step(variables, state.block, np.pad(state.waiting, (0, missing))[None])
        return np.asarray(scores[0])[: state.read // self._per_step - state.given]

    def whole(self, variables: Any, samples: np.ndarray) -> np.ndarray:
        """Computes the log probabilities (T, V) of a whole sound, in one compiled loop over the same blocks."""
        samples = np.asarray(as_float(np.asarray(samples)), np.float32)
        count = -(-max(len(samples), 1) // self.samples)
        blocks = np.pad(samples, (0, count * self.samples - len(samples))).reshape(count, 1, self.samples)
        scores = self._scan(variables, self.start(variables).block, blocks)
        return np.asarray(scores[:, 0]).reshape(-1, scores.shape[-1])[: len(samples) // self._per_step]

    def _joined(self, found: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(found) if found else np.zeros((0, self._model.vocab_size), np.float32)
