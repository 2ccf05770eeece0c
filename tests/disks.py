"""Disks and folders that refuse, for tests of what then happens."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def locked_folder() -> Iterator[Path]:
    """A folder that nobody may write to, root included: root acts as somebody else meanwhile."""
    parent = Path(tempfile.mkdtemp())
    parent.chmod(0o755)
    locked = parent / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield locked
    finally:
        if root:
            os.seteuid(0)
        locked.chmod(0o755)
        shutil.rmtree(parent)


@contextmanager
def small_disk(size: int = 65536) -> Iterator[None]:
    """A system that refuses every byte of a file beyond `size`, in the middle of a write."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
