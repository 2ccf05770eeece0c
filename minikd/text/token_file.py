"""Token files: the ids of a text in a NumPy file that stays on the disk, for texts larger than memory."""

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minikd.atomic import atomic_write, remove_leftovers, write_json
from minikd.backend import Array
from minikd.errors import UserError
from minikd.reading import read_json_object, reading
from minikd.text.corpus import Corpus
from minikd.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class TokenFile:
    """Token ids (N,), uint16 or uint32, in a `.npy` file: `tokens[a:b]` reads those of a window.

    Each window is mapped anew, copied, and let go: the pages of a map that stays count as this process's memory from
    their first use on, which in the end would be the whole file.
    """

    path: Path
    n_tokens: int
    n_bytes: int  # of the text, in UTF-8
    dtype: np.dtype
    offset: int  # bytes before the first id

    def __len__(self) -> int:
        return self.n_tokens

    def __getitem__(self, window: slice) -> Array:
        start, stop, step = window.indices(self.n_tokens)
        if step != 1:
            raise ValueError(f"a window with step {step} was asked for; wanted a contiguous one")
        if start >= stop:
            return np.empty(0, self.dtype)
        offset = self.offset + start * self.dtype.itemsize
        with reading(self.path):
            return np.array(np.memmap(self.path, self.dtype, mode="r", offset=offset, shape=(stop - start,)))


@dataclass(frozen=True)
class Manifest:
    """What a token file was made of, and what it holds; written beside it, after it."""

    corpus: str  # fingerprints
    tokenizer: str
    n_bytes: int
    n_tokens: int
    sha256: str  # of the ids


def tokenize(
    corpus: Corpus, tokenizer: Tokenizer, path: str | os.PathLike[str], *, progress: bool = False
) -> TokenFile:
    """The tokens of a corpus, in the file `path` (`.npy`, with a `.json` manifest beside it).

    A file already there is used if it is sound and of this corpus and tokenizer, and replaced otherwise. Between two
    documents stands the tokenizer's end of text, if it has one. `progress` shows a bar on stderr. Raises UserError when
    the file cannot be written, or the tokenizer has no tokens for some of the text.
    """
    path = Path(path).absolute()
    file = _sound_file(path, corpus, tokenizer)
    if file is None:
        _write(path, corpus, tokenizer, progress)
        file = _sound_file(path, corpus, tokenizer)
    if file is None:
        raise UserError(f"{path}: does not read back as it was written; wanted a disk that keeps what it is given")
    return file


def _sound_file(path: Path, corpus: Corpus, tokenizer: Tokenizer) -> TokenFile | None:
    """The token file at `path` if it is whole and holds the tokens of this corpus by this tokenizer."""
    with suppress(UserError, OSError, TypeError):
        manifest = Manifest(**read_json_object(path.with_suffix(".json")))
        if (manifest.corpus, manifest.tokenizer) != (corpus.fingerprint, tokenizer.fingerprint):
            return None
        dtype = _dtype(tokenizer)
        header = _header(manifest.n_tokens, dtype)
        with open(path, "rb") as file:
            if file.read(len(header)) == header and _sha256_of_rest(file) == manifest.sha256:
                return TokenFile(path, manifest.n_tokens, manifest.n_bytes, dtype, len(header))
    return None


def _write(path: Path, corpus: Corpus, tokenizer: Tokenizer, progress: bool) -> None:
    dtype, n_tokens, digest = _dtype(tokenizer), 0, hashlib.sha256()
    with reading(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    with atomic_write(path, binary=True) as file:
        file.write(_header(0, dtype))
        for ids in _token_ids(corpus, tokenizer, progress):
            data = ids.astype(dtype).tobytes()
            file.write(data)
            digest.update(data)
            n_tokens += ids.size
        file.seek(0)
        file.write(_header(n_tokens, dtype))
    manifest = Manifest(corpus.fingerprint, tokenizer.fingerprint, corpus.n_bytes, n_tokens, digest.hexdigest())
    write_json(path.with_suffix(".json"), asdict(manifest))


def _dtype(tokenizer: Tokenizer) -> np.dtype:
    return np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)


def _header(n_tokens: int, dtype: np.dtype) -> bytes:
    """The header of a `.npy` file; NumPy makes it equally long for every `n_tokens`, so that a file can grow."""
    header = io.BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (n_tokens,)}
    np.lib.format.write_array_header_1_0(header, fields)
    return header.getvalue()


def _sha256_of_rest(file: io.BufferedReader) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _token_ids(corpus: Corpus, tokenizer: Tokenizer, progress: bool) -> Iterator[Array]:
    with tqdm(
        total=corpus.n_bytes, unit="B", unit_scale=True, desc=f"tokenizing {corpus.name}", disable=not progress
    ) as bar:
        for i, document in enumerate(corpus.documents):
            if i > 0 and tokenizer.eos_id is not None:
                yield np.array([tokenizer.eos_id])
            n_bytes = 0
            for ids in tokenizer.encode_pieces(document.pieces()):
                n_bytes += (length := int(tokenizer.byte_lengths[ids].sum()))
                bar.update(length)
                yield ids
            if tokenizer.keeps_bytes and n_bytes < document.n_bytes:
                raise UserError(
                    f"{document.name}: the tokenizer has no tokens for {document.n_bytes - n_bytes:,} of its "
                    f"{document.n_bytes:,} bytes; wanted one with a token for each of the 256 bytes"
                )
