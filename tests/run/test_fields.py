"""The shared groups of settings: the tables of the first five experiments, made of them, are what they have always been."""

import json
import pathlib

import pytest

from seqjax.data import images, labelled, parallel, sources, tagged
from seqjax.models.classifier import POOLING
from seqjax.models.seq2seq import ATTENTIONS
from seqjax.models.tagger import CHAR_FEATURES
from seqjax.run import fields, recipe
from seqjax.run.fields import FILE, FILE_OR_TFDS, TFDS
from seqjax.run.settings import ANYTHING, Field, at_least, build, one_of, validate, within
from seqjax.text.fitting import KINDS

# name -> default, text, range, free and when of each field, as they were before there were groups
BEFORE = json.loads((pathlib.Path(__file__).parents[1] / "assets" / "fields.json").read_text("utf-8"))

LANGUAGE_MODEL = (
    fields.seed("the dropout and the samples")
    | fields.source(
        "text", sources.SOURCES, name="python_docs",
        names="The embedded text (python_docs, python_source, hello) or TFDS set; unused for file.",
        path="Text file (.txt, .jsonl with a field `text`, either also .gz) for source=file.",
        validation_path="Validation file for source=file; without it the end of data.path is held out.",
        test_path="Test file for source=file, read by --mode=evaluate --split=test.",
        held_out="text held out where there is no validation file",
    )
    | {
        "data.documents": Field("none", "What a document is in a text file: running text, each line, each paragraph.",
                                one_of("none", "line", "paragraph"), when=FILE),
        "data.reset": Field(True, "Forget the carry where a document begins; False reads on, with <eos> as an ordinary token."),
        "data.batch_size": Field(32, "Parallel streams, B.", at_least(1)),
        "data.window": Field(64, "Steps of truncated backpropagation, T; 0 takes each stream whole.", at_least(0)),
        "data.eval_batch_size": Field(
            32, "Parallel streams in evaluation, each from a fresh carry; 1 is one long pass, and slow.", at_least(1), free=True),
        "data.eval_window": Field(256, "Window in evaluation; changes memory and speed, not the result.", at_least(1), free=True),
    }
    | fields.tokenizer(("char", "word"), "char")
    | {
        "tokenizer.pretokenized": Field(False, "Words are what stands between spaces, <unk> in the text is <unk>.",
                                        when=("tokenizer.kind", ("word",))),
        "ngram_order": Field(6, "Order of the Kneser-Ney baseline that is printed beside the losses; 0 leaves it out.",
                             at_least(0), free=True),
    }
    | fields.recurrent(256, 64, units="Hidden units of each layer, H.")
    | fields.dropouts(dropout=(0.0, "between the layers and on the outputs of the last"),
                      embed_dropout=(0.0, "on the embedding, the first layer's inputs"))
    | {
        "model.residual": Field(False, "Layers above the first add their inputs to their outputs."),
        "model.tie_embeddings": Field(False, "The softmax shares the embedding's weights (needs embed_size = hidden_size)."),
        "model.remat_every": Field(0, "Keep every so many carries and compute the rest anew, to save memory; 0 keeps all.", at_least(0)),
        "sample.prompt": Field("", "What the samples shown at evaluations begin with.", free=True),
        "sample.length": Field(200, "Tokens of a sample shown at an evaluation; 0 shows none.", at_least(0), free=True),
        "sample.temperature": Field(0.8, "Their temperature.", at_least(0), free=True),
    }
)  # fmt: skip

