"""Properties that every CNN has, over the table.

Shapes and dtypes are tested by abstract evaluation, for all. Values need compiling: the cheapest of each family by default, the others in
the slow tests.
"""

import functools

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cnn.table import ROWS, abstract, draw, draw_variables, make, names, shapes

from seqjax import cnn


def _rows(slow):
    return pytest.mark.parametrize("row", [pytest.param(row, id=row.name, marks=[pytest.mark.slow] if slow(row) else []) for row in ROWS])


every = _rows(lambda row: False)
traced = _rows(lambda row: row.deep)
values = _rows(lambda row: not row.default)
IMAGES = [row for row in ROWS if len(row.shape) == 4]
images = pytest.mark.parametrize("row", IMAGES, ids=names(IMAGES))


class Runs:
    """A network's evaluation and training step, jitted, with a count of how often each was traced."""

    def __init__(self, row):
        self.row, self.traced = row, {"eval": 0, "train": 0}
        self.model, self.variables = draw_variables(row)
        self.eval, self.step = jax.jit(self.evaluate), jax.jit(jax.grad(self.loss, has_aux=True))

    def evaluate(self, variables, x):
        self.traced["eval"] += 1
        return self.model.apply(variables, x, mutable=["batch_stats"])

    def loss(self, params, rest, x, key):
        """Every logit has its own weight, also those of the auxiliary heads."""
        self.traced["train"] += 1
        out, state = self.model.apply({"params": params, **rest}, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"])
        heads = [out] if not self.row.aux else [out.logits, *out.aux]
        weights = [jnp.cos(jnp.arange(head.size, dtype=head.dtype) + i).reshape(head.shape) for i, head in enumerate(heads)]
        return sum((head * weight).sum() for head, weight in zip(heads, weights)), (heads, state)

    def train(self, seed=0, key=0):
        """Gradients, logits of all heads, new statistics."""
        params = self.variables["params"]
        rest = {name: tree for name, tree in self.variables.items() if name != "params"}
        grads, (heads, state) = self.step(params, rest, draw(self.row, seed), jax.random.key(key))
        return grads, heads, state.get("batch_stats", {})


@functools.lru_cache(maxsize=1)  # tests are ordered by row, and large networks should not stay
def runs(row_name):
    return Runs(next(row for row in ROWS if row.name == row_name))


def _paths(tree, wanted):
    return [jax.tree_util.keystr(path) for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if wanted(leaf)]


def test_every_name_has_a_row():
    assert sorted(cnn.names()) == sorted(names(ROWS))


@pytest.mark.one_in(12)
@every
def test_exact_counts(row):
    found = cnn.summary(cnn.create(row.name), abstract(row, row.full))
    assert found.parameters == row.parameters
    if row.gmac is not None:
        assert round(found.multiply_adds / 1e9, 3) == row.gmac


@pytest.mark.one_in(6)
@traced
def test_shapes_and_dtypes(row):
    model, other = make(row, dtype=jnp.bfloat16), abstract(row, row.other)
    assert jax.eval_shape(lambda x: make(row).init_with_output(jax.random.key(0), x)[0], other).shape == (1, 4)
    x = abstract(row, row.shape)
    variables = shapes(model, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert ("batch_stats" in variables) == row.norm
    rngs = {"dropout": jax.random.key(0)}
    out, state = jax.eval_shape(lambda v, x: model.apply(v, x, train=True, rngs=rngs, mutable=["batch_stats"]), variables, x)
    assert isinstance(out, cnn.Outputs) == (row.aux > 0)
    assert len(jax.tree.leaves(out)) == 1 + row.aux
    for logits in jax.tree.leaves(out):
        assert (logits.shape, logits.dtype) == ((3, 4), jnp.bfloat16)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), state) == jax.tree.map(
        lambda a: (a.shape, a.dtype), {name: variables[name] for name in state}
    )


