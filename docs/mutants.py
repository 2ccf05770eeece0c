"""Measure which planted mistakes the customary checks let pass, and write the page: `python -m docs.mutants`."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from minikd.atomic import atomic_write
from minikd.oracle import check_vjp
from minikd.oracle.compare import TOLERANCES, compare_outputs
from minikd.oracle.mutants import MUTANTS, Mutant
from minikd.oracle.subjects import SUBJECTS, Case, Subject

PAGE = Path(__file__).with_name("mutants.md")
SEED = 0
COMMON = 8  # a mistake planted in as many functions is listed once, with the number of those where it survives
CONSTANTS = {"taid", "minillm_loss"}  # a part of their value is a constant in the gradient, on purpose
SPECIAL = {"extreme", "shift", "minus-infinity", "infinite", "garbage", "constant", "limit", "equal", "one-class"}
MARKS = {True: "passes", False: "", None: "–"}

INTRODUCTION = """\
# Planted mistakes, and the checks that let them pass

minikd's oracle is held against {n} functions with a known mistake each, {m} different ones in {k} functions: what real
libraries and their users got wrong, planted on purpose (`minikd.oracle.mutants`). Compared with minikd's own functions
on the cases of `minikd.oracle.subjects` (masks, temperatures, extreme logits, -inf, odd sizes, random cotangents) at a
relative L2 error of {tol:g}, none of them survives, and no two of them look alike, so `minikd grade` can tell a person
which one it is.

Many survive the checks that are customary elsewhere. The table counts those that pass. The first four checks see one
batch as in training: for a loss, 4 sequences of up to 32 tokens with prompts and padding masked, 101 classes, T = 2.

{summary}
- **absolute 1e-2**: value and gradients of minikd and of the mutant differ by at most 0.01 in every entry; few entries
  of the gradient of a mean over a batch are as large as that.
- **float32, rtol 1e-3**: everything in float32, `numpy.allclose(rtol=1e-3, atol=1e-5)`.
- **value only**: the value is right to {tol:g}; no gradient is looked at.
- **ones**: value and gradients are right to {tol:g} for a cotangent of ones (for a loss, `vjp()`), on that one batch.
- **gradient check**: `check_vjp` finds that the gradient is that of the mutant's own value, on the first ordinary case
  where the two together are wrong: such a mutant is a right derivative of the wrong function.

"–": the check does not apply (a function without a pullback; a loss in which a part is a constant on purpose).

