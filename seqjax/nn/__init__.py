"""Network parts around the cells: recurrent layers for Flax linen (for NNX, `seqjax.nn.nnx`), attention, pooling, the CRF."""

from seqjax.nn.attention import Attention, Memory, attend, bahdanau, luong, make_memory, scaled_dot
from seqjax.nn.crf import (
    CRFParams,
    crf_decode,
    crf_decode_nbest,
    crf_init,
    crf_log_likelihood,
    crf_log_partition,
    crf_marginals,
    crf_score,
    forbid,
)
from seqjax.nn.crf_constraints import Constraints, entity_constraints
from seqjax.nn.pooling import PoolParams, attention_pooling, pool, pool_init
from seqjax.nn.recurrent import Recurrent

__all__ = [
    "Attention", "CRFParams", "Constraints", "Memory", "PoolParams", "Recurrent", "attend", "attention_pooling", "bahdanau",
    "crf_decode", "crf_decode_nbest", "crf_init", "crf_log_likelihood", "crf_log_partition", "crf_marginals", "crf_score",
    "entity_constraints", "forbid", "luong", "make_memory", "pool", "pool_init", "scaled_dot",
]  # fmt: skip
