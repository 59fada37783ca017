"""The sLSTM: an LSTM with exponential gates, a normaliser, and recurrent weights in heads."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqjax.cells import parts
from seqjax.cells._dense import dense_cell
from seqjax.typing import Array, Cell, DType, Initializer, MaybeArray, factory

GATES = "ifzo"  # side by side in this order: input, forget, candidate, output
LOG_FORGET = {"exp": lambda f: f, "sigmoid": jax.nn.log_sigmoid}  # the logarithm of the forget gate


class SLSTMParams(NamedTuple):
    """Parameters of the sLSTM; the gates lie side by side in the order i, f, z, o."""

    kernel: Array  # input weights, (D, 4H)
    recurrent_kernel: Array  # (heads, H / heads, 4 H / heads), the gates of a head side by side; (H, 4H) for one head
    bias: MaybeArray  # (4H,)


class SLSTMCarry(NamedTuple):
    """Carry of the sLSTM; c, n and m are never narrower than float32."""

    c: Array  # the memory, times exp(-m), (B, H)
    n: Array  # the normaliser, the sum of the weights in c, times exp(-m), (B, H); 0 while c is empty
    m: Array  # the stabiliser, the logarithm of the largest of these weights, (B, H)
    h: Array  # the last output, (B, H)


@factory
def slstm(
    hidden_size: int,
    heads: int = 1,
    *,
    forget_gate: str = "exp",
    use_bias: bool = True,
    kernel_init: Initializer | None = None,
    recurrent_init: Initializer | None = None,
    bias_init: Initializer | None = None,
    dtype: DType | None = None,
    param_dtype: DType = jnp.float32,
) -> Cell[SLSTMParams, SLSTMCarry]:
    """The sLSTM of the xLSTM: its output is a weighted mean of candidates, with weights that can grow exponentially.

      i, f, z, o = x W + b + h U,  with U block-diagonal, one block a head
      c' = exp(f) c + exp(i) tanh(z),  n' = exp(f) n + exp(i)
      h' = sigmoid(o) c' / n',  y = h'

      forget_gate="sigmoid":  sigmoid(f) for exp(f)

    To keep the exponentials from overflowing, an equivalent form is computed: c and n are stored times exp(-m), with

      m' = max(log F + m, i), or i where n is 0,  log F = f or log sigmoid(f)
      c' = exp(log F + m - m') c + exp(i - m') tanh(z),  n' likewise

    The initial carry is zeros. An n of 0 marks an empty memory, and m is then not read: reading an m of 0 would let
    exp(i - m') underflow at a small first i, and n' would be 0. After the first step n is at least 1. For carries with
    an n that the cell itself cannot produce (learned, or drawn at random), the divisor is at least 1/2.

    With zero bias and exp the cell starts near a running mean of all candidates so far. `zoneout` needs memory_rate=0
    here, since an old c is scaled by an old m.

    Args:
      hidden_size: number of hidden units, H.
      heads: number of blocks of U; a unit sees only the last output of its own head. It must divide hidden_size.
      forget_gate: "exp" or "sigmoid".
      use_bias: whether to add a bias; if False, it is None in the parameters.
      kernel_init: initializer of one gate of W, (D, H). Glorot uniform by default.
      recurrent_init: initializer of one gate and head of U, (H / heads, H / heads). Orthogonal by default.
      bias_init: initializer of b (4H,). Zeros by default; `initializers.add_to_gate(initializers.zeros, 3.0, gate=1, gates=4)`
        is a forget bias, which forget_gate="sigmoid" usually needs for long memory.
      dtype: dtype to compute the products in, and of h and y. That of the parameters by default.
      param_dtype: dtype of the parameters.

    Returns:
      A Cell with SLSTMParams and SLSTMCarry.

    Raises:
      ValueError: hidden_size or heads is below 1, or forget_gate is unknown.
      UserError: heads does not divide hidden_size, or bias_init is given without a bias.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.slstm(hidden_size=16, heads=4)
      >>> params = cell.init(jax.random.key(0), 4)
      >>> carry, ys = seqjax.unroll(cell, params, jax.numpy.ones((2, 5, 4)))
      >>> ys.shape, carry.n.shape, params.recurrent_kernel.shape
      ((2, 5, 16), (2, 16), (4, 4, 16))

    Reference:
      Beck et al. 2024, "xLSTM: Extended Long Short-Term Memory" (arXiv:2405.04517), section 2.2 and appendix A.
    """
    if forget_gate not in LOG_FORGET:
        raise ValueError(f"forget_gate must be one of {list(LOG_FORGET)}, got {forget_gate!r}")
    log_forget = LOG_FORGET[forget_gate]

    def combine(params, carry, gates):
        i, f, z, o = gates
        kept = log_forget(f) + carry.m
        m = jnp.where(carry.n == 0, i, jnp.maximum(kept, i))
        keep, write = jnp.exp(jnp.minimum(kept - m, 0)), jnp.exp(i - m)  # kept is above m only where the memory is empty
        c = keep * carry.c + write * jnp.tanh(z)
        n = keep * carry.n + write
        return SLSTMCarry(c=c, n=n, m=m, h=parts.sigmoid(o) * c / jnp.maximum(n, 0.5))

    return dense_cell(
        "slstm",
        hidden_size,
        SLSTMCarry,
        combine,
        gates=len(GATES),
        params=SLSTMParams,
        memory=("c", "n", "m"),
        heads=heads,
        use_bias=use_bias,
        kernel_init=kernel_init,
        recurrent_init=recurrent_init,
        bias_init=bias_init,
        settings=(("forget_gate", forget_gate),),
        dtype=dtype,
        param_dtype=param_dtype,
    )
