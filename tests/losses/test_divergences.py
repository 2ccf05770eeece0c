import math
from functools import partial

import numpy as np
import pytest

from minikd.backend import to_host
from minikd.losses import DIVERGENCES, forward_kl, js, reverse_kl, soft_cross_entropy
from minikd.oracle import assert_vjp

LOSSES = {**DIVERGENCES, "soft_cross_entropy": soft_cross_entropy}
all_divergences = pytest.mark.parametrize("divergence", DIVERGENCES.values(), ids=list(DIVERGENCES))
all_losses = pytest.mark.parametrize("loss", LOSSES.values(), ids=list(LOSSES))


def textbook(name, student_logits, teacher_logits, temperature):
    """Losses and gradients of tokens as written in the textbook, in float64."""
    p, q = (
        np.exp(x / temperature) / np.exp(x / temperature).sum(axis=-1, keepdims=True)
        for x in (teacher_logits.astype(float), student_logits.astype(float))
    )
    m = (p + q) / 2

    def kl(a, b):
        return (a * np.log(a / b)).sum(axis=-1)

    value, slope = {
        "forward_kl": (kl(p, q), -p / q),
        "reverse_kl": (kl(q, p), np.log(q / p)),
        "js": ((kl(p, m) + kl(q, m)) / 2, np.log(q / m) / 2),
        "soft_cross_entropy": (-(p * np.log(q)).sum(axis=-1), -p / q),
    }[name]
    return value, q * (slope - (q * slope).sum(axis=-1, keepdims=True)) / temperature


def test_by_hand():
    teacher, student = np.log([[0.5, 0.5]]), np.log([[0.75, 0.25]])
    value, vjp = forward_kl(student, teacher)
    assert value == pytest.approx(0.5 * math.log(4 / 3), rel=1e-15)
    np.testing.assert_allclose(vjp(), [[0.25, -0.25]], rtol=1e-15)
    value, vjp = reverse_kl(student, teacher)
    assert value == pytest.approx(0.75 * math.log(1.5) - 0.25 * math.log(2), rel=1e-15)
    np.testing.assert_allclose(vjp(), np.array([[1, -1]]) * 3 / 16 * math.log(3), rtol=1e-15)
    value, vjp = js(student, teacher)
    p, q, m = (0.5, 0.5), (0.75, 0.25), (0.625, 0.375)
    by_hand = sum(a * math.log(a / c) + b * math.log(b / c) for a, b, c in zip(p, q, m, strict=True)) / 2
    assert value == pytest.approx(by_hand, rel=1e-14)
    np.testing.assert_allclose(vjp(), np.array([[1, -1]]) * 3 / 32 * math.log(1.2 / (2 / 3)), rtol=1e-14)
    assert soft_cross_entropy(student, teacher)[0] == pytest.approx(-0.5 * math.log(3 / 16), rel=1e-15)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(1,), (1, 1), (3, 41), (2, 5, 401)])
@all_losses
def test_vjp(rng, loss, shape, reduction):
    student, teacher = rng.normal(size=shape) * 2, rng.normal(size=shape) * 2
    assert_vjp(partial(loss, temperature=3.0, reduction=reduction), student, teacher, wrt=0)


@all_losses
def test_vjp_with_a_mask_and_arrays_that_are_not_contiguous(rng, loss):
    student, teacher = (rng.normal(size=(41, 5, 4)).transpose(2, 1, 0)[:, ::2] for _ in range(2))
    mask = rng.random((4, 3)) < 0.6
    for reduction in ("mean", "none"):
        assert_vjp(partial(loss, mask=mask, reduction=reduction), student, teacher, wrt=0)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", LOSSES)
def test_against_the_textbook(rng, name, dtype):
    student, teacher = (rng.normal(size=(300, 401)).astype(dtype) * 2 for _ in range(2))
    values, gradients = textbook(name, student, teacher, 2.0)
    value, vjp = LOSSES[name](student, teacher, temperature=2.0, reduction="none")
    tolerance = 1e-12 if dtype == "float64" else 1e-6
    np.testing.assert_allclose(value, values, rtol=tolerance)
    np.testing.assert_allclose(vjp(), gradients, rtol=1e3 * tolerance, atol=tolerance * abs(gradients).max())


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@all_divergences
def test_zero_where_both_are_the_same(rng, divergence, dtype):
    logits = (rng.normal(size=(9, 401)) * 5).astype(dtype)
    logits[1, ::3] = -np.inf
    value, vjp = divergence(logits, logits, temperature=0.7, reduction="none")
    assert (value == 0).all() and (vjp() == 0).all()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@all_divergences
def test_never_negative_and_above_zero_for_different_logits(rng, divergence, dtype):
    teacher = (rng.normal(size=(64, 41)) * 3).astype(dtype)
    smallest = np.finfo(dtype).eps
    student = teacher.copy()
    student[:, 0] *= 1 + 4 * smallest
    value, _ = divergence(student, teacher, reduction="none")
    assert (value > 0).all()
    exact, _ = divergence(student.astype(float), teacher.astype(float), reduction="none")
    np.testing.assert_allclose(value, exact, rtol=1e-6)


