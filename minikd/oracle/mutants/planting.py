"""What planted mistakes are made of: minikd's own functions with something exchanged, left out or done twice."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minikd.backend import Array
from minikd.oracle.subjects import SUBJECTS
from minikd.softmax import softmax


@dataclass(frozen=True)
class Mutant:
    """A function with a known mistake.

    subject: the name of what it should be. diagnosis: what to say to the person who made it. function: with the
    signature and the contract of the subject's.
    """

    name: str
    subject: str
    diagnosis: str
    function: Callable


class Bed(list[Mutant]):
    """The mutants of one topic, in the order in which they were planted."""

    def plant(self, subject: str, name: str, diagnosis: str) -> Callable[[Callable], Callable]:
        """A decorator that adds a function; it gets the subject's name, signature and docstring."""

        def keep(function: Callable) -> Callable:
            # a layer of its own, as one function may be planted for several subjects
            planted = functools.wraps(SUBJECTS[subject].function)(lambda *args, **keywords: function(*args, **keywords))
            self.append(Mutant(name, subject, diagnosis, planted))
            return function

        return keep


def with_gradients(f: Callable, change: Callable[..., Any]) -> Callable:
    """f with its gradients tampered with: `change` gets them, and returns what the pullback is to return."""

    def mutated(*args: Any, **keywords: Any) -> tuple[Any, Callable]:
        value, vjp = f(*args, **keywords)
        return value, lambda *w: change(*_as_tuple(vjp(*w)))

    return mutated


def with_value(f: Callable, g: Callable) -> Callable:
    """The value of f with the gradients of g."""

    def mutated(*args: Any, **keywords: Any) -> tuple[Any, Callable]:
        return f(*args, **keywords)[0], g(*args, **keywords)[1]

    return mutated


def scaled(
    result: tuple[Any, Callable], factor: Any, *, value: bool = True, gradient: bool = True
) -> tuple[Any, Callable]:
    """A value and its pullback, times a factor: both, or one of them."""
    y, vjp = result
    return y * factor if value else y, (lambda *w: vjp(*w) * factor) if gradient else vjp


def after(
    f: Callable[[Array], tuple[Any, Callable]], change: Callable[[Array], Array], x: Array
) -> tuple[Any, Callable]:
    """f(change(x)) for a change that multiplies or moves entries: the pullback changes the gradient likewise."""
    y, vjp = f(change(x))
    return y, lambda *w: change(vjp(*w))


def through_exp(logits: Array, temperature: float = 1.0) -> Array:
    """Logits that went through exp without the largest being subtracted: -inf below -745.

    NaN for a token that has an inf (above 709) or nothing but 0: its sum is no number to divide by.
    """
    x = np.log(np.exp(logits / temperature)) * temperature
    lost = np.isposinf(x).any(axis=-1, keepdims=True) | np.isneginf(x).all(axis=-1, keepdims=True)
    return np.where(lost, np.nan, x)


def through_probabilities(logits: Array, temperature: float = 1.0) -> Array:
    """Logits that were made probabilities and logarithms of these: -inf where a probability is below 1e-323."""
    return np.log(softmax(logits, temperature)[0]) * temperature


def _as_tuple(x: Any) -> tuple[Any, ...]:
    return x if isinstance(x, tuple) else (x,)
