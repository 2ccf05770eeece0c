"""Byte-level BPE: text to token ids and back, in the file format that `transformers` reads.

Text is data, never markup: a text that spells "<|endoftext|>" becomes ordinary tokens and comes back as it was. The
id of the special token is only ever written by the program.
"""

import codecs
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from minikd.atomic import atomic_write
from minikd.backend import Array
from minikd.errors import UserError
from minikd.reading import parse_json_object, read_json_object, reading

END_OF_TEXT = "<|endoftext|>"
N_BYTES = 256
SMALLEST_VOCABULARY = N_BYTES + 1  # every byte, and END_OF_TEXT
LARGEST_VOCABULARY = 2**24  # more than a text supports; the trainer reserves memory for every token asked of it
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"

PIECE_CHARACTERS = 64 * 1024
PIECES_AT_ONCE = 16  # encoded side by side on the machine's cores
LONGEST_PIECE = 256 * 1024
CHECKED_AT_ONCE = 2**20

# Places where text may be cut without changing its tokens. GPT-2's pattern (and those of its successors) lets a match
# go on from white space into a word, but never from a word into a space; in some successors line breaks belong to the
# punctuation before them.
SAFE_CUT = re.compile(r"(?<=\S)(?= )|(?<=[^\W_])(?=[\n\r\t])")
GPT2_CUT = re.compile(r"(?<=\S)(?=\s)")

# The end of text in tokenizers that come without a tokenizer_config.json
KNOWN_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>")


