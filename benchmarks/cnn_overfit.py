"""Does every network train? Each overfits a small fixed batch of random images, including its auxiliary heads.

    python -m benchmarks.cnn_overfit [--nets=lenet5,vgg11,...] [--steps=300]

Random inputs with random labels of 4 classes, so that only overfitting can help; Adam, clipped at 1;
dropout is on, the weights of the auxiliary heads' losses are 0.3. A run ends when every input is classified correctly, in training or in
evaluation (where running statistics may lag far behind: MobileNet v1 keeps 0.99 of them per step), in training also by every auxiliary
head, and the loss is below half of the first; at most `--steps` steps. Also reported: the seconds to trace and compile the training step,
and those of a step.
"""

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import common, timing
from seqjax import cnn
from seqjax.cnn.googlenet import AUX_WEIGHT

INPUTS, CLASSES = 12, 4
SIZES = {"alexnet": 67, "inception_v3": 299, "lenet5": 28, "lenet5_1998": 28, "googlenet": 64}
GREY = ("lenet5", "lenet5_1998")
RATES = dict.fromkeys(("vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"), 1e-4)  # at 1e-3 they do not start to learn
OPTIONS = {"tcn": {"channels": (16, 16)}, "text_cnn": {"vocab_size": 20, "embed_size": 16}}


def make_inputs(name: str, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """Random inputs and labels for a network."""
    rng = np.random.default_rng(seed)
    labels = jnp.asarray(rng.permutation(np.arange(INPUTS) % CLASSES), jnp.int32)
    if name == "text_cnn":
        return jnp.asarray(rng.integers(0, 20, (INPUTS, 12)), jnp.int32), labels
    if name == "tcn":
        return jnp.asarray(rng.standard_normal((INPUTS, 20, 1), np.float32)), labels
    size, channels = SIZES.get(name, 32), 1 if name in GREY else 3
    return jnp.asarray(rng.standard_normal((INPUTS, size, size, channels), np.float32)), labels


def overfit(name: str, steps: int) -> dict[str, Any]:
    """Trains a network on one batch.

    Returns:
      The first and last loss, the number of steps, the errors in evaluation (with running statistics), in training (with batch statistics
      and dropout) and of the worst auxiliary head.
    """
    images, labels = make_inputs(name)
    model = cnn.create(name, num_classes=CLASSES, **OPTIONS.get(name, {"in_channels": images.shape[-1]}))
    variables = dict(jax.jit(model.init)(jax.random.key(0), images))
    params = variables.pop("params")
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(RATES.get(name, 1e-3)))

    def loss(params, statistics, key):
        out, new = model.apply({"params": params, **statistics}, images, train=True, mutable=["batch_stats"], rngs={"dropout": key})
        logits, aux = out if isinstance(out, cnn.Outputs) else (out, ())
        entropy = [optax.softmax_cross_entropy_with_integer_labels(head, labels).mean() for head in (logits, *aux)]
        wrong = jnp.stack([jnp.mean(head.argmax(-1) != labels) for head in (logits, *aux)])
        return entropy[0] + AUX_WEIGHT * sum(entropy[1:]), ({name: new[name] for name in statistics}, wrong)

    @jax.jit
    def step(params, statistics, slots, key):
        (value, (statistics, wrong)), grads = jax.value_and_grad(loss, has_aux=True)(params, statistics, key)
        updates, slots = optimizer.update(grads, slots, params)
        return optax.apply_updates(params, updates), statistics, slots, value, wrong

    @jax.jit
    def error(params, statistics):
        return jnp.mean(model.apply({"params": params, **statistics}, images).argmax(-1) != labels)

    slots, begin, losses, took = jax.jit(optimizer.init)(params), time.perf_counter(), [], []
    for number in range(steps):
        params, variables, slots, value, wrong = step(params, variables, slots, jax.random.key(number))
        losses.append(float(value))
        took.append(time.perf_counter() - begin)
        heads = value < 0.5 * losses[0] and not wrong[1:].any()
        if number % 10 == 9 and heads and not (wrong[0] and error(params, variables)):
            break
        begin = time.perf_counter()
    return {
        "inputs": list(images.shape), "steps": len(losses), "first_loss": losses[0], "last_loss": losses[-1],
        "error": float(error(params, variables)), "training_error": float(wrong[0]), "aux_error": float(wrong[1:].max(initial=0.0)),
        "first_step_seconds": took[0], "step_seconds": min(took),
    }  # fmt: skip


def learned(told: dict[str, Any]) -> bool:
    """Whether a network has overfitted the batch."""
    return min(told["error"], told["training_error"]) == 0 == told["aux_error"]


def main() -> None:
    """Trains each network and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", type=timing.parse_names(cnn.names()), default=cnn.names())
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--tag", default="")
    options = parser.parse_args()
    settings, nets = timing.prepare(), {}
    try:  # results so far are saved on an interruption
        for name in options.nets:
            nets[name] = overfit(name, options.steps)
            print(name, {key: round(v, 4) if isinstance(v, float) else v for key, v in nets[name].items()}, flush=True)
            jax.clear_caches()
    finally:
        failed = [name for name, row in nets.items() if not learned(row)]
        common.save(f"cnn_overfit{options.tag}", {
            "question": "does every network overfit a fixed batch", "settings": settings, "not_learned": failed,
            "not_run": [name for name in options.nets if name not in nets], "nets": nets,
        })  # fmt: skip


if __name__ == "__main__":
    main()
