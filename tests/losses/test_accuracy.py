"""The divergences against 450 digits: right to the last digits also where the textbook's formulas have none left."""

import mpmath as mp
import numpy as np
import pytest

from minikd.losses import cross_entropy, total_variation
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
    softmax,
    undecided,
)
from tests.losses.variants import CHOICES, EXTREME_PARAMETERS, spelled

OTHERS = [
    ("soft_cross_entropy", {}),
    ("decoupled_kd", {}),
    ("decoupled_kd", {"alpha": 0.0, "beta": 1.0}),
    ("universal_logit_distance", {}),
    ("mse_logits", {}),
    ("cosine_logits", {}),
]
CALLS = {**CHOICES, **{spelled(*choice): choice for choice in OTHERS + EXTREME_PARAMETERS}}
EXTREME = [spelled(*choice) for choice in EXTREME_PARAMETERS]
ORDINARY = [call for call in CALLS if call not in EXTREME]


def assert_accurate(call: str, case: Case) -> None:
    name, parameters = CALLS[call]
    dtype = case.student.dtype.name
    tolerance, smallest = DEMANDS[dtype], SMALLEST[dtype]
    value, gradient = answer(name, case, **parameters)
    true_value, true_gradient = reference(name, case, **parameters)
    assert value >= 0 and not np.isnan(gradient).any(), case
    assert value.dtype == gradient.dtype == dtype
    if true_value == mp.inf:
        assert value == np.inf, case
    elif true_value > smallest:
        assert relative_error(value, true_value) < tolerance, case
    if name in ("total_variation", "universal_logit_distance") and undecided(name, case):
        return
    if true_gradient and norm(true_gradient) > smallest:
        assert gradient_error(gradient, true_gradient) < tolerance, case


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("call", CALLS)
def test_on_hard_cases(rng, call, dtype):
    for case in hard_cases(rng, 9 if call in EXTREME else 36, dtype):
        assert_accurate(call, case)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("call", CALLS)
def test_on_many_hard_cases(rng, call, dtype):
    for case in hard_cases(rng, 100, dtype, sizes=(1, 2, 3, 5, 17, 41, 401)):
        assert_accurate(call, case)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "spread"), [("float64", 1e-6), ("float32", 1.0)])
@pytest.mark.parametrize("call", ORDINARY)
def test_on_a_large_vocabulary(rng, call, dtype, spread):
    teacher = rng.normal(size=50_257) * 3
    student = teacher + spread * rng.normal(size=50_257)
    assert_accurate(call, Case("large", student.astype(dtype), teacher.astype(dtype), 1.0))


@pytest.mark.parametrize("call", CHOICES)
def test_the_smallest_divergences(call):
    """Values down to 1e-193: far below what p and q in float64 can tell apart."""
    teacher = np.array([0.0, -440.0, -441.0])
    for student, temperature in (([0.0, -440.0, -442.5], 1.0), ([0.0, -4.4e-96, -4.41e-96], 100.0)):
        logits = teacher if temperature == 1 else teacher * 1e-98
        case = Case("smallest", np.array(student), logits, temperature)
        name, parameters = CHOICES[call]
        assert 0 < reference(name, case, **parameters)[0] < 1e-90
        assert_accurate(call, case)


def test_where_digits_are_lost():
    """Each side lacks one entry that the other has; the rest agree, up to 1e-13 that mass of size 1 cancels down to.

    Of such a p and q, near-equal amid a distribution that is not, float64 knows the difference to three digits. No
    divergence as a whole depends on it, but two things do, and are not within 1e-12: the slope of |p - q| there if it
    is below 1e-15 (counted as 0), and the first part of decoupled_kd alone (beta = 0) with such an entry as the label.
    """
    student, teacher = np.zeros(6), np.zeros(6)
    student[:2], teacher[2] = (1e-12, -np.inf), -np.inf
    case = Case("coincidence", student, teacher, 1.0)
    for call in ORDINARY:
        assert_accurate(call, case)
    alone, _ = answer("decoupled_kd", case, beta=0.0)
    wanted, _ = reference("decoupled_kd", case, beta=0.0)
    assert 1e-12 < relative_error(alone, wanted) < 1e-2
    student[0] = 1e-17
    _, vjp = total_variation(student[None], teacher[None])
    assert undecided("total_variation", Case("coincidence", student, teacher, 1.0))
    np.testing.assert_allclose(vjp(), [[-0.02, 0, 0.08, -0.02, -0.02, -0.02]], rtol=1e-15)


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