class Tokenizer:
    """A tokenizer of the `tokenizers` library, set so that it neither adds, drops nor truncates anything.

    `eos_id` is the id of the token that ends a text, None where a user's tokenizer has none.
    """

    def __init__(self, backend: tokenizers.Tokenizer, eos_token: str | None = END_OF_TEXT) -> None:
        backend.no_truncation()
        backend.no_padding()
        if getattr(backend.model, "dropout", None):
            backend.model.dropout = None  # a way of training that makes encoding random
        backend.encode_special_tokens = True  # special tokens in a text are text
        backend.post_processor = processors.ByteLevel(trim_offsets=False)  # one that adds no token
        self._backend = backend
        self._eos_token = eos_token
        self.eos_id: int | None = None if eos_token is None else backend.token_to_id(eos_token)

    @classmethod
    def train(cls, text: Iterable[str], vocab_size: int) -> "Tokenizer":
        """A byte-level BPE with GPT-2's pre-tokenizer, learned from pieces of text; END_OF_TEXT is id 0.

        Sennrich, Haddow & Birch 2016; Radford et al. 2019, section 2.2. Pairs that occur once are not merged.
        Raises UserError when `vocab_size` is below SMALLEST_VOCABULARY or larger than the text supports.
        """
        if vocab_size < SMALLEST_VOCABULARY:
            raise UserError(
                f"vocabulary size {vocab_size} is too small; wanted at least {SMALLEST_VOCABULARY} "
                f"({N_BYTES} bytes and {END_OF_TEXT})"
            )
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=min(vocab_size, LARGEST_VOCABULARY),
            min_frequency=2,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        # the trainer's time is quadratic in the length of a word, and a text may be without white space
        backend.train_from_iterator(safe_pieces(text, size=1024, longest=2048), trainer)
        supported = backend.get_vocab_size()
        if supported < vocab_size:
            raise UserError(
                f"vocabulary size {vocab_size} is larger than the training text supports: it yields {supported} tokens "
                "before no pair occurs twice; wanted a smaller vocabulary or more text"
            )
        return cls(backend)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Tokenizer":
        """The tokenizer in a `tokenizer.json`, or in a folder with one; UserError when there is none.

        A `tokenizer_config.json` beside it names the token that ends a text; without it the usual names are tried.
        """
        path = Path(path)
        file = path / TOKENIZER if path.is_dir() else path
        with reading(file):
            data = file.read_bytes()
        parse_json_object(data, str(file))
        try:
            backend = tokenizers.Tokenizer.from_buffer(data.removeprefix(codecs.BOM_UTF8))
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"{file}: not a tokenizer ({reason}); wanted a tokenizer.json") from error
        vocab = backend.get_vocab()
        if not vocab or max(vocab.values()) > 2 * len(vocab) + N_BYTES:
            last = max(vocab.values(), default=-1)
            raise UserError(f"{file}: {len(vocab)} tokens with ids up to {last}; wanted tokens without such gaps")
        if (n_ids := len(set(vocab.values()))) < len(vocab):
            raise UserError(f"{file}: {len(vocab)} tokens share {n_ids} ids; wanted an id of its own for each")
        return cls(backend, _end_of_text(file.parent / TOKENIZER_CONFIG, vocab))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, from which `transformers.AutoTokenizer` gives equal ids.

        PreTrainedTokenizerFast makes every version of it read tokenizer.json as it stands (for a model of type gpt2
        it may otherwise build a GPT2Tokenizer of its own); split_special_tokens means that text is data there too.
        """
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": True,
        }
        if self._eos_token is not None:
            config |= {"bos_token": self._eos_token, "eos_token": self._eos_token}
        for name, text in (
            (TOKENIZER, self._backend.to_str(pretty=False)),
            (TOKENIZER_CONFIG, json.dumps(config, indent=2)),
        ):
            with atomic_write(Path(folder) / name) as file:
                file.write(text + "\n")

    def encode(self, text: str) -> Array:
        """Token ids (N,) int64 of `text`; ValueError where it holds half a surrogate pair, which is no character."""
        return self._encode_all([text])[0]

    def encode_pieces(self, text: Iterable[str]) -> Iterator[Array]:
        """Token ids of one text that comes in pieces, as arrays whose concatenation is `encode("".join(text))`.

        Only some characters of the text are held at a time, and where it happens to be cut does not matter. A user's
        tokenizer that merges over spaces, or adds something to the start of a text, does so every 64 thousand
        characters.
        """
        pieces = safe_pieces(text)
        while batch := list(islice(pieces, PIECES_AT_ONCE)):
            yield from self._encode_all(batch)

    def _encode_all(self, texts: list[str]) -> list[Array]:
        for text in texts:
            _check_characters(text)
        try:
            encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        except Exception as error:  # the library's only kind: its model misses the token that it has for the unknown
            raise UserError(
                f"the tokenizer has no tokens for some of the text ({error}); wanted one that has some for any text"
            ) from error
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    def decode(self, ids: Sequence[int] | Array) -> str:
        """The text of token ids (N,), special tokens spelled out; bytes that are no UTF-8 become U+FFFD.

        Raises UserError for an id outside the vocabulary.
        """
        ids = np.asarray(ids, dtype=np.int64)
        check_ids(ids, self.vocab_size, "the text to decode")
        return self._backend.decode(ids.tolist(), skip_special_tokens=False)

    @cached_property
    def vocab_size(self) -> int:
        """Number of token ids: one more than the largest."""
        return max(self._backend.get_vocab().values()) + 1

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes of text that each id stands for; none for special tokens.

        Exact for byte-level tokenizers; for others it is the token's own spelling, with a space for SentencePiece's
        mark and the byte for its byte tokens.
        """
        spell = _byte_level_bytes if self._is_byte_level else _sentence_piece_bytes
        table = [b""] * self.vocab_size
        for token, i in self._backend.get_vocab().items():
            table[i] = spell(token)
        for i, added in self._backend.get_added_tokens_decoder().items():
            table[i] = b"" if added.special else added.content.encode()
        return table

    @cached_property
    def byte_lengths(self) -> Array:
        """Length of each id's `token_bytes`, (V,) int64: `byte_lengths[ids].sum()` is the bytes in bits per byte."""
        return np.array([len(token) for token in self.token_bytes], dtype=np.int64)

    @property
    def keeps_bytes(self) -> bool:
        """Whether the bytes of a text are those of its tokens, unless a byte has no token."""
        return self._is_byte_level and self._backend.normalizer is None

    @property
    def _is_byte_level(self) -> bool:
        return isinstance(self._backend.decoder, decoders.ByteLevel)

    @cached_property
    def fingerprint(self) -> str:
        """A SHA-256 of what decides the ids of a text: two tokenizers that share it give equal ids."""
        whole = json.loads(self._backend.to_str())
        added = [[token["id"], token["content"], token["special"]] for token in whole["added_tokens"]]
        model = {name: value for name, value in whole["model"].items() if value}  # null, "" and false mean the same
        decisive = [added, whole["normalizer"], whole["pre_tokenizer"], model]
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def same_as(self, other: "Tokenizer") -> bool:
        """Whether both give every text the same ids."""
        return self.fingerprint == other.fingerprint


