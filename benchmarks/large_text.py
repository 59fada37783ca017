"""How much memory does training on a large text take, relative to one copy of its token ids?

    python -m benchmarks.large_text [--gigabytes=2] [--steps=20] [--folder=/tmp]

Writes a text of copies of Python's documentation, each with its paragraphs in a new order, and trains a small character model on it with
the language_model experiment: without and with the n-gram baseline, and on a small text for the memory of the process itself. Then measures
the cost of a batch of windows, for a text whose arrays are made once and one whose arrays are made block by block.
"""

import argparse
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks import common
from seqjax.data import TokenStream, Windows, load_corpus

SIZES = {
    "model.hidden_size": 32, "model.embed_size": 16, "data.validation_fraction": 0.001, "sample.length": 0,
    "train.epochs": 0.0, "train.log_every": 10, "train.eval_every": 1000,
}  # fmt: skip


def write_text(path: pathlib.Path, characters: int) -> None:
    """Writes a text of about this many characters."""
    paragraphs = "\n\n".join(load_corpus("embedded", name="python_docs").parts["train"]["text"]).split("\n\n")
    rng, written = random.Random(0), 0
    with path.open("w", encoding="utf-8") as file:
        while written < characters:
            rng.shuffle(paragraphs)
            written += file.write("\n\n".join(paragraphs))


def train(path: pathlib.Path, ngram_order: int, steps: int) -> dict:
    """Runs the experiment in a separate process: its peak memory, and the time to its first step."""
    code = (
        "import resource, sys; from seqjax.run import command; from experiments.language_model import EXPERIMENT\n"
        "command.run(EXPERIMENT, __import__('seqjax.run.cli').run.cli.parse(EXPERIMENT, sys.argv))\n"
        "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    config = SIZES | {"data.source": "file", "data.path": path, "ngram_order": ngram_order, "train.steps": steps}
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--workdir={folder}/run", *(f"--config.{name}={value}" for name, value in config.items())]
        begin = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True, check=True)
    ready = re.search(r"ready after ([\d.]+) s", done.stdout)
    return {
        "tokens": sum(int(n.replace(",", "")) for n in re.findall(r"^  (?:train|validation) +([\d,]+)$", done.stdout, re.M)),
        "baseline": re.findall(r"baseline to beat: (.*), validation", done.stdout),
        "peak_megabytes": int(re.search(r"peak (\d+)", done.stdout)[1]) / 1024,
        "seconds_until_ready": float(ready[1]),
        "seconds_in_all": time.perf_counter() - begin,
    }


def batch_cost(tokens: int) -> dict:
    """Microseconds of a batch of 32 x 64: the mean over the second epoch, including making the arrays, and the minimum."""
    ids = np.random.default_rng(0).integers(4, 100, tokens).astype(np.uint8)
    data, rounds = Windows(TokenStream(ids, np.array([0])), 32, 64, bos_id=2, pad_id=0), []
    for _ in range(data.batches_per_epoch):
        next(data)
    begin = time.process_time()
    for _ in range(data.batches_per_epoch):
        next(data)
    mean = (time.process_time() - begin) / data.batches_per_epoch
    for _ in range(20):
        begin = time.perf_counter()
        for _ in range(100):
            next(data)
        rounds.append((time.perf_counter() - begin) / 100)
    return {"mean": 1e6 * mean, "min": 1e6 * min(rounds)}


def main() -> None:
    """Measures and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--folder", default=tempfile.gettempdir())
    options = parser.parse_args()
    runs = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        small, large = pathlib.Path(folder, "small.txt"), pathlib.Path(folder, "large.txt")
        write_text(small, 300_000)
        write_text(large, int(options.gigabytes * 1e9))
        runs["small text"] = train(small, 0, options.steps)
        for name, order in (("without n-grams", 0), ("with the 6-gram baseline", 6)):
            runs[name] = found = train(large, order, options.steps)
            own = found["peak_megabytes"] - runs["small text"]["peak_megabytes"]
            found["peak_over_ids"] = found["peak_megabytes"] * 2**20 / found["tokens"]
            found["peak_less_that_of_the_small_text_over_ids"] = own * 2**20 / found["tokens"]
            print(name, found, flush=True)
    costs = {f"{tokens:,} tokens": batch_cost(tokens) for tokens in (1_000_000, 30_000_000)}
    common.save(
        "large_text",
        {
            "question": "peak memory of training on a large text, over the size of its token ids (a byte each)",
            "file_gigabytes": options.gigabytes,
            "runs": runs,
            "microseconds_per_batch_of_windows": costs,
        },
    )


if __name__ == "__main__":
    main()
