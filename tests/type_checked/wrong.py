"""Mistakes that a type checker finds: one on each line that ends in `# wrong`, and none elsewhere."""

import jax
import numpy as np

import seqjax

xs = np.ones((2, 5, 4), np.float32)
gru, lstm = seqjax.gru(8), seqjax.lstm(8)
weights = gru.init(jax.random.key(0), 4)

seqjax.lstm(8, peephole=True)  # wrong
seqjax.gru("8")  # wrong
seqjax.dropout(0.1, gru)  # wrong
print(weights.peephole)  # wrong
print(gru.hidden)  # wrong
print(gru.initial_carry(weights, 2).c)  # wrong
print(seqjax.zoneout(lstm, 0.1).init(jax.random.key(0), 4).gates)  # wrong
carry, ys = seqjax.unroll(gru, weights, xs)
print(carry.c)  # wrong
seqjax.unroll(gru, weights, xs, length=3)  # wrong
seqjax.unroll(gru, weights, xs, engine=1)  # wrong
seqjax.unroll(lstm, weights, xs)  # wrong
seqjax.step(lstm, weights, carry, xs[:, 0])  # wrong
seqjax.explain(gru, weights, xs, length=3)  # wrong
a, b, c = seqjax.unroll(gru, weights, xs)  # wrong
d, e = seqjax.unroll(gru, weights, xs, return_carries=True)  # wrong
