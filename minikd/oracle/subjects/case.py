"""What can be judged: a function of minikd with its cases, and how to call a candidate on one."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

FLAGS: dict[str, str] = {
    "temperature": "T is not 1: both distributions are softmax(logits / T), and the gradient carries 1/T",
    "mask": "some tokens do not count: they add nothing to the loss, to its divisor or to the gradient",
    "ignored-label": "the label -100 means the same as a mask: the token does not count",
    "garbage": "what does not count holds -inf or huge numbers: 0 times that is not 0, so it must not be looked at",
    "extreme": "numbers so far apart that exp overflows unless the largest is subtracted first",
    "minus-infinity": "-inf is a masked vocabulary entry: probability 0 and gradient 0, never NaN",
    "infinite": "the true loss of a token is inf, for one distribution has mass where the other has none",
    "shift": "a constant added to all logits of a token changes neither the loss nor the gradient",
    "equal": "student and teacher are the same: a divergence is 0 there, and so is its gradient",
    "near": "student and teacher are close: the loss is small, and most digits of log p and log q cancel",
    "one-token": "a single token",
    "one-class": "a vocabulary of one entry: its probability is 1, and there is nothing to learn",
    "odd-size": "sizes that are no power of two, so that no two axes can be taken for each other",
    "sum": 'reduction="sum": nothing is divided',
    "none": 'reduction="none": a loss for each token; the pullback takes a weight for each',
    "parameter": "the function's own parameter is not at its default",
    "limit": "a parameter at the end of its range",
    "repeated": "one row is used several times: its gradients add up",
    "constant": "a row without variance: eps alone keeps the division finite",
}
"""Kinds of cases, each with the note that explains it."""

Inputs = dict[str, np.ndarray]
Draw = Callable[..., Inputs]
"""Draws a function's inputs for given sizes: rows (...), and channels or classes."""


@dataclass(frozen=True, eq=False)
class Case:
    """One call of a function, and what is special about it.

    inputs: arrays by parameter name, a mask last; attributes: the other arguments, plain JSON. cotangent: what the
    pullback is to be asked for; None where it needs none (the loss is one number: `vjp()`) or where there is none.
    """

    id: str
    comment: str
    flags: tuple[str, ...]
    inputs: Inputs
    attributes: dict[str, Any] = field(default_factory=dict)
    cotangent: np.ndarray | None = None


@dataclass(frozen=True)
class Subject:
    """A function that people write themselves, with minikd's own to be held against.

    wrt: the inputs whose gradients the pullback returns, in order; () for a plain function. returns: the names of the
    values. convention: direction, T^2 or not, normaliser. draw: the cases without cotangents. batch: one ordinary case
    as large as a training batch.
    """

    name: str
    function: Callable
    wrt: tuple[str, ...]
    returns: tuple[str, ...]
    convention: str
    draw: Callable[[np.random.Generator], Iterable[Case]]
    batch: Callable[[np.random.Generator], Case]

    def cases(self, rng: np.random.Generator) -> list[Case]:
        """Fresh cases; the same state of `rng` gives the same ones."""
        return [self._with_cotangent(case, rng) for case in self.draw(rng)]

    def large_case(self, rng: np.random.Generator) -> Case:
        """`batch` with its cotangent."""
        return self._with_cotangent(self.batch(rng), rng)

    def call(self, case: Case, function: Callable | None = None) -> Any:
        """What `function` (or minikd's own) returns for the case: inputs by position as far as they can be."""
        parameters = inspect.signature(self.function).parameters
        by_keyword = {name for name in case.inputs if parameters[name].kind is inspect.Parameter.KEYWORD_ONLY}
        positional = [array for name, array in case.inputs.items() if name not in by_keyword]
        keywords = {name: case.inputs[name] for name in case.inputs if name in by_keyword}
        return (function or self.function)(*positional, **keywords, **case.attributes)

    def outputs(self, case: Case, function: Callable | None = None) -> dict[str, Any]:
        """Values by their names in `returns`, then the gradients: that at the input `x` is called `dx`."""
        with np.errstate(all="ignore"):
            result = self.call(case, function)
            if not self.wrt:
                return dict(zip(self.returns, result if len(self.returns) > 1 else (result,), strict=True))
            value, vjp = result
            answer = vjp() if case.cotangent is None else vjp(case.cotangent)
            gradients = (answer,) if len(self.wrt) == 1 else answer
        names = ["d" + name for name in self.wrt]
        return {self.returns[0]: value, **dict(zip(names, gradients, strict=True))}

    def _with_cotangent(self, case: Case, rng: np.random.Generator) -> Case:
        shape = np.shape(self.call(case)[0]) if self.wrt else ()
        return replace(case, cotangent=nonzero(sixteenths(rng, *shape))) if shape else case


def sixteenths(rng: np.random.Generator, *shape: int, scale: float = 2.0) -> np.ndarray:
    """Normal numbers in whole sixteenths, below 16: exact in bfloat16, float16 and float32."""
    return np.clip(np.round(16 * scale * rng.standard_normal(shape)) / 16, -15.9375, 15.9375)


def nonzero(x: np.ndarray) -> np.ndarray:
    """x with 1/16 for every 0."""
    return np.where(x == 0, 1 / 16, x)


def distinct(rng: np.random.Generator, *shape: int, limit: int = 8) -> np.ndarray:
    """Different multiples of 1/16 in each row, between -limit and limit."""
    *rows, n = shape
    values = rng.permuted(np.broadcast_to(np.arange(-16 * limit, 16 * limit), (*rows, 32 * limit)), axis=-1)
    return np.ascontiguousarray(values[..., :n]) / 16
