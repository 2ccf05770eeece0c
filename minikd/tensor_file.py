"""Arrays by name in a safetensors file, through the library of that name; what is written is read back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import save_file

from minikd.backend import Array, to_host
from minikd.errors import UserError
from minikd.reading import reading


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its type by the format's name for it ("F32"), its shape, and how to fetch its numbers."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    fetch: Callable[[str], Array]

    def read(self) -> Array:
        """A new array: BF16 as float32, any other type as itself; UserError when NumPy has no such array."""
        try:
            with reading(self.path):
                return self.fetch(self.name)
        except (SafetensorError, AttributeError, TypeError, ValueError) as error:
            raise UserError(f"{self.path}: {self.name!r} is no array that NumPy can hold: {error}") from error


def open_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by name, none of them read yet; UserError when it is missing, truncated or damaged."""
    try:
        with reading(path), open(path, "rb") as opened:  # for the system's own word on a file that cannot be read
            n_bytes = opened.seek(0, 2)
            file = safe_open(path, framework="numpy")
    except SafetensorError as error:
        found = f"{n_bytes} bytes, {str(error).splitlines()[0][:300]}"
        raise UserError(f"{path}: truncated, damaged or not safetensors: {found}; wanted a whole file") from error
    fetch_bfloat16 = _bfloat16_fetcher(path)
    tensors = {}
    for name in file.keys():  # noqa: SIM118, it is no mapping
        x = file.get_slice(name)
        fetch = fetch_bfloat16 if x.get_dtype() == "BF16" else file.get_tensor
        tensors[name] = StoredTensor(path, name, x.get_dtype(), tuple(x.get_shape()), fetch)
    return tensors


def _bfloat16_fetcher(path: Path) -> Callable[[str], Array]:
    """NumPy has no bfloat16, so that the library gives only its bytes, and those of all tensors at once."""
    stored = cache(lambda: dict(deserialize(path.read_bytes())))

    def fetch(name: str) -> Array:
        bits = np.frombuffer(stored()[name]["data"], dtype="<u2").reshape(stored()[name]["shape"])
        return np.left_shift(bits, 16, dtype=np.uint32).view(np.float32)  # the upper half of a float32

    return fetch


def write_tensors(path: Path, tensors: Mapping[str, Array]) -> None:
    """Write arrays of any layout, on any device, and hold what then stands in the file against what was meant.

    Raises UserError when the file cannot be written, or does not read back bit for bit.
    """
    host = {name: np.asarray(to_host(x), order="C") for name, x in tensors.items()}
    try:
        save_file(host, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise UserError(f"{path}: cannot be written: {error}") from error
    path.chmod(path.parent.stat().st_mode & 0o666)  # the library lets its owner alone read it
    read = open_tensors(path)
    for name, x in host.items():
        if not np.array_equal(_bits(read[name].read()), _bits(x)):
            raise UserError(f"{path}: {name!r} reads back otherwise than it was written; is the disk sound?")


def _bits(x: Array) -> Array:
    return x.view(f"u{x.itemsize}")  # in which a NaN equals itself and -0.0 is not 0.0