"""


# The checks


def absolute(subject: Subject, mutant: Mutant) -> bool | None:
    got, wanted = _outputs(subject, mutant, _batch(subject.name))
    return all(_close(got[name], wanted[name], rtol=0, atol=1e-2) for name in wanted)


def in_float32(subject: Subject, mutant: Mutant) -> bool | None:
    case = _batch(subject.name)
    inputs = {name: _short(x) for name, x in case.inputs.items()}
    cotangent = None if case.cotangent is None else _short(case.cotangent)
    got, wanted = _outputs(subject, mutant, replace(case, inputs=inputs, cotangent=cotangent))
    return all(_close(got[name], wanted[name], rtol=1e-3, atol=1e-5) for name in wanted)


def value_only(subject: Subject, mutant: Mutant) -> bool | None:
    if not subject.wrt:
        return None
    got, wanted = _outputs(subject, mutant, _batch(subject.name))
    return _right(got, {subject.returns[0]: wanted[subject.returns[0]]})


def ones(subject: Subject, mutant: Mutant) -> bool | None:
    if not subject.wrt:
        return None
    case = _batch(subject.name)
    if case.cotangent is not None:
        case = replace(case, cotangent=np.ones_like(case.cotangent))
    return _right(*_outputs(subject, mutant, case))


def gradient_check(subject: Subject, mutant: Mutant) -> bool | None:
    if not subject.wrt or subject.name in CONSTANTS:
        return None
    for case in _cases(subject.name):
        if SPECIAL & set(case.flags) or _right(*_outputs(subject, mutant, case)):
            continue
        names = list(case.inputs)

        def f(*arrays: np.ndarray, case: Case = case, names: list[str] = names) -> Any:
            return subject.call(replace(case, inputs=dict(zip(names, arrays, strict=True))), mutant.function)

        wrt = [names.index(name) for name in subject.wrt]
        return check_vjp(f, list(case.inputs.values()), wrt=wrt, max_entries=0, directions=2).passed
    return True


def cases_of_minikd(subject: Subject, mutant: Mutant) -> bool | None:
    return all(_right(*_outputs(subject, mutant, case)) for case in _cases(subject.name))


CHECKS: dict[str, Callable[[Subject, Mutant], bool | None]] = {
    "absolute 1e-2": absolute,
    "float32, rtol 1e-3": in_float32,
    "value only": value_only,
    "ones": ones,
    "gradient check": gradient_check,
    "minikd": cases_of_minikd,
}
"""What a check says of a mutant: whether it passes, or None where the check does not apply."""

Passed = Mapping[str, bool | None]


def measure(mutants: Iterable[Mutant]) -> dict[Mutant, Passed]:
    """For each mutant, which checks it passes."""
    return {
        mutant: {name: check(SUBJECTS[mutant.subject], mutant) for name, check in CHECKS.items()} for mutant in mutants
    }


@cache
def _batch(name: str) -> Case:
    return SUBJECTS[name].large_case(np.random.default_rng(SEED))


@cache
def _cases(name: str) -> list[Case]:
    return SUBJECTS[name].cases(np.random.default_rng(SEED))


def _outputs(subject: Subject, mutant: Mutant, case: Case) -> tuple[dict[str, Any], dict[str, Any]]:
    return subject.outputs(case, mutant.function), subject.outputs(case)


def _right(got: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(found.right for found in compare_outputs(got, wanted, tol=TOLERANCES["float64"]).values())


def _close(got: Any, wanted: Any, *, rtol: float, atol: float) -> bool:
    return np.shape(got) == np.shape(wanted) and np.allclose(got, wanted, rtol=rtol, atol=atol)


def _short(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32) if x.dtype == np.float64 else x


# The page


def page(measured: Mapping[Mutant, Passed]) -> str:
    """The whole page in Markdown."""
    names = Counter((mutant.name, mutant.diagnosis) for mutant in measured)
    text = INTRODUCTION.format(
        n=len(measured), m=len(names), k=len(SUBJECTS), tol=TOLERANCES["float64"], summary=summary(measured)
    )
    common = {key for key, count in names.items() if count >= COMMON}
    text += "## Mistakes in many functions\n\nIn how many functions each mistake passes.\n\n"
    text += common_table(measured, common) + "\n"
    for name in SUBJECTS:
        text += f"## {name}\n\n{subject_table(name, measured, common)}\n"
    return text


def summary(measured: Mapping[Mutant, Passed]) -> str:
    """How many mutants pass each check, of those that it applies to."""
    rows = []
    for check in CHECKS:
        results = [bool(passed[check]) for passed in measured.values() if passed[check] is not None]
        rows.append([check, str(len(results)), str(sum(results)), f"{100 * sum(results) / len(results):.0f} %"])
    return table(["check", "mutants", "pass", "share"], rows)


def common_table(measured: Mapping[Mutant, Passed], common: set[tuple[str, str]]) -> str:
    results = defaultdict(list)
    for mutant, passed in measured.items():
        if (mutant.name, mutant.diagnosis) in common:
            results[mutant.name, mutant.diagnosis].append(passed)
    rows = [
        [name, diagnosis, *(_count(all_passed, check) for check in CHECKS)]
        for (name, diagnosis), all_passed in results.items()
    ]
    return table(["mistake", "what it says", *CHECKS], rows)


def _count(results: list[Passed], check: str) -> str:
    apply = [bool(passed[check]) for passed in results if passed[check] is not None]
    return f"{sum(apply)} of {len(apply)}"


def subject_table(subject: str, measured: Mapping[Mutant, Passed], common: set[tuple[str, str]]) -> str:
    """The mutants of one function, but for those that many functions have."""
    own = [m for m in measured if m.subject == subject and (m.name, m.diagnosis) not in common]
    rows = [[m.name, m.diagnosis, *(MARKS[measured[m][check]] for check in CHECKS)] for m in own]
    return table(["mistake", "what it says", *CHECKS], rows)


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    with atomic_write(PAGE) as file:
        file.write(page(measure(MUTANTS)))
