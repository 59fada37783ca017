"""Text as integers: character and word tokenizers with their vocabularies, and n-gram models to compare with."""

from seqjax.text.ngram import NGramModel
from seqjax.text.storage import load_tokenizer, save_tokenizer, tokenizer_from_dict
from seqjax.text.tokenizers import CharTokenizer, Report, WordTokenizer, report
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
    "WordTokenizer",
    "join_words",
    "load_tokenizer",
    "report",
    "save_tokenizer",
    "split_words",
    "tokenizer_from_dict",
]
