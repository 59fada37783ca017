"""Sources: the same text each time, disjoint parts that cover it, and a clear message for every fault."""

import builtins
import gzip
import json
import os
import subprocess
import sys
import time

import pytest

from seqjax.data import load_corpus
from seqjax.data.hold_out import deal_documents
from seqjax.data.readers import opening
from seqjax.data.readers.texts import cut_end
from seqjax.data.records import Places, Records
from seqjax.errors import UserError


def one_line(error):
    message = str(error.value)
    assert "\n" not in message and len(message) > 20
    return message


def texts(corpus, *parts):
    """The documents of these parts, concatenated."""
    return sum((corpus.parts[part]["text"] for part in parts), ())


ALL = ("train", "validation", "test")


def size(documents):
    return sum(map(len, documents))


# embedded


@pytest.mark.parametrize("name, least", [("python_docs", 250_000), ("python_source", 2_000_000)])
def test_embedded_parts_are_disjoint_and_of_their_sizes(name, least):
    corpus = load_corpus("embedded", name=name)
    assert corpus.name == name and corpus.facts == {"ends": True}
    assert tuple(corpus.parts) == ALL
    parts = [set(texts(corpus, part)) for part in ALL]
    everything = texts(corpus, *ALL)
    assert len(parts[0] | parts[1] | parts[2]) == len(everything)  # no document twice
    total = size(everything)
    assert total > least
    assert 0.08 < size(texts(corpus, "validation")) / total <= 0.1
    assert 0.05 < size(texts(corpus, "test")) / total <= 0.075
    assert min(len(part) for part in parts) >= 5


def test_embedded_documents_are_what_python_has():
    import inspect
    import string
    from pydoc_data.topics import topics

    docs = load_corpus("embedded", name="python_docs")
    assert set(texts(docs, *ALL)) <= set(topics.values())
    source = load_corpus("embedded", name="python_source")
    assert inspect.getsource(string) in texts(source, *ALL)


def test_topics_in_the_parts_do_not_repeat_each_other():
    corpus = load_corpus("embedded", name="python_docs")
    train = {line.strip() for text in texts(corpus, "train") for line in text.split("\n") if len(line.strip()) > 25}
    held = [line.strip() for text in texts(corpus, "validation", "test") for line in text.split("\n")]
    held = [line for line in held if len(line) > 25]
    assert sum(line in train for line in held) < 0.02 * len(held)


def test_embedded_text_is_the_same_in_another_process():
    code = (
        "from seqjax.data import load_corpus\n"
        "for n in ('python_docs', 'python_source', 'hello'):\n"
        "    print(load_corpus('embedded', name=n).fingerprint)"
    )
    outputs = [
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1] and len(outputs[0].split()) == 3


def test_hello_has_four_letters():
    corpus = load_corpus("embedded", name="hello")
    assert set("".join(texts(corpus, "train"))) == set("helo") and set(texts(corpus, "train")) == {"hello"}
    assert texts(corpus, "train") == texts(corpus, "validation") == texts(corpus, "test") and corpus.facts["ends"]


def test_reading_text_needs_no_tensorflow_and_no_tfds():
    code = (
        "import sys; from seqjax.data import load_corpus; load_corpus('embedded', name='python_docs'); "
        "print([m for m in ('tensorflow', 'tensorflow_datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"source": "embeded"}, "nearest: embedded"),
        ({"source": "web"}, "embedded, tfds, file"),
        ({"source": "embedded"}, "python_docs, python_source, hello"),
        ({"source": "embedded", "name": "python_doc"}, "nearest: python_docs"),
        ({"source": "embedded", "name": "hello", "path": "a.txt"}, "path='a.txt' is for source='file'"),
        ({"source": "embedded", "name": "hello", "test_path": "a.txt"}, "test_path"),
        ({"source": "embedded", "name": "hello", "documents": "line"}, "documents='line'"),
        ({"source": "tfds", "name": "lm1b", "encoding": "cp1252"}, "encoding='cp1252' is for source='file' only"),
        ({"source": "embedded", "name": "hello", "data_dir": "x"}, "data_dir='x' is for source='tfds' only"),
        ({"source": "embedded", "name": "hello", "validation_fraction": 0.0}, "validation_fraction is 0.0"),
        ({"source": "embedded", "name": "hello", "validation_fraction": 1}, "validation_fraction is 1"),
        ({"source": "file"}, "needs a path"),
        ({"source": "tfds"}, "needs a name"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, says):
    with pytest.raises(UserError) as error:
        load_corpus(**settings)
    assert says in one_line(error)


# files


@pytest.fixture
def write(tmp_path):
    def write(name, data):
        data = data.encode("utf-8") if isinstance(data, str) else data
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return str(tmp_path / name)

    return write


TEXT = "".join(f"line {n} of the text\n" for n in range(100))


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "noend"])
@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.0001, 0.9999])
def test_running_text_is_cut_once(write, name, fraction):
    corpus = load_corpus("file", path=write(name, TEXT), validation_fraction=fraction)
    (train,), (validation,) = texts(corpus, "train"), texts(corpus, "validation")
    assert train + validation == TEXT and corpus.facts == {"ends": False} and corpus.name == name
    assert list(corpus.parts) == ["train", "validation"]
    assert len(validation) == min(max(round(fraction * len(TEXT)), 1), len(TEXT) - 1)


