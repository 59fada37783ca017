"""One door to images with captions: drawn scenes, from TFDS, or from local files."""

import numpy as np

from seqjax.data.captioned import Captioned
from seqjax.data.checks import check_whole
from seqjax.data.image_columns import ArrayImages
from seqjax.data.origins import versions
from seqjax.data.readers.scenes import draw_scene, references
from seqjax.data.records import Dataset, make_dataset
from seqjax.data.sources import check_name, check_source

EMBEDDED = ("scenes",)
SCENES = {"validation": 600, "test": 2000}  # half of them with combinations that are not trained on


def load_captions(source: str, *, name: str = "", scenes: int = 20_000, seed: int = 0) -> Dataset:
    """Images with captions, in training, validation and test parts.

    Args:
      source: "embedded".
      name: embedded: "scenes".
      scenes: embedded: how many to train on.
      seed: of the scenes, or of what is held out.

    Example:
      >>> data = load_captions("embedded", name="scenes", scenes=3)
      >>> data.parts["train"].captions[0][0], {part: len(images) for part, images in data.parts.items()}
      ('there are two red twos left of a red triangle', {'train': 3, 'validation': 600, 'test': 2000})
    """
    check_source(source, {})
    check_name(source, name, EMBEDDED, "set of images with captions", "coco_captions")
    check_whole(1, scenes=scenes)
    return _scenes(name, scenes, seed)


def _scenes(name: str, number: int, seed: int) -> Dataset:
    parts = {part: _drawn(part, size, seed) for part, size in {"train": number, **SCENES}.items()}
    return make_dataset(name, parts, "scenes", made_from=versions("scikit-learn"))


def _drawn(part: str, number: int, seed: int) -> Captioned:
    """Scenes of one part; of validation and test every second one has a combination that is not trained on."""
    drawn = [draw_scene(seed, part, index, unseen=part != "train" and index % 2 == 1) for index in range(number)]
    images = ArrayImages(np.stack([image for image, _ in drawn]), np.arange(number))
    scenes = tuple(scene for _, scene in drawn)
    captions = tuple(references(scene, seed, part, index) for index, scene in enumerate(scenes))
    return Captioned(images, captions, tuple(f"{part} {index}" for index in range(number)), scenes)
