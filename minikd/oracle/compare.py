"""Whether somebody's numbers are the right ones, and in which of them they differ. On the host, in float64."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

TOLERANCES: dict[str, float] = {"float64": 1e-7, "float32": 1e-4, "float16": 2e-2, "bfloat16": 0.1}
"""The relative L2 error that a function computed in a type may have."""

SMALLEST = 1e-2  # an array whose L2 norm is below this is compared with it: what is left of it may be rounding
ZERO_SHARE = 1e-2  # of the tolerance: what may be left of a number that is to be 0, beside the largest or 1


@dataclass(frozen=True)
class Comparison:
    """One array against the one that is wanted.

    relative_error: L2 norm of (got - wanted) over that of wanted, inf where an inf, a NaN or the shape is wrong.
    index, got, wanted: the worst entry, None where the shapes differ or nothing does. where: in words, which entries
    are wrong. median_ratio: the median of got / wanted over the entries where both are finite and wanted is not 0.
    """

    right: bool
    relative_error: float
    index: tuple[int, ...] | None = None
    got: float = math.nan
    wanted: float = math.nan
    where: str = ""
    median_ratio: float = math.nan

    def __str__(self) -> str:
        if self.right:
            return f"right, relative error {self.relative_error:.1e}"
        text = f"wrong {self.where}"
        if self.index is not None:
            text += f", worst at {list(self.index)}: got {self.got:.9g}, wanted {self.wanted:.9g}"
        if math.isfinite(self.relative_error):
            text += f"; relative error {self.relative_error:.1e}"
        return text + (f", median ratio {self.median_ratio:.6g}" if math.isfinite(self.median_ratio) else "")


def compare(got: Any, wanted: Any, *, tol: float, mask: np.ndarray | None = None) -> Comparison:
    """Hold `got` against `wanted`: arrays or numbers.

    Right are the wanted shape, inf exactly where it is wanted, 0 (to rounding) where it is wanted, no NaN that is not
    wanted, and a relative L2 error of at most `tol` (relative to 0.01 if the norm of `wanted` is smaller). mask: True
    for the tokens (the leading axes) that count, for the words in `where`.
    """
    try:
        got = np.asarray(got, dtype=np.float64)
    except (TypeError, ValueError):
        return Comparison(False, math.inf, where=f"in kind: {type(got).__name__}, wanted an array of numbers")
    wanted = np.asarray(wanted, dtype=np.float64)
    if got.shape != wanted.shape:
        return Comparison(False, math.inf, where=f"in shape: {_shape(got)}, wanted {_shape(wanted)}")

    finite = np.isfinite(wanted)
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.where(finite, np.abs(got - wanted), np.where(_same(got, wanted), 0.0, math.inf))
        off = np.where(np.isnan(off), math.inf, off)
        size, error = _norm(wanted[finite]), _norm(off)
    largest = float(np.max(np.abs(wanted[finite]), initial=0.0))
    not_zero = (wanted == 0) & (off > ZERO_SHARE * tol * max(1.0, largest))
    relative_error = error / size if size else (math.inf if not_zero.any() or math.isinf(error) else 0.0)
    ratio = _median_ratio(got, wanted)
    allowed = tol * max(size, SMALLEST)
    if error <= allowed and not not_zero.any():
        return Comparison(True, relative_error, median_ratio=ratio)

    # an entry is to blame if it alone would be too far off, or, where none is, if it is a good part of the error
    typical = allowed / math.sqrt(max(1, int(np.count_nonzero(finite))))
    wrong = not_zero | (off > np.maximum(np.where(finite, tol * np.abs(wanted), 0.0), typical))
    if not wrong.any():
        wrong = off > 0.1 * off.max()
    index = tuple(int(i) for i in np.unravel_index(np.argmax(np.where(wrong, off, -1.0)), off.shape))
    words = _where(wrong, got, wanted, mask)
    return Comparison(False, relative_error, index, float(got[index]), float(wanted[index]), words, ratio)


def compare_outputs(
    got: Mapping[str, Any], wanted: Mapping[str, Any], *, tol: float, mask: np.ndarray | None = None
) -> dict[str, Comparison]:
    """`compare` for every output of a function by name; one that is missing is wrong."""
    missing = Comparison(False, math.inf, where="in number: it is missing")
    return {name: compare(got[name], wanted[name], tol=tol, mask=mask) if name in got else missing for name in wanted}


def _shape(x: np.ndarray) -> str:
    return str(x.shape) if x.shape else "a number"


def _norm(x: np.ndarray) -> float:
    """L2 norm, also where squares would overflow or underflow."""
    largest = float(np.max(np.abs(x), initial=0.0))
    return largest * float(np.linalg.norm(x / largest)) if 0 < largest < math.inf else largest


def _same(got: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return (got == wanted) | (np.isnan(got) & np.isnan(wanted))


def _median_ratio(got: np.ndarray, wanted: np.ndarray) -> float:
    there = np.isfinite(got) & np.isfinite(wanted) & (wanted != 0)
    with np.errstate(over="ignore"):
        return float(np.median(got[there] / wanted[there])) if there.any() else math.nan


def _where(wrong: np.ndarray, got: np.ndarray, wanted: np.ndarray, mask: np.ndarray | None) -> str:
    """Which entries are wrong, by the simplest rule that names them all."""
    if wrong.ndim == 0:
        return _kind(wrong, got, wanted) or "in its value"
    if mask is not None and wrong.shape[: mask.ndim] == mask.shape:
        tokens = wrong.reshape(*mask.shape, -1).any(axis=-1)
        if not (tokens & mask).any():
            return "only in the masked rows"
    return _kind(wrong, got, wanted) or _place(wrong)


def _kind(wrong: np.ndarray, got: np.ndarray, wanted: np.ndarray) -> str:
    """What sort of numbers are wrong, if it is one sort and others are right."""
    if np.isnan(got[wrong]).all():
        return "where it is NaN" + ("" if wrong.ndim == 0 else f" ({_count(wrong)})")
    if np.isinf(wanted[wrong]).all() and wrong.ndim:
        return "only where inf is wanted"
    if np.isinf(got[wrong]).all():
        return "where it is inf" + ("" if wrong.ndim == 0 else f" ({_count(wrong)})")
    if not wanted[wrong].any() and wanted.any():
        return "only where 0 is wanted"
    return ""


def _place(wrong: np.ndarray) -> str:
    """Along which axis the wrong entries are one index, the last one or the first one, if all entries there are."""
    if wrong.mean() > 0.9:
        return "everywhere" if wrong.all() else f"almost everywhere ({_count(wrong)})"
    if wrong.sum() == 1:
        return "in one entry only"
    for axis, name in _axes(wrong.ndim):
        others = tuple(other for other in range(wrong.ndim) if other != axis)
        indices = np.flatnonzero(wrong.any(axis=others))
        if len(indices) == 1 and wrong.shape[axis] > 1:
            last, index = wrong.shape[axis] - 1, int(indices[0])
            ordinal = "the last" if index == last else "the first" if index == 0 else ""
            return f"only in {ordinal} {name}" if ordinal else f"only in {name} {index}"
    return f"in {_count(wrong)}"


def _axes(ndim: int) -> list[tuple[int, str]]:
    """Axes from the tokens outwards, then the entries of a token."""
    names = {1: ["entry"], 2: ["row", "column"], 3: ["sequence", "token", "column"]}
    found = list(enumerate(names.get(ndim, [f"index of axis {axis}" for axis in range(ndim)])))
    return found[-2::-1] + found[-1:]


def _count(wrong: np.ndarray) -> str:
    return f"{int(wrong.sum())} of {wrong.size} entries"
