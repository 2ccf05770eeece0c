"""The folder in which a graded file may do as it likes, and its removal, whatever was made of it."""

import itertools
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def working_folder() -> Iterator[str]:
    """An empty folder for the length of the block."""
    folder = tempfile.mkdtemp(prefix="minikd-grade-")
    try:
        yield folder
    finally:
        remove(folder)


def remove(folder: str) -> None:
    """Remove a folder that may be deeper than any recursion or path goes: what is in a folder of it moves up first."""
    names = (os.path.join(folder, f"{secrets.token_hex(4)}-{i}") for i in itertools.count())
    removed = True
    while removed:
        removed = False
        for entry in list(os.scandir(folder)):
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    os.chmod(entry.path, 0o700)
                    for inner in list(os.scandir(entry.path)):
                        if inner.is_dir(follow_symlinks=False):
                            os.chmod(inner.path, 0o700)
                        os.rename(inner.path, next(names))
                    os.rmdir(entry.path)
                else:
                    os.unlink(entry.path)
                removed = True
    with suppress(OSError):
        os.rmdir(folder)
