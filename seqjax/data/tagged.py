"""Sentences in which each word has a tag: parts of speech, names of persons and places, lexical classes."""

import difflib
import hashlib
import json
import pathlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from seqjax.data.draws import shuffled
from seqjax.data.origins import origin_notes, versions
from seqjax.data.readers.python_tags import load_python_tags
from seqjax.data.readers.tfds import VALIDATION_SPLITS, open_builder, open_split
from seqjax.data.tagged_files import Part, Sentence, are_spans, read_tagged, to_bio
from seqjax.errors import UserError

SOURCES = ("embedded", "tfds", "file")
TAG_FEATURES = ("upos", "ner", "tags", "pos")  # of TFDS sets; the first that a set has is the default
NO_HEAD = (b"None", b"_")  # of multiword ranges and empty nodes, which sets of Universal Dependencies have too
EMBEDDED_CHOICE = "source='embedded' with name='python' needs no download"


class TaggedSentences(NamedTuple):
    """Sentences of words with a tag each."""

    words: tuple[tuple[str, ...], ...]  # every sentence has at least one word
    tags: tuple[tuple[str, ...], ...]  # as many sentences, each as long as its words


class TaggedSet(NamedTuple):
    """Tagged sentences in parts."""

    name: str  # what to call it in logs
    tags: tuple[str, ...]  # of the training part, sorted; the others have no more
    parts: dict[str, TaggedSentences]  # "train", "validation" and, where there is one, "test"
    entities: bool  # the tags are BIO: B-X begins a span, I-X continues it, O is outside; scored by entity F1
    fingerprint: str  # sha256 over words and tags of all parts
    notes: tuple[str, ...]  # what was left out, converted or cut, and the versions it is made from; a sentence each
    made_from: dict[str, str] = {}  # what else it depends on: package, or "python" -> version


def load_tagged(
    source: str,
    *,
    name: str = "",
    path: str = "",
    validation_path: str = "",
    test_path: str = "",
    data_dir: str = "",
    column: str = "",
    validation_fraction: float = 0.1,
    seed: int = 0,
) -> TaggedSet:
    """Tagged sentences with training and validation parts, from one of three kinds of source.

    The embedded set "python" is statements of Python's own library, each token with its lexical class (names as
    defined or used, see `python_tags.PYTHON_TAGS`). The tags follow from the statement alone, so the best possible
    accuracy is 100 %; the most frequent tag of each word (`baseline_accuracy`) is right for 74.7 % of the test tokens
    with the library of Python 3.11.7, which differs a little from version to version.

    Args:
      source: "embedded" (ships with Python, no network), "tfds" (a prepared set, read without TensorFlow) or "file".
      name: embedded: "python". tfds: the set, such as "universal_dependencies/en_ewt"; it has a feature "tokens".
        file: not used, the set is called after its file.
      path: file: CoNLL-U (`.conllu`) or columns (`.conll`, `.txt`, `.bio`, `.iob`, `.tsv`), see
        `tagged_files.read_tagged`; any may be `.gz`. Span tags (IOB1, BIOES, BILOU) are brought to BIO.
      validation_path, test_path: file: the other parts.
      data_dir: tfds: the folder of prepared sets; "" is TFDS's own, ~/tensorflow_datasets.
      column: where the tags are. CoNLL-U: "upos" (which "" is), "xpos" or "deprel". Columns: the number, from "2"; ""
        is the last. tfds: the feature; "" is the first of upos, ner, tags, pos.
      validation_fraction: the share of the training sentences to cut off where there is no validation part, at random;
        a tag's last training sentence stays.
      seed: of that choice.

    Returns:
      A TaggedSet.

    Raises:
      UserError: an unknown source, name or column, a set that is not prepared, a file that cannot be read or a
        malformed line of it, a tag that the training part lacks (with where it stands), a fraction outside (0, 1), or
        a setting given to a source that has no use for it.

    Example:
      >>> data = load_tagged("embedded", name="python")
      >>> data.tags[:3], list(data.parts), data.entities
      (('ARGUMENT', 'ATTRIBUTE', 'CALL'), ['train', 'validation', 'test'], False)
    """
    _check_settings(
        source, validation_fraction, column, {"path": path, "validation_path": validation_path, "test_path": test_path}
    )
    notes: tuple[str, ...] = ()
    made_from: dict[str, str] = {}
    if source == "embedded":
        parts, notes = _embedded_parts(name)
        made_from = versions("python")
    elif source == "tfds":
        parts = _catalogue_parts(name, data_dir, column)
    else:
        parts = _file_parts(path, validation_path, test_path, column)
        name = pathlib.Path(path).name
    entities = are_spans(parts["train"])
    if entities:
        parts, note = _in_bio(parts)
        notes += note
    if "validation" not in parts:
        parts, note = _cut(parts, validation_fraction, seed, name)
        notes += note
    tags = _known_tags(name, parts)
    chosen = {part: _plain(parts[part]) for part in ("train", "validation", "test") if part in parts}
    fingerprint = hashlib.sha256(json.dumps(chosen).encode("utf-8")).hexdigest()
    return TaggedSet(name, tags, chosen, entities, fingerprint, notes + origin_notes(made_from), made_from)


