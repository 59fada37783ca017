"""A marker on the inputs of an engine without forward mode: free otherwise, it raises our message in forward mode.

JAX reports that a `jax.custom_vjp` has no forward mode, but not what does, and reports it when a program is compiled,
which under `jax.jit` is outside seqjax. The marker is an identity primitive. Its tangent is a second primitive, which
is never computed: reverse mode transposes it away, and forward mode, which would compute it, raises.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from seqjax.errors import UserError

mark_p, tangent_p = Primitive("seqjax_reverse_only"), Primitive("seqjax_reverse_only_tangent")


def reverse_only(tree: Any, cell: str, engine: str) -> Any:
    """Returns the pytree, marked. Forward mode through it raises a UserError that names the cell and the engine.

    Example:
      >>> jax.grad(lambda x: 2 * reverse_only(x, "lstm", "fused"))(1.0).item()
      2.0
    """

    def mark(a):
        return mark_p.bind(a, cell=cell, engine=engine) if jnp.issubdtype(a.dtype, jnp.inexact) else a

    return jax.tree.map(lambda a: mark(jnp.asarray(a)), tree)


def _refuse(*args, cell, engine):
    raise UserError(f'forward-mode differentiation (jax.jvp, jax.jacfwd, jax.hessian) of {cell} needs engine="scan", got engine={engine!r}')


mark_p.def_impl(lambda a, **names: a)
tangent_p.def_impl(_refuse)
ad.primitive_jvps[mark_p] = lambda primals, tangents, **names: (mark_p.bind(*primals, **names), tangent_p.bind(*tangents, **names))
ad.primitive_jvps[tangent_p] = lambda primals, tangents, **names: (tangent_p.bind(*primals, **names), tangent_p.bind(*tangents, **names))
ad.primitive_transposes[tangent_p] = lambda cotangent, a, **names: [cotangent]
mlir.register_lowering(mark_p, lambda context, a, **names: [a])
mlir.register_lowering(tangent_p, _refuse)
batching.primitive_batchers[mark_p] = lambda args, axes, **names: (mark_p.bind(*args, **names), axes[0])
batching.primitive_batchers[tangent_p] = _refuse  # only forward mode maps tangents
for primitive in (mark_p, tangent_p):
    primitive.def_abstract_eval(lambda a, **names: a)
