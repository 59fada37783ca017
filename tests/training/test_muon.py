"""Muon gate by gate, against its equations in NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import seqjax
from seqjax.errors import UserError
from seqjax.training.muon import muon_by_gate
from seqjax.training.optimizers import make_optimizer

D, H = 5, 8


def _newton_schulz(matrix, steps=3):
    x = matrix / np.linalg.norm(matrix)
    x = x.T if x.shape[0] > x.shape[1] else x
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def _direction(gradients, steps=3):
    """Muon's direction after these gradients of one matrix."""
    momentum = np.zeros_like(gradients[0])
    for number, g in enumerate(gradients, 1):
        momentum = 0.95 * momentum + 0.05 * g
        corrected = (0.95 * momentum / (1 - 0.95 ** (number + 1))) + 0.05 * g / (1 - 0.95**number)
    return math.sqrt(max(1, g.shape[1] / g.shape[0])) * _newton_schulz(corrected, steps)


def _params(cell):
    return {"rnn": cell.init(jax.random.key(0), D), "softmax": jnp.ones((H, 3)), "absent": None}


def _gradients(params, count, seed=0):
    rng = np.random.default_rng(seed)
    return [jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params) for _ in range(count)]


def _run(optimizer, params, all_gradients):
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for gradients in all_gradients:
        updates, state = update(gradients, state, params)
    return updates


@pytest.mark.parametrize(
    "cell, gates",
    [(seqjax.lstm(H), 4), (seqjax.gru(H), 3), (seqjax.rnn(H), 1), (seqjax.lstm(H, coupled=True, proj_size=4), 3), (seqjax.lem(H), 4)],
    ids=str,
)
def test_each_gate_is_a_matrix_of_its_own(cell, gates):
    params = _params(cell)
    found = _gradients(params, 3)
    updates = _run(muon_by_gate(optax.scale_by_adam(), rate=0.5), params, found)
    for name in ("kernel", "recurrent_kernel"):
        all_gates = [np.split(np.asarray(getattr(g["rnn"], name), np.float64), gates, axis=1) for g in found]
        want = np.concatenate([0.5 * _direction([g[k] for g in all_gates]) for k in range(gates)], axis=1)
        np.testing.assert_allclose(getattr(updates["rnn"], name), want, rtol=1e-3, atol=1e-4)
    adam = _run(optax.scale_by_adam(), params, found)
    for got, want in zip(jax.tree.leaves((updates["softmax"], updates["rnn"].bias)), jax.tree.leaves((adam["softmax"], adam["rnn"].bias))):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_each_block_of_a_head_is_a_matrix_of_its_own():
    params = _params(seqjax.gru(H, heads=2))
    found = _gradients(params, 1)
    updates = _run(muon_by_gate(optax.scale_by_adam(), rate=1.0), params, found)
    gradient, update = (np.asarray(tree["rnn"].recurrent_kernel, np.float64) for tree in (found[0], updates))
    for head in range(2):
        for gate in range(3):
            part = slice(gate * 4, gate * 4 + 4)
            np.testing.assert_allclose(update[head][:, part], _direction([gradient[head][:, part]]), rtol=1e-3, atol=1e-4)


def test_a_gradient_counts_by_its_direction_and_gates_do_not_mix():
    params = _params(seqjax.lstm(H))
    one = _gradients(params, 1)[0]
    scaled = {**one, "rnn": one["rnn"]._replace(recurrent_kernel=one["rnn"].recurrent_kernel.at[:, :H].multiply(1000.0))}
    optimizer = muon_by_gate(optax.scale_by_adam(), rate=1.0)
    got, want = (_run(optimizer, params, [gradients])["rnn"].recurrent_kernel for gradients in (scaled, one))
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)


def test_what_is_no_matrix_of_a_cell_is_left_to_the_others():
    for cell in (seqjax.conv_lstm(H, 3, 4), seqjax.dense(H)):
        with pytest.raises(UserError, match="optimizer.name='muon' is for the kernels of recurrent cells, and there are none"):
            muon_by_gate(optax.scale_by_adam(), rate=1.0).init({"rnn": cell.init(jax.random.key(0), D)})
    params = _params(seqjax.indrnn(H))
    found = _gradients(params, 1)
    updates = _run(muon_by_gate(optax.scale_by_adam(), rate=1.0), params, found)
    np.testing.assert_allclose(jnp.abs(updates["rnn"].recurrent_kernel), 1.0, rtol=1e-4)  # Adam's first step is a sign


@pytest.mark.parametrize("frozen", ["kernel", "recurrent_kernel"])
def test_a_frozen_kernel_is_left_out(frozen):
    params = _params(seqjax.gru(H))
    found = _gradients(params, 1)
    without = [{**tree, "rnn": tree["rnn"]._replace(**{frozen: None})} for tree in (params, found[0])]
    optimizer = muon_by_gate(optax.scale_by_adam(), rate=1.0)
    updates = _run(optimizer, without[0], without[1:])
    assert getattr(updates["rnn"], frozen) is None
    if frozen == "kernel":
        whole = _run(optimizer, params, found)
        np.testing.assert_allclose(updates["rnn"].recurrent_kernel, whole["rnn"].recurrent_kernel, rtol=1e-3, atol=1e-5)


def test_the_rates_of_the_two():
    params = _params(seqjax.lstm(H))
    optimizer = make_optimizer("muon", optax.constant_schedule(0.01), clip_norm=1.0, muon_ratio=3.0, weight_decay=0.1)
    bare = make_optimizer("muon", optax.constant_schedule(0.01), clip_norm=1.0, muon_ratio=3.0)
    found = _gradients(params, 1)
    updates, without = _run(optimizer, params, found), _run(bare, params, found)
    singular = np.linalg.svd(without["rnn"].recurrent_kernel[:, :H])[1]
    assert 0.5 * 0.03 < np.median(singular) and singular.max() < 1.3 * 0.03
    np.testing.assert_allclose(jnp.abs(without["softmax"]), 0.01, rtol=1e-3)
    np.testing.assert_allclose(updates["rnn"].kernel - without["rnn"].kernel, -0.01 * 0.1 * params["rnn"].kernel, rtol=1e-2, atol=1e-7)
    with pytest.raises(UserError, match="optimizer.muon_rate has no effect with adam"):
        make_optimizer("adam", optax.constant_schedule(0.01), clip_norm=1.0, muon_ratio=3.0)
