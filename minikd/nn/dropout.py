"""Dropout."""

from collections.abc import Callable

import numpy as np

from minikd.backend import Array, get_array_module


def dropout(x: Array, rate: float, rng: np.random.Generator | None) -> tuple[Array, Callable]:
    """Set each entry to 0 with probability `rate` and scale the others by 1 / (1 - rate); without `rng`, do nothing.

    x (...) -> y (...); vjp(dy) -> dx. The mask is drawn on the host, so a seed gives the same one on every device.
    ValueError: a rate outside [0, 1). Srivastava et al. 2014, in the inverted form.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate is {rate}; wanted a number in [0, 1)")
    if rng is None or rate == 0:
        return x, lambda dy: dy
    keep = rng.random(x.shape, dtype=np.float32) >= rate
    scale = get_array_module(x).asarray(keep * (1 / (1 - rate)), dtype=x.dtype)
    return x * scale, lambda dy: dy * scale