def most_frequent_tags(train: TaggedSentences) -> tuple[dict[str, str], str]:
    """The tag that each word has most often, and the one that is most frequent of all, for words that are not known.

    Example:
      >>> train = TaggedSentences((("a", "run"), ("run", "run")), (("DET", "NOUN"), ("VERB", "VERB")))
      >>> most_frequent_tags(train)
      ({'a': 'DET', 'run': 'VERB'}, 'VERB')
    """
    pairs = Counter(pair for words, tags in zip(*train, strict=True) for pair in zip(words, tags, strict=True))
    overall: Counter[str] = Counter()
    best: dict[str, str] = {}
    for (word, tag), count in pairs.items():
        overall[tag] += count
        if word not in best or count > pairs[word, best[word]]:
            best[word] = tag
    return best, overall.most_common(1)[0][0]


def baseline_accuracy(train: TaggedSentences, part: TaggedSentences) -> float:
    """The share of right tags of the simplest tagger: each word gets the tag that it has most often in training.

    Words that training lacks get its most frequent tag.

    Args:
      train: what the tagger learns from.
      part: what it is scored on.

    Returns:
      Between 0 and 1, over words.

    Example:
      >>> train = TaggedSentences((("a", "run"), ("run", "run")), (("DET", "NOUN"), ("VERB", "VERB")))
      >>> baseline_accuracy(train, TaggedSentences((("a", "run", "home"),), (("DET", "NOUN", "NOUN"),)))
      0.3333333333333333
    """
    best, default = most_frequent_tags(train)
    pairs = [pair for words, tags in zip(*part, strict=True) for pair in zip(words, tags, strict=True)]
    return sum(best.get(word, default) == tag for word, tag in pairs) / len(pairs)


def _check_settings(source: str, validation_fraction: float, column: str, files: dict[str, str]) -> None:
    if source not in SOURCES:
        hint = _nearest(str(source), SOURCES)
        raise UserError(f"source={source!r} is not a source{hint}; choose one of {', '.join(SOURCES)}")
    if not 0 < validation_fraction < 1:
        raise UserError(f"validation_fraction is {validation_fraction}; it must be above 0 and below 1")
    for setting, value in files.items():
        if value and source != "file":
            raise UserError(f"{setting}={value!r} is for source='file' only; leave it empty with {source!r}")
    if column and source == "embedded":
        raise UserError(f"column={column!r} is for files and sets of TFDS; leave it empty with 'embedded'")


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), 1, 0.5)
    return f" (nearest: {near[0]})" if near else ""


def _embedded_parts(name: str) -> tuple[dict[str, Part], tuple[str, ...]]:
    if name != "python":
        hint = _nearest(name, ["python"])
        raise UserError(f"no embedded set of tagged words is called {name!r}{hint}; there is one, python")
    statements, notes = load_python_tags()
    return {part: _numbered(f"{part} statement", found) for part, found in statements.items()}, notes


def _numbered(what: str, sentences: Iterable[tuple[Sequence[str], Sequence[str]]]) -> Part:
    numbered = enumerate(sentences, 1)
    return Part(what, tuple(Sentence(tuple(w), tuple(t), (number,) * len(w)) for number, (w, t) in numbered if len(w)))


def _file_parts(path: str, validation_path: str, test_path: str, column: str) -> dict[str, Part]:
    if not path:
        raise UserError("source='file' needs a path; give the name of a file of tagged words")
    paths = {"train": path, "validation": validation_path, "test": test_path}
    return {part: read_tagged(place, column) for part, place in paths.items() if place}


def _catalogue_parts(name: str, data_dir: str, column: str) -> dict[str, Part]:
    if not name:
        raise UserError("source='tfds' needs a name, such as name='universal_dependencies/en_ewt'")
    builder = open_builder(name, data_dir, EMBEDDED_CHOICE)
    feature = _tag_feature(name, builder.info.features, column)
    validation = next((split for split in VALIDATION_SPLITS if split in builder.info.splits), "")
    splits = {"train": "train", "validation": validation, "test": "test" if "test" in builder.info.splits else ""}
    return {part: _catalogue_part(name, builder, split, feature) for part, split in splits.items() if split}


