"""Groups of settings that experiments share; arguments supply the words that differ, and `|` joins groups into a table.

An experiment adds its own fields to these groups and to those of seqjax.run.recipe:

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
      of: what else is drawn from it.

    Example:
      >>> seed("the order of the texts and the dropout")["seed"].text
      'Random seed for the parameters, the order of the texts and the dropout.'
    """
    return {"seed": Field(0, f"Random seed for the parameters, {of}.", SEEDS)}


def source(
    items: str,
    sources: Sequence[str],
    *,
    name: str,
    names: str,
    path: str,
    validation_path: str = "The same for validation; if empty, part of the training set is held out.",
    test_path: str = "The same for testing, read by --mode=evaluate --split=test.",
    held_out: str = "training set to hold out if there is no validation set",
    fraction: float = 0.1,
) -> dict[str, Field]:
    """Where the data come from: source, name, file paths, the TFDS directory and the held-out fraction.

    Args:
      items: what the data consist of, such as "texts".
      sources: the values of data.source.
      name: the default of data.name.
      names: the description of data.name.
      path: the description of data.path.
      validation_path, test_path: their descriptions; "" if the experiment does not have the field.
      held_out: ends the description of data.validation_fraction, after "Fraction of the".
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
        "data.data_dir": Field("", "TFDS directory with the prepared dataset; empty: ~/tensorflow_datasets.", free=True, when=TFDS),
        "data.validation_fraction": Field(fraction, f"Fraction of the {held_out}.", within(0.001, 0.9)),
    }


def encoding() -> dict[str, Field]:
    """The encoding of text files.

    Example:
      >>> encoding()["data.encoding"].default
      'utf-8'
    """
    text = "Encoding of the files: utf-8, utf-16, cp1252 or any other that Python knows."
    return {"data.encoding": Field("utf-8", text, when=FILE)}


def image_files() -> dict[str, Field]:
    """How image files and their classes are found, in tables or folders, and what happens to bad files.

    Example:
      >>> image_files()["data.class_levels"].default
      1
    """
    return {
        "data.image_field": Field("", "Table field with the image files; empty: image, path, file, id, ...", when=FILE),
        "data.label_field": Field("", "Table field with labels; empty: label, class or the only other.", when=FILE),
        "data.image_folder": Field("", "Folder of a table's images, beside the table; empty: searched for.", when=FILE),
        **table(),
        "data.class_levels": Field(1, "Folder levels that make up a class name; 2 for animals/cat/1.png.", at_least(1), when=FILE),
        "data.bad_files": Field(
            "stop",
            "Unreadable image files stop the run before training, or are skipped and listed.",
            one_of(*BAD_FILES),
            free=True,
            when=FILE,
        ),
    }


def split_seed() -> dict[str, Field]:
    """The seed of the held-out split, separate from the run's own.

    Example:
      >>> list(split_seed())
      ['data.seed']
    """
    return {"data.seed": Field(0, "Seed of the held-out split; a different seed gives a different split.", SEEDS)}


def table() -> dict[str, Field]:
    """The format of the user's own tables; see `seqjax.data.readers.tables.Format`.

    Example:
      >>> {name: field.default for name, field in table().items()}
      {'data.delimiter': '', 'data.quoting': 'double', 'data.header': True, 'data.encoding': 'utf-8'}
    """
    return {
        "data.delimiter": Field("", "Table delimiter: a character, comma, tab, semicolon, bar or space; empty: by extension.", when=FILE),
        "data.quoting": Field("double", "In tables: values may be in double quotes, or quotes are text.", one_of(*QUOTING), when=FILE),
        "data.header": Field(True, "The first row of a table names the fields; otherwise they are numbered from 1.", when=FILE),
        **encoding(),
    }


def sides() -> dict[str, Field]:
    """The target side of pairs: parallel files, fields of a table, or languages of a TFDS dataset.

    Example:
      >>> [name for name, field in sides().items() if field.when == TFDS]
      ['data.source_language', 'data.target_language']
    """
    return {
        "data.target_path": Field("", "Translations of data.path, line by line; empty for a table.", when=FILE),
        "data.validation_target_path": Field("", "Translations of data.validation_path.", when=FILE),
        "data.test_target_path": Field("", "Translations of data.test_path.", when=FILE),
        "data.source_field": Field("", "Table field with the sources, by name or number; empty: source, or 1.", when=FILE),
        "data.target_field": Field("", "Table field with the targets, by name or number; empty: target, or 2.", when=FILE),
        "data.source_language": Field("", "Source language of a TFDS dataset; empty: the dataset's default.", when=TFDS),
        "data.target_language": Field("", "Target language of a TFDS dataset; empty: the dataset's default.", when=TFDS),
    }


def batches(items: str, size: int, eval_size: int) -> dict[str, Field]:
    """The batch sizes of training and evaluation.

    Args:
      items: what a batch is made of, such as "texts".
      size, eval_size: the defaults.

    Example:
      >>> batches("texts", 32, 64)["data.batch_size"].text
      'Texts per step, B.'
    """
    items = items.capitalize()
    evaluation = f"{items} per step in evaluation; affects speed, not the results."
    return {
        "data.batch_size": Field(size, f"{items} per step, B.", at_least(1)),
        "data.eval_batch_size": Field(eval_size, evaluation, at_least(1), free=True),
    }


def windows(streams: int, window: int, eval_window: int) -> dict[str, Field]:
    """Parallel streams of text, cut into windows for truncated backpropagation.

    Args:
      streams: the default of data.batch_size and of data.eval_batch_size.
      window, eval_window: the defaults of these.

    Example:
      >>> windows(32, 64, 256)["data.window"].default
      64
    """
    evaluation = "Parallel streams in evaluation, each from an initial carry; 1 is a single, slow pass."
    return {
        "data.batch_size": Field(streams, "Parallel streams, B.", at_least(1)),
        "data.window": Field(window, "Steps of truncated backpropagation, T; 0: each stream as a whole.", at_least(0)),
        "data.eval_batch_size": Field(streams, evaluation, at_least(1), free=True),
        "data.eval_window": Field(eval_window, "Window in evaluation; affects memory and speed, not the results.", at_least(1), free=True),
    }


def samples(length: int, temperature: float) -> dict[str, Field]:
    """Samples from the model, shown at each evaluation.

    Args:
      length, temperature: defaults.

    Example:
      >>> list(samples(200, 0.8))
      ['sample.prompt', 'sample.length', 'sample.temperature']
    """
    return {
        "sample.prompt": Field("", "Prompt of the samples shown at each evaluation.", free=True),
        "sample.length": Field(length, "Tokens in the sample shown at each evaluation; 0: no sample.", at_least(0), free=True),
        "sample.temperature": Field(temperature, "Temperature of these samples.", at_least(0), free=True),
    }


def buckets(count: int, max_length: str) -> dict[str, Field]:
    """The lengths that batches of sequences are padded to, and the longest sequence.

    Args:
      count: the default of data.buckets.
      max_length: the description of data.max_length, which says what happens to longer sequences.

    Example:
      >>> buckets(5, "Longer texts are cut; 0 cuts none.")["data.buckets"].default
      5
    """
    return {
        "data.buckets": Field(count, "Maximum number of padded lengths; each is compiled once.", at_least(1)),
        "data.max_length": Field(0, max_length, at_least(0)),
    }


def tokenizer(kinds: Sequence[str], kind: str, *, max_size: bool = True) -> dict[str, Field]:
    """How text becomes tokens; if subwords are among the kinds, also their number.

    Args:
      kinds: the values of tokenizer.kind: `char`, `word` and perhaps `subword`.
      kind: the default.
      max_size: whether the size of a character or word vocabulary can be limited.

    Example:
      >>> [len(tokenizer(kinds, "char")) for kinds in (("char", "word"), ("char", "word", "subword"))]
      [4, 5]
    """
    if "subword" in kinds:
        return {
            "tokenizer.kind": Field(kind, "Tokens: characters, words or subwords.", one_of(*kinds)),
            "tokenizer.vocab_size": Field(8000, "Number of subwords.", at_least(5), when=("tokenizer.kind", ("subword",))),
            "tokenizer.min_count": Field(1, "Rarer characters or words become <unk>.", at_least(1), when=COUNTED),
            **({"tokenizer.max_size": Field(0, _MOST, at_least(0), when=COUNTED)} if max_size else {}),
            "tokenizer.lower": Field(False, "Lowercase words and subwords.", when=("tokenizer.kind", ("word", "subword"))),
        }
    return {
        "tokenizer.kind": Field(kind, "Tokens: characters or words.", one_of(*kinds)),
        "tokenizer.min_count": Field(1, "Rarer tokens become <unk>.", at_least(1)),
        **({"tokenizer.max_size": Field(0, _MOST_WITH_SPECIAL, at_least(0))} if max_size else {}),
        "tokenizer.lower": Field(False, "Lowercase words.", when=("tokenizer.kind", ("word",))),
    }


_MOST = "Maximum vocabulary size; 0 keeps all characters or words."
_MOST_WITH_SPECIAL = "Maximum vocabulary size, including the four special tokens; the most frequent stay, 0 keeps all."


def recurrent(
    hidden_size: int,
    embed_size: int,
    *,
    cell: str = "lstm",
    units: str = "Hidden units per layer and direction, H.",
    layers: str = "Number of layers, L.",
    embedding: str = "Width of the embedding, D.",
) -> dict[str, Field]:
    """The sizes of a recurrent model, and the dtype it computes in.

    Args:
      hidden_size, embed_size, cell: defaults.
      units, layers, embedding: the descriptions of hidden_size, num_layers and embed_size.

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
    return {"model.dtype": Field("float32", "Computation dtype; parameters stay float32.", one_of("float32", "bfloat16"))}


