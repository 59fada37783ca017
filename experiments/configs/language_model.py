"""Settings of experiments/language_model.py: every field with its meaning, and the presets.

Choose a preset with `--config=experiments/configs/language_model.py:NAME`, change any field with `--config.FIELD=VALUE`.
"""

from seqjax.data.sources import SOURCES
from seqjax.models import CELLS
from seqjax.run import recipe
from seqjax.run.settings import Field, at_least, build, one_of, within

FIELDS = {
    "seed": Field(0, "Seed of the parameters, the dropout and the samples.", within(0, 2**32)),
    # Data.
    "data.source": Field("embedded", "Where the text comes from.", one_of(*SOURCES)),
    "data.name": Field(
        "python_docs", "The embedded text (python_docs, python_source, hello) or TFDS set; unused for file."
    ),
    "data.path": Field(
        "",
        "Text file (.txt, .jsonl with a field `text`, either also .gz) for source=file.",
        when=("data.source", ("file",)),
    ),
    "data.validation_path": Field(
        "",
        "Validation file for source=file; without it the end of data.path is held out.",
        when=("data.source", ("file",)),
    ),
    "data.test_path": Field(
        "", "Test file for source=file, read by --mode=evaluate --split=test.", when=("data.source", ("file",))
    ),
    "data.documents": Field(
        "none",
        "What a document is in a text file: running text, each line, each paragraph.",
        one_of("none", "line", "paragraph"),
        when=("data.source", ("file",)),
    ),
    "data.reset": Field(
        True, "Forget the carry where a document begins; False reads on, with <eos> as an ordinary token."
    ),
    "data.validation_fraction": Field(
        0.1, "Share of the text held out where there is no validation file.", within(0.001, 0.9)
    ),
    "data.data_dir": Field(
        "",
        "TFDS folder with the prepared set; empty for ~/tensorflow_datasets.",
        free=True,
        when=("data.source", ("tfds",)),
    ),
    "data.batch_size": Field(32, "Parallel streams, B.", at_least(1)),
    "data.window": Field(64, "Steps of truncated backpropagation, T; 0 takes each stream whole.", at_least(0)),
    "data.eval_batch_size": Field(
        32,
        "Parallel streams in evaluation, each from a fresh carry; 1 is one long pass, and slow.",
        at_least(1),
        free=True,
    ),
    "data.eval_window": Field(
        256, "Window in evaluation; changes memory and speed, not the result.", at_least(1), free=True
    ),
    # Tokenizer.
    "tokenizer.kind": Field("char", "Characters or words.", one_of("char", "word")),
    "tokenizer.min_count": Field(1, "Rarer tokens become <unk>.", at_least(1)),
    "tokenizer.max_size": Field(
        0, "At most this many tokens, the four special ones included, the most frequent; 0 keeps all.", at_least(0)
    ),
    "tokenizer.lower": Field(False, "Words in lower case.", when=("tokenizer.kind", ("word",))),
    "tokenizer.pretokenized": Field(
        False, "Words are what stands between spaces, <unk> in the text is <unk>.", when=("tokenizer.kind", ("word",))
    ),
    "ngram_order": Field(
        6,
        "Order of the Kneser-Ney baseline that is printed beside the losses; 0 leaves it out.",
        at_least(0),
        free=True,
    ),
    # Model.
    "model.cell": Field("lstm", "Recurrent cell.", one_of(*CELLS)),
    "model.hidden_size": Field(256, "Hidden units of each layer, H.", at_least(1)),
    "model.num_layers": Field(1, "Layers, L.", at_least(1)),
    "model.embed_size": Field(64, "Width of the embedding, D.", at_least(1)),
    "model.dropout": Field(0.0, "Dropout between the layers and on the outputs of the last.", within(0.0, 1.0)),
    "model.embed_dropout": Field(0.0, "Dropout on the embedding, the first layer's inputs.", within(0.0, 1.0)),
    "model.residual": Field(False, "Layers above the first add their inputs to their outputs."),
    "model.tie_embeddings": Field(
        False, "The softmax shares the embedding's weights (needs embed_size = hidden_size)."
    ),
    "model.dtype": Field("float32", "Computation dtype; parameters stay float32.", one_of("float32", "bfloat16")),
    "model.remat_every": Field(
        0, "Keep every so many carries and compute the rest anew, to save memory; 0 keeps all.", at_least(0)
    ),
    # Optimiser, schedule, length of the run.
    **recipe.FIELDS,
    # Samples shown during training.
    "sample.prompt": Field("", "What the samples shown at evaluations begin with.", free=True),
    "sample.length": Field(200, "Tokens of a sample shown at an evaluation; 0 shows none.", at_least(0), free=True),
    "sample.temperature": Field(0.8, "Their temperature.", at_least(0), free=True),
}

# Zaremba et al. sum the loss over the window's 35 steps where we take the mean, so their learning rate of 1 and their
# clipping at 5 are 35 and 5 / 35 here.
_WORDS = {
    "tokenizer.kind": "word",
    "ngram_order": 5,
    "data.batch_size": 20,
    "data.window": 35,
    "data.eval_batch_size": 20,
    "data.eval_window": 35,
    "model.num_layers": 2,
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 35.0,
    "optimizer.clip_norm": 5 / 35,
    "schedule.name": "hold_then_decay",
    "train.eval_every": 3000,
    "train.checkpoint_every": 1000,
    "sample.length": 60,
}

PRESETS = {
    # A toy: four letters, learned by heart in seconds.
    "hello": {
        "data.name": "hello",
        "data.batch_size": 1,
        "data.window": 8,
        "data.eval_batch_size": 1,
        "data.eval_window": 8,
        "ngram_order": 2,
        "model.cell": "rnn",
        "model.hidden_size": 32,
        "model.embed_size": 8,
        "optimizer.learning_rate": 1e-2,
        "train.steps": 600,
        "train.eval_every": 200,
        "sample.length": 20,
        "sample.temperature": 1.0,
    },
    # The README's: a small LSTM over characters, under three minutes on two cores.
    "char_small": {
        "model.dropout": 0.1,
        "optimizer.learning_rate": 6e-3,
        "schedule.warmup_steps": 50,
        "train.steps": 2500,
    },
    # Characters, in about half an hour on two cores.
    "char_large": {
        "model.hidden_size": 384,
        "model.num_layers": 2,
        "model.embed_size": 96,
        "model.dropout": 0.3,
        "data.batch_size": 64,
        "optimizer.learning_rate": 4e-3,
        "schedule.warmup_steps": 100,
        "train.epochs": 11.0,
    },
    # Zaremba et al. 2014, small and medium: SGD, held and then lowered each epoch.
    "word_small": _WORDS
    | {
        "model.hidden_size": 200,
        "model.embed_size": 200,
        "model.dropout": 0.2,
        "model.embed_dropout": 0.2,
        "schedule.hold_epochs": 4,
        "schedule.decay": 0.5,
        "train.epochs": 13.0,
    },
    "word_medium": _WORDS
    | {
        "model.hidden_size": 650,
        "model.embed_size": 650,
        "model.dropout": 0.5,
        "model.embed_dropout": 0.5,
        "schedule.hold_epochs": 6,
        "schedule.decay": 1 / 1.2,
        "train.epochs": 39.0,
    },
}


def get_config(name: str = "char_small"):
    """The config of a preset.

    Raises:
      ValueError: there is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
    return build(FIELDS, PRESETS[name])
