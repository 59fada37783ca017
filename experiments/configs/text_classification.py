"""Settings of experiments/text_classification.py: every field with its meaning, and the presets.

Choose a preset with `--config=experiments/configs/text_classification.py:NAME`, change any field with `--config.FIELD=VALUE`.
"""

from seqjax.data.labelled import SOURCES
from seqjax.models import CELLS
from seqjax.models.classifier import POOLING
from seqjax.run import recipe
from seqjax.run.settings import Field, at_least, build, one_of, within
from seqjax.text.fitting import KINDS

_FILE, _TFDS = ("data.source", ("file",)), ("data.source", ("tfds",))
_COUNTED = ("tokenizer.kind", ("char", "word"))

FIELDS = {
    "seed": Field(0, "Seed of the parameters, the order of the texts and the dropout.", within(0, 2**32)),
    # Data.
    "data.source": Field("embedded", "Where the texts come from.", one_of(*SOURCES)),
    "data.name": Field("docstrings", "The embedded set (docstrings) or TFDS set (imdb_reviews, ...); unused for file."),
    "data.path": Field("", ".jsonl, .csv or .tsv with text and label, or a folder with a file or folder for each class.", when=_FILE),
    "data.validation_path": Field("", "The same for validation; without it a share of the training part is held out.", when=_FILE),
    "data.test_path": Field("", "The same for the test, read by --mode=evaluate --split=test.", when=_FILE),
    "data.text_field": Field("text", "Where the text stands in a record.", when=("data.source", ("file", "tfds"))),
    "data.label_field": Field("label", "Where the label stands in a record.", when=("data.source", ("file", "tfds"))),
    "data.data_dir": Field("", "TFDS folder with the prepared set; empty for ~/tensorflow_datasets.", free=True, when=_TFDS),
    "data.validation_fraction": Field(0.1, "Share of the training part held out where there is no validation part.", within(0.001, 0.9)),
    "data.test_fraction": Field(0.0, "Share held out as test part where there is none; 0 holds none out.", within(0.0, 0.9)),
    "data.strip_html": Field(False, "Take tags such as <br /> out and turn entities into characters."),
    "data.seed": Field(0, "Seed of what is held out: another one, another split.", within(0, 2**32)),
    "data.batch_size": Field(32, "Texts of a step, B.", at_least(1)),
    "data.eval_batch_size": Field(64, "Texts of a step in evaluation; changes speed, not the result.", at_least(1), free=True),
    "data.buckets": Field(5, "Lengths that batches are padded to, at most; each is compiled once.", at_least(1)),
    "data.max_length": Field(0, "Longer texts are cut to this many tokens, in training and after; 0 cuts none.", at_least(0)),
    "data.keep": Field("start", "Which part of a text stays that is cut.", one_of("start", "end")),
    # Tokens.
    "tokenizer.kind": Field("word", "Characters, words or pieces of words.", one_of(*KINDS)),
    "tokenizer.vocab_size": Field(8000, "Pieces of words.", at_least(5), when=("tokenizer.kind", ("subword",))),
    "tokenizer.min_count": Field(1, "Rarer characters or words become <unk>.", at_least(1), when=_COUNTED),
    "tokenizer.max_size": Field(0, "At most so many characters or words; 0 keeps all.", at_least(0), when=_COUNTED),
    "tokenizer.lower": Field(False, "Words and pieces in lower case.", when=("tokenizer.kind", ("word", "subword"))),
    # Model and loss.
    "model.cell": Field("lstm", "Recurrent cell.", one_of(*CELLS)),
    "model.hidden_size": Field(128, "Units of each layer and direction, H.", at_least(1)),
    "model.num_layers": Field(1, "Layers, L.", at_least(1)),
    "model.bidirectional": Field(True, "Every layer reads in both directions."),
    "model.embed_size": Field(100, "Width of the embedding, D.", at_least(1)),
    "model.pooling": Field("attention", "What becomes of the outputs of all steps.", one_of(*POOLING)),
    "model.dropout": Field(0.3, "Dropout between layers and before the softmax.", within(0.0, 1.0)),
    "model.embed_dropout": Field(0.3, "Dropout on the embeddings.", within(0.0, 1.0)),
    "model.word_dropout": Field(0.0, "Share of tokens that become <unk> in training.", within(0.0, 1.0)),
    "model.recurrent_dropout": Field(0.0, "Dropout on the recurrent product, one mask for all steps.", within(0.0, 1.0)),
    "model.vectors": Field("", "File of word vectors to begin with, GloVe's or word2vec's text.", when=("tokenizer.kind", ("word",))),
    "model.dtype": Field("float32", "Computation dtype; parameters stay float32.", one_of("float32", "bfloat16")),
    "loss.label_smoothing": Field(0.0, "Share of the target that is spread over all classes.", within(0.0, 1.0)),
    "criterion": Field("error", "What the best checkpoint is chosen by, on the validation part.", one_of("error", "loss")),
    # Optimiser, schedule, length of the run.
    **recipe.FIELDS,
}  # fmt: skip

PRESETS = {
    # Which part of Python's library is a docstring from? Words, a minute on two cores, nothing to download.
    "docstrings": {
        "tokenizer.lower": True,
        "tokenizer.min_count": 2,
        "data.max_length": 100,
        "data.batch_size": 16,
        "model.hidden_size": 128,
        "model.embed_size": 128,
        "model.pooling": "attention",
        "model.dropout": 0.5,
        "model.embed_dropout": 0.5,
        "model.word_dropout": 0.2,
        "optimizer.learning_rate": 3e-3,
        "optimizer.clip_norm": 5.0,
        "optimizer.ema": 0.99,
        "schedule.warmup_steps": 50,
        "train.epochs": 20.0,
        "train.eval_every": 200,
        "train.checkpoint_every": 200,
    },
    # Film reviews, good or bad.
    "imdb": {
        "data.source": "tfds",
        "data.name": "imdb_reviews",
        "data.strip_html": True,
        "data.validation_fraction": 0.1,
        "data.batch_size": 64,
        "data.max_length": 400,
        "data.buckets": 6,
        "tokenizer.lower": True,
        "tokenizer.max_size": 20_000,
        "model.hidden_size": 128,
        "model.embed_size": 100,
        "model.pooling": "attention",
        "model.dropout": 0.5,
        "model.embed_dropout": 0.5,
        "model.word_dropout": 0.1,
        "optimizer.learning_rate": 2e-3,
        "optimizer.clip_norm": 5.0,
        "optimizer.ema": 0.998,
        "schedule.warmup_steps": 100,
        "train.epochs": 6.0,
        "train.log_every": 100,
        "train.eval_every": 352,
        "train.checkpoint_every": 176,
    },
    # Surnames of 18 languages, character by character; the folder has a file for each language.
    "names": {
        "data.source": "file",
        "data.test_fraction": 0.1,
        "data.batch_size": 64,
        "data.eval_batch_size": 256,
        "tokenizer.kind": "char",
        "model.hidden_size": 128,
        "model.embed_size": 32,
        "model.pooling": "max",
        "model.dropout": 0.4,
        "model.embed_dropout": 0.1,
        "optimizer.learning_rate": 3e-3,
        "optimizer.clip_norm": 5.0,
        "optimizer.ema": 0.998,
        "schedule.warmup_steps": 100,
        "train.epochs": 20.0,
        "train.log_every": 200,
        "train.eval_every": 500,
        "train.checkpoint_every": 500,
    },
}


def get_config(name: str = "docstrings"):
    """The config of a preset.

    Raises:
      ValueError: there is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
    return build(FIELDS, PRESETS[name])
