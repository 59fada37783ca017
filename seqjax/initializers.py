"""Initial values for recurrent weights, on top of `jax.nn.initializers`.

An initializer is a function init(key, shape, dtype) -> array. The cells call their kernel initializers once per gate,
with the shape of one gate, so that fans and orthogonality are those of the matrix a gate actually multiplies by.
"""

import dataclasses
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp

from seqjax._calls import Call, recorded
from seqjax.typing import Array, DType, Initializer, Key

zeros = jax.nn.initializers.zeros


@dataclasses.dataclass(frozen=True, repr=False)
class _Known:
    """An initializer that compares equal to those of equal calls, so that cells that use it do too."""

    call: Call
    function: Initializer = dataclasses.field(compare=False)

    def __call__(self, key: Key, shape: tuple[int, ...], dtype: DType = jnp.float32) -> Array:
        return self.function(key, shape, dtype)

    def __repr__(self) -> str:
        return str(self.call)

    def __reduce__(self) -> tuple:
        return operator.methodcaller("again"), (self.call,)


def _known(build: Callable[..., Initializer]) -> Callable[..., Initializer]:
    return recorded(build, lambda function, call: _Known(call, function))


@_known
def glorot_uniform() -> Initializer:
    """Draws uniform values with a variance set by the numbers of rows and columns.

    W ~ Uniform(-a, a),  a = sqrt(6 / (rows + columns))

    Returns:
      An initializer for matrices (rows, columns); more axes work as in `jax.nn.initializers.glorot_uniform`.

    Example:
      >>> import jax
      >>> glorot_uniform() == glorot_uniform(), glorot_uniform()(jax.random.key(0), (2, 3)).shape
      (True, (2, 3))

    Reference:
      Glorot, Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks".
    """
    return jax.nn.initializers.glorot_uniform()


@_known
def orthogonal(scale: float = 1.0) -> Initializer:
    """Draws a random orthogonal matrix times a scale, in any floating dtype.

    W = scale * Q,  Q'Q = I

    Args:
      scale: the length of each row or column of W.

    Returns:
      An initializer for matrices (rows, columns); if they differ, the shorter side is orthonormal.

    Raises:
      ValueError: (from the initializer) the shape has fewer than two axes.

    Example:
      >>> import jax
      >>> w = orthogonal()(jax.random.key(0), (3, 3))
      >>> bool(abs(w @ w.T - jax.numpy.eye(3)).max() < 1e-5)
      True

    Reference:
      Saxe, McClelland, Ganguli 2014, "Exact Solutions to the Nonlinear Dynamics of Learning in Deep Linear Neural
      Networks".
    """
    draw = jax.nn.initializers.orthogonal(scale)

    def init(key: Key, shape: tuple[int, ...], dtype: DType = jnp.float32) -> Array:
        # LAPACK has no bfloat16, so jax's own initializer fails in it.
        return draw(key, shape, jnp.promote_types(dtype, jnp.float32)).astype(dtype)

    return init


@_known
def identity(scale: float = 1.0) -> Initializer:
    """Gives the identity matrix times a scale, the recurrent kernel of the IRNN.

    W = scale * I

    Args:
      scale: the value on the diagonal. Below 1 it makes the network forget.

    Returns:
      An initializer for square matrices (H, H).

    Raises:
      ValueError: (from the initializer) the shape is not square.

    Example:
      >>> import jax
      >>> identity(0.5)(jax.random.key(0), (2, 2)).tolist()
      [[0.5, 0.0], [0.0, 0.5]]

    Reference:
      Le, Jaitly, Hinton 2015, "A Simple Way to Initialize Recurrent Networks of Rectified Linear Units".
    """

    def init(key: Key, shape: tuple[int, ...], dtype: DType = jnp.float32) -> Array:
        del key
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(f"identity needs a square matrix, got shape {tuple(shape)}")
        return scale * jnp.eye(shape[0], dtype=dtype)

    return init


