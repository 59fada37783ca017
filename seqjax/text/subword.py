"""Text as subword pieces, by the sentencepiece library: only characters never seen in training are unknown."""

import base64
import dataclasses
import functools
import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from seqjax.errors import UserError, missing
from seqjax.text.tokenizers import _check_flag, _check_text, _texts, _Tokenizer
from seqjax.text.vocabulary import BOS, EOS, PAD, SPECIAL_TOKENS, UNK, check_vocabulary

KINDS = ("unigram", "bpe")
SPACE = "▁"  # how a piece writes a space; every line begins with one
UNSEEN = "▅"  # not in any sentencepiece vocabulary, so that it can stand for the characters below
# Characters that a vocabulary cannot contain: the sign for a space itself, null and unit separator, which have a
# meaning in the library, and lone surrogates.
UNHOLDABLE = re.compile(f"[{SPACE}\x00\x1f\ud800-\udfff]")
# The model's names of the special tokens: trained with the plain names, it would skip these in the text.
SPECIAL_NAMES = tuple(UNSEEN + token for token in SPECIAL_TOKENS)

# Sums over the text are per thread, so a fixed number of threads gives the same model on every machine.
THREADS = 4
LONGEST = 4096  # characters trained on at once; more would be dropped or overflow inside the library
UNKNOWN_PENALTY = 10.0  # an unknown character's log probability is this far below that of the least likely piece


