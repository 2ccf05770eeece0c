"""Writes that happen as a whole or not at all: a reader never sees half a file, nor half a folder.

What is written goes to a temporary name beside its target and to the disk before it takes the target's name, so
a crash at any moment leaves the old contents or the new ones. What a killed process leaves behind is a temporary
name; `remove_leftovers` clears those away.
"""

import ctypes
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from minikd.errors import UserError

LEFTOVER = re.compile(r"\..+\.tmp-[0-9a-f]{8}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write at `path` (disk full, no permission) into a UserError."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename and Path(error.filename) != path else ""
        raise UserError(f"{path}: cannot be written: {error.strerror or error}{where}") from error


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, binary: bool = False) -> Iterator[IO[Any]]:
    """Open a file (UTF-8 text, or bytes) that appears at `path` when the block ends, and not at all if it fails.

    What is there already and is no file, a device or a pipe, is not replaced but written to. Raises UserError when the
    file cannot be written (disk full, no permission, no such folder).
    """
    kind = "b" if binary else ""
    text = {} if binary else {"encoding": "utf-8", "newline": "\n"}
    if os.path.exists(path) and not os.path.isfile(path):
        with writing(Path(path)), open(path, f"w{kind}", **text) as file:  # type: ignore[call-overload]
            yield file
        return
    path = Path(os.path.realpath(path))
    temporary = _temporary_name(path)
    with writing(path):
        try:
            with open(temporary, f"x{kind}", **text) as file:  # type: ignore[call-overload]
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            fsync_folder(path.parent)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON with `atomic_write`."""
    text = json.dumps(value, indent=2) + "\n"
    with atomic_write(path) as file:
        file.write(text)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a new folder to fill, which appears at `path` when the block ends, and not at all if it fails.

    A folder that is there already is replaced in one step, but only when every file in it has a successor in the
    new one: nothing else is ever deleted. Raises UserError when that is not so, or the folder cannot be written.
    """
    path = Path(os.path.realpath(path))
    temporary = _temporary_name(path)
    with writing(path):
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file; wanted a folder, or nothing yet, at this place")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.mkdir()
            yield temporary
            _fsync_all(temporary)
            if not path.exists():
                os.rename(temporary, path)
            else:
                _refuse_to_lose_files(path, temporary)
                _exchange(temporary, path)
            fsync_folder(path.parent)
        except UserError as error:
            raise UserError(str(error).replace(str(temporary), str(path))) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder so that a crash leaves all of it or a leftover, never a part under its own name."""
    with writing(path):
        temporary = _temporary_name(path)
        os.rename(path, temporary)
        shutil.rmtree(temporary)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders that killed processes left in `folder`."""
    with writing(folder):
        for path in folder.iterdir():
            if LEFTOVER.fullmatch(path.name):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def fsync_folder(folder: Path) -> None:
    """Bring a folder's entries (files created, renamed) to the disk, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp-{secrets.token_hex(4)}")


def _fsync_all(folder: Path) -> None:
    for path in folder.iterdir():
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
    fsync_folder(folder)


def _refuse_to_lose_files(old: Path, new: Path) -> None:
    lost = sorted({path.name for path in old.iterdir() if not LEFTOVER.fullmatch(path.name)} - set(os.listdir(new)))
    if lost:
        raise UserError(f"{old} holds {lost[0]!r}, which replacing the folder would delete; wanted a folder of its own")


def _exchange(new: Path, old: Path) -> None:
    """Let two folders trade names; in one step on Linux, elsewhere there is neither at `old` for a moment."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    at_cwd, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if renameat2 and renameat2(at_cwd, os.fsencode(new), at_cwd, os.fsencode(old), exchange) == 0:
        return
    aside = _temporary_name(old)
    os.rename(old, aside)
    try:
        os.rename(new, old)
    except OSError:
        os.rename(aside, old)
        raise
    os.rename(aside, new)