def test_lines_are_documents(write):
    corpus = load_corpus("file", path=write("a.txt", "a\n\nb\r\n c \n\n"), documents="line", validation_fraction=0.4)
    assert texts(corpus, "train") == ("a", "", "b") and texts(corpus, "validation") == (" c ", "") and corpus.facts["ends"]
    corpus = load_corpus("file", path=write("a.txt", "a\n\nb"), documents="line")
    assert texts(corpus, "train", "validation") == ("a", "", "b")


def test_lines_end_at_newlines_only(write):
    corpus = load_corpus("file", path=write("a.txt", "a\u2028b\x0c\x85c\nd"), documents="line")
    assert texts(corpus, "train", "validation") == ("a\u2028b\x0c\x85c", "d")


@pytest.mark.parametrize("text", ["a\nb\n\nc\n\n\n  d\n", "\n\na\nb\n \t\nc\n\n  d", "a\r\nb\r\n\r\nc\r\n\r\n  d\r\n\r\n"])
def test_paragraphs_are_separated_by_blank_lines(write, text):
    corpus = load_corpus("file", path=write("a.txt", text), documents="paragraph")
    assert texts(corpus, "train", "validation") == ("a\nb", "c", "  d") and corpus.facts["ends"]


def test_the_byte_order_mark_and_carriage_returns_go(write):
    path = write("a.txt", b"\xef\xbb\xbfone\r\ntwo\rthree\xc3\xa9\n")
    corpus = load_corpus("file", path=path)
    assert "".join(texts(corpus, "train", "validation")) == "one\ntwo\rthreeé\n"


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
@pytest.mark.parametrize("documents", ["none", "line", "paragraph"])
def test_json_lines(write, name, documents):
    wanted = ["one\ntwo", "", "three\u2028é", "four\r\n"]
    lines = [json.dumps({"text": text, "label": 1}, ensure_ascii=False) for text in wanted]
    corpus = load_corpus("file", path=write(name, "\n".join(lines) + "\n\n"), documents=documents)
    assert texts(corpus, "train", "validation") == tuple(wanted) and corpus.facts["ends"]


def test_a_file_a_part(write):
    paths = {key: write(f"{key}.txt", f"{key}\ntext") for key in ("path", "validation_path", "test_path")}
    corpus = load_corpus("file", **paths)
    assert [texts(corpus, part) for part in ALL] == [(f"{key}\ntext",) for key in paths] and not corpus.facts["ends"]
    corpus = load_corpus("file", **paths, documents="line")
    assert [texts(corpus, part) for part in ALL] == [(key, "text") for key in paths] and corpus.facts["ends"]


def test_a_path_from_the_home_folder(write, monkeypatch, tmp_path):
    write("a.txt", TEXT)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_corpus("file", path="~/a.txt").parts["train"]["text"][0].startswith("line 0")


