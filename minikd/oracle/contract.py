"""The contract `y, vjp = f(...)` apart from the numbers: a pullback asked several times, its breaches noted."""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minikd.backend import Array, get_array_module, to_host

Path = tuple[Any, ...]
Gradients = list[np.ndarray | None]


@dataclass(frozen=True)
class Leaf:
    """An array among the arguments: that at `path` in the mapping at `position`, or the argument itself."""

    name: str
    position: int
    path: Path
    array: Array

    @property
    def scale(self) -> float:
        """A power of two near the median size of its entries that are not 0; 1 if all are."""
        values = to_float64(self.array)
        values = values[np.isfinite(values) & (values != 0)]
        return 2.0 ** round(math.log2(np.median(np.abs(values)))) if values.size else 1.0


@dataclass
class Pulled:
    """What a pullback answered to random cotangents: one gradient (float64, on the host) for each differentiable leaf.

    A gradient is None where there is none of the leaf's shape. faults: by leaf, what is wrong with its gradient's
    form, or nothing; problems: breaches of the contract; size: L2 norm of cotangent * value; unit: the rounding unit of
    the value.
    """

    leaves: list[Leaf]
    cotangents: list[np.ndarray]
    size: float
    unit: float
    gradients: Gradients
    faults: list[str]
    problems: list[str]


def pull(f: Callable, args: Sequence[Any], wrt: int | Sequence[int] | None, rng: np.random.Generator) -> Pulled:
    """Call f and its pullback as a training step would, and then again. ValueError: f or `wrt` has another form."""
    all_leaves = _all_leaves(f, args)
    leaves = _differentiable(all_leaves, wrt)
    arguments = _Watch((f"argument {leaf.name}", leaf.array) for leaf in all_leaves)
    value, vjp = value_and_vjp(f, args)
    problems = arguments.changes("the function")
    parts = parts_of(value)
    if not parts:
        raise ValueError("the function's value is an empty tuple; wanted floating arrays or a number")
    for part in parts:
        if not (is_number(part) or (is_array(part) and is_floating(part))):
            raise ValueError(f"the function's value holds a {type(part).__name__}; wanted floating arrays or a number")
    values = [to_float64(part) for part in parts]
    if not all(map(_same, values, map(to_float64, parts_of(value_and_vjp(f, args)[0])))):
        problems.append("the function gives another value when it is called again")

    is_loss = len(parts) == 1 and is_number(parts[0])
    cotangents = [_cotangent(part, rng) for part in parts] if not is_loss or _accepts(vjp, 1) else []
    weights = [to_float64(c) for c in cotangents] or [np.ones(())]
    others = _Watch([("its cotangent", c) for c in cotangents] + [("its value", part) for part in parts])
    answer = vjp(*cotangents)
    gradients, faults = _by_leaf(answer, leaves)
    pulled = Pulled(leaves, weights, inner_size(weights, values), coarsest(parts), gradients, faults, problems)

    if cotangents:
        problems += _nonlinearities(vjp, pulled, parts, rng)
    if cotangents and is_loss and _accepts(vjp, 0):
        weighted = [None if g is None else g * float(weights[0]) for g in _by_leaf(vjp(), leaves)[0]]
        problems += _differences("vjp() is not vjp(1)", gradients, weighted, pulled)
    kept = _by_leaf(answer, leaves)[0]
    problems += _differences("a later call of the pullback overwrote its gradient", gradients, kept, pulled)
    again = _by_leaf(vjp(*cotangents), leaves)[0]
    problems += _differences("a second call of the pullback gives another gradient", gradients, again, pulled)
    problems += arguments.changes("the pullback") + others.changes("the pullback")
    return pulled


def inner_size(cotangents: list[np.ndarray], values: list[np.ndarray]) -> float:
    """L2 norm of cotangent * value over all parts, without the entries that are not finite."""
    products = [c * np.where(np.isfinite(y), y, 0) for c, y in zip(cotangents, values, strict=True)]
    return math.hypot(*(float(np.linalg.norm(product)) for product in products))