@dataclasses.dataclass(frozen=True)
class SubwordTokenizer(_Tokenizer):
    r"""Tokenizes into subword pieces learned from text by sentencepiece: a unigram model or byte-pair encoding.

    A unigram model splits a text X into the most probable pieces, where each piece has a probability:

        x* = argmax_x P(x),  P(x) = prod_i p(x_i),  x in S(X), the ways of writing X as pieces

    Byte-pair encoding repeatedly merges the pair of neighbouring pieces that was merged first in training.

    Text is not changed (unless `lower`): `decode(encode(text)) == text` if every character is in the vocabulary,
    including runs of spaces, tabs and spaces at the ends. A piece writes a space as `▁`, and a line starts with one, so
    that a word has the same pieces at the start of a line and within it. The end of a line, `\n`, is a token of its own.
    A run of characters that are not in the vocabulary is one unknown token; `▁` (U+2581), `▅` (U+2585), U+0000, U+001F
    and lone surrogates are always unknown. Text cannot name a special token: `<pad>` in a text is five characters.

    Args:
      model: the sentencepiece model trained by `fit`, as bytes or in base64.
      lower: text is first converted to lower case.

    Attributes:
      vocabulary: the pieces in the order of their ids.

    Raises:
      UserError: model was not trained by `fit`, or sentencepiece is not installed.

    Example:
      >>> tokenizer = SubwordTokenizer.fit(["she sells sea shells"] * 10, vocab_size=14)
      >>> tokenizer.tokenize("he sells shells")
      ['▁', 'h', 'e', '▁se', 'lls', '▁shells']
      >>> tokenizer.decode(tokenizer.encode("he sells  shells"))
      'he sells  shells'
      >>> tokenizer.decode(tokenizer.encode("he smells"))
      'he s<unk>ells'

    Reference: Kudo and Richardson, "SentencePiece: A simple and language independent subword tokenizer and detokenizer
    for neural text processing", EMNLP 2018; Sennrich, Haddow and Birch, "Neural machine translation of rare words with
    subword units", ACL 2016.
    """

    vocabulary: tuple[str, ...] = dataclasses.field(init=False, repr=False, compare=False)
    model: bytes = dataclasses.field(repr=False)
    lower: bool = False

    def __post_init__(self):
        _check_flag("lower", self.lower)
        object.__setattr__(self, "model", _model_bytes(self.model))
        processor = self._processor
        pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
        if tuple(pieces[: len(SPECIAL_NAMES)]) != SPECIAL_NAMES:
            raise UserError("model has special tokens other than ours; build the tokenizer with SubwordTokenizer.fit")
        object.__setattr__(self, "vocabulary", check_vocabulary([*SPECIAL_TOKENS, *pieces[len(SPECIAL_NAMES) :]]))
        if processor.normalize(" Ａ  b\t") != f"{SPACE}{SPACE}Ａ{SPACE}{SPACE}b\t":
            raise UserError("model changes the text before it is split; build the tokenizer with SubwordTokenizer.fit")

    def __reduce__(self):
        return type(self), (self.model, self.lower)

    @classmethod
    def fit(
        cls,
        texts: str | Iterable[str],
        *,
        vocab_size: int = 8000,
        kind: str = "unigram",
        character_coverage: float = 1.0,
        lower: bool = False,
    ) -> "SubwordTokenizer":
        """Trains a tokenizer on the texts; the same texts and settings give the same pieces.

        Args:
          texts: texts, or one text. If one has more than one line, the end of a line is in the vocabulary.
          vocab_size: the exact number of ids, including the four special tokens.
          kind: "unigram" or "bpe".
          character_coverage: the fraction of the texts' characters, by occurrence, that the vocabulary must contain;
            below 1, the rarest are left out. 0.9995 suits scripts with thousands of characters.
          lower: as in the class.

        Returns:
          The tokenizer.

        Raises:
          UserError: texts contain no token, a setting is invalid, the texts are too small for vocab_size or vocab_size
            is too small for their characters, or sentencepiece is not installed.

        Example:
          >>> SubwordTokenizer.fit(["a banana"] * 5, vocab_size=10, kind="bpe").vocabulary[4:]
          ('an', '▁a', 'a', 'n', '▁', 'b')
        """
        _check_settings(vocab_size, kind, character_coverage)
        _check_flag("lower", lower)
        every = [_lines(text, lower) for text in _texts(texts, cut_after="\n")]
        parts = [part for lines in every for line in lines for part in _parts(line)]
        if not any(map(str.strip, parts)):
            raise UserError("texts hold no token to build a vocabulary from; give some text")
        symbols = ["\n"] if any(len(lines) > 1 for lines in every) else []
        return cls(_train(parts, vocab_size, kind, character_coverage, symbols), lower)

    @functools.cached_property
    def _processor(self):
        library = _sentencepiece()
        library.set_min_log_level(2)  # errors are raised; the library would also print them
        processor = library.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(self.model)
        except RuntimeError as error:
            raise UserError("model is damaged or not a sentencepiece model; build it with SubwordTokenizer.fit") from error
        return processor

    def tokenize(self, text: str) -> list[str]:
        """Splits a text into pieces; a run of characters that are not in the vocabulary is one piece.

        Args:
          text: any text.

        Returns:
          The pieces in order, spaces written as `▁`; `▅` stands for a character that cannot be in a vocabulary.

        Raises:
          UserError: text is not a string.
        """
        pieces = self._processor.encode(_lines(text, self.lower), return_type=str, num_threads=1)
        return _chain(pieces, "\n")

    def encode(self, text: str) -> np.ndarray:
        ids = self._processor.encode(_lines(text, self.lower), return_type=int, num_threads=1)
        return np.array(_chain(ids, self._newline), np.int32)

    encode.__doc__ = _Tokenizer.encode.__doc__

    def sample(self, text: str, seed: int | np.random.Generator, *, alpha: float = 0.1) -> np.ndarray:
        r"""Samples the ids of one segmentation of a text (subword regularisation).

        A segmentation x has the probability P(x)^alpha / sum_{x' in S(X)} P(x')^alpha over all of S(X), by filtering
        forward and sampling backward. Seeing different pieces of the same text each time makes a model more robust.

        Args:
          text: any text.
          seed: an integer, or a random generator.
          alpha: 0 makes all segmentations equally probable; the larger, the closer to `encode`.

        Returns:
          int32 (n,).

        Raises:
          UserError: text is not a string, alpha is negative or not finite, or this is not a unigram tokenizer.

        Example:
          >>> tokenizer = SubwordTokenizer.fit(["she sells sea shells"] * 10, vocab_size=14)
          >>> [[tokenizer.vocabulary[i] for i in tokenizer.sample("sells", seed, alpha=0.5)] for seed in (1, 2)]
          [['▁', 's', 'e', 'lls'], ['▁se', 'lls']]

        Reference: Kudo, "Subword regularization: Improving neural network translation models with multiple subword
        candidates", ACL 2018.
        """
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha < math.inf:
            raise UserError(f"alpha is {alpha!r}; give a number of at least 0")
        rng = np.random.default_rng(seed)
        lines = _lines(text, self.lower)
        ids = [[i for word in _words(line) for i in self._lattice(word, float(alpha)).draw(rng)] for line in lines]
        return np.array(_chain(ids, self._newline), np.int32)

    def to_dict(self) -> dict[str, Any]:
        """Returns what `tokenizer_from_dict` needs: the model in base64 and a flag, JSON-serialisable."""
        return {"kind": "subword", "lower": self.lower, "model": base64.b64encode(self.model).decode("ascii")}

    @functools.cached_property
    def _newline(self) -> int:
        return self._ids.get("\n", UNK)

    @functools.cached_property
    def _lattice(self) -> Callable[[str, float], "_Lattice"]:
        """Returns the lattice of a word at some alpha; those of recent words are cached."""
        try:
            self._processor.nbest_encode("a", nbest_size=2)
        except RuntimeError as error:
            raise UserError("sample needs a unigram model; fit the tokenizer with kind='unigram'") from error
        pieces = {piece: (i, self._processor.get_score(i)) for piece, i in self._ids.items() if piece != "\n"}
        return functools.lru_cache(maxsize=1 << 16)(functools.partial(_Lattice, pieces))

    def _join(self, tokens: list[str]) -> str:
        lines = "".join(tokens).split("\n")
        return "\n".join(line.removeprefix(SPACE).replace(SPACE, " ") for line in lines)


