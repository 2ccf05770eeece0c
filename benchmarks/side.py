"""What the two sides have in common: a step to time, and what it computed."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def wall_clock(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that `work` took by the clock, and its result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


@dataclass(frozen=True)
class Side:
    """One side of one case, ready to run."""

    step: Callable[[], Any]
    """one training step, or one generation; its result stays on the device"""
    numbers: Callable[[Any], list[float]]
    """a step's result on the host, to hold against the other side's: the losses, or the tokens written"""
    info: dict[str, Any]
    """versions, threads, device"""
    timed: Callable[[Callable[[], Any]], tuple[float, Any]]
    """seconds that some work took, and its result"""
    device_peak_bytes: Callable[[], int | None]
    """the most memory held on the GPU so far"""
