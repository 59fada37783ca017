"""Captions for sets of images: batches through a CNN and a decoder, greedily or by beam search, with attention weights."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np

from seqjax.data.image_columns import Images
from seqjax.data.pipeline.shuffled import ordered_batches
from seqjax.decoding.beam import beam_search
from seqjax.decoding.decoder import greedy
from seqjax.decoding.translation import Translation, without_end
from seqjax.models.captioner import Captioner
from seqjax.text import BOS, EOS, PAD, UNK


class CaptionWriter:
    """Writes captions for images.

    Args:
      model: the decoder.
      encode: `encode(variables, images) -> features (B, S, M)`, of images uint8 (B, H, W, C).
      tokenizer: that of the captions.
      batch_size: images per batch.
      length: the maximum number of tokens of a caption.

    The variables are `{"params": {"encoder": ..., "decoder": ...}, ...}`. `<pad>`, `<bos>` and `<unk>` are never written.

    Example:
      >>> import jax.numpy as jnp, seqjax
      >>> from seqjax.data.image_columns import ArrayImages
      >>> from seqjax.text import WordTokenizer
      >>> tokenizer = WordTokenizer.fit(["a dog", "a cat"])
      >>> model = Captioner(tokenizer.vocab_size, 3, (seqjax.gru(8),), embed_size=4)
      >>> params = model.init(jax.random.key(0), jnp.ones((1, 4, 3)), jnp.ones((1, 1), int))["params"]
      >>> encode = lambda variables, images: images.reshape(images.shape[0], -1, 3) / 255
      >>> writer = CaptionWriter(model, encode, tokenizer, batch_size=2, length=5)
      >>> images = ArrayImages(np.zeros((3, 2, 2, 3), np.uint8), np.zeros(3, int))
      >>> variables = {"params": {"decoder": params}}
      >>> found = writer.beam(variables, images, width=3, n_best=2)
      >>> len(found), len(found[0]), found[0][0].score >= found[0][1].score, len(writer.greedy(variables, images))
      (3, 2, True, 3)
    """

    def __init__(
        self,
        model: Captioner,
        encode: Callable[[Any, Any], Any],
        tokenizer: Any,
        *,
        batch_size: int,
        length: int,
        workers: int = 0,
    ):
        self.tokenizer, self._batch_size, self._length, self._workers = tokenizer, batch_size, length, workers

        def features(variables, images):
            return encode(variables, images)

        def begin(variables, images):
            own = {"params": variables["params"]["decoder"]}
            encoded = model.apply(own, encode(variables, images), method="encode")
            return encoded, model.apply(own, encoded, method="initial_carry")

        def step(variables, encoded, carry, tokens) -> Any:
            return model.apply({"params": variables["params"]["decoder"]}, encoded, carry, tokens, method="step")

        def weights(variables, images, inputs):
            found = cast(Any, model.apply({"params": variables["params"]["decoder"]}, encode(variables, images), inputs))
            return found.weights

        self._features, self._begin, self._step, self._weights = (
            jax.jit(features),
            jax.jit(begin),
            step,
            jax.jit(weights),
        )

    def _batches(self, variables: Any, images: Images) -> Iterator[tuple[int, Any, Any]]:
        for batch in ordered_batches(images, self._batch_size, workers=self._workers):
            yield int(batch.mask.sum()), *self._begin(variables, batch.images)

    def _options(self) -> dict[str, Any]:
        return {"length": self._length, "eos_id": EOS, "pad_id": PAD, "banned": (PAD, UNK, BOS)}

    def greedy(self, variables: Mapping[str, Any], images: Images) -> list[str]:
        """Writes a greedy caption, the likeliest word at each step, for every image."""
        first, outputs = np.full(self._batch_size, BOS, np.int32), []
        for number, encoded, carry in self._batches(variables, images):
            found = jax.device_get(greedy(self._step, variables, encoded, carry, first, **self._options()))
            rows = (found.tokens[row, : found.lengths[row]] for row in range(number))
            outputs += [self.tokenizer.decode(without_end(tokens)) for tokens in rows]
        return outputs

    def beam(
        self, variables: Mapping[str, Any], images: Images, *, width: int, n_best: int = 1, length_penalty: float = 0.0
    ) -> list[list[Translation]]:
        """Writes the n-best captions of every image, best first; see `beam_search` for width and length_penalty."""
        first, outputs = np.full(self._batch_size, BOS, np.int32), []
        options = self._options() | {"width": width, "n_best": n_best, "length_penalty": length_penalty}
        for number, encoded, carry in self._batches(variables, images):
            beams = jax.device_get(beam_search(self._step, variables, encoded, carry, first, **options))
            for row in range(number):
                made = []
                for i in range(n_best):
                    if beams.lengths[row, i]:
                        tokens = without_end(beams.tokens[row, i, : beams.lengths[row, i]])
                        scores = (
                            float(beams.scores[row, i]),
                            float(beams.log_probs[row, i]),
                            bool(beams.finished[row, i]),
                        )
                        made.append(Translation(self.tokenizer.decode(tokens), *scores, tokens))
                outputs.append(made)
        return outputs

    def attention(self, variables: Mapping[str, Any], image: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """Computes the attention weights while one caption was written.

        Args:
          variables: the model's variables.
          image: uint8 (H, W, C).
          tokens: ids of the caption, without `<eos>`.

        Returns:
          (weights (T, S), each row summing to 1; the T words, of which the last is `<eos>`).
        """
        words = [*(self.tokenizer.vocabulary[i] for i in tokens), "<eos>"]
        inputs = np.full((1, max(self._length, len(words))), PAD, np.int32)  # one length, so that it is compiled once
        inputs[0, : len(words)] = [BOS, *tokens]
        return np.asarray(self._weights(variables, image[None], inputs)[0, : len(words)]), words

    def means(self, variables: Mapping[str, Any], images: Images) -> np.ndarray:
        """Computes the mean of each image's feature map, (N, M)."""
        found = []
        for batch in ordered_batches(images, self._batch_size, workers=self._workers):
            found.append(np.asarray(self._features(variables, batch.images)).mean(1)[batch.mask])
        return np.concatenate(found)


def nearest_captions(queries: np.ndarray, known: np.ndarray, captions: Sequence[Sequence[str]]) -> list[str]:
    """Returns the first caption of the nearest known image, by Euclidean distance; ties go to the first.

    Args:
      queries: (N, D), descriptors of the images.
      known: (K, D), descriptors of images with captions.
      captions: the captions of those.

    Example:
      >>> nearest_captions(np.array([[0.9]]), np.array([[0.0], [1.0]]), [["a dog"], ["a cat", "one cat"]])
      ['a cat']
    """
    lengths, found = (known**2).sum(1), []
    for first in range(0, len(queries), 256):
        found += np.argmin(lengths - 2 * queries[first : first + 256] @ known.T, axis=1).tolist()
    return [captions[int(i)][0] for i in found]
