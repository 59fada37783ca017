"""Groups of settings that experiments share, with the words that differ as arguments; `|` joins them to a table.

What is particular to an experiment stands in its own table, beside these groups and those of seqjax.run.recipe:

    FIELDS = fields.seed("the order of the texts and the dropout") | fields.batches("texts", 32, 64) | {...} | recipe.FIELDS
"""

from collections.abc import Sequence

from seqjax.data.image_check import BAD_FILES
from seqjax.data.readers.tables import QUOTING
from seqjax.models import CELLS
from seqjax.run.settings import Field, at_least, one_of, within

FILE = ("data.source", ("file",))
TFDS = ("data.source", ("tfds",))
FILE_OR_TFDS = ("data.source", ("file", "tfds"))
SEEDS = within(0, 2**32)
SHARE = within(0.0, 1.0)
COUNTED = ("tokenizer.kind", ("char", "word"))


def seed(of: str) -> dict[str, Field]:
    """The seed of a run.

    Args:
      of: what is drawn from it besides the parameters.

    Example:
      >>> seed("the order of the texts and the dropout")["seed"].text
      'Seed of the parameters, the order of the texts and the dropout.'
    """
    return {"seed": Field(0, f"Seed of the parameters, {of}.", SEEDS)}


def source(
    items: str,
    sources: Sequence[str],
    *,
    name: str,
    names: str,
    path: str,
    validation_path: str = "The same for validation; without it a share of the training part is held out.",
    test_path: str = "The same for the test, read by --mode=evaluate --split=test.",
    held_out: str = "training part held out where there is no validation part",
    fraction: float = 0.1,
) -> dict[str, Field]:
    """Where the data come from: source, name, the paths of files, the TFDS folder and the share that is held out.

    Args:
      items: what there are many of, such as "texts".
      sources: the values of data.source.
      name: the default of data.name.
      names: the text of data.name.
      path: the text of data.path.
      validation_path, test_path: the texts of these; "" where the experiment has no such field.
      held_out: ends the text of data.validation_fraction, after "Share of the".
      fraction: the default of data.validation_fraction.

    Example:
      >>> group = source("texts", ("embedded", "file"), name="docstrings", names="The set.", path="A .csv file.")
      >>> group["data.source"].text, group["data.path"].when
      ('Where the texts come from.', ('data.source', ('file',)))
    """
    verb = "come" if items.endswith("s") else "comes"
    paths = {"data.path": path, "data.validation_path": validation_path, "data.test_path": test_path}
    return {
        "data.source": Field("embedded", f"Where the {items} {verb} from.", one_of(*sources)),
        "data.name": Field(name, names),
        **{field: Field("", text, when=FILE) for field, text in paths.items() if text},
        "data.data_dir": Field(
            "", "TFDS folder with the prepared set; empty for ~/tensorflow_datasets.", free=True, when=TFDS
        ),
        "data.validation_fraction": Field(fraction, f"Share of the {held_out}.", within(0.001, 0.9)),
    }


def encoding() -> dict[str, Field]:
    """The encoding of text files.

    Example:
      >>> encoding()["data.encoding"].default
      'utf-8'
    """
    text = "Encoding of the files: utf-8, utf-16, cp1252 or another that Python knows."
    return {"data.encoding": Field("utf-8", text, when=FILE)}


def image_files() -> dict[str, Field]:
    """How image files and their classes are found: by tables or folders; and what becomes of bad ones.

    Example:
      >>> image_files()["data.class_levels"].default
      1
    """
    return {
        "data.image_field": Field("", "A table's field of image files; empty looks for image, path, file, id, ...", when=FILE),
        "data.label_field": Field("", "A table's field of labels; empty looks for label, class, ..., or the only other.", when=FILE),
        "data.image_folder": Field("", "Folder that a table names its images from, beside it; empty looks for it.", when=FILE),
        **table(),
        "data.class_levels": Field(1, "Levels of folders that name a class; 2 for animals/cat/1.png.", at_least(1), when=FILE),
        "data.bad_files": Field(
            "stop", "Image files that are not sound end the run before it starts, or are left out and listed.", one_of(*BAD_FILES),
            free=True, when=FILE,
        ),
    }  # fmt: skip


def split_seed() -> dict[str, Field]:
    """The seed of what is held out, apart from the run's own.

    Example:
      >>> list(split_seed())
      ['data.seed']
    """
    return {"data.seed": Field(0, "Seed of what is held out: another one, another split.", SEEDS)}


def table() -> dict[str, Field]:
    """How tables of the user's own are written; see `seqjax.data.readers.tables.Format`.

    Example:
      >>> {name: field.default for name, field in table().items()}
      {'data.delimiter': '', 'data.quoting': 'double', 'data.header': True, 'data.encoding': 'utf-8'}
    """
    return {
        "data.delimiter": Field(
            "", "Between a table's fields: a character, comma, tab, semicolon, bar or space; empty goes by the file's ending.", when=FILE
        ),
        "data.quoting": Field("double", "Of a table: fields may stand in double quotes, or quotes are text.", one_of(*QUOTING), when=FILE),
        "data.header": Field(True, "The first row of a table names its fields; without it they have numbers from 1.", when=FILE),
        **encoding(),
    }


