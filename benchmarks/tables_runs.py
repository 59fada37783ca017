"""The tables of results and of measurements of runs: every number comes from a saved run or a saved JSON file."""

import functools
import json
import math
import re
from collections.abc import Callable
from typing import Any

from benchmarks import common
from benchmarks.tables_speed import saved, table

RUNS = common.RESULTS / "runs"
IMAGE_ACCURACY, WRONG, BLEU = r"accuracy ([\d.]+)%", r"(\d+) wrong", r"^model: BLEU ([\d.]+)"
_NGRAM = r"^5-gram Kneser-Ney .*perplexity ([\d.]+)"


@functools.cache
def text(run: str, name: str) -> str:
    """A file of a saved run; "" if the run has none."""
    path = RUNS / run / name
    return path.read_text(encoding="utf-8") if path.exists() else ""


def best(run: str, metric: str) -> float:
    """The lowest of a metric over a run's evaluations."""
    return min(row[metric] for row in evaluations(run))


def minutes(run: str) -> float:
    """Minutes of training, as counted by the run at its last evaluation."""
    return evaluations(run)[-1]["minutes"]


def whole_command(run: str) -> str:
    """The output of the shell's `time` for the whole command."""
    found = re.search(r"real\s+(\d+)m([\d.]+)s", text(run, "train.txt"))
    if found is None:
        raise ValueError(f"{run}/train.txt does not end with the time of the command")
    return f"{found[1]} min {float(found[2]):.0f} s" if int(found[1]) else f"{float(found[2]):.0f} s"


def evaluations(run: str) -> list[dict[str, Any]]:
    """The records of a run's evaluations on the validation part, in order."""
    return [row for row in records(run) if row["kind"] == "evaluation"]


def records(run: str) -> list[dict[str, Any]]:
    """All records of a run."""
    return [json.loads(line) for line in text(run, "metrics.jsonl").splitlines()]


def config(run: str) -> dict[str, Any]:
    """A run's settings."""
    return json.loads(text(run, "config.json"))


def tested(run: str) -> dict[str, dict[str, Any]]:
    """The test evaluation by model and baseline, for runs that saved it as JSON."""
    return json.loads(text(run, "evaluation_test.json"))["scores"]


def said(run: str, pattern: str) -> str:
    """The first group of a pattern in the printed evaluation of the test part.

    Raises:
      ValueError: no line of the evaluation matches.
    """
    found = re.search(pattern, text(run, "evaluate_test.txt"), flags=re.MULTILINE)
    if found is None:
        raise ValueError(f"{run}/evaluate_test.txt has no line that matches {pattern}")
    return found[1]


def _accuracy(run: str, who: str = "model") -> tuple[str, str]:
    """(accuracy, its interval) from a line of the printed evaluation."""
    share = said(run, rf"^{who}: accuracy ([\d.]+)%")
    return f"{share} %", said(run, rf"^{who}: accuracy [\d.]+% \(([^)]+)\)").replace("%", "")


def ngram_loss(run: str) -> float:
    """Of the 6-gram on the validation part."""
    return json.loads(text(run, "baselines.json"))["baselines"]["6-gram Kneser-Ney"]["loss"]


def language_model() -> str:
    """The language model on three texts."""
    python, ngram = tested("python_docs_char_small")["model"]["loss"], tested("python_docs_char_small")["6-gram Kneser-Ney"]["loss"]
    verdict = "" if python < ngram else ": **not beaten**"
    rows = [[
        "Python's documentation, characters", "`char_small`", f"**{best('python_docs_char_small', 'loss'):.4f} nats** (test {python:.4f})",
        f"6-gram {ngram_loss('python_docs_char_small'):.4f} (test {ngram:.4f}{verdict})", whole_command("python_docs_char_small"),
        "`python_docs_char_small`",
    ]]  # fmt: skip
    for preset, time in ("char_small", whole_command("tinyshakespeare_char_small")), ("char_large", None):
        run = f"tinyshakespeare_{preset}"
        time = time or f"{minutes(run):.0f} min, busy"
        loss = f"**{best(run, 'loss'):.4f} nats**"
        rows.append(["tiny Shakespeare, characters", f"`{preset}`", loss, f"6-gram {ngram_loss(run):.4f}", time, f"`{run}`"])
    ngram = saved_ngram_perplexity()
    small = said("wikitext2_word_small", r"^model .*perplexity ([\d.]+)")
    large = tested("wikitext2_word_gpu")["model"]["perplexity"]
    for preset, passes, test, time in (
        ("word_small", "after 2 of 3 passes", float(small), f"{minutes('wikitext2_word_small'):.0f} min"),
        ("word_gpu", "30 passes", large, f"{minutes('wikitext2_word_gpu'):.1f} min, H100"),
    ):
        run = f"wikitext2_{preset}"
        loss = f"**{best(run, 'perplexity'):.1f} perplexity** (test {test:.1f}, read once)"
        rows.append(["WikiText-2, words", f"`{preset}`, {passes}", loss, ngram, time, f"`{run}`"])
    return table(["text", "preset", "validation loss", "baseline", "time", "saved run"], rows)


