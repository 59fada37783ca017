"""Texts from a language model and scores for texts: tokens in and out, prompts, special tokens."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import numpy as np

from seqjax.decoding import sampling, scoring
from seqjax.errors import UserError
from seqjax.models import LanguageModel
from seqjax.text import BOS, EOS, PAD, UNK, CharTokenizer, WordTokenizer

Tokenizer = CharTokenizer | WordTokenizer


def start_token(tokenizer: Tokenizer, *, ends: bool, reset: bool = True) -> int:
    """Returns the token before a text's first token, as in training.

    Args:
      tokenizer: that of the model.
      ends: documents end with `<eos>`.
      reset: each document starts from the initial carry, with `<bos>`.

    Returns:
      `<bos>` if documents start from the initial carry, `<eos>` if they are consecutive, a line end in running text.

    Example:
      >>> start_token(CharTokenizer.fit(["ab"]), ends=True), start_token(CharTokenizer.fit(["ab"]), ends=True, reset=False)
      (2, 3)
    """
    if ends:
        return BOS if reset else EOS
    return int(tokenizer.encode("\n")[0]) if "\n" in tokenizer else BOS


def check_known(tokenizer: Tokenizer, text: str, what: str) -> str:
    """Refuses characters that the model has never seen; unknown words are read as `<unk>`.

    Args:
      tokenizer: that of the model.
      text: from the user.
      what: the user's name for it, such as "the prompt".

    Returns:
      A line that lists the unknown words, empty if there are none.

    Raises:
      UserError: unknown characters.

    Example:
      >>> check_known(WordTokenizer.fit(["to be or not"]), "to see", "the prompt")
      'the prompt: not in the vocabulary and read as <unk>: see'
    """
    unknown = tokenizer.unknown(text)
    if unknown and isinstance(tokenizer, CharTokenizer):
        raise UserError(f"{what} has characters outside the vocabulary: {' '.join(map(repr, unknown))}; leave them out")
    return f"{what}: not in the vocabulary and read as <unk>: {' '.join(unknown)}" if unknown else ""


@functools.lru_cache(maxsize=8)
def _functions(model: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Returns the functions that read a prompt and draw a token, cached per model so that a new sampler does not recompile."""

    def step(carry, tokens):
        params, carry = carry
        carry, logits = model.apply({"params": params}, tokens[:, None], carry)
        return (params, carry), logits[:, 0]

    return jax.jit(lambda params, tokens, carry: model.apply({"params": params}, tokens, carry)[0]), step


class TextSampler:
    """Draws texts from a language model; compiled once for each model, length and number of texts.

    Never yields `<pad>`, `<unk>` or `<bos>`. Stops at `<eos>`, unless it is an ordinary token (`reset=False`): then it is
    shown as a line's end. In running text without ends it is never drawn.

    Args:
      model: takes tokens (B, T) and a carry.
      tokenizer: that of the model.
      ends, reset: as in `start_token`.

    Example:
      >>> import seqjax
      >>> tokenizer = CharTokenizer.fit(["hello"])
      >>> model = LanguageModel(tokenizer.vocab_size, seqjax.gru(4), 4)
      >>> params = model.init(jax.random.key(0), np.array([[2]]))["params"]
      >>> texts = TextSampler(model, tokenizer, ends=False)(params, jax.random.key(1), "he", number=2, length=3)
      >>> [text[:2] for text in texts], [len(text) for text in texts]
      (['he', 'he'], [5, 5])
    """

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, *, ends: bool, reset: bool = True):
        self._model, self._tokenizer = model, tokenizer
        self._start = start_token(tokenizer, ends=ends, reset=reset)
        self._lines = ends and not reset
        self._eos = EOS if ends and reset else None
        self._banned = (PAD, UNK, BOS) if ends else (PAD, UNK, BOS, EOS)
        self._read, self._step = _functions(model)  # pyright: ignore[reportArgumentType]  # a flax module has a hash

    def __call__(self, params, key: jax.Array, prompt: str = "", *, number: int = 1, length: int = 200, **options: Any) -> list[str]:
        """Draws texts that begin with the prompt.

        Args:
          params: the model's parameters.
          key: a random key; the same key gives the same texts.
          prompt: must contain only known tokens.
          number: number of texts.
          length: the maximum number of tokens to draw after the prompt.
          **options: temperature, top_k, top_p of `sampling.sample`.

        Returns:
          `number` texts.
        """
        tokens = np.concatenate([[self._start], self._tokenizer.encode(prompt)]).astype(np.int32)
        carry = self._model.initial_carry(params, number)
        if len(tokens) > 1:
            carry = self._read(params, np.tile(tokens[:-1], (number, 1)), carry)
        samples = sampling.sample(
            self._step,
            (params, carry),
            np.full((number,), tokens[-1]),
            key,
            length=length,
            banned=self._banned,
            eos_id=self._eos,
            pad_id=PAD,
            **options,
        )
        drawn = zip(np.asarray(samples.tokens), np.asarray(samples.lengths))
        head = self._show(tokens[1:])
        rows = [self._show(np.concatenate([tokens[1:], row[:count]])) for row, count in drawn]
        # The original prompt: decoding may lose its spaces and unknown words.
        return [prompt + row.removeprefix(head) for row in rows]

    def _show(self, row: np.ndarray) -> str:
        if not self._lines:
            return self._tokenizer.decode(row)
        lines = np.split(row, np.flatnonzero(row == EOS))
        return "\n".join(self._tokenizer.decode(line) for line in lines)


def score_texts(
    model: LanguageModel, params, tokenizer: Tokenizer, texts: Sequence[str], *, ends: bool, reset: bool = True
) -> scoring.Score:
    """Computes the likelihood of each text under a language model, including its end if documents have ends.

    Args:
      model, params: the model.
      tokenizer: that of the model.
      texts: at least one, none of them empty unless ends are predicted.
      ends, reset: as in `start_token`.

    Returns:
      A Score, each part (number of texts,).

    Raises:
      UserError: a text has nothing to score.

    Example:
      >>> import seqjax
      >>> tokenizer = CharTokenizer.fit(["hello"])
      >>> model = LanguageModel(tokenizer.vocab_size, seqjax.gru(4), 4)
      >>> params = model.init(jax.random.key(0), np.array([[2]]))["params"]
      >>> score_texts(model, params, tokenizer, ["hell", "hello"], ends=True).tokens.tolist()
      [5, 6]
    """
    end = [EOS] if ends else []
    rows = [np.concatenate([tokenizer.encode(text), end]).astype(np.int32) for text in texts]
    if not rows or not all(map(len, rows)):
        raise UserError("a text to score is empty; give some text")
    longest = max(map(len, rows))
    targets = np.stack([np.pad(row, (0, longest - len(row)), constant_values=PAD) for row in rows])
    first = np.full((len(rows), 1), start_token(tokenizer, ends=ends, reset=reset), np.int32)
    inputs = np.concatenate([first, targets[:, :-1]], axis=1)
    mask = np.arange(longest) < np.array([len(row) for row in rows])[:, None]
    return scoring.score(lambda tokens, _: cast(Any, model.apply({"params": params}, tokens))[1], inputs, targets, mask)
