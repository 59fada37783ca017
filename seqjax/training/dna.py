"""Losses for networks that read DNA, with the reverse strand as augmentation."""

from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from seqjax.data.pipeline.bases import BaseBatch
from seqjax.models.dna import DnaClassifier, DnaTagger
from seqjax.models.ensemble import Ensemble, mean_log_probabilities
from seqjax.models.nucleotides import augment, flip
from seqjax.training.losses import Sums, label_cross_entropy, label_sums
from seqjax.training.train_step import LossFn


def tag_loss(model: DnaTagger, *, carried: bool = False, other_strand: float = 0.0, swap: Sequence[int] = ()) -> LossFn:
    """The negative log-likelihood of the tags in nats, summed over real bases; in evaluation with the count "correct".

    Args:
      model: computes scores, nats and tags.
      carried: whether the carry passes from batch to batch, as with `BaseWindows`; otherwise every sequence starts fresh.
      other_strand: the share of training sequences read from the other strand; not with `carried`.
      swap: the tag that each tag becomes on the other strand; () if tags are the same on both.

    Returns:
      loss(params, model_state, carry, batch, rng) -> (carry, model_state, Sums).

    Example:
      >>> import numpy as np
      >>> from seqjax.models import make_stack
      >>> from seqjax.models.dna import BaseFeatures, DnaReader
      >>> model = DnaTagger(2, DnaReader(BaseFeatures(), make_stack("gru", 4, 1, bidirectional=True)))
      >>> batch = BaseBatch(np.array([[1, 2, 4, 0]]), np.array([[0, 1, 1, 0]]), np.array([3]), np.array([True]))
      >>> params = model.init(jax.random.key(0), batch.codes, batch.lengths)["params"]
      >>> float(tag_loss(model)(params, (), (), batch, None)[2].tokens)
      3.0
    """
    halo = model.reader.features.halo
    if carried and other_strand:
        raise ValueError("other_strand turns whole sequences, and carried ones are read in windows")

    def loss(params, model_state, carry, batch, rng):
        variables, noise = {"params": params}, {} if rng is None else {"train": True, "rngs": {"dropout": rng}}
        if rng is not None and other_strand:
            batch, turned = _augmented(batch, halo, jax.random.fold_in(rng, 1), other_strand)
            there = flip(batch.labels, batch.lengths)
            there = jnp.asarray(tuple(swap))[there] if swap else there
            batch = batch._replace(labels=jnp.where(turned[:, None], there, batch.labels))
        start = (carry, batch.fresh) if carried else ()
        after, scores = model.apply(variables, batch.codes, batch.lengths, *start, **noise)
        nats = jnp.sum(cast(jax.Array, model.apply(variables, scores, batch.labels, batch.lengths, method="nats")))
        counts = {}
        if rng is None:  # decoding in every training step would be too expensive
            found = model.apply(variables, scores, batch.lengths, method="decode")
            real = jnp.arange(batch.labels.shape[1])[None, :] < batch.lengths[:, None]
            counts = {"correct": jnp.sum((found == batch.labels) & real, dtype=jnp.float32)}
        return after if carried else carry, model_state, Sums(nats, jnp.sum(batch.lengths).astype(jnp.float32), counts)

    return loss


def class_loss(
    model: DnaClassifier | Ensemble, classes: int, halo: int, *, other_strand: float = 0.0, label_smoothing: float = 0.0
) -> LossFn:
    """The cross-entropy of the labels, summed over real sequences, with the count "correct".

    Args:
      model: for an Ensemble, the training loss is the mean over its members, and the evaluation loss that of their mean probabilities.
      classes: K.
      halo: the halo of the model's features.
      other_strand: the share of training sequences read from the other strand.
      label_smoothing: the share of the target spread over all classes in training.

    Returns:
      As `tag_loss`.

    Example:
      >>> import numpy as np
      >>> from seqjax.models import make_stack
      >>> from seqjax.models.dna import BaseFeatures, DnaReader
      >>> model = DnaClassifier(2, DnaReader(BaseFeatures(), make_stack("gru", 4, 1, bidirectional=True)))
      >>> batch = BaseBatch(np.array([[1, 2], [0, 0]]), np.array([1, 0]), np.array([2, 0]), np.array([True, True]))
      >>> params = model.init(jax.random.key(0), batch.codes, batch.lengths)["params"]
      >>> float(class_loss(model, 2, 0)(params, (), (), batch, None)[2].tokens)  # a row of length 0 is padding
      1.0
    """

    def loss(params, model_state, carry, batch, rng):
        noise: dict[str, Any] = {} if rng is None else {"train": True, "rngs": {"dropout": rng}}
        targets, real = jax.nn.one_hot(batch.labels, classes), batch.lengths > 0
        if rng is not None:
            targets = optax.smooth_labels(targets, label_smoothing)
            if other_strand:
                batch, _ = _augmented(batch, halo, jax.random.fold_in(rng, 1), other_strand)
        scores = cast(jax.Array, model.apply({"params": params}, batch.codes, batch.lengths, **noise))
        if not isinstance(model, Ensemble):
            return carry, model_state, label_sums(scores, targets, batch.labels, real)
        found = label_sums(mean_log_probabilities(scores), targets, batch.labels, real)
        if noise:
            found = found._replace(loss=jnp.mean(jax.vmap(lambda own: label_cross_entropy(own, targets, real))(scores)))
        return carry, model_state, found

    return loss


def _augmented(batch: BaseBatch, halo: int, rng: Any, rate: float) -> tuple[Any, jax.Array]:
    """A batch with some sequences read from the other strand, and a mask of them."""
    inner = batch.codes[:, halo : batch.codes.shape[1] - halo]
    codes, turned = augment(rng, inner, batch.lengths, rate)
    return batch._replace(codes=jnp.pad(codes, ((0, 0), (halo, halo)))), turned
