"""Word vectors from files: both formats against a parse of the whole file, coverage, faults of a file."""

import gzip
import tracemalloc

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from seqjax.errors import UserError
from seqjax.text import SPECIAL_TOKENS, Vectors, WordTokenizer, apply_vectors, load_vectors

WORDS = [
    "the",
    "The",
    "cat",
    "Zürich",
    "字",
    ". . .",
    "at name@domain.com",
    "3.14",
    "a\u00a0b",
    "x\u0085y",
    "naïve",
    "-",
]


def write(path, words, matrix, *, header=False, end="\n", mark=""):
    lines = [f"{len(words)} {matrix.shape[1]}"] if header else []
    lines += [f"{word} {' '.join(map(repr, row.tolist()))}" for word, row in zip(words, matrix, strict=True)]
    data = (mark + "".join(line + end for line in lines)).encode("utf-8")
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize("name, end, mark", [("v.txt", "\n", ""), ("v.gz", " \n", ""), ("v.vec", "\r\n", "\ufeff")])
def test_both_formats_give_what_is_in_the_file(header, name, end, mark, tmp_path):
    """GloVe and word2vec, plain and compressed, with the spaces that word2vec leaves at the ends of lines."""
    matrix = numbers(len(WORDS), 7)
    path = write(tmp_path / name, WORDS, matrix, header=header, end=end, mark=mark)
    tokens = [*SPECIAL_TOKENS, *reversed(WORDS), "dog"]
    vectors = load_vectors(str(path), tokens, lower_fallback=False)
    expected = np.zeros((len(tokens), 7), np.float32)
    expected[4:-1] = matrix[::-1]
    assert vectors.matrix.dtype == np.float32 and vectors.found.dtype == bool
    np.testing.assert_array_equal(vectors.matrix, expected)
    assert vectors.found.tolist() == [False] * 4 + [True] * len(WORDS) + [False]
    assert vectors.coverage == pytest.approx(len(WORDS) / (len(WORDS) + 1)) and vectors.running_coverage is None


def test_a_file_as_numpy_reads_it(tmp_path):
    words = [f"w{i}" for i in range(300)]
    path = write(tmp_path / "v.txt", words, numbers(300, 5) * 1e-3)
    whole = np.loadtxt(path, usecols=range(1, 6), dtype=np.float64).astype(np.float32)
    chosen = np.random.default_rng(1).permutation(300)[:40]
    vectors = load_vectors(path, [words[i] for i in chosen])
    np.testing.assert_array_equal(vectors.matrix, whole[chosen])
    assert vectors.coverage == 1 and vectors.found.all()


@hypothesis.given(
    st.lists(st.sampled_from(["a", "A", "b", "B", "Ab", "ab", "aB"]), min_size=1, max_size=8),
    st.lists(st.sampled_from(["a", "A", "b", "B", "Ab", "AB", "c"]), max_size=8),
    st.booleans(),
)
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], deadline=None)
def test_the_word_itself_goes_before_its_lower_case_and_the_first_line_before_others(tmp_path, words, tokens, lower):
    matrix = numbers(len(words), 2)
    vectors = load_vectors(write(tmp_path / "v.txt", words, matrix), tokens, lower_fallback=lower)
    assert vectors.matrix.shape == (len(tokens), 2)
    for token, row, found in zip(tokens, vectors.matrix, vectors.found, strict=True):
        key = token if token in words or not lower else token.lower()
        assert found == (key in words)
        np.testing.assert_array_equal(row, matrix[words.index(key)].astype(np.float32) if found else np.zeros(2))


def test_special_tokens_are_not_looked_for(tmp_path):
    words = ["<unk>", "<pad>", "a"]
    vectors = load_vectors(write(tmp_path / "v.txt", words, numbers(3, 2)), WordTokenizer.fit("a b").vocabulary)
    assert vectors.found.tolist() == [False] * 4 + [True, False] and vectors.coverage == 0.5


def test_coverage_of_types_and_of_running_tokens(tmp_path):
    path = write(tmp_path / "v.txt", ["the", "cat"], numbers(2, 3))
    counts = {"The": 6, "cat": 2, "sat": 1, "far": 1, "<unk>": 90}  # "far" is not in the vocabulary
    vectors = load_vectors(path, ["<unk>", "The", "cat", "sat"], counts=counts)
    assert vectors.coverage == pytest.approx(2 / 3) and vectors.running_coverage == pytest.approx(0.8)
    assert str(vectors) == "vectors of 3 numbers for 2 tokens, 66.67% of them and 80.00% of the running text"
    assert str(load_vectors(path, ["cat"])) == "vectors of 3 numbers for 1 tokens, 100.00% of them"
    empty = load_vectors(path, [], counts={})
    assert empty.matrix.shape == (0, 3) and empty.coverage == empty.running_coverage == 0


