"""What a graded function is called with: fresh cases on every run, and the right answers, which stay with the judge."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minikd.oracle.compare import TOLERANCES
from minikd.oracle.subjects import Case, Subject

COLUMNS: dict[str, str] = {
    "basic": "ordinary inputs",
    "edges": "odd sizes, a single token or class, other parameters and reductions",
    "temperature": "T is not 1",
    "mask": "tokens that do not count",
    "extreme": "logits far apart, where exp overflows",
    "-inf": "masked vocabulary entries, impossible tokens",
    "shift": "a constant added to all logits of a token",
    "close": "student and teacher are equal, or nearly so",
    "float32": "float32 inputs, and gradients of that type",
    "strided": "inputs that are not contiguous",
    "again": "inputs stay as they were; a pullback asked twice gives the same",
    "random": "further cases drawn at random, one as large as a training batch",
}
"""What is looked at, column by column of the report."""

COLUMN_OF_FLAG = {
    "garbage": "mask",
    "infinite": "-inf",
    "minus-infinity": "-inf",
    "shift": "shift",
    "extreme": "extreme",
    "mask": "mask",
    "ignored-label": "mask",
    "temperature": "temperature",
    "equal": "close",
    "near": "close",
}  # of a case with several flags, the first one here decides
SPECIAL = ("-inf", "shift", "extreme", "close", "float32")
"""Columns in which a function may fail in ways of its own."""

OPTIONAL = ("reduction", "scaled")
"""Parameters that a graded function may leave out."""

N_RANDOM = 3
UNASKED = {
    ("universal_logit_distance", "permuted"): "the sign of a difference that is 0 only if all sums are in one order",
    ("sparse_kl", "one-class"): "a teacher with mass left over, and no class that could have it",
}
"""Cases of a subject that depend on more than a right function, and why."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One call of a graded function: a case, what is sent of it, and what is to come back (by output, float64).

    strided: the inputs have gaps between their entries. dtype: of the inputs and of the gradients to come.
    """

    name: str
    column: str
    case: Case
    sent: dict[str, np.ndarray]
    wanted: dict[str, Any]
    dtype: str = "float64"
    strided: bool = False

    @property
    def ordinary(self) -> bool:
        """Whether a function fails here for what it is, and not for numbers that few functions can take."""
        return self.column not in SPECIAL and "garbage" not in self.case.flags

    @property
    def tol(self) -> float:
        """The relative error that is allowed."""
        return TOLERANCES[self.dtype]

    def request(self, subject: Subject) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The call in words, and its arrays: inputs and cotangent, nothing else."""
        parameters = inspect.signature(subject.function).parameters
        keyword = [name for name in self.sent if parameters[name].kind is inspect.Parameter.KEYWORD_ONLY]
        cotangents = [] if self.case.cotangent is None else [np.asarray(self.case.cotangent, dtype=self.dtype)]
        head = {
            "function": subject.name,
            "positional": [name for name in self.sent if name not in keyword],
            "keyword": keyword,
            "attributes": self.case.attributes,
            "wrt": list(subject.wrt),
            "cotangents": len(cotangents),
            "strided": self.strided,
        }
        return head, self.sent | {f"cotangent {i}": c for i, c in enumerate(cotangents)}

    def left_out(self, parameters: list[str] | None) -> bool:
        """Whether it needs a parameter that may be left out of a function, and is left out of this one."""
        return parameters is not None and any(
            name in OPTIONAL and name not in parameters for name in self.case.attributes
        )


def trials(subject: Subject, rng: np.random.Generator, dtype: str = "float64") -> Iterator[Trial]:
    """All trials of a subject, drawn anew, for a function that computes in a type of number."""
    for case in asked(subject, rng):
        yield _trial(subject, case.id, column_of(case), case, dtype=dtype)
    further = asked(subject, rng)
    ordinary = [case for case in further if not case.flags] or further[:1]
    if any(x.dtype.kind == "f" for x in ordinary[0].inputs.values()):
        yield _trial(subject, "float32", "float32", ordinary[0], dtype="float32")
        yield _trial(subject, "non-contiguous", "strided", ordinary[-1], dtype=dtype, strided=True)
    others = [case for case in further if column_of(case) not in SPECIAL]
    picked = rng.choice(len(others), size=min(N_RANDOM, len(others)), replace=False)
    for i, case in enumerate([*(others[k] for k in picked), subject.large_case(rng)], start=1):
        yield _trial(subject, f"random {i}: {case.id}", "random", _weighted(case, subject, rng), dtype=dtype)


def asked(subject: Subject, rng: np.random.Generator) -> list[Case]:
    """The cases of a subject; no gradient is asked for at an output that is infinite (a logarithm of 0)."""
    cases = [case for case in subject.cases(rng) if (subject.name, case.id) not in UNASKED]
    return [_finite(case, subject) for case in cases]


def _finite(case: Case, subject: Subject) -> Case:
    if case.cotangent is None or "minus-infinity" not in case.flags:
        return case
    finite = np.isfinite(subject.outputs(case)[subject.returns[0]])
    return replace(case, cotangent=np.where(finite, case.cotangent, 0.0))


def column_of(case: Case) -> str:
    """Where a case belongs."""
    known = [column for flag, column in COLUMN_OF_FLAG.items() if flag in case.flags]
    return (known or ["edges" if case.flags else "basic"])[0]


def _trial(
    subject: Subject, name: str, column: str, case: Case, *, dtype: str = "float64", strided: bool = False
) -> Trial:
    sent = {key: x.astype(dtype) if x.dtype.kind == "f" else x for key, x in case.inputs.items()}
    return Trial(name, column, case, sent, subject.outputs(case), dtype, strided)


def _weighted(case: Case, subject: Subject, rng: np.random.Generator) -> Case:
    """A loss that is one number, asked for w times its gradient."""
    if not subject.wrt or case.cotangent is not None:
        return case
    return replace(case, cotangent=np.array(rng.integers(8, 33) / 16))


def seeded(seed: int, name: str) -> np.random.Generator:
    """The generator of an exercise: its cases do not depend on which others are graded."""
    return np.random.default_rng([seed, *name.encode()])


def outputs_by_name(subject: Subject, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What came back from a graded function, by the names of the subject's outputs."""
    values = {name: arrays[f"y{i}"] for i, name in enumerate(subject.returns) if f"y{i}" in arrays}
    return values | {f"d{name}": arrays[f"g{i}"] for i, name in enumerate(subject.wrt) if f"g{i}" in arrays}
