r"""Morse code in noise: callsigns and words, each with its own speed and pitch, at a given signal-to-noise ratio.

The ratio follows the radio amateurs' convention of a bandwidth of 2500 Hz: the power of the tone while the key is down, over the
power of the white noise in 2500 Hz. A message is a pure function of (seed, index), and so is its sound.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from seqjax.data.draws import uniform

CODES: Mapping[str, str] = {
    "A": ".-", "B": "-...", "C": "-.-.", "D": "-..", "E": ".", "F": "..-.", "G": "--.", "H": "....", "I": "..", "J": ".---",
    "K": "-.-", "L": ".-..", "M": "--", "N": "-.", "O": "---", "P": ".--.", "Q": "--.-", "R": ".-.", "S": "...", "T": "-",
    "U": "..-", "V": "...-", "W": ".--", "X": "-..-", "Y": "-.--", "Z": "--..", "0": "-----", "1": ".----", "2": "..---",
    "3": "...--", "4": "....-", "5": ".....", "6": "-....", "7": "--...", "8": "---..", "9": "----.", "/": "-..-.", "?": "..--..",
}  # fmt: skip
LETTERS, DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"
COMMON = ("CQ", "DE", "QTH", "QRZ?", "QSL", "TNX", "FER", "UR", "RST", "599", "73", "K", "R", "NAME", "WX", "PSE", "AGN", "/P")
BANDWIDTH = 2500.0  # Hz, in which the noise power is measured
EDGE = 0.005  # s, the rise and fall times of a tone


class Manner(NamedTuple):
    """The ranges from which each message's keying is drawn."""

    rate: int = 4000  # samples per second
    snr: float = -6.0  # dB in 2500 Hz
    words_per_minute: tuple[float, float] = (18.0, 30.0)  # by the word PARIS: a dot is 1.2 s / wpm
    pitch: tuple[float, float] = (500.0, 700.0)  # Hz
    jitter: float = 0.1  # each mark and space is longer or shorter by at most this share
    silence: tuple[float, float] = (0.1, 0.5)  # s, before and after


USUAL = Manner()


class Message(NamedTuple):
    """A keyed text."""

    text: str
    samples: np.ndarray  # int16 (S,)
    speed: float  # words per minute
    pitch: float  # Hz


def compose(bits: np.random.PCG64) -> str:
    """One or two groups: callsigns, operators' abbreviations, words of random letters.

    Args:
      bits: the stream of random bits.

    Example:
      >>> compose(np.random.PCG64(1)), compose(np.random.PCG64(2))
      ('LP3OT', 'PS2B')
    """
    kinds = uniform(bits, 3)
    return " ".join(_group(bits, kind) for kind in kinds[1 : 2 + (kinds[0] < 0.25)])


def _group(bits: np.random.PCG64, kind: float) -> str:
    if kind < 0.35:
        prefix, suffix = _pick(bits, LETTERS, 1 + (uniform(bits, 1)[0] < 0.6)), _pick(bits, LETTERS, 1 + int(3 * uniform(bits, 1)[0]))
        return prefix + _pick(bits, DIGITS, 1) + suffix
    if kind < 0.6:
        return COMMON[int(len(COMMON) * uniform(bits, 1)[0])]
    return _pick(bits, LETTERS + DIGITS, 1 + int(5 * uniform(bits, 1)[0]))


def _pick(bits: np.random.PCG64, alphabet: str, number: int) -> str:
    return "".join(alphabet[int(len(alphabet) * share)] for share in uniform(bits, number))


def elements(text: str) -> tuple[np.ndarray, np.ndarray]:
    """A text as alternating marks and spaces, starting with a mark.

    Args:
      text: characters of `CODES`, and spaces.

    Returns:
      (bool (n,), whether the key is down; int (n,), lengths in dots: a dash is 3, between the marks of a character 1, between
      characters 3, between words 7).

    Example:
      >>> [part.tolist() for part in elements("ET")]
      [[True, False, True], [1, 3, 3]]
    """
    lengths: list[int] = []
    for word in text.split():
        for place, character in enumerate(word):
            if lengths:
                lengths.append(3 if place else 7)
            for number, mark in enumerate(CODES[character]):
                lengths += [1] * bool(number) + [1 if mark == "." else 3]
    return np.arange(len(lengths)) % 2 == 0, np.array(lengths)


