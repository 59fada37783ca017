"""Tags that mark spans of words, such as names of persons: every scheme is converted to BIO."""

import re
from collections.abc import Iterable, Iterator, Sequence

from seqjax.errors import UserError

SPAN = re.compile(r"([BIESLU])-([^-].*)")  # S and U begin and end a span, E and L end one


def are_spans(sentences: Iterable[Sequence[str]]) -> bool:
    """Whether tags mark spans: some of them begin with B- or I- and have a type.

    Args:
      sentences: the tags of each.

    Example:
      >>> are_spans([["I-PER", "O"]]), are_spans([["NN", "-LRB-"]])
      (True, False)
    """
    return any(tag[0] in "BI" and SPAN.fullmatch(tag) for tags in sentences for tag in tags)


def is_span_tag(tag: str) -> bool:
    """Whether a tag is O, or one of BIO, BIOES or BILOU and a type.

    Example:
      >>> [is_span_tag(tag) for tag in ("O", "B-PER", "U-PER", "PER", "B-")]
      [True, True, True, False, False]
    """
    return tag == "O" or SPAN.fullmatch(tag) is not None


def to_bio(tags: Sequence[str]) -> tuple[str, ...]:
    """The tags of a sentence in BIO (also called IOB2): B-X begins a span of type X, I-X continues it, O is outside.

    The other schemes are converted: IOB1, which is CoNLL-2003's own and writes B-X only between two spans of a type that
    touch; and BIOES and BILOU, where S-X or U-X is a span of one word, and E-X or L-X ends one.

    Args:
      tags: of the words.

    Raises:
      UserError: a tag that is none of these.

    Example:
      >>> to_bio(["I-PER", "I-PER", "O", "S-LOC"])
      ('B-PER', 'I-PER', 'O', 'B-LOC')
    """
    return tuple(_bio(tags))


def _bio(tags: Sequence[str]) -> Iterator[str]:
    open_type = ""  # of the span that the word before is in, and does not end
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