class _Lattice:
    """All segmentations of a word with their weights, prepared for sampling."""

    def __init__(self, pieces: dict[str, tuple[int, float]], word: str, alpha: float):
        longest = max(map(len, pieces))
        unknown = min(score for _, score in pieces.values()) - UNKNOWN_PENALTY
        self.edges = []  # at index n - 1 those that end at n: (starts, ids, cumulative probabilities)
        total = [0.0]  # log of the summed weights of all segmentations of the first n characters
        for end in range(1, len(word) + 1):
            found = [(start, pieces.get(word[start:end])) for start in range(max(0, end - longest), end)]
            edges = [(start, *piece) for start, piece in found if piece]
            if word[end - 1] not in pieces:
                edges.append((end - 1, UNK, unknown))
            starts, ids, scores = zip(*edges, strict=True)
            logs = np.array([total[start] + alpha * score for start, score in zip(starts, scores, strict=True)])
            sums = np.cumsum(np.exp(logs - logs.max()))
            total.append(logs.max() + math.log(sums[-1]))
            self.edges.append((starts, ids, sums / sums[-1]))

    def draw(self, rng: np.random.Generator) -> list[int]:
        """Samples one segmentation, from its last piece to its first; adjacent unknown characters are one token."""
        drawn, end = [], len(self.edges)
        while end:
            starts, ids, cumulative = self.edges[end - 1]
            k = int(np.searchsorted(cumulative, rng.random(), side="right"))
            if not (ids[k] == UNK and drawn and drawn[-1] == UNK):
                drawn.append(ids[k])
            end = starts[k]
        return drawn[::-1]


def _sentencepiece():
    try:
        import sentencepiece
    except ImportError as error:
        raise missing("subwords need sentencepiece", "experiments") from error
    return sentencepiece


