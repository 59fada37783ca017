"""Baselines for music: pitch frequencies, repeating the last frame, and an n-gram of chords."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from seqjax.text.ngram import NGramModel
from seqjax.text.vocabulary import BOS, EOS, PAD, UNK

Rolls = Sequence[np.ndarray]  # uint8 (T, P) of each piece


def frame_scores(nats: Sequence[np.ndarray], rolls: Rolls, answers: Rolls | None = None, *, first: bool = True) -> dict[str, float]:
    """The metrics of `seqjax.training.metrics.frame_loss` from the loss of each frame.

    Args:
      nats: (T,) of each piece.
      rolls: the pieces.
      answers: the likeliest pitches of each frame, (T, P) of each piece; without it there is no accuracy.
      first: whether the first frames have a probability.

    Example:
      >>> scores = frame_scores([np.array([4.0, 2.0])], [np.ones((2, 3))], [np.array([[1, 1, 1], [1, 0, 0]])])
      >>> {name: round(score, 3) for name, score in scores.items()}
      {'loss': 2.0, 'loss_with_first': 3.0, 'frame_accuracy': 0.333}
    """
    found = {"loss": float(np.concatenate([piece[1:] for piece in nats]).mean())}
    if first:
        found["loss_with_first"] = float(np.concatenate(list(nats)).mean())
    if answers is not None:
        given, true = (np.concatenate([roll[1:] != 0 for roll in several]) for several in (answers, rolls))
        found["frame_accuracy"] = float((given & true).sum() / max((given | true).sum(), 1))
    return found


def pitch_frequencies(train: Rolls, part: Rolls) -> dict[str, float]:
    """Each pitch sounds independently, as often as in training (with add-one smoothing).

    Example:
      >>> round(pitch_frequencies([np.array([[1, 0], [1, 0]])], [np.array([[1, 0], [1, 0]])])["loss"], 4)  # 2 log(4 / 3)
      0.5754
    """
    shares = _shares(train)
    answers = [np.broadcast_to(shares > 0.5, roll.shape) for roll in part]
    return frame_scores([bernoulli_nats(roll, shares) for roll in part], part, answers)


def repeat_last(fitted: Rolls, part: Rolls) -> dict[str, float]:
    """The last frame again: a share of what sounded continues, a share of what did not begins, the same two for all pitches.

    Args:
      fitted: the pieces that the two probabilities are estimated from: the validation part.
      part: to score.

    Example:
      >>> piece = np.array([[1, 0], [1, 0], [1, 0]])
      >>> repeat_last([piece], [piece])["frame_accuracy"]
      1.0
    """
    before, after = (np.concatenate([roll[where] != 0 for roll in fitted]) for where in (slice(None, -1), slice(1, None)))
    begins, goes_on = ((after[before == was].sum() + 1) / ((before == was).sum() + 2) for was in (False, True))
    nats, answers = [], []
    for roll in part:
        last = np.concatenate([np.zeros_like(roll[:1]), roll[:-1]]) != 0
        nats.append(bernoulli_nats(roll, np.where(last, goes_on, begins)))
        answers.append(last)
    return frame_scores(nats, part, answers, first=False)


def chord_ngram(train: Rolls, part: Rolls, *, order: int) -> dict[str, float]:
    """An interpolated modified Kneser-Ney model whose tokens are whole frames.

    Chords that occur once in training are one token together, "another chord", which then costs what its pitches do by
    `pitch_frequencies` besides.

    Args:
      train, part: the pieces.
      order: n.

    Example:
      >>> piece = np.eye(2, dtype=np.uint8)[[0, 1, 0, 1, 0, 1]]
      >>> round(chord_ngram([piece], [piece], order=2)["loss"], 3)
      0.358
    """
    counts = Counter(frame.tobytes() for roll in train for frame in _packed(roll))
    ids = {chord: EOS + 1 + place for place, chord in enumerate(chord for chord, count in counts.items() if count > 1)}
    (tokens, starts), (part_tokens, part_starts) = (_stream(rolls, ids) for rolls in (train, part))
    model = NGramModel.fit(tokens, starts, order=order, vocab_size=EOS + 1 + len(ids), excluded=(PAD, BOS, EOS))
    nats, shares = -model.log_probs(part_tokens, part_starts), _shares(train)
    nats += np.where(part_tokens == UNK, np.concatenate([bernoulli_nats(roll, shares) for roll in part]), 0)
    return frame_scores(np.split(nats, np.flatnonzero(part_starts)[1:]), part)


def bernoulli_nats(roll: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """-log p of each frame where each pitch sounds with its own probability, (T,).

    Args:
      roll: (T, P), not 0 where a pitch sounds.
      shares: (P,) or (T, P), strictly between 0 and 1.

    Example:
      >>> bernoulli_nats(np.array([[1, 0]]), np.array([0.5, 0.5])).round(3).tolist()
      [1.386]
    """
    return -np.log(np.where(roll != 0, shares, 1 - shares)).sum(axis=1)


def _shares(rolls: Rolls) -> Any:
    frames = sum(map(len, rolls))
    return (sum((roll != 0).sum(axis=0) for roll in rolls) + 1) / (frames + 2)


def _packed(roll: np.ndarray) -> np.ndarray:
    return np.packbits(roll != 0, axis=1)


def _stream(rolls: Rolls, ids: dict[bytes, int]) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.array([ids.get(frame.tobytes(), UNK) for roll in rolls for frame in _packed(roll)], np.int32)
    starts = np.zeros(len(tokens), bool)
    starts[np.cumsum([0, *map(len, rolls)][:-1])] = True
    return tokens, starts
