"""Arrays of mpmath's numbers that remember how they came about, so that a formula alone gives its gradients.

A witness must not repeat the handwritten pullbacks: here only the slopes of +, *, exp and a few more are known, and
the chain rule. A test holds what comes out against difference quotients.
"""

from collections.abc import Callable, Sequence
from typing import Any

import mpmath as mp
import numpy as np

Numbers = np.ndarray
"""An object array of mpmath's numbers."""


class Traced:
    """Numbers, and what they were computed from: each source with the pullback to it."""

    __array_ufunc__ = None  # an array of NumPy leaves its operators to those here

    def __init__(self, value: Any, sources: "tuple[tuple[Traced, Callable[[Numbers], Numbers]], ...]" = ()):
        self.value: Numbers = np.asarray(value, dtype=object)
        self.sources = sources

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    def __add__(self, other: Any) -> "Traced":
        other = traced(other)
        return Traced(self.value + other.value, ((self, lambda d: d), (other, lambda d: d)))

    def __mul__(self, other: Any) -> "Traced":
        other = traced(other)
        return Traced(self.value * other.value, ((self, lambda d: d * other.value), (other, lambda d: d * self.value)))

    def __pow__(self, power: Any) -> "Traced":
        return Traced(self.value**power, ((self, lambda d: d * power * self.value ** (power - 1)),))

    def __matmul__(self, other: Any) -> "Traced":
        a, b = self, traced(other)
        to_a = a, lambda d: d @ b.value.swapaxes(-1, -2)
        to_b = b, lambda d: a.value.swapaxes(-1, -2) @ d
        return Traced(a.value @ b.value, (to_a, to_b))

    def __neg__(self) -> "Traced":
        return self * -1

    def __sub__(self, other: Any) -> "Traced":
        return self + traced(other) * -1

    def __truediv__(self, other: Any) -> "Traced":
        other = traced(other)
        to_other = other, lambda d: -d * self.value / other.value**2
        return Traced(self.value / other.value, ((self, lambda d: d / other.value), to_other))

    def __radd__(self, other: Any) -> "Traced":
        return self + other

    def __rmul__(self, other: Any) -> "Traced":
        return self * other

    def __rsub__(self, other: Any) -> "Traced":
        return traced(other) - self

    def __rtruediv__(self, other: Any) -> "Traced":
        return traced(other) / self

    def __rmatmul__(self, other: Any) -> "Traced":
        return traced(other) @ self

    def __getitem__(self, index: Any) -> "Traced":
        def pull(d: Numbers) -> Numbers:
            slopes = np.full(self.shape, mp.mpf(0), dtype=object)
            np.add.at(slopes, index, d)
            return slopes

        return Traced(self.value[index], ((self, pull),))

    def sum(self, axis: Any = None, keepdims: bool = False) -> "Traced":
        def pull(d: Numbers) -> Numbers:
            return np.broadcast_to(d if keepdims or axis is None else np.expand_dims(d, axis), self.shape)

        return Traced(self.value.sum(axis=axis, keepdims=keepdims), ((self, pull),))

    def reshape(self, *shape: int) -> "Traced":
        return Traced(self.value.reshape(*shape), ((self, lambda d: d.reshape(self.shape)),))

    def swapaxes(self, a: int, b: int) -> "Traced":
        return Traced(self.value.swapaxes(a, b), ((self, lambda d: d.swapaxes(a, b)),))


def traced(x: Any) -> Traced:
    """x itself, or a constant."""
    return x if isinstance(x, Traced) else Traced(x)


def held(x: Any) -> Numbers:
    """The numbers alone: a constant, through which no gradient flows."""
    return x.value if isinstance(x, Traced) else x


def entrywise(f: Callable[[Any], Any], slope: Callable[[Numbers, Numbers], Numbers]) -> Callable[[Any], Any]:
    """f for each entry of an array, traced or not; slope(x, y) is its derivative at x, where f gives y."""
    on_array = np.frompyfunc(f, 1, 1)

    def apply(x: Any) -> Any:
        if not isinstance(x, Traced):
            return on_array(x)
        y = on_array(x.value)
        return Traced(y, ((x, lambda d: d * slope(x.value, y)),))

    return apply


exp = entrywise(mp.exp, lambda x, y: y)
log = entrywise(mp.log, lambda x, y: 1 / x)
tanh = entrywise(mp.tanh, lambda x, y: 1 - y * y)
sqrt = entrywise(mp.sqrt, lambda x, y: 1 / (2 * y))
absolute = entrywise(abs, lambda x, y: np.sign(x) * (y > tiny()))


def tiny() -> Any:
    """What is below is 0, and the rest of a rounding: a third of the digits are to spare."""
    return mp.mpf(10) ** -(2 * mp.mp.dps // 3)


def gradients(value: Traced, wrt: Sequence[Traced], cotangent: Any = 1) -> list[Numbers]:
    """How the sum of cotangent * value changes with every entry of the arrays `wrt`."""
    slopes = {id(x): np.full(x.shape, mp.mpf(0), dtype=object) for x in wrt}
    slopes[id(value)] = np.full(value.shape, mp.mpf(1), dtype=object) * cotangent
    for x in reversed(_sources_first(value, [])):
        for source, pull in x.sources:
            slope = _summed_to(source.shape, np.asarray(pull(slopes[id(x)]), dtype=object))
            slopes[id(source)] = slopes[id(source)] + slope if id(source) in slopes else slope
    return [slopes[id(x)] for x in wrt]


def _sources_first(x: Traced, before: list[Traced]) -> list[Traced]:
    """Everything that x came from, and x, each after its own sources."""
    if not any(x is other for other in before):
        for source, _ in x.sources:
            _sources_first(source, before)
        before.append(x)
    return before


def _summed_to(shape: tuple[int, ...], d: Numbers) -> Numbers:
    """The slope of an array of this shape that was broadcast to that of d."""
    d = d.sum(axis=tuple(range(d.ndim - len(shape)))) if d.ndim > len(shape) else d
    stretched = tuple(axis for axis, size in enumerate(shape) if size == 1 != d.shape[axis])
    return d.sum(axis=stretched, keepdims=True) if stretched else d
