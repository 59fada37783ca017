"""What several processes read of an experiment's batches, together, is what one process reads: in training and evaluation."""

import itertools

import jax
import numpy as np
import pytest
from table import ROWS, sources

from seqjax.run import settings


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("training", [True, False])
def test_the_batches_of_an_experiment_can_be_shared(name, training, runs):
    row = ROWS[name]
    changes = sources(row, runs.data(row)) | row.settings(runs.data(row)) | {"data.batch_size": 12, "data.eval_batch_size": 12}
    config = settings.build(row.experiment.fields, changes)
    dataset = row.experiment.load(config)
    spec = row.experiment.prepare(config, dataset)
    part = dataset.parts["train" if training else "validation"]
    whole = row.experiment.batches(config, spec, part, training=training)
    steps = 2 * whole.batches_per_epoch if training else 10**6
    for count in (2, 3):
        fresh = row.experiment.batches(config, spec, part, training=training)
        shards = [list(itertools.islice(fresh.shard(index, count), steps)) for index in range(count)]
        one = list(itertools.islice(row.experiment.batches(config, spec, part, training=training), steps))
        assert one and {len(shard) for shard in shards} == {len(one)}
        for batch, *parts in zip(one, *shards, strict=True):
            joined = jax.tree.map(lambda *columns: np.concatenate(columns), *parts)
            assert jax.tree.all(jax.tree.map(np.array_equal, joined, batch))
