"""The functions once more as formulas, in 150 digits, whose gradients nobody derived: where right numbers come from.

Needs mpmath, so that nothing but the reference vectors and the tests imports it. Every formula has the name and the
arguments of minikd's function. Reading order: `traced`, `losses`, `layers`, `steps`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mpmath as mp
import numpy as np

from minikd.oracle.exact.layers import LAYERS
from minikd.oracle.exact.losses import LOSSES
from minikd.oracle.exact.steps import STEPS
from minikd.oracle.exact.traced import Numbers, Traced, gradients, held

DIGITS = 150
FAR = 1e40
TINY, HUGE = 1e-100, 1e30

FORMULAS: dict[str, Callable[..., Any]] = {**LAYERS, **LOSSES, **STEPS}


def right_outputs(
    name: str,
    inputs: Mapping[str, np.ndarray],
    attributes: Mapping[str, Any],
    wrt: Sequence[str],
    cotangent: np.ndarray | None = None,
) -> list[np.ndarray]:
    """What the function of that name gives, in float64: its values, and the gradients by the inputs `wrt`.

    Without a cotangent the pullback is asked for 1 throughout.
    """
    with mp.workdps(DIGITS):
        return [rounded(x) for x in outputs(name, inputs, attributes, wrt, cotangent)]


def outputs(
    name: str,
    inputs: Mapping[str, np.ndarray],
    attributes: Mapping[str, Any],
    wrt: Sequence[str],
    cotangent: np.ndarray | None = None,
) -> list[Any]:
    """`right_outputs` in as many digits as mpmath has at the moment, and not rounded."""
    arguments: dict[str, Any] = {key: exactly(x) for key, x in inputs.items()}
    arguments |= {key: Traced(arguments[key]) for key in wrt}
    constants = {key: mp.mpf(x) if isinstance(x, float) else x for key, x in attributes.items()}
    result = FORMULAS[name](**arguments, **constants)
    if not wrt:
        return list(result) if isinstance(result, tuple) else [result]
    sources = [arguments[key] for key in wrt]
    return [held(result), *gradients(result, sources, 1 if cotangent is None else exactly(cotangent))]


def exactly(x: np.ndarray) -> Numbers:
    """Floating numbers as mpmath's; others as they are. -inf becomes so low a number that it shows nowhere else.

    Values and gradients at -inf are thereby what they are as limits, and 0 log 0 needs no rule of its own.
    """
    if x.dtype.kind != "f":
        return x
    exact = np.empty(x.size, dtype=object)
    exact[:] = [mp.mpf(float(entry)) if entry > -np.inf else -mp.mpf(FAR) for entry in x.flat]
    return exact.reshape(x.shape)


def rounded(x: Any) -> np.ndarray:
    """The nearest float64 of each number, 0 for those below 1e-100, infinity for those above 1e30; integers stay."""
    if np.asarray(x).dtype.kind == "i":
        return np.asarray(x)
    with mp.workprec(53):
        nearest = np.array([float(+entry) for entry in np.asarray(x, dtype=object).flat], dtype=np.float64)
    nearest[np.abs(nearest) < TINY] = 0
    huge = np.abs(nearest) > HUGE
    nearest[huge] = np.copysign(np.inf, nearest[huge])
    return nearest.reshape(np.shape(x))
