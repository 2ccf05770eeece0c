"""How accurate the losses are, and other libraries' beside them: `python -m benchmarks.accuracy`, JSON.

The truth comes from mpmath, in 450 digits where values are small. Takes about forty minutes; `docs.accuracy` makes a
page of what it writes.
"""

import argparse
import platform
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mpmath as mp
import numpy as np
import torch
from tqdm import tqdm

from benchmarks.rivals import Loss, installed
from minikd.atomic import write_json
from minikd.versions import versions
from tests.losses.reference import (
    DEMANDS,
    SMALLEST,
    Case,
    answer,
    gradient_error,
    hard_cases,
    norm,
    reference,
    relative_error,
    undecided,
)

SEED = 0
DTYPES = ("float64", "float32")
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "forward_kl": ("forward_kl", {}),
    "reverse_kl": ("reverse_kl", {}),
    "symmetric_kl": ("symmetric_kl", {}),
    "js": ("js", {}),
    "generalized_jsd(beta=0.9)": ("generalized_jsd", {"beta": 0.9}),
    "skew_forward_kl": ("skew_forward_kl", {}),
    "skew_reverse_kl": ("skew_reverse_kl", {}),
    "total_variation": ("total_variation", {}),
    "alpha_divergence": ("alpha_divergence", {}),
    "taid": ("taid", {}),
    "decoupled_kd": ("decoupled_kd", {}),
    "universal_logit_distance": ("universal_logit_distance", {}),
    "mse_logits": ("mse_logits", {}),
    "cosine_logits": ("cosine_logits", {}),
    "soft_cross_entropy": ("soft_cross_entropy", {}),
}
SLOPES = ("total_variation", "universal_logit_distance")
"""Their gradient jumps where two probabilities meet: it is not judged where float64 cannot tell which is larger."""


class Tally:
    """How a loss did: relative errors of value and gradient, and how often it was not even a number, or negative."""

    def __init__(self) -> None:
        self.errors: dict[str, list[float]] = {"value": [], "gradient": []}
        self.negative = self.lost = 0

    def add(self, value: np.ndarray, gradient: np.ndarray, true_value: Any, true_gradient: Any, smallest: Any) -> None:
        """One case. true_gradient: None if any will do."""
        self.negative += bool(value < 0)
        lost = np.isnan(value) or (np.isinf(value) != (true_value == mp.inf))
        if true_gradient is not None and true_gradient:
            lost |= not np.isfinite(gradient).all()
        self.lost += bool(lost)
        if smallest < true_value < mp.inf and np.isfinite(value):
            self.errors["value"].append(relative_error(float(value), true_value))
        if true_gradient and norm(true_gradient) > smallest and np.isfinite(gradient).all():
            self.errors["gradient"].append(gradient_error(gradient, true_gradient))

    def summary(self, demand: float) -> dict[str, Any]:
        """For the JSON: of how many cases, the median and the worst error, how many are above what is asked."""
        of_errors = {
            what: {
                "cases": len(errors),
                "median": float(np.median(errors)),
                "worst": max(errors),
                "too_large": sum(error > demand for error in errors),
            }
            for what, errors in self.errors.items()
        }
        return of_errors | {"negative": self.negative, "not_a_number": self.lost}


def ordinary_cases(n: int, dtype: str) -> Iterator[Case]:
    """Logits as a model of a thousand classes has them, at T = 2, for comparison."""
    rng = np.random.default_rng(SEED)
    for _ in range(n):
        student, teacher = 3 * rng.normal(size=(2, 1000))
        yield Case("ordinary", student.astype(dtype), teacher.astype(dtype), 2.0)


def difficult_cases(n: int, dtype: str) -> Iterator[Case]:
    """Mostly of few classes; one in twenty of hundreds, one in two hundred of thousands, eight of 50,257."""
    rng = np.random.default_rng(SEED)
    for sizes, count in (((50_257,), 8), ((4001,), n // 200), ((401,), n // 20)):
        yield from hard_cases(rng, count, dtype, sizes)
        n -= count
    yield from hard_cases(rng, n, dtype)


def differentiated(loss: Loss, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """A rival's value, and its gradient as PyTorch takes it."""
    z = torch.tensor(case.student, requires_grad=True)
    value = loss(z, torch.tensor(case.teacher), case.temperature)
    value.backward()
    assert z.grad is not None
    return value.detach().numpy(), z.grad.numpy()


def measure(cases: Iterable[Case], dtype: str, calls: Iterable[str]) -> dict[str, dict[str, Any]]:
    """For each loss: minikd's summary and those of its rivals."""
    rivals = installed(dtype)
    tallies: dict[str, dict[str, Tally]] = {
        call: {library: Tally() for library in ("minikd", *(r for r in rivals if call in rivals[r]))} for call in calls
    }
    for case in tqdm(cases, desc=dtype):
        for call, of_call in tallies.items():
            name, parameters = CALLS[call]
            truth: tuple[Any, Any] = reference(name, case, **parameters)
            if name in SLOPES and undecided(name, case):
                truth = truth[0], None
            for library, tally in of_call.items():
                own = library == "minikd"
                got = answer(name, case, **parameters) if own else differentiated(rivals[library][call], case)
                tally.add(*got, *truth, SMALLEST[dtype])
    return {
        call: {library: tally.summary(DEMANDS[dtype]) for library, tally in of_call.items()}
        for call, of_call in tallies.items()
    }


def library_versions() -> dict[str, str]:
    """Of what was measured."""
    packages = {"PyTorch": "torch", "TRL": "trl", "torchtune": "torchtune", "Liger": "liger-kernel"}
    return versions() | {name: version(packages[name]) for name in installed("float32")}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--cases", type=int, default=2000, help="cases for each loss and type of number")
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=DTYPES, help="types of number")
    parser.add_argument("--loss", choices=CALLS, nargs="+", default=list(CALLS), help="what to measure")
    parser.add_argument("--out", type=Path, default=Path("accuracy.json"), help="the JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sets = {"difficult": difficult_cases, "ordinary": ordinary_cases}
    counts = {"difficult": options.cases, "ordinary": max(1, options.cases // 20)}
    losses = {
        which: {dtype: measure(draw(counts[which], dtype), dtype, options.loss) for dtype in options.dtype}
        for which, draw in sets.items()
    }
    report = {"machine": platform.machine(), "versions": library_versions(), "cases": counts, "losses": losses}
    write_json(options.out, report)


if __name__ == "__main__":
    main()