def _lines(text: str, lower: bool) -> list[str]:
    """Splits a text into lines as sentencepiece may see them."""
    _check_text(text)
    return UNHOLDABLE.sub(UNSEEN, text.lower() if lower else text).split("\n")


def _words(line: str) -> list[str]:
    """Splits a line into words, each with the space before it; pieces do not cross words."""
    return re.findall(f"{SPACE}[^{SPACE}]*", SPACE + line.replace(" ", SPACE)) if line else []


def _chain(lines: list[list], newline) -> list:
    """Joins the tokens of all lines, with a line end in between."""
    tokens = []
    for line in lines:
        tokens.extend(line)
        tokens.append(newline)
    return tokens[:-1]


def _parts(line: str) -> list[str]:
    """Prepares a line for training: drops characters that a vocabulary cannot contain, and splits long lines at a space."""
    parts = re.findall(f"(?s:.{{1,{LONGEST}}})(?: |$)|.{{1,{LONGEST}}}", line.replace(UNSEEN, " "))
    return [f"{part} " if part.endswith("\r") else part for part in parts]  # it drops a carriage return at the end


def _train(parts: Sequence[str], vocab_size: int, kind: str, character_coverage: float, symbols: list[str]) -> bytes:
    """Trains the model without normalising the text."""
    library = _sentencepiece()
    model = io.BytesIO()
    names = dict(zip(("pad_piece", "unk_piece", "bos_piece", "eos_piece"), SPECIAL_NAMES, strict=True))
    try:
        library.SentencePieceTrainer.train(
            sentence_iterator=iter(parts),
            model_writer=model,
            model_type=kind,
            vocab_size=vocab_size,
            character_coverage=character_coverage,
            required_chars=SPACE,
            user_defined_symbols=symbols,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=True,
            max_sentence_length=1 << 30,
            num_threads=THREADS,
            minloglevel=2,
            pad_id=PAD,
            unk_id=UNK,
            bos_id=BOS,
            eos_id=EOS,
            **names,
        )
    except RuntimeError as error:
        raise UserError(_advice(str(error), vocab_size)) from error
    return model.getvalue()


def _advice(message: str, vocab_size: int) -> str:
    """Translates an error of sentencepiece's trainer, which names the possible sizes, into advice."""
    if limit := re.search(r"value <= (\d+)", message):
        return f"vocab_size is {vocab_size}; these texts give at most {limit[1]}, so give that or less, or more text"
    if limit := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return (
            f"vocab_size is {vocab_size}; the characters of these texts need at least {limit[1]}, so give that or more,"
            " or a lower character_coverage"
        )
    return f"sentencepiece cannot train on these texts ({message}); give more text or another vocab_size"


def _check_settings(vocab_size: int, kind: str, character_coverage: float) -> None:
    if isinstance(vocab_size, bool) or not isinstance(vocab_size, int) or vocab_size <= len(SPECIAL_TOKENS):
        raise UserError(f"vocab_size is {vocab_size!r}; give a whole number above the number of special tokens, 4")
    if kind not in KINDS:
        raise UserError(f"kind is {kind!r}; give one of {', '.join(KINDS)}")
    number = isinstance(character_coverage, int | float) and not isinstance(character_coverage, bool)
    if not (number and 0 < character_coverage <= 1):
        raise UserError(f"character_coverage is {character_coverage!r}; give a share above 0 and up to 1")


def _model_bytes(model: bytes | str) -> bytes:
    try:
        model = base64.b64decode(model, validate=True) if isinstance(model, str) else model
    except ValueError as error:
        raise UserError("model is not base64; build the tokenizer with SubwordTokenizer.fit") from error
    if not isinstance(model, bytes) or not model:
        raise UserError(f"model is {model!r:.40}; give the bytes from SubwordTokenizer.fit")
    return model