def key(text: str, bits: np.random.PCG64, manner: Manner = USUAL) -> Message:
    """Keys a text with its own speed, pitch and jitter, in white noise.

    Args:
      text: the text to send.
      bits: the stream of random bits.
      manner: the ranges to draw from.

    Example:
      >>> message = key("SOS", np.random.PCG64(0))
      >>> message.text, message.samples.dtype, len(message.samples) / 4000 < 3
      ('SOS', dtype('int16'), True)
    """
    speed, pitch, phase, before, after = uniform(bits, 5)
    between = lambda share, low_high: low_high[0] + share * (low_high[1] - low_high[0])  # noqa: E731
    speed, pitch = between(speed, manner.words_per_minute), between(pitch, manner.pitch)
    down, dots = elements(text)
    seconds = dots * (1.2 / speed) * (1 + manner.jitter * (2 * uniform(bits, len(dots)) - 1))
    ends = between(before, manner.silence) + np.cumsum(seconds)
    number = int((ends[-1] + between(after, manner.silence)) * manner.rate)
    times = np.arange(number) / manner.rate
    envelope = np.zeros(number)
    for end, length in zip(ends[down], seconds[down]):
        first, last = int((end - length - EDGE) * manner.rate), int((end + EDGE) * manner.rate) + 1
        rising = (times[first:last] - (end - length)) / EDGE + 0.5
        falling = (end - times[first:last]) / EDGE + 0.5
        envelope[first:last] = np.maximum(envelope[first:last], np.clip(np.minimum(rising, falling), 0, 1))
    tone = np.sin(np.pi / 2 * envelope) ** 2 * np.sin(2 * np.pi * (pitch * times + phase))
    # The tone's power is 1/2 while the key is down; white noise of this deviation has 1/2 / snr in 2500 of rate / 2 Hz.
    deviation = np.sqrt(0.5 * 10 ** (-manner.snr / 10) * (manner.rate / 2) / BANDWIDTH)
    mixed = tone + deviation * normal(bits, number)
    return Message(text, np.round(mixed * (32767 / (1 + 4 * deviation))).clip(-32768, 32767).astype(np.int16), speed, pitch)


def normal(bits: np.random.PCG64, number: int) -> np.ndarray:
    """Standard normal numbers, by the Box-Muller method.

    Args:
      bits: the stream of random bits.
      number: how many numbers.

    Returns:
      float64 (number,).

    Example:
      >>> values = normal(np.random.PCG64(0), 10001)
      >>> len(values), bool(abs(values.mean()) < 0.03), bool(abs(values.std() - 1) < 0.02)
      (10001, True, True)
    """
    pairs = uniform(bits, 2 * (-(-number // 2))).reshape(2, -1)
    radius, angle = np.sqrt(-2 * np.log1p(-pairs[0])), 2 * np.pi * pairs[1]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:number]


def message(seed: int, index: int, manner: Manner = USUAL, most: int = 0) -> Message:
    """Message `index` of a seed.

    Args:
      seed, index: identify the message.
      manner: the ranges of its keying.
      most: maximum number of characters kept; 0 keeps all.

    Example:
      >>> message(0, 3).text == message(0, 3).text, message(0, 3).text == message(0, 4).text
      (True, False)
    """
    bits = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(index,)))
    text = compose(bits)
    return key(text[: most or None].strip(), bits, manner)


# A threshold decoder, as in radio amateurs' programs.


@functools.cache
def _characters() -> dict[str, str]:
    return {code: character for character, code in CODES.items()}