@pytest.mark.parametrize(
    "content, named",
    [
        ("", "holds no vectors"),
        ("\n \n", "holds no vectors"),
        ("3 2\n", "holds no vectors"),
        ("a 1 2\nb 1\n", "line 2 has 1 numbers after the word, expected 2"),
        ("a 1 2\n\nb 1 2 3\n", "line 3 has 3 numbers after the word, expected 2"),
        ("a 1 2\nb\n", "line 2 has 0 numbers after the word, expected 2"),
        ("a\n", "line 1 has 0 numbers after the word, expected at least 1"),
        ("2 3\na 1 2\nb 1 2\n", "line 2 has 2 numbers after the word, expected 3"),
        ("2 1\na 1 2\n", "line 2 has 2 numbers after the word, expected 1"),
        ("2 2\na 1 2\n", "holds 1 vectors, but its first line says 2"),
        ("1 2\na 1 2\nb 1 2", "holds 2 vectors, but its first line says 1"),
        ("once upon a time\n", "line 1 holds something that is not a number"),
        ("x 1 2\na 1 2,5\n", "line 2 holds something that is not a number"),
        ("x 1 2\na 1  2\n", "line 2 has 3 numbers after the word, expected 2"),
        ("x 1 2\na nan 2\n", "line 2 holds a number that is not finite"),
        ("x 1 2\na 1 -inf\n", "line 2 holds a number that is not finite"),
        ("x 1 2\na 1e39 2\n", "line 2 holds a number that is not finite"),
        (b"x 1 2\n\xff\xfe 1 2\n", "line 2 is not UTF-8"),
        (b"\x1f\x8bnot gzip", "compressed data is damaged"),
        (gzip.compress(b"a 1 2\n" * 1000, mtime=0)[:-12], "compressed data is damaged"),
        (b"PK\x03\x04zip", "zip archive"),
        (b"\x00" * (1 << 21), "line 1 is too long"),
        (b"1000 300\nthe " + bytes(range(256)) * 5000, "line 2"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(content, named, tmp_path):
    path = tmp_path / "odd.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=named) as error:
        load_vectors(path, ["a"])
    assert "odd.txt" in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_file_is_named(tmp_path):
    for path in (tmp_path / "missing.txt", tmp_path):
        with pytest.raises(UserError, match=f"cannot read {path}"):
            load_vectors(path, ["a"])
    path = write(tmp_path / "v.txt", ["a"], numbers(1, 2))
    for tokens in ("a", [1], b"a"):
        with pytest.raises(UserError, match="tokens"):
            load_vectors(path, tokens)
    assert not load_vectors(path, ["\ud800"]).found.any()


def test_only_the_wanted_rows_are_kept_and_parsed(tmp_path):
    path = tmp_path / "large.txt"
    row = " ".join(["0.125"] * 50)
    with open(path, "w") as file:
        file.writelines(f"word{i} {row}\n" for i in range(30_000))
        file.write("unwanted " + " ".join(["?"] * 50) + "\n")
    tracemalloc.start()
    vectors = load_vectors(path, ["word7", "word29999"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert vectors.found.all() and (vectors.matrix == 0.125).all()
    assert path.stat().st_size > 9_000_000 and peak < 2_000_000


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_found_rows_are_put_into_a_table(dtype):
    table = jax.random.normal(jax.random.key(0), (5, 3), dtype)
    found = np.array([True, False, True, False, False])
    vectors = Vectors(numbers(5, 3).astype(np.float32) * found[:, None], found, 0.4, None)
    result = apply_vectors(table, vectors)
    assert result.dtype == dtype
    expected = np.array(table)
    expected[found] = vectors.matrix[found].astype(dtype)
    np.testing.assert_array_equal(np.asarray(result), expected)


def test_a_table_of_another_shape_is_refused():
    vectors = Vectors(np.zeros((5, 3), np.float32), np.zeros(5, bool), 0.0, None)
    with pytest.raises(UserError, match=r"shape \(5, 4\).*width of 3"):
        apply_vectors(jnp.zeros((5, 4)), vectors)
    with pytest.raises(UserError, match=r"shape \(3,\).*width of 3"):
        apply_vectors(jnp.zeros(3), vectors)
    with pytest.raises(UserError, match="6 rows and the vectors 5"):
        apply_vectors(jnp.zeros((6, 3)), vectors)
