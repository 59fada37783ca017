"""Sequences that are (nearly) the same: in two parts of the data they would leak test answers into training."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from seqjax.models.nucleotides import BASES, COMPLEMENT, SINGLE, windows_of

KMER = 12  # bases of the k-mers that two sequences are compared by
SHARED = 0.5  # near-duplicates share this fraction of the k-mers of the one with fewer
COMMON = 100  # sequences with a k-mer; a k-mer of more, such as a run of A, tells nothing
ROWS = 1024  # rows compared at once


def near_duplicates(codes: Sequence[np.ndarray], identity: float) -> np.ndarray:
    r"""Groups of sequences that are nearly the same.

    Two sequences are near-duplicates where

    - they have the same length, and at least a share `identity` of their bases agree position by position; or
    - at least half of the 12-mers of the one with fewer are in the other, on either strand: the same stretch, perhaps shifted, cut or
    reverse-complemented.

    Groups are transitive: if a is like b and b like c, all three form one group. The first rule compares all pairs, so the work grows with
    the square of their number.

    Args:
      codes: the bases of each sequence, uint8 (T,).
      identity: share of equal bases, in (0, 1].

    Returns:
      int64 (N,), the group of each sequence: the index of the group's first member.

    Example:
      >>> from seqjax.models.nucleotides import encode
      >>> near_duplicates([encode("ACGTACGTAC"), encode("GGGGGGGGGG"), encode("ACGTACGTAA")], 0.9).tolist()
      [0, 1, 0]
    """
    import scipy.sparse
    from scipy.sparse.csgraph import connected_components

    pairs = [*_by_place(codes, identity), _by_kmers(codes)]
    ends = np.concatenate([np.zeros((0, 2), np.int64), *pairs])
    graph = scipy.sparse.coo_matrix((np.ones(len(ends), bool), (ends[:, 0], ends[:, 1])), (len(codes), len(codes)))
    _, group = connected_components(graph, directed=False)
    first = np.full(group.max(initial=-1) + 1, len(codes))
    np.minimum.at(first, group, np.arange(len(codes)))
    return first[group]


def _by_place(codes: Any, identity: float):
    """Pairs of equal length with most bases equal at the same positions; an ambiguous base equals none."""
    lengths = np.array([len(sequence) for sequence in codes])
    for length in np.unique(lengths):
        members = np.flatnonzero(lengths == length)
        places = SINGLE[np.stack([codes[i] for i in members])]
        bits = (places[:, :, None] == np.arange(len(BASES))).reshape(len(members), -1).astype(np.float32)
        for begin in range(0, len(members), ROWS):
            same = bits[begin : begin + ROWS] @ bits.T >= identity * length - 1e-6
            found = np.argwhere(same)
            yield members[found + [begin, 0]]


def _by_kmers(codes: Sequence[np.ndarray]) -> np.ndarray:
    """Pairs that share most of the k-mers of one of them."""
    sets = [np.unique(np.minimum(*_both(sequence))) for sequence in codes]
    sets = [found[found >= 0] for found in sets]
    owner = np.repeat(np.arange(len(sets)), [len(found) for found in sets])
    kmers = np.concatenate([np.zeros(0, np.int64), *sets])
    order = np.argsort(kmers, kind="stable")
    kmers, owner = kmers[order], owner[order]
    edges = np.flatnonzero(np.diff(kmers, prepend=-1, append=-1))
    counts: dict[tuple[int, int], int] = {}
    for low, high in zip(edges[:-1], edges[1:]):
        for i in range(low, high if 1 < high - low <= COMMON else low):
            for j in range(i + 1, high):
                pair = int(owner[i]), int(owner[j])
                counts[pair] = counts.get(pair, 0) + 1
    near = [pair for pair, count in counts.items() if count >= SHARED * min(len(sets[pair[0]]), len(sets[pair[1]]))]
    return np.array(near, np.int64).reshape(-1, 2)


def _both(sequence: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The code of each k-mer, and of its reverse complement."""
    return windows_of(sequence, KMER), windows_of(COMPLEMENT[sequence[::-1]], KMER)[::-1]
