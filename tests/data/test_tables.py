"""Tables and JSON lines: output of the csv and json modules is read back, and any damage gives an error or correct records."""

import codecs
import csv
import gzip
import io
import itertools
import json
import re

import hypothesis
import hypothesis.strategies as st
import pytest

from seqjax.data.readers.tables import LONGEST_LABEL, Format, is_table, read_inputs, read_table
from seqjax.errors import UserError

BOTH = {"text": ("text_field", "text"), "label": ("label_field", "label")}
QUICK = hypothesis.settings(max_examples=100, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))


@pytest.fixture
def write(tmp_path):
    def write(name, data):
        data = data.encode() if isinstance(data, str) else data
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return str(tmp_path / name)

    return write


def rows_of(records):
    return list(zip(*records.columns.values()))


def faults(path, fields=BOTH, format=Format(), labels=("label",)):  # noqa: B008
    with pytest.raises(UserError) as error:
        read_table(path, fields, format, labels)
    return [line.strip().removeprefix(path) for line in str(error.value).split("\n")]


# What is written is read


@st.composite
def tables(draw):
    columns = draw(st.integers(1, 4))
    field = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\ufeff"), max_size=8)
    nasty = st.sampled_from(['"', '""', 'a "b" c', "\n", "a\nb", ",", ";", "\t", "|", " x ", "", "'", "\\", "1", "\u2028", "\x00"])
    return draw(st.lists(st.lists(field | nasty, min_size=columns, max_size=columns), min_size=1, max_size=6))


@QUICK
@hypothesis.given(
    table=tables(), delimiter=st.sampled_from([",", ";", "\t", "|", " "]), header=st.booleans(), all_quoted=st.booleans(),
    end=st.sampled_from(["\n", "\r\n"]), encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "gb18030"]),
    name=st.sampled_from(["a.csv", "a.tsv.gz", "a.txt"]), by_name=st.booleans(), last=st.booleans(),
)  # fmt: skip
def test_what_csv_writes_is_read_back(write, table, delimiter, header, all_quoted, end, encoding, name, by_name, last):
    text = io.StringIO()
    names = [f"field {n}" for n in range(len(table[0]))]
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL)
    writer.writerows([names] * header + table)
    written = text.getvalue() if last else text.getvalue().removesuffix(end)
    path = write(name, written.encode(encoding))
    fields = {f"column {n}": ("a_field", names[n] if by_name and header else str(n + 1)) for n in reversed(range(len(names)))}
    format = Format(delimiter, "double", header, "utf-8" if encoding == "utf-8-sig" else encoding)
    records = read_table(path, fields, format)
    assert rows_of(records) == [tuple(row[::-1]) for row in table]
    line = 1 + header
    for n, row in enumerate(table):  # a record is where it begins
        assert records.places.at(n) == f"{path} line {line}"
        line += 1 + sum(field.count("\n") for field in row)


@QUICK
@hypothesis.given(
    table=st.lists(
        st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\t\ufeff")), min_size=2, max_size=2), min_size=1
    )
)
def test_where_quotes_are_text_every_character_is(write, table):
    path = write("a.tsv", "".join("\t".join(row) + "\n" for row in table))
    records = read_table(path, {"a": ("a", "1"), "b": ("b", "2")}, Format(quoting="none", header=False))
    assert rows_of(records) == [tuple(row) for row in table]


@QUICK
@hypothesis.given(
    values=st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.booleans() | st.integers() | st.just("x"))),
    ascii_only=st.booleans(),
    end=st.sampled_from(["\n", "\r\n", "\n \n\n"]),
)
def test_what_json_writes_is_read_back(write, values, ascii_only, end):
    hypothesis.assume(values)
    lines = (json.dumps({"label": label, "n": None, "text": text}, ensure_ascii=ascii_only) for text, label in values)
    records = read_table(write("a.jsonl", "".join(line + end for line in lines)), BOTH, labels=["label"])
    assert rows_of(records) == [(text, str(label)) for text, label in values]


# Any damage


