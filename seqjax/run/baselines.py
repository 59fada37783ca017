"""Baselines: the most frequent label overall or per word, n-gram models, and bag of words with logistic regression."""

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from seqjax.data.pipeline.streams import TokenStream
from seqjax.errors import UserError, missing
from seqjax.text.ngram import NGramModel

NGRAMS = {"word": (1, 2), "char": (1, 4)}
STRENGTHS = (1.0, 4.0, 16.0, 64.0)


def majority(labels: Iterable[Any]) -> Any:
    """The most frequent label; among equally frequent ones, the first.

    Raises:
      ValueError: no label.

    Example:
      >>> majority(["noun", "verb", "noun"])
      'noun'
    """
    counts = collections.Counter(labels)
    if not counts:
        raise ValueError("labels is empty; the most frequent needs at least one")
    return counts.most_common(1)[0][0]


def most_frequent_tags(words: Sequence[Sequence[str]], tags: Sequence[Sequence[str]]) -> tuple[dict[str, str], str]:
    """The most frequent tag of each word, and the overall most frequent tag for unknown words.

    Args:
      words: of each sentence.
      tags: a tag for each word.

    Example:
      >>> most_frequent_tags([("a", "run"), ("run", "run")], [("DET", "NOUN"), ("VERB", "VERB")])
      ({'a': 'DET', 'run': 'VERB'}, 'VERB')
    """
    pairs = collections.Counter(pair for sentence in zip(words, tags, strict=True) for pair in zip(*sentence, strict=True))
    overall: collections.Counter[str] = collections.Counter()
    best: dict[str, str] = {}
    for (word, tag), count in pairs.items():
        overall[tag] += count
        if word not in best or count > pairs[word, best[word]]:
            best[word] = tag
    return best, overall.most_common(1)[0][0]


def ngram(train: TokenStream, part: TokenStream, *, order: int, vocab_size: int, most: int = 10_000_000) -> tuple[str, float]:
    """An interpolated modified Kneser-Ney n-gram model of the training tokens, evaluated on a part.

    Args:
      train, part: the tokens.
      order: n.
      vocab_size: the number of ids.
      most: longer streams are cut to this many tokens: fitting takes about 100 bytes per token.

    Returns:
      Its name, which says if the stream was cut, and the loss in nats.

    Example:
      >>> stream = TokenStream(np.array([4, 5, 4, 5, 4, 6], np.uint8), np.array([0]))
      >>> name, nats = ngram(stream, stream, order=2, vocab_size=7, most=4)
      >>> name, round(nats, 3)
      ('2-gram Kneser-Ney of the first 4 tokens', 0.395)
    """
    streams = train.first(most), part.first(most)
    model = NGramModel.fit(streams[0].tokens, streams[0].mask(), order=order, vocab_size=vocab_size)
    portion = f" of the first {most:,} tokens" if max(len(train), len(part)) > most else ""
    return f"{order}-gram Kneser-Ney{portion}", model.nats(streams[1].tokens, streams[1].mask())


def bag_of_words(
    texts: Sequence[str],
    labels: Sequence[Any],
    parts: Mapping[str, Sequence[str]],
    *,
    kind: str = "word",
    ngram: tuple[int, int] | None = None,
    strength: float = 1.0,
) -> dict[str, np.ndarray]:
    r"""Logistic regression on TF-IDF weighted n-grams, with scikit-learn: no word order beyond the n-gram.

    .. math:: x_j = (1 + \log n_j) \left(1 + \log \frac{1 + N}{1 + N_j}\right), \quad \hat x = x / \lVert x \rVert

    where n_j counts n-gram j in the text, N_j the training texts that have it, and N all of them. Nothing is drawn at random: the
    same texts give the same answers.

    Args:
      texts: to learn from, N of them.
      labels: one for each text, at least two different ones.
      parts: name -> texts to answer for.
      kind: "word", or "char" for short texts such as names: n-grams of characters that do not cross words, the word's edges included.
      ngram: the shortest and the longest n-gram; words 1 and 2, characters 1 to 4 where None.
      strength: C, the inverse of the L2 penalty; `choose_strength` finds it.

    Returns:
      name -> the predicted labels, an array as long as the part.

    Raises:
      ValueError: texts and labels of unequal number, a single label, an unknown kind.
      UserError: no n-gram in the texts, or scikit-learn is not installed.

    Example:
      >>> answers = bag_of_words(["good film", "bad film"], ["+", "-"], {"test": ["a good one", "bad bad"]})
      >>> answers["test"].tolist()
      ['+', '-']

    Reference:
      Wang and Manning 2012, "Baselines and bigrams", for how strong such a baseline is.
    """
    vectorizer, features = _features(texts, labels, kind, ngram)
    classifier = _fit(features, labels, strength)
    return {name: _predict(classifier, vectorizer, part) for name, part in parts.items()}


