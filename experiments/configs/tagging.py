"""Settings of experiments/tagging.py: every field with its meaning, and the presets.

Choose a preset with `--config=experiments/configs/tagging.py:NAME`, change any field with `--config.FIELD=VALUE`.
"""

from seqjax.data.tagged import SOURCES
from seqjax.models import CELLS
from seqjax.models.tagger import CHAR_FEATURES
from seqjax.run import recipe
from seqjax.run.settings import Field, at_least, build, one_of, within

_FILE, _TFDS = ("data.source", ("file",)), ("data.source", ("tfds",))
_NOT_EMBEDDED = ("data.source", ("file", "tfds"))
_CHARS = ("model.char_features", ("rnn", "cnn"))

FIELDS = {
    "seed": Field(0, "Seed of the parameters, the order of the sentences and the dropout.", within(0, 2**32)),
    # Data.
    "data.source": Field("embedded", "Where the sentences come from.", one_of(*SOURCES)),
    "data.name": Field("python", "The embedded set (python) or TFDS set (universal_dependencies/en_ewt, ...); unused for file."),
    "data.path": Field("", "CoNLL-U (.conllu) or columns (.conll, .txt, .bio, .tsv); any may be .gz.", when=_FILE),
    "data.validation_path": Field("", "The same for validation; without it a share of the training part is held out.", when=_FILE),
    "data.test_path": Field("", "The same for the test, read by --mode=evaluate --split=test.", when=_FILE),
    "data.column": Field("", "Tags: upos (when empty), xpos, deprel of CoNLL-U; a column's number; a TFDS feature.", when=_NOT_EMBEDDED),
    "data.data_dir": Field("", "TFDS folder with the prepared set; empty for ~/tensorflow_datasets.", free=True, when=_TFDS),
    "data.validation_fraction": Field(0.1, "Share of the training part held out where there is no validation part.", within(0.001, 0.9)),
    "data.seed": Field(0, "Seed of what is held out: another one, another split.", within(0, 2**32)),
    "data.batch_size": Field(32, "Sentences of a step, B.", at_least(1)),
    "data.eval_batch_size": Field(64, "Sentences of a step in evaluation; changes speed, not the result.", at_least(1), free=True),
    "data.buckets": Field(5, "Lengths that batches are padded to, at most; each is compiled once.", at_least(1)),
    "data.max_length": Field(0, "Training sentences with more words are left out; 0 keeps all.", at_least(0)),
    "data.max_word_length": Field(20, "Of longer words the first and the last characters are read.", at_least(1), when=_CHARS),
    # Words.
    "words.min_count": Field(1, "Rarer words become <unk>; their characters are still read.", at_least(1)),
    "words.lower": Field(False, "Words are looked up in lower case; their characters stay as they are."),
    # Model and loss.
    "model.cell": Field("lstm", "Recurrent cell.", one_of(*CELLS)),
    "model.hidden_size": Field(128, "Units of each layer and direction, H.", at_least(1)),
    "model.num_layers": Field(1, "Layers, L.", at_least(1)),
    "model.embed_size": Field(100, "Width of a word's embedding, D.", at_least(1)),
    "model.char_features": Field("cnn", "How characters become features of a word.", one_of(*CHAR_FEATURES)),
    "model.char_embed_size": Field(25, "Width of a character's embedding.", at_least(1), when=_CHARS),
    "model.char_size": Field(50, "Features that the characters of a word give.", at_least(1), when=_CHARS),
    "model.crf": Field(False, "A conditional random field over the tags of a sentence, in place of a softmax for each word."),
    "model.dropout": Field(0.5, "Dropout between layers and before the scores.", within(0.0, 1.0)),
    "model.embed_dropout": Field(0.3, "Dropout on the words' features.", within(0.0, 1.0)),
    "model.word_dropout": Field(0.0, "Share of words that become <unk> in training.", within(0.0, 1.0)),
    "model.recurrent_dropout": Field(0.0, "Dropout on the recurrent product, one mask for all steps.", within(0.0, 1.0)),
    "model.vectors": Field("", "File of word vectors to begin with, GloVe's or word2vec's text."),
    "model.dtype": Field("float32", "Computation dtype; parameters stay float32.", one_of("float32", "bfloat16")),
    "criterion": Field("error", "What the best checkpoint is chosen by: wrong tags (entities: 1 - F1) or loss.", one_of("error", "loss")),
    # Optimiser, schedule, length of the run.
    **recipe.FIELDS,
}  # fmt: skip

_UD = {
    "data.source": "file",
    "words.lower": True,
    "words.min_count": 2,
    "model.embed_size": 128,
    "model.char_embed_size": 32,
    "model.char_size": 128,
    "model.hidden_size": 192,
    "model.word_dropout": 0.05,
    "optimizer.learning_rate": 3e-3,
    "optimizer.clip_norm": 5.0,
    "optimizer.ema": 0.998,
    "schedule.warmup_steps": 100,
    "train.epochs": 14.0,
    "train.log_every": 100,
    "train.eval_every": 392,
    "train.checkpoint_every": 392,
}

PRESETS = {
    # The lexical class of every token of Python's own library, names as defined or used; nothing to download.
    "python": {
        "data.max_length": 60,
        "words.min_count": 2,
        "model.embed_size": 64,
        "model.hidden_size": 96,
        "model.word_dropout": 0.1,
        "model.dropout": 0.3,
        "model.embed_dropout": 0.2,
        "optimizer.learning_rate": 4e-3,
        "optimizer.clip_norm": 5.0,
        "optimizer.ema": 0.99,
        "schedule.warmup_steps": 50,
        "train.epochs": 4.0,
        "train.eval_every": 400,
        "train.checkpoint_every": 200,
    },
    # Parts of speech of the English Web Treebank: set data.path, validation_path and test_path.
    "ud_pos": _UD,
    # The same with the conditional random field.
    "ud_pos_crf": _UD | {"model.crf": True},
    # Named entities in a file of columns (CoNLL-2003 and its like); scored by F1. NOT YET RUN: the data are not free.
    "entities": _UD | {"model.crf": True, "model.embed_size": 100, "words.min_count": 1, "train.epochs": 30.0},
}


def get_config(name: str = "python"):
    """The config of a preset.

    Raises:
      ValueError: there is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
    return build(FIELDS, PRESETS[name])
