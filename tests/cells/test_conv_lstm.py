"""Tests specific to the convolutional LSTM: its spatial axes and receptive field. The rest is in the table."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import pytest
from cells.table import as_numpy, assert_same

import seqjax
from seqjax.errors import UserError
from seqjax.wrappers import bidirectional, learned_initial_carry, residual, zoneout

KEY = jax.random.key(0)


def _cell(spatial=(5, 4), **options):
    cell = seqjax.conv_lstm(3, 3, spatial, **options)
    params = cell.init(KEY, 2)
    rng = np.random.default_rng(1)
    xs = rng.normal(size=(6, 2, *cell.spatial, 2)).astype(np.float32)  # time-major, as engines have it
    carry = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=(6, *a.shape)), a.dtype), cell.initial_carry(params, 2))
    return cell, params, xs, carry


@pytest.mark.parametrize("spatial", [(5,), (5, 4), (3, 2, 4)])
def test_the_parts_take_any_leading_axes_and_vmap(spatial):
    cell, params, xs, carries = _cell(spatial, peepholes=True)
    at = lambda t: jax.tree.map(lambda a: a[t], carries)  # noqa: E731
    steps = range(len(xs))
    projected = jnp.stack([cell.parts.project(params, xs[t]) for t in steps])
    recurrent = jnp.stack([cell.parts.recur(params, at(t)) for t in steps])
    after = [cell.parts.after(params, at(t), projected[t], recurrent[t]) for t in steps]
    assert projected.shape == recurrent.shape == (6, 2, *spatial, 12)
    assert_same(jax.jit(cell.parts.project)(params, xs), projected)
    assert_same(jax.jit(cell.parts.project)(params, xs[None]), projected[None])
    assert_same(jax.jit(jax.vmap(cell.parts.recur, (None, 0)))(params, carries), recurrent)
    whole = jax.jit(jax.vmap(cell.parts.after, (None, 0, 0, 0)))(params, carries, projected, recurrent)
    assert_same(whole, jax.tree.map(lambda *a: jnp.stack(a), *after))
    two = jax.tree.map(lambda a: jnp.stack([a, -a]), params)
    assert_same(jax.jit(jax.vmap(cell.parts.recur, (0, None)))(two, at(0))[0], recurrent[0])


def test_gradients_through_vmap_are_those_of_a_loop():
    """As engines compute it: the weight gradients of all steps at once."""
    cell, params, xs, carries = _cell()

    def loss(params, recur):
        return (recur(params, carries) ** 2).sum()

    def by_loop(params, carries):
        return jnp.stack([cell.parts.recur(params, jax.tree.map(lambda a, t=t: a[t], carries)) for t in range(len(xs))])

    want = jax.jit(jax.grad(lambda p: loss(p, by_loop)))(params)
    got = jax.jit(jax.grad(lambda p: loss(p, jax.vmap(cell.parts.recur, (None, 0)))))(params)
    assert_same(got, want, 1e-4, 1e-4)
    assert np.abs(want.recurrent_kernel).max() > 0.1


@pytest.mark.parametrize("kernel_size", [3, (1, 3), (2, 2)])
def test_an_output_sees_its_neighbourhood_and_no_more(kernel_size):
    cell = seqjax.conv_lstm(2, kernel_size, (7, 7))
    params = cell.init(KEY, 1)
    xs = jax.random.normal(KEY, (1, 3, 7, 7, 1))
    grad = jax.jit(jax.grad(lambda x: (seqjax.unroll(cell, params, x)[1][0, 2, 3, 3] ** 2).sum()))(xs)
    reached = np.abs(np.asarray(grad))[0, :, :, :, 0] > 0
    high, wide = (kernel_size,) * 2 if isinstance(kernel_size, int) else kernel_size
    for t, passes in ((2, 1), (1, 2), (0, 3)):
        want = np.zeros((7, 7), bool)
        low = [passes * ((k - 1) // 2) for k in (high, wide)]
        up = [passes * (k // 2) for k in (high, wide)]
        want[max(0, 3 - low[0]) : 4 + up[0], max(0, 3 - low[1]) : 4 + up[1]] = True
        np.testing.assert_array_equal(reached[t], want)


def test_inside_it_moves_with_its_input():
    """A shifted input gives a shifted output, away from the border and without peepholes, which are position-dependent."""
    cell = seqjax.conv_lstm(2, 3, 12)
    params = cell.init(KEY, 1)
    xs = np.zeros((1, 3, 12, 1), np.float32)
    xs[:, :, 4:7] = np.random.default_rng(0).normal(size=(1, 3, 3, 1))
    _, ys = seqjax.unroll(cell, params, xs)
    _, moved = seqjax.unroll(cell, params, np.roll(xs, 1, axis=2))
    # The border's influence grows by one position with every step after the first.
    assert_same(moved[:, :, 3:-2], ys[:, :, 2:-3])
    assert np.abs(moved[:, :, 3:-2] - ys[:, :, 3:-2]).max() > 0.01


def test_initial_values():
    params = seqjax.conv_lstm(5, (3, 2), (4, 4), peepholes=True).init(KEY, 7)
    limit = np.sqrt(6 / (6 * 7 + 6 * 5))
    assert params.kernel.shape == (3, 2, 7, 20) and limit * 0.95 < np.abs(params.kernel).max() <= limit
    for block in np.split(np.asarray(params.recurrent_kernel).reshape(30, 20), 4, axis=1):
        np.testing.assert_allclose(block.T @ block, np.eye(5), atol=1e-5)
    assert params.peepholes.shape == (4, 4, 15) and np.all(params.peepholes == 0)


def _drawn(number):
    """Random options over one to three axes in turn; strides in even draws, a dilation in odd ones."""
    rng = np.random.default_rng(number)
    window, far, room = rng.integers(1, 4, (3, 1 + number % 3)).tolist()
    near = [1] * len(far)
    steps, dilation = (near, far) if number % 2 else (far, near)
    return {
        "kernel_size": tuple(window),
        "spatial_shape": tuple(d * (k - 1) + n for d, k, n in zip(dilation, window, room)),
        "strides": tuple(steps),
        "padding": "same" if number % 4 < 2 else "valid",
        "dilation_rate": tuple(dilation),
    }


@pytest.mark.parametrize("number", range(12))
def test_strides_padding_and_dilation_equal_numpy_in_one_two_and_three_axes(number, x64):
    options = _drawn(number)
    cell = seqjax.conv_lstm(3, **options, peepholes=True, param_dtype=jnp.float64)
    rng = np.random.default_rng(number)
    params = jax.tree.map(lambda a: jnp.asarray(0.7 * rng.normal(size=a.shape)), cell.init(KEY, 2))
    xs = rng.normal(size=(2, 3, *options["spatial_shape"], 2))
    start = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), cell.initial_carry(params, 2))
    reference = ref.conv_lstm(options["strides"], options["padding"], options["dilation_rate"])
    want_carry, want = ref.forward(reference, as_numpy(params), as_numpy(start), xs)[:2]
    carry, ys = seqjax.unroll(cell, params, xs, start)
    assert ys.shape == (2, 3, *cell.output_spatial, 3) and cell.spatial == options["spatial_shape"]
    assert_same((as_numpy(carry), ys), (want_carry, want), 1e-10, 1e-10)


def test_no_bias_is_a_bias_of_zero():
    cell, params, xs, _ = _cell(use_bias=False)
    assert params.bias is None
    filled = params._replace(bias=jnp.zeros(12))
    want = seqjax.unroll(_cell()[0], filled, xs, time_major=True)[1]
    assert_same(seqjax.unroll(cell, params, xs, time_major=True)[1], want, 0, 0)
    for options in ({"forget_bias": 1.0}, {"bias_init": jax.nn.initializers.zeros}):
        with pytest.raises(UserError, match="conv_lstm has use_bias=False, so it takes no bias_init or forget_bias"):
            _cell(use_bias=False, **options)
    with pytest.raises(UserError, match="peephole_init is given, but with these options the cell has no such"):
        _cell(peephole_init=jax.nn.initializers.zeros)


def test_layers_whose_sizes_follow_from_each_other():
    """A stack of layers that shrink, in both directions, with and without lengths, step by step."""
    small = seqjax.conv_lstm(3, 3, (8, 7), strides=2, padding="valid")
    assert small.output_spatial == (3, 3)
    pair = bidirectional(*(seqjax.conv_lstm(2, 2, (3, 3), padding="valid") for _ in range(2)), "sum")
    cell = seqjax.stack(zoneout(small, 0.1), pair, learned_initial_carry(seqjax.conv_lstm(4, 2, (2, 2), padding="valid")))
    assert (cell.spatial, cell.output_spatial) == ((8, 7), (1, 1))
    params = cell.init(KEY, 2)
    xs = np.random.default_rng(2).normal(size=(2, 5, 8, 7, 2)).astype(np.float32)
    carry, ys = seqjax.unroll(cell, params, xs, lengths=[5, 2])
    assert ys.shape == (2, 5, 1, 1, 4) and np.all(ys[1, 2:] == 0)
    assert_same(ys[1, :2], seqjax.unroll(cell, params, xs[1, :2])[1])
    one_way = cell.inner[0]
    now = one_way.initial_carry(params[0], 2)
    for t in range(5):
        now, y = one_way.step(params[0], now, xs[:, t])
        assert_same(y, seqjax.unroll(one_way, params[0], xs)[1][:, t])
    assert seqjax.unroll(one_way, params[0], xs, rng=KEY)[1].shape == (2, 5, 3, 3, 3)


def test_layers_whose_sizes_do_not_follow_are_refused():
    small, same = seqjax.conv_lstm(2, 3, 6, padding="valid"), seqjax.conv_lstm(2, 3, 6)
    with pytest.raises(ValueError, match=r"spatial axes, got conv_lstm \(6,\) -> \(4,\), conv_lstm \(6,\)$"):
        seqjax.stack(small, same)
    with pytest.raises(ValueError, match=r"agree in their spatial axes: \(6,\) -> \(4,\) and \(6,\)$"):
        bidirectional(small, same)
    with pytest.raises(ValueError, match=r"residual\(conv_lstm\) adds its input .* got \(6,\) -> \(4,\)"):
        residual(small)
    assert seqjax.stack(same, small).output_spatial == (4,)


REFUSED = {
    "padding": ({"padding": "full"}, "padding='full' is not a padding; choose one of same, valid"),
    "both": ({"strides": 2, "dilation_rate": (1, 2)}, r"strides=\(2, 2\) and dilation_rate=\(1, 2\) cannot go together"),
    "too wide": ({"kernel_size": (2, 6)}, r"leaves nothing of spatial_shape=\(6, 5\), since the kernel spans \(2, 6\)"),
    "too far": ({"dilation_rate": 3}, r"leaves nothing of .* since the kernel spans \(7, 7\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_options_that_cannot_be_are_refused(name):
    options, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        seqjax.conv_lstm(**{"features": 2, "kernel_size": 3, "spatial_shape": (6, 5), "padding": "valid"} | options)
    with pytest.raises(ValueError, match=r"strides must have 2 entries, one per spatial axis, got \(1,\)"):
        seqjax.conv_lstm(2, 3, (6, 5), strides=(1,))
    with pytest.raises(ValueError, match="dilation_rate must be at least 1, got 0"):
        seqjax.conv_lstm(2, 3, (6, 5), dilation_rate=0)


def test_shapes_that_do_not_fit_are_refused():
    cell = seqjax.conv_lstm(2, 3, (4, 5))
    params = cell.init(KEY, 1)
    with pytest.raises(ValueError, match=r"xs must be \(B, T, 4, 5, D\) .*got shape \(1, 3, 5, 4, 1\)"):
        seqjax.unroll(cell, params, jnp.zeros((1, 3, 5, 4, 1)))
    with pytest.raises(ValueError, match=r"xs must have 5 axes.*got shape \(3, 4, 1\)"):
        seqjax.unroll(cell, params, jnp.zeros((3, 4, 1)))
    with pytest.raises(ValueError, match=r"kernel_size must have 2 entries, one per spatial axis, got \(3,\)"):
        seqjax.conv_lstm(2, (3,), (4, 5))
    with pytest.raises(ValueError, match="kernel_size must be at least 1, got 0"):
        seqjax.conv_lstm(2, 0, (4, 5))
    with pytest.raises(ValueError, match=r"spatial_shape must have one to three axes, got \(1, 2, 3, 4\)"):
        seqjax.conv_lstm(2, 3, (1, 2, 3, 4))
    with pytest.raises(TypeError, match="spatial_shape must be an integer, got 2.5"):
        seqjax.conv_lstm(2, 3, 2.5)
