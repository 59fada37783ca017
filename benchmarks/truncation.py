"""What does truncated backpropagation save, and what does it lose, if a task's dependency is longer than the window?

    python -m benchmarks.truncation [--length=200] [--train_steps=1500]

The task is `recall` of seqjax.data.memory_tasks: the first of T symbols is asked for at the end. An LSTM of 64 units with chrono biases for
that length is trained with full backpropagation, with `remat_every`, and with `truncated_unroll` for several (k1, k2). For each: the time
of a step (minima of interleaved calls), the temporary memory that XLA plans for it, the cosine between its gradient and the full one before
and after training with the full one, and the loss after training with it. On an accelerator also with `offload=True`, which keeps the
carries of `remat_every` in the host's memory; a CPU has no second memory.
"""

import argparse
import math
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import optax

import seqjax
from benchmarks import common, timing
from seqjax.data.memory_tasks import TASKS, draw_batch
from seqjax.models.memory import SequenceReader, make_memory_cell
from seqjax.run import process
from seqjax.training import losses

TASK, BATCH, HIDDEN, REPEATS = "recall", 64, 64, 15


def ways(length: int) -> dict[str, Any]:
    """name -> apply(model parameters, batch) -> answers."""
    cell = make_memory_cell("lstm_chrono", HIDDEN, 1, length)
    reader = SequenceReader(cell, TASKS[TASK].classes)

    def answers(params, batch, unroll):
        return unroll(params["rnn"], batch.inputs)[1] @ params["answer"]["kernel"] + params["answer"]["bias"]

    def truncated(every, back):
        return lambda params, batch: answers(params, batch, lambda p, xs: seqjax.truncated_unroll(cell, p, xs, every=every, back=back))

    def whole(**how):
        return lambda params, batch: answers(params, batch, lambda p, xs: seqjax.unroll(cell, p, xs, **how))

    pairs = [(length // 10, length // 10), (length // 4, length // 4), (length // 2, length // 2)]
    pairs += [(length // 10, length // 2), (length // 4, length), (length // 10, length)]
    root = math.isqrt(length)
    found = {"full": whole(), f"full, remat_every={root}": whole(remat_every=root)}
    if jax.default_backend() != "cpu":
        found[f"full, remat_every={root}, offload"] = whole(remat_every=root, offload=True)
    found |= {f"k1={every}, k2={back}": truncated(every, back) for every, back in pairs}
    return found | {"init": lambda key: reader.init(key, jnp.zeros((1, 1, TASKS[TASK].features)))["params"]}


def main() -> None:
    """Measures and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=200)
    parser.add_argument("--train_steps", type=int, default=1500)
    options = parser.parse_args()
    process.keep_freed_memory()
    found = ways(options.length)
    start = found.pop("init")(jax.random.key(0))
    draw = jax.jit(lambda key: draw_batch(TASK, jax.random.split(key, BATCH), options.length, options.length, options.length))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))

    def loss_of(apply):
        def loss(params, batch):
            sums = losses.token_cross_entropy(apply(params, batch), batch.targets, batch.asked)
            return sums.loss / sums.tokens

        return loss

    gradients = {name: jax.jit(jax.value_and_grad(loss_of(apply))) for name, apply in found.items()}
    batch, trained, rows = draw(jax.random.key(1)), {}, {}
    for name, gradient in gradients.items():
        plan = gradient.lower(start, batch).compile().memory_analysis()
        rows[name] = {"temporary_bytes": plan.temp_size_in_bytes}

        @jax.jit
        def step(params, state, number, gradient=gradient):
            _, found = gradient(params, draw(jax.random.fold_in(jax.random.key(2), number)))
            updates, state = optimizer.update(found, state, params)
            return optax.apply_updates(params, updates), state

        params, state = start, optimizer.init(start)
        for number in range(options.train_steps):
            params, state = step(params, state, number)
        trained[name] = params
        test = draw_batch(TASK, jax.random.split(jax.random.key(3), 2048), *(options.length,) * 3)
        rows[name]["loss after training"] = float(loss_of(found["full"])(params, test))
        print(name, rows[name], flush=True)
    cosines(rows, gradients, {"before training": start, "after training": trained["full"]}, batch)
    calls = {name: lambda gradient=gradient: jax.block_until_ready(gradient(start, batch)) for name, gradient in gradients.items()}
    for name, milliseconds in timing.interleave(calls, REPEATS, 120.0).items():
        rows[name]["milliseconds"] = milliseconds
    network = f"LSTM of {HIDDEN} units with chrono biases"
    question = f"{TASK} at T={options.length}, {network}, B={BATCH}: full and truncated backpropagation side by side"
    guess = TASKS[TASK].guess(options.length)
    common.save("truncation", {"question": question, "train_steps": options.train_steps, "loss of a guess": guess, "ways": rows})


def cosines(rows: dict[str, Any], gradients: dict[str, Any], at: dict[str, Any], batch: Any) -> None:
    """The cosine and relative length of each gradient to the full one, over all parameters of the cell."""
    for when, params in at.items():
        flat = {name: jax.flatten_util.ravel_pytree(gradient(params, batch)[1]["rnn"])[0] for name, gradient in gradients.items()}
        full = flat["full"]
        for name, g in flat.items():
            norm = jnp.linalg.norm(g)
            rows[name][f"cosine {when}"] = float(jnp.vdot(g, full) / (norm * jnp.linalg.norm(full)))
            rows[name][f"norm against the full one {when}"] = float(norm / jnp.linalg.norm(full))


if __name__ == "__main__":
    main()