def sides() -> dict[str, Field]:
    """The second side of pairs: files beside those of the first, fields of a table, languages of a TFDS set.

    Example:
      >>> [name for name, field in sides().items() if field.when == TFDS]
      ['data.source_language', 'data.target_language']
    """
    return {
        "data.target_path": Field("", "Their translations, line by line; empty for a table.", when=FILE),
        "data.validation_target_path": Field("", "Their translations.", when=FILE),
        "data.test_target_path": Field("", "Their translations.", when=FILE),
        "data.source_field": Field("", "Of a table, by name or number; empty: source or 1.", when=FILE),
        "data.target_field": Field("", "Of a table; empty: target, or 2.", when=FILE),
        "data.source_language": Field("", "Of a TFDS set; empty for its own choice.", when=TFDS),
        "data.target_language": Field("", "Of a TFDS set; empty for its own choice.", when=TFDS),
    }


def batches(items: str, size: int, eval_size: int) -> dict[str, Field]:
    """The batch sizes of training and evaluation.

    Args:
      items: what a batch is made of, such as "texts".
      size, eval_size: the defaults.

    Example:
      >>> batches("texts", 32, 64)["data.batch_size"].text
      'Texts of a step, B.'
    """
    items = items.capitalize()
    evaluation = f"{items} of a step in evaluation; changes speed, not the result."
    return {
        "data.batch_size": Field(size, f"{items} of a step, B.", at_least(1)),
        "data.eval_batch_size": Field(eval_size, evaluation, at_least(1), free=True),
    }


def windows(streams: int, window: int, eval_window: int) -> dict[str, Field]:
    """Streams of text side by side, cut into windows for truncated backpropagation.

    Args:
      streams: the default of data.batch_size and of data.eval_batch_size.
      window, eval_window: the defaults of these.

    Example:
      >>> windows(32, 64, 256)["data.window"].default
      64
    """
    evaluation = "Parallel streams in evaluation, each from a fresh carry; 1 is one long pass, and slow."
    return {
        "data.batch_size": Field(streams, "Parallel streams, B.", at_least(1)),
        "data.window": Field(
            window, "Steps of truncated backpropagation, T; 0 takes each stream whole.", at_least(0)
        ),
        "data.eval_batch_size": Field(streams, evaluation, at_least(1), free=True),
        "data.eval_window": Field(
            eval_window, "Window in evaluation; changes memory and speed, not the result.", at_least(1), free=True
        ),
    }


def samples(length: int, temperature: float) -> dict[str, Field]:
    """What is drawn from a model to be shown at evaluations.

    Args:
      length, temperature: defaults.

    Example:
      >>> list(samples(200, 0.8))
      ['sample.prompt', 'sample.length', 'sample.temperature']
    """
    return {
        "sample.prompt": Field("", "What the samples shown at evaluations begin with.", free=True),
        "sample.length": Field(
            length, "Tokens of a sample shown at an evaluation; 0 shows none.", at_least(0), free=True
        ),
        "sample.temperature": Field(temperature, "Their temperature.", at_least(0), free=True),
    }


def buckets(count: int, max_length: str) -> dict[str, Field]:
    """The lengths that batches of sequences are padded to, and the longest sequence.

    Args:
      count: the default of data.buckets.
      max_length: the text of data.max_length, which says what happens to longer sequences.

    Example:
      >>> buckets(5, "Longer texts are cut; 0 cuts none.")["data.buckets"].default
      5
    """
    return {
        "data.buckets": Field(count, "Lengths that batches are padded to, at most; each is compiled once.", at_least(1)),
        "data.max_length": Field(0, max_length, at_least(0)),
    }


def tokenizer(kinds: Sequence[str], kind: str, *, max_size: bool = True) -> dict[str, Field]:
    """How text becomes tokens; with subwords among the kinds, also how many of them.

    Args:
      kinds: the values of tokenizer.kind: `char`, `word` and perhaps `subword`.
      kind: the default.
      max_size: whether the vocabulary of characters or words can be limited.

    Example:
      >>> [len(tokenizer(kinds, "char")) for kinds in (("char", "word"), ("char", "word", "subword"))]
      [4, 5]
    """
    if "subword" in kinds:
        return {
            "tokenizer.kind": Field(kind, "Characters, words or pieces of words.", one_of(*kinds)),
            "tokenizer.vocab_size": Field(8000, "Pieces of words.", at_least(5), when=("tokenizer.kind", ("subword",))),
            "tokenizer.min_count": Field(1, "Rarer characters or words become <unk>.", at_least(1), when=COUNTED),
            **({"tokenizer.max_size": Field(0, _MOST, at_least(0), when=COUNTED)} if max_size else {}),
            "tokenizer.lower": Field(
                False, "Words and pieces in lower case.", when=("tokenizer.kind", ("word", "subword"))
            ),
        }
    return {
        "tokenizer.kind": Field(kind, "Characters or words.", one_of(*kinds)),
        "tokenizer.min_count": Field(1, "Rarer tokens become <unk>.", at_least(1)),
        **({"tokenizer.max_size": Field(0, _MOST_WITH_SPECIAL, at_least(0))} if max_size else {}),
        "tokenizer.lower": Field(False, "Words in lower case.", when=("tokenizer.kind", ("word",))),
    }


