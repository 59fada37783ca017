"""Rule-based canons and cadences, whose exact entropy is known."""

import collections
import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from seqjax.data.draws import uniform

SCALE = (0, 2, 4, 5, 7, 9, 11)
KEYS = tuple(range(12))  # semitones of the tonic above C
LEADER, FOLLOWER, CHORDS = 72, 60, 48  # the tonic of each voice, and the base pitch of chords, in C
DEGREES = range(8)  # scale degrees of both voices, from the tonic to the octave
FIRST_DEGREES = (0, 2, 4, 7)
STEPS = {0: 1, 1: 4, -1: 4, 2: 2, -2: 2, 3: 1, -3: 1, 4: 1, -4: 1}  # a step of the leader -> weight
CONSONANT = (0, 2, 4, 5)  # degrees between the voices, octaves apart: unison, third, fifth, sixth
DELAYS = (2, 4)  # delay of the follower in frames
CANON, CADENCE = 12, 4  # frames of the two halves of a phrase
PHRASES = (2, 3, 4)  # phrases in a piece
CHORD = {
    "I": (0, 19, 24, 28), "IV": (5, 21, 24, 29), "ii6": (5, 21, 26, 29), "vi": (-3, 16, 24, 28), "I64": (7, 19, 24, 28),
    "V": (7, 19, 23, 26), "V7": (7, 17, 23, 26),
}  # fmt: skip
PROGRESSION = ({"IV": 5, "ii6": 3, "vi": 2}, {"I64": 2, "V": 3}, {"V": 1, "V7": 1}, {"I": 4, "vi": 1})  # chord -> weight

Frame = tuple[int, ...]  # MIDI pitches, ascending


class State(NamedTuple):
    """The part of a piece's history that decides how it may continue."""

    key: int
    step: int  # frames of the phrase so far
    delay: int  # delay of the follower; 0 before it has entered
    tail: tuple[int, ...]  # the leader's last degrees


class Choice(NamedTuple):
    """One way to continue."""

    probability: float
    frame: Frame
    state: State


def choices(state: State | None) -> list[Choice]:
    """All ways in which a piece may continue, with probabilities that sum to one; no two have the same frame.

    A piece starts with the tonic chord of a key. Each phrase is a canon, then a cadence. In the canon a leader moves by small steps,
    and a follower repeats it an octave below, 2 or 4 frames later, decided when it may enter. The leader takes only notes that are above
    the follower's and consonant with them. The cadence is four chords: subdominant, dominant twice, tonic.

    Since all continuations have different frames, the frames so far determine the state: nothing is hidden, so `entropy_rate` is exact.

    Args:
      state: after the frames so far; None before the first.

    Example:
      >>> opening = choices(None)
      >>> len(opening), opening[0].frame, [choice.frame for choice in choices(opening[0].state)]
      (12, (48, 67, 72, 76), [(72,), (76,), (79,), (84,)])
    """
    if state is None:
        return [Choice(1 / len(KEYS), _chord("I", key), State(key, 0, 0, ())) for key in KEYS]
    if state.step < CANON:
        return list(_canon(state))
    after = state.step + 1
    following = State(state.key, after if after < CANON + CADENCE else 0, 0, ())
    weights = PROGRESSION[state.step - CANON]
    return [Choice(weight / sum(weights.values()), _chord(name, state.key), following) for name, weight in weights.items()]


def _chord(name: str, key: int) -> Frame:
    return tuple(CHORDS + key + semitones for semitones in CHORD[name])


def _canon(state: State) -> Iterable[Choice]:
    key, step, delay, tail = state
    for share, entered in _entries(step, delay):
        follower = tail[-entered] if entered else None
        weights = _leader(tail[-1] if tail else None, follower)
        for degree, weight in weights.items():
            voices = [_pitch(LEADER, key, degree)] if follower is None else [_pitch(FOLLOWER, key, follower), _pitch(LEADER, key, degree)]
            kept = (*tail, degree)[-(entered or max(DELAYS)) :] if step + 1 < CANON else ()
            after = State(key, step + 1, entered if step + 1 < CANON else 0, kept)
            yield Choice(share * weight / sum(weights.values()), tuple(voices), after)


def _entries(step: int, delay: int) -> list[tuple[float, int]]:
    """(probability, delay): whether the follower enters now; a delay of 0 means not yet."""
    if delay or step not in DELAYS:
        return [(1.0, delay)]
    left = [other for other in DELAYS if other >= step]
    return [(1 / len(left), step)] + ([(1 - 1 / len(left), 0)] if len(left) > 1 else [])


def _leader(last: int | None, follower: int | None) -> dict[int, int]:
    """Degree -> weight."""
    if last is None:
        return dict.fromkeys(FIRST_DEGREES, 1)
    near = {last + step: weight for step, weight in STEPS.items() if last + step in DEGREES}
    if follower is None:
        return near
    return {degree: weight for degree, weight in near.items() if (degree - follower) % 7 in CONSONANT and degree + 7 > follower}


