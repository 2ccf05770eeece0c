"""A call of a graded function: its inputs made in its framework, its values and gradients taken back as NumPy's."""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


class Misfit(Exception):
    """What a function returned is not what its exercise asks for; the message says what it is and what is wanted."""


class NumPy:
    """Functions that return their value and its pullback."""

    name = "numpy"

    def array(self, x: np.ndarray, *, strided: bool = False) -> Any:
        """`x` for the function to take; strided: with gaps between its entries, where it has an axis."""
        if not strided or not x.ndim:
            return x.copy()
        gaps = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), dtype=x.dtype)
        gaps[..., ::2] = x
        return gaps[..., ::2]

    def taken(self, x: Any, what: str) -> np.ndarray:
        """A copy of what the function returned, which must be numbers."""
        if not isinstance(x, np.ndarray | np.generic | int | float):
            raise Misfit(f"{what} is a {type(x).__name__}; wanted an array")
        x = np.array(x)
        if x.dtype.kind not in "biuf" or x.dtype.itemsize > 8:
            raise Misfit(f"{what} is an array of {x.dtype}; wanted numbers")
        return x

    def differentiate(
        self, call: Callable, wrt: Sequence[Any], cotangents: Sequence[np.ndarray]
    ) -> tuple[Any, Sequence[Any]]:
        """Value and gradients of a function that returns its value alone."""
        raise Misfit(f"it returned {described(call(*wrt))}; wanted a pair (value, pullback)")


class Torch(NumPy):
    """Functions on PyTorch's tensors, in either form."""

    name = "torch"

    def __init__(self) -> None:
        import torch

        torch.set_num_threads(1)
        self.torch = torch

    def array(self, x: np.ndarray, *, strided: bool = False) -> Any:
        return self.torch.from_numpy(super().array(x, strided=strided))

    def taken(self, x: Any, what: str) -> np.ndarray:
        if isinstance(x, self.torch.Tensor):
            x = x.detach().cpu()
            x = (x.float() if x.dtype == self.torch.bfloat16 else x).numpy()
        return super().taken(x, what)

    def differentiate(
        self, call: Callable, wrt: Sequence[Any], cotangents: Sequence[np.ndarray]
    ) -> tuple[Any, Sequence[Any]]:
        result = call(*(x.requires_grad_() for x in wrt))
        weighted = []
        for i, value in enumerate(parts_of(result)):
            if not isinstance(value, self.torch.Tensor):
                raise Misfit(f"it returned a {type(value).__name__}; wanted a tensor, or a pair (value, pullback)")
            given = bool(cotangents) and cotangents[i].shape == value.shape  # else the value is wrong already
            weight = self.array(cotangents[i]).to(value.dtype) if given else self.torch.ones_like(value)
            weighted.append((value, weight))
        ends, weights = zip(*weighted, strict=True)
        if not any(value.requires_grad for value in ends):
            return result, [self.torch.zeros_like(x) for x in wrt]
        gradients = self.torch.autograd.grad(ends, wrt, weights, allow_unused=True)
        return result, [self.torch.zeros_like(x) if g is None else g for x, g in zip(wrt, gradients, strict=True)]


class Jax(NumPy):
    """Functions on JAX's arrays, in either form."""

    name = "jax"

    def __init__(self) -> None:
        import jax

        jax.config.update("jax_enable_x64", True)
        self.jax = jax

    def array(self, x: np.ndarray, *, strided: bool = False) -> Any:
        return self.jax.numpy.asarray(x)

    def taken(self, x: Any, what: str) -> np.ndarray:
        return super().taken(np.asarray(x) if isinstance(x, self.jax.Array) else x, what)

    def differentiate(
        self, call: Callable, wrt: Sequence[Any], cotangents: Sequence[np.ndarray]
    ) -> tuple[Any, Sequence[Any]]:
        value, pull = self.jax.vjp(call, *wrt)
        weights = [
            self.jax.numpy.asarray(cotangents[i], dtype=part.dtype)
            if cotangents and cotangents[i].shape == part.shape  # else the value is wrong already
            else self.jax.numpy.ones_like(part)
            for i, part in enumerate(parts_of(value))
        ]
        return value, pull(tuple(weights) if isinstance(value, tuple) else weights[0])


FRAMEWORKS: dict[str, type[NumPy]] = {"numpy": NumPy, "torch": Torch, "jax": Jax}


