"""Images with their captions: one part of a dataset, and the batches for training a captioner."""

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from seqjax.data.image_columns import Images, Subset
from seqjax.data.pipeline.buckets import Collate, pad_lengths
from seqjax.data.pipeline.collate import Ragged

WORD = re.compile(r"\w+(?:['’\-]\w+)*")


def clean_caption(text: str) -> str:
    """A caption in the form for training and scoring: lowercase words separated by single spaces, without punctuation.

    Example:
      >>> clean_caption("A  man's T-shirt, on a line .")
      "a man's t-shirt on a line"
    """
    return " ".join(WORD.findall(text.lower()))


@dataclasses.dataclass(frozen=True, eq=False)
class Captioned:
    """Images, each with one or more captions.

    Args:
      images: the N images.
      captions: the cleaned captions of each image, at least one.
      names: a name for each image, for display.
      scenes: the scene each image shows if they are drawn (`seqjax.data.readers.scenes`); else empty.
      notes: a sentence for each thing left out on reading.

    Example:
      >>> from seqjax.data.image_columns import ArrayImages
      >>> images = ArrayImages(np.zeros((2, 4, 4, 3), np.uint8), np.arange(2))
      >>> part = Captioned(images, (("a dog", "one dog"), ("a cat",)), ("1.jpg", "2.jpg"))
      >>> len(part), part.take(np.array([1])).captions, part.pairs()
      (2, (('a cat',),), ([0, 0, 1], ['a dog', 'one dog', 'a cat']))
    """

    images: Images
    captions: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]
    scenes: tuple[Any, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lengths = {"images": len(self.images), "captions": len(self.captions), "names": len(self.names)}
        lengths |= {"scenes": len(self.scenes)} if self.scenes else {}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the columns have different lengths: {lengths}")

    def __len__(self) -> int:
        return len(self.names)

    def take(self, indices: np.ndarray) -> "Captioned":
        """Some of the images, without copying them."""
        columns = (tuple(column[i] for i in indices) for column in (self.captions, self.names, self.scenes) if column)
        return Captioned(Subset(self.images, indices), *columns, notes=self.notes)

    def pairs(self) -> tuple[list[int], list[str]]:
        """Every caption separately, as (index of its image, caption)."""
        owners = [i for i, several in enumerate(self.captions) for _ in several]
        return owners, list(itertools.chain.from_iterable(self.captions))

    def fingerprint(self) -> str:
        """A hash that changes with the images or their captions."""
        whole = hashlib.sha256(self.images.fingerprint().encode())
        for several in self.captions:
            whole.update(("\n".join(several) + "\0").encode("utf-8", "surrogatepass"))
        return whole.hexdigest()


class CaptionBatch(NamedTuple):
    """Images and the captions to write for them."""

    images: np.ndarray  # uint8 (B, H, W, C)
    inputs: np.ndarray  # int32 (B, T), <bos> and the caption without its last token
    targets: np.ndarray  # int32 (B, T), the caption with <eos>
    mask: np.ndarray  # bool (B, T): true for a real target token; a row without any is padding


def collate_captions(images: Images, owners: Sequence[int], tokens: Sequence[np.ndarray], bos: int, eos: int) -> Collate:
    """Makes CaptionBatches.

    Args:
      images: the images of a part.
      owners: the index of each caption's image.
      tokens: the token ids of each caption, without special tokens.
      bos, eos: ids of `<bos>` and `<eos>`.

    Example:
      >>> from seqjax.data.image_columns import ArrayImages
      >>> images = ArrayImages(np.arange(2, dtype=np.uint8).reshape(2, 1, 1, 1), np.arange(2))
      >>> batch = collate_captions(images, [0, 1], [np.array([4]), np.array([5, 6])], 2, 3)(np.array([1]), 2, 3)
      >>> batch.images.ravel().tolist(), batch.inputs.tolist(), batch.targets.tolist(), batch.mask.tolist()
      ([1, 0], [[2, 5, 6], [0, 0, 0]], [[5, 6, 3], [0, 0, 0]], [[True, True, True], [False, False, False]])
    """
    owner = np.asarray(owners, np.int64)
    inputs, outputs = Ragged([[bos, *ids] for ids in tokens]), Ragged([[*ids, eos] for ids in tokens])

    def collate(places: np.ndarray, rows: int, steps: int) -> CaptionBatch:
        index, real = inputs.index(places, rows, steps), pad_lengths(inputs.lengths[places], rows)
        pixels = np.zeros((rows, *images.shape), np.uint8)
        if len(places):
            pixels[: len(places)] = images.take(owner[places])[0]
        mask = np.arange(steps)[None, :] < real[:, None]
        return CaptionBatch(pixels, inputs.gather(index), outputs.gather(index), mask)

    return collate
