"""NumPy or CuPy: which device, blocks that fit a cache, and the few operations a GPU needs another kernel for."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray: same code, same methods

CACHE_BLOCK_BYTES = 2**20
SHARED_SUMS = 512  # NumPy's products of vectors hold the interpreter where they give 500 sums or fewer
SOON_DONE = 2**17  # numbers: a product of fewer takes less time than another thread needs to wake up


def select_device(device: str) -> tuple[Any, str]:
    """The array module for `device` (auto, cpu or gpu) and a line that says what was chosen, and why.

    `auto` takes the GPU if it computes. ValueError: another name, or `gpu` where there is none that computes.
    """
    if device not in ("auto", "cpu", "gpu"):
        raise ValueError(f"device is {device!r}; wanted auto, cpu or gpu")
    if device == "cpu":
        return np, "cpu"
    cupy, found = _probe_gpu()
    if cupy is not None:
        return cupy, f"gpu: {found}"
    if device == "gpu":
        raise ValueError(f"device is 'gpu', but {found}")
    return np, f"cpu ({found})"


def _probe_gpu() -> tuple[Any, str]:
    """CuPy and the GPU's name if a matrix product and an elementwise kernel come out right, else None and the reason.

    Both are tried because they need different parts of a CUDA set-up: cuBLAS, and a compiler with its headers.
    """
    try:
        import cupy
    except ImportError:
        return None, "CuPy is not installed (pip install 'minikd[cuda12]')"
    try:
        ones = cupy.ones((8, 8), dtype=np.float32)
        if float(cupy.tanh(ones @ ones - 8).sum()) != 0:
            return None, "the GPU computes wrong numbers"
        return cupy, cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    except Exception as error:  # a broken set-up fails in as many ways as there are drivers and libraries
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return None, f"the GPU does not work: {reason}"


def get_array_module(x: Array) -> Any:
    """The module (numpy or cupy) whose functions take `x`."""
    if type(x) is np.ndarray:
        return np
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(x, cupy.ndarray):
        return cupy
    if hasattr(x, "__array_namespace__"):
        return x.__array_namespace__()
    return np


def to_host(x: Array) -> np.ndarray:
    """`x` as a NumPy array; from a GPU, a copy that waits for the GPU to finish."""
    return x if on_host(x) else get_array_module(x).asnumpy(x)


def on_host(x: Array) -> bool:
    """Whether `x` lives in the memory of the CPU."""
    return type(x) is np.ndarray or get_array_module(x) is np


def row_blocks(x: Array, *, row_bytes: int | None = None, block_bytes: int = CACHE_BLOCK_BYTES) -> list[slice]:
    """Slices over the first axis of `x`, each about `block_bytes` long on a CPU, the whole of `x` on a GPU.

    A chain of elementwise passes over such a block stays in a core's cache; over the whole array each pass would
    go through memory. `row_bytes` is what a row costs where that is not its own size (a row of scores, say).
    """
    n_rows = x.shape[0]
    n_bytes = x.nbytes if row_bytes is None else n_rows * row_bytes
    if n_bytes <= block_bytes or not on_host(x):
        return [slice(0, n_rows)]
    step = max(1, block_bytes * n_rows // n_bytes)
    return [slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]


@contextmanager
def unbuffered_rows(n_columns: int) -> Iterator[None]:
    """Have NumPy combine rows of `n_columns` with one number each (x - x.max(axis=-1, keepdims=True)) at full speed.

    It first copies operands into its buffer as long as a row fits in, which takes three times as long as to compute.
    """
    with np.errstate():  # restores the size of the buffer, too
        if 256 <= n_columns < 8192:
            np.setbufsize(n_columns // 16 * 16)
        yield


def row_dot(x: Array, y: Array) -> Array:
    """sum(x y) over the last axis: two arrays (..., V) -> (...)."""
    if not on_host(x):
        return (x * y).sum(axis=-1)
    if x.size <= SOON_DONE or x.size // x.shape[-1] >= SHARED_SUMS:
        return np.vecdot(x, y)
    # np.vecdot lets other threads run only where it gives many sums: of a few long rows, those of their pieces
    n_pieces = SHARED_SUMS * x.shape[-1] // x.size + 1
    width = x.shape[-1] // n_pieces
    cut = n_pieces * width

    def pieces(z: Array) -> Array:
        return z[..., :cut].reshape(*z.shape[:-1], n_pieces, width)

    return np.vecdot(pieces(x), pieces(y)).sum(axis=-1) + np.vecdot(x[..., cut:], y[..., cut:])


def row_sum(x: Array) -> Array:
    """Sum over the last axis: (..., V) -> (...)."""
    if not on_host(x):
        return x.sum(axis=-1)
    ones = _ones(x.shape[-1], x.dtype)
    if x.size <= SOON_DONE:
        return np.vecdot(x, ones)
    return x.reshape(-1, x.shape[-1]).dot(ones).reshape(x.shape[:-1])


@cache
def _ones(n: int, dtype: Any) -> np.ndarray:
    ones = np.ones(n, dtype=dtype)
    ones.flags.writeable = False
    return ones


def at_least_float32(x: Array) -> Array:
    """`x` itself if it is float32 or float64, else (float16, bfloat16, integers) a float32 copy."""
    return x if x.dtype in (np.float32, np.float64) else x.astype(np.float32)


def sum_rows(x: Array) -> Array:
    """Sum over all axes but the last: (..., C) -> (C,)."""
    return x.reshape(-1, x.shape[-1]).sum(axis=0)


def add_rows(ids: Array, rows: Array, n: int) -> Array:
    """table (n, C) whose row i is the sum of those `rows` (N, C) whose id is i; ids (N,) in [0, n).

    The order of the additions is fixed, so the result is the same on every run (`add.at` on a GPU adds in whatever
    order its threads arrive).
    """
    xp = get_array_module(rows)
    order = xp.argsort(ids, kind="stable")
    sorted_ids = ids[order]
    if not on_host(rows):
        starts, ends = (xp.searchsorted(sorted_ids, xp.arange(n), side=side) for side in ("left", "right"))
        return _sum_segments(xp, xp.ascontiguousarray(rows), order, starts, ends)
    table = np.zeros((n, rows.shape[-1]), dtype=rows.dtype)
    starts = np.flatnonzero(np.diff(sorted_ids, prepend=-1))
    table[sorted_ids[starts]] = np.add.reduceat(rows[order], starts, axis=0)
    return table


def _sum_segments(xp: Any, rows: Array, order: Array, starts: Array, ends: Array) -> Array:
    """(S, C): row s is the sum of rows[order[starts[s]:ends[s]]], added from left to right."""
    total = xp.empty((starts.size, rows.shape[-1]), dtype=rows.dtype)
    return _segment_kernel(xp)(rows, order, starts, ends, rows.shape[-1], total)


@cache
def _segment_kernel(xp: Any) -> Any:
    return xp.ElementwiseKernel(
        "raw T rows, raw I order, raw I starts, raw I ends, int64 n_channels",
        "T total",
        """
        const long long segment = i / n_channels, channel = i % n_channels;
        T sum = 0;
        for (long long j = starts[segment]; j < ends[segment]; ++j) sum += rows[order[j] * n_channels + channel];
        total = sum;
        """,
        "minikd_sum_segments",
    )
