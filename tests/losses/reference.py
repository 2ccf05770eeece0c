"""The divergences and their gradients in 450 digits, and cases that are hard for floating point."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import mpmath as mp
import numpy as np

from minikd import losses

DIGITS = 450
FEW_DIGITS, ORDINARY = 60, mp.mpf("1e-25")  # these are enough for values and gradients that are not smaller
Logits = Sequence[Any] | np.ndarray

DEMANDS = {"float64": 1e-12, "float32": 2e-6}
"""The relative error that is allowed of a value, and of a gradient (L2)."""
SMALLEST = {"float64": mp.mpf("1e-200"), "float32": mp.mpf("1e-30")}
"""The smallest value and gradient for which it is asked."""


@dataclass(frozen=True, eq=False)
class Case:
    """One token's logits, and its label where there is one."""

    kind: str
    student: np.ndarray
    teacher: np.ndarray
    temperature: float

    @property
    def label(self) -> int:
        return len(self.student) // 2


def softmax(logits: Logits, temperature: float) -> list[mp.mpf]:
    exact = [z if isinstance(z, mp.mpf) else mp.mpf(float(z)) for z in logits]
    largest = max(exact)
    powers = [mp.exp((z - largest) / mp.mpf(temperature)) if z > -mp.inf else mp.mpf(0) for z in exact]
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


def symmetric_kl(p: Sequence[mp.mpf], q: Sequence[mp.mpf], weight: float = 0.5) -> tuple[mp.mpf, list[mp.mpf]]:
    w = mp.mpf(weight)
    (forward, gap), (reverse, pulled) = forward_kl(p, q), reverse_kl(p, q)
    if not pulled:
        return reverse, []
    return w * forward + (1 - w) * reverse, [w * a + (1 - w) * b for a, b in zip(gap, pulled, strict=True)]


def generalized_jsd(
    p: Sequence[mp.mpf], q: Sequence[mp.mpf], beta: float = 0.5, scaled: bool = False
) -> tuple[mp.mpf, list[mp.mpf]]:
    b = mp.mpf(beta)
    m, factor = _mixed(p, q, b), 1 / (b * (1 - b)) if scaled else 1
    slope = [(1 - b) * factor * g for g in _log_ratio(q, m)]
    return (b * kl(p, m) + (1 - b) * kl(q, m)) * factor, _pull(q, slope)


def skew_forward_kl(p: Sequence[mp.mpf], q: Sequence[mp.mpf], alpha: float = 0.1) -> tuple[mp.mpf, list[mp.mpf]]:
    m = _mixed(p, q, mp.mpf(alpha))
    return kl(p, m), _pull(q, [-(1 - mp.mpf(alpha)) * _over(a, c) for a, c in zip(p, m, strict=True)])


def skew_reverse_kl(p: Sequence[mp.mpf], q: Sequence[mp.mpf], alpha: float = 0.1) -> tuple[mp.mpf, list[mp.mpf]]:
    m = _mixed(q, p, mp.mpf(alpha))
    skewed = [g - mp.mpf(alpha) * _over(b, c) for g, b, c in zip(_log_ratio(q, m), q, m, strict=True)]
    return kl(q, m), _pull(q, skewed)


def total_variation(p: Sequence[mp.mpf], q: Sequence[mp.mpf]) -> tuple[mp.mpf, list[mp.mpf]]:
    gap = [b - a for a, b in zip(p, q, strict=True)]
    return mp.fsum(map(abs, gap)) / 2, _pull(q, [mp.sign(x) / 2 for x in gap])


def alpha_divergence(p: Sequence[mp.mpf], q: Sequence[mp.mpf], alpha: float = 0.5) -> tuple[mp.mpf, list[mp.mpf]]:
    x = mp.mpf(alpha)
    w = [a**x * b ** (1 - x) for a, b in zip(p, q, strict=True)]
    total = mp.fsum(w)
    return (1 - total) / (x * (1 - x)), [(b * total - c) / x for b, c in zip(q, w, strict=True)]


def soft_cross_entropy(p: Sequence[mp.mpf], q: Sequence[mp.mpf]) -> tuple[mp.mpf, list[mp.mpf]]:
    value = mp.fsum(-a * mp.log(b) if b > 0 else mp.inf for a, b in zip(p, q, strict=True) if a > 0)
    return value, [b - a for a, b in zip(p, q, strict=True)]


