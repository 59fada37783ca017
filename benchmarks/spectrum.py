"""Does the Lyapunov spectrum at initialisation predict at which lengths a plain RNN fails?

    python -m benchmarks.spectrum [--steps=600] [--seeds=3]

The task is `recall` of seqjax.data.memory_tasks: the first of T symbols is asked for at the end, so gradients must flow back over T steps.
A tanh RNN of 64 units starts from an orthogonal matrix times a gain; its largest exponent on the task's inputs gives the number of steps
after which its gradient has fallen to a thousandth. Then it is trained at several lengths, and so is an LSTM. All gains and seeds of a cell
are trained together with `vmap`.
"""

import argparse
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import seqjax
from benchmarks import common
from seqjax.data.memory_tasks import TASKS, draw_batch
from seqjax.diagnostics.lyapunov import lyapunov_exponents
from seqjax.models.memory import SequenceReader
from seqjax.training import losses

TASK, BATCH, HIDDEN, TEST, RATE = "recall", 64, 64, 1024, 1e-3
LENGTHS = (5, 10, 20, 40, 80, 160)
GAINS = (0.5, 0.7, 0.9, 0.97, 1.0)
FALL = 1000.0  # the factor by which the gradient has fallen at the horizon
SOLVED = 0.1  # share of the loss of a guess


def draw(key: jax.Array, number: int, length: int) -> Any:
    """A batch of sequences of one length."""
    return draw_batch(TASK, jax.random.split(key, number), length, length, length)


def loss_of(reader: SequenceReader, params: Any, batch: Any) -> jax.Array:
    """Mean cross-entropy of the answers, in nats."""
    sums = losses.token_cross_entropy(reader.apply({"params": params}, batch.inputs), batch.targets, batch.asked)
    return sums.loss / sums.tokens


def start(reader: SequenceReader, key: jax.Array, gain: float) -> Any:
    """Initial parameters, with recurrent weights times the gain."""
    params = reader.init(key, jnp.zeros((1, 1, TASKS[TASK].features)))["params"]
    recurrent = params["rnn"].recurrent_kernel * gain
    return params | {"rnn": params["rnn"]._replace(recurrent_kernel=recurrent)}


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def trained_loss(reader: SequenceReader, params: Any, length: int, steps: int) -> jax.Array:
    """The loss on new sequences after training, for each set of parameters stacked in `params`."""
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(RATE))

    def step(number, state):
        params, inner = state
        gradient = jax.grad(functools.partial(loss_of, reader))(params, draw(jax.random.fold_in(jax.random.key(2), number), BATCH, length))
        updates, inner = optimizer.update(gradient, inner)
        return optax.apply_updates(params, updates), inner

    def one(params):
        params, _ = jax.lax.fori_loop(0, steps, step, (params, optimizer.init(params)))
        return loss_of(reader, params, draw(jax.random.key(3), TEST, length))

    return jax.vmap(one)(params)


def exponent(reader: SequenceReader, params: Any) -> float:
    """The largest Lyapunov exponent on the task's inputs, in nats per step, the mean over sequences."""
    xs = draw(jax.random.key(1), 16, 200).inputs
    return float(lyapunov_exponents(reader.cell, params["rnn"], xs, count=1, skip=20).exponents.mean())


def main() -> None:
    """Measures and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    rows, guess = {}, TASKS[TASK].guess(LENGTHS[0])
    for name, cell, gains in (("tanh", seqjax.rnn(HIDDEN), GAINS), ("lstm", seqjax.lstm(HIDDEN), (1.0,))):
        reader = SequenceReader(cell, TASKS[TASK].classes)
        every = [(gain, start(reader, jax.random.key(seed), gain)) for gain in gains for seed in range(options.seeds)]
        stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *(params for _, params in every))
        found = {length: np.asarray(trained_loss(reader, stacked, length, options.steps)) for length in LENGTHS}
        for place, gain in enumerate(gains):
            mine = slice(place * options.seeds, (place + 1) * options.seeds)
            rates = [exponent(reader, params) for _, params in every[mine]]
            solved = {length: int((losses[mine] < SOLVED * guess).sum()) for length, losses in found.items()}
            mean = sum(rates) / len(rates)
            row = {
                "exponents": rates,
                "horizon": -math.log(FALL) / mean if mean < 0 else math.inf,
                "seeds that solve it, by length": solved,
                "losses by length": {length: losses[mine].tolist() for length, losses in found.items()},
            }
            rows[f"{name}, gain {gain}"] = row
            print(f"{name:<5} gain {gain:<5} exponent {mean:+.3f}  horizon {row['horizon']:7.1f} steps  solved {solved}", flush=True)
    question = f"{TASK} by length, {options.steps} steps of {BATCH} sequences, Adam {RATE}: where does a cell of {HIDDEN} units fail?"
    solved_below = {"solved below": SOLVED * guess, "loss of a guess": guess, "gradient at the horizon": 1 / FALL}
    common.save("spectrum", {"question": question, **solved_below, "seeds": options.seeds, "cells": rows})


if __name__ == "__main__":
    main()
