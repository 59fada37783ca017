"""The decoder's recurrence, as pure functions over time-major arrays: cells, attention and feedback."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import seqjax
from seqjax import initializers
from seqjax.nn.attention import Attention, Memory, attend
from seqjax.typing import Array, Carry, Cell, Key, MaybeArray, Params


class DecoderParams(NamedTuple):
    """Parameters of the recurrence."""

    layers: tuple[Params, ...]  # of the cells, from the bottom up
    attention: Params  # () without attention
    combine: MaybeArray  # W of o_t = tanh(W [c_t; s_t] + b), (M + H, O); None without attention
    combine_bias: MaybeArray  # b, (O,)


class DecoderCarry(NamedTuple):
    """The decoder's carry from one token to the next."""

    cells: tuple[Carry, ...]  # of the layers
    fed: Array  # s_{t-1} for Bahdanau's query, o_{t-1} for input feeding, else (B, 0)


def init_decoder(
    key: Key,
    layers: tuple[Cell, ...],
    attention: Attention | None,
    feeds: str,
    embed_size: int,
    memory_size: int,
    out_size: int,
) -> DecoderParams:
    """Initialises the parameters of the recurrence.

    Args:
      key: a random key.
      layers: the cells.
      attention: an Attention, or None.
      feeds: the input of a step besides the embedding: "nothing", "context" (M) or "output" (O).
      embed_size: E.
      memory_size: M.
      out_size: O.

    Example:
      >>> params = init_decoder(jax.random.key(0), (seqjax.gru(8),), None, "nothing", 4, 6, 8)
      >>> params.layers[0].kernel.shape
      (4, 24)
    """
    keys = jax.random.split(key, len(layers) + 2)
    fed = {"nothing": 0, "context": memory_size, "output": out_size}[feeds]
    sizes = [embed_size + fed, *(layer.hidden_size for layer in layers)]
    params = tuple(layer.init(k, size) for layer, k, size in zip(layers, keys, sizes))
    if attention is None:
        return DecoderParams(params, (), None, None)
    query_size = layers[-1].hidden_size
    combine = initializers.glorot_uniform()(keys[-1], (memory_size + query_size, out_size))
    return DecoderParams(params, attention.init(keys[-2], query_size, memory_size), combine, jnp.zeros(out_size))


def combine(params: DecoderParams, context: Array, states: Array) -> Array:
    """Computes o = tanh(W [c; s] + b), for (..., M) and (..., H).

    Example:
      >>> params = DecoderParams((), (), jnp.ones((3, 2)), jnp.zeros(2))
      >>> combine(params, jnp.zeros((1, 2)), jnp.zeros((1, 1))).tolist()
      [[0.0, 0.0]]
    """
    both = jnp.concatenate([context, states.astype(context.dtype)], axis=-1)
    sums = both @ params.combine.astype(both.dtype)
    return jnp.tanh(sums + params.combine_bias.astype(sums.dtype).reshape((1,) * (sums.ndim - 1) + (-1,)))


def decode_whole(
    layers: tuple[Cell, ...], attention: Attention | Any, feeds: str, params: DecoderParams, memory: Memory | Any,
    carry: DecoderCarry, xs: Array, masks: tuple[Array, ...],
) -> tuple[DecoderCarry, tuple[Array, Array | None]]:  # fmt: skip
    """Runs all steps of a layer at once, if nothing is fed back.

    Args and returns as for `decode_steps`.

    Example:
      >>> layers = (seqjax.gru(3),)
      >>> params = init_decoder(jax.random.key(0), layers, None, "nothing", 4, 2, 3)
      >>> carry = DecoderCarry((layers[0].initial_carry(params.layers[0], 1),), jnp.zeros((1, 0)))
      >>> _, (outputs, _) = decode_whole(layers, None, "nothing", params, None, carry, jnp.ones((5, 1, 4)), ())
      >>> _, (same, _) = decode_steps(layers, None, "nothing", params, None, carry, jnp.ones((5, 1, 4)), ())
      >>> outputs.shape, bool(jnp.allclose(outputs, same, atol=1e-6))
      ((5, 1, 3), True)
    """
    del feeds
    cells = []
    for depth, (layer, layer_params, start) in enumerate(zip(layers, params.layers, carry.cells)):
        after, xs = seqjax.unroll(layer, layer_params, xs, start, time_major=True)
        cells.append(after)
        xs = xs * masks[depth].astype(xs.dtype)[None] if depth < len(masks) else xs
    carry = DecoderCarry(tuple(cells), carry.fed)
    if attention is None:
        return carry, (xs, None)
    context, weights = attend(attention, params.attention, xs.swapaxes(0, 1), memory)
    return carry, (combine(params, context.swapaxes(0, 1), xs), weights.swapaxes(0, 1))


def decode_steps(
    layers: tuple[Cell, ...], attention: Attention | Any, feeds: str, params: DecoderParams, memory: Memory | Any,
    carry: DecoderCarry, xs: Array, masks: tuple[Array, ...],
) -> tuple[DecoderCarry, tuple[Array, Array | None]]:  # fmt: skip
    """Runs the steps in turn.

    Args:
      layers, attention, feeds, params: as in `init_decoder`.
      memory: from make_memory; None without attention.
      carry: the carry to start from.
      xs: (T, B, E), embedded tokens.
      masks: factors (B, H) on the outputs of the layers below the top one, shared by all steps; () for none.

    Returns:
      The carry after the last step, and (o (T, B, O), weights (T, B, S) or None).

    Example:
      >>> from seqjax.nn.attention import luong, make_memory
      >>> layers, attention = (seqjax.gru(3),), luong("general")
      >>> params = init_decoder(jax.random.key(0), layers, attention, "output", 4, 2, 3)
      >>> memory = make_memory(attention, params.attention, jnp.ones((1, 6, 2)))
      >>> carry = DecoderCarry((layers[0].initial_carry(params.layers[0], 1),), jnp.zeros((1, 3)))
      >>> carry, (outputs, weights) = decode_steps(layers, attention, "output", params, memory, carry, jnp.ones((5, 1, 4)), ())
      >>> outputs.shape, weights.shape
      ((5, 1, 3), (5, 1, 6))
    """

    def body(carry: DecoderCarry, x: Array) -> tuple[DecoderCarry, Any]:
        context = weights = None
        if feeds == "context":
            context, weights = attend(attention, params.attention, carry.fed, memory)
            x = jnp.concatenate([x, context.astype(x.dtype)], axis=-1)
        elif feeds == "output":
            x = jnp.concatenate([x, carry.fed], axis=-1)
        cells = []
        for depth, (layer, layer_params, start) in enumerate(zip(layers, params.layers, carry.cells)):
            after, x = layer.step(layer_params, start, x)
            cells.append(after)
            x = x * masks[depth].astype(x.dtype) if depth < len(masks) else x
        if attention is None:
            return DecoderCarry(tuple(cells), carry.fed), (x, None)
        if context is None:
            context, weights = attend(attention, params.attention, x, memory)
        output = combine(params, context, x)
        fed = {"nothing": carry.fed, "context": x, "output": output}[feeds]
        return DecoderCarry(tuple(cells), fed.astype(carry.fed.dtype)), (output, weights)

    return jax.lax.scan(body, carry, xs)
