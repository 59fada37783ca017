"""Does memory stay flat when tagging a chromosome, whatever its length?

    python -m benchmarks.dna_memory [--bases=10000000]

Tags random sequences of a hundredth, a tenth and all of the bases with a small tagger of random weights (bidirectional, exact carries over
windows), and reads the peak resident memory of the process after each. Linux only.
"""

import argparse
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common
from seqjax.decoding.bases import Tagging
from seqjax.models import make_stack
from seqjax.models.dna import BaseFeatures, DnaReader, DnaTagger

HIDDEN, FILTERS, WIDTH = 16, 16, 9


def peak_megabytes() -> float:
    """The peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measures and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", type=int, default=10_000_000)
    options = parser.parse_args()
    features = BaseFeatures(filters=FILTERS, width=WIDTH)
    model = DnaTagger(2, DnaReader(features, make_stack("gru", HIDDEN, 1, bidirectional=True)))
    first = jnp.ones((1, 8 + 2 * features.halo), jnp.int32), jnp.array([8])
    params = model.init(jax.random.key(0), *first)["params"]
    tag, rows = Tagging(model, batch_size=1, boundaries=(4096,)), []
    for bases in (options.bases // 100, options.bases // 10, options.bases):
        codes = (1 << np.random.default_rng(0).integers(0, 4, bases, dtype=np.uint8)).astype(np.uint8)
        begin, cpu, found = time.perf_counter(), time.process_time(), 0
        for _, window in tag.windows(params, codes):
            found += int(np.count_nonzero(window.tags))
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
        rows.append({
            "bases": bases, "tagged": found, "peak_megabytes": round(peak_megabytes(), 1), "seconds": round(seconds, 1),
            "cpu_seconds": round(cpu, 1),
        })  # fmt: skip
        print(rows[-1], flush=True)
    growth = rows[-1]["peak_megabytes"] - rows[0]["peak_megabytes"]
    common.save("dna_memory", {
        "question": "peak resident memory of tagging a sequence, by its length; the sequence itself is a byte a base",
        "model": f"bidirectional GRU of {HIDDEN}, {FILTERS} motif detectors of {WIDTH}, exact carries over windows of 4,096",
        "rows": rows, "growth_megabytes": round(growth, 1), "growth_bytes_per_base": round(growth * 2**20 / options.bases, 2),
    })  # fmt: skip


if __name__ == "__main__":
    main()
