"""Temperature softmax and log-softmax: the heart of distillation."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from minikd.backend import Array, get_array_module, on_host, row_blocks, row_dot, row_sum

FLOATING = ("float16", "bfloat16", "float32", "float64")
TEMPERATURES = (1e-15, 1e15)  # the lowest and the highest: the square of either is an ordinary float32


def softmax(logits: Array, temperature: float = 1.0) -> tuple[Array, Callable]:
    """Probabilities exp(logits / T) / sum(exp(logits / T)) over the last axis.

    logits (..., V) -> p (..., V); vjp(dp) -> dlogits. float16 and bfloat16 are computed, and p is returned, in float32.
    An entry of -inf has p = 0 and gradient 0. ValueError: a row of nothing else (on a GPU, NaN instead), logits of
    another type or without entries, a temperature that is not in 1e-15 to 1e15, a dp of another shape than p.
    Hinton, Vinyals & Dean 2015, eq. 1. Kept for the pullback: p.
    """
    check_floating(logits=logits)
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
        dz, dp = xp.empty_like(p), cotangent_rows(dp, logits.shape)
        for block in row_blocks(p):
            xp.subtract(dp[block], row_dot(p[block], dp[block])[:, None], out=dz[block])
            dz[block] *= p[block]
            if temperature != 1:
                dz[block] *= 1 / float(temperature)
        return dz.reshape(logits.shape).astype(logits.dtype, copy=False)

    return p.reshape(logits.shape), vjp


def log_softmax(logits: Array, temperature: float = 1.0) -> tuple[Array, Callable]:
    """The logarithm of `softmax`, accurate also where a probability is close to 0 or to 1.

    logits (..., V) -> logp (..., V) in nats; vjp(dlogp) -> dlogits. Types and errors as in `softmax`. An entry of -inf
    stays -inf and takes no part in the pullback. Kept for the pullback: logp.
    """
    check_floating(logits=logits)
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
        dz, dlogp = xp.empty_like(logp), cotangent_rows(dlogp, logits.shape)
        for block in row_blocks(logp):
            finite = xp.where(xp.isinf(logp[block]), dtype.type(0), dlogp[block])
            xp.exp(logp[block], out=dz[block])
            dz[block] *= -finite.sum(axis=-1, keepdims=True)
            dz[block] += finite
            dz[block] *= 1 / float(temperature)
        return dz.reshape(logits.shape).astype(logits.dtype, copy=False)

    return logp.reshape(logits.shape), vjp


def check_floating(**arrays: Array) -> None:
    """ValueError unless these, by name, are arrays (..., V) of floating-point numbers, V above 0."""
    for name, x in arrays.items():
        verb = "are" if name.endswith("s") else "is"
        if not _in_floating(getattr(x, "dtype", None)):
            types = f"{', '.join(FLOATING[:-1])} or {FLOATING[-1]}"
            raise ValueError(f"{name} {verb} {form(x)}; wanted an array of type {types} in native byte order")
        if x.shape[-1:] in ((), (0,)):
            raise ValueError(f"{name} {verb} {form(x)}; wanted at least one axis, and the last one not empty")


@cache
def _in_floating(dtype: Any) -> bool:
    return str(dtype) in FLOATING


def form(x: Any) -> str:
    """What `x` is, for a message: type and shape of an array, or its class."""
    return f"{x.dtype} {x.shape}" if hasattr(x, "dtype") else f"a {type(x).__name__}"


def check_temperature(temperature: float) -> None:
    """ValueError unless `temperature` is a number from 1e-15 to 1e15."""
    lowest, highest = TEMPERATURES
    if not (isinstance(temperature, (int, float, np.number)) and lowest <= temperature <= highest):
        raise ValueError(f"temperature is {temperature!r}; wanted a number from {lowest:g} to {highest:g}")


def working_dtype(logits: Array) -> Any:
    """The type to compute in: float64 for float64, float32 for everything shorter."""
    return np.dtype(np.float64 if logits.dtype == np.float64 else np.float32)


def cotangent_rows(cotangent: Array, shape: tuple[int, ...]) -> Array:
    """A cotangent (..., V) as rows (n, V); ValueError unless it has the value's `shape`."""
    if getattr(cotangent, "shape", None) != shape:
        raise ValueError(f"the cotangent is {form(cotangent)}; wanted the value's shape, {shape}")
    return cotangent.reshape(-1, shape[-1])


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
            out *= 1 / float(temperature)
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
