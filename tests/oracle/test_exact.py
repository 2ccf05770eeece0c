"""The reference values themselves: their gradients against difference quotients, and what digits cannot change."""

import mpmath as mp
import numpy as np
import pytest

from minikd.oracle import exact
from minikd.oracle.exact.traced import Traced, exp, gradients, held, log, sqrt, tanh, traced
from minikd.oracle.subjects import SUBJECTS, Case
from minikd.oracle.vectors import attributes
from tests.losses.reference import DIGITS, NO_TEMPERATURE, WITH_LABEL, hard_cases, norm, reference_in
from tests.losses.test_accuracy import CALLS, ORDINARY

HELD = ("taid", "minillm_loss")  # whose gradient takes a part of the student for a constant
DIFFERENTIABLE = [name for name, subject in SUBJECTS.items() if subject.wrt and name not in HELD]


def difference_quotient(f, inputs, wrt, rng):
    """How f changes along a random direction, and the direction: right to some 50 digits."""
    direction = {name: exact.exactly(np.round(16 * rng.normal(size=inputs[name].shape)) / 16) for name in wrt}

    def along(h):
        return f(**{name: x + h * direction[name] if name in direction else x for name, x in inputs.items()})

    step = mp.mpf(10) ** -40
    return held(along(step) - along(-step))[()] / (2 * step), direction


def slopes(f, inputs, wrt):
    sources = {name: Traced(inputs[name]) for name in wrt}
    return gradients(f(**inputs | sources), list(sources.values()))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_are_difference_quotients(rng, name):
    subject = SUBJECTS[name]
    case = subject.cases(rng)[0]
    with mp.workdps(exact.DIGITS):
        inputs = {key: exact.exactly(x) for key, x in case.inputs.items()}
        weights = exact.exactly(np.ones(()) if case.cotangent is None else case.cotangent)
        constants = {key: mp.mpf(x) if isinstance(x, float) else x for key, x in attributes(subject, case).items()}

        def weighted(**arguments):
            return traced(exact.FORMULAS[name](**arguments, **constants) * weights).sum()

        quotient, direction = difference_quotient(weighted, inputs, subject.wrt, rng)
        found = slopes(weighted, inputs, subject.wrt)
        along = sum((g * direction[name]).sum() for name, g in zip(subject.wrt, found, strict=True))
        assert abs(along - quotient) < mp.mpf(10) ** -60 * (1 + abs(along))
        assert abs(along) > 1e-6


@pytest.mark.parametrize(
    "f",
    [
        lambda x, y: x @ y + y[:2],
        lambda x, y: x[:, :2] * y[1] - 3 / x[0, 1] + x.sum() / 3,
        lambda x, y: (x - y.swapaxes(0, 1)) / y.swapaxes(0, 1).sum(axis=0, keepdims=True) ** 3,
        lambda x, y: exp(x) * tanh(y.swapaxes(0, 1)) + log(x * x) / sqrt(1 + y.swapaxes(0, 1) ** 2),
        lambda x, y: 2 - x.sum(axis=1) * (x.reshape(2, 3, 1) + y).sum() + x[[0, 0, 1], [1, 1, 2]].sum(),
        lambda x, y: np.ones((4, 3)) * x[:1] * np.ones((1, 2)).sum() @ y,
    ],
)
def test_every_rule(rng, f):
    with mp.workdps(exact.DIGITS):
        inputs = {"x": exact.exactly(rng.normal(size=(3, 3))[:2]), "y": exact.exactly(rng.normal(size=(3, 2)))}

        def total(x, y):
            return f(traced(x), traced(y)).sum()

        quotient, direction = difference_quotient(total, inputs, ("x", "y"), rng)
        found = slopes(total, inputs, ("x", "y"))
        along = sum((g * direction[name]).sum() for name, g in zip(("x", "y"), found, strict=True))
        assert abs(along - quotient) < mp.mpf(10) ** -60 * (1 + abs(along))


