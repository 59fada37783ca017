"""The base of endless pipelines: counts epochs and batches, can be stopped and resumed, and can be sharded."""

import copy
from typing import Any, Self

from seqjax.data.checks import is_whole, shard_rows
from seqjax.errors import UserError


class Resumable:
    """An endless iterator over batches, epoch after epoch, that can be stopped and resumed exactly.

    A subclass sets `batches_per_epoch`, calls `_take_rows` with all rows of a batch, and makes the batches in `_at`.
    """

    batches_per_epoch: int
    _unit = "batch"  # the name of a batch in a state
    _needed = "data and batch_size"  # these must be the same to resume a saved state
    _epoch = _batch = 0  # of the next batch

    def _at(self, epoch: int, batch: int) -> Any:
        """The rows `self._rows` of a batch; if it raises, the position stays."""
        raise NotImplementedError

    def _take_rows(self, rows: slice) -> None:
        """Restricts each batch to these rows; also called on copies, which must drop state shared with the original."""
        self._rows = rows

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        batch = self._at(self._epoch, self._batch)
        self._batch += 1
        if self._batch == self.batches_per_epoch:
            self._epoch, self._batch = self._epoch + 1, 0
        return batch

    def shard(self, index: int, count: int) -> Self:
        """The same batches with only a share of the rows, for one of several processes.

        The shards' batches, concatenated, are the whole batches. The state is that of the whole: a shard's state may be set on the whole
        pipeline, or on a shard of a different number of shards.

        Args:
          index: the shard's index, from 0.
          count: the number of shards; it must divide the batch size.

        Returns:
          A separate iterator in the same state, with rows index B / count up to (index + 1) B / count.

        Raises:
          UserError: the rows cannot be shared evenly, or there is no such shard.

        Example:
          >>> from seqjax.data.pipeline.buckets import BucketBatches
          >>> batches = BucketBatches([3, 3, 3], lambda places, rows, steps: (places.tolist(), rows), 2, (3,), seed=0)
          >>> shards = [batches.shard(index, 2) for index in (0, 1)]
          >>> list(zip(range(2), batches, *shards))
          [(0, ([0], 2), ([0], 1), ([], 1)), (1, ([2, 1], 2), ([2], 1), ([1], 1))]
        """
        shard = copy.copy(self)
        shard._take_rows(shard_rows(self._rows, index, count))
        return shard

    def get_state(self) -> dict[str, int]:
        """The state before the next batch, small and JSON-serialisable: `{"epoch": e, "batch": b}`; in `Windows`, "window" instead of
        "batch".

        Example:
          >>> from seqjax.data.pipeline.buckets import BucketBatches
          >>> BucketBatches([3], lambda *shape: shape, 1, (3,), seed=0).get_state()
          {'epoch': 0, 'batch': 0}
        """
        return {"epoch": self._epoch, self._unit: self._batch}

    def set_state(self, state: dict[str, int]) -> None:
        """Restores a state from `get_state` of any shard; iteration continues at its next batch.

        Args:
          state: as returned by `get_state`, with e >= 0 and 0 <= b < batches_per_epoch.

        Raises:
          UserError: anything else, such as the state of other data or with another batch size.

        Example:
          >>> from seqjax.data.pipeline.buckets import BucketBatches
          >>> batches = BucketBatches([3, 3], lambda *shape: shape, 1, (3,), seed=0)
          >>> batches.set_state({"epoch": 4, "batch": 1})
          >>> _ = next(batches)
          >>> batches.get_state()
          {'epoch': 5, 'batch': 0}
        """
        unit = self._unit
        if not isinstance(state, dict) or set(state) != {"epoch", unit}:
            raise UserError(f"{state!r} is not an iterator state; give what get_state gave, epoch and {unit}")
        epoch, batch = state["epoch"], state[unit]
        if not (is_whole(epoch) and is_whole(batch)) or epoch < 0 or batch < 0:
            raise UserError(f"{state!r} is not an iterator state; both must be whole numbers of at least 0")
        if batch >= self.batches_per_epoch:
            raise UserError(
                f"the saved state is of {unit} {batch}, but an epoch has {self.batches_per_epoch}; "
                f"resume with the {self._needed} of the run that saved it"
            )
        self._epoch, self._batch = int(epoch), int(batch)
