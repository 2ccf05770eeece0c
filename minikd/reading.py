"""Reads that give the bytes that were written, or one clear line: JSON, and the checksums of a folder.

Checksums stand beside the files they are of, in the form that `sha256sum -c SHA256SUMS` reads as well.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minikd.errors import UserError

SUMS = "SHA256SUMS"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the system's refusal to read `path` into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; UserError when there is none."""
    with reading(path):
        data = path.read_bytes()
    return parse_json_object(data, str(path))


def parse_json_object(data: bytes, name: str) -> dict[str, Any]:
    """The JSON object in UTF-8 bytes; UserError, which begins with `name`, when they are something else."""
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{name}: not JSON ({reason}); wanted a JSON object") from error
    if not isinstance(value, dict):
        raise UserError(f"{name}: JSON, but of type {type(value).__name__}; wanted an object")
    return value


def write_sums(folder: Path) -> None:
    """Write the checksum of every file in `folder` into its SHA256SUMS."""
    lines = [f"{_sha256(folder / name)}  {name}\n" for name in sorted(os.listdir(folder))]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def verify_sums(folder: Path, required: Iterable[str]) -> None:
    """Hold the files of `folder` against its SHA256SUMS, which must list at least the `required` ones.

    Raises UserError with the first file that is missing, unlisted, or not what was written.
    """
    path = folder / SUMS
    with reading(path):
        lines = path.read_bytes().decode("utf-8", "replace").splitlines()
    sums = {}
    for number, line in enumerate(lines, start=1):
        entry = re.fullmatch(r"([0-9a-f]{64}) [ *]([^/\\]+)", line)
        if entry is None:
            raise UserError(f"{path}: damaged: line {number} is {line[:80]!r}; wanted a SHA-256 and a file's name")
        sums[entry[2]] = entry[1]
    for name in required:
        if name not in sums:
            raise UserError(f"{path}: damaged: it does not list {name}")
    for name, wanted in sums.items():
        found = _sha256(folder / name)
        if found != wanted:
            raise UserError(
                f"{folder / name}: damaged, or changed since it was saved: its SHA-256 is {found[:12]}...; "
                f"{SUMS} beside it wants {wanted[:12]}..."
            )


def _sha256(path: Path) -> str:
    with reading(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
