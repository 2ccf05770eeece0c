"""Messages between the judge and the process of a graded file: JSON and arrays, nothing that could be run.

A message is two lengths (8 bytes each), a JSON object, and the arrays as safetensors. Whatever comes from a graded
file is read as from a stranger: every length is checked before it is believed.
"""

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import load, save

LENGTHS = struct.Struct("<QQ")
MAX_TEXT = 2 * 2**20
MAX_ARRAYS = 64 * 2**20
KINDS = "biuf"  # of arrays: truth values, integers, floating-point numbers


def pack(head: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """A message; ValueError if an array holds no plain numbers, or all of them are too large."""
    plain = {}
    for name, x in arrays.items():
        if x.dtype.kind not in KINDS or x.dtype.itemsize > 8:
            raise ValueError(f"{name} holds {x.dtype} entries; wanted numbers of at most 64 bits")
        plain[name] = np.ascontiguousarray(x, dtype=x.dtype.newbyteorder("="))
    n_bytes = sum(x.nbytes for x in plain.values())
    if n_bytes > MAX_ARRAYS // 2:
        raise ValueError(f"the arrays take {n_bytes:,} bytes; wanted at most {MAX_ARRAYS // 2:,}")
    shapes = {name: list(x.shape) for name, x in arrays.items()}
    text = json.dumps({**head, "shapes": shapes}, allow_nan=False).encode()
    block = save(plain) if plain else b""
    return LENGTHS.pack(len(text), len(block)) + text + block


def lengths(data: bytes | bytearray) -> tuple[int, int]:
    """The lengths of the JSON and of the arrays, from the beginning of a message; ValueError if one is too large."""
    text, block = LENGTHS.unpack_from(data)
    if text > MAX_TEXT or block > MAX_ARRAYS:
        raise ValueError(f"a message of {text} + {block} bytes; wanted at most {MAX_TEXT} + {MAX_ARRAYS}")
    return text, block


def unpack(text: bytes, block: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The JSON object and the arrays of a message; ValueError if they are anything else."""
    try:
        head = json.loads(text, parse_constant=_refuse)
        shapes = head.pop("shapes")
        flat = load(block) if block else {}
        return head, {name: _reshaped(flat[name], shape) for name, shape in shapes.items()}
    except Exception as error:  # libraries meet a damaged message in many ways
        raise ValueError(f"damaged: {type(error).__name__}") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _reshaped(x: np.ndarray, shape: list[int]) -> np.ndarray:
    """With its 0-d arrays, which safetensors stores with one axis."""
    if not all(type(n) is int and n >= 0 for n in shape) or math.prod(shape) != x.size or x.dtype.kind not in KINDS:
        raise ValueError("an array's shape is not that of its entries")
    return x.reshape(shape)
