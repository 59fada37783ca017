"""Several networks of one kind with separate weights, trained in parallel and averaged."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from seqjax.typing import Array


class Ensemble(NamedTuple):
    r"""M copies of a module; their parameters are stacked along a first axis.

    .. math:: p(k \mid x) = \frac{1}{M} \sum_m p_m(k \mid x)

    Args:
      module: a Flax module that has parameters only.
      members: M.

    Example:
      >>> ensemble = Ensemble(nn.Dense(3), 2)
      >>> variables = ensemble.init(jax.random.key(0), jnp.ones((4, 5)))
      >>> ensemble.apply(variables, jnp.ones((4, 5))).shape
      (2, 4, 3)

    Reference:
      Hansen and Salamon 1990, "Neural network ensembles".
    """

    module: nn.Module
    members: int

    def init(self, key: Array, *arguments: Any) -> Any:
        """Initialises the variables of all members, each from its own key."""
        return jax.vmap(lambda key: self.module.init(key, *arguments))(jax.random.split(key, self.members))

    def apply(self, variables: Any, *arguments: Any, rngs: dict[str, Array] | None = None, **options: Any) -> Any:
        """Returns the output of each member, (M, ...); all get the same inputs and separate noise."""
        if rngs is None:
            return jax.vmap(lambda variables: self.module.apply(variables, *arguments, **options))(variables)
        split = {name: jax.random.split(key, self.members) for name, key in rngs.items()}
        return jax.vmap(lambda variables, rngs: self.module.apply(variables, *arguments, rngs=rngs, **options))(variables, split)


def mean_log_probabilities(scores: Array) -> Array:
    """Computes the logarithm of the members' mean probabilities.

    Args:
      scores: (M, ..., K), before the softmax.

    Returns:
      (..., K).

    Example:
      >>> shares = jnp.exp(mean_log_probabilities(jnp.log(jnp.array([[0.5, 0.5], [0.9, 0.1]]))))
      >>> [round(float(share), 3) for share in shares]
      [0.7, 0.3]
    """
    return jax.nn.logsumexp(jax.nn.log_softmax(scores), axis=0) - jnp.log(scores.shape[0])
