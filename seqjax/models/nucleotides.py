"""The alphabet of DNA: IUPAC codes as sets of bases, the complement, and the features that networks read.

A code is a set of bases, held as four bits: A is 1, C is 2, G is 4, T is 8, and N, any of them, is 15. So the complement
reverses the four bits, and the bits of a code show which bases it can be. 0 is padding.
"""

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.typing import AnyArray, Array

BASES = "ACGT"
LETTERS = "-ACMGRSVTWYHKDBN"  # the letter of each code; that of 0 stands for padding
ANY = 15  # N
COMPLEMENT = np.array([int(f"{code:04b}"[::-1], 2) for code in range(16)], np.uint8)
SHARES = np.array([[code >> base & 1 for base in range(4)] for code in range(16)], np.float32)
SHARES[1:] /= SHARES[1:].sum(axis=1, keepdims=True)
SINGLE = np.array([-1, 0, 1, -1, 2, -1, -1, -1, 3, -1, -1, -1, -1, -1, -1, -1], np.int32)  # the index in BASES of a single base

_CODES = np.zeros(256, np.uint8)
for _code, _letter in enumerate(LETTERS[1:], 1):
    _CODES[[ord(_letter), ord(_letter.lower())]] = _code
_CODES[[ord("U"), ord("u")]] = _CODES[ord("T")]  # RNA
_LETTERS = np.frombuffer(LETTERS.encode(), np.uint8)


def encode(sequence: str | bytes) -> np.ndarray:
    """Converts a sequence to codes; U counts as T, and case is ignored.

    Args:
      sequence: IUPAC letters.

    Returns:
      uint8 (T,); 0 for a letter that does not stand for a base.

    Example:
      >>> encode("ACGTUn-").tolist()
      [1, 2, 4, 8, 8, 15, 0]
    """
    data = sequence.encode("latin1", "replace") if isinstance(sequence, str) else sequence
    return _CODES[np.frombuffer(data, np.uint8)]


def decode(codes: np.ndarray) -> str:
    """Converts codes to letters, in upper case.

    Example:
      >>> decode(encode("acgun"))
      'ACGTN'
    """
    return _LETTERS[np.asarray(codes, np.uint8)].tobytes().decode()


def reverse_complement(sequence: str) -> str:
    """Returns the other strand, read in its own direction; case is kept.

    Example:
      >>> reverse_complement("AACgR")
      'YcGTT'
    """
    return sequence[::-1].translate(_OTHER)


_OTHER = str.maketrans(
    {
        letter: other
        for code, upper in enumerate(LETTERS)
        for letter, other in ((upper, LETTERS[COMPLEMENT[code]]), (upper.lower(), LETTERS[COMPLEMENT[code]].lower()))
    }
    | {"U": "A", "u": "a"}
)


def flip(values: Array, lengths: Array) -> Array:
    """Reverses the real steps of each row; padding stays at the end.

    Args:
      values: (B, T, ...).
      lengths: int (B,), how many steps of each row are real.

    Example:
      >>> flip(jnp.array([[1, 2, 3], [4, 5, 0]]), jnp.array([3, 2])).tolist()
      [[3, 2, 1], [5, 4, 0]]
    """
    steps = jnp.arange(values.shape[1])[None, :]
    index = jnp.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
    return jnp.take_along_axis(values, index.reshape(index.shape + (1,) * (values.ndim - 2)), axis=1)


def other_strand(codes: Array, lengths: Array) -> Array:
    """Computes the reverse complement of padded rows of codes.

    Args:
      codes: int (B, T).
      lengths: int (B,).

    Example:
      >>> rows = other_strand(jnp.array([[1, 1, 2], [4, 15, 0]]), jnp.array([3, 2]))  # AAC and GN
      >>> [decode(row) for row in np.asarray(rows)]
      ['GTT', 'NC-']
    """
    return flip(jnp.asarray(COMPLEMENT.astype(np.int32))[codes], lengths)


def one_hot(codes: Array, dtype: jnp.dtype = jnp.float32) -> Array:
    """Encodes the four bases as features: 1 for a base, equal shares for the bases of an ambiguous code, 0 for padding.

    Args:
      codes: int (...,).
      dtype: dtype of the features.

    Returns:
      (..., 4).

    Example:
      >>> one_hot(jnp.array([1, 5, 0])).tolist()  # A, A or G, padding
      [[1.0, 0.0, 0.0, 0.0], [0.5, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]]
    """
    return jnp.asarray(SHARES, dtype)[codes]


def kmer_ids(codes: Array, k: int) -> Array:
    r"""Computes the id of each k-mer, for an embedding.

    .. math:: \mathrm{id}_t = 1 + \sum_{j=0}^{k-1} 4^{k-1-j} b_{t+j}

    Args:
      codes: int (B, T + k - 1).
      k: the length of a k-mer.

    Returns:
      int32 (B, T), in [1, 4^k]; 0 where the k-mer has an ambiguous base or padding.

    Example:
      >>> kmer_ids(jnp.array([[1, 1, 2, 15]]), 3).tolist()  # AAC, ACN
      [[2, 0]]
    """
    bases, steps = jnp.asarray(SINGLE)[codes], codes.shape[1] - k + 1
    number, known = jnp.zeros((codes.shape[0], steps), jnp.int32), jnp.ones((codes.shape[0], steps), bool)
    for j in range(k):
        column = bases[:, j : j + steps]
        number, known = 4 * number + column, known & (column >= 0)
    return jnp.where(known, number + 1, 0)


def windows_of(codes: np.ndarray, k: int) -> np.ndarray:
    """Computes the ids of all k-mers of one sequence, in [0, 4^k), -1 where one has an ambiguous base.

    Args:
      codes: uint8 (T,).
      k: at most 31.

    Returns:
      int64 (max(T - k + 1, 0),).

    Example:
      >>> windows_of(encode("AACN"), 2).tolist()
      [0, 1, -1]
    """
    bases = SINGLE[codes].astype(np.int64)
    count = max(len(bases) - k + 1, 0)
    number, known = np.zeros(count, np.int64), np.ones(count, bool)
    for j in range(k):
        column = bases[j : j + count]
        number, known = 4 * number + column, known & (column >= 0)
    return np.where(known, number, -1)


def augment(rng: jax.Array, codes: AnyArray, lengths: AnyArray, rate: float) -> tuple[Array, Array]:
    """Takes the other strand of rows at random.

    Args:
      rng: a key.
      codes: int (B, T).
      lengths: int (B,).
      rate: the probability of each row.

    Returns:
      (codes, which rows were turned: bool (B,)).

    Example:
      >>> codes, turned = augment(jax.random.key(0), jnp.array([[1, 2]]), jnp.array([2]), 1.0)
      >>> codes.tolist(), turned.tolist()
      ([[4, 8]], [True])
    """
    turned = jax.random.bernoulli(rng, rate, lengths.shape)
    return jnp.where(turned[:, None], other_strand(codes, lengths), codes), turned