def expected(kind, data, quoting="double"):
    """The (text, label) rows of a file by the csv and json modules; None where it has a fault."""
    try:
        text = codecs.decode(data, "utf-8").removeprefix("\ufeff").replace("\r\n", "\n")
        if kind == "jsonl":
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
            rows = [(row["text"], row["label"]) for row in rows]
            rows = [(text, str(label) if isinstance(label, int) else label) for text, label in rows]
        else:
            delimiter = {"csv": ",", "tsv": "\t"}[kind]
            if quoting == "none":
                table = [line.split(delimiter) for line in text.split("\n") if line]
            else:
                table = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if row]
            header, *table = table
            if [header.count(name) for name in ("text", "label")] != [1, 1] or {len(row) for row in table} - {len(header)}:
                return None
            rows = [(row[header.index("text")], row[header.index("label")]) for row in table]
        "".join(itertools.chain.from_iterable(rows)).encode("utf-8")
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error, RecursionError):
        return None
    return rows if rows and all(label.strip() and len(label) <= LONGEST_LABEL for _, label in rows) else None


SOUND = {
    "csv": 'id,text,label\n1,"a ""good"" film, really",pos\n2,"two\nlines",neg\r\n\n3,süß,pos\n',
    "tsv": 'text\tlabel\nfine\tpos\n"a\ttab"\tneg\nan "odd" one\tpos\n',
    "jsonl": '{"text": "a \\"good\\" film", "label": "pos"}\r\n\n{"label": 1, "text": "sü\\u00df"}\n{"text": "", "label": true}\n',
}
PIECES = ['"', '""', ",", "\t", "\n", "\r", "\r\n", "\x00", "{", "}", "[", ":", "\\", "\\ud800", "null", "1e999", "é", " "]
PIECES += ["text", "\ufeff"]


@hypothesis.settings(max_examples=400, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(
    kind=st.sampled_from(["csv", "tsv", "jsonl"]),
    quoting=st.sampled_from(["double", "none"]),
    changes=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 9), st.sampled_from([p.encode() for p in PIECES] + [b"\xff", b"\xed\xa0\x80", b""])),
        min_size=1,
        max_size=4,
    ),
)
def test_any_damage_is_a_named_error_or_leaves_right_records(write, kind, quoting, changes):
    data = SOUND[kind].encode()
    for where, gone, piece in changes:
        at = round(where * len(data))
        data = data[:at] + piece + data[at + gone :]
    quoting = "double" if kind == "jsonl" else quoting
    path, wanted = write(f"a.{kind}", data), expected(kind, data, quoting)
    limit = csv.field_size_limit()
    try:
        records = read_table(path, BOTH, Format(quoting=quoting), ["label"])
    except UserError as error:
        assert wanted is None, error
        for line in error.args if len(error.args) == 1 else error.args[1:]:
            assert re.match(re.escape(path) + r"( line \d+( |: )| is (empty|not UTF-8 at byte \d+)| has no records)", line), line
    else:
        assert rows_of(records) == wanted
    assert csv.field_size_limit() == limit


def test_sound_files_are_sound():
    assert [len(expected(kind, data.encode())) for kind, data in SOUND.items()] == [3, 3, 3]


# Faults, all of a file at once


def test_all_faults_of_a_table_are_listed_with_their_lines(write):
    path = write("a.csv", 'text,label\n"two\nlines",a\nwith, comma,a\ny, \n"odd" one,b\nz,' + "b" * 201 + "\n\nz,b\n")
    assert faults(path) == [
        ": 4 faults",
        " line 4 has 3 fields, but the first line names 2; repair that line (put double quotes around a text that has the delimiter in it)",
        " line 5: 'label' is empty; give a label, or leave the line out",
        " line 6 is not valid (',' expected after '\"'); double the quotes inside a quoted text, or set quoting=none where quotes are text",
        " line 7: 'label' has 201 characters, too many for a label; set label_field",
    ]


