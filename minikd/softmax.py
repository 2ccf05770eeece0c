"""Temperature softmax and log-softmax: the heart of distillation."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minikd.backend import Array, get_array_module, on_host, row_blocks, row_dot, row_sum


def softmax(logits: Array, temperature: float = 1.0) -> tuple[Array, Callable]:
    """Probabilities exp(logits / T) / sum(exp(logits / T)) over the last axis.

    logits (..., V) -> p (..., V); vjp(dp) -> dlogits. float16 and bfloat16 are computed, and p is returned, in float32.
    An entry of -inf has p = 0 and gradient 0. ValueError: a row of nothing else (on a GPU, NaN instead), a temperature
    that is not above 0. Hinton, Vinyals & Dean 2015, eq. 1. Kept for the pullback: p.
    """
    check_temperature(temperature)
    xp, dtype = get_array_module(logits), working_dtype(logits)
    z = logits.reshape(-1, logits.shape[-1])
    p = xp.empty(z.shape, dtype=dtype)
    for block in row_blocks(p):
        powers = p[block]
        shift_and_scale(z[block], largest_entries(z[block])[0], temperature, out=powers)
        xp.exp(powers, out=powers)
        powers /= row_sum(powers)[:, None]

    def vjp(dp: Array) -> Array:
        # p_i depends on z_j through its own power and through the sum: dp_i/dz_j = p_i (1[i = j] - p_j) / T
        dz, dp = xp.empty_like(p), dp.reshape(p.shape)
        for block in row_blocks(p):
            xp.subtract(dp[block], row_dot(p[block], dp[block])[:, None], out=dz[block])
            dz[block] *= p[block]
            if temperature != 1:
                dz[block] *= inverse(temperature, dtype)
        return dz.reshape(logits.shape).astype(logits.dtype, copy=False)

    return p.reshape(logits.shape), vjp


def log_softmax(logits: Array, temperature: float = 1.0) -> tuple[Array, Callable]:
    """The logarithm of `softmax`, accurate also where a probability is close to 0 or to 1.

    logits (..., V) -> logp (..., V) in nats; vjp(dlogp) -> dlogits. Types and errors as in `softmax`. An entry of -inf
    stays -inf and takes no part in the pullback. Kept for the pullback: logp.
    """
    check_temperature(temperature)
    xp, dtype = get_array_module(logits), working_dtype(logits)
    z = logits.reshape(-1, logits.shape[-1])
    logp = xp.empty(z.shape, dtype=dtype)
    for block in row_blocks(logp):
        largest, index = largest_entries(z[block])
        shift_and_scale(z[block], largest, temperature, out=logp[block])
        rest = sum_of_others(xp.exp(logp[block]), index)
        logp[block] -= xp.log1p(rest)[:, None]

    def vjp(dlogp: Array) -> Array:
        # d(logp_i)/dz_j = (1[i = j] - p_j) / T
        dz, dlogp = xp.empty_like(logp), dlogp.reshape(logp.shape)
        for block in row_blocks(logp):
            finite = xp.where(xp.isinf(logp[block]), dtype.type(0), dlogp[block])
            xp.exp(logp[block], out=dz[block])
            dz[block] *= -finite.sum(axis=-1, keepdims=True)
            dz[block] += finite
            dz[block] *= inverse(temperature, dtype)
        return dz.reshape(logits.shape).astype(logits.dtype, copy=False)

    return logp.reshape(logits.shape), vjp


def check_temperature(temperature: float) -> None:
    """ValueError unless `temperature` is a finite number above 0."""
    if not (isinstance(temperature, (int, float, np.number)) and 0 < temperature < math.inf):
        raise ValueError(f"temperature is {temperature!r}; wanted a finite number above 0")


def working_dtype(logits: Array) -> Any:
    """The type to compute in: float64 for float64, float32 for everything shorter."""
    return np.dtype(np.float64 if logits.dtype == np.float64 else np.float32)


def inverse(temperature: float, dtype: Any) -> float:
    """1 / temperature, within the range of `dtype`."""
    limits = np.finfo(dtype)
    return min(max(1 / float(temperature), float(limits.tiny)), float(limits.max))


def take(x: Array, index: Array) -> Array:
    """The entry of each row of x (n, V) that index (n,) names."""
    return x[get_array_module(x).arange(len(x)), index]


def largest_entries(z: Array) -> tuple[Array, Array]:
    """The largest entry of each row of logits z (n, V) and its index; ValueError if that is -inf (on a GPU: unseen)."""
    index = z.argmax(axis=-1)
    largest = take(z, index)
    if on_host(z) and largest.size and largest.min() == -np.inf:
        raise ValueError(
            "the logits of a token are -inf throughout; wanted at least one entry above -inf for every token"
        )
    return largest, index


def shift_and_scale(z: Array, origin: Array, temperature: float, *, out: Array) -> Array:
    """(z - origin) / T into `out`, for rows z (n, V) and a number for each, origin (n,)."""
    xp = get_array_module(z)
    xp.subtract(z, origin[:, None], out=out, dtype=out.dtype)
    if temperature != 1:
        with np.errstate(over="ignore"):  # a tiny T sends all but the largest to -inf
            out *= inverse(temperature, out.dtype)
    return out


def sum_of_others(powers: Array, largest: Array) -> Array:
    """The sum of each row of `powers` (n, V) without its largest entry, which is 1 and stands at the index `largest`.

    log1p of it is the logarithm of the whole sum, to the last digit even where the others are tiny.
    """
    rows = get_array_module(powers).arange(len(powers))
    powers[rows, largest] = 0
    rest = powers.sum(axis=-1)
    powers[rows, largest] = 1
    return rest