def saved_ngram_perplexity() -> str:
    """The perplexity of the 5-gram on WikiText-2, whose validation loss is in a separate file."""
    validation = math.exp(json.loads(text("wikitext2_word_small", "baseline.json"))["nats"])
    test = said("wikitext2_word_small", _NGRAM)
    return f"5-gram {validation:.1f} (test {float(test):.1f})"


IMAGES = {"mnist_lenet5": "MNIST", "mnist_resnet": "MNIST", "digits": "1,797 digits"}


def images() -> str:
    """The image classifiers."""
    rows = []
    for run, data in IMAGES.items():
        accuracy = f"{float(said(run, IMAGE_ACCURACY)):.2f} %"
        validation = f"{100 * (1 - best(run, 'best')):.2f} %"
        shown = f"**{accuracy}** (validation {validation})"
        shown = f"{accuracy} ({said(run, WRONG)} of 359 wrong)" if run == "digits" else shown
        rows.append([data, f"`{run}`", shown, f"{minutes(run):.2g} min", f"`{run}`"])
    return table(["data", "preset", "test accuracy", "time", "saved run"], rows)


def text_classification() -> str:
    """The text classifiers, compared with a bag of n-grams."""
    rows = []
    for run, data, letters, time in (
        ("imdb", "IMDb, 25,000 reviews", "word", f"{minutes('imdb'):.0f} min busy"),
        ("names", "surnames, 18 languages, 1,801 names held out", "char", f"{minutes('names'):.1f} min"),
        ("docstrings", "docstrings, 346 of 12 packages", "word", f"{minutes('docstrings'):.1f} min"),
    ):
        model, interval = _accuracy(run)
        baseline = said(run, rf"^bag of {letters} n-grams.*accuracy ([\d.]+)%")
        baseline = f"**{baseline} %**" if float(baseline) - float(model[:-2]) > 1 else f"{baseline} %"
        kind = {"word": "bag of words and bigrams", "char": "bag of character n-grams"}[letters]
        rows.append([data, f"`{run}`", f"**{model}** ({interval})", f"{kind}, logistic regression: {baseline}", time, f"`{run}`"])
    return table(["task", "preset", "test accuracy (95 % interval)", "baseline beside it", "time", "saved run"], rows)


def tagging() -> str:
    """The taggers, compared with the most frequent tag of each word."""
    rows = []
    for run, data, time in (
        ("ud_pos", "UD English POS", f"{minutes('ud_pos'):.1f} min busy"),
        ("ud_pos_crf", "UD English POS, with the CRF", f"{minutes('ud_pos_crf'):.1f} min busy"),
        ("python", "tokens of Python 3.11's library", f"{minutes('python'):.1f} min"),
    ):
        model, interval = _accuracy(run)
        baseline, _ = _accuracy(run, "most frequent tag")
        unseen = [said(run, rf"^{who}: .*\), ([\d.]+)% of the [\d,]+ words") + " %" for who in ("model", "most frequent tag")]
        rows.append([data, f"`{run}`", f"**{model}** ({interval})", unseen[0], f"{baseline}; unseen {unseen[1]}", time, f"`{run}`"])
    head = ["task", "preset", "test accuracy (95 % interval)", "of words not seen in training", "most frequent tag", "time", "saved run"]
    return table(head, rows)