def decode_by_threshold(samples: np.ndarray, rate: int, pitch: tuple[float, float] = (400.0, 800.0)) -> str:
    """Decodes without learning: finds the pitch, filters, applies a threshold, and estimates the length of dots.

    The pitch is the strongest frequency of the whole sound. The tone's power is that of a matched filter, a window as long as a dot;
    several dot lengths are tried, and the one that fits the marks and spaces best is kept. The threshold separates the two clusters of the
    power (Otsu 1979). Marks longer than two dots are dashes; spaces longer than two dots end characters, longer than five dots words.

    Args:
      samples: (S,), float or int16.
      rate: samples per second.
      pitch: the range to search, in Hz.

    Returns:
      The text; unknown characters become "#".

    Example:
      >>> sent = key("CQ DE K1ABC", np.random.PCG64(0), Manner(snr=20))
      >>> decode_by_threshold(sent.samples, 4000)
      'CQ DE K1ABC'
    """
    samples = np.asarray(samples, np.float64)
    if len(samples) < rate // 5:
        return ""
    spectrum = np.abs(np.fft.rfft(samples)) ** 2
    frequencies = np.fft.rfftfreq(len(samples), 1 / rate)
    width = max(int(15 * len(samples) / rate), 1)  # keying spreads a tone over about 15 Hz
    smooth = np.convolve(spectrum, np.ones(width), mode="same")
    smooth[(frequencies < pitch[0]) | (frequencies > pitch[1])] = 0
    tone = frequencies[np.argmax(smooth)]
    mixed = samples * np.exp(-2j * np.pi * tone * np.arange(len(samples)) / rate)
    best = ("", -1.0)
    for dot in 1.2 / np.arange(16.0, 40.0, 2.0):  # speeds; the one whose marks and spaces fit its dot best is kept
        found, fit = _read_at(mixed, rate, dot)
        best = max(best, (found, fit), key=lambda pair: pair[1])
    return best[0]


def _read_at(mixed: np.ndarray, rate: int, dot: float) -> tuple[str, float]:
    """The text for a given dot length, and its fit: minus the mean squared error of marks and spaces in log dots."""
    width = max(int(0.8 * dot * rate), 1)
    sums = np.cumsum(np.concatenate([np.zeros(width // 2 + 1), mixed, np.zeros(width)]))
    power = np.abs(sums[width:] - sums[:-width])[: len(mixed)] / width
    down = power > _otsu(power)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], down, [False]]).astype(np.int8)))
    begins, ends = edges[::2], edges[1::2]
    long_enough = (ends - begins) > 0.35 * dot * rate  # shorter ones are noise
    begins, ends = begins[long_enough], ends[long_enough]
    if not len(begins):
        return "", -np.inf
    marks, spaces = (ends - begins) / (dot * rate), (begins[1:] - ends[:-1]) / (dot * rate)
    errors = [np.log(marks) - np.log(np.where(marks < 2, 1, 3)), np.log(np.maximum(spaces, 0.05)) - np.log(_spaces(spaces))]
    found, code = [], ""
    for place, mark in enumerate(marks):
        code += "." if mark < 2 else "-"
        space = spaces[place] if place < len(spaces) else 7.0
        if space >= 2:
            found.append(_characters().get(code, "#") + (" " if space >= 5 else ""))
            code = ""
    return "".join(found).strip(), -float(np.mean(np.square(np.concatenate(errors))))


def _spaces(spaces: np.ndarray) -> np.ndarray:
    return np.where(spaces < 2, 1, np.where(spaces < 5, 3, np.maximum(spaces, 7)))


def _otsu(values: np.ndarray) -> float:
    """The threshold that splits values into two clusters with the least variance within them."""
    counts, edges = np.histogram(values, 128)
    middles = (edges[:-1] + edges[1:]) / 2
    below, sums = np.cumsum(counts), np.cumsum(counts * middles)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1 + np.argmax(np.nan_to_num(between))])