@pytest.mark.one_in(6)
@images
def test_what_does_not_fit_is_refused_with_what_was_expected(row):
    model, (batch, height, width, channels) = make(row), row.shape

    def refused(error, text, shape, dtype=jnp.float32):
        with pytest.raises(error, match=text):
            shapes(model, jax.ShapeDtypeStruct(shape, dtype))

    size = (batch, height, width)
    refused(ValueError, rf"in_channels is {channels}, the images have {channels + 1}", (*size, channels + 1))
    refused(ValueError, rf"\(B, H, W, {channels}\)", size)
    refused(TypeError, "float type, got uint8", row.shape, jnp.uint8)
    least = model.min_size
    if least > 1:
        refused(ValueError, rf"at least {least} x {least}, got", (1, least - 1, width, channels))


@pytest.mark.one_in(6)
@traced
def test_the_smallest_image_runs_and_a_smaller_one_would_not(row):
    if row not in IMAGES:
        pytest.skip("takes sequences")
    model = make(row)
    least = model.min_size
    assert shapes(model, abstract(row, (1, least, least, row.shape[-1])))
    if least > 1:
        unchecked = type(f"{type(model).__name__}", (type(model),), {"min_size": 1})
        smaller = abstract(row, (1, least - 1, least - 1, row.shape[-1]))
        options = {field: getattr(model, field) for field in row.options}
        with pytest.raises((ValueError, TypeError, ZeroDivisionError)):
            shapes(unchecked(**options), smaller)


@pytest.mark.one_in(4)
@values
def test_jit_changes_nothing_and_evaluation_touches_no_statistics(row):
    ours = runs(row.name)
    x = draw(row)
    logits, state = ours.eval(ours.variables, x)
    assert logits.shape == (3, 4) and np.all(np.isfinite(logits))
    for old, new in zip(jax.tree.leaves(ours.variables.get("batch_stats", {})), jax.tree.leaves(state)):
        np.testing.assert_array_equal(old, new)
    plain = ours.model.apply(ours.variables, x)
    np.testing.assert_allclose(logits, plain, rtol=1e-3, atol=1e-3 * float(np.abs(plain).max()))


@pytest.mark.one_in(4)
@values
def test_the_same_twice_and_nothing_compiled_again(row):
    ours = runs(row.name)
    first, _ = ours.eval(ours.variables, draw(row))
    again, _ = ours.eval(ours.variables, draw(row))
    np.testing.assert_array_equal(first, again)
    other, _ = ours.eval(jax.tree.map(lambda a: a * 0.9, ours.variables), draw(row, 1))
    assert np.any(other != first)
    assert ours.traced["eval"] == 1


@pytest.mark.one_in(4)
@values
def test_training_moves_statistics_reaches_every_parameter_and_takes_its_noise_from_the_key(row):
    ours = runs(row.name)
    grads, heads, state = ours.train()
    assert len(heads) == 1 + row.aux and all(head.shape == (3, 4) for head in heads)
    before = ours.variables.get("batch_stats", {})
    unmoved = jax.tree.map(lambda a, b: np.all(np.asarray(a == b)), before, state)
    assert jax.tree.structure(before) == jax.tree.structure(state) and not any(jax.tree.leaves(unmoved))

    reached = jax.tree.map(lambda g: np.any(np.asarray(g) != 0), grads)
    for seed in 1, 2:  # dropout and relu may block the path of a few to all logits
        more = ours.train(seed, seed)[0]
        reached = jax.tree.map(lambda r, g: r or np.any(np.asarray(g) != 0), reached, more)
    assert _paths(reached, lambda r: not r) == []
    assert _paths(grads, lambda g: not np.all(np.isfinite(g))) == []

    same, other = ours.train()[1], ours.train(0, 7)[1]
    np.testing.assert_array_equal(heads[0], same[0])
    assert np.any(heads[0] != other[0]) == row.dropout
    assert ours.traced["train"] == 1


@pytest.mark.one_in(4)
@values
def test_a_network_written_to_bytes_and_read_gives_the_same(row):
    ours = runs(row.name)
    data = flax.serialization.to_bytes(ours.variables)
    count = sum(leaf.size for leaf in jax.tree.leaves(ours.variables))
    assert len(data) > 4 * count
    empty = jax.tree.map(jnp.zeros_like, ours.variables)
    read = jax.tree.map(jnp.asarray, flax.serialization.from_bytes(empty, data))
    np.testing.assert_array_equal(ours.eval(read, draw(row))[0], ours.eval(ours.variables, draw(row))[0])
    assert ours.traced["eval"] == 1
