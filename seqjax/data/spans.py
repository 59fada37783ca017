"""Tags that mark spans of words, such as names of persons: all schemes are converted to BIO."""

import re
from collections.abc import Iterable, Iterator, Sequence

from seqjax.errors import UserError

SPAN = re.compile(r"([BIESLU])-([^-].*)")  # S and U are whole spans, E and L end one


def are_spans(sentences: Iterable[Sequence[str]]) -> bool:
    """Whether tags mark spans: some of them begin with B- or I- and have a type.

    Args:
      sentences: the tags of each sentence.

    Example:
      >>> are_spans([["I-PER", "O"]]), are_spans([["NN", "-LRB-"]])
      (True, False)
    """
    return any(tag[0] in "BI" and SPAN.fullmatch(tag) for tags in sentences for tag in tags)


def is_span_tag(tag: str) -> bool:
    """Whether a tag is O, or a BIO, BIOES or BILOU prefix with a type.

    Example:
      >>> [is_span_tag(tag) for tag in ("O", "B-PER", "U-PER", "PER", "B-")]
      [True, True, True, False, False]
    """
    return tag == "O" or SPAN.fullmatch(tag) is not None


def to_bio(tags: Sequence[str]) -> tuple[str, ...]:
    """The tags of a sentence in BIO (also called IOB2): B-X begins a span of type X, I-X continues it, O is outside.

    The other schemes are converted: IOB1, used by CoNLL-2003, which writes B-X only where a span directly follows another of its type; and
    BIOES and BILOU, where S-X or U-X is a span of one word, and E-X or L-X ends a span.

    Args:
      tags: one per word.

    Raises:
      UserError: a tag of no such scheme.

    Example:
      >>> to_bio(["I-PER", "I-PER", "O", "S-LOC"])
      ('B-PER', 'I-PER', 'O', 'B-LOC')
    """
    return tuple(_bio(tags))


def _bio(tags: Sequence[str]) -> Iterator[str]:
    open_type = ""  # the type of the span still open after the previous word
    for tag in tags:
        if not is_span_tag(tag):
            raise UserError(f"{tag!r} is not a span tag; write O, or B- or I- and a type")
        if tag == "O":
            open_type = ""
            yield tag
            continue
        prefix, span_type = SPAN.fullmatch(tag).groups()  # pyright: ignore[reportOptionalMemberAccess]
        continues = prefix in "IEL" and span_type == open_type
        yield f"{'I' if continues else 'B'}-{span_type}"
        open_type = "" if prefix in "ESLU" else span_type
