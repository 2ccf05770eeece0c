"""Text: from files to the batches that a model learns from."""

from minikd.text.batches import NOT_COUNTED, Batch, Batches, SequenceBatches, Tokens, windows
from minikd.text.corpus import PYTHON_DOCS, TEXT_SUFFIXES, Corpus, Document, open_corpus, python_docs
from minikd.text.token_file import TokenFile, tokenize
from minikd.text.tokenizer import END_OF_TEXT, SMALLEST_VOCABULARY, Tokenizer, check_ids

__all__ = [
    "END_OF_TEXT",
    "NOT_COUNTED",
    "PYTHON_DOCS",
    "SMALLEST_VOCABULARY",
    "TEXT_SUFFIXES",
    "Batch",
    "Batches",
    "Corpus",
    "Document",
    "SequenceBatches",
    "TokenFile",
    "Tokenizer",
    "Tokens",
    "check_ids",
    "open_corpus",
    "python_docs",
    "tokenize",
    "windows",
]