def _tag_feature(name: str, features: Any, column: str) -> str:
    """The feature with the tags: `column`, or the first of those that tagging sets call theirs."""
    able = [key for key in features if type(getattr(features[key], "feature", None)).__name__ in ("ClassLabel", "Text")]
    if "tokens" not in able or len(able) == 1:
        raise UserError(f"{name} has no words called tokens with a tag each; choose another set, or {EMBEDDED_CHOICE}")
    able.remove("tokens")
    chosen = column or next((feature for feature in TAG_FEATURES if feature in able), "")
    if chosen not in able:
        raise UserError(
            f"column={column!r} is not a feature of {name} with a tag for each word{_nearest(column, able)}; "
            f"choose one of {', '.join(able)}"
        )
    return chosen


def _catalogue_part(name: str, builder: Any, split: str, feature: str) -> Part:
    what = f"{name}, split {split}, sentence"
    names = getattr(builder.info.features[feature].feature, "names", None)
    examples = open_split(name, builder, split, EMBEDDED_CHOICE)
    found: list[tuple[list[str], list[str]]] = []
    try:
        for example in examples:
            tokens, tags = example["tokens"], example[feature]
            heads = example.get("head", [b"0"] * len(tokens))
            rows = [row for row, head in zip(zip(tokens, tags, strict=True), heads, strict=True) if head not in NO_HEAD]
            found.append(([word.decode("utf-8") for word, _ in rows], [_tag_name(names, tag) for _, tag in rows]))
    except ValueError as error:
        raise UserError(f"{what} {len(found) + 1} cannot be read ({error}); choose another set") from None
    part = _numbered(what, found)
    if not part.sentences:
        raise UserError(f"{name} has no sentences in its split {split}; choose another set")
    return part


def _tag_name(names: Sequence[str] | None, tag: Any) -> str:
    if names is None:
        return tag.decode("utf-8")
    if tag < 0:  # how TFDS stores a label that is not known
        raise ValueError("a word without a tag")
    return names[tag]


def _in_bio(parts: dict[str, Part]) -> tuple[dict[str, Part], tuple[str, ...]]:
    bio = {part: to_bio(found) for part, found in parts.items()}
    pairs = (pair for part in parts for pair in zip(_tags(parts[part]), _tags(bio[part]), strict=True))
    changed = sum(before != after for before, after in pairs)
    return bio, (f"{changed} tags of spans were brought to BIO",) if changed else ()


def _cut(parts: dict[str, Part], fraction: float, seed: int, name: str) -> tuple[dict[str, Part], tuple[str, ...]]:
    """Takes sentences at random out of the training part, but never the last one with some tag."""
    what, sentences = parts["train"]
    most = min(max(round(len(sentences) * fraction), 1), len(sentences) - 1)
    left = Counter(tag for sentence in sentences for tag in set(sentence.tags))
    held: set[int] = set()
    for i in shuffled(len(sentences), seed)[0].tolist():
        own = set(sentences[i].tags)
        if len(held) < most and all(left[tag] > 1 for tag in own):
            left.subtract(own)
            held.add(i)
    if not held:
        raise UserError(
            f"{name} has too few sentences to hold some back for validation; give more, or a validation_path"
        )
    train = tuple(sentence for i, sentence in enumerate(sentences) if i not in held)
    validation = tuple(sentence for i, sentence in enumerate(sentences) if i in held)
    note = f"{len(held)} of {len(sentences)} training sentences, chosen at random by seed {seed}, are for validation"
    return parts | {"train": Part(what, train), "validation": Part(what, validation)}, (note,)


def _known_tags(name: str, parts: dict[str, Part]) -> tuple[str, ...]:
    """The tags of the training part; the other parts may have no more."""
    known = set(_tags(parts["train"]))
    if len(known) < 2:
        raise UserError(
            f"{name} has no tag but {known.pop()!r} in its training part; choose another column, or more text"
        )
    for part in parts.values():
        for sentence in part.sentences:
            for word, tag, place in zip(*sentence, strict=True):
                if tag not in known:
                    raise UserError(
                        f"{part.what} {place}: the tag {tag!r} of {word!r} does not occur in training"
                        f"{_nearest(tag, sorted(known))}; correct it, or add it to the training part"
                    )
    return tuple(sorted(known))


def _tags(part: Part) -> Iterable[str]:
    return (tag for sentence in part.sentences for tag in sentence.tags)


def _plain(part: Part) -> TaggedSentences:
    return TaggedSentences(tuple(s.words for s in part.sentences), tuple(s.tags for s in part.sentences))
