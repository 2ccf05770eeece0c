"""The divergences against 450 digits: right to the last digits also where the textbook's formulas have none left."""

import mpmath as mp
import numpy as np
import pytest

from minikd.losses import DIVERGENCES, cross_entropy
from tests.losses.reference import DIGITS, Case, gradient_error, hard_cases, norm, reference, relative_error, softmax

# relative error, and the smallest value and gradient for which it is asked
DEMANDS = {"float64": (1e-12, mp.mpf("1e-200")), "float32": (2e-6, mp.mpf("1e-30"))}


def assert_accurate(name: str, case: Case, digits: int = DIGITS) -> None:
    dtype = case.student.dtype.name
    tolerance, smallest = DEMANDS[dtype]
    value, vjp = DIVERGENCES[name](case.student[None], case.teacher[None], temperature=case.temperature)
    gradient = vjp()[0]
    true_value, true_gradient = reference(name, case, digits)
    assert value >= 0 and not np.isnan(gradient).any(), case
    assert value.dtype == gradient.dtype == dtype
    if true_value == mp.inf:
        assert value == np.inf, case
    elif true_value > smallest:
        assert relative_error(value, true_value) < tolerance, case
    if true_gradient and norm(true_gradient) > smallest:
        assert gradient_error(gradient, true_gradient) < tolerance, case


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_divergence_on_hard_cases(rng, name, dtype):
    for case in hard_cases(rng, 160, dtype):
        assert_accurate(name, case)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_divergence_on_many_hard_cases(rng, name, dtype):
    for case in hard_cases(rng, 400, dtype, sizes=(1, 2, 3, 5, 17, 41, 401)):
        assert_accurate(name, case)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "spread"), [("float64", 1e-6), ("float64", 1.0), ("float32", 1e-3), ("float32", 1.0)]
)
@pytest.mark.parametrize("name", DIVERGENCES)
def test_divergence_on_a_large_vocabulary(rng, name, dtype, spread):
    teacher = rng.normal(size=50_257) * 3
    student = teacher + spread * rng.normal(size=50_257)
    assert_accurate(name, Case("large", student.astype(dtype), teacher.astype(dtype), 1.0), digits=50)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_smallest_divergences(name):
    """Values down to 1e-193: far below what p and q in float64 can tell apart."""
    teacher = np.array([0.0, -440.0, -441.0])
    for student, temperature in (([0.0, -440.0, -442.5], 1.0), ([0.0, -4.4e-96, -4.41e-96], 100.0)):
        logits = teacher if temperature == 1 else teacher * 1e-98
        case = Case("smallest", np.array(student), logits, temperature)
        assert 0 < reference(name, case)[0] < 1e-190
        assert_accurate(name, case)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_cross_entropy_where_the_label_is_almost_certain(rng, dtype):
    for gap in (0.1, 5.0, 20.0, 60.0):
        logits = rng.normal(size=(1, 7)).astype(dtype)
        logits[0, 3] += gap
        loss, vjp = cross_entropy(logits, np.array([3]))
        with mp.workdps(100):
            p = softmax(logits[0], 1.0)
            onehot = [int(i == 3) for i in range(7)]
            tolerance = 1e-14 if dtype == "float64" else 6e-6  # a float32 logit of 60 is itself known to 2e-6
            assert relative_error(loss, -mp.log(p[3])) < tolerance
            assert gradient_error(vjp()[0], [a - b for a, b in zip(p, onehot, strict=True)]) < tolerance
