"""The derivative of a function along a line, from its values alone, with an estimate of its own error."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minikd.backend import get_array_module, to_host
from minikd.models.parameters import Parameters
from minikd.oracle.contract import (
    Leaf,
    coarsest,
    inner_size,
    is_array,
    is_floating,
    leaves_of,
    parts_of,
    rounding_unit,
    to_float64,
    value_and_vjp,
)

Line = Callable[[float], tuple[float, float]]  # h -> F(h) - F(-h), F(h) - 2 F(0) + F(-h)

LEVELS = 20
HIGHEST_ORDER = 5


@dataclass(frozen=True)
class Slope:
    """A derivative at 0: `value`, the estimated `error` of it, and the share of rounding in that error.

    secant: the steeper of the two secants over the first step. kink: the two sides have different slopes however near
    one looks, so there is no derivative.
    """

    value: float
    error: float
    rounding: float
    secant: float
    kink: bool


def slope(line: Line, *, step: float, goal: float, noise: float) -> Slope:
    """The derivative of F at 0.

    Central differences at step, step/2, step/4, ..., extrapolated to a step of 0; the smallest disagreement between
    neighbouring extrapolations is the error. Ends when the error is below `goal` or below the rounding that is left
    of `noise`, the absolute rounding error of a difference of F. Ridders 1982.
    """
    value, error, rounding = math.nan, math.inf, math.inf
    previous: list[float] = []
    bends: list[float] = []
    for level in range(LEVELS):
        h = step / 2**level
        odd, even = line(h)
        if level == 0:
            secant = max(abs(odd + even), abs(odd - even)) / (2 * h)
        row = [odd / (2 * h)]
        for order, coarser in enumerate(previous[:HIGHEST_ORDER], 1):
            # the error of central differences has even powers of h alone; halving h divides the next one by 4^order
            row.append(row[-1] + (row[-1] - coarser) / (4**order - 1))
            disagreement = max(abs(row[-1] - row[-2]), abs(row[-1] - coarser))
            if max(disagreement, noise / h) < error:
                value, error, rounding = row[-1], max(disagreement, noise / h), noise / h
        previous = row
        bends.append(even / h)
        if level >= 2 and error <= max(goal, noise / h) and _straightens(bends, max(goal, 8 * noise / h)):
            return Slope(value, error, rounding, secant, kink=False)
    return Slope(value, error, rounding, secant, kink=_stays_bent(bends))


def _straightens(bends: list[float], negligible: float) -> bool:
    """Whether the two one-sided slopes approach each other: their gap is h F'' where F is smooth."""
    return abs(bends[-1]) <= max(0.75 * abs(bends[-2]), negligible)


def _stays_bent(bends: list[float]) -> bool:
    tail = bends[-4:]
    return min(tail) * max(tail) > 0 and min(map(abs, tail)) > 0.8 * max(map(abs, tail))


class Probe:
    """F(x) = cotangent . f(x), evaluated in float64 near the arguments."""

    def __init__(self, f: Callable, args: Sequence[Any]):
        self._f = f
        self._args = [_in_float64(arg) for arg in args]
        self._arrays = {(i, path): array for i, arg in enumerate(self._args) for path, array in leaves_of(arg)}
        self._starts = {place: to_host(array).copy() for place, array in self._arrays.items()}

    def weigh(self, cotangents: list[np.ndarray]) -> None:
        """Fix the cotangent. `size` is then a norm of F, `noise` the rounding error expected in its differences."""
        parts = self._parts()
        self._cotangents = cotangents
        self._here = [to_float64(part) for part in parts]
        self.size = inner_size(cotangents, self._here)
        self.low_precision = coarsest(parts) > rounding_unit(np.float64)
        self.noise = 4 * coarsest(parts) * self.size

    def line(self, leaf: Leaf, direction: np.ndarray) -> Line:
        """F along `direction`, where only `leaf` moves."""

        def differences(h: float) -> tuple[float, float]:
            ahead, behind = self._moved(leaf, h * direction), self._moved(leaf, -h * direction)
            forward, backward = self._difference(ahead, self._here), self._difference(self._here, behind)
            return self._difference(ahead, behind), forward - backward

        return differences

    def measured_noise(self, leaf: Leaf, rng: np.random.Generator) -> float:
        """`noise` as f shows it: what a polynomial of degree 4 does not explain of F over a very short way.

        From fifth differences, which amplify the variance of independent errors 252 times. Moré & Wild 2011, section 3.
        """
        found = []
        for _ in range(2):
            direction = 2.0**-22 * leaf.scale * random_direction(leaf.array.shape, rng)
            way = [self._difference(self._moved(leaf, k * direction), self._here) for k in range(9)]
            found.append(math.sqrt(np.mean(np.diff(way, 5) ** 2) / 252))
        return 4 * min(found)  # a kink on one of the ways is not noise

    def _moved(self, leaf: Leaf, displacement: np.ndarray) -> list[np.ndarray]:
        place = leaf.position, leaf.path
        array, start = self._arrays[place], self._starts[place]
        xp = get_array_module(array)
        array[...] = xp.asarray(start + displacement)
        try:
            with np.errstate(all="ignore"):  # a step may leave the function's domain
                return [to_float64(part) for part in self._parts()]
        finally:
            array[...] = xp.asarray(start)

    def _parts(self) -> tuple[Any, ...]:
        return parts_of(value_and_vjp(self._f, self._args)[0])

    def _difference(self, some: list[np.ndarray], others: list[np.ndarray]) -> float:
        """cotangent . (some - others), value by value before the sum; where both are -inf (log 0), they differ by 0."""
        total = 0.0
        with np.errstate(invalid="ignore"):
            for c, a, b in zip(self._cotangents, some, others, strict=True):
                total += float(np.sum(c * np.where((a == b) & (a == -np.inf), 0, a - b)))
        return total


def random_direction(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Entries of mean 0 and variance 1 in whole sixteenths, so that a step along it is exact."""
    return np.round(16 * rng.standard_normal(shape)) / 16


def _in_float64(tree: Any) -> Any:
    """A copy in which every floating array is float64; mappings other than Parameters become dicts."""
    if isinstance(tree, Parameters):
        return tree.with_flat(_in_float64(tree.flat))
    if isinstance(tree, Mapping):
        return {key: _in_float64(value) for key, value in tree.items()}
    if is_array(tree):
        return get_array_module(tree).array(tree, dtype=np.float64 if is_floating(tree) else tree.dtype)
    return tree