def value_and_vjp(f: Callable, args: Sequence[Any]) -> tuple[Any, Callable]:
    """f(*args), which must be a pair of a value and its pullback: ValueError if not."""
    result = f(*args)
    if not (isinstance(result, tuple) and len(result) == 2 and callable(result[1])):
        raise ValueError(f"the function returned {type(result).__name__}; wanted a pair (value, pullback)")
    return result


def parts_of(value: Any) -> tuple[Any, ...]:
    """The parts of a function's value: those of a tuple, or the value alone."""
    return value if isinstance(value, tuple) else (value,)


def leaves_of(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Array]]:
    """The arrays in a (nested) mapping, each with its path of keys; an array is its own only leaf."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from leaves_of(value, (*path, key))
    elif is_array(tree):
        yield path, tree


def is_array(x: Any) -> bool:
    """Whether `x` is an array of NumPy or of a GPU (a NumPy scalar is not)."""
    return isinstance(x, np.ndarray) or get_array_module(x) is not np


def is_number(x: Any) -> bool:
    """Whether `x` is a Python or NumPy number or an array without axes."""
    return isinstance(x, int | float | np.number) or (is_array(x) and x.shape == ())


def is_floating(x: Array) -> bool:
    """Whether the entries of `x` are floating-point numbers, bfloat16 included."""
    return x.dtype.kind == "f" or x.dtype.name == "bfloat16"


def rounding_unit(dtype: Any) -> float:
    """The gap between 1 and the next number of a floating type."""
    return 2.0**-7 if np.dtype(dtype).name == "bfloat16" else float(np.finfo(dtype).eps)


def coarsest(parts: Sequence[Any]) -> float:
    """The rounding unit of the least precise part of a value."""
    return max(rounding_unit(getattr(part, "dtype", np.float64)) for part in parts)


def to_float64(x: Any) -> np.ndarray:
    """A float64 copy of an array or a number, on the host."""
    return np.array(to_host(x) if is_array(x) else x, dtype=np.float64)


class _Watch:
    """Named arrays, to be compared later with the bytes they had."""

    def __init__(self, named: Iterable[tuple[str, Any]]):
        self._seen = [(name, array, to_host(array).copy()) for name, array in named if is_array(array)]

    def changes(self, who: str) -> list[str]:
        """A line for each array that is not what it was when last looked at."""
        now = [(name, array, to_host(array).copy()) for name, array, _ in self._seen]
        changed = [name for (name, _, old), (_, _, new) in zip(self._seen, now, strict=True) if not _same(old, new)]
        self._seen = now
        return [f"{who} changed {name}" for name in changed]


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def _all_leaves(f: Callable, args: Sequence[Any]) -> list[Leaf]:
    try:
        names = [p.name for p in inspect.signature(f).parameters.values() if p.kind <= p.POSITIONAL_OR_KEYWORD]
    except (TypeError, ValueError):  # some builtins have no signature
        names = []
    names += [f"args[{position}]" for position in range(len(names), len(args))]
    return [
        Leaf(names[position] + "".join(f"[{key!r}]" for key in path), position, path, array)
        for position, arg in enumerate(args)
        for path, array in leaves_of(arg)
    ]


def _differentiable(leaves: list[Leaf], wrt: int | Sequence[int] | None) -> list[Leaf]:
    floating = [leaf for leaf in leaves if is_floating(leaf.array)]
    if wrt is None:
        if not floating:
            raise ValueError("no argument holds a floating array to differentiate by")
        return floating
    positions = (wrt,) if isinstance(wrt, int) else tuple(wrt)
    if not positions:
        raise ValueError("wrt names no position; wanted at least one")
    for position in positions:
        if not any(leaf.position == position for leaf in floating):
            raise ValueError(f"wrt names position {position}, where there is no floating array")
    return [leaf for position in positions for leaf in floating if leaf.position == position]


def _accepts(vjp: Callable, count: int) -> bool:
    try:
        inspect.signature(vjp).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # no signature to be had
        return True
    return True


def _cotangent(part: Any, rng: np.random.Generator) -> Any:
    if is_number(part):
        return float(rng.choice((-1, 1)) * rng.uniform(0.5, 2))
    return _like(rng.standard_normal(part.shape), part)


def _like(values: np.ndarray, part: Any) -> Any:
    """`values` as a cotangent for a part of f's value: of its dtype and on its device, a float if it is a number."""
    if is_number(part):
        return float(values)
    return get_array_module(part).asarray(values.astype(part.dtype))


