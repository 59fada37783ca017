"""How much of a run's state does a device hold when parameters are sharded over a mesh, and are the losses those of one device?

    python -m benchmarks.mesh [--experiment=language_model] [--preset=word_gpu] [--steps=3]

Starts a process for each mesh with its number of forced CPU devices, makes the preset's state on it, and takes some steps on the same
batch. Bytes are those of the shards on one device: parameters, optimiser state and averages, which the step keeps, and what the compiled
step needs in addition according to XLA (`temporary`), including gathered parameters and gradients.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
from typing import Any

import jax

from benchmarks import common
from benchmarks.experiment import config_of, make_ready
from seqjax.training import sharding

MESHES = ((1, 1, "none"), (4, 1, "none"), (2, 1, "fsdp"), (4, 1, "fsdp"), (4, 2, "fsdp"))  # data, model, shard

# 650 units are not a multiple of 4; short windows suffice here.
CHANGES = {
    ("language_model", "word_gpu"): {
        "model.hidden_size": 512,
        "model.embed_size": 512,
        "data.window": 16,
        "data.eval_window": 16,
        "data.batch_size": 16,
        "data.eval_batch_size": 16,
    },
}


def measured(experiment: str, preset: str, steps: int, data: int, model: int, shard: str) -> dict[str, Any]:
    """One mesh, in this process."""
    chosen = importlib.import_module(f"experiments.{experiment}").EXPERIMENT
    layout = {"mesh.data": data, "mesh.model": model, "mesh.shard": shard}
    _, _, _, batches, setup, task = make_ready(chosen, config_of(chosen, preset, CHANGES.get((experiment, preset), {}) | layout))
    state, batch = setup.state, task.place_batch(next(batches))
    kept = sharding.bytes_per_device((state.params, state.opt_state, state.average))
    temporary = task.step.lower(state, batch).compile().memory_analysis().temp_size_in_bytes
    losses = []
    for _ in range(steps):
        state, metrics = task.step(state, batch)
        losses.append(float(metrics.sums.loss / metrics.sums.tokens))
    return {"parameters and optimiser, MB": kept / 1e6, "temporary, MB": temporary / 1e6, "losses": losses}


def main() -> None:
    """Measures and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="language_model")
    parser.add_argument("--preset", default="word_gpu")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    asked = options.experiment, options.preset, options.steps
    if options.one:
        print(json.dumps(measured(*asked, *json.loads(options.one))))
        return
    found = {}
    for mesh in MESHES:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={mesh[0] * mesh[1]}"
        command = [sys.executable, "-m", "benchmarks.mesh", *sys.argv[1:], f"--one={json.dumps(mesh)}"]
        env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PJRT_NPROC": "32"}  # threads for waiting collectives
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(done.returncode)
        found["data={} model={} shard={}".format(*mesh)] = json.loads(done.stdout.splitlines()[-1])
    common.save("mesh", {"question": f"{options.experiment}, {options.preset}, {jax.default_backend()}: state on a mesh", "meshes": found})


if __name__ == "__main__":
    main()