_MOST = "At most so many characters or words; 0 keeps all."
_MOST_WITH_SPECIAL = "At most this many tokens, the four special ones included, the most frequent; 0 keeps all."


def recurrent(
    hidden_size: int,
    embed_size: int,
    *,
    cell: str = "lstm",
    units: str = "Units of each layer and direction, H.",
    layers: str = "Layers, L.",
    embedding: str = "Width of the embedding, D.",
) -> dict[str, Field]:
    """The sizes of a recurrent model, and the dtype it computes in.

    Args:
      hidden_size, embed_size, cell: defaults.
      units, layers, embedding: the texts of hidden_size, num_layers and embed_size.

    Example:
      >>> list(recurrent(128, 100))
      ['model.cell', 'model.hidden_size', 'model.num_layers', 'model.embed_size', 'model.dtype']
    """
    return {
        "model.cell": Field(cell, "Recurrent cell.", one_of(*CELLS)),
        "model.hidden_size": Field(hidden_size, units, at_least(1)),
        "model.num_layers": Field(1, layers, at_least(1)),
        "model.embed_size": Field(embed_size, embedding, at_least(1)),
        **dtype(),
    }


def dtype() -> dict[str, Field]:
    """The dtype that a model computes in.

    Example:
      >>> dtype()["model.dtype"].default
      'float32'
    """
    return {
        "model.dtype": Field("float32", "Computation dtype; parameters stay float32.", one_of("float32", "bfloat16"))
    }


def augmentation() -> dict[str, Field]:
    """What is done to training images at random, on the device; see `seqjax.data.transforms.augmentation.Augmentation`.

    Example:
      >>> augmentation()["augment.flip"].default
      False
    """
    return {
        "augment.crop_padding": Field(
            0, "Pad with so many zeros on each side and crop at random; 4 for CIFAR.", at_least(0)
        ),
        "augment.flip": Field(False, "Mirror left and right, each image with probability 1/2."),
        "augment.cutout": Field(0, "Side of a square that is blanked out; 16 for CIFAR-10.", at_least(0)),
        "augment.mixup": Field(0.0, "alpha of mixup; 0.2 to 1.", at_least(0)),
        "augment.jitter": Field(0.0, "Random brightness, contrast and saturation, up to this share.", SHARE),
        "augment.affine_degrees": Field(0.0, "Greatest random rotation, in degrees.", within(0.0, 180.0)),
        "augment.affine_translate": Field(0.0, "Greatest random shift, as a share of the side.", SHARE),
        "augment.affine_scale": Field(0.0, "Greatest random change of size.", SHARE),
        "augment.resized_crop": Field(False, "A random part of the image, scaled to its size (ImageNet's way)."),
    }


def dropouts(**where: tuple[float, str]) -> dict[str, Field]:
    """Kinds of dropout.

    Args:
      **where: name of the field (dropout, embed_dropout, ...) to its default and to what follows "Dropout" in its text.

    Example:
      >>> dropouts(dropout=(0.5, "between layers"))["model.dropout"].text
      'Dropout between layers.'
    """
    return {f"model.{name}": Field(share, f"Dropout {text}.", SHARE) for name, (share, text) in where.items()}


def word_dropout(items: str) -> dict[str, Field]:
    """The share of tokens that are unknown in training.

    Example:
      >>> word_dropout("words")["model.word_dropout"].text
      'Share of words that become <unk> in training.'
    """
    return {"model.word_dropout": Field(0.0, f"Share of {items} that become <unk> in training.", SHARE)}


def vectors(*, when: tuple[str, tuple[str, ...]] | None = None) -> dict[str, Field]:
    """Word vectors that the embedding begins with.

    Example:
      >>> vectors()["model.vectors"].default
      ''
    """
    return {"model.vectors": Field("", "File of word vectors to begin with, GloVe's or word2vec's text.", when=when)}


def label_smoothing(target: str = "the target", over: str = "all classes") -> dict[str, Field]:
    """The share of the target that other answers get.

    Example:
      >>> label_smoothing()["loss.label_smoothing"].text
      'Share of the target that is spread over all classes.'
    """
    return {"loss.label_smoothing": Field(0.0, f"Share of {target} that is spread over {over}.", SHARE)}


def criterion(*choices: str, text: str = "What the best checkpoint is chosen by, on the validation part.") -> dict[str, Field]:
    """What the best checkpoint is chosen by; the first of the choices is the default.

    Example:
      >>> criterion("error", "loss")["criterion"].check.text
      'one of error, loss'
    """
    return {"criterion": Field(choices[0], text, one_of(*choices))}
