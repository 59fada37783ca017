"""The pictures of the documentation that show saved results: what each is drawn from, and how.

`python -m benchmarks.tables` draws those whose measurements have changed since: every picture holds the checksum of its sources.
"""

import hashlib
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks import common, plots, tables_runs, tables_speed


class Picture(NamedTuple):
    """What draws docs/images/NAME.png, and from which files of benchmarks/results."""

    draw: Callable[[], Any]
    sources: tuple[str, ...]

    def made_from(self) -> str:
        """What the picture says of itself: the measurements that it shows."""
        sums = (f"{name}, SHA-256 {hashlib.sha256((common.RESULTS / name).read_bytes()).hexdigest()}" for name in self.sources)
        return "; ".join(f"benchmarks/results/{line}" for line in sums)


def stale() -> list[pathlib.Path]:
    """Pictures that were drawn from other measurements than those that are saved."""
    paths = {plots.IMAGES / f"{name}.png": picture for name, picture in PICTURES.items()}
    return [path for path, picture in paths.items() if not path.exists() or picture.made_from().encode() not in path.read_bytes()]


def draw(names: list[str]) -> None:
    """Draws and saves these pictures."""
    for name in names:
        plots.save(PICTURES[name].draw(), name, PICTURES[name].made_from())


def speed() -> Any:
    """The geometric means over shapes of every library's time over ours, a panel for forward and one for training."""
    from benchmarks.peers import COLORS

    rows = tables_speed.over_ours()
    figure, axes = plots.make(1, 2, (9.5, 3.9), sharey=True)
    for axis, what in zip(axes[0], tables_speed.WHATS, strict=True):
        for place, cell in enumerate(tables_speed.CELL_NAMES):
            shown = [name for name in COLORS if rows[cell, what].get(name)]
            height = 0.86 / len(COLORS)
            for k, name in enumerate(shown):
                y = place + (k - (len(shown) - 1) / 2) * height
                value = rows[cell, what][name]
                axis.barh(y, value, height * 0.92, color=COLORS[name], label=name if (place, what) == (0, "forward") else None)
                axis.text(value + 0.03, y, f"{value:.1f}", va="center", fontsize=8)
        axis.axvline(1, color="black", linewidth=1)
        axis.margins(x=0.1)
        axis.set_yticks(range(len(tables_speed.CELL_NAMES)), tables_speed.CELL_NAMES.values())
        axis.set_title(what)
        axis.set_xlabel("time / time of seqjax")
        axis.grid(visible=False, axis="y")
    axes[0, 0].invert_yaxis()
    figure.legend(loc="outside lower center", ncols=len(COLORS))
    figure.suptitle("One layer on two CPU cores: other libraries beside seqjax (above 1: slower than seqjax)")
    return figure


def peers() -> Any:
    """All cases of one layer beside other libraries."""
    from benchmarks.peers import plot

    return plot(tables_speed.saved("peers")["cases"])


def cells() -> Any:
    """All cells at one shape."""
    from benchmarks.cells import plot

    result = tables_speed.saved("cells")
    return plot(result["cells"], result["shape"])


def memory_remat() -> Any:
    """The memory of a gradient against the number of steps."""
    from benchmarks.memory_remat import plot

    result = tables_speed.saved("memory_remat")
    return plot(result["rows"], result["batch"], result["hidden"])


def _curve(axis: Any, run: str, kind: str, values: Callable[[dict], float], color: str, label: str) -> None:
    rows = [row for row in tables_runs.records(run) if row["kind"] == kind]
    dots = {"marker": "o", "markersize": 5} if kind == "evaluation" else {}
    axis.plot([row["step"] for row in rows], [values(row) for row in rows], color=color, label=label, **dots)


def char_large() -> Any:
    """Loss of `char_large` on tiny Shakespeare."""
    run = "tinyshakespeare_char_large"
    figure, ((axis,),) = plots.make(1, 1, (7, 4))
    _curve(axis, run, "train", lambda row: row["loss"], plots.SKY, "training, with dropout")
    _curve(axis, run, "evaluation", lambda row: row["loss"], plots.BLUE, f"validation (best {tables_runs.best(run, 'loss'):.4f})")
    ngram = tables_runs.ngram_loss(run)
    axis.axhline(ngram, color=plots.VERMILION, linestyle="--", label=f"6-gram ({ngram:.4f})")
    axis.set(xlabel="step", ylabel="loss, nats a character", ylim=(1.1, 2.0), title="char_large on tiny Shakespeare")
    axis.legend()
    return figure


def mnist_resnet() -> Any:
    """Error of ResNet-20 on MNIST."""
    figure, ((axis,),) = plots.make(1, 1, (7, 4))
    for kind, color, label in ("train", plots.SKY, "training, augmented images"), ("evaluation", plots.BLUE, "validation"):
        _curve(axis, "mnist_resnet", kind, lambda row: 100 * row["error"], color, label)
    axis.set(xlabel="step", ylabel="wrong answers, %", yscale="log", title="ResNet-20 on MNIST")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.legend()
    return figure


def multi30k() -> Any:
    """Validation loss and BLEU of the translators, with attention and without."""
    figure, axes = plots.make(1, 2, (9.5, 3.9))
    for run, color, label in ("multi30k", plots.BLUE, "with attention"), ("multi30k_no_attention", plots.VERMILION, "without"):
        for axis, what in zip(axes[0], ("loss", "bleu"), strict=True):
            _curve(axis, run, "evaluation", lambda row, what=what: row[what], color, label)
    axes[0, 0].set(xlabel="step", ylabel="loss, nats a token", title="Loss")
    axes[0, 1].set(xlabel="step", ylabel="BLEU", ylim=(0, None), title="BLEU")
    axes[0, 0].legend()
    figure.suptitle("Multi30k, German to English, validation part")
    return figure


PICTURES = {
    "speed": Picture(speed, ("peers.json",)),
    "peers": Picture(peers, ("peers.json",)),
    "cells": Picture(cells, ("cells.json",)),
    "memory_remat": Picture(memory_remat, ("memory_remat.json",)),
    "tinyshakespeare_char_large": Picture(
        char_large, tuple(f"runs/tinyshakespeare_char_large/{name}" for name in ("metrics.jsonl", "baselines.json"))
    ),
    "mnist_resnet_curves": Picture(mnist_resnet, ("runs/mnist_resnet/metrics.jsonl",)),
    "multi30k_curves": Picture(multi30k, ("runs/multi30k/metrics.jsonl", "runs/multi30k_no_attention/metrics.jsonl")),
}