@all_losses
def test_a_shift_changes_nothing(rng, loss):
    student, teacher = (rng.integers(-64, 64, size=(5, 41)) / 16 for _ in range(2))
    value, vjp = loss(student, teacher, temperature=2.0)
    shifted, vjp_shifted = loss(student + 512, teacher - 128, temperature=2.0)
    assert shifted == value
    np.testing.assert_array_equal(vjp_shifted(), vjp())


def test_symmetries(rng):
    one, other = rng.normal(size=(2, 5, 41)) * 3
    assert reverse_kl(one, other)[0] == pytest.approx(forward_kl(other, one)[0], rel=1e-14)
    assert js(one, other)[0] == pytest.approx(js(other, one)[0], rel=1e-14)
    assert js(50 * one, 50 * other)[0] <= math.log(2) * (1 + 1e-15)


def test_high_temperatures_compare_the_logits(rng):
    """T^2 D_T tends to half the variance of the difference of the logits, over an even distribution; js to 1/8."""
    student, teacher = rng.normal(size=(2, 1, 41))
    temperature = 1e6
    limit = np.var(student - teacher) / 2
    for divergence, part in ((forward_kl, 1), (reverse_kl, 1), (js, 0.25)):
        value, _ = divergence(student, teacher, temperature=temperature)
        assert temperature**2 * value == pytest.approx(part * limit, rel=1e-5)


def test_low_temperatures_compare_the_favourites():
    student, teacher = np.array([[0.0, 1.0, 3.0]]), np.array([[0.0, 3.0, 1.0]])
    assert 1e-3 * forward_kl(student, teacher, temperature=1e-3)[0] == pytest.approx(2, rel=1e-12)
    assert js(student, teacher, temperature=1e-3)[0] == pytest.approx(math.log(2), rel=1e-12)
    assert forward_kl(student, student[:, ::-1][:, ::-1], temperature=1e-3)[0] == 0


def test_soft_cross_entropy_is_kl_plus_entropy(rng):
    student, teacher = rng.normal(size=(2, 5, 41))
    entropy = soft_cross_entropy(teacher, teacher, temperature=2.0)[0]
    value, vjp = soft_cross_entropy(student, teacher, temperature=2.0)
    kl, vjp_kl = forward_kl(student, teacher, temperature=2.0)
    assert value == pytest.approx(kl + entropy, rel=1e-14)
    np.testing.assert_array_equal(vjp(), vjp_kl())


INF = np.inf


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_minus_infinity_on_both_sides_leaves_the_others_as_if_alone(rng, xp, dtype):
    student, teacher = (rng.normal(size=(6, 41)).astype(dtype) for _ in range(2))
    empty = np.arange(41) % 4 == 1
    with_empty = [np.where(empty, -INF, x).astype(dtype) for x in (student, teacher)]
    for loss in LOSSES.values():
        value, vjp = loss(*map(xp.asarray, with_empty), temperature=2.0, reduction="none")
        alone, vjp_alone = loss(student[:, ~empty], teacher[:, ~empty], temperature=2.0, reduction="none")
        np.testing.assert_allclose(to_host(value), alone, rtol=2e-6)
        gradient = to_host(vjp())
        assert (gradient[:, empty] == 0).all()
        np.testing.assert_allclose(gradient[:, ~empty], vjp_alone(), rtol=1e-4, atol=1e-7)


def test_mass_that_the_student_lacks(xp):
    teacher, student = np.log([[0.25, 0.25, 0.5]]), np.array([[-INF, 0.0, 0.0]])
    for loss in (forward_kl, soft_cross_entropy):
        value, vjp = loss(xp.asarray(student), xp.asarray(teacher))
        assert to_host(value) == INF
        np.testing.assert_allclose(to_host(vjp()), [[-0.25, 0.25, 0]], atol=1e-15)
    value, vjp = reverse_kl(xp.asarray(student), xp.asarray(teacher))
    assert to_host(value) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(1), rel=1e-12)
    assert to_host(vjp())[0, 0] == 0
    value, vjp = js(xp.asarray(student), xp.asarray(teacher))
    assert 0 < to_host(value) < math.log(2) and np.isfinite(to_host(vjp())).all()


def test_mass_that_the_teacher_lacks(xp):
    teacher, student = np.array([[-INF, 0.0, 0.0]]), np.log([[0.25, 0.25, 0.5]])
    value, vjp = reverse_kl(xp.asarray(student), xp.asarray(teacher))
    assert to_host(value) == INF
    np.testing.assert_array_equal(to_host(vjp()), [[INF, -INF, -INF]])
    value, vjp = forward_kl(xp.asarray(student), xp.asarray(teacher))
    assert to_host(value) == pytest.approx(0.5 * math.log(0.5 / 0.25), rel=1e-12)
    np.testing.assert_allclose(to_host(vjp()), [[0.25, -0.25, 0]], atol=1e-15)


