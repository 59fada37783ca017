"""Random valid files of texts, labels, translations and tagged words, and how independent readers read them."""

import contextlib
import csv
import io
import itertools
import json
import random
import re

from seqjax.data import load_corpus, load_labelled, load_parallel, load_tagged


def words(draw: random.Random, letters: str, most: int = 4) -> str:
    """A non-blank text without line ends."""
    return " ".join("".join(draw.choices(letters, k=draw.randint(1, 5))) for _ in range(draw.randint(1, most)))


def both(path: str) -> dict[str, str]:
    """The path of training and validation."""
    return {"path": path, "validation_path": path}


# Running text


def make_text(draw, letters):
    return {"book.txt": "".join(words(draw, letters) + draw.choice(["\n", "\n\n", "\n \n"]) for _ in range(draw.randint(1, 8)))}


def load_text(documents, name):
    return lambda paths, encoding: list(
        load_corpus("file", **both(paths[name]), documents=documents, encoding=encoding).parts["train"]["text"]
    )


def lines_of(text):
    return text.removesuffix("\n").split("\n")


def paragraphs_of(text):
    found = re.split(r"\n(?:[ \t]*(?:\n|$))+", "\n" + text)
    return [part.removeprefix("\n") for part in found if part.strip()]


def make_json_texts(draw, letters):
    rows = [json.dumps({"text": words(draw, letters), "n": i}, ensure_ascii=draw.random() < 0.5) for i in range(draw.randint(2, 6))]
    return {"book.jsonl": "\n".join(rows) + "\n" * draw.randint(0, 2)}


def json_texts(files):
    return [json.loads(line)["text"] for line in files["book.jsonl"].split("\n") if line.strip()]


# Texts with labels


def labelled_rows(draw, letters):
    rows = [(words(draw, letters), label) for label in ("pos", "neg", "pos", "neg")]
    return rows + [(words(draw, letters), draw.choice(["pos", "neg", "mid dle"])) for _ in range(draw.randint(0, 5))]


def make_csv(name, delimiter, **style):
    def make(draw, letters):
        file = io.StringIO()
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n", **style)
        writer.writerow(["id", "text", "label"])
        more = ['"', delimiter, "\n", "''"]
        for i, (text, label) in enumerate(labelled_rows(draw, letters)):
            writer.writerow([i, text + draw.choice(more) + "x" if draw.random() < 0.3 else text, label])
        return {name: file.getvalue()}

    return make


def make_plain_tsv(draw, letters):
    rows = (f"{text}{draw.choice(['', chr(34), ' said'])}\t{label}" for text, label in labelled_rows(draw, letters))
    return {"films.tsv": "\n".join(["text\tlabel", *rows]) + "\n"}


def load_table(name, **options):
    def load(paths, encoding):
        data = load_labelled("file", **both(paths[name]), encoding=encoding, **options)
        return labelled(data)

    return load


def labelled(data):
    part = data.parts["train"]
    return [(text, data.classes[label]) for text, label in zip(part["text"], part["label"], strict=True)]


def columns_of(rows, *names):
    first, rows = rows[0], rows[1:]
    assert all(len(row) == len(first) for row in rows)
    return [tuple(row[first.index(name)] for name in names) for row in rows]


def csv_rows(text, delimiter):
    with io.StringIO(text, newline="") as file:
        limit = csv.field_size_limit(2**31 - 1)
        try:
            return [row for row in csv.reader(file, delimiter=delimiter, strict=True) if row]
        finally:
            csv.field_size_limit(limit)


def plain_rows(text, delimiter):
    return [line.split(delimiter) for line in text.split("\n") if line]


def make_json_labelled(draw, letters):
    rows = [json.dumps({"label": label, "text": text}) for text, label in labelled_rows(draw, letters)]
    return {"films.jsonl": "\n".join(rows) + "\n"}


def json_labelled(files):
    rows = [json.loads(line) for line in files["films.jsonl"].split("\n") if line.strip()]
    return [(row["text"], str(row["label"])) for row in rows]


def make_class_files(draw, letters):
    texts = {label: [words(draw, letters) for _ in range(draw.randint(2, 5))] for label in ("neg", "pos")}
    return {f"films/{label}.txt": "\n".join(lines) + "\n" * draw.randint(0, 2) for label, lines in texts.items()}


def class_files(files):
    found = [(line.strip(), name[6:].split(".")[0]) for name in sorted(files) for line in files[name].split("\n")]
    return [(text, label) for text, label in found if text]


def make_class_folders(draw, letters):
    return {f"films/{label}/{i}.txt": words(draw, letters) + "\n" for label in ("neg", "pos") for i in range(draw.randint(2, 4))}