def test_all_faults_of_json_lines_are_listed_with_their_lines(write):
    lines = ['{"text": "x", "label": "a"}']
    lines += ['{"text": 1, "label": 1.5}', "", "[1]", "{", '{"txt": "\\ud800"}', '{"text": "\\ud800", "label": 0}']
    assert faults(write("a.jsonl", "\n".join(lines))) == [
        ": 7 faults",
        " line 2: 'text' is 1, not a string; repair that line",
        " line 2: 'label' is 1.5; a label is a string, a whole number, true or false",
        " line 4 is not a JSON object, {...}; repair that line",
        " line 5 is not JSON (Expecting property name enclosed in double quotes, column 2); repair that line",
        " line 6 has no field 'text' (nearest: txt), only txt; set text_field",
        " line 6 has no field 'label', only txt; set label_field",
        " line 7: 'text' holds half a surrogate pair, which is not a character; repair that line",
    ]


def test_many_faults_are_counted(write):
    said = faults(write("a.jsonl", "[]\n" * 1000))
    assert said[0] == ": 1,000 faults" and len(said) == 22 and said[-1] == "... and 980 more"


@pytest.mark.parametrize(
    "name, data, format, says",
    [
        ("a.csv", "good film,pos\nbad,neg\n", Format(), "if that line is a record already, header=False and numbers of fields"),
        ("a.csv", "good film,pos\n", Format(header=False), "no header, and the first record is good film, pos; set text_field to a number"),
        ("a.csv", "text;label\nx;a\n", Format(), "its fields may be separated by another delimiter: ';'"),
        ("a.csv", "texts,label\nx,a\n", Format(), "no field 'text' (nearest: texts), only texts, label; set text_field"),
        ("a.csv", "text,text,label\nx,y,a\n", Format(), "names two fields 'text'; give each its own name, or set text_field to a number"),
        ("a.tsv", 'text\tlabel\n"Oh" she said\ta\n', Format(), "set quoting=none where quotes are text"),
        ("a.tsv", "text\tlabel\nx\ty\tz\n", Format(quoting="none"), "line 2 has 3 fields, but the first line names 2; repair that line"),
        ("a.tsv", "x\ta\ny\n", Format(header=False), "line 1 has no field 'text'"),
        ("a.txt", "x", Format(), " does not have the extension of a table"),
        ("a.jsonl", "{}", Format(delimiter="tab"), "delimiter='tab' is for tables"),
        ("a.jsonl", "{}", Format(header=False), "header=False is for tables"),
        ("a.jsonl", "{}", Format(quoting="none"), "quoting='none' is for tables"),
        ("a.csv", "x", Format(quoting="nome"), "quoting='nome' is unknown (nearest: none)"),
        ("a.csv", "x", Format(delimiter="::"), "delimiter='::' cannot separate fields"),
        ("a.csv", "x", Format(delimiter='"'), "delimiter='\"' cannot separate fields"),
        ("a.csv", "x", Format(encoding="utf8-16"), "encoding='utf8-16' is not one that Python knows"),
    ],
)
def test_what_to_do_is_said(write, name, data, format, says):
    assert any(says in line for line in faults(write(name, data), format=format))


# Options


def test_a_table_without_a_header_loses_no_record(write):
    path = write("a.csv", "good film,pos\nbad,neg\n")
    fields = {"text": ("text_field", "1"), "label": ("label_field", "2")}
    records = read_table(path, fields, Format(header=False), ["label"])
    assert rows_of(records) == [("good film", "pos"), ("bad", "neg")] and records.places.at(0) == f"{path} line 1"


def test_a_name_that_is_a_number_comes_before_the_number(write):
    path = write("a.csv", "2,1\nfirst,second\n")
    assert rows_of(read_table(path, {"a": ("a", "1"), "b": ("b", "2")})) == [("second", "first")]


def test_unquoted_tsv_is_read_and_a_quote_that_joined_lines_is_noted(write):
    data = 'text\tlabel\n"Oh" she said\ta\n"What\tb\nno"\tc\n'
    path = write("a.tsv", data)
    records = read_table(path, BOTH, Format(quoting="none"), ["label"])
    assert rows_of(records) == [('"Oh" she said', "a"), ('"What', "b"), ('no"', "c")] and records.notes == ()
    joined = read_table(write("b.tsv", data.replace('"Oh"', "Oh")), BOTH, labels=["label"])
    assert rows_of(joined) == [("Oh she said", "a"), ("What\tb\nno", "c")]
    assert len(joined.notes) == 1 and "if its quotes are text, set quoting=none" in joined.notes[0]