def _mixed(p: Sequence[mp.mpf], q: Sequence[mp.mpf], of_p: mp.mpf) -> list[mp.mpf]:
    return [of_p * a + (1 - of_p) * b for a, b in zip(p, q, strict=True)]


def _over(a: mp.mpf, b: mp.mpf) -> mp.mpf:
    return a / b if b > 0 else mp.mpf(0)


ON_PROBABILITIES: dict[str, Callable] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "symmetric_kl": symmetric_kl,
    "js": generalized_jsd,
    "generalized_jsd": generalized_jsd,
    "skew_forward_kl": skew_forward_kl,
    "skew_reverse_kl": skew_reverse_kl,
    "total_variation": total_variation,
    "alpha_divergence": alpha_divergence,
    "soft_cross_entropy": soft_cross_entropy,
}


def taid(z: Logits, u: Logits, temperature: float, t: float = 0.5) -> tuple[mp.mpf, list[mp.mpf]]:
    """(1 - t) z + t u as the teacher's logits; the teacher's own where these have no entry above -inf."""
    between = [
        (1 - mp.mpf(t)) * mp.mpf(float(a)) + mp.mpf(t) * mp.mpf(float(b)) if min(a, b) > -np.inf else -mp.inf
        for a, b in zip(z, u, strict=True)
    ]
    return forward_kl(softmax(between if max(between) > -mp.inf else u, temperature), softmax(z, temperature))


def decoupled_kd(
    z: Logits, u: Logits, temperature: float, *, label: int, alpha: float = 1.0, beta: float = 8.0
) -> tuple[mp.mpf, list[mp.mpf]]:
    """The label against the others, and these among themselves, where both sides have some."""
    z_others, u_others = (np.where(np.arange(len(x)) == label, -np.inf, x) for x in (z, u))
    p, q = softmax(u, temperature), softmax(z, temperature)
    rest_p, rest_q = (mp.fsum(x for i, x in enumerate(side) if i != label) for side in (p, q))
    target = kl([p[label], rest_p], [q[label], rest_q])
    others, among = mp.mpf(0), [mp.mpf(0)] * len(z)
    share_p, share_q = (softmax(x, temperature) if max(x) > -np.inf else None for x in (u_others, z_others))
    if share_p and share_q:
        others, among = forward_kl(share_p, share_q)
    falling = share_q or share_p or among
    moved = q[label] - p[label]
    gradient = [
        alpha * moved if i == label else beta * x - alpha * moved * y
        for i, (x, y) in enumerate(zip(among, falling, strict=True))
    ]
    return (alpha * target if alpha else 0) + (beta * others if beta else 0), gradient


def universal_logit_distance(z: Logits, u: Logits, temperature: float) -> tuple[mp.mpf, list[mp.mpf]]:
    p, q = sorted(softmax(u, temperature), reverse=True), softmax(z, temperature)
    order = sorted(range(len(q)), key=lambda i: -z[i])
    slope, value = [mp.mpf(0)] * len(q), mp.mpf(0)
    for rank in range(max(len(p), len(q))):
        gap = (q[order[rank]] if rank < len(q) else 0) - (p[rank] if rank < len(p) else 0)
        value += abs(gap)
        if rank < len(q):
            slope[order[rank]] = mp.sign(gap)
    return value, _pull(q, slope)


def mse_logits(z: Logits, u: Logits, temperature: float) -> tuple[mp.mpf, list[mp.mpf]]:
    gap = [mp.mpf(float(a)) - mp.mpf(float(b)) if max(a, b) > -np.inf else mp.mpf(0) for a, b in zip(z, u, strict=True)]
    value = mp.fsum(x * x for x in gap) / len(gap)
    return value, [2 * x / len(gap) for x in gap] if value < mp.inf else []


def cosine_logits(z: Logits, u: Logits, temperature: float) -> tuple[mp.mpf, list[mp.mpf]]:
    both_empty = np.isneginf(z) & np.isneginf(u)
    z, u = (np.where(both_empty, 0, x) for x in (z, u))
    endless = np.isneginf(z).any()
    z, u = (list(map(mp.mpf, map(float, -np.isneginf(x).astype(float) if np.isneginf(x).any() else x))) for x in (z, u))
    if not (any(z) and any(u)):
        return mp.mpf(1), [mp.mpf(0)] * len(z)
    dot = mp.fsum(a * b for a, b in zip(z, u, strict=True))
    size_z, size_u = norm(z), norm(u)
    across = [b - a * dot / size_z**2 for a, b in zip(z, u, strict=True)]
    return 1 - dot / (size_z * size_u), [mp.mpf(0) if endless else -x / (size_z * size_u) for x in across]