def translation() -> str:
    """The translators, compared with copying the source."""
    rows = []
    for run, data, time in (
        ("multi30k", "Multi30k de to en, test2016", f"{minutes('multi30k'):.0f} min busy"),
        ("multi30k_no_attention", "the same", f"{minutes('multi30k_no_attention'):.0f} min busy"),
    ):
        bleu, chrf = said(run, r"^model: BLEU ([\d.]+)"), said(run, r"^model: .*chrF ([\d.]+)")
        perplexity, copied = said(run, r"perplexity ([\d.]+)"), said(run, r"^source copied: BLEU ([\d.]+)")
        result = f"**{bleu} BLEU**, chrF {float(chrf):.1f}, perplexity {float(perplexity):.2f}"
        rows.append([data, f"`{run}`", result, f"{copied} BLEU", time, f"`{run}`"])
    exact, interval = said("dates", r"^model: .*exact ([\d.]+)%"), said("dates", r"^model: .*exact [\d.]+% \(([^)]+)\)").replace("%", "")
    copied = said("dates", r"^source copied: .*exact ([\d.]+)%")
    time, data = f"{minutes('dates'):.1f} min", "dates in 32 languages, 4,000 dates that are in no other part"
    rows.append([data, "`dates`", f"**{exact} %** exactly right ({interval})", f"{copied} % exactly right", time, "`dates`"])
    return table(["task", "preset", "test result", "source copied", "time", "saved run"], rows)


def long_memory() -> str:
    """Sixteen cells on three tasks, three seeds each."""
    recall, adding, parity = (saved(f"long_memory_{task}")["tasks"][task] for task in ("recall", "adding", "parity"))
    rows = []
    for cell in recall:
        right = ", ".join(f"{100 * value:.0f}" for value in recall[cell]["test accuracy"]["values"])
        squared = ", ".join(f"{value:.4f}" for value in adding[cell]["test loss"]["values"])
        by_length = parity[cell].get("accuracy by length", {})
        longest = ", ".join(_longest({name: row["values"][seed] for name, row in by_length.items()}) for seed in range(3))
        rows.append([f"`{cell}`", right, squared, longest])
    return table([
        "cell", "recall, T = 100: right answers of each seed, % (a guess 12.5)",
        "adding, T = 100: squared error of each seed (a guess 0.167)", "parity: longest length solved, of each seed (- none)",
    ], rows)  # fmt: skip


def long_memory_tuned() -> str:
    """The oscillators and LEM with a learning rate and a time step of their own."""
    rows = []
    for task, cells in saved("long_memory_tuned")["tasks"].items():
        for cell, found in cells.items():
            right = found.get("test accuracy")
            values = (
                ", ".join(f"{100 * v:.1f} %" for v in right["values"])
                if right
                else ", ".join(f"{v:.5f}" for v in found["test loss"]["values"])
            )
            rows.append([f"{task}, T = 100", f"`{cell}`", found["learning rate"], found["options"] or "defaults", values])
    return table(["task", "cell", "learning rate", "options", "test result of each seed"], rows)


def _longest(accuracies: dict[str, float]) -> str:
    """The end of the last range of lengths with all answers right, counted from the shortest."""
    longest = "-"
    for name, accuracy in accuracies.items():
        if accuracy < 1:
            break
        longest = re.search(r"to (\d+)", name)[1]
    return longest