@pytest.mark.parametrize(
    "name, character", [("tab", "\t"), ("\\t", "\t"), ("comma", ","), ("semicolon", ";"), ("bar", "|"), ("space", " "), ("#", "#")]
)
def test_delimiters_have_names(write, name, character):
    path = write("a", f"text{character}label\nx{character}a\n")
    assert rows_of(read_table(path, BOTH, Format(name))) == [("x", "a")]
    assert is_table(path, Format(name)) and not is_table(path)


def test_a_lone_return_ends_a_row_but_no_line(write):
    records = read_table(write("a.csv", 'text,label\nb,a\rc,a\n"d\re",a\nf,a'), BOTH, labels=["label"])
    assert records["text"] == ("b", "c", "d\re", "f") and records.places.numbers.tolist() == [2, 2, 3, 4]


@pytest.mark.parametrize("data", ["text,label\n" + "x" * 5000 + ",a\n", 'text,label\n"x\n', "text\nx\n"])
def test_the_limit_of_fields_is_put_back(write, data):
    before = csv.field_size_limit(1000)
    try:
        if "x" * 5000 in data:
            assert len(read_table(write("a.csv", data), BOTH)["text"][0]) == 5000
        else:
            assert faults(write("a.csv", data))
        assert csv.field_size_limit() == 1000
    finally:
        csv.field_size_limit(before)


def test_inputs_are_a_field_of_a_table_or_lines(write):
    assert read_inputs(write("a.csv", "id,text\n1,one\n2,\n")) == ["one", ""]
    assert read_inputs(write("a.tsv.gz", "id\ttext\n1\tone\n"), "1") == ["1"]
    assert read_inputs(write("a.txt", "one, two\n\nthree")) == ["one, two", "", "three"]


def test_a_wrong_name_of_a_field_is_said_once_and_of_some_records_for_each(write):
    lines = ['{"text": "a", "label": 1}\n'] * 3
    assert faults(write("a.jsonl", '{"txt": "a", "label": 1}\n' * 5000)) == [
        " line 1 has no field 'text' (nearest: txt), only txt, label; set text_field"
    ]
    found = faults(write("b.jsonl", '{"label": 1}\n{"text": "a"}\n' + "".join(lines) + "{}\n"))
    assert [fault.split("field")[0] for fault in found[1:]] == [" line 1 has no ", " line 2 has no ", " line 6 has no ", " line 6 has no "]


@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
def test_fields_by_number_say_that_the_first_line_is_no_record(write, ending):
    path = write("a" + ending, "a film,pos\nanother,neg\n")
    numbers = {"text": ("text_field", "1"), "label": ("label_field", "2")}
    records = read_table(path, numbers)
    assert len(records) == 1
    assert records.notes == (
        f"{path}: the first line (a film, pos) names the fields and is not read as a record (text is field 1, label is field 2); "
        "if it is one, set header=False",
    )
    assert read_table(path, numbers, Format(header=False)).notes == ()
    swapped = read_table(write("b" + ending, "2,1\nx,y\n"), numbers)  # a name goes before a number: the note says so
    assert rows_of(swapped) == [("y", "x")] and "text is field 2, label is field 1" in swapped.notes[0]


def test_two_settings_for_one_field_are_refused(write):
    path = write("a.csv", "text,label\na,1\n")
    found = faults(path, {"text": ("text_field", "text"), "label": ("label_field", "1")})
    assert found == [
        " line 1: text_field='text' and label_field='1' are one field, number 1; name a field for each, or, if that "
        "line is a record already, set header=False (a name goes before a number)"
    ]
    assert "set header=False" in faults(write("b.csv", "a film,1\nb,0\n"), {"text": ("text_field", "1"), "label": ("label_field", "2")})[0]