@pytest.mark.parametrize(
    "name, data, documents, says",
    [
        ("a.txt", b"", "none", "is empty"),
        ("a.txt", b"\xef\xbb\xbf", "none", "is empty"),
        ("a.txt.gz", b"", "line", "is empty"),
        ("a.txt", b"abc\xff\xfe", "none", "not UTF-8 at byte 3 (0xff)"),
        ("a.txt", b"\xef\xbb\xbfabc\xe9", "line", "not UTF-8 at byte 6 (0xe9)"),
        ("a.txt", b"x", "none", "too short"),
        ("a.txt", b"\n\n\n", "line", "no text"),
        ("a.txt", b" \n\t\n", "paragraph", "no text"),
        ("a.txt", b"one line\n", "line", "single document"),
        ("a.txt", b"one line\n", "word", "choose one of none, line, paragraph"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": 3}\n', "none", "a.jsonl line 3"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b"\n', "none", "a.jsonl line 2"),
        ("a.jsonl", b'{"txt": "a"}\n', "none", "a.jsonl line 1"),
        ("a.jsonl", b'{"text": "a"}\n["text"]', "none", "a.jsonl line 2"),
        ("a.jsonl", b'{"text": "\\ud800"}', "none", "a.jsonl line 1"),
        ("a.jsonl", b"[" * 100_000, "none", "a.jsonl line 1"),
        ("a.jsonl", b'{"text": ""}\n{"text": ""}', "none", "no text"),
        ("a.jsonl", b'{"text": "only one"}', "none", "single document"),
    ],
)
def test_faults_in_a_file_are_named(write, name, data, documents, says):
    path = write(name, data)
    with pytest.raises(UserError) as error:
        load_corpus("file", path=path, documents=documents)
    assert says in one_line(error)
    if documents != "word":
        assert name in str(error.value)


@pytest.mark.parametrize("where", ["path", "validation_path", "test_path"])
def test_a_file_that_is_not_there_is_named(write, tmp_path, where):
    paths = {"path": write("a.txt", TEXT), where: str(tmp_path / "absent.txt")}
    with pytest.raises(UserError) as error:
        load_corpus("file", **paths)
    assert "absent.txt does not exist" in one_line(error)


def test_what_is_not_a_file_is_refused(write, tmp_path):
    (tmp_path / "broken.txt.gz").write_bytes(gzip.compress(TEXT.encode())[:-20])
    (tmp_path / "plain.txt.gz").write_bytes(b"plain text")
    write("a.txt", TEXT)
    faults = {
        str(tmp_path): "is a folder",
        str(tmp_path / "broken.txt.gz"): "not a valid gzip file",
        str(tmp_path / "plain.txt.gz"): "not a valid gzip file",
        str(tmp_path / "a.txt" / "b.txt"): "cannot be read",
        str(tmp_path / ("a" * 400)): "cannot be read",
        "a\0b": "cannot be read",
        "~nosuchuser/a.txt": "does not exist",
    }
    for path, says in faults.items():
        with pytest.raises(UserError) as error:
            load_corpus("file", path=path)
        assert says in one_line(error)


def test_a_file_without_permission_is_refused(write):
    path = write("a.txt", TEXT)
    os.chmod(path, 0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read any file, whatever its permissions")
    with pytest.raises(UserError) as error:
        load_corpus("file", path=path)
    assert "is not readable" in one_line(error)


def test_permission_denied_by_the_system_is_refused(write, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied")

    path = write("a.txt", TEXT)
    monkeypatch.setattr(opening, "open", denied, raising=False)
    with pytest.raises(UserError) as error:
        load_corpus("file", path=path)
    assert "is not readable" in one_line(error)


def test_cutting_keeps_everything_in_order():
    documents = tuple(f"document {n}" for n in range(37))
    records = Records({"text": documents}, Places.of("x line", range(37)))
    for fraction in (0.001, 0.1, 0.5, 0.999):
        stays, off = (part["text"] for part in cut_end(records, fraction, "x"))
        assert stays + off == documents and stays and off and abs(len(off) - 37 * fraction) < 1.5


def test_holding_out_depends_on_names_not_on_order():
    texts = {f"name {n}": "x" * (n % 7 + 1) + str(n) for n in range(200)}
    parts = deal_documents(texts, [0.1, 0.05])
    assert sorted(sum(parts, ())) == sorted(texts.values())
    assert parts == deal_documents(dict(reversed(texts.items())), [0.1, 0.05])


# TFDS


def test_tiny_shakespeare_is_the_whole_text(shared):
    pytest.importorskip("tensorflow_datasets")
    corpus = load_corpus("tfds", name="tiny_shakespeare", data_dir=str(shared / "tfds"))
    raw = gzip.decompress((shared / "data/tinyshakespeare/input.txt.gz").read_bytes()).decode()
    assert "".join(texts(corpus, *ALL)) == raw
    assert [size(texts(corpus, part)) for part in ALL] == [1_003_854, 55_770, 55_770]
    assert not corpus.facts["ends"] and "tensorflow" not in sys.modules


def test_a_set_with_its_own_dev_part(shared):
    pytest.importorskip("tensorflow_datasets")
    corpus = load_corpus("tfds", name="universal_dependencies/en_ewt", data_dir=str(shared / "tfds"))
    assert [len(corpus.parts[part]) for part in ALL] == [12_543, 2_001, 2_077] and corpus.facts["ends"]


@pytest.mark.parametrize(
    "name, says",
    [
        ("mnist", "its features: image, label"),
        ("tiny_shakspeare", "Did you mean: tiny_shakspeare -> tiny_shakespeare"),
        ("lm1b", "tfds build lm1b --file_format=array_record"),
        ("imdb_reviews:9.9.9", "only: 1.0.0"),
        ("a b/c", "check the name"),
    ],
)
def test_sets_that_cannot_be_read(shared, name, says):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(UserError) as error:
        load_corpus("tfds", name=name, data_dir=str(shared / "tfds"))
    assert says in one_line(error)


def test_a_set_that_is_not_prepared_is_said_at_once(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    begin = time.monotonic()
    with pytest.raises(UserError) as error:
        load_corpus("tfds", name="tiny_shakespeare", data_dir=str(tmp_path / "nothing"))
    assert time.monotonic() - begin < 5
    message = one_line(error)
    assert str(tmp_path) in message and "source='embedded'" in message
    assert "`tfds build tiny_shakespeare --file_format=array_record`" in message


def test_without_tfds_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name.split(".")[0] == "tensorflow_datasets":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError) as error:
        load_corpus("tfds", name="tiny_shakespeare")
    assert "pip install -e '.[tfds]'" in one_line(error)