def augmentation() -> dict[str, Field]:
    """Random augmentation of training images, on the device; see `seqjax.data.transforms.augmentation.Augmentation`.

    Example:
      >>> augmentation()["augment.flip"].default
      False
    """
    return {
        "augment.crop_padding": Field(0, "Random crop after padding each side with this many zeros; 4 for CIFAR.", at_least(0)),
        "augment.flip": Field(False, "Flip each image left to right with probability 1/2."),
        "augment.cutout": Field(0, "Side of the square that cutout blanks; 16 for CIFAR-10.", at_least(0)),
        "augment.mixup": Field(0.0, "alpha of mixup, usually 0.2 to 1.", at_least(0)),
        "augment.jitter": Field(0.0, "Maximum random change of brightness, contrast and saturation, as a fraction.", SHARE),
        "augment.affine_degrees": Field(0.0, "Maximum random rotation, in degrees.", within(0.0, 180.0)),
        "augment.affine_translate": Field(0.0, "Maximum random shift, as a fraction of the side.", SHARE),
        "augment.affine_scale": Field(0.0, "Maximum random change of scale.", SHARE),
        "augment.resized_crop": Field(False, "Crop a random part and resize it to the full size, as is usual for ImageNet."),
    }


def dropouts(**where: tuple[float, str]) -> dict[str, Field]:
    """Kinds of dropout.

    Args:
      **where: field name (dropout, embed_dropout, ...) -> (default, what follows "Dropout" in its description).

    Example:
      >>> dropouts(dropout=(0.5, "between layers"))["model.dropout"].text
      'Dropout between layers.'
    """
    return {f"model.{name}": Field(share, f"Dropout {text}.", SHARE) for name, (share, text) in where.items()}


