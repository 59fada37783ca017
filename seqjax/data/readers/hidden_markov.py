r"""Sequences of a hidden Markov model with genes, and the exact posterior of their tags: the best possible prediction.

.. math:: p(z_t \mid x) \propto \alpha_t(z)\,\beta_t(z), \quad \alpha_t(z) = e_z(x_t) \sum_y \alpha_{t-1}(y) A_{yz}, \quad
          \beta_t(z) = \sum_y A_{zy}\,e_y(x_{t+1})\,\beta_{t+1}(y)

On average, no tagger gets more bases right than one that takes the likeliest tag of each base under this posterior.
"""

from typing import NamedTuple

import numpy as np

from seqjax.data.draws import uniform
from seqjax.models.nucleotides import BASES, decode


class HiddenMarkov(NamedTuple):
    """A hidden Markov model whose states have tags.

    Example:
      >>> model = genes()
      >>> model.tags[:3], model.names, bool(np.allclose(model.transitions.sum(axis=1), 1))
      ((0, 1, 1), ('background', 'gene'), True)
    """

    start: np.ndarray  # probabilities of the first state, (S,)
    transitions: np.ndarray  # probabilities [from, to], (S, S)
    emissions: np.ndarray  # probabilities of A, C, G and T in each state, (S, 4)
    tags: tuple[int, ...]  # the tag of each state
    names: tuple[str, ...]  # the name of each tag


# Shares of A, C, G and T: between genes, and at the three codon positions.
BACKGROUND = (0.29, 0.21, 0.21, 0.29)
CODON = ((0.10, 0.10, 0.70, 0.10), (0.60, 0.10, 0.10, 0.20), (0.05, 0.45, 0.45, 0.05))


def genes(gene: float = 25.0, between: float = 90.0) -> HiddenMarkov:
    """A model of background and genes: ATG, codons with position-specific base frequencies, and TAA, TAG or TGA.

    Args:
      gene: the mean number of codons between start and stop.
      between: the mean number of bases between genes.

    Returns:
      A HiddenMarkov of twelve states with the tags background and gene. A sequence starts between genes.

    Example:
      >>> genes().transitions.shape
      (12, 12)
    """
    states = {  # name: (emissions, transitions)
        "background": (BACKGROUND, {"background": 1 - 1 / between, "start1": 1 / between}),
        "start1": (_only("A"), {"start2": 1.0}),
        "start2": (_only("T"), {"start3": 1.0}),
        "start3": (_only("G"), {"codon1": 1.0}),
        "codon1": (CODON[0], {"codon2": 1.0}),
        "codon2": (CODON[1], {"codon3": 1.0}),
        "codon3": (CODON[2], {"codon1": 1 - 1 / gene, "stop1": 1 / gene}),
        "stop1": (_only("T"), {"stop2a": 2 / 3, "stop2g": 1 / 3}),
        "stop2a": (_only("A"), {"stop3ag": 1.0}),
        "stop2g": (_only("G"), {"stop3a": 1.0}),
        "stop3ag": (_only("AG"), {"background": 1.0}),
        "stop3a": (_only("A"), {"background": 1.0}),
    }
    place = {name: i for i, name in enumerate(states)}
    transitions = np.zeros((len(states), len(states)))
    for name, (_, to) in states.items():
        for other, share in to.items():
            transitions[place[name], place[other]] = share
    start, emissions = np.eye(len(states))[0], np.array([shares for shares, _ in states.values()])
    return HiddenMarkov(start, transitions, emissions, tuple(int(name != "background") for name in states), ("background", "gene"))


def _only(bases: str) -> tuple[float, ...]:
    return tuple((base in bases) / len(bases) for base in BASES)


def draw(model: HiddenMarkov, number: int, length: int, seed: int) -> tuple[list[str], list[np.ndarray]]:
    """Draws sequences from a model, with the tag of each base; the same on every machine.

    Args:
      model: a model of S states.
      number: N, how many sequences.
      length: T, bases of each.
      seed: determines the draws.

    Returns:
      (N sequences, N arrays uint8 (T,)).

    Example:
      >>> sequences, tags = draw(genes(), 2, 8, seed=0)
      >>> sequences[0], tags[0].tolist()
      ('AGTTCGTG', [0, 0, 0, 0, 0, 0, 0, 0])
    """
    bits = np.random.PCG64(seed)
    ends, heights = np.cumsum(model.transitions, axis=1), np.cumsum(model.emissions, axis=1)
    state = _pick(np.cumsum(model.start)[None, :].repeat(number, axis=0), uniform(bits, number))
    tags, codes = np.zeros((number, length), np.uint8), np.zeros((number, length), np.uint8)
    for step in range(length):
        tags[:, step] = np.asarray(model.tags, np.uint8)[state]
        codes[:, step] = 1 << _pick(heights[state], uniform(bits, number))
        state = _pick(ends[state], uniform(bits, number))
    return [decode(row) for row in codes], list(tags)


def _pick(ends: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The first index of each row whose cumulative sum is above a number in [0, 1)."""
    return np.argmax(ends > at[:, None] * ends[:, -1:], axis=1)


class Posterior(NamedTuple):
    """The posterior of the tags of sequences of one length."""

    tags: np.ndarray  # p(tag of base t | sequence), (N, T, K)
    log_likelihood: np.ndarray  # log p(sequence) in nats, (N,)


def posterior(model: HiddenMarkov, codes: np.ndarray) -> Posterior:
    """The exact posterior, by the forward-backward algorithm with scaled probabilities.

    Args:
      model: a model of S states and K tags.
      codes: uint8 (N, T), IUPAC codes; an ambiguous code allows each base it stands for.

    Returns:
      A Posterior.

    Raises:
      ValueError: a sequence is impossible under the model.

    Example:
      >>> from seqjax.models.nucleotides import encode
      >>> found = posterior(genes(), np.array([encode("ACATGGCC")]))
      >>> found.tags[0, :, 1].round(2).tolist()
      [0.0, 0.0, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7]

    Reference:
      Rabiner 1989, "A tutorial on hidden Markov models and selected applications in speech recognition"; Durbin et al. 1998,
      "Biological sequence analysis".
    """
    sets = (np.arange(16)[:, None] >> np.arange(4)) & 1  # the bases of each code
    chances = (sets @ model.emissions.T)[codes]  # (N, T, S)
    number, steps, states = chances.shape
    alphas, scales = np.zeros((number, steps, states)), np.zeros((number, steps))
    alpha = np.broadcast_to(model.start, (number, states))
    for t in range(steps):
        alpha = (alpha if t == 0 else alpha @ model.transitions) * chances[:, t]
        scales[:, t] = alpha.sum(axis=1)
        if not scales[:, t].all():
            raise ValueError(f"sequence {int(np.argmin(scales[:, t]))} is impossible under the model from base {t + 1} on")
        alpha = alphas[:, t] = alpha / scales[:, t, None]
    beta, shares = np.ones((number, states)), np.zeros((number, steps, max(model.tags) + 1))
    members = np.eye(shares.shape[2])[list(model.tags)]
    for t in range(steps - 1, -1, -1):
        shares[:, t] = (alphas[:, t] * beta) @ members
        beta = (beta * chances[:, t]) @ model.transitions.T / scales[:, t, None]
    return Posterior(shares / shares.sum(axis=2, keepdims=True), np.log(scales).sum(axis=1))
