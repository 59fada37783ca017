"""What the captioning experiment reports and draws: scores of captions, simple baselines, pictures."""

import pathlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from seqjax.data.captioned import Captioned
from seqjax.data.image_columns import ArrayImages, Subset
from seqjax.data.pipeline.shuffled import ordered_batches
from seqjax.data.readers.scenes import is_right, is_unseen
from seqjax.data.sources import SOURCES
from seqjax.data.transforms.pixels import read_image
from seqjax.decoding.captions import nearest_captions
from seqjax.decoding.translation import Translation
from seqjax.diagnostics.captions import Looked, Shown, plot_attended, plot_captions
from seqjax.errors import UserError, printable
from seqjax.run import fields
from seqjax.run.encoders import encoder
from seqjax.run.experiment import Options, Trained
from seqjax.run.parts import print_translations
from seqjax.run.scores import accuracy
from seqjax.run.settings import Field, at_least
from seqjax.training import metrics

CELLS = 5  # a side: what an image is for the nearest neighbour in pixels
MOST = 10_000  # training images that neighbours are looked for among
DRAWN = 12  # images in a picture


def data_fields() -> dict[str, Field]:
    """Where images and captions come from.

    Example:
      >>> data_fields()["data.name"].default
      'scenes'
    """
    of_images = {name: f for name, f in fields.image_files().items() if name not in ("data.label_field", "data.class_levels")}
    return {
        **fields.source(
            "images",
            SOURCES,
            name="scenes",
            names="Embedded (scenes) or TFDS dataset (coco_captions), or a name for your files.",
            path="Captions: Flickr8k text, COCO or Karpathy JSON, or a table; images are searched for beside it.",
            validation_path="The same for validation, or a list of image names from data.path, one per line.",
            test_path="The same for testing.",
            held_out="training images to hold out if there is no validation set",
        ),
        **fields.split_seed(),
        "data.train_list": Field("", "List of the training images; empty: all images that are not in another part.", when=fields.FILE),
        "data.caption_field": Field("", "Table field with the captions; empty: caption, text, ...", when=fields.FILE),
        **of_images,
        "data.restval": Field(True, "Also train on the images of the split restval.", when=fields.FILE_OR_TFDS),
        "data.image_size": Field(0, "Images are resized to this side; 0: 224.", at_least(0), when=fields.FILE_OR_TFDS),
        "data.scenes": Field(20_000, "Number of scenes to draw for training.", at_least(1), when=("data.source", ("embedded",))),
    }


def scores(part: Captioned, captions: Sequence[str]) -> dict[str, Any]:
    """Scores of captions: overlap with the references and, for scenes, the fraction that is true.

    Args:
      part: the images.
      captions: of each.

    Returns:
      Of scenes "meaning" with its 95 % interval, and the same of those with combinations that were trained on ("meaning_seen") and of the
      others ("meaning_unseen"); always what `seqjax.training.metrics.caption_scores` gives.

    Example:
      >>> from seqjax.data.captions import load_captions
      >>> part = load_captions("embedded", name="scenes", scenes=2).parts["train"]
      >>> found = scores(part, [several[0] for several in part.captions])
      >>> found["meaning"][0], "meaning_unseen" in found, round(found["bleu4"])
      (1.0, False, 100)
    """
    found = metrics.caption_scores(captions, part.captions)
    if not part.scenes:
        return found
    right = np.array([is_right(caption, scene) for caption, scene in zip(captions, part.scenes)])
    unseen = np.array([is_unseen(scene) for scene in part.scenes])
    groups = {"meaning": right, "meaning_seen": right[~unseen], "meaning_unseen": right[unseen]}
    return {name: accuracy(of)["accuracy"] for name, of in groups.items() if len(of)} | found


def baselines(train: Captioned, part: Captioned) -> dict[str, dict[str, Any]]:
    """Two baselines: the most frequent training caption, and the first caption of the training image with the most similar pixels.

    Pixels are the mean colours of 5 x 5 cells; at most 10,000 training images, evenly spread, are compared.

    Example:
      >>> from seqjax.data.captions import load_captions
      >>> part = load_captions("embedded", name="scenes", scenes=3).parts["train"]
      >>> {name: found["meaning"][0] for name, found in baselines(part, part).items()}["nearest image in pixels"]
      1.0
    """
    counts = Counter(train.pairs()[1])
    frequent = max(sorted(counts), key=counts.__getitem__)
    known = _spread(train)
    near = nearest_captions(_cells(part), _cells(known), known.captions)
    return {
        "most frequent caption": scores(part, [frequent] * len(part)),
        "nearest image in pixels": scores(part, near),
    }


