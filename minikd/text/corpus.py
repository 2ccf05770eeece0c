"""Corpora: documents of UTF-8 text, read piece by piece, from files or from the Python that runs this."""

import codecs
import hashlib
import importlib
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from minikd.errors import UserError
from minikd.reading import reading

PYTHON_DOCS = "python-docs"
TEXT_SUFFIXES = (".txt", ".text", ".md", ".markdown", ".rst")
TOKENIZER_SAMPLE_BYTES = 4 * 2**20

BLOCK_BYTES = 64 * 1024
HEAD_BYTES = 8000  # a zero byte this early means binary data or UTF-16: the rule that git goes by


@dataclass(frozen=True)
class Document:
    """The text in bytes `start` to `stop` of a file (or of bytes in memory), read piece by piece."""

    name: str
    open: Callable[[], BinaryIO]
    start: int
    stop: int
    sha256: str = ""  # of the whole file

    @property
    def n_bytes(self) -> int:
        return self.stop - self.start

    def blocks(self) -> Iterator[bytes]:
        """Its bytes, 64 kB at a time; UserError when the file cannot be read, or has become shorter."""
        left = self.n_bytes
        with reading(Path(self.name)), self.open() as source:
            source.seek(self.start)
            while left:
                block = source.read(min(left, BLOCK_BYTES))
                if not block:
                    raise UserError(f"{self.name}: {left:,} bytes shorter than when it was opened; wanted it unchanged")
                left -= len(block)
                yield block

    def pieces(self) -> Iterator[str]:
        """Its text, piece by piece; UserError, which says the byte offset, where it is not UTF-8."""
        return _decode(self.blocks(), self.name, self.start)


@dataclass(frozen=True)
class Corpus:
    """Documents in the order in which they are read."""

    name: str
    documents: tuple[Document, ...]

    @property
    def n_bytes(self) -> int:
        """Length of the text in bytes of UTF-8."""
        return sum(document.n_bytes for document in self.documents)

    @property
    def fingerprint(self) -> str:
        """A SHA-256 that differs when the text, or where a document begins or ends, differs."""
        parts = [(document.sha256, document.start, document.stop) for document in self.documents]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def pieces(self) -> Iterator[str]:
        """All text, document after document, piece by piece."""
        return chain.from_iterable(document.pieces() for document in self.documents)

    def sample(self, n_bytes: int = TOKENIZER_SAMPLE_BYTES) -> Iterator[str]:
        """About `n_bytes` of text in pieces spread evenly over the corpus; all of a corpus that is no longer.

        A tokenizer is trained on this: its trainer holds every distinct word in memory, and their number grows with
        the text, while the frequent ones, which get tokens of their own, are soon known.
        """
        taken = seen = 0
        for piece in self.pieces():
            if taken * self.n_bytes <= seen * n_bytes:
                taken += len(piece)
                yield piece
            seen += len(piece)

    def split(self, val_fraction: float = 0.1) -> tuple["Corpus", "Corpus"]:
        """Training text and validation text: the corpus is cut once, and its end is the validation text.

        The cut is where a line or document ends, nearest to `val_fraction` of the bytes; before a space, if lines are
        so long that this would move it by more than half of a part; between two characters, if that would too.
        Raises ValueError unless 0 < val_fraction < 1, UserError when there is nothing to cut.
        """
        if not 0 < val_fraction < 1:
            raise ValueError(f"val_fraction is {val_fraction}; wanted a number between 0 and 1, both excluded")
        target = round(self.n_bytes * (1 - val_fraction))
        start = index = 0
        while start + self.documents[index].n_bytes < target:
            start += self.documents[index].n_bytes
            index += 1
        document = self.documents[index]
        cut = _nearest_border(document, start, target, self.n_bytes)
        if cut is None:
            raise UserError(f"{self.name}: too short to have a training and a validation part; wanted more text")
        middle = document.start + cut - start
        before = (*self.documents[:index], replace(document, stop=middle))
        after = (replace(document, start=middle), *self.documents[index + 1 :])
        return self._part("training", before), self._part("validation", after)

    def _part(self, name: str, documents: tuple[Document, ...]) -> "Corpus":
        return Corpus(f"{self.name} ({name} part)", tuple(document for document in documents if document.n_bytes))


def open_corpus(paths: Sequence[str | os.PathLike[str]] = ()) -> Corpus:
    """The text of files and folders, in the order given, each file a document; with no path, `python_docs()`.

    A folder stands for the files in it and in its subfolders whose names end in one of TEXT_SUFFIXES, in the order of
    their paths, without hidden and empty ones. A byte order mark is dropped. Every file is read through once, so that
    no unreadable one is met later. Raises UserError when a path is missing, unreadable, empty, binary, not UTF-8
    (with the byte offset) or named twice, or when a folder holds no text.
    """
    if not paths:
        return python_docs()
    files = [file for path in paths for file in _files_of(Path(path))]
    by_place: dict[tuple[int, int], Path] = {}
    for file in files:
        with reading(file):
            place = file.stat()
        twin = by_place.setdefault((place.st_dev, place.st_ino), file)
        if twin is not file:
            raise UserError(f"{file}: the same file as {twin}, so one text could be both training and validation text")
    first = os.path.basename(os.path.abspath(paths[0]))
    name = first if len(paths) == 1 else f"{first} and {len(paths) - 1} more"
    return Corpus(name, tuple(_checked_file(file) for file in files))


