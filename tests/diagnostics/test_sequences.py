"""Plots and lines of text about sequences: the given content is drawn, whatever its characters."""

import io
import re

import matplotlib
import numpy as np
import pytest

from seqjax.diagnostics import pictures, sequences
from seqjax.diagnostics.sequences import (
    colour_tags,
    legend,
    n_best,
    plot_attention,
    plot_attention_texts,
    plot_attentions,
    plot_weighted_text,
    show_attention,
    use_colour,
)
from seqjax.errors import printable

RNG = np.random.default_rng(0)
# Mathematics to matplotlib, no glyph in its font, no shape at all, half of a pair, longer than a label.
HARD = ["$x_1$", "\\frac{", "a_b", "年", "e\u0301", "\u200b", "\x07", "\ud83d", " ", "\n", "", "x" * 60]
SHOWN = ["$x_1$", "\\frac{", "a_b", "U+5E74", "e\u0301", "U+200B", "U+0007", "U+D83D", "␣", "↵", "", "x" * 23 + "…"]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    figures, save = [], sequences._save
    monkeypatch.setattr(sequences, "_save", lambda figure, path: figures.append(figure) or save(figure, path))
    return figures


def _pixels(path):
    from matplotlib.image import imread

    return imread(path)


def test_attention_draws_the_weights_under_their_tokens(tmp_path, drawn):
    weights = RNG.dirichlet(np.ones(5), 3)
    path = plot_attention(tmp_path / "a.png", weights, list("abc"), list("vwxyz"), "a title")
    axes = drawn[0].axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), weights, rtol=1e-6)
    assert [label.get_text() for label in axes.get_yticklabels()] == list("abc")  # a row for each target
    assert [label.get_text() for label in axes.get_xticklabels()] == list("vwxyz")
    assert axes.get_title() == "a title" and axes.images[0].get_clim() == (0, 1)
    assert path == tmp_path / "a.png" and np.ptp(_pixels(path)) > 0.5


@pytest.mark.parametrize("sources, degrees", [(list("vwxyz"), 0), (["v", "w", "x", "y", "three"], 45)])
def test_characters_are_not_turned_and_words_are_slanted(tmp_path, drawn, sources, degrees):
    plot_attention(tmp_path / "a.png", RNG.dirichlet(np.ones(5), 3), list("abc"), sources)
    assert {label.get_rotation() for label in drawn[0].axes[0].get_xticklabels()} == {degrees}


