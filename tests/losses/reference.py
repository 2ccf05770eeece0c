"""The divergences and their gradients in 450 digits, and cases that are hard for floating point."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import mpmath as mp
import numpy as np

DIGITS = 450


@dataclass(frozen=True)
class Case:
    """One token's logits."""

    kind: str
    student: np.ndarray
    teacher: np.ndarray
    temperature: float


def softmax(logits: Sequence[float], temperature: float) -> list[mp.mpf]:
    largest = mp.mpf(float(max(logits)))
    powers = [mp.exp((mp.mpf(float(z)) - largest) / mp.mpf(temperature)) if z > -np.inf else mp.mpf(0) for z in logits]
    total = mp.fsum(powers)
    return [power / total for power in powers]


def kl(p: Sequence[mp.mpf], q: Sequence[mp.mpf]) -> mp.mpf:
    return mp.fsum(a * mp.log(a / b) if b > 0 else mp.inf for a, b in zip(p, q, strict=True) if a > 0)


def _pull(q: Sequence[mp.mpf], slope: Sequence[mp.mpf]) -> list[mp.mpf]:
    mean = mp.fsum(a * g for a, g in zip(q, slope, strict=True))
    return [a * (g - mean) for a, g in zip(q, slope, strict=True)]


def _log_ratio(q: Sequence[mp.mpf], m: Sequence[mp.mpf]) -> list[mp.mpf]:
    return [mp.log(a / b) if a > 0 else mp.mpf(0) for a, b in zip(q, m, strict=True)]


def forward_kl(p: Sequence[mp.mpf], q: Sequence[mp.mpf]) -> tuple[mp.mpf, list[mp.mpf]]:
    return kl(p, q), [b - a for a, b in zip(p, q, strict=True)]


def reverse_kl(p: Sequence[mp.mpf], q: Sequence[mp.mpf]) -> tuple[mp.mpf, list[mp.mpf]]:
    value = kl(q, p)
    return value, _pull(q, _log_ratio(q, p)) if value < mp.inf else []


def js(p: Sequence[mp.mpf], q: Sequence[mp.mpf]) -> tuple[mp.mpf, list[mp.mpf]]:
    m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return (kl(p, m) + kl(q, m)) / 2, _pull(q, [g / 2 for g in _log_ratio(q, m)])


REFERENCES: dict[str, Callable] = {"forward_kl": forward_kl, "reverse_kl": reverse_kl, "js": js}


def reference(name: str, case: Case, digits: int = DIGITS) -> tuple[mp.mpf, list[mp.mpf]]:
    """Value and gradient at the student's logits; no gradient where a reverse KL is infinite."""
    with mp.workdps(digits):
        p, q = softmax(case.teacher, case.temperature), softmax(case.student, case.temperature)
        value, gradient = REFERENCES[name](p, q)
        return value, [g / mp.mpf(case.temperature) for g in gradient]


def norm(x: Sequence[mp.mpf]) -> mp.mpf:
    return mp.sqrt(mp.fsum(a * a for a in x))


def relative_error(got: float, wanted: mp.mpf) -> float:
    with mp.workdps(50):
        return float(abs(mp.mpf(float(got)) - wanted) / wanted)


def gradient_error(got: np.ndarray, wanted: Sequence[mp.mpf]) -> float:
    with mp.workdps(50):
        return float(norm([mp.mpf(float(a)) - b for a, b in zip(got, wanted, strict=True)]) / norm(wanted))


def hard_cases(
    rng: np.random.Generator, n: int, dtype: str, sizes: Sequence[int] = (1, 2, 3, 5, 17, 41)
) -> Iterator[Case]:
    """Near-equal, far apart, of tiny size, one-hot, disjoint, tied and shifted logits, a quarter with -inf in them."""
    kinds = ("near", "far", "tiny", "tail", "one-hot", "disjoint", "tied", "shift")
    for i in range(n):
        size = int(rng.choice(sizes))
        temperature = 1.0 if rng.random() < 0.3 else float(np.exp(rng.uniform(np.log(0.05), np.log(100))))
        kind = kinds[i % len(kinds)]
        student, teacher = _logits(kind, rng, size, temperature, 98 if dtype == "float64" else 18)
        if size > 1 and rng.random() < 0.25:
            where = rng.choice(("teacher", "student", "both", "anywhere"))
            one, other = rng.random((2, size)) < 0.3
            if where != "student":
                teacher[one] = -np.inf
            if where != "teacher":
                student[one if where == "both" else other] = -np.inf
            for logits in (student, teacher):
                if np.isneginf(logits).all():
                    logits[rng.integers(size)] = 0
            kind += f", -inf in {where}"
        yield Case(kind, student.astype(dtype), teacher.astype(dtype), temperature)


def _logits(
    kind: str, rng: np.random.Generator, size: int, temperature: float, decades: int
) -> tuple[np.ndarray, np.ndarray]:
    def noise(low: float, high: float) -> np.ndarray:
        return rng.normal(size=size) * 10 ** rng.uniform(low, high)

    teacher = noise(-1, 1.5)
    if kind == "near":
        return teacher + noise(-16, 0), teacher
    if kind == "far":
        return noise(-2, 4), teacher
    if kind == "tiny":
        teacher = noise(-decades, 2)
        return teacher * (1 + noise(-15, 0)), teacher
    if kind == "tail":  # almost all mass on one entry, the same for both
        teacher = temperature * (rng.normal(size=size) - rng.uniform(1, 440))
        student = teacher + temperature * noise(-3, 1)
        top = rng.integers(size)
        student[top] = teacher[top] = 0
        return student, teacher
    if kind == "tied":
        student = np.zeros(size)
        student[rng.integers(size)] = 10 ** rng.uniform(-12, 2)
        return student, np.zeros(size)
    if kind == "shift":
        return teacher + rng.normal() * 10 ** rng.uniform(-2, 3) + noise(-8, 0), teacher
    student, teacher = rng.normal(size=(2, size))
    if kind == "one-hot":
        student[rng.integers(size)] += 10 ** rng.uniform(0, 4)
        teacher[rng.integers(size)] += 10 ** rng.uniform(0, 4)
    else:  # disjoint
        student[: size // 2] -= 10 ** rng.uniform(0, 4)
        teacher[size // 2 :] -= 10 ** rng.uniform(0, 4)
    return student, teacher
