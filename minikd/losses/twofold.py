"""Sums and products in two numbers, the rounded result and what rounding took away: twice the digits of a float64."""

from minikd.backend import Array, get_array_module

SPLITTER = 2.0**27 + 1


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b, rounded, and its error (0 where the sum is not finite). Knuth, TAOCP 2, 4.2.2, theorem B."""
    total = a + b
    virtual = total - a
    return total, _finite((a - (total - virtual)) + (b - virtual))


def two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """a b, rounded, and its error (0 where that is not finite). Dekker 1971."""
    product = a * b
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, _finite(error)


def _halves(a: Array) -> tuple[Array, Array]:
    """a as the sum of two numbers of 26 digits each, so that products of such halves are exact."""
    scaled = SPLITTER * a
    high = scaled - (scaled - a)
    return high, a - high


def _finite(x: Array) -> Array:
    xp = get_array_module(x)
    return xp.where(xp.isfinite(x), x, 0.0)