def test_nothing_in_common(xp):
    teacher, student = np.array([[0.0, 1.0, -INF, -INF]]), np.array([[-INF, -INF, 2.0, 0.0]])
    for divergence, wanted in ((forward_kl, INF), (reverse_kl, INF), (js, math.log(2))):
        value, vjp = divergence(xp.asarray(student), xp.asarray(teacher))
        assert to_host(value) == pytest.approx(wanted, rel=1e-15)
        assert not np.isnan(to_host(vjp())).any()
    assert (to_host(reverse_kl(xp.asarray(student), xp.asarray(teacher))[1]()) == 0).all()


@all_losses
def test_types(rng, loss):
    logits = rng.normal(size=(2, 3, 41))
    for dtype, computed in (("float16", "float32"), ("float32", "float32"), ("float64", "float64")):
        student, teacher = logits.astype(dtype)
        value, vjp = loss(student, teacher)
        assert value.dtype == computed and vjp().dtype == vjp(0.5).dtype == vjp(np.float64(2)).dtype == dtype
        exact, _ = loss(student.astype(float), teacher.astype(float))
        assert value == pytest.approx(exact, rel=1e-6)
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    student, teacher = logits.astype(bfloat16)
    value, vjp = loss(student, teacher, temperature=2.0)
    assert value.dtype == "float32" and vjp().dtype == bfloat16
    assert value == pytest.approx(loss(student.astype(float), teacher.astype(float), temperature=2.0)[0], rel=1e-6)
    student, teacher = logits
    assert loss(student.astype("float32"), teacher)[1]().dtype == "float32"


@all_losses
def test_inputs_stay_and_the_pullback_can_be_called_again(rng, loss):
    student, teacher = (rng.normal(size=(50, 401)).astype("float32") for _ in range(2))
    before = student.copy(), teacher.copy()
    _, vjp = loss(student, teacher)
    first = vjp()
    kept = first.copy()
    first *= 0
    np.testing.assert_array_equal(vjp(), kept)
    np.testing.assert_allclose(vjp(3.0), 3 * kept, rtol=1e-6)
    np.testing.assert_array_equal(student, before[0])
    np.testing.assert_array_equal(teacher, before[1])


@all_losses
def test_the_same_on_both_devices(rng, gpu_xp, loss):
    student, teacher = (rng.normal(size=(3, 5, 41)).astype("float32") for _ in range(2))
    student[0] = teacher[0]
    mask = rng.random((3, 5)) < 0.7
    value, vjp = loss(*map(gpu_xp.asarray, (student, teacher)), temperature=2.0, mask=gpu_xp.asarray(mask))
    wanted, vjp_wanted = loss(student, teacher, temperature=2.0, mask=mask)
    np.testing.assert_allclose(to_host(value), wanted, rtol=1e-6)
    np.testing.assert_allclose(to_host(vjp()), vjp_wanted(), rtol=1e-4, atol=1e-8)


@all_losses
def test_wrong_arguments(loss):
    logits = np.zeros((2, 3, 5))
    with pytest.raises(ValueError, match=r"student's vocabulary has 5 .* teacher's 4.*universal_logit_distance"):
        loss(logits, np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match=r"student_logits are \(2, 3, 5\), teacher_logits \(2, 2, 5\)"):
        loss(logits, np.zeros((2, 2, 5)))
    with pytest.raises(ValueError, match="temperature is -1; wanted a finite number above 0"):
        loss(logits, logits, temperature=-1)
    with pytest.raises(ValueError, match="reduction is 'average'"):
        loss(logits, logits, reduction="average")
    with pytest.raises(ValueError, match=r"mask is int64 \(2, 3\); wanted bool \(2, 3\)"):
        loss(logits, logits, mask=np.ones((2, 3), dtype=np.int64))
    with pytest.raises(ValueError, match=r"mask is bool \(3,\); wanted bool \(2, 3\)"):
        loss(logits, logits, mask=np.ones(3, dtype=bool))
    with pytest.raises(ValueError, match="mean over no token"):
        loss(logits, logits, mask=np.zeros((2, 3), dtype=bool))
    with pytest.raises(ValueError, match="-inf throughout"):
        loss(np.full((1, 3), -np.inf), np.zeros((1, 3)))


@pytest.mark.torch
def test_against_torch(rng):
    torch = pytest.importorskip("torch")
    student, teacher = rng.normal(size=(2, 7, 401)) * 2
    value, vjp = forward_kl(student, teacher, temperature=2.0)
    z = torch.tensor(student, requires_grad=True)
    log_q = torch.log_softmax(z / 2, dim=-1)
    loss = torch.nn.functional.kl_div(log_q, torch.softmax(torch.tensor(teacher) / 2, dim=-1), reduction="batchmean")
    loss.backward()
    assert value == pytest.approx(loss.item(), rel=1e-12)
    np.testing.assert_allclose(vjp(), z.grad.numpy(), rtol=1e-9, atol=1e-15)
