"""Networks that read DNA: the other strand, padding, windows that carry on, against the whole; for any weights."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from seqjax.decoding.bases import Tagging, long_scores
from seqjax.models import make_stack
from seqjax.models.dna import BaseFeatures, DnaClassifier, DnaReader, DnaTagger
from seqjax.models.ensemble import Ensemble, mean_log_probabilities
from seqjax.models.nucleotides import (
    BASES,
    COMPLEMENT,
    LETTERS,
    SHARES,
    decode,
    encode,
    kmer_ids,
    one_hot,
    other_strand,
    reverse_complement,
    windows_of,
)

pytestmark = pytest.mark.one_in(8)

IUPAC = {  # what each letter may be, as the standard of 1984 has it
    "A": "A", "C": "C", "G": "G", "T": "T", "R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC", "B": "CGT", "D": "AGT",
    "H": "ACT", "V": "ACG", "N": "ACGT",
}  # fmt: skip
PAIRS = dict(zip("ACGT", "TGCA"))


def random_codes(rng, length, *, ambiguous=True):
    return rng.integers(1, 16, length).astype(np.uint8) if ambiguous else (1 << rng.integers(0, 4, length)).astype(np.uint8)


def padded(codes, steps, halo=0):
    """Rows of codes side by side, and their lengths."""
    rows = [np.pad(each, (halo, halo + steps - len(each))) for each in codes]
    return np.stack(rows).astype(np.int32), np.array([len(each) for each in codes], np.int32)


# The alphabet.


def test_each_code_is_the_set_of_bases_that_its_letter_stands_for():
    assert set(IUPAC) == set(LETTERS[1:])
    for letter, bases in IUPAC.items():
        (code,) = encode(letter)
        shares = [bases.count(base) / len(bases) for base in BASES]
        np.testing.assert_allclose(SHARES[code], shares)
        np.testing.assert_allclose(one_hot(jnp.array([code]))[0], shares)
        other = {PAIRS[base] for base in bases}
        assert set(IUPAC[decode(COMPLEMENT[[code]])]) == other
        assert reverse_complement(letter) == decode(COMPLEMENT[[code]]) and encode(letter.lower()) == encode(letter)
    assert encode("Uu").tolist() == encode("TT").tolist() and not encode("-.*EFJOXZ 1é").any()


def test_the_other_strand_of_the_other_strand_is_the_first():
    letters = LETTERS[1:] + LETTERS[1:].lower()
    assert reverse_complement(reverse_complement(letters)) == letters != reverse_complement(letters)
    rng = np.random.default_rng(0)
    codes, lengths = padded([random_codes(rng, length) for length in (7, 0, 4, 1)], 7)
    once = other_strand(jnp.array(codes), jnp.array(lengths))
    np.testing.assert_array_equal(other_strand(once, jnp.array(lengths)), codes)
    for row, found, length in zip(codes, np.asarray(once), lengths):
        assert decode(found[:length]) == reverse_complement(decode(row[:length])) and not found[length:].any()


@pytest.mark.parametrize("k", [1, 3, 4])
def test_kmers_are_numbered_in_the_order_of_their_letters(k):
    names = ["".join(letters) for letters in itertools.product(BASES, repeat=k)]
    sequence = "ACGTNTTRACCAGATACA"
    expected = [names.index(piece) if set(piece) <= set(BASES) else -1 for piece in map("".join, zip(*(sequence[j:] for j in range(k))))]
    assert windows_of(encode(sequence), k).tolist() == expected
    assert (kmer_ids(jnp.array(encode(sequence), jnp.int32)[None], k)[0] - 1).tolist() == expected


# Models, with random parameters.

FORMS = {
    "bases": BaseFeatures(),
    "motifs": BaseFeatures(filters=5, width=5),
    "k-mers": BaseFeatures(kmer=3, embed_size=4),
    "motifs of k-mers": BaseFeatures(kmer=3, embed_size=4, filters=5, width=3),
}


def make_tagger(form, *, both=True, layers=1, bidirectional=True, swap=(), crf=False):
    cell = make_stack("gru", 4, layers, bidirectional=bidirectional)
    return DnaTagger(3, DnaReader(FORMS[form], cell, both), swap, crf)


def variables_of(model, halo, steps=6, seed=0):
    """Random ones: the initial biases are zero, which would hide much."""
    inputs = jnp.ones((1, steps + 2 * halo), jnp.int32), jnp.array([steps])
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.7 * rng.normal(size=leaf.shape), leaf.dtype),
        jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs)),
    )


@pytest.mark.parametrize("form, swap, layers", [("bases", (), 2), ("motifs", (0, 2, 1), 1), ("k-mers", (0, 2, 1), 1)])
def test_a_tagger_of_both_strands_commutes_with_the_other_strand(form, swap, layers):
    """scores(rc(x)) = swap(rc(scores(x))); one that reads one strand does not."""
    rng, halo = np.random.default_rng(1), FORMS[form].halo
    codes, lengths = padded([random_codes(rng, length, ambiguous=form != "k-mers") for length in (9, 5, 1)], 9)
    other = np.asarray(other_strand(jnp.array(codes), jnp.array(lengths)))
    for both in (True, False):
        model = make_tagger(form, both=both, layers=layers, swap=swap if both else ())
        variables = variables_of(model, halo)
        _, scores = jax.jit(model.apply)(variables, np.pad(codes, ((0, 0), (halo, halo))), lengths)
        _, there = jax.jit(model.apply)(variables, np.pad(other, ((0, 0), (halo, halo))), lengths)
        worst = 0.0
        for row, back, length in zip(np.asarray(scores), np.asarray(there), lengths):
            expected = row[:length][::-1][:, list(swap or range(3))]
            worst = max(worst, np.abs(back[:length] - expected).max())
        assert worst < 1e-5 if both else worst > 1e-2


@pytest.mark.parametrize("pooling", ["flatten", "attention", "max", "last"])
def test_a_classifier_of_both_strands_gives_both_the_same_scores(pooling):
    rng, features = np.random.default_rng(2), FORMS["motifs"]
    codes, lengths = padded([random_codes(rng, length) for length in ((8, 8) if pooling == "flatten" else (8, 5))], 8)
    other = np.asarray(other_strand(jnp.array(codes), jnp.array(lengths)))
    both, one = (DnaClassifier(3, DnaReader(features, make_stack("lstm", 4, 1, bidirectional=True), b), pooling) for b in (True, False))
    variables = variables_of(both, features.halo, steps=8)
    found = [[jax.jit(m.apply)(variables, np.pad(x, ((0, 0), (2, 2))), lengths) for x in (codes, other)] for m in (both, one)]
    np.testing.assert_allclose(*found[0], atol=1e-5)
    assert np.abs(found[1][0] - found[1][1]).max() > 1e-2
    np.testing.assert_allclose(found[0][0], (found[1][0] + found[1][1]) / 2, atol=1e-5)  # the mean over the strands


@pytest.mark.parametrize("both", [True, False])
def test_what_stands_at_padding_has_no_influence(both):
    rng, model = np.random.default_rng(3), make_tagger("motifs", both=both)
    halo = FORMS["motifs"].halo
    sequence, variables = random_codes(rng, 5), variables_of(model, halo)
    alone, length = padded([sequence], 5, halo)
    wide, _ = padded([sequence], 11, halo)
    expected = jax.jit(model.apply)(variables, alone, length)[1][0]
    np.testing.assert_allclose(jax.jit(model.apply)(variables, wide, length)[1][0, :5], expected, atol=1e-6)


@pytest.mark.parametrize("form, both, layers, bidirectional", [
    ("bases", False, 1, True), ("motifs", True, 1, True), ("motifs of k-mers", True, 2, True), ("motifs", False, 2, False),
    ("bases", True, 1, False),
])  # fmt: skip
def test_a_long_sequence_in_windows_has_the_scores_of_the_whole(form, both, layers, bidirectional):
    """For any window, also with a short last one; a change beyond the neighbouring window has an effect."""
    rng = np.random.default_rng(4)
    model, halo = make_tagger(form, both=both, layers=layers, bidirectional=bidirectional), FORMS[form].halo
    codes, variables = random_codes(rng, 23, ambiguous=False), variables_of(model, FORMS[form].halo)
    rows, lengths = padded([codes], 23, halo)
    whole = np.asarray(jax.jit(model.apply)(variables, rows, lengths)[1][0])
    for window in (4, 7, 23):
        parts = list(long_scores(model, variables["params"], codes, window))
        assert [start for start, _ in parts] == list(range(0, 23, window))
        np.testing.assert_allclose(np.concatenate([scores for _, scores in parts]), whole, atol=2e-5)


def test_the_carry_of_training_windows_is_that_of_the_whole_in_the_direction_of_the_windows():
    """Read left to right the windows are the whole; the backward direction starts fresh at the end of each; a fresh row forgets."""
    rng, halo = np.random.default_rng(5), FORMS["motifs"].halo
    codes = random_codes(rng, 12)
    whole = np.pad(codes, halo).astype(np.int32)[None]
    cuts = [whole[:, begin : begin + 4 + 2 * halo] for begin in (0, 4, 8)]
    for bidirectional in (False, True):
        model = make_tagger("motifs", both=False, bidirectional=bidirectional)
        variables, carry, found = variables_of(model, halo), None, []
        for cut in cuts:
            carry, scores = jax.jit(model.apply)(variables, cut, np.array([4]), carry, None if carry is None else np.array([False]))
            found.append(scores[0])
        expected = jax.jit(model.apply)(variables, whole, np.array([12]))[1][0]
        same = np.isclose(np.concatenate(found), expected, atol=1e-5).all(axis=1)
        assert same.all() if not bidirectional else not same[:8].all() and same[8:].all()
        _, fresh = jax.jit(model.apply)(variables, cuts[1], np.array([4]), carry, np.array([True]))
        _, first = jax.jit(model.apply)(variables, cuts[1], np.array([4]))
        np.testing.assert_allclose(fresh, first, atol=1e-6)


def test_both_strands_in_windows_carry_what_runs_with_the_windows():
    """Of the other strand it is the backward cell that runs from left to right."""
    model = make_tagger("bases", both=True)
    variables, codes = variables_of(model, 0), random_codes(np.random.default_rng(6), 8).astype(np.int32)[None]
    carry, _ = jax.jit(model.apply)(variables, codes[:, :4], np.array([4]))
    probe = codes.copy()
    probe[0, 0] = 1 if codes[0, 0] != 1 else 2
    moved, _ = jax.jit(model.apply)(variables, probe[:, :4], np.array([4]))
    (own,), (own_moved,) = carry.own, moved.own
    (other,), (other_moved,) = carry.other, moved.other
    assert np.abs(own.forward.h - own_moved.forward.h).max() > 1e-6 and np.abs(other.backward.h - other_moved.backward.h).max() > 1e-6
    assert not np.asarray(own.backward.h).any() and not np.asarray(other.forward.h).any()  # these start fresh


def test_tagging_reads_short_sequences_whole_and_long_ones_in_windows():
    model, rng = make_tagger("motifs"), np.random.default_rng(7)
    variables = variables_of(model, FORMS["motifs"].halo)
    codes = [random_codes(rng, length) for length in (3, 40, 9, 17)]
    short = Tagging(model, batch_size=2, boundaries=(8,), longest=64)(variables["params"], codes)
    long = Tagging(model, batch_size=2, boundaries=(8,), longest=8)(variables["params"], codes)
    for a, b, each in zip(short, long, codes):
        assert len(a.tags) == len(each)
        np.testing.assert_allclose(a.probabilities, b.probabilities, atol=1e-5)
        np.testing.assert_array_equal(a.tags, b.tags)


def test_the_members_of_an_ensemble_are_networks_of_their_own():
    ensemble = Ensemble(nn.Dense(3), 3)
    xs = jax.random.normal(jax.random.key(1), (4, 5))
    variables = ensemble.init(jax.random.key(0), xs)
    scores = jax.jit(ensemble.apply)(variables, xs)
    for member in range(3):
        own = jax.tree.map(lambda leaf: leaf[member], variables)  # noqa: B023
        np.testing.assert_allclose(scores[member], nn.Dense(3).apply(own, xs), atol=1e-6)
    assert np.abs(scores[0] - scores[1]).max() > 1e-2
    shares = np.asarray(jax.nn.softmax(scores)).mean(axis=0)
    np.testing.assert_allclose(np.exp(mean_log_probabilities(scores)), shares, atol=1e-6)
