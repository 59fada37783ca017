"""Speech recognition: log probabilities of whole sounds in batches, decoded texts, and the times of words."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.data.pipeline.buckets import one_pass
from seqjax.data.pipeline.speech import collate_speech
from seqjax.data.transforms.sounds import FrontEnd
from seqjax.decoding.ctc import align, collapse, prefix_search
from seqjax.decoding.fusion import Fusion
from seqjax.text import BOS, EOS, PAD, UNK


class Word(NamedTuple):
    """A word and when it was said."""

    text: str
    start: float  # s
    end: float  # s


class Heard(NamedTuple):
    """One hypothesis for a sound."""

    text: str
    score: float  # log p(text | sound), in nats, plus the language model's contribution if there is one
    ids: np.ndarray  # int32 (U,)


class SpeechReader:
    """Reads sounds with a trained recogniser, compiled once for each length of a batch.

    Args:
      model: a Recogniser.
      front: the FrontEnd.
      tokenizer: that of the transcripts.
      spaced: whether the tokens are words, which are joined with spaces.
      batch_size: sounds at a time.
      boundaries: the lengths, in samples, that batches are padded to.
      workers: threads that read sound files; 0 for sounds in memory.
    """

    def __init__(self, model: Any, front: FrontEnd, tokenizer: Any, *, batch_size: int, boundaries: Sequence[int], workers: int = 0):
        self.model, self.front, self.tokenizer = model, front, tokenizer
        self._batch_size, self._boundaries, self._workers = batch_size, boundaries, workers
        banned = np.zeros(tokenizer.vocab_size, bool)
        banned[[UNK, BOS, EOS]] = True

        @jax.jit
        def run(variables, samples, lengths):
            scores, steps = model.apply(variables, *front(samples, lengths))
            return jax.nn.log_softmax(jnp.where(jnp.asarray(banned)[None, None], -1e9, scores)), steps

        self._run = run

    @property
    def seconds_of_step(self) -> float:
        """Seconds of sound per step."""
        return self.front.hop * self.model.shortening / self.front.rate

    def log_probs(self, variables: Any, sounds: Sequence[Any]) -> list[np.ndarray]:
        """Computes log p(label) at each step of each sound.

        Args:
          variables: the model's variables.
          sounds: int16 arrays, or objects with `read()`.

        Returns:
          float32 (T, V) for each; blank is 0.
        """
        found: list[np.ndarray] = [np.zeros((0, self.tokenizer.vocab_size), np.float32)] * len(sounds)
        nothing = [np.zeros(0, np.int32)] * len(sounds)
        collate = collate_speech(sounds, nothing, np.zeros(len(sounds), np.int32), lambda samples: 1, workers=self._workers)
        for places, batch in one_pass([len(sound) for sound in sounds], collate, self._batch_size, self._boundaries):
            rows, steps = jax.device_get(self._run(variables, batch.samples, batch.lengths))
            for row, place in enumerate(places):
                found[place] = rows[row, : steps[row]]
        return found

    def greedy(self, log_probs: Sequence[np.ndarray]) -> list[str]:
        """Decodes each by its likeliest path."""
        return [self.text(collapse(rows.argmax(axis=1))) for rows in log_probs]

    def search(self, log_probs: Sequence[np.ndarray], *, width: int, n_best: int = 1, fusion: Fusion | None = None) -> list[list[Heard]]:
        """Finds the n best texts of each by prefix beam search; with width 1 and no language model, the greedy ones.

        Args:
          log_probs: as `log_probs` gives them.
          width: prefixes that are kept.
          n_best: number of texts to return, at most the width.
          fusion: a language model and its weight.
        """
        if width == 1 and fusion is None:
            ids = [collapse(rows.argmax(axis=1)) for rows in log_probs]
            return [[Heard(self.text(found), float(rows.max(axis=1).sum()), found)] for found, rows in zip(ids, log_probs)]
        steps = [max(self._steps(samples), 1) for samples in self._boundaries]
        found: list[list[Heard]] = [[]] * len(log_probs)

        def collate(places, rows, length):
            batch = np.zeros((rows, length, self.tokenizer.vocab_size), np.float32)
            for row, place in enumerate(places):
                batch[row, : len(log_probs[place])] = log_probs[place]
            return batch, np.array([len(log_probs[place]) for place in places] + [0] * (rows - len(places)), np.int32)

        lengths = [len(rows) for rows in log_probs]
        for places, (batch, real) in one_pass(lengths, collate, self._batch_size, sorted(set(steps))):
            prefixes = jax.device_get(prefix_search(batch, real, width=width, fusion=fusion))
            for row, place in enumerate(places):
                found[place] = [
                    Heard(self.text(ids[:length]), float(score), ids[:length])
                    for ids, length, score in zip(prefixes.labels[row], prefixes.lengths[row], prefixes.scores[row])
                    if np.isfinite(score) and score > -1e8
                ][:n_best]
        return found

    def words(self, log_probs: np.ndarray, ids: np.ndarray) -> list[Word]:
        """Finds when each word of a hypothesis was said, by the likeliest alignment.

        Args:
          log_probs: (T, V).
          ids: (U,), of the hypothesis.
        """
        spans = align(log_probs, ids)
        units = [self.text(np.array([each])) if each != PAD else "" for each in ids]
        if self.spaced:
            return [Word(unit, *self._seconds(*span)) for unit, span in zip(units, spans)]
        return self._join(ids, spans)

    @property
    def spaced(self) -> bool:
        """Whether each token is a word."""
        return type(self.tokenizer).__name__ == "WordTokenizer"

    def text(self, ids: np.ndarray) -> str:
        """The text of labels, with single spaces."""
        return " ".join(self.tokenizer.decode(np.asarray(ids, np.int64)).split())

    def _join(self, ids: np.ndarray, spans: Sequence[tuple[int, int]]) -> list[Word]:
        """Joins characters or pieces to words: a word ends where the text with one more token has another word."""
        found: list[Word] = []
        for count, (start, end) in enumerate(spans, 1):
            text = self.tokenizer.decode(np.asarray(ids[:count], np.int64))
            words = text.split()
            if not text.strip() or text[-1].isspace():
                continue
            begin, stop = self._seconds(start, end)
            if len(words) > len(found):
                found.append(Word(words[-1], begin, stop))
            else:
                found[-1] = Word(words[-1], found[-1].start, stop)
        return found

    def _seconds(self, start: int, end: int) -> tuple[float, float]:
        return start * self.seconds_of_step, end * self.seconds_of_step

    def _steps(self, samples: int) -> int:
        return samples // self.front.hop // self.model.shortening


def steps_of(front: FrontEnd, shortening: int) -> Callable[[Any], Any]:
    """Converts samples to steps of the recogniser, exactly.

    Example:
      >>> front = FrontEnd(rate=8000, window=200, hop=80, mels=40)
      >>> steps_of(front, 4)(8000)
      25
    """
    return lambda samples: samples // front.hop // shortening