def choose_strength(
    texts: Sequence[str],
    labels: Sequence[Any],
    validation_texts: Sequence[str],
    validation_labels: Sequence[Any],
    *,
    kind: str = "word",
    ngram: tuple[int, int] | None = None,
    choices: Sequence[float] = STRENGTHS,
) -> float:
    """The strength with which `bag_of_words` is most accurate on a validation part; among equals, the first.

    Args:
      texts, labels, kind, ngram: as in `bag_of_words`.
      validation_texts, validation_labels: at least one, none of them learned from.
      choices: the strengths to try.

    Returns:
      One of the choices.

    Raises:
      ValueError, UserError: as `bag_of_words`; or no validation text.

    Example:
      >>> choose_strength(["good film", "bad film"], [1, 0], ["good", "bad"], [1, 0], choices=(1.0, 4.0))
      1.0
    """
    if not len(validation_texts) or len(validation_texts) != len(validation_labels):
        counts = f"{len(validation_texts)} texts and {len(validation_labels)} labels"
        raise ValueError(f"the validation part has {counts}; there must be a label for each, and at least one")
    vectorizer, features = _features(texts, labels, kind, ngram)
    import scipy.sparse
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, PredefinedSplit

    answered = [-1] * len(labels) + [0] * len(validation_labels)  # -1 is always learned from
    search = GridSearchCV(
        LogisticRegression(max_iter=2000),
        {"C": list(choices)},
        scoring="accuracy",
        refit=False,
        cv=PredefinedSplit(answered),
        error_score="raise",  # pyright: ignore[reportArgumentType]
    )
    search.fit(scipy.sparse.vstack([features, vectorizer.transform(validation_texts)]), np.concatenate([labels, validation_labels]))
    return search.best_params_["C"]


def best_bag_of_words(
    texts: Sequence[str],
    labels: Sequence[Any],
    validation_texts: Sequence[str],
    validation_labels: Sequence[Any],
    part: Sequence[str],
    *,
    kind: str = "word",
) -> tuple[np.ndarray, float]:
    """The answers of `bag_of_words` with the strength that `choose_strength` finds.

    Args:
      texts, labels, validation_texts, validation_labels, kind: as in `choose_strength`.
      part: texts to answer for.

    Returns:
      (the predicted labels, the strength).

    Raises:
      ValueError, UserError: as `choose_strength`.

    Example:
      >>> answers, _ = best_bag_of_words(["good film", "bad film"], ["+", "-"], ["good", "bad"], ["+", "-"], ["so bad"])
      >>> answers.tolist()
      ['-']
    """
    strength = choose_strength(texts, labels, validation_texts, validation_labels, kind=kind)
    return bag_of_words(texts, labels, {"part": part}, kind=kind, strength=strength)["part"], strength


def _features(texts, labels, kind, ngram):
    if kind not in NGRAMS:
        raise ValueError(f"kind={kind!r} must be one of {', '.join(NGRAMS)}")
    if len(texts) != len(labels):
        raise ValueError(f"texts has {len(texts)} entries and labels has {len(labels)}; there must be one for each")
    if len(set(labels)) < 2:
        raise ValueError(f"labels has {len(set(labels))} different ones; a classifier needs at least 2")
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError:
        raise missing("the bag of words needs scikit-learn", "experiments") from None
    vectorizer = TfidfVectorizer(
        analyzer={"word": "word", "char": "char_wb"}[kind],
        ngram_range=ngram or NGRAMS[kind],
        token_pattern=r"\w+|[^\w\s]" if kind == "word" else None,  # pyright: ignore[reportArgumentType]  # punctuation is words too
        sublinear_tf=True,
        dtype=np.float32,  # pyright: ignore[reportArgumentType]
    )
    try:
        return vectorizer, vectorizer.fit_transform(texts)
    except ValueError as error:
        if "empty vocabulary" not in str(error):
            raise
        raise UserError("the texts have no word to learn from; check that they are not empty") from None


def _fit(features, labels, strength):
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=2000).fit(features, np.asarray(labels))


def _predict(classifier, vectorizer, texts: Sequence[str]) -> np.ndarray:
    if not len(texts):
        return np.empty((0,), classifier.classes_.dtype)
    return classifier.predict(vectorizer.transform(texts))
