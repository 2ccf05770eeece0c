"""One answer of a graded function against the right one."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minikd.oracle.compare import Comparison, compare_outputs
from minikd.oracle.grade.trials import Trial, outputs_by_name
from minikd.oracle.subjects import Subject

ROUNDINGS = 16  # that may have gone into one number


@dataclass(frozen=True, eq=False)
class Answer:
    """What a function answered in a trial: its outputs by name, each as it compares; or in `error` why it did not."""

    trial: Trial
    got: dict[str, np.ndarray]
    compared: dict[str, Comparison]
    error: str = ""
    changed: tuple[str, ...] = ()
    second_differs: bool = False

    @property
    def passed(self) -> bool:
        """Whether all of it is right."""
        return not self.error and all(comparison.right for comparison in self.compared.values())


@dataclass(frozen=True)
class Verdict:
    """A line of the report. Errors are relative; None where nothing was compared or there is no such number."""

    name: str
    column: str
    passed: bool
    loss_error: float | None = None
    grad_error: float | None = None
    reason: str = ""


def judge(subject: Subject, trial: Trial, arrays: Mapping[str, np.ndarray]) -> Answer:
    """Hold what came back from a trial against what was wanted."""
    got = outputs_by_name(subject, arrays)
    n_values = sum(name.startswith("y") for name in arrays)
    matters = _where_it_matters(subject, trial, got)
    compared = compare_outputs(matters, trial.wanted, tol=trial.tol, mask=trial.case.inputs.get("mask"))
    for name, comparison in compared.items():
        if not comparison.right and name in got and _only_rounding(trial, matters[name], trial.wanted[name]):
            compared[name] = replace(comparison, right=True)
    after = {name: arrays.get(f"after {name}") for name in trial.sent}
    second = [(arrays[f"g{i}"], arrays[f"h{i}"]) for i in range(len(subject.wrt)) if f"h{i}" in arrays]
    return Answer(
        trial,
        got,
        compared,
        error=_wrong_form(subject, trial, got, n_values),
        changed=tuple(name for name, x in trial.sent.items() if not _same(x, after[name])),
        second_differs=not all(_same(first, again) for first, again in second),
    )


def verdict(subject: Subject, answer: Answer) -> Verdict:
    """An answer as a line of the report."""
    trial = answer.trial
    errors = {name: comparison.relative_error for name, comparison in answer.compared.items()}
    values = [errors[name] for name in subject.returns if name in errors]
    gradients = [errors[f"d{name}"] for name in subject.wrt if f"d{name}" in errors]
    wrong = [told(name, comparison) for name, comparison in answer.compared.items() if not comparison.right]
    reason = answer.error or "; ".join(wrong)
    return Verdict(trial.name, trial.column, answer.passed, _largest(values), _largest(gradients), reason)


def told(name: str, comparison: Comparison) -> str:
    """What is wrong with an output, in words."""
    if comparison.index is None:
        return f"{name} is wrong {comparison.where}"
    if not comparison.index:
        return f"{name} is {comparison.got:.6g}; wanted {comparison.wanted:.6g}"
    place = ", ".join(map(str, comparison.index))
    text = f"{name} is wrong {comparison.where}: at [{place}] {comparison.got:.6g}, wanted {comparison.wanted:.6g}"
    ratio = comparison.median_ratio
    return text + (f"; median ratio {ratio:.4g}" if math.isfinite(ratio) and abs(ratio - 1) > 1e-4 else "")


def _wrong_form(subject: Subject, trial: Trial, got: Mapping[str, np.ndarray], n_values: int) -> str:
    """What is wrong with the number or the type of the outputs, if anything is."""
    if n_values > len(subject.returns):
        return f"it returned {n_values} values; wanted {len(subject.returns)}: {', '.join(subject.returns)}"
    wanted = np.dtype(trial.dtype)
    for name, found in got.items():
        is_gradient = name not in subject.returns
        shorter = found.dtype.kind == "f" and found.dtype.itemsize < wanted.itemsize
        if shorter or (is_gradient and found.dtype != wanted):
            hint = ', or PRECISION = "float32" in the file' if found.dtype == np.float32 else ""
            return f"{name} is {found.dtype}; wanted {wanted}, like the inputs{hint}"
    return ""


def _only_rounding(trial: Trial, got: np.ndarray, wanted: Any) -> bool:
    """Whether the error is what remains where numbers of the size of inputs and cotangent cancel each other."""
    wanted = np.asarray(wanted)
    finite = np.isfinite(wanted)
    if got.shape != wanted.shape or not np.array_equal(got[~finite], wanted[~finite], equal_nan=True):
        return False
    inputs = [_largest_entry(x) for x in trial.sent.values() if x.dtype.kind == "f"]
    cotangent = 1.0 if trial.case.cotangent is None else _largest_entry(trial.case.cotangent)
    allowed = ROUNDINGS * float(np.finfo(trial.dtype).eps) * max([1.0, *inputs]) * max(1.0, cotangent)
    return bool(np.abs(got[finite] - wanted[finite]).max(initial=0.0) <= allowed)


def _largest_entry(x: np.ndarray) -> float:
    return float(np.abs(x[np.isfinite(x)]).max(initial=0.0))


def _where_it_matters(subject: Subject, trial: Trial, got: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The outputs; gradients as wanted where the loss is infinite: what they are there is left to the function."""
    matters, wanted = dict(got), trial.wanted
    infinite = ~np.isfinite(np.asarray(wanted[subject.returns[0]]))
    if not infinite.any():
        return matters
    for name in {f"d{name}" for name in subject.wrt} & got.keys():
        if got[name].shape == np.shape(wanted[name]):
            rows = infinite.reshape(*infinite.shape, *[1] * (got[name].ndim - infinite.ndim))
            matters[name] = np.where(rows, wanted[name], got[name])
    return matters


def _same(a: np.ndarray, b: np.ndarray | None) -> bool:
    return b is not None and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _largest(errors: list[float]) -> float | None:
    largest = max(errors, default=math.inf)
    return largest if math.isfinite(largest) else None