def nearest_in_features(trained: Trained, train: Captioned, part: Captioned) -> dict[str, Any]:
    """The scores of the first caption of the training image whose mean feature, from the trained encoder, is nearest."""
    known, writer = _spread(train), trained.model.tools
    queries, keys = writer.means(trained.variables, part.images), writer.means(trained.variables, known.images)
    return scores(part, nearest_captions(queries, keys, known.captions))


def _spread(train: Captioned) -> Captioned:
    return train.take(np.linspace(0, len(train) - 1, min(len(train), MOST)).astype(np.int64))


def _cells(part: Captioned) -> np.ndarray:
    """Mean colours of cells, (N, 75)."""
    found = []
    for batch in ordered_batches(part.images, 250):
        images = batch.images[batch.mask].astype(np.float64)
        rows = [band.mean(1) for band in np.array_split(images, CELLS, axis=1)]
        found.append(np.stack([cell.mean(1) for row in rows for cell in np.array_split(row, CELLS, axis=1)], 1))
    return np.concatenate(found).reshape(len(part), -1)


def draw_captions(
    trained: Trained, part: Captioned, found: Sequence[Sequence[Translation]], folder: pathlib.Path, split: str
) -> Iterator[pathlib.Path]:
    """Plots of attention for some images and their n-best captions with scores; for scenes, the first right and wrong ones.

    Args:
      trained: the model.
      part: the images.
      found: the n-best captions of each.
      folder, split: where the pictures go, and what they are called after.

    Returns:
      An iterator over the paths; each picture is drawn when its path is requested.
    """
    best = [rows[0].text for rows in found]
    chosen, title = list(range(min(DRAWN, len(part)))), ""
    if part.scenes:
        right = [is_right(text, scene) for text, scene in zip(best, part.scenes)]
        wrong = [i for i, good in enumerate(right) if not good]
        good = [i for i, good in enumerate(right) if good]
        chosen = sorted(wrong[: DRAWN // 2] + good[: DRAWN - len(wrong[: DRAWN // 2])], key=lambda i: right[i])
        title = f"{len(wrong):,} of {len(part):,} captions are wrong: the first {len(wrong[: DRAWN // 2])} of them, and right ones"
    shown = [_shown(part, i, found[i]) for i in chosen]
    yield plot_captions(folder / f"examples_{split}.png", shown, title)
    if trained.config.model.attention != "none":
        looked = [_looked(trained, _image(part, i), found[i][0]) for i in chosen[-6:]]
        yield plot_attended(folder / f"attention_{split}.png", looked)


def predict(trained: Trained, options: Options) -> None:
    """Writes captions for each --image, and plots the attention to --picture."""
    if not options.image:
        raise UserError("--mode=predict needs an image: give --image=FILE once per image")
    height, _, channels = trained.spec.shape
    pixels = np.stack([read_image(path, height, channels) for path in options.image])
    part = Captioned(ArrayImages(pixels, np.arange(len(pixels))), ((),) * len(pixels), tuple(options.image))
    how = {"width": max(options.beam, options.n_best), "length_penalty": options.length_penalty}
    found = trained.model.tools.beam(trained.variables, part.images, n_best=options.n_best, **how)
    for path, rows in zip(options.image, found):
        if options.format == "text" and options.n_best == 1:
            print(printable(f"{path}: {rows[0].text}"))
        else:
            print_translations(path, rows, options.format, options.n_best)
    if options.picture:
        print(_draw_seen(trained, part, found, pathlib.Path(options.picture)), file=sys.stderr)


def _draw_seen(trained: Trained, part: Captioned, found: Sequence[Sequence[Translation]], path: pathlib.Path) -> pathlib.Path:
    if trained.config.model.attention == "none":
        return plot_captions(path, [_shown(part, i, rows) for i, rows in enumerate(found)])
    looked = [_looked(trained, _image(part, i), rows[0], part.names[i][-16:]) for i, rows in enumerate(found)]
    return plot_attended(path, looked, rows=4 * len(looked))


def _image(part: Captioned, index: int) -> np.ndarray:
    return Subset(part.images, np.array([index])).take(np.array([0]))[0][0]


def _shown(part: Captioned, index: int, rows: Sequence[Translation]) -> Shown:
    texts, right = [row.text for row in rows[:4]], None
    if part.scenes:
        right = [is_right(text, part.scenes[index]) for text in texts]
    reference = part.captions[index][0] if part.captions[index] else ""
    return Shown(_image(part, index), texts, [row.score for row in rows[:4]], right, reference)


def _looked(trained: Trained, image: np.ndarray, best: Translation, title: str = "") -> Looked:
    weights, words = trained.model.tools.attention(trained.variables, image, best.tokens)
    return Looked(image, words, weights.reshape(len(words), *encoder(trained.config, trained.spec.shape).shape[:2]), title)
