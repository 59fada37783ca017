r"""Networks that read DNA: a tagger of bases, many to many, and a classifier of windows, many to one.

Both can read one strand, or both strands with the same weights. They then treat a sequence x and its other strand rc(x)
alike:

  tagger:      scores(rc(x))_t = S scores(x)_{T+1-t}    S swaps the tags of the two strands, if these have separate tags
  classifier:  scores(rc(x)) = scores(x)

which holds for any weights, since the scores are the mean over both strands: (f(x) + rc^{-1} f(rc(x))) / 2.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

import seqjax
from seqjax.cnn.blocks import Conv
from seqjax.errors import UserError
from seqjax.models.nucleotides import ANY, COMPLEMENT, kmer_ids, one_hot
from seqjax.nn.attention import attention_pooling, pool, pool_init
from seqjax.nn.crf import crf_decode, crf_init, crf_log_likelihood, crf_marginals
from seqjax.nn.masks import real_steps
from seqjax.typing import Array, Carry, Cell
from seqjax.wrappers._bidirectional import BidirectionalCarry

POOLING = ("flatten", "attention", "max", "mean", "last")


class BaseFeatures(nn.Module):
    r"""Features of each base: the base or the k-mer around it, and motif detectors, a convolution.

    .. math:: x_t = \mathrm{relu}\Big(b + \sum_{j=-w/2}^{w/2} W_j e_{t+j}\Big), \quad e_t = \text{one-hot}(s_t)
              \text{ or } E[s_{t-k/2} \dots s_{t+k/2}]

    Attributes:
      kmer: k, odd, of an embedding of k-mers; 0 reads the four bases as they are, one-hot.
      embed_size: width of that embedding.
      filters: F, motif detectors; 0 for none.
      width: w, the bases that each detector sees, odd.
      dropout: on the features, in training.
      dtype: computation dtype.

    Example:
      >>> features = BaseFeatures(filters=6, width=9)
      >>> codes = jnp.ones((2, 5 + 2 * features.halo), jnp.int32)
      >>> features.halo, features.init_with_output(jax.random.key(0), codes)[0].shape
      (4, (2, 5, 6))

    Reference:
      Alipanahi et al. 2015, "Predicting the sequence specificities of DNA- and RNA-binding proteins by deep learning", for the
      convolution as motif detectors.
    """

    kmer: int = 0
    embed_size: int = 16
    filters: int = 0
    width: int = 9
    dropout: float = 0.0
    dtype: Any = None

    @property
    def halo(self) -> int:
        """Bases on each side of a window that its features depend on."""
        return self.kmer // 2 + (self.width // 2 if self.filters else 0)

    @nn.compact
    def __call__(self, codes: Array, *, train: bool = False) -> Array:
        """Gives (B, T, F) for codes (B, halo + T + halo) int, 0 where there is no base; or, without k-mers, for shares of the bases,
        (B, halo + T + halo, 4), by which gradients can be taken."""
        if self.kmer and self.kmer % 2 == 0 or self.filters and self.width % 2 == 0:
            raise UserError(f"model.kmer={self.kmer} and model.width={self.width} must be odd: the same number of bases on each side")
        if self.kmer:
            xs = nn.Embed(4**self.kmer + 1, self.embed_size, dtype=self.dtype, name="embed")(kmer_ids(codes, self.kmer))
        else:
            xs = codes if codes.ndim == 3 else one_hot(codes, self.dtype or jnp.float32)
        if self.filters:
            xs = nn.relu(Conv(self.filters, (self.width,), padding="VALID", dtype=self.dtype, name="motifs")(xs))
        return nn.Dropout(self.dropout, deterministic=not train)(xs)


class Carries(NamedTuple):
    """The carries of the two readings of a sequence from window to window."""

    own: Carry
    other: Carry  # of the other strand; () if one strand is read


class DnaReader(nn.Module):
    """Features and recurrent layers over one strand or both, aligned to the bases of the sequence.

    Attributes:
      features: features of each base.
      cell: any Cell, usually bidirectional.
      both_strands: read the other strand too, with the same weights.
      dropout: on the outputs, in training.
      base_dropout: the fraction of bases that are read as N in training, unknown to the network.

    Example:
      >>> from seqjax.models import make_stack
      >>> reader = DnaReader(BaseFeatures(), make_stack("gru", 4, 1, bidirectional=True), both_strands=True)
      >>> (carries, ys), _ = reader.init_with_output(jax.random.key(0), jnp.array([[1, 2, 4, 8]]), jnp.array([4]))
      >>> [y.shape for y in ys]
      [(1, 4, 8), (1, 4, 8)]
    """

    features: BaseFeatures
    cell: Cell
    both_strands: bool = False
    dropout: float = 0.0
    base_dropout: float = 0.0

    @nn.compact
    def __call__(
        self,
        codes: Array,
        lengths: Array,
        carry: Carries | None = None,
        fresh: Array | None = None,
        *,
        train: bool = False,
    ) -> tuple[Carries, list[Array]]:
        """Reads windows.

        Args:
          codes: int (B, halo + T + halo), 0 where there is no base.
          lengths: int (B,), how many of the T bases are real; they come first.
          carry: from the window before; None is the initial one.
          fresh: bool (B,), rows that start from the initial carry.
          train: applies noise, from the key `rngs={"dropout": key}`, which is then required.

        Returns:
          (carry, [outputs (B, T, H) of the sequence, and of the other strand, in the order of the sequence]). The
          returned carry is that of the directions that run along the windows; directions that run against them start
          from the initial carry in each window.
        """
        if train and self.base_dropout:
            hidden = jax.random.bernoulli(self.make_rng("dropout"), self.base_dropout, codes.shape)
            codes = jnp.where(hidden & (codes > 0), ANY, codes)
        own = self.features(codes, train=train)
        params = self.param("rnn", self.cell.init, own.shape[-1])
        initial = self.cell.initial_carry(params, codes.shape[0])
        start = Carries(initial, initial if self.both_strands else ())
        before: Carries = start if carry is None else carry
        if fresh is not None:
            before = jax.tree.map(lambda old, new: _rows(fresh, new, old), before, start)
        noise = nn.Dropout(self.dropout, deterministic=not train)

        def read(xs, start, reverse):
            rng = self.make_rng("dropout") if train else None
            end, ys = seqjax.unroll(self.cell, params, xs, start, lengths=lengths, rng=rng, reverse=reverse)
            return _with_the_windows(end, initial, reverse), noise(ys)

        after, ys = read(own, before.own, False)
        if not self.both_strands:
            return Carries(after, ()), [ys]
        other = self.features(other_side(codes), train=train)[:, ::-1]
        after_other, zs = read(other, before.other, True)
        return Carries(after, after_other), [ys, zs]

    def initial_carry(self, batch_size: int) -> Carries:
        """The carry before the first window."""
        initial = self.cell.initial_carry(self.get_variable("params", "rnn"), batch_size)
        return Carries(initial, initial if self.both_strands else ())


def other_side(codes: Array) -> Array:
    """Returns whole rows read from the other strand, including padding.

    Args:
      codes: int (B, T), or shares of the bases (B, T, 4).

    Example:
      >>> other_side(jnp.array([[1, 2, 0]])).tolist()
      [[0, 4, 8]]
    """
    return codes[:, ::-1, ::-1] if codes.ndim == 3 else jnp.asarray(COMPLEMENT.astype("int32"))[codes][:, ::-1]


def _rows(which: Array, new: Array, old: Array) -> Array:
    return jnp.where(which.reshape(which.shape + (1,) * (new.ndim - 1)), new, old)


def _with_the_windows(carry: Carry, initial: Carry, reverse: bool) -> Carry:
    """Keeps carries that run from left to right, and resets those that run from right to left."""

    def kept(end, start):
        if isinstance(end, BidirectionalCarry):
            return BidirectionalCarry(*((start.forward, end.backward) if reverse else (end.forward, start.backward)))
        return start if reverse else end

    two = any(isinstance(part, BidirectionalCarry) for part in jax.tree.leaves(carry, is_leaf=_is_two))
    return jax.tree.map(kept, carry, initial, is_leaf=_is_two if two else None)


def _is_two(part: Any) -> bool:
    return isinstance(part, BidirectionalCarry)


class DnaTagger(nn.Module):
    r"""Gives each base a score for each tag.

    .. math:: z_t = W\,h_t + b, \quad h = \mathrm{cell}(x_1 \dots x_T)

    Attributes:
      num_tags: K.
      reader: reads one strand or both.
      swap: for both strands: the tag that each becomes on the other strand; () if tags are the same on both.
      crf: whether the tags of a sequence are one decision, by a linear-chain conditional random field.
      dtype: computation dtype; scores are float32.

    Example:
      >>> from seqjax.models import make_stack
      >>> model = DnaTagger(2, DnaReader(BaseFeatures(), make_stack("gru", 4, 1, bidirectional=True)))
      >>> codes, lengths = jnp.array([[1, 2, 4, 0]]), jnp.array([3])
      >>> variables = model.init(jax.random.key(0), codes, lengths)
      >>> carry, scores = model.apply(variables, codes, lengths)
      >>> scores.shape, model.apply(variables, scores, lengths, method="decode").shape
      ((1, 4, 2), (1, 4))
    """

    num_tags: int
    reader: DnaReader
    swap: tuple[int, ...] = ()
    crf: bool = False
    dtype: Any = None

    def setup(self):
        self.head = nn.Dense(self.num_tags, dtype=self.dtype)
        if self.crf:
            self.transitions = self.param("crf", crf_init, self.num_tags)

    def __call__(
        self,
        codes: Array,
        lengths: Array,
        carry: Carries | None = None,
        fresh: Array | None = None,
        *,
        train: bool = False,
    ) -> tuple[Carries, Array]:
        """Gives (carry, scores (B, T, K) in float32); the arguments are those of `DnaReader`."""
        carry, ys = self.reader(codes, lengths, carry, fresh, train=train)
        return carry, self.scores(ys)

    def scores(self, ys: list[Array]) -> Array:
        """Scores of the outputs of one strand or both."""
        own = self.head(ys[0])
        own = own.astype(jnp.promote_types(own.dtype, jnp.float32))
        if len(ys) == 1:
            return own
        other = self.head(ys[1]).astype(own.dtype)
        return (own + (other[..., list(self.swap)] if self.swap else other)) / 2

    def nats(self, scores: Array, tags: Array, lengths: Array) -> Array:
        """-log p(tags) of each sequence, (B,); the arguments are those of `Tagger.nats`."""
        if self.crf:
            return -crf_log_likelihood(self.transitions, scores, tags, lengths)
        real = real_steps(lengths, *tags.shape)
        log_probs = jnp.take_along_axis(jax.nn.log_softmax(scores), tags[..., None], axis=-1)[..., 0]
        return -jnp.sum(jnp.where(real, log_probs, 0), axis=1)

    def probabilities(self, scores: Array, lengths: Array) -> Array:
        """Returns the probability of each tag of each base, (B, T, K)."""
        return crf_marginals(self.transitions, scores, lengths) if self.crf else jax.nn.softmax(scores)

    def decode(self, scores: Array, lengths: Array) -> Array:
        """Returns the likeliest tags, int32 (B, T): of each sequence as a whole with the CRF, else of each base."""
        if self.crf:
            return crf_decode(self.transitions, scores, lengths)[0]
        return jnp.where(real_steps(lengths, *scores.shape[:2]), jnp.argmax(scores, axis=-1), 0).astype(jnp.int32)

    def initial_carry(self, batch_size: int) -> Carries:
        """The carry before the first window: `model.apply(variables, B, method="initial_carry")`."""
        return self.reader.initial_carry(batch_size)


class DnaClassifier(nn.Module):
    r"""Classifies a sequence.

    .. math:: p(k \mid x) = \mathrm{softmax}(W\,\mathrm{pool}(h_1 \dots h_T) + b)_k

    Attributes:
      num_classes: K.
      reader: reads one strand or both; with both, a sequence and its other strand have the same classes.
      pooling: "flatten" (all steps side by side: for sequences of one length that are aligned, such as windows around a site),
        "attention", "max", "mean" or "last".
      bidirectional: for "last": whether the second half of the features runs backward.
      dropout: on the pooled features, in training.
      dtype: computation dtype; scores are float32.

    Example:
      >>> from seqjax.models import make_stack
      >>> reader = DnaReader(BaseFeatures(filters=8, width=5), make_stack("gru", 4, 1, bidirectional=True))
      >>> codes = jnp.pad(jnp.array([[1, 2, 4, 8, 15]]), ((0, 0), (2, 2)))
      >>> DnaClassifier(3, reader).init_with_output(jax.random.key(0), codes, jnp.array([5]))[0].shape
      (1, 3)
    """

    num_classes: int
    reader: DnaReader
    pooling: str = "flatten"
    bidirectional: bool = True
    dropout: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, codes: Array, lengths: Array, *, train: bool = False) -> Array:
        """Gives scores (B, K) in float32 for codes (B, halo + T + halo) and lengths (B,)."""
        if self.pooling not in POOLING:
            raise UserError(f"model.pooling={self.pooling!r} is unknown; choose one of {', '.join(POOLING)}")
        _, ys = self.reader(codes, lengths, train=train)
        noise, head = (
            nn.Dropout(self.dropout, deterministic=not train),
            nn.Dense(self.num_classes, dtype=self.dtype, name="softmax"),
        )
        size = ys[0].shape[-1]
        params = self.param("pooling", pool_init, size, size) if self.pooling == "attention" else None

        def scores(ys):
            if self.pooling == "flatten":
                pooled = ys.reshape(ys.shape[0], -1)
            elif params is not None:
                pooled = attention_pooling(params, ys, lengths)[0]
            else:
                pooled = pool(self.pooling, ys, lengths, bidirectional=self.bidirectional)
            return head(noise(pooled)).astype(jnp.float32)

        own = scores(ys[0])
        return own if len(ys) == 1 else (own + scores(_as_read(ys[1], lengths))) / 2


def _as_read(ys: Array, lengths: Array) -> Array:
    """Outputs of the other strand in the order in which it is read."""
    steps = jnp.arange(ys.shape[1])[None, :]
    index = jnp.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
    return jnp.take_along_axis(ys, index[..., None], axis=1)