def measured() -> str:
    """Single numbers about a run, each with the command that measures it."""
    overhead, startup, flat, reuse = (saved(name) for name in ("loop_overhead_char_small", "startup", "memory_flat", "memory_reuse"))
    share, compiled = overhead["share_of_bare_speed"], saved("compile_time")["layers"]
    grown = list(flat["megabytes_after_step"].values())
    cases, lengths = reuse["cases"], saved("linear_length")["engines"]["associative"]
    longest = [row for row in saved("memory_remat")["rows"] if row["steps"] == 16384]
    remat = {(row["engine"], row["remat_every"]): row["temporary_bytes"] / 1e6 for row in longest}
    second = [row.get("compiled_by_second_step") for forms in compiled.values() for row in forms.values()]

    def seconds(name: str) -> str:
        return " and ".join(f"{compiled[layers][name]['seconds']['min']:.2f}" for layers in ("1", "3"))

    def nanoseconds(what: str) -> str:
        return " and ".join(f"{lengths[steps][what]['nanoseconds_per_token']['min']:.0f}" for steps in ("1000", "1000000"))

    rows = [
        ["share of the bare jitted step's speed that the whole loop keeps (`benchmarks.loop_overhead`)", "97 %",
         f"{100 * share['median']:.1f} % median of {share['repeats']} ({100 * share['min']:.1f} % at the lowest, tests running beside it)"],
        ["from the command to the first training step, warm compilation cache (`benchmarks.startup`)", "10 s",
         f"{startup['warm_cache_seconds']['median']:.1f} s median of 3; {startup['cold_cache_seconds']['min']:.1f} s with an empty cache"],
        ["growth of resident memory from step 16,000 to 32,000 (`benchmarks.memory_flat --steps=32000`)", "flat",
         f"{flat['growth_second_half_megabytes']:.1f} of {grown[4]:.0f} MB"],
        ["compilations of the training step in those 32,000", "1", str(flat["compilations_of_the_step"])],
        ["gain from keeping freed memory between steps on a CPU (`benchmarks.memory_reuse`), medians", "-",
         f"{cases['char_32x64_h256']['speed_up_median']:.2f} times for characters, "
         f"{cases['word_20x35_h200_v33280']['speed_up_median']:.2f} times for words with a vocabulary of 33,280"],
        ["compile time of an LSTM's training step (`benchmarks.compile_time`), 1 and 3 layers", "Flax's",
         f"ours {seconds('seqjax fused')} s; Flax's LSTMCell {seconds('flax.linen LSTMCell')}, "
         f"OptimizedLSTMCell {seconds('flax.linen OptimizedLSTMCell')}"],
        ["programs compiled by a second step", "0", str(max(second))],
        ["memory of the gradient at T = 16,384 (`benchmarks.memory_remat`, B 32, H 128)", "-",
         f"fused {remat['fused', None]:,.0f} MB, scan {remat['scan', None]:,.0f}; with `remat_every=128` "
         f"{remat['fused', 128]:.0f} and {remat['scan', 128]:.0f}"],
        ["minGRU, nanoseconds a token at T = 1,000 and 1,000,000 (`benchmarks.linear_length`, busy machine)", "flat",
         f"forward {nanoseconds('forward')}, with the gradient {nanoseconds('forward_and_gradient')}"],
    ]  # fmt: skip
    return table(["question", "target", "measured"], rows)


def overview() -> str:
    """One line for each of a few results, for the README."""
    means = saved("peers")["geometric_means"]["training"]["lstm"]
    jax, torch = (means[name]["min"] for name in ("best_jax_peer_over_ours", "ours_over_torch"))
    music, pos, tag = tested("jsb_notes"), _accuracy("ud_pos_crf")[0], _accuracy("ud_pos_crf", "most frequent tag")[0]
    docs, wiki = tested("python_docs_char_small"), tested("wikitext2_word_gpu")["model"]["perplexity"]
    bag, flat = said("imdb", r"^bag.*accuracy ([\d.]+)%"), said("multi30k_no_attention", BLEU)
    resnet, lenet = said("mnist_resnet", IMAGE_ACCURACY), said("mnist_lenet5", IMAGE_ACCURACY)
    model, chords = music["model"]["loss"], music["3-gram of chords"]["loss"]
    small, ngram = best("python_docs_char_small", "loss"), ngram_loss("python_docs_char_small")
    rows = [
        ["[Python's documentation](docs/language_model.md)", f"**{small:.4f}** nats, validation", f"6-gram {ngram:.4f}"],
        ["the same, test part", f"{docs['model']['loss']:.4f} nats", f"6-gram **{docs['6-gram Kneser-Ney']['loss']:.4f}**"],
        [
            "[WikiText-2, 5 min on an H100](docs/language_model.md)",
            f"**{wiki:.1f}** perplexity",
            f"5-gram {float(said('wikitext2_word_small', _NGRAM)):.1f}",
        ],
        ["[IMDb](docs/text_classification.md)", _accuracy("imdb")[0], f"bag of words **{bag} %**"],
        ["[English POS tags, CRF](docs/tagging.md)", f"**{pos}**", f"most frequent tag {tag}"],
        ["[Multi30k, de to en](docs/translation.md)", f"**{said('multi30k', BLEU)}** BLEU", f"without attention {flat}"],
        ["[MNIST, ResNet-20](docs/image_classification.md)", f"**{resnet} %**", f"LeNet-5 {lenet} %"],
        ["[JSB chorales](docs/music.md)", f"**{model:.3f}** nats a frame", f"trigram of chords {chords:.3f}"],
        ["[an LSTM layer, training](docs/results.md)", f"**{1 / torch:.2f}** x torch's speed", f"**{jax:.2f}** x the best JAX library's"],
    ]
    return table(["what", "seqjax", "beside it"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "overview": overview,
    "language_model": language_model,
    "images": images,
    "text_classification": text_classification,
    "tagging": tagging,
    "translation": translation,
    "long memory": long_memory,
    "long memory tuned": long_memory_tuned,
    "measured": measured,
}
