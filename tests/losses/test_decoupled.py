import math
from functools import partial

import numpy as np
import pytest

from minikd.backend import to_host
from minikd.losses import decoupled_kd, forward_kl
from minikd.oracle import assert_vjp

INF = np.inf


@pytest.fixture
def batch(rng):
    """Student's and teacher's logits and labels, one of which does not count."""
    labels = rng.integers(0, 41, size=(4, 5))
    labels[1, 3] = -100
    return *rng.normal(size=(2, 4, 5, 41)) * 2, labels


def test_by_hand():
    teacher, student = np.log([[0.5, 0.25, 0.25]]), np.log([[0.25, 0.25, 0.5]])
    target = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    others = 0.5 * math.log(0.5 / (1 / 3)) + 0.5 * math.log(0.5 / (2 / 3))
    value, vjp = decoupled_kd(student, teacher, np.array([0]))
    assert value == pytest.approx(target + 8 * others, rel=1e-14)
    moved = np.array([-0.25, 0.25 / 3, 0.25 * 2 / 3])
    np.testing.assert_allclose(vjp(), [moved + 8 * np.array([0, 1 / 3 - 1 / 2, 2 / 3 - 1 / 2])], rtol=1e-13)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_vjp(rng, batch, reduction):
    mask = rng.random((4, 5)) < 0.7
    for options in ({}, {"alpha": 0.0}, {"beta": 0.0}, {"alpha": 3, "temperature": 3.0, "mask": mask}):
        loss = partial(decoupled_kd, reduction=reduction, **options)
        assert_vjp(loss, *batch, wrt=0)


def test_weighed_as_they_come_the_parts_are_the_forward_kl(rng):
    """KL = target part + (1 - p_label) times the others' part: Zhao et al. 2022, eq. 6."""
    student, teacher = rng.normal(size=(2, 41)) * 2
    for label in (0, 7, 40):
        p = np.exp(teacher) / np.exp(teacher).sum()
        loss = decoupled_kd(student, teacher, np.array(label), alpha=1.0, beta=1 - p[label])
        wanted, vjp_wanted = forward_kl(student, teacher)
        assert loss[0] == pytest.approx(wanted, rel=1e-13)
        np.testing.assert_allclose(loss[1](), vjp_wanted(), rtol=1e-11, atol=1e-15)


def test_of_two_classes_only_the_label_is_compared(rng):
    student, teacher = rng.normal(size=(2, 6, 2))
    value, vjp = decoupled_kd(student, teacher, np.array([0, 1] * 3))
    wanted, vjp_wanted = forward_kl(student, teacher)
    assert value == pytest.approx(wanted, rel=1e-13)
    np.testing.assert_allclose(vjp(), vjp_wanted(), rtol=1e-12)
    value, vjp = decoupled_kd(student[:, :1], teacher[:, :1], np.zeros(6, dtype=int))
    assert value == 0 and (vjp() == 0).all()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_zero_where_both_are_the_same(rng, dtype):
    logits = (rng.normal(size=(9, 41)) * 5).astype(dtype)
    logits[1, ::3] = -INF
    value, vjp = decoupled_kd(logits, logits, np.arange(9), reduction="none")
    assert (value == 0).all() and (vjp() == 0).all()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_minus_infinity(xp, dtype):

    def at(student, teacher, **options):
        student, teacher = (xp.asarray(np.array([x], dtype=dtype)) for x in (student, teacher))
        value, vjp = decoupled_kd(student, teacher, xp.asarray(np.array([0])), **options)
        return to_host(value), to_host(vjp())[0]

    value, gradient = at([0, 0, 0, -INF], [0, 1, 1, -INF])
    assert 0 < value < INF and gradient[3] == 0 and np.isfinite(gradient).all()
    value, gradient = at([0, -INF, -INF], [1, -INF, -INF])  # both certain of the label
    assert value == 0 and (gradient == 0).all()
    value, gradient = at([0, 0, 0], [1, -INF, -INF])  # the teacher is
    assert value == pytest.approx(math.log(3), rel=1e-6)
    np.testing.assert_allclose(gradient, [-2 / 3, 1 / 3, 1 / 3], rtol=1e-6)
    value, gradient = at([1, -INF, -INF], [0, 0, 0])  # the student is
    assert value == INF
    np.testing.assert_allclose(gradient, [2 / 3, -1 / 3, -1 / 3], rtol=1e-6)
    value, gradient = at([-INF, 0, 0], [0, 0, 0])
    assert value == INF
    np.testing.assert_allclose(gradient, [-1 / 3, 1 / 6, 1 / 6], rtol=1e-6)
    value, gradient = at([0, 0, -INF], [0, -INF, 0])  # nothing in common beside the label
    assert value == INF and np.isfinite(gradient).all()
    value, gradient = at([0, 0, -INF], [0, -INF, 1], beta=0)
    label_share = 1 / (1 + math.e)
    wanted = label_share * math.log(2 * label_share) + (1 - label_share) * math.log(2 - 2 * label_share)
    assert value == pytest.approx(wanted, rel=1e-6)