ON_LOGITS: dict[str, Callable] = {
    "taid": taid,
    "decoupled_kd": decoupled_kd,
    "universal_logit_distance": universal_logit_distance,
    "mse_logits": mse_logits,
    "cosine_logits": cosine_logits,
}
NO_TEMPERATURE = ("mse_logits", "cosine_logits")
WITH_LABEL = ("decoupled_kd",)


def answer(name: str, case: Case, **parameters: Any) -> tuple[np.ndarray, np.ndarray]:
    """minikd's value and gradient at the student's logits."""
    options = parameters if name in NO_TEMPERATURE else parameters | {"temperature": case.temperature}
    labels = [np.array([case.label])] if name in WITH_LABEL else []
    value, vjp = getattr(losses, name)(case.student[None], case.teacher[None], *labels, **options)
    return value, vjp()[0]


def reference(name: str, case: Case, **parameters: Any) -> tuple[mp.mpf, list[mp.mpf]]:
    """Value and gradient at the student's logits, to 20 digits and more; no gradient where it is infinite."""
    value, gradient = reference_in(FEW_DIGITS, name, case, **parameters)
    if value > ORDINARY and (not gradient or norm(gradient) > ORDINARY):
        return value, gradient
    return reference_in(DIGITS, name, case, **parameters)


def reference_in(digits: int, name: str, case: Case, **parameters: Any) -> tuple[mp.mpf, list[mp.mpf]]:
    """`reference`, computed in so many digits."""
    with mp.workdps(digits):
        if name in ON_LOGITS:
            parameters |= {"label": case.label} if name in WITH_LABEL else {}
            value, gradient = ON_LOGITS[name](case.student, case.teacher, case.temperature, **parameters)
        else:
            value, gradient = ON_PROBABILITIES[name](*_distributions(case, digits), **parameters)
        temperature = 1 if name in NO_TEMPERATURE else mp.mpf(case.temperature)
        return value, [g / temperature for g in gradient]


@lru_cache(maxsize=2)
def _distributions(case: Case, digits: int) -> tuple[list[mp.mpf], list[mp.mpf]]:
    """p and q in so many digits, for one divergence after the other."""
    with mp.workdps(digits):
        return softmax(case.teacher, case.temperature), softmax(case.student, case.temperature)


def undecided(name: str, case: Case, digits: int = FEW_DIGITS) -> bool:
    """Whether a p and a q that |p - q| compares differ by less than float64 can tell: the slope is then anything."""
    with mp.workdps(digits):
        p, q = softmax(case.teacher, case.temperature), softmax(case.student, case.temperature)
        if name == "universal_logit_distance":
            p, q = sorted(p), sorted(q)
        gaps = [abs(a - b) for a, b in zip(p, q, strict=True)]
        smallest = mp.mpf(1e-14) * mp.fsum(gaps)
    if digits == FEW_DIGITS and smallest < ORDINARY:
        return undecided(name, case, DIGITS)
    return any(0 < gap < smallest * a for gap, a in zip(gaps, p, strict=True))


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
    """Near-equal, far apart, tiny, one-hot, disjoint, tied, shifted, permuted logits; a quarter with -inf in them."""
    kinds = ("near", "far", "tiny", "tail", "one-hot", "disjoint", "tied", "shift", "permuted")
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
    if kind == "permuted":
        teacher = np.round(16 * noise(-1, 1)) / 16
        student = teacher.copy()
        student[: size // 2] = rng.permutation(student[: size // 2])
        return student, teacher
    student, teacher = rng.normal(size=(2, size))
    if kind == "one-hot":
        student[rng.integers(size)] += 10 ** rng.uniform(0, 4)
        teacher[rng.integers(size)] += 10 ** rng.uniform(0, 4)
    else:  # disjoint
        student[: size // 2] -= 10 ** rng.uniform(0, 4)
        teacher[size // 2 :] -= 10 ** rng.uniform(0, 4)
    return student, teacher
