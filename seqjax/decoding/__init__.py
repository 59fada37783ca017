"""Drawing sequences from a model, and asking a model how likely a sequence is."""

from seqjax.decoding.sampling import Samples, filter_logits, sample
from seqjax.decoding.scoring import Score, apply_from_step, rank, score, sequence_log_probs

__all__ = ["Samples", "Score", "apply_from_step", "filter_logits", "rank", "sample", "score", "sequence_log_probs"]
