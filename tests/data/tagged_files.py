"""What the tests of tagged words share: files of CoNLL-U rows, and sentences of records."""

import gzip

import numpy as np

from seqjax.run.baselines import most_frequent_tags


def one_line(error):
    message = str(error.value)
    assert "\n" not in message and len(message) > 20
    return message


def put(folder, name, text):
    path = folder / name
    data = text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return str(path)


def sentences(records):
    """(words, tags, lines) of each sentence."""
    return tuple(zip(records["words"], records["tags"], records["lines"], strict=True))


def row(number, word="w", upos="X"):
    return f"{number}\t{word}\t_\t{upos}\tx{upos}\t_\t0\td{upos}\t_\t_\n"


def simplest_accuracy(train, part):
    """The accuracy of giving each word its most frequent tag."""
    best, default = most_frequent_tags(train["words"], train["tags"])
    pairs = [pair for sentence in zip(part["words"], part["tags"], strict=True) for pair in zip(*sentence, strict=True)]
    return np.mean([best.get(word, default) == tag for word, tag in pairs])