@_known
def per_gate(init: Initializer, gates: int) -> Initializer:
    """Draws each gate's block of a kernel separately and concatenates the blocks.

    W = [W_1, ..., W_G], each W_g = init(key_g, (rows, H))

    Args:
      init: the initializer of one block.
      gates: number of blocks, G.

    Returns:
      An initializer for shapes (rows, G * H), or (G * H,) for a bias.

    Raises:
      ValueError: (from the initializer) the last axis is not a multiple of `gates`.

    Example:
      >>> import jax
      >>> per_gate(orthogonal(), 4)(jax.random.key(0), (8, 32)).shape
      (8, 32)
    """

    def init_all(key: Key, shape: tuple[int, ...], dtype: DType = jnp.float32) -> Array:
        block = (*shape[:-1], _block(shape, gates))
        return jnp.concatenate([init(k, block, dtype) for k in jax.random.split(key, gates)], axis=-1)

    return init_all


@_known
def add_to_gate(init: Initializer, value: float, gate: int, gates: int) -> Initializer:
    """Adds a constant to one gate's block of a bias, such as the forget bias of the LSTM.

    b = init(key, (G * H,)), then b[gate * H : (gate + 1) * H] += value

    Args:
      init: the initializer of the whole bias.
      value: the constant; 1 for the usual forget bias.
      gate: index of the gate in the order of the cell.
      gates: number of gates, G.

    Returns:
      An initializer for shapes (G * H,).

    Raises:
      ValueError: (from the initializer) the last axis is not a multiple of `gates`.

    Example:
      >>> import jax
      >>> add_to_gate(zeros, 1.0, gate=1, gates=4)(jax.random.key(0), (8,)).tolist()
      [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]

    Reference:
      Gers, Schmidhuber, Cummins 2000, "Learning to Forget"; Jozefowicz, Zaremba, Sutskever 2015, "An Empirical
      Exploration of Recurrent Network Architectures".
    """

    def init_all(key: Key, shape: tuple[int, ...], dtype: DType = jnp.float32) -> Array:
        size = _block(shape, gates)
        return init(key, shape, dtype).at[..., gate * size : (gate + 1) * size].add(value)

    return init_all


@_known
def chrono(max_steps: float, keep: int | None = 1, write: int | None = 0, gates: int = 4) -> Initializer:
    """Draws biases that give units memory spans from 2 steps to the longest expected dependency.

      a ~ log(Uniform(1, max_steps - 1)),  b_keep = a,  b_write = -a,  all else 0

    It is the whole bias of a cell, forget bias included. The gate that keeps the memory differs from cell to cell:

      ======================  =====================================
      LSTM, ConvLSTM          `chrono(n)`
      LSTM, coupled gates     `chrono(n, keep=0, write=None, gates=3)`
      GRU                     `chrono(n, keep=1, write=None, gates=3)`
      minimal gated unit      `chrono(n, keep=None, write=0, gates=2)`
      ======================  =====================================

    Args:
      max_steps: the longest dependency expected, in steps, more than 2.
      keep: index of the gate that keeps the memory when it is 1: the forget gate of an LSTM, z of the GRU; or None.
      write: index of the gate that writes to the memory when it is 1: the input gate of an LSTM; or None.
      gates: number of gates, G.

    Returns:
      An initializer for shapes (G * H,).

    Raises:
      ValueError: max_steps is not above 2; or (from the initializer) the last axis is not a multiple of `gates`.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.lstm(2, bias_init=seqjax.initializers.chrono(784))
      >>> i, f, g, o = cell.init(jax.random.key(0), 3).bias.reshape(4, 2)
      >>> bool((f > 0).all()), bool((i == -f).all()), float(abs(g).max() + abs(o).max())
      (True, True, 0.0)

    Reference:
      Tallec, Ollivier 2018, "Can Recurrent Neural Networks Warp Time?".
    """
    if not max_steps > 2:
        raise ValueError(f"max_steps must be more than 2, got {max_steps}")

    def init(key: Key, shape: tuple[int, ...], dtype: DType = jnp.float32) -> Array:
        size = _block(shape, gates)
        wide = jnp.promote_types(dtype, jnp.float32)
        amount = jnp.log(jax.random.uniform(key, (*shape[:-1], size), wide, 1, max_steps - 1))
        signs = [(gate == keep) - (gate == write) for gate in range(gates)]
        return jnp.concatenate([sign * amount for sign in signs], axis=-1).astype(dtype)

    return init


def _block(shape, gates):
    """Returns the size of one gate's block, H, in a shape (..., G * H)."""
    if shape[-1] % gates:
        raise ValueError(f"the last axis of shape {tuple(shape)} does not divide into {gates} gates")
    return shape[-1] // gates
