"""Endless generated batches: each is a pure function of (seed, number, row)."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.data.checks import check_whole
from seqjax.data.pipeline.resumable import Resumable


class Generated(Resumable):
    """An endless iterator over generated batches that never repeat; it can be stopped and resumed exactly.

    An "epoch" is a fixed number of batches, for settings counted in epochs; the next one has new examples.

    Args:
      draw: draw(keys (B,)) -> a batch, row i of which depends on key i alone. It is compiled.
      batch_size: B.
      batches_per_epoch: the length of an epoch.
      seed: determines all examples; at least 0.

    Raises:
      UserError: invalid sizes.

    Example:
      >>> batches = Generated(jax.vmap(jax.random.uniform), 4, 10, seed=0)
      >>> first, second = next(batches), next(batches)
      >>> first.shape, bool((first == second).any()), batches.get_state()
      ((4,), False, {'epoch': 0, 'batch': 2})
      >>> parts = [Generated(jax.vmap(jax.random.uniform), 4, 10, seed=0).shard(index, 2) for index in (0, 1)]
      >>> [float(value) for part in parts for value in next(part)] == first.tolist()
      True
    """

    _needed = "seed and batch_size"

    def __init__(self, draw: Callable[[jax.Array], Any], batch_size: int, batches_per_epoch: int, *, seed: int):
        check_whole(1, batch_size=batch_size, batches_per_epoch=batches_per_epoch)
        check_whole(0, seed=seed)
        self.batches_per_epoch, self._batch_size, self._seed = int(batches_per_epoch), int(batch_size), int(seed)
        self._draw = jax.jit(lambda key, number, rows: draw(jax.vmap(lambda row: jax.random.fold_in(key, row))(number * batch_size + rows)))
        self._take_rows(slice(0, self._batch_size))

    def _at(self, epoch: int, batch: int) -> Any:
        key = jax.random.fold_in(jax.random.key(self._seed), epoch)
        return self._draw(key, jnp.uint32(batch), jnp.arange(self._rows.start, self._rows.stop, dtype=jnp.uint32))

    def first(self, number: int, *, index: int = 0, count: int = 1) -> Iterator[Any]:
        """The first `number` batches of the first epoch, restricted to one process's rows.

        Example:
          >>> len(list(Generated(jax.vmap(jax.random.uniform), 4, 10, seed=0).first(3)))
          3
        """
        part = self if count == 1 else self.shard(index, count)
        return (part._at(0, batch) for batch in range(number))