def python_docs() -> Corpus:
    """The Python language reference that every CPython carries: the topics of `pydoc_data.topics`, sorted by name.

    One document, blank lines between topics. The text differs a little between Python versions.
    """
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError as error:
        raise UserError(f"{PYTHON_DOCS}: not in this Python (no pydoc_data.topics); wanted a text of yours") from error
    data = "\n\n".join(topics[name] for name in sorted(topics)).encode()
    sha256 = hashlib.sha256(data).hexdigest()
    return Corpus(PYTHON_DOCS, (Document(PYTHON_DOCS, lambda: io.BytesIO(data), 0, len(data), sha256),))


def _files_of(path: Path) -> list[Path]:
    with reading(path):
        if path.is_dir():
            return _text_files_under(path)
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; wanted UTF-8 text")
        if not path.is_file():
            raise UserError(f"{path}: neither a file nor a folder; wanted UTF-8 text that can be read more than once")
        if path.stat().st_size == 0:
            raise UserError(f"{path}: empty; wanted UTF-8 text")
    return [path]


def _text_files_under(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise error

    files, n_others = [], 0
    for where, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in (Path(where, name) for name in names if not name.startswith(".")):
            if file.suffix.lower() in TEXT_SUFFIXES and file.is_file() and file.stat().st_size:
                files.append(file)
            else:
                n_others += 1
    if not files:
        raise UserError(
            f"{folder}: a folder without text ({n_others} other or empty files); wanted names that end in "
            f"{', '.join(TEXT_SUFFIXES)} (a file named itself may be called anything)"
        )
    return sorted(files, key=lambda file: file.relative_to(folder).parts)


def _checked_file(path: Path) -> Document:
    """The document that a file is, once all of it has proved to be text."""
    absolute = path.absolute()
    with reading(path):
        whole = Document(str(path), lambda: absolute.open("rb"), 0, absolute.stat().st_size)
        with whole.open() as source:
            head = source.read(HEAD_BYTES)
    start = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
    if whole.n_bytes == start:
        raise UserError(f"{path}: empty but for a byte order mark; wanted UTF-8 text")
    if 0 in head:
        raise UserError(f"{path}: not UTF-8 text: binary, or UTF-16 (a zero byte at offset {head.index(0)})")
    digest = hashlib.sha256()

    def blocks_to_digest() -> Iterator[bytes]:
        for block in whole.blocks():
            digest.update(block)
            yield block

    for _ in _decode(blocks_to_digest(), whole.name, 0):
        pass
    return replace(whole, start=start, sha256=digest.hexdigest())


def _decode(blocks: Iterator[bytes], name: str, offset: int) -> Iterator[str]:
    """The text of `blocks`, which begin at byte `offset` of what messages call `name`; characters may span blocks."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for block in chain(blocks, [b""]):
        n_pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            found, where = error.object[error.start], offset - n_pending + error.start
            raise UserError(f"{name}: not UTF-8: byte 0x{found:02x} at offset {where}; wanted UTF-8 text") from error
        offset += len(block)
        if text:
            yield text


def _nearest_border(document: Document, start: int, target: int, n_bytes: int) -> int | None:
    """The byte of the corpus, nearest to `target`, at which to cut it into two; None if there is none.

    `document` begins at byte `start` of the corpus and holds byte `target`; the corpus has `n_bytes`.
    """
    slack = min(BLOCK_BYTES, target // 2, (n_bytes - target) // 2)
    low = max(start, target - slack - 4)  # a character of UTF-8 has up to 4 bytes
    high = min(start + document.n_bytes, target + slack + 4)
    first_byte = document.start - start
    window = b"".join(replace(document, start=first_byte + low, stop=first_byte + high).blocks())
    borders = [start, start + document.n_bytes]
    lines = borders + [low + i + 1 for i, byte in enumerate(window) if byte == ord("\n")]
    spaces = [low + i for i, byte in enumerate(window) if byte == ord(" ")]
    characters = borders + [low + i for i, byte in enumerate(window) if byte & 0xC0 != 0x80]
    for places, farthest in ((lines, slack), (spaces, slack), (characters, n_bytes)):
        allowed = [place for place in places if 0 < place < n_bytes and abs(place - target) <= farthest]
        if allowed:
            return min(allowed, key=lambda place: abs(place - target))
    return None
