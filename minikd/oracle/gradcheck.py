"""Whether a handwritten pullback is the derivative of its function: checked against differences of the function alone.

The function is evaluated in float64 whatever the precision of its arguments, so the gradients of a float32 run are
held against true ones. The cotangent is random: with ones, the gradient of a softmax is 0 and many a mistake passes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from minikd.oracle.contract import Leaf, pull, rounding_unit
from minikd.oracle.differences import Probe, Slope, random_direction, slope

Verdict = Literal["right", "wrong", "unclear"]

FIRST_STEP = 2.0**-6  # of the argument's size; smaller ones are found where they are needed
LARGER = 2.0**10  # for arguments that are small beside what changes the function
GRADIENT_ROUNDINGS = 16  # how many a gradient in less than float64 may have collected
ZERO_ROUNDINGS = 100  # a gradient is 0 if it and the differences are below this many roundings of the differences,
ZERO_SHARE = 1e-6  # where these roundings themselves are below this share of slopes that are ordinary for the function


@dataclass(frozen=True)
class ArgumentReport:
    """What was found about the gradient of one array.

    relative_error: L2 norm of (got - wanted) over that of wanted, at or along what `compared` says. index, got,
    wanted: the worst entry seen, if entries were looked at one by one. reason: why the verdict is not "right".
    """

    name: str
    verdict: Verdict
    relative_error: float = math.nan
    compared: str = "nothing"
    index: tuple[int, ...] | None = None
    got: float = math.nan
    wanted: float = math.nan
    reason: str = ""

    def __str__(self) -> str:
        text = f"{self.name}: {self.verdict}, relative error {self.relative_error:.1e} in {self.compared}"
        if self.index is not None:
            text += f", worst at {self.index}: got {self.got:.9g}, wanted {self.wanted:.9g}"
        return text + (f"; {self.reason}" if self.reason else "")


@dataclass(frozen=True)
class CheckReport:
    """The verdict on a pullback: a report for each differentiable array, and the breaches of the contract."""

    arguments: tuple[ArgumentReport, ...]
    problems: tuple[str, ...]
    tol: float
    seed: int

    @property
    def passed(self) -> bool:
        """Whether the contract is kept and every gradient is right; what cannot be judged has not passed."""
        return not self.problems and all(argument.verdict == "right" for argument in self.arguments)

    def __str__(self) -> str:
        head = f"the pullback {'passes' if self.passed else 'fails'} (tolerance {self.tol:g}, seed {self.seed})"
        return "\n  ".join([head, *self.problems, *map(str, self.arguments)])


def assert_vjp(
    f: Callable, *args: Any, tol: float = 1e-7, seed: int = 0, wrt: int | Sequence[int] | None = None, **options: Any
) -> None:
    """`check_vjp` for tests: an AssertionError with the report unless the check passes."""
    report = check_vjp(f, args, wrt=wrt, tol=tol, seed=seed, **options)
    if not report.passed:
        raise AssertionError(str(report))


def check_vjp(
    f: Callable,
    args: Sequence[Any],
    *,
    wrt: int | Sequence[int] | None = None,
    eps: float | None = None,
    tol: float = 1e-7,
    seed: int = 0,
    max_entries: int = 400,
    directions: int = 8,
) -> CheckReport:
    """Hold the pullback of `y, vjp = f(*args)` against differences of f, and against the rest of the contract.

    args: arrays or (nested) mappings of arrays; anything else is handed on. y: an array, a number or a tuple of them.
    The gradients are matched with the arguments at the positions `wrt`, by default all that hold floating arrays.
    A gradient is right if its relative L2 error is at most `tol`, array by array: over all entries if there are at
    most `max_entries`, else along `directions` random directions v, which estimate the same error since the mean of
    (error . v)^2 is |error|^2. `eps` is the first step, smaller ones are taken from there; by default it is a part of
    each array's own size. A kink in f, rounding in it, or float32 can leave a verdict "unclear".
    Checked too: f gives the same value twice; arguments, cotangent and value stay as they were; vjp gives the same
    gradients whatever it was asked in between, is linear, and returns the arguments' own shapes and dtypes.
    ValueError: f returns no such pair, `wrt` names no floating argument, `tol` is not in (0, 1), `directions` is below
    1 or `max_entries` below 0.
    """
    if not 0 < tol < 1:
        raise ValueError(f"tol is {tol}; wanted a number in (0, 1)")
    for name, number, least in (("max_entries", max_entries, 0), ("directions", directions, 1)):
        if not number >= least:
            raise ValueError(f"{name} is {number}; wanted at least {least}")
    rng = np.random.default_rng(seed)
    probe = Probe(f, args)
    pulled = pull(f, args, wrt, rng)
    probe.weigh(pulled.cotangents)
    entry_by_entry = sum(leaf.array.size for leaf in pulled.leaves) <= max_entries
    reports = []
    for leaf, gradient, fault in zip(pulled.leaves, pulled.gradients, pulled.faults, strict=True):
        if gradient is None:
            reports.append(ArgumentReport(leaf.name, "wrong", reason=fault))
            continue
        step = eps or FIRST_STEP * leaf.scale
        comparison = _Comparison(probe, leaf, gradient, step, tol, probe.noise, None if entry_by_entry else directions)
        report = comparison.report(rng)
        if report.verdict != "right":
            report = comparison.second_opinion(rng)
        reports.append(replace(report, verdict="wrong", reason=fault) if fault else report)
    return CheckReport(tuple(reports), tuple(pulled.problems), tol, seed)


@dataclass(frozen=True)
class _Comparison:
    """One gradient against slopes of F: along random directions if their number is given, else entry by entry."""

    probe: Probe
    leaf: Leaf
    gradient: np.ndarray
    step: float
    tol: float
    noise: float
    directions: int | None

    def report(self, rng: np.random.Generator) -> ArgumentReport:
        """What the comparison shows."""
        return self._entries() if self.directions is None else self._along(self.directions, rng)

    def second_opinion(self, rng: np.random.Generator) -> ArgumentReport:
        """The same, with the noise that f shows; from a larger step, which it disturbs less, if that settles it.

        Only here, where it has to be known, is a wrong entry looked for among many.
        """
        careful = replace(self, noise=max(self.noise, self.probe.measured_noise(self.leaf, rng)))
        report = replace(careful, step=LARGER * self.step).report(rng)
        if report.verdict == "right":
            return report
        report = careful.report(rng)
        if report.verdict == "wrong" and report.index is None:
            indices = careful._suspects(rng)
            return careful._with_worst(report, indices, careful._slopes_at(indices))
        return report

    def _entries(self) -> ArgumentReport:
        indices = np.arange(self.gradient.size)
        slopes = self._slopes_at(indices)
        report = self._judge(self.gradient.reshape(-1), slopes, f"{indices.size} entries")
        return self._with_worst(report, indices, slopes)

    def _along(self, count: int, rng: np.random.Generator) -> ArgumentReport:
        directions = [random_direction(self.gradient.shape, rng) for _ in range(count)]
        got = np.array([np.sum(self.gradient * direction) for direction in directions])
        size = float(np.linalg.norm(self.gradient))
        return self._judge(got, [self._slope(v, size) for v in directions], f"{count} random directions")

    def _slope(self, direction: np.ndarray, size: float) -> Slope:
        goal = 0.01 * self.tol * float(np.nan_to_num(size))
        return slope(self.probe.line(self.leaf, direction), step=self.step, goal=goal, noise=self.noise)

    def _slopes_at(self, indices: np.ndarray) -> list[Slope]:
        typical = float(np.linalg.norm(self.gradient)) / math.sqrt(max(1, self.gradient.size))
        slopes = []
        for index in indices:
            direction = np.zeros(self.gradient.size)
            direction[index] = 1
            slopes.append(self._slope(direction.reshape(self.gradient.shape), typical))
        return slopes

    def _suspects(self, rng: np.random.Generator) -> np.ndarray:
        """A few entries, one of them wrong: the half whose random direction disagrees more, again and again."""
        not_finite = np.flatnonzero(~np.isfinite(self.gradient))
        if not_finite.size:
            return not_finite[:1]
        suspects = np.arange(self.gradient.size)
        while suspects.size > 4:
            halves = np.array_split(suspects, 2)
            suspects = max(halves, key=lambda half: self._disagreement(half, rng))
        return suspects

    def _disagreement(self, indices: np.ndarray, rng: np.random.Generator) -> float:
        direction = np.zeros(self.gradient.size)
        direction[indices] = random_direction(indices.shape, rng)
        shaped = direction.reshape(self.gradient.shape)
        found = self._slope(shaped, float(np.linalg.norm(self.gradient)))
        return abs(float(np.nan_to_num(found.value) - np.sum(self.gradient * shaped)))

    def _judge(self, got: np.ndarray, slopes: list[Slope], compared: str) -> ArgumentReport:
        """The verdict from derivatives along orthogonal or random directions, those that exist."""
        exists = np.array([math.isfinite(s.error) and not s.kink for s in slopes], dtype=bool)
        there = [s for s, judged in zip(slopes, exists, strict=True) if judged]
        got, wanted = got[exists], np.array([s.value for s in there])
        size, error = float(np.linalg.norm(wanted)), float(np.linalg.norm(got - wanted))
        doubt = math.hypot(*(s.error for s in there))
        unit = rounding_unit(self.leaf.array.dtype)
        blurred = 0.0 if unit == rounding_unit(np.float64) else GRADIENT_ROUNDINGS * unit
        doubt += blurred * size
        zero = ZERO_ROUNDINGS * math.hypot(*(s.rounding for s in there))
        ordinary = max([self.probe.size / self.leaf.scale, *(s.secant for s in there)])

        report = ArgumentReport(self.leaf.name, "right", error / size if size else error and math.inf, compared)
        if 0 < error <= 4 * doubt and max(size, float(np.linalg.norm(got))) <= zero <= ZERO_SHARE * ordinary:
            report = replace(report, relative_error=0.0, reason="got and wanted are 0 to rounding")
        elif not error <= max(self.tol * size, 4 * doubt):
            reason = "" if np.isfinite(got).all() else "the gradient is NaN or infinite"
            return replace(report, verdict="wrong", reason=reason)
        elif error > self.tol * size or blurred > self.tol:
            return replace(report, verdict="unclear", reason=self._doubt(unit))
        if not exists.all():
            kinks = sum(s.kink for s in slopes)
            reason = "a kink, where no derivative exists" if kinks else "the function is not finite or jumps"
            return replace(report, verdict="unclear", reason=f"{len(slopes) - len(there)} of them: {reason}")
        return report

    def _doubt(self, unit: float) -> str:
        if self.probe.low_precision:
            return "the function's values are not float64, so differences of them cannot tell"
        if unit > rounding_unit(np.float64):
            return f"{self.leaf.array.dtype} rounds more than the tolerance: pass float64, or a tol of {64 * unit:.0e}"
        return "the differences are no better than this: a kink nearby, or much rounding in the function"

    def _with_worst(self, report: ArgumentReport, indices: np.ndarray, slopes: list[Slope]) -> ArgumentReport:
        """The report with the entry that is furthest off; at a kink if that is what is reported."""
        if not len(indices):
            return report
        got, wanted = self.gradient.reshape(-1)[indices], np.array([s.value for s in slopes])
        off = np.nan_to_num(np.abs(got - wanted), nan=math.inf)
        missing = np.array([s.kink or not math.isfinite(s.error) for s in slopes])
        if missing.any():
            off[missing] = math.inf if report.verdict == "unclear" else -1
        worst = int(np.argmax(off))
        index = tuple(int(i) for i in np.unravel_index(indices[worst], self.gradient.shape))
        return replace(report, index=index, got=float(got[worst]), wanted=float(wanted[worst]))
