"""Settings of experiments/translation.py: every field with its meaning, and the presets.

Choose a preset with `--config=experiments/configs/translation.py:NAME`, change any field with `--config.FIELD=VALUE`.
"""

from seqjax.data.parallel import SOURCES
from seqjax.models import CELLS
from seqjax.models.seq2seq import ATTENTIONS
from seqjax.run import recipe
from seqjax.run.settings import Field, at_least, build, one_of, within

_FILE, _TFDS = ("data.source", ("file",)), ("data.source", ("tfds",))

FIELDS = {
    "seed": Field(0, "Seed of the parameters, the order of the pairs and the dropout.", within(0, 2**32)),
    # Data.
    "data.source": Field("embedded", "Where the pairs come from.", one_of(*SOURCES)),
    "data.name": Field("dates", "The embedded set (dates) or TFDS set (ted_hrlr_translate/pt_to_en, ...); for files what to call them."),
    "data.path": Field("", "Text file of the sources, a line each, for source=file; may be .gz.", when=_FILE),
    "data.target_path": Field("", "Text file of their translations, line by line.", when=_FILE),
    "data.validation_path": Field("", "Sources of the validation part; without it a share of the training is held out.", when=_FILE),
    "data.validation_target_path": Field("", "Their translations.", when=_FILE),
    "data.test_path": Field("", "Sources of the test part, read by --mode=evaluate --split=test.", when=_FILE),
    "data.test_target_path": Field("", "Their translations.", when=_FILE),
    "data.source_language": Field("", "Of a TFDS set; empty for its own choice.", when=_TFDS),
    "data.target_language": Field("", "Of a TFDS set; empty for its own choice.", when=_TFDS),
    "data.data_dir": Field("", "TFDS folder with the prepared set; empty for ~/tensorflow_datasets.", free=True, when=_TFDS),
    "data.validation_fraction": Field(0.05, "Share of the training pairs held out where there is no validation part.", within(0.001, 0.9)),
    "data.seed": Field(0, "Seed of what is held out: another one, another split.", within(0, 2**32)),
    "data.batch_size": Field(64, "Pairs of a step, B.", at_least(1)),
    "data.eval_batch_size": Field(64, "Pairs of a step in evaluation; changes speed, not the result.", at_least(1), free=True),
    "data.buckets": Field(4, "Lengths that batches are padded to, at most; each is compiled once.", at_least(1)),
    "data.max_length": Field(0, "Training pairs with more tokens on a side are left out; 0 keeps all.", at_least(0)),
    # Tokens.
    "tokenizer.kind": Field("subword", "Characters, words or pieces of words.", one_of("char", "word", "subword")),
    "tokenizer.vocab_size": Field(8000, "Pieces of words.", at_least(5), when=("tokenizer.kind", ("subword",))),
    "tokenizer.min_count": Field(1, "Rarer characters or words become <unk>.", at_least(1), when=("tokenizer.kind", ("char", "word"))),
    "tokenizer.joint": Field(False, "One vocabulary for both sides."),
    "tokenizer.lower": Field(False, "Words and pieces in lower case.", when=("tokenizer.kind", ("word", "subword"))),
    # Model and loss.
    "model.cell": Field("gru", "Recurrent cell.", one_of(*CELLS)),
    "model.hidden_size": Field(256, "Units of each encoder direction and of the decoder, H.", at_least(1)),
    "model.num_layers": Field(1, "Layers of each.", at_least(1)),
    "model.embed_size": Field(256, "Width of the embeddings, E.", at_least(1)),
    "model.attention": Field("luong_general", "How the decoder looks at the source.", one_of(*ATTENTIONS)),
    "model.input_feeding": Field(False, "Luong's kinds: the attentional vector goes into the next step too."),
    "model.dropout": Field(0.0, "Dropout on embeddings, between layers and before the softmax.", within(0.0, 1.0)),
    "model.recurrent_dropout": Field(0.0, "Dropout on the encoder's recurrent product, one mask for all steps.", within(0.0, 1.0)),
    "model.scheduled_sampling": Field(0.0, "Share of the decoder's inputs that are its own choices in training.", within(0.0, 1.0)),
    "model.share_embeddings": Field(False, "Source and target have one embedding.", when=("tokenizer.joint", (True,))),
    "model.tie_embeddings": Field(False, "The softmax shares the target embedding's weights."),
    "model.dtype": Field("float32", "Computation dtype; parameters stay float32.", one_of("float32", "bfloat16")),
    "loss.label_smoothing": Field(0.0, "Share of each target that is spread over the vocabulary.", within(0.0, 1.0)),
    "criterion": Field("bleu", "What the best checkpoint is chosen by, on the validation part.", one_of("bleu", "exact", "loss")),
    # Optimiser, schedule, length of the run.
    **recipe.FIELDS,
}  # fmt: skip

_MULTI30K = {
    "data.source": "file",
    "data.name": "multi30k",
    "data.max_length": 60,
    "tokenizer.joint": True,
    "model.hidden_size": 512,
    "model.embed_size": 256,
    "model.dropout": 0.4,
    "model.share_embeddings": True,
    "model.tie_embeddings": True,
    "loss.label_smoothing": 0.1,
    "optimizer.learning_rate": 2e-3,
    "optimizer.ema": 0.998,
    "schedule.warmup_steps": 200,
    "train.epochs": 12.0,
    "train.log_every": 100,
    "train.eval_every": 454,
    "train.checkpoint_every": 227,
}

PRESETS = {
    # Written dates of 32 languages to ISO dates, character by character: minutes on two cores, nothing to download.
    "dates": {
        "data.batch_size": 64,
        "data.eval_batch_size": 256,
        "tokenizer.kind": "char",
        "model.hidden_size": 128,
        "model.embed_size": 64,
        "criterion": "exact",
        "optimizer.learning_rate": 3e-3,
        "schedule.warmup_steps": 100,
        "train.epochs": 3.0,
        "train.log_every": 200,
        "train.eval_every": 600,
        "train.checkpoint_every": 300,
    },
    # Multi30k, German to English: set data.path and its five companions.
    "multi30k": _MULTI30K | {"model.input_feeding": True},
    # The same without attention, for comparison.
    "multi30k_no_attention": _MULTI30K | {"model.attention": "none", "model.embed_size": 512},
}


def get_config(name: str = "dates"):
    """The config of a preset.

    Raises:
      ValueError: there is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
    return build(FIELDS, PRESETS[name])
