"""The recurrent language model: embedding, a stack of cells, a softmax over the vocabulary."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

import seqjax
from seqjax.errors import UserError
from seqjax.typing import Array, Carry, Cell


class LanguageModel(nn.Module):
    r"""Predicts each token from those before it.

    .. math:: p(y_t \mid x_{\le t}) = \mathrm{softmax}(W\,\mathrm{dropout}(h_t) + b), \quad h = \mathrm{cell}(E x)

    Attributes:
      vocab_size: V.
      cell: any Cell; dropout between its layers is set in the cell.
      embed_size: D, the width of the embedding.
      dropout: on the outputs of the top layer, in training.
      tie_embeddings: the softmax weights are the embedding's (needs D = H); Press and Wolf 2017, arXiv:1608.05859.
      dtype: computation dtype of embedding and softmax; parameters and logits are float32.

    Example:
      >>> import jax, seqjax
      >>> model = LanguageModel(vocab_size=5, cell=seqjax.lstm(8), embed_size=4)
      >>> tokens = jax.numpy.array([[2, 3, 4]])
      >>> params = model.init(jax.random.key(0), tokens)["params"]
      >>> carry, logits = model.apply({"params": params}, tokens)
      >>> logits.shape
      (1, 3, 5)
    """

    vocab_size: int
    cell: Cell
    embed_size: int
    dropout: float = 0.0
    tie_embeddings: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        carry: Carry | None = None,
        *,
        resets: Array | None = None,
        train: bool = False,
        remat_every: int | None = None,
    ) -> tuple[Carry, Array]:
        """Runs the model over windows of tokens.

        Args:
          tokens: (B, T) int, the token before each one to predict.
          carry: from the previous window; None starts from the initial carry.
          resets: (B, T) bool, true where the carry is reset before that step.
          train: applies dropout, from the key `rngs={"dropout": key}`, which is then required.
          remat_every: as in `seqjax.unroll`.

        Returns:
          The carry after the last step, and logits (B, T, V) in float32.

        Raises:
          UserError: tied embeddings with D different from H.
        """
        if self.tie_embeddings and self.embed_size != self.cell.hidden_size:
            raise UserError(
                f"model.tie_embeddings needs model.embed_size={self.embed_size} equal to model.hidden_size={self.cell.hidden_size}"
            )
        embed = nn.Embed(self.vocab_size, self.embed_size, dtype=self.dtype, name="embed")
        params = self.param("rnn", self.cell.init, self.embed_size)
        rng = self.make_rng("dropout") if train else None
        carry, ys = seqjax.unroll(self.cell, params, embed(tokens), carry, resets=resets, rng=rng, remat_every=remat_every)
        ys = nn.Dropout(self.dropout, deterministic=not train)(ys)
        if self.tie_embeddings:
            bias = self.param("bias", nn.initializers.zeros, (self.vocab_size,))
            logits = embed.attend(ys) + bias[None, None, :]
        else:
            logits = nn.Dense(self.vocab_size, dtype=self.dtype, name="softmax")(ys)
        return carry, logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

    def initial_carry(self, params, batch_size: int) -> Carry:
        """The carry before the first token, each array (B, ...)."""
        return self.cell.initial_carry(params["rnn"], batch_size)