def test_types(rng, batch):
    *logits, labels = batch
    for dtype, computed in (("float16", "float32"), ("float32", "float32"), ("float64", "float64")):
        student, teacher = (x.astype(dtype) for x in logits)
        value, vjp = decoupled_kd(student, teacher, labels)
        assert value.dtype == computed and vjp().dtype == vjp(0.5).dtype == dtype
        exact, _ = decoupled_kd(student.astype(float), teacher.astype(float), labels)
        assert value == pytest.approx(exact, rel=1e-6)


def test_wrong_arguments(batch):
    student, teacher, labels = batch
    for options, message in (
        ({"alpha": -1}, r"alpha is -1; wanted a number in \[0, inf\)"),
        ({"beta": math.inf}, r"beta is inf; wanted a number in \[0, inf\)"),
        ({"alpha": 0, "beta": 0}, "alpha and beta are 0; wanted at least one of them above 0"),
        ({"temperature": 0}, "temperature is 0"),
        ({"mask": np.zeros((4, 5), dtype=bool)}, "mean over no token"),
    ):
        with pytest.raises(ValueError, match=message):
            decoupled_kd(*batch, **options)
    with pytest.raises(ValueError, match=r"labels are int64 \(5,\); wanted integers \(4, 5\)"):
        decoupled_kd(student, teacher, labels[0])
    with pytest.raises(ValueError, match=r"labels\[0, 0\] is 41"):
        decoupled_kd(student, teacher, np.full_like(labels, 41))
    with pytest.raises(ValueError, match=r"student's vocabulary has 41 .* teacher's 40"):
        decoupled_kd(student, teacher[..., 1:], labels)


@pytest.mark.torch
def test_against_torch(batch):
    torch = pytest.importorskip("torch")
    student, teacher, labels = batch
    value, vjp = decoupled_kd(student, teacher, labels, temperature=2.0)
    counted = torch.tensor(labels >= 0)
    z, u, y = torch.tensor(student, requires_grad=True), torch.tensor(teacher)[counted], torch.tensor(labels)[counted]
    onehot = torch.nn.functional.one_hot(y, 41).bool()

    def parts(logits):
        p = torch.softmax(logits / 2, dim=-1)
        without = torch.log_softmax((logits / 2).masked_fill(onehot, -math.inf), dim=-1)
        label = p[onehot]
        return torch.stack((label, 1 - label), dim=-1), without[~onehot].reshape(len(y), 40)

    (binary_p, log_others_p), (binary_q, log_others_q) = parts(u), parts(z[counted])
    target = (binary_p * (binary_p / binary_q).log()).sum(-1)
    others = (log_others_p.exp() * (log_others_p - log_others_q)).sum(-1)
    wanted = (target + 8 * others).mean()
    wanted.backward()
    assert value == pytest.approx(wanted.item(), rel=1e-12)
    np.testing.assert_allclose(vjp(), z.grad.numpy(), rtol=1e-9, atol=1e-15)