def class_folders(files):
    found = [(files[name].strip(), name.split("/")[1]) for name in sorted(files)]
    return [(text, label) for text, label in found if text]


# Translations


def make_lines(draw, letters):
    number = draw.randint(2, 6)
    return {name: "\n".join(words(draw, letters) for _ in range(number)) + "\n" * draw.randint(0, 1) for name in ("a.de", "a.en")}


def load_lines(paths, encoding):
    both_sides = {"path": paths["a.de"], "target_path": paths["a.en"]}
    data = load_parallel("file", **both_sides, **{f"validation_{key}": value for key, value in both_sides.items()}, encoding=encoding)
    return pairs(data)


def pairs(data):
    part = data.parts["train"]
    return list(zip(part["source"], part["target"], strict=True))


def translated(pairs):
    return [(source, target) for source, target in pairs if source.strip() and target.strip()]


def line_pairs(files):
    return translated(zip(lines_of(files["a.de"]), lines_of(files["a.en"]), strict=True))


def make_tab_pairs(draw, letters):
    rows = (f"{words(draw, letters)}\t{words(draw, letters)}\tCC-BY" for _ in range(draw.randint(2, 6)))
    return {"deu.txt": "\n".join(rows) + "\n"}


def load_tab_pairs(paths, encoding):
    return pairs(load_parallel("file", **both(paths["deu.txt"]), delimiter="tab", quoting="none", header=False, encoding=encoding))


def tab_pairs(files):
    rows = plain_rows(files["deu.txt"], "\t")
    assert len({len(row) for row in rows}) == 1
    return translated((row[0], row[1]) for row in rows)


# Tagged words


def sentences_of(draw, letters):
    tags = itertools.cycle(["NOUN", "VERB", "DET"])
    return [[(words(draw, letters, 1), next(tags)) for _ in range(draw.randint(2, 4))] for _ in range(draw.randint(2, 4))]


def make_conllu(draw, letters):
    lines = []
    for sentence in sentences_of(draw, letters):
        lines.append("# text = a comment")
        for i, (word, tag) in enumerate(sentence, 1):
            lines += [f"{i}-{i + 1}\t{word}x" + "\t_" * 8] if draw.random() < 0.1 else []
            lines.append(f"{i}\t{word}\t_\t{tag}\t_\t_\t0\troot\t_\t_")
        lines.append("")
    return {"a.conllu": "\n".join(lines) + "\n"}


def load_tagged_file(name, **options):
    def load(paths, encoding):
        part = load_tagged("file", **both(paths[name]), encoding=encoding, **options).parts["train"]
        return list(zip(part["words"], part["tags"], strict=True))

    return load


def conllu_words(files):
    """By the conllu package, and split by hand, which must agree."""
    import conllu

    text = files["a.conllu"]
    found = []
    for block in re.split(r"\n(?:[ \t]*\n)+", text):
        rows = [line.split("\t") for line in block.split("\n") if line.strip(" \t") and not line.startswith("#")]
        rows = [(row[1], row[3]) for row in rows if row[0].isdecimal()]
        found += [tuple(zip(*rows))] if rows else []
    with contextlib.suppress(conllu.exceptions.ParseException):  # of columns that are not read here
        read = [[token for token in sentence if isinstance(token["id"], int)] for sentence in conllu.parse(text)]
        assert [[(t["form"], t["upos"] or "_") for t in s] for s in read if s] == [[*zip(*sentence)] for sentence in found]
    return found


def make_columns(delimiter, name):
    def make(draw, letters):
        blocks = ["\n".join(delimiter.join((word, "x", tag)) for word, tag in s) for s in sentences_of(draw, letters)]
        return {name: delimiter.join(("-DOCSTART-", "x", "O")) + "\n\n" + "\n\n".join(blocks) + "\n" * draw.randint(0, 2)}

    return make


def column_words(name):
    def read(files):
        lines = files[name].split("\n")
        meant = [line for line in lines if line.strip(" \t") and not line.lstrip(" ").startswith("-DOCSTART-")]
        tabs, found, sentence = "\t" in meant[0], [], []
        sizes = set()
        for line in [*lines, ""]:
            if line.strip(" \t") and not line.lstrip(" ").startswith("-DOCSTART-"):
                cells = [cell.strip(" ") for cell in line.strip(" ").split("\t")] if tabs else [c for c in line.split(" ") if c]
                sizes.add(len(cells))
                sentence.append((cells[0], cells[-1]))
            elif not line.strip(" \t") and sentence:
                found.append(tuple(zip(*sentence)))
                sentence = []
        assert len(sizes) == 1
        return found

    return read
