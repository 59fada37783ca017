"""Diagnostics of a step during training, against the step itself and the diagnostics they summarise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import seqjax
from seqjax.diagnostics.carry_gradients import carry_gradients
from seqjax.diagnostics.during import make_diagnose
from seqjax.diagnostics.gates import gate_statistics
from seqjax.errors import UserError
from seqjax.training.losses import Sums
from seqjax.training.train_step import init_state, make_mesh, make_proposal, make_train_step, step_key

B, T, D, H = 4, 7, 3, 5
CELL = seqjax.stack(
    seqjax.lstm(H), jnp.tanh, seqjax.bidirectional(seqjax.gru(H), seqjax.dropout(seqjax.lstm(H), 0.5)), seqjax.residual(seqjax.gru(2 * H))
)
LENGTHS = jnp.array([7, 4, 1, 6])


def loss_fn(params, model_state, carry, batch, rng):
    carry, ys = seqjax.unroll(CELL, params["rnn"], batch["xs"], carry, lengths=batch["lengths"], rng=rng)
    return carry, model_state, Sums(((ys @ params["head"]["kernel"] - 1) ** 2).sum(), jnp.float32(ys.size))


def begin(optimizer, loss_fn=loss_fn, **how):
    one, two, three = jax.random.split(jax.random.key(3), 3)
    params = {"rnn": CELL.init(one, D), "head": {"kernel": jax.random.normal(two, (2 * H, 2))}}
    mesh = make_mesh(B, jax.devices()[:1])
    carry = CELL.initial_carry(params["rnn"], B)
    carry = jax.tree.map(lambda a: a + 0.1, carry)
    state = init_state(params, (), optimizer, carry, jax.random.key(1), mesh, frozen=how.get("frozen", ()))
    batch = {"xs": jax.random.normal(three, (B, T, D)), "lengths": LENGTHS}
    diagnose = make_diagnose(loss_fn, make_proposal(loss_fn, optimizer, mesh, **how), mesh, accumulate=how.get("accumulate", 1))
    return state, batch, diagnose, mesh


def size(tree):
    return np.sqrt(sum(np.sum(np.square(np.asarray(leaf, np.float64))) for leaf in jax.tree.leaves(tree)))


def test_ratios_and_norms_are_those_of_the_step_itself():
    """Noise, accumulation and frozen parameters included."""
    how = {"accumulate": 2, "frozen": ("rnn/0",)}
    state, batch, diagnose, mesh = begin(optax.adam(0.01), **how)
    before = jax.tree.map(np.asarray, state.params)
    found = {name: float(value) for name, value in diagnose(state, batch).items()}
    step = make_train_step(loss_fn, optax.adam(0.01), optax.constant_schedule(0.01), mesh, clip_norm=1.0, **how)
    state, metrics = step(state, batch)
    assert not any(name.endswith(("rnn/0", "rnn/1")) for name in found)
    names = {"head": lambda p: p["head"], "rnn/2/backward": lambda p: p["rnn"][2].backward, "rnn/3": lambda p: p["rnn"][3]}
    for name, of in names.items():
        change = jax.tree.map(np.subtract, of(state.params), of(before))
        assert found[f"update_ratio/{name}"] == pytest.approx(size(change) / size(of(before)), rel=1e-4)
    norms = [value for name, value in found.items() if name.startswith("gradient_norm")]
    assert np.linalg.norm(norms) == pytest.approx(float(metrics.grad_norm), rel=1e-5)


def test_the_way_back_in_time_of_each_layer_in_its_own_direction():
    state, batch, diagnose, _ = begin(optax.sgd(0.1))
    found = {name: float(value) for name, value in diagnose(state, batch).items()}

    def loss(params):
        _, _, sums = loss_fn(params, (), state.carry, batch, step_key(state))
        return sums.loss / sums.tokens

    (grads,) = carry_gradients(loss, state.params, through="last")
    layers = [grads.norms[0], grads.norms[2].forward, grads.norms[2].backward, grads.norms[3]]
    for place, norms in enumerate(layers, 1):
        total = np.sqrt(sum(np.square(np.asarray(n, np.float64)) for n in jax.tree.leaves(norms)))
        rows = [row[:n][:: -1 if place == 3 else 1][:-1] for row, n in zip(total, LENGTHS) if n > 1]
        assert found[f"carry_gradient_start/network0/layer{place}"] == pytest.approx(np.mean([row[0] for row in rows]), rel=1e-4)
        assert found[f"carry_gradient_end/network0/layer{place}"] == pytest.approx(np.mean([row[-1] for row in rows]), rel=1e-4)
        small = np.concatenate([row < 1e-3 * row.max() for row in rows if row.max() > 0])
        assert found[f"carry_gradient_vanished/network0/layer{place}"] == pytest.approx(small.mean())
    gates = gate_statistics(CELL, state.params["rnn"], batch["xs"], state.carry, lengths=LENGTHS, rng=step_key(state))
    assert len(gates) == 3 + 2 + 3 + 2
    for gate in gates:
        name = f"network0/layer{gate.layer.split()[1]}/{gate.gate}"
        assert found[f"gate_mean/{name}"] == pytest.approx(float(gate.mean.mean()), rel=1e-5)
        assert found[f"gate_open/{name}"] == pytest.approx(float(gate.open.mean()), rel=1e-5)


def test_what_vanishes_is_counted():
    """A linear network that keeps a thirtieth at each step: all but the last two carries are below a thousandth of the largest."""
    cell = seqjax.rnn(1, lambda x: x)
    params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0), 1))._replace(recurrent_kernel=jnp.full((1, 1), 1 / 30))

    def loss_fn(params, model_state, carry, batch, rng):
        return carry, model_state, Sums(seqjax.unroll(cell, params, batch)[1].sum(), jnp.float32(1.0))

    mesh = make_mesh(1, jax.devices()[:1])
    state = init_state(params, (), optax.sgd(0.1), (), jax.random.key(1), mesh)
    found = make_diagnose(loss_fn, make_proposal(loss_fn, optax.sgd(0.1), mesh), mesh)(state, jnp.ones((1, 11, 1)))
    assert float(found["carry_gradient_vanished/network0/layer1"]) == pytest.approx(7 / 10)
    assert float(found["carry_gradient_end/network0/layer1"]) == pytest.approx(1 / 30, rel=1e-5)
    assert float(found["carry_gradient_start/network0/layer1"]) == pytest.approx(30.0**-10, rel=1e-4)


def test_a_network_inside_a_scan_or_none_at_all_is_refused():
    def inside(params, model_state, carry, batch, rng):
        def body(total, xs):
            return total + seqjax.unroll(CELL, params["rnn"], xs)[1].sum(), None

        total, _ = jax.lax.scan(body, 0.0, jnp.stack([batch["xs"]] * 2))
        return carry, model_state, Sums(total, jnp.float32(1.0))

    def none(params, model_state, carry, batch, rng):
        return carry, model_state, Sums((params["head"]["kernel"] ** 2).sum(), jnp.float32(1.0))

    for wrong, message in [(inside, "runs inside a jit or scan"), (none, "runs no recurrent network")]:
        state, batch, diagnose, _ = begin(optax.sgd(0.1), wrong)
        with pytest.raises(UserError, match=message):
            jax.eval_shape(diagnose, state, batch)
