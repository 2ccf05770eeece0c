"""Threads that compute the parts of a batch side by side."""

import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from types import TracebackType
from typing import TypeVar

from threadpoolctl import threadpool_limits

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parts_of(n: int, count: int) -> list[slice]:
    """Slices of n items, for `count` workers, about equally long."""
    ends = [n * i // count for i in range(count + 1)]
    return [slice(*pair) for pair in pairwise(ends)]


class Workers:
    """`count` threads, each with a BLAS of one thread: NumPy's elementwise passes then run in parallel too.

    One worker computes in the calling thread. To be used as a context manager; RuntimeError outside of it.
    """

    def __init__(self, count: int):
        if count < 1:
            raise ValueError(f"threads is {count}; wanted at least 1")
        self.count = count
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> "Workers":
        _keep_freed_memory()
        self._limits = threadpool_limits(1, user_api="blas")
        if self.count > 1:
            self._pool = ThreadPoolExecutor(self.count)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self._limits.restore_original_limits()

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """function(item) of every item, in order."""
        if self.count == 1:
            return [function(item) for item in items]
        if self._pool is None:
            raise RuntimeError(
                f"{self.count} workers are not at work; wanted: with Workers({self.count}) as workers: ..."
            )
        return list(self._pool.map(function, items))


@cache
def _keep_freed_memory() -> None:
    """Have glibc keep large freed blocks for the next allocation instead of giving them back to the system.

    Every step allocates the same large arrays; mapping and zeroing their pages anew took a sixth of its time.
    """
    if sys.platform == "linux":
        trim_threshold, mmap_threshold, arena_max = -1, -3, -8  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, ...
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # absent outside glibc
        if mallopt is not None:
            mallopt(trim_threshold, 1 << 30)
            mallopt(mmap_threshold, 1 << 30)
            mallopt(arena_max, 1)  # a thread's own arena gives its memory back all the same
