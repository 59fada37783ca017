"""The special tokens, and how a vocabulary is chosen from counts."""

import collections
from collections.abc import Iterable, Mapping

from seqjax.errors import UserError

SPECIAL_TOKENS = ("<pad>", "<unk>", "<bos>", "<eos>")
PAD, UNK, BOS, EOS = range(4)


def choose_tokens(counts: Mapping[str, int], *, min_count: int = 1, max_size: int | None = None) -> list[str]:
    """Chooses the most frequent tokens, most frequent first; ties are in code point order.

    Args:
      counts: how often each token occurs; special tokens are skipped, since every vocabulary has them.
      min_count: a token that occurs less often is left out.
      max_size: the maximum number of entries, including the four special tokens; None for no limit.

    Returns:
      The chosen tokens, without the special ones.

    Raises:
      UserError: a setting is invalid, or no token is left.

    Example:
      >>> choose_tokens({"b": 2, "a": 2, "c": 5, "d": 1}, min_count=2, max_size=6)
      ['c', 'a']
    """
    if not _is_int(min_count) or min_count < 1:
        raise UserError(f"min_count is {min_count!r}; give a whole number of at least 1")
    room = None
    if max_size is not None:
        if not _is_int(max_size) or max_size <= len(SPECIAL_TOKENS):
            raise UserError(f"max_size is {max_size!r}; with the four special tokens, it must be at least 5, or None")
        room = max_size - len(SPECIAL_TOKENS)
    ordinary = {token: count for token, count in counts.items() if token not in SPECIAL_TOKENS}
    if not ordinary:
        raise UserError("texts hold no token to build a vocabulary from; give some text")
    kept = [token for token, count in ordinary.items() if count >= min_count]
    if not kept:
        raise UserError(f"no token occurs min_count={min_count} times; lower min_count or give more text")
    return sorted(kept, key=lambda token: (-ordinary[token], token))[:room]


def check_vocabulary(vocabulary: Iterable[str]) -> tuple[str, ...]:
    """Checks that a vocabulary starts with the special tokens and has no repeats, and returns it as a tuple.

    Args:
      vocabulary: tokens in the order of their ids.

    Returns:
      The same tokens.

    Raises:
      UserError: it is not a sequence of strings, ids 0 to 3 are not the special tokens, or a token is empty or
        repeated.

    Example:
      >>> check_vocabulary(["<pad>", "<unk>", "<bos>", "<eos>", "a"])
      ('<pad>', '<unk>', '<bos>', '<eos>', 'a')
    """
    if isinstance(vocabulary, str) or not isinstance(vocabulary, Iterable):
        raise UserError(f"vocabulary is a {type(vocabulary).__name__}; give the tokens in the order of their ids")
    tokens = tuple(vocabulary)
    if not all(isinstance(token, str) and token for token in tokens):
        raise UserError("vocabulary holds an entry that is not a token; each must be a non-empty string")
    if tokens[: len(SPECIAL_TOKENS)] != SPECIAL_TOKENS:
        raise UserError(f"vocabulary must begin with {' '.join(SPECIAL_TOKENS)}; build it with fit")
    if len(set(tokens)) != len(tokens):
        twice = collections.Counter(tokens).most_common(1)[0][0]
        raise UserError(f"vocabulary holds {twice!r} twice; every token needs one id")
    return tokens


def _is_int(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