def _pitch(tonic: int, key: int, degree: int) -> int:
    return tonic + key + 12 * (degree // 7) + SCALE[degree % 7]


def canon_pieces(number: int, seed: int) -> list[list[Frame]]:
    """Pieces of 2 to 4 phrases, the same on every machine for a given seed.

    Args:
      number: how many pieces.
      seed: determines the draws.

    Example:
      >>> [piece] = canon_pieces(1, seed=0)
      >>> len(piece), piece[:3]
      (49, [(51, 70, 75, 79), (75,), (75,)])
    """
    bits, found = np.random.PCG64(seed), []
    for _ in range(number):
        phrases = PHRASES[int(uniform(bits, 1)[0] * len(PHRASES))]
        state, piece = None, []
        for draw in uniform(bits, 1 + phrases * (CANON + CADENCE)).tolist():
            state, frame = _drawn(choices(state), draw)
            piece.append(frame)
        found.append(piece)
    return found


def _drawn(ways: Sequence[Choice], draw: float) -> tuple[State, Frame]:
    for way, total in zip(ways, itertools.accumulate(way.probability for way in ways)):
        if draw < total:
            return way.state, way.frame
    return ways[-1].state, ways[-1].frame


def rules_nats(piece: Iterable[Frame]) -> np.ndarray:
    """-log p of each frame of a piece under the rules, in nats, float64 (T,): no model can do better on average.

    Args:
      piece: MIDI pitches of each frame, ascending.

    Raises:
      ValueError: the rules do not allow a frame.

    Example:
      >>> rules_nats([(48, 67, 72, 76), (72,)]).round(3).tolist()  # one of 12 keys, one of 4 first notes
      [2.485, 1.386]
    """
    return np.array([-math.log(taken.probability) for _, taken in _followed(piece)])


def independent_nats(piece: Iterable[Frame]) -> np.ndarray:
    """-log p of each frame, in nats, float64 (T,), if pitches were independent with their exact probabilities given the frames before.

    Args, Raises: as `rules_nats`.

    Example:
      >>> independent_nats([(48, 67, 72, 76), (72,)]).round(3).tolist()  # 4 log 4 - 3 log 3 for one of 4 first notes
      [11.835, 2.249]
    """
    nats = []
    for ways, taken in _followed(piece):
        shares = _sounding(ways)
        nats.append(-sum(math.log(share if pitch in taken.frame else 1 - share) for pitch, share in shares.items() if share < 1 - 1e-9))
    return np.array(nats)


def _followed(piece: Iterable[Frame]) -> Iterator[tuple[list[Choice], Choice]]:
    """At each frame, all ways to continue and the one taken."""
    state = None
    for place, frame in enumerate(piece, 1):
        ways = choices(state)
        taken = next((way for way in ways if way.frame == tuple(frame)), None)
        if taken is None:
            raise ValueError(f"frame {place}, {tuple(frame)}, does not follow from those before by the rules")
        yield ways, taken
        state = taken.state


def _sounding(ways: Iterable[Choice]) -> dict[int, float]:
    """Pitch -> the probability that it sounds."""
    shares: dict[int, float] = collections.defaultdict(float)
    for way in ways:
        for pitch in way.frame:
            shares[pitch] += way.probability
    return shares


@functools.cache
def entropy_rate() -> tuple[float, float]:
    r"""The lowest possible mean of -log p per frame after the first, in nats, and the lowest for models with independent pitches.

    Phrases all have the same length and depend on each other only through the key, which the first frame reveals. So the rate is that of
    one phrase, averaged over the probabilities of all states, which are computed frame by frame:

    .. math:: H = \frac{1}{L} \sum_{t=1}^{L} \sum_s P(s_t = s) \, H(x_t \mid s), \quad
              H' = \frac{1}{L} \sum_{t=1}^{L} \sum_s P(s_t = s) \sum_p h(P(x_{t,p} = 1 \mid s))

    with h the binary entropy. H is the mean of `rules_nats`, which a model of whole frames can reach; H' is the limit for a model of
    independent pitches, which can give each pitch no more than its probability given all frames before.

    Example:
      >>> [round(rate, 4) for rate in entropy_rate()]
      [1.1818, 2.2624]
    """
    rates, states = np.zeros(2), {State(0, 0, 0, ()): 1.0}
    for _ in range(CANON + CADENCE):
        following: dict[State, float] = collections.defaultdict(float)
        for state, share in states.items():
            ways = choices(state)
            for way in ways:
                following[way.state] += share * way.probability
            independent = sum(_entropy((p, 1 - p)) for p in _sounding(ways).values())
            rates += share * np.array([_entropy(way.probability for way in ways), independent])
        states = following
    rates /= CANON + CADENCE
    return float(rates[0]), float(rates[1])


def _entropy(probabilities: Iterable[float]) -> float:
    return -sum(p * math.log(p) for p in probabilities if p > 1e-15)