def _by_leaf(answer: Any, leaves: list[Leaf]) -> tuple[Gradients, list[str]]:
    """The gradient of each leaf in what a pullback returned, and what is wrong with its form."""
    positions = list(dict.fromkeys(leaf.position for leaf in leaves))
    if len(positions) == 1:
        answer = (answer,)
    if not isinstance(answer, tuple) or len(answer) != len(positions):
        found = f"{len(answer)} gradients" if isinstance(answer, tuple) else f"one {type(answer).__name__}"
        return [None] * len(leaves), [f"the pullback returned {found} for {len(positions)} arguments"] * len(leaves)
    trees = dict(zip(positions, answer, strict=True))
    found_leaves = [_gradient(leaf, trees[leaf.position]) for leaf in leaves]
    return [gradient for gradient, _ in found_leaves], [fault for _, fault in found_leaves]


def _gradient(leaf: Leaf, tree: Any) -> tuple[np.ndarray | None, str]:
    for key in leaf.path:
        if not isinstance(tree, Mapping) or key not in tree:
            return None, "the pullback returned no gradient for it"
        tree = tree[key]
    if isinstance(tree, np.generic):  # what NumPy makes of arithmetic with an array without axes
        tree = np.asarray(tree)
    if not is_array(tree) or get_array_module(tree) is not get_array_module(leaf.array):
        return None, f"its gradient is a {type(tree).__name__}; wanted an array like the argument"
    if tree.shape != leaf.array.shape:
        return None, f"its gradient has shape {tree.shape}; wanted the argument's, {leaf.array.shape}"
    wrong_dtype = tree.dtype != leaf.array.dtype
    return to_float64(tree), f"its gradient is {tree.dtype}; wanted {leaf.array.dtype}" if wrong_dtype else ""


def _nonlinearities(vjp: Callable, pulled: Pulled, parts: Sequence[Any], rng: np.random.Generator) -> list[str]:
    """Where vjp(a c + b d) is not a vjp(c) + b vjp(d); the sum is laid out the other way round in memory."""
    a, b = 0.75, -1.5
    cotangents = [_cotangent(part, rng) for part in parts]
    sums = [
        np.asarray(a * c + b * to_float64(d), order="F") for c, d in zip(pulled.cotangents, cotangents, strict=True)
    ]
    second = _by_leaf(vjp(*cotangents), pulled.leaves)[0]
    of_sum = _by_leaf(vjp(*map(_like, sums, parts)), pulled.leaves)[0]
    expected = [
        None if g is None or h is None else a * g + b * h for g, h in zip(pulled.gradients, second, strict=True)
    ]
    return _differences("the pullback is not linear in its cotangent", expected, of_sum, pulled, roughly=True)


def _differences(problem: str, some: Gradients, others: Gradients, pulled: Pulled, roughly: bool = False) -> list[str]:
    """`problem` for each leaf where two gradients differ by more than a few roundings (roughly: half of the digits)."""
    found = []
    for leaf, one, other in zip(pulled.leaves, some, others, strict=True):
        if one is None or other is None:
            continue
        unit = max(pulled.unit, rounding_unit(leaf.array.dtype))
        allowed = math.sqrt(unit) if roughly else 8 * unit
        cancelled = 100 * unit * pulled.size / leaf.scale  # a gradient this small is nothing but rounding
        with np.errstate(invalid="ignore"):
            apart = np.where((one == other) | (np.isnan(one) & np.isnan(other)), 0, one - other)
            size = np.linalg.norm(np.where(np.isfinite(one), one, 0))
            if not np.linalg.norm(apart) <= allowed * size + cancelled:
                found.append(f"{problem} ({leaf.name})")
    return found
