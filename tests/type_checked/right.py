"""What a user writes, in which a type checker finds no error; `wrong.py` is its counterpart."""

import jax
import numpy as np
import optax

import seqjax

xs = np.ones((2, 5, 4), np.float32)

cell = seqjax.stack(seqjax.bidirectional(seqjax.lstm(8), seqjax.gru(8)), seqjax.dropout(seqjax.lstm(8), 0.1))
params = cell.init(jax.random.key(0), 4)
carry, ys = seqjax.unroll(cell, params, xs, lengths=np.array([5, 3]), engine="scan")
print(ys.shape, carry[0])

single = seqjax.zoneout(seqjax.lstm(8, peepholes=True), 0.1)
weights = single.init(jax.random.key(0), 4)
print(weights.kernel.shape, weights.recurrent_kernel)
state, y = seqjax.step(single, weights, single.initial_carry(weights, 2), xs[:, 0])
print(state.h, state.c, y.shape)
last, outputs, every = seqjax.unroll(single, weights, xs, return_carries=True)
print(last.c, every.h, outputs.mean())
both = seqjax.bidirectional(seqjax.lru(4), seqjax.mingru(4), merge=None)
print(both.init(jax.random.key(1), 4).forward, both.hidden_size)
residual = seqjax.residual(seqjax.recurrent_dropout(seqjax.weight_drop(seqjax.gru(4), 0.1), 0.1))
print(residual.init(jax.random.key(2), 4).recurrent_bias)
normalised = seqjax.learned_initial_carry(seqjax.layer_norm(seqjax.gru(4)))
print(seqjax.unroll(normalised, normalised.init(jax.random.key(3), 4), xs)[0].h)


def loss(weights: seqjax.LSTMParams) -> jax.Array:
    return seqjax.unroll(single, weights, xs)[1].sum()


grads = jax.grad(loss)(weights)
optimizer = optax.adam(1e-3)
updates, _ = optimizer.update(grads, optimizer.init(weights))
carry_, ys_ = seqjax.truncated_unroll(single, weights, xs, every=2)
print(optax.apply_updates(weights, updates), carry_.h, ys_.sum(), seqjax.explain(cell, params, xs))