def test_values_worked_by_hand():
    student, teacher = np.log([[1.0, 3.0]]), np.zeros((1, 2))  # q = (1/4, 3/4), p = (1/2, 1/2)
    options = {"temperature": 1.0, "reduction": "mean"}
    value, gradient = exact.right_outputs(
        "forward_kl", {"student_logits": student, "teacher_logits": teacher}, options, ("student_logits",)
    )
    assert value == pytest.approx(np.log(4 / 3) / 2, rel=1e-15)
    assert gradient == pytest.approx(np.array([[-0.25, 0.25]]), rel=1e-15)
    (loss,) = exact.right_outputs(
        "cross_entropy", {"logits": student, "labels": np.array([1])}, {"reduction": "sum"}, ()
    )
    assert loss == pytest.approx(np.log(4 / 3), rel=1e-15)


def test_the_part_that_is_held_has_no_gradient(rng):
    """taid is a forward KL to a target in the middle, which is a constant."""
    z, u = rng.normal(size=(2, 3, 5))
    options = {"temperature": 2.0, "reduction": "sum"}
    _, gradient = exact.right_outputs(
        "taid", {"student_logits": z, "teacher_logits": u}, {"t": 0.5, **options}, ("student_logits",)
    )
    _, wanted = exact.right_outputs(
        "forward_kl", {"student_logits": z, "teacher_logits": (z + u) / 2}, options, ("student_logits",)
    )
    np.testing.assert_allclose(gradient, wanted, rtol=1e-13)


@pytest.mark.parametrize("call", ORDINARY)
def test_the_slopes_of_the_losses_tests_are_the_same(rng, call):
    """There they were derived by hand, for the divergences at least; -inf, a limit here, is a case of its own there."""
    name, parameters = CALLS[call]
    for case in hard_cases(rng, 9, "float64", sizes=(2, 5)):
        if np.isneginf([case.student, case.teacher]).any():
            continue
        inputs = {"student_logits": case.student[None], "teacher_logits": case.teacher[None]}
        inputs |= {"labels": np.array([case.label])} if name in WITH_LABEL else {}
        options = attributes(SUBJECTS[name], Case("", "", (), inputs, parameters))
        options |= {} if name in NO_TEMPERATURE else {"temperature": case.temperature}
        wanted, slopes = reference_in(DIGITS, name, case, **parameters)
        with mp.workdps(DIGITS):
            value, (gradient,) = exact.outputs(name, inputs, options, ("student_logits",))
            assert abs(value - wanted) <= mp.mpf(10) ** -25 * wanted + mp.mpf(10) ** -300
            assert norm(gradient - slopes) <= mp.mpf(10) ** -25 * norm(slopes) + mp.mpf(10) ** -300


def test_minus_infinity_is_a_limit():
    z, u = np.array([[0.0, -np.inf]]), np.zeros((1, 2))
    options = {"temperature": 1.0, "reduction": "mean"}
    inputs, wrt = {"student_logits": z, "teacher_logits": u}, ("student_logits",)
    value, gradient = exact.right_outputs("forward_kl", inputs, options, wrt)
    assert value == np.inf
    np.testing.assert_array_equal(gradient, [[0.5, -0.5]])
    value, gradient = exact.right_outputs("js", inputs, options, wrt)
    # m = (3/4, 1/4), so that JS = (log(2/3) / 2 + log(2) / 2) / 2 + log(4/3) / 2
    assert value == pytest.approx(np.log(4 / 3) * 3 / 4, rel=1e-15)
    np.testing.assert_array_equal(gradient, [[0, 0]])


@pytest.mark.parametrize("name", ["reverse_kl", "total_variation", "universal_logit_distance", "block"])
def test_more_digits_change_nothing(rng, monkeypatch, name):
    subject = SUBJECTS[name]
    case = subject.cases(rng)[-1]
    arguments = name, case.inputs, attributes(subject, case), subject.wrt, case.cotangent
    some = exact.right_outputs(*arguments)
    monkeypatch.setattr(exact, "DIGITS", 200)
    for one, other in zip(some, exact.right_outputs(*arguments), strict=True):
        np.testing.assert_array_equal(one, other)


def test_rounding():
    with mp.workdps(exact.DIGITS):
        numbers = [mp.mpf(1) / 3, -mp.mpf(2) / 3, mp.mpf(10) ** -120, -(mp.mpf(10) ** 35), 1 + mp.mpf(2) ** -53 * 1.001]
        rounded = exact.rounded(np.array(numbers, dtype=object))
    assert rounded.tolist() == [1 / 3, -2 / 3, 0.0, -np.inf, 1 + 2**-52]
    assert exact.rounded(np.array([1, 2])).dtype == np.int64
