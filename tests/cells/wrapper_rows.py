"""The wrappers' rows of the table: those that keep the contract of a cell in full, streaming steps included."""

import jax

import seqjax
from seqjax.wrappers import layer_norm, learned_initial_carry, recurrent_dropout, weight_drop, zoneout


def learned(cell):
    """An initial carry that is not zero, as after some training."""
    wrapped = learned_initial_carry(cell)

    def init(key, input_size):
        params = wrapped.init(key, input_size)
        leaves, tree = jax.tree.flatten(params.carry)
        keys = jax.random.split(jax.random.fold_in(key, 1), len(leaves))
        drawn = [0.5 * jax.random.normal(k, a.shape, a.dtype) for k, a in zip(keys, leaves)]
        return params._replace(carry=jax.tree.unflatten(tree, drawn))

    return wrapped.replace(init=init)


def shifted(cell):
    """Gains and a bias different from their initial values, so that a forgotten one shows."""
    wrapped = layer_norm(cell)

    def init(key, input_size):
        params = wrapped.init(key, input_size)
        keys = jax.random.split(jax.random.fold_in(key, 1), 3)
        drawn = {
            field: value + 0.3 * jax.random.normal(k, value.shape, value.dtype)
            for (field, value), k in zip(params._asdict().items(), (None, *keys))
            if field != "cell"
        }
        return params._replace(**drawn)

    return wrapped.replace(init=init)


def regularised(cell):
    """Every kind of noise at once."""
    inside = recurrent_dropout(weight_drop(seqjax.dropout(cell, 0.2), 0.3), 0.2)
    return zoneout(shifted(inside), 0.2, 0.3)


def per_gate(cell):
    """Separate masks per gate on both products."""
    return seqjax.dropout(recurrent_dropout(cell, 0.3, per_gate=True), 0.2, shared_over_time=True, per_gate=True)


def wrappers(size):
    """(name, make) of each row, make(**options) -> Cell with `size` outputs for `size` inputs."""
    return [
        ("zoneout", lambda **o: zoneout(seqjax.lstm(size, **o), 0.2, 0.4)),
        ("zoneout-step", lambda **o: zoneout(seqjax.gru(size, reset_after=False, **o), 0.3)),
        ("recurrent_dropout", lambda **o: recurrent_dropout(seqjax.gru(size, **o), 0.4)),
        ("per_gate", lambda **o: per_gate(seqjax.lstm(size, **o))),
        ("layer_norm", lambda **o: shifted(seqjax.gru(size, **o))),
        ("learned", lambda **o: learned(seqjax.stack(seqjax.lstm(5, **o), seqjax.rnn(size, **o)))),
        (
            "regularised",
            lambda **o: seqjax.residual(seqjax.dropout(learned(regularised(seqjax.lstm(size, **o))), 0.2)),
        ),
    ]
