"""Text as integers: character, word and subword tokenizers, word vectors, and n-gram models to compare with."""

from seqjax.text.fitting import fit_pair, fit_tokenizer
from seqjax.text.ngram import NGramModel
from seqjax.text.storage import load_tokenizer, save_tokenizer, tokenizer_from_dict
from seqjax.text.subword import SubwordTokenizer
from seqjax.text.tokenizers import CharTokenizer, Report, WordTokenizer, report
from seqjax.text.vectors import Vectors, apply_vectors, load_vectors, start_embedding, starting_vectors
from seqjax.text.vocabulary import BOS, EOS, PAD, SPECIAL_TOKENS, UNK
from seqjax.text.words import join_words, split_words

__all__ = [
    "BOS",
    "EOS",
    "PAD",
    "SPECIAL_TOKENS",
    "UNK",
    "CharTokenizer",
    "NGramModel",
    "Report",
    "SubwordTokenizer",
    "Vectors",
    "WordTokenizer",
    "apply_vectors",
    "fit_pair",
    "fit_tokenizer",
    "join_words",
    "load_tokenizer",
    "load_vectors",
    "report",
    "save_tokenizer",
    "split_words",
    "start_embedding",
    "starting_vectors",
    "tokenizer_from_dict",
]