def word_dropout(items: str) -> dict[str, Field]:
    """The fraction of tokens replaced by <unk> in training.

    Example:
      >>> word_dropout("words")["model.word_dropout"].text
      'Fraction of words replaced by <unk> in training.'
    """
    return {"model.word_dropout": Field(0.0, f"Fraction of {items} replaced by <unk> in training.", SHARE)}


def vectors(*, when: tuple[str, tuple[str, ...]] | None = None) -> dict[str, Field]:
    """Pretrained word vectors for the embedding.

    Example:
      >>> vectors()["model.vectors"].default
      ''
    """
    return {"model.vectors": Field("", "File of pretrained word vectors, in GloVe or word2vec text format.", when=when)}


def label_smoothing(target: str = "the target", over: str = "all classes") -> dict[str, Field]:
    """The fraction of the target that is spread over other answers.

    Example:
      >>> label_smoothing()["loss.label_smoothing"].text
      'Fraction of the target that is spread over all classes.'
    """
    return {"loss.label_smoothing": Field(0.0, f"Fraction of {target} that is spread over {over}.", SHARE)}


def criterion(*choices: str, text: str = "Validation metric that selects the best checkpoint.") -> dict[str, Field]:
    """The metric that selects the best checkpoint; the first choice is the default.

    Example:
      >>> criterion("error", "loss")["criterion"].check.text
      'one of error, loss'
    """
    return {"criterion": Field(choices[0], text, one_of(*choices))}
