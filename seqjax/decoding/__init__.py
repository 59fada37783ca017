"""Sampling sequences from a model, searching for the likeliest ones, and scoring given sequences."""

from seqjax.decoding.beam import Beams, beam_search
from seqjax.decoding.decoder import DecoderStep, draw, force, greedy, score_outputs
from seqjax.decoding.sampling import Samples, filter_logits, sample
from seqjax.decoding.scoring import Score, apply_from_step, rank, score, sequence_log_probs

__all__ = [
    "Beams", "DecoderStep", "Samples", "Score", "apply_from_step", "beam_search", "draw", "filter_logits", "force", "greedy",
    "rank", "sample", "score", "score_outputs", "sequence_log_probs",
]  # fmt: skip