def framework_of(module: Mapping[str, Any]) -> NumPy:
    """That in which a file says it is written, FRAMEWORK = "torch", or which it has imported."""
    said = module.get("FRAMEWORK")
    if said is not None and said not in FRAMEWORKS:
        raise Misfit(f"FRAMEWORK is {said!r}; wanted one of {', '.join(FRAMEWORKS)}")
    imported = [name for name in ("torch", "jax") if sys.modules.get(name)]
    return FRAMEWORKS[said or [*imported, "numpy"][0]]()


def precision_of(module: Mapping[str, Any]) -> str:
    """The type of number that a file says it computes in whatever it is given, PRECISION = "float32"."""
    said = module.get("PRECISION", "float64")
    if said not in ("float64", "float32"):
        raise Misfit(f"PRECISION is {said!r}; wanted float64 or float32")
    return said


def answer(function: Callable, framework: NumPy, request: Mapping[str, Any], arrays: Arrays) -> Arrays:
    """Call the function as the request says.

    What it returned (y0, y1, ...), the gradients (g0, ...), those of a second call of its pullback (h0, ...), and its
    inputs as they are afterwards ("after NAME").
    """
    wrt = request["wrt"]
    cotangents = [arrays.pop(f"cotangent {i}") for i in range(request["cotangents"])]
    inputs = {name: framework.array(x, strided=request["strided"]) for name, x in arrays.items()}

    def call(*differentiable: Any) -> Any:
        given = inputs | dict(zip(wrt, differentiable, strict=True))
        positional = [given[name] for name in request["positional"]]
        return function(*positional, **{name: given[name] for name in request["keyword"]}, **request["attributes"])

    asked = [inputs[name] for name in wrt]
    result = call(*asked)
    found: Arrays = {}
    if wrt and is_pair(result):
        result, vjp = result
        for letter in "gh":
            found |= pulled(framework, vjp, cotangents, wrt, letter)
    elif wrt:
        result, gradients = framework.differentiate(call, asked, cotangents)
        found |= taken_gradients(framework, tuple(gradients), wrt, "g")
    for i, part in enumerate(parts_of(result)):
        found[f"y{i}"] = framework.taken(part, f"its value {i + 1}" if isinstance(result, tuple) else "its value")
    return found | {f"after {name}": framework.taken(x, name) for name, x in inputs.items()}


def pulled(
    framework: NumPy, vjp: Callable, cotangents: Sequence[np.ndarray], wrt: Sequence[str], letter: str
) -> Arrays:
    """The gradients that a pullback gives; that of a number may take its weight or leave it to be multiplied by."""
    weights = [framework.array(c) if c.ndim else float(c) for c in cotangents]
    if all(c.ndim == 0 for c in cotangents):
        if weights and accepts(vjp, 0) and not accepts(vjp, 1):
            gradients = taken_gradients(framework, vjp(), wrt, letter)
            return {name: g * np.asarray(weights[0], dtype=g.dtype) for name, g in gradients.items()}
        if not weights and accepts(vjp, 1) and not accepts(vjp, 0):
            weights = [1.0]
    return taken_gradients(framework, vjp(*weights), wrt, letter)


def accepts(function: Callable, count: int) -> bool:
    """Whether a function can be called with so many arguments, as far as can be told."""
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # there is no signature to be had
        return True
    return True


def taken_gradients(framework: NumPy, gradients: Any, wrt: Sequence[str], letter: str) -> Arrays:
    """The gradients by their short names."""
    if len(wrt) == 1 and not isinstance(gradients, tuple):
        gradients = (gradients,)
    if not isinstance(gradients, tuple) or len(gradients) != len(wrt):
        raise Misfit(f"its pullback returned {described(gradients)}; wanted {len(wrt)}: {', '.join(wrt)}")
    each = zip(wrt, gradients, strict=True)
    return {f"{letter}{i}": framework.taken(x, f"the gradient of {name}") for i, (name, x) in enumerate(each)}


def is_pair(result: Any) -> bool:
    """Whether a result is (value, pullback)."""
    return isinstance(result, tuple) and len(result) == 2 and callable(result[1])


def parts_of(value: Any) -> tuple[Any, ...]:
    """The parts of a value: those of a tuple, or the value alone."""
    return value if isinstance(value, tuple) else (value,)


def described(x: Any) -> str:
    """What something is, for a message."""
    return f"a tuple of {len(x)}" if isinstance(x, tuple) else f"a {type(x).__name__}"