def check_ids(ids: Any, vocab_size: int, name: str) -> None:
    """Raise UserError, with id and position, unless all token ids (N,) are in [0, vocab_size).

    ids: an array or a `TokenFile`; `name` is what the message calls it.
    """
    for start in range(0, len(ids), CHECKED_AT_ONCE):
        block = ids[start : start + CHECKED_AT_ONCE]
        wrong = (block < 0) | (block >= vocab_size)
        if wrong.any():
            first = int(wrong.argmax())
            raise UserError(
                f"{name}: token id {int(block[first])} at position {start + first} is outside the vocabulary; "
                f"wanted ids from 0 to {vocab_size - 1}"
            )


def safe_pieces(text: Iterable[str], size: int = PIECE_CHARACTERS, longest: int = LONGEST_PIECE) -> Iterator[str]:
    """The same text in pieces of at least `size` characters, cut where no token can span the cut.

    A piece that finds no such place before it is `longest` is cut all the same. Where the cuts are does not depend on
    the pieces in which `text` arrives.
    """
    rest = ""
    for piece in text:
        rest += piece
        start = 0
        while (cut := _next_cut(rest, start, size, longest)) is not None:
            yield rest[start:cut]
            start = cut
        if start:
            rest = rest[start:]
    if rest:
        yield rest


def _next_cut(text: str, start: int, size: int, longest: int) -> int | None:
    """Where to cut `text` after `start`, `size` to `longest` characters on; None when that takes more text to tell."""
    end = start + longest
    found = SAFE_CUT.search(text, start + size, end)
    if found is None and len(text) > end:
        found = GPT2_CUT.search(text, start + size, end)
        return found.start() if found else end
    return found.start() if found else None


def _check_characters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = ord(text[error.start])
        raise ValueError(
            f"text has the lone surrogate U+{found:04X} at character {error.start}, which is no character of Unicode"
        ) from None


def _end_of_text(config_file: Path, vocab: dict[str, int]) -> str | None:
    candidates = list(KNOWN_ENDS)
    if config_file.exists():
        named = read_json_object(config_file).get("eos_token")
        candidates.insert(0, str(named.get("content") if isinstance(named, dict) else named))
    return next((token for token in candidates if token in vocab), None)


def _byte_symbols() -> dict[str, int]:
    """The character by which byte-level BPE writes each byte: printable ones as they are, the others from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(N_BYTES)) - set(printable))
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


BYTE_OF_SYMBOL = _byte_symbols()


def _byte_level_bytes(token: str) -> bytes:
    known = all(symbol in BYTE_OF_SYMBOL for symbol in token)
    return bytes(BYTE_OF_SYMBOL[symbol] for symbol in token) if known else token.encode()


def _sentence_piece_bytes(token: str) -> bytes:
    byte = re.fullmatch(r"<0x([0-9A-F]{2})>", token)
    return bytes.fromhex(byte[1]) if byte else token.replace("\u2581", " ").encode()