TEXT_CLASSIFICATION = (
    fields.seed("the order of the texts and the dropout")
    | fields.source(
        "texts", labelled.SOURCES, name="docstrings",
        names="The embedded set (docstrings) or TFDS set (imdb_reviews, ...); unused for file.",
        path=".jsonl, .csv or .tsv with text and label, or a folder with a file or folder for each class.",
    )
    | {
        "data.text_field": Field("text", "Where the text stands in a record.", when=FILE_OR_TFDS),
        "data.label_field": Field("label", "Where the label stands in a record.", when=FILE_OR_TFDS),
        "data.test_fraction": Field(0.0, "Share held out as test part where there is none; 0 holds none out.", within(0.0, 0.9)),
        "data.strip_html": Field(False, "Take tags such as <br /> out and turn entities into characters."),
    }
    | fields.split_seed()
    | fields.batches("texts", 32, 64)
    | fields.buckets(5, "Longer texts are cut to this many tokens, in training and after; 0 cuts none.")
    | {"data.keep": Field("start", "Which part of a text stays that is cut.", one_of("start", "end"))}
    | fields.tokenizer(KINDS, "word")
    | fields.recurrent(128, 100)
    | {
        "model.bidirectional": Field(True, "Every layer reads in both directions."),
        "model.pooling": Field("attention", "What becomes of the outputs of all steps.", one_of(*POOLING)),
    }
    | fields.dropouts(
        dropout=(0.3, "between layers and before the softmax"), embed_dropout=(0.3, "on the embeddings"),
        recurrent_dropout=(0.0, "on the recurrent product, one mask for all steps"),
    )
    | fields.word_dropout("tokens")
    | fields.vectors(when=("tokenizer.kind", ("word",)))
    | fields.label_smoothing()
    | fields.criterion("error", "loss")
)  # fmt: skip

_CHARS = ("model.char_features", ("rnn", "cnn"))
TAGGING = (
    fields.seed("the order of the sentences and the dropout")
    | fields.source(
        "sentences", tagged.SOURCES, name="python",
        names="The embedded set (python) or TFDS set (universal_dependencies/en_ewt, ...); unused for file.",
        path="CoNLL-U (.conllu) or columns (.conll, .txt, .bio, .tsv); any may be .gz.",
    )
    | {"data.column": Field("", "Tags: upos (when empty), xpos, deprel of CoNLL-U; a column's number; a TFDS feature.", when=FILE_OR_TFDS)}
    | fields.split_seed()
    | fields.batches("sentences", 32, 64)
    | fields.buckets(5, "Training sentences with more words are left out; 0 keeps all.")
    | {
        "data.max_word_length": Field(20, "Of longer words the first and the last characters are read.", at_least(1), when=_CHARS),
        "words.min_count": Field(1, "Rarer words become <unk>; their characters are still read.", at_least(1)),
        "words.lower": Field(False, "Words are looked up in lower case; their characters stay as they are."),
    }
    | fields.recurrent(128, 100, embedding="Width of a word's embedding, D.")
    | {
        "model.char_features": Field("cnn", "How characters become features of a word.", one_of(*CHAR_FEATURES)),
        "model.char_embed_size": Field(25, "Width of a character's embedding.", at_least(1), when=_CHARS),
        "model.char_size": Field(50, "Features that the characters of a word give.", at_least(1), when=_CHARS),
        "model.crf": Field(False, "A conditional random field over the tags of a sentence, in place of a softmax for each word."),
    }
    | fields.dropouts(
        dropout=(0.5, "between layers and before the scores"), embed_dropout=(0.3, "on the words' features"),
        recurrent_dropout=(0.0, "on the recurrent product, one mask for all steps"),
    )
    | fields.word_dropout("words")
    | fields.vectors()
    | fields.criterion("error", "loss", text="What the best checkpoint is chosen by: wrong tags (entities: 1 - F1) or loss.")
)  # fmt: skip