def test_attention_with_hard_characters_warns_of_nothing(tmp_path, drawn):
    weights = np.full((len(HARD), 2), 0.5)
    plot_attention(tmp_path / "a.png", weights, HARD, ["年月日", "$"], "2024年: $\\bad_ \x00")
    axes = drawn[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == SHOWN
    assert [label.get_text() for label in axes.get_xticklabels()] == ["U+5E74U+6708U+65E5", "$"]
    assert axes.get_title() == "2024U+5E74: $\\bad_ U+0000"


def test_characters_of_a_font_that_the_user_chose_are_kept():
    assert sequences._readable("ሴ𝟛", family="DejaVu Sans Mono") == "U+1234U+1D7DB"
    with matplotlib.rc_context({"font.family": ["DejaVu Sans Mono", "DejaVu Sans"]}):
        assert sequences._readable("ሴ𝟛") == "U+1234𝟛"  # the second font has one of them


@pytest.mark.parametrize("number, shape", [(1, (1, 1)), (3, (2, 2)), (4, (2, 2)), (5, (3, 2))])
def test_a_sheet_of_maps(tmp_path, drawn, number, shape):
    sizes = [(1 + 4 * i, 9 - 2 * i) for i in range(number)]
    maps = [(RNG.random((t, s)), ["t" * 30] * t, ["s"] * s) for t, s in sizes]
    plot_attentions(tmp_path / "a.png", maps, [f"map {i}" for i in range(number - 1)] + ["t" * 100])
    axes = drawn[0].axes[:-1]  # the last is the scale
    assert len(axes) == np.prod(shape) and axes[0].get_gridspec().get_geometry() == shape
    assert [one.images[0].get_array().shape for one in axes[:number]] == sizes
    assert [one.get_title() for one in axes[:number]] == [f"map {i}" for i in range(number - 1)] + ["t" * 79 + "…"]


@pytest.mark.parametrize(
    "maps, titles, said",
    [
        ([], None, "maps is empty"),
        (
            [(np.ones((2, 3)), ["a", "b", "c"], ["a", "b"])],
            None,
            r"shape \(2, 3\); 3 targets and 2 sources need \(3, 2\)",
        ),
        ([(np.ones((0, 1)), [], ["a"])], None, r"at least \(1, 1\)"),
        ([(np.ones((1, 1)), ["a"], ["a"])], ["one", "two"], "1 maps and 2 titles"),
    ],
)
def test_maps_that_do_not_fit_are_refused(tmp_path, maps, titles, said):
    for plot in (plot_attentions, plot_attention_texts):
        with pytest.raises(ValueError, match=said):
            plot(tmp_path / "a.png", maps, titles)
    assert not list(tmp_path.iterdir())


def test_long_sources_are_written_out_once_for_each_target_token(tmp_path, drawn):
    """Each under its target token, the heaviest token the darkest; <eos> is left out; nothing overlaps or leaves the page."""
    words = ["word" * int(n) for n in RNG.integers(1, 4, 70)]
    weights = RNG.dirichlet(np.ones(70), 3)
    weights[1] = np.eye(70)[7]
    maps = [(weights, ["two", "$x_1$", "<eos>"], words), (weights[:2], ["nobody", "<eos>"], ["a", *HARD, *words[:57]])]
    path = plot_attention_texts(tmp_path / "a.png", maps, ["first", "second"])
    strips = drawn[0].axes
    assert [axes.get_title(loc="left") for axes in strips] == ["first: two", "$x_1$", "second: nobody"]
    assert [text.get_text() for text in strips[0].texts] == words == [text.get_text() for text in strips[1].texts]
    assert [text.get_text() for text in strips[2].texts][1 : len(HARD)] == SHOWN[:-1]
    shades = [sum(text.get_bbox_patch().get_facecolor()[:3]) for text in strips[1].texts]
    assert np.argmin(shades) == 7 and len({*shades}) == 2
    heaviest = [sum(text.get_bbox_patch().get_facecolor()[:3]) for text in strips[0].texts]
    assert np.argmin(heaviest) == np.argmax(weights[0])
    boxes = [text.get_window_extent() for axes in strips for text in axes.texts if len(text.get_text()) > 1]
    assert all(box.x0 >= 0 and box.x1 <= drawn[0].bbox.x1 and box.y0 >= 0 and box.y1 <= drawn[0].bbox.y1 for box in boxes)
    rows = sorted({round(box.y0) for box in boxes})
    assert min(np.diff(rows)) > 5 and np.ptp(_pixels(path)) > 0.5  # lines apart, those of different strips too
    titles = [axes.title.get_window_extent() for axes in strips]
    assert all(not title.overlaps(box) for title in titles for box in boxes)


def test_of_long_outputs_the_first_tokens_are_drawn_and_that_is_said(tmp_path, drawn):
    maps = [(np.ones((n, 60)) / 60, [f"t{i}" for i in range(n)], ["s"] * 60) for n in (5, 3)]
    plot_attention_texts(tmp_path / "a.png", maps, ["long", "short"], limit=3)
    titles = [axes.get_title(loc="left") for axes in drawn[0].axes]
    assert titles == ["long: the first 3 of 5 words: t0", "t1", "t2", "short: t0", "t1", "t2"]


def test_attention_is_a_map_for_short_sources_and_a_text_for_long_ones(tmp_path, monkeypatch):
    called = []
    for name in ("plot_attentions", "plot_attention_texts"):
        monkeypatch.setattr(sequences, name, lambda path, maps, name=name: called.append(name))
    for longest in (50, 51):
        show_attention(tmp_path / "a.png", [(np.ones((1, n)), ["t"], ["s"] * n) for n in (3, longest, 4)])
    assert called == ["plot_attentions", "plot_attention_texts"]


def test_words_stand_in_order_within_the_page_and_do_not_overlap(tmp_path, drawn):
    words = [*HARD, *("word" * int(n) for n in RNG.integers(1, 5, 100)), "y" * 200]
    plot_weighted_text(tmp_path / "w.png", words, RNG.random(len(words)), "$a title_")
    axes = drawn[0].axes[0]
    texts = axes.texts
    # One as long as a line is not shortened to a label's length.
    assert [text.get_text() for text in texts[: len(HARD)]] == [*SHOWN[:-1], "x" * 60]
    assert texts[-1].get_text() == "y" * 89 + "…"
    boxes = [text.get_window_extent() for text in texts]
    assert all(box.x0 >= 0 and box.x1 <= drawn[0].bbox.x1 and box.y0 >= 0 for box in boxes)
    for left, right in zip(boxes[11:], boxes[12:]):  # those before have characters without width
        assert left.x1 < right.x0 or right.y1 < left.y1


def test_the_heaviest_word_is_the_darkest(tmp_path, drawn):
    plot_weighted_text(tmp_path / "w.png", ["a", "b", "c"], np.array([0.2, 0.6, 0.0]), "why")
    shades = [sum(text.get_bbox_patch().get_facecolor()[:3]) for text in drawn[0].axes[0].texts]
    assert shades[1] < shades[0] < shades[2]
    assert [text.get_color() for text in drawn[0].axes[0].texts] == ["black", "white", "black"]
    assert drawn[0].axes[0].get_title(loc="left") == "why; darkest: 0.6"


def test_a_long_text_is_cut_and_the_title_says_so(tmp_path, drawn):
    weights = np.linspace(0, 1, 1234)
    plot_weighted_text(tmp_path / "w.png", ["w"] * 1234, weights)
    axes = drawn[0].axes[0]
    assert len(axes.texts) == 200
    assert axes.get_title(loc="left") == f"the first 200 of 1,234 words; darkest: {weights[199]:.3g}"
    assert axes.texts[-1].get_color() == "white"  # the scale is that of the words shown


def test_weights_of_zero_are_drawn(tmp_path, drawn):
    plot_weighted_text(tmp_path / "w.png", ["a"], np.zeros(1))
    assert drawn[0].axes[0].texts[0].get_color() == "black"


@pytest.mark.parametrize("words, weights, said", [
    (["a"], np.ones(2), r"shape \(2,\) for 1 words"), ([], np.ones(0), "for 0 words"),
    (["a"], np.array([-0.1]), "negative"), (["a"], np.array([np.nan]), "not finite"),
])  # fmt: skip
def test_weights_that_do_not_fit_are_refused(tmp_path, words, weights, said):
    with pytest.raises(ValueError, match=said):
        plot_weighted_text(tmp_path / "w.png", words, weights)


def test_confusion_says_what_was_counted(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(pictures, "_save", lambda figure, path: titles.append(figure.axes[0].get_title()))
    pictures.plot_confusion(tmp_path / "c.png", np.array([[3, 1], [0, 4]]), ["a", "b"], unit="words")
    pictures.plot_confusion(tmp_path / "c.png", np.array([[3, 1], [0, 4]]), ["a", "b"])
    assert titles == ["8 words, 87.50% right", "8 images, 87.50% right"]


ANSI = re.compile(r"\x1b\[([\d;]*)m")


def _colours(line):
    """Each painted piece -> its code."""
    return {text: code for code, text in re.findall(r"\x1b\[([\d;]+)m([^\x1b]*)\x1b\[0m", line)}


def test_colours_change_nothing_but_the_colour():
    words, tags = ["a", "big", "dog"], ["DET", "ADJ", "NOUN"]
    painted = colour_tags(words, tags, colour=True)
    assert ANSI.sub("", painted) == colour_tags(words, tags, colour=False) == "a/DET big/ADJ dog/NOUN"
    assert len(set(_colours(painted).values())) == 3
    assert ANSI.sub("", legend(tags, colour=True)) == legend(tags, colour=False) == "tags: DET ADJ NOUN"


def test_a_tag_has_its_colour_in_every_sentence():
    tags = [f"T{i}" for i in range(40)]
    codes = _colours(legend(tags, colour=True))
    assert len(set(codes.values())) == 40
    for i in RNG.permutation(40)[:10]:
        sentence = colour_tags(["w", "v"], [tags[i], tags[0]], colour=True, order=tags)
        assert _colours(sentence)[f"w/{tags[i]}"] == codes[tags[i]]


def test_the_tags_of_an_entity_share_a_colour_and_none_has_none():
    line = colour_tags(["Jo", "Li", "in", "Rome"], ["B-PER", "I-PER", "O", "S-LOC"], colour=True)
    codes = _colours(line)
    assert codes["Jo/B-PER"] == codes["Li/I-PER"] != codes["Rome/S-LOC"]
    assert " in/O " in line and legend(["O", "B-PER", "I-PER"], colour=False) == "tags: O PER"


def test_what_would_steer_the_terminal_does_not():
    line = colour_tags(["\x1b[2Jx", "\x9b", "\ud800", "é年\u200d"], ["A\r", "B", "C", "D"], colour=False)
    assert line == "\\x1b[2Jx/A\\r \\x9b/B \\ud800/C é年\u200d/D"
    assert n_best(["a\nb\x1b"], [1]) == "1  1.0000  a\\nb\\x1b"


def test_n_best_is_aligned():
    lines = n_best([f"text {i}" for i in range(10)], [-0.5, *np.full(8, -12.25, np.float32), -float("inf")]).split("\n")
    assert lines[0] == " 1   -0.5000  text 0" and lines[1] == " 2  -12.2500  text 1" and lines[9] == "10      -inf  text 9"
    assert n_best([], []) == "" and colour_tags([], [], colour=True) == ""


def test_unequal_numbers_are_refused():
    with pytest.raises(ValueError, match="words has 1 entries and tags has 2"):
        colour_tags(["a"], ["A", "B"], colour=False)
    with pytest.raises(ValueError, match="texts has 1 entries and scores has 0"):
        n_best(["a"], [])


class _Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    "stream, environment, wanted",
    [
        (_Terminal(), {}, True),
        (_Terminal(), {"NO_COLOR": "1"}, False),
        (_Terminal(), {"NO_COLOR": ""}, True),  # the standard's own rule
        (_Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_colour_is_for_terminals_of_those_who_want_it(monkeypatch, stream, environment, wanted):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert use_colour(stream) is wanted


def test_a_coloured_line_is_safe_and_knows_itself_plain():
    """What is marked as our own colours holds no codes but those, whatever the words and tags are."""
    words, tags = ["\x1b[31mred", "\u202eevil", "a\u2066b\x07\x7f"], ["A\x1b]0;title\x07", "B\n", "O"]
    line, shown = colour_tags(words, tags, colour=True), legend(tags, colour=True)
    for text in (line, shown):
        assert printable(text) is text and ANSI.sub("", text) == text.plain == printable(text.plain, keep="")
    assert line.plain == colour_tags(words, tags, colour=False) and shown.plain == legend(tags, colour=False)
    assert "\\x1b[31mred" in line and "\\u202eevil" in line and "a\\u2066b\\x07\\x7f" in line
