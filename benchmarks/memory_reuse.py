"""What does keeping freed memory between steps gain on a CPU, and what does it cost?

    python -m benchmarks.memory_reuse [--rounds=3]

A process cannot undo the setting, so each side runs in separate processes, in turn, in the same environment. Timed are a step of a
one-layer LSTM over characters and one of a two-layer LSTM over words, on random data.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

CASES = {
    "char_32x64_h256": {"vocab": 105, "hidden": 256, "layers": 1, "embed": 64, "batch": 32, "window": 64, "steps": 60},
    "word_20x35_h200_v33280": {"vocab": 33280, "hidden": 200, "layers": 2, "embed": 200, "batch": 20, "window": 35, "steps": 12},
}


def loss_of(model, losses):
    """Cross-entropy of a window given the carry of the previous one."""

    def loss(params, model_state, carry, batch, rng):
        carry, logits = model.apply({"params": params}, batch.inputs, carry, resets=batch.resets)
        return carry, model_state, losses.token_cross_entropy(logits, batch.targets, batch.mask)

    return loss


def measure(keep: bool) -> dict:
    """Times both steps in this process: seconds per step, page faults per step, peak resident memory."""
    from seqjax.run import process

    if keep and not process.keep_freed_memory():
        raise SystemExit("the C library is not glibc: there is nothing to measure")
    import jax
    import jax.numpy as jnp
    import numpy as np

    from seqjax.data import TokenStream, Windows
    from seqjax.models import LanguageModel, make_stack
    from seqjax.training import losses, optimizers, train_step

    results = {}
    for name, c in CASES.items():
        tokens = np.random.default_rng(0).integers(4, c["vocab"], 200_000).astype(np.int32)
        data = Windows(TokenStream(tokens, np.array([0])), c["batch"], c["window"], bos_id=2, pad_id=0)
        model = LanguageModel(c["vocab"], make_stack("lstm", c["hidden"], c["layers"]), c["embed"])
        params = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
        mesh = train_step.make_mesh(c["batch"])
        schedule = optimizers.make_schedule("constant", 1e-3, steps=1)
        optimizer = optimizers.make_optimizer("adam", schedule, clip_norm=1.0)
        state = train_step.init_state(params, (), optimizer, model.initial_carry(params, c["batch"]), jax.random.key(1), mesh)
        step = train_step.make_train_step(loss_of(model, losses), optimizer, schedule, mesh, clip_norm=1.0)
        seconds = []
        for _ in range(c["steps"] + 2):
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            begin = time.perf_counter()
            state, metrics = step(state, jax.device_put(next(data), train_step.batch_sharding(mesh)))
            jax.block_until_ready(metrics)
            seconds.append(time.perf_counter() - begin)
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        usage = resource.getrusage(resource.RUSAGE_SELF)
        results[name] = {"seconds": seconds[2:], "page_faults_per_step": faults, "peak_megabytes": usage.ru_maxrss // 1024}
    return results


def main() -> None:
    """Measures and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=["plain", "keep"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side == "keep")))
        return
    from benchmarks import common

    runs = {"plain": [], "keep": []}
    for _ in range(options.rounds):
        for side, results in runs.items():
            command = [sys.executable, "-m", "benchmarks.memory_reuse", f"--side={side}"]
            results.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    table = {}
    for case in CASES:
        row = {}
        for side, results in runs.items():
            seconds = [1e3 * s for result in results for s in result[case]["seconds"]]
            row[side] = {
                "milliseconds_per_step": common.summary(seconds),
                "page_faults_per_step": results[-1][case]["page_faults_per_step"],
                "peak_megabytes": results[-1][case]["peak_megabytes"],
            }
        for which in ("min", "median"):
            plain, keep = (row[side]["milliseconds_per_step"][which] for side in ("plain", "keep"))
            row[f"speed_up_{which}"] = plain / keep
        table[case] = row
    common.save("memory_reuse", {"question": "what keeping freed memory between steps gains", "cases": table})


if __name__ == "__main__":
    main()