TRANSLATION = (
    fields.seed("the order of the pairs and the dropout")
    | fields.source(
        "pairs", parallel.SOURCES, name="dates",
        names="The embedded set (dates) or TFDS set (ted_hrlr_translate/pt_to_en, ...); for files what to call them.",
        path="Text file of the sources, a line each, for source=file; may be .gz.",
        validation_path="Sources of the validation part; without it a share of the training is held out.",
        test_path="Sources of the test part, read by --mode=evaluate --split=test.",
        held_out="training pairs held out where there is no validation part", fraction=0.05,
    )
    | {
        "data.target_path": Field("", "Text file of their translations, line by line.", when=FILE),
        "data.validation_target_path": Field("", "Their translations.", when=FILE),
        "data.test_target_path": Field("", "Their translations.", when=FILE),
        "data.source_language": Field("", "Of a TFDS set; empty for its own choice.", when=TFDS),
        "data.target_language": Field("", "Of a TFDS set; empty for its own choice.", when=TFDS),
    }
    | fields.split_seed()
    | fields.batches("pairs", 64, 64)
    | fields.buckets(4, "Training pairs with more tokens on a side are left out; 0 keeps all.")
    | fields.tokenizer(("char", "word", "subword"), "subword", max_size=False)
    | {"tokenizer.joint": Field(False, "One vocabulary for both sides.")}
    | fields.recurrent(256, 256, cell="gru", units="Units of each encoder direction and of the decoder, H.",
                       layers="Layers of each.", embedding="Width of the embeddings, E.")
    | {
        "model.attention": Field("luong_general", "How the decoder looks at the source.", one_of(*ATTENTIONS)),
        "model.input_feeding": Field(False, "Luong's kinds: the attentional vector goes into the next step too."),
        "model.scheduled_sampling": Field(0.0, "Share of the decoder's inputs that are its own choices in training.", within(0.0, 1.0)),
        "model.share_embeddings": Field(False, "Source and target have one embedding.", when=("tokenizer.joint", (True,))),
        "model.tie_embeddings": Field(False, "The softmax shares the target embedding's weights."),
    }
    | fields.dropouts(dropout=(0.0, "on embeddings, between layers and before the softmax"),
                      recurrent_dropout=(0.0, "on the encoder's recurrent product, one mask for all steps"))
    | fields.label_smoothing("each target", "the vocabulary")
    | fields.criterion("bleu", "exact", "loss")
)  # fmt: skip

IMAGE_CLASSIFICATION = (
    fields.seed("the order of the images, the augmentation and the dropout")
    | fields.source(
        "images", images.SOURCES, name="digits",
        names="The embedded set (digits) or TFDS set (mnist, cifar10, ...); unused for file.",
        path="Folder of idx files, .npz file or folder with a folder of images for each class, for source=file.",
        validation_path="", test_path="", held_out="training images held out where there is no validation part",
    )
    | fields.batches("images", 128, 256)
    | fields.dtype()
    | fields.label_smoothing()
)  # fmt: skip
PARTICULAR = ("augment.", "data.image_size", "data.workers", "model.name", "model.options", "loss.aux_weight")

TABLES = {
    "language_model": LANGUAGE_MODEL,
    "text_classification": TEXT_CLASSIFICATION,
    "tagging": TAGGING,
    "translation": TRANSLATION,
    "image_classification": IMAGE_CLASSIFICATION,
}


def plain(field: Field) -> dict:
    when = [field.when[0], list(field.when[1])] if field.when else None
    return {"default": field.default, "text": field.text, "check": field.check.text, "free": field.free, "when": when}


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_are_what_they_were(name):
    before = BEFORE[name]
    if name == "image_classification":
        before = {field: value for field, value in before.items() if not field.startswith(PARTICULAR)}
    assert {field: plain(value) for field, value in TABLES[name].items()} == before
    for field, value in TABLES[name].items():
        assert type(value.default) is type(before[field]["default"]), field
        assert (value.check is ANYTHING) == (before[field]["check"] == "anything"), field


@pytest.mark.parametrize("name", TABLES)
def test_they_build_beside_the_recipe(name):
    assert not TABLES[name].keys() & recipe.FIELDS.keys()
    table = TABLES[name] | recipe.FIELDS
    validate(build(table), table)
