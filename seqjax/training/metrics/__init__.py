"""Metrics, each as `init, update, compute`, and functions that score a whole dataset in one call."""

from seqjax.training.metrics.captions import caption_scores, cider_d
from seqjax.training.metrics.counted import accuracy, token_loss
from seqjax.training.metrics.frames import frame_loss, frame_sums
from seqjax.training.metrics.intervals import accuracy_interval
from seqjax.training.metrics.metric import Metric
from seqjax.training.metrics.spans import EntityScores, TypeScores, entities, entity_f1
from seqjax.training.metrics.texts import Bleu, bleu, corpus_bleu, exact, exact_match

__all__ = [
    "Bleu", "EntityScores", "Metric", "TypeScores", "accuracy", "accuracy_interval", "bleu", "caption_scores", "cider_d",
    "corpus_bleu", "entities", "entity_f1", "exact", "exact_match", "frame_loss", "frame_sums", "token_loss",
]  # fmt: skip
