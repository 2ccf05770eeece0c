import math
import re
from functools import partial

import numpy as np
import pytest

from minikd.backend import to_host
from minikd.losses import (
    alpha_divergence,
    forward_kl,
    generalized_jsd,
    js,
    reverse_kl,
    skew_forward_kl,
    skew_reverse_kl,
    soft_cross_entropy,
    symmetric_kl,
    taid,
    total_variation,
)
from minikd.oracle import assert_vjp
from tests.losses.variants import CHOICES, VARIANTS

INF = np.inf
LOSSES = {**VARIANTS, "soft_cross_entropy": soft_cross_entropy}
CALLS = {**CHOICES, "soft_cross_entropy": ("soft_cross_entropy", {})}
# the target of taid moves with the student, but counts as a constant
DIFFERENTIABLE = [name for name in LOSSES if not name.startswith("taid")]
all_divergences = pytest.mark.parametrize("divergence", VARIANTS.values(), ids=list(VARIANTS))
all_losses = pytest.mark.parametrize("loss", LOSSES.values(), ids=list(LOSSES))
all_differentiable = pytest.mark.parametrize("loss", [LOSSES[name] for name in DIFFERENTIABLE], ids=DIFFERENTIABLE)


def log(x):
    return np.log(x) if isinstance(x, np.ndarray) else x.log()


def kl(p, q):
    return (p * log(p / q)).sum(-1)


def skewed(p, q, alpha):
    return alpha * p + (1 - alpha) * q


def jsd(p, q, beta=0.5, scaled=False):
    m, factor = skewed(p, q, beta), 1 / (beta * (1 - beta)) if scaled else 1
    return (beta * kl(p, m) + (1 - beta) * kl(q, m)) * factor, (1 - beta) * factor * log(q / m)


TEXTBOOK = {
    "forward_kl": lambda p, q: (kl(p, q), -p / q),
    "reverse_kl": lambda p, q: (kl(q, p), log(q / p)),
    "symmetric_kl": lambda p, q, weight=0.5: (
        weight * kl(p, q) + (1 - weight) * kl(q, p),
        -weight * p / q + (1 - weight) * log(q / p),
    ),
    "js": jsd,
    "generalized_jsd": jsd,
    "skew_forward_kl": lambda p, q, alpha=0.1: (
        kl(p, skewed(p, q, alpha)),
        -(1 - alpha) * p / skewed(p, q, alpha),
    ),
    "skew_reverse_kl": lambda p, q, alpha=0.1: (
        kl(q, skewed(q, p, alpha)),
        log(q / skewed(q, p, alpha)) - alpha * q / skewed(q, p, alpha),
    ),
    "total_variation": lambda p, q: (abs(p - q).sum(-1) / 2, (1.0 * (q > p) - 1.0 * (q < p)) / 2),
    "alpha_divergence": lambda p, q, alpha=0.5: (
        (1 - (p**alpha * q ** (1 - alpha)).sum(-1)) / (alpha * (1 - alpha)),
        -((p / q) ** alpha) / alpha,
    ),
    "taid": lambda p, q: (kl(p, q), -p / q),
    "soft_cross_entropy": lambda p, q: (-(p * log(q)).sum(-1), -p / q),
}
"""Value (n,) and slope dD/dq (n, V) of each loss as written in the textbook."""


def target_of(name, student_logits, teacher_logits):
    """The logits of the textbook's p, and its other parameters."""
    loss, own = CALLS[name]
    if loss != "taid":
        return loss, teacher_logits, own
    t = own.get("t", 0.5)
    return loss, (1 - t) * student_logits + t * teacher_logits, {}


def textbook(name, student_logits, teacher_logits, temperature):
    """Values and gradients of tokens in float64."""
    student_logits, teacher_logits = student_logits.astype(float), teacher_logits.astype(float)
    loss, target, own = target_of(name, student_logits, teacher_logits)
    p, q = (
        np.exp(x / temperature) / np.exp(x / temperature).sum(axis=-1, keepdims=True) for x in (target, student_logits)
    )
    value, slope = TEXTBOOK[loss](p, q, **own)
    return value, q * (slope - (q * slope).sum(axis=-1, keepdims=True)) / temperature


def assert_equal(some, others, rel):
    """Values and gradients of two losses are the same up to a relative error."""
    (value, vjp), (wanted, vjp_wanted) = some, others
    assert value == pytest.approx(wanted, rel=rel)
    assert np.linalg.norm(vjp() - vjp_wanted()) <= rel * np.linalg.norm(vjp_wanted())


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


@pytest.mark.parametrize(
    ("shape", "reduction"), [((1,), "mean"), ((1, 1), "none"), ((2, 17), "sum"), ((2, 5, 401), "mean")]
)
@all_differentiable
def test_vjp(rng, loss, shape, reduction):
    student, teacher = rng.normal(size=shape) * 2, rng.normal(size=shape) * 2
    assert_vjp(partial(loss, temperature=3.0, reduction=reduction), student, teacher, wrt=0)


@all_differentiable
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
    shifted = loss(student + 512, teacher - 128, temperature=2.0)
    assert_equal(shifted, loss(student, teacher, temperature=2.0), rel=1e-15)


def test_symmetries(rng):
    one, other = rng.normal(size=(2, 5, 41)) * 3
    for there, back in (
        (forward_kl, reverse_kl),
        (js, js),
        (total_variation, total_variation),
        (symmetric_kl, symmetric_kl),
        (partial(symmetric_kl, weight=0.2), partial(symmetric_kl, weight=0.8)),
        (partial(generalized_jsd, beta=0.2), partial(generalized_jsd, beta=0.8)),
        (partial(skew_forward_kl, alpha=0.3), partial(skew_reverse_kl, alpha=0.3)),
        (partial(alpha_divergence, alpha=0.2), partial(alpha_divergence, alpha=0.8)),
    ):
        assert there(one, other)[0] == pytest.approx(back(other, one)[0], rel=1e-14)


@pytest.mark.parametrize(
    ("own", "end", "kl"),
    [
        ((symmetric_kl, "weight"), 0, reverse_kl),
        ((symmetric_kl, "weight"), 1, forward_kl),
        ((partial(generalized_jsd, scaled=True), "beta"), 0, forward_kl),
        ((partial(generalized_jsd, scaled=True), "beta"), 1, reverse_kl),
        ((skew_forward_kl, "alpha"), 0, forward_kl),
        ((skew_reverse_kl, "alpha"), 0, reverse_kl),
        ((alpha_divergence, "alpha"), 0, reverse_kl),
        ((alpha_divergence, "alpha"), 1, forward_kl),
        ((taid, "t"), 1, forward_kl),
    ],
)
def test_the_kls_are_at_the_ends_and_nearby(rng, own, end, kl):
    student, teacher = rng.normal(size=(2, 5, 41)) * 2
    loss, parameter = own
    assert_equal(loss(student, teacher, **{parameter: end}), kl(student, teacher), rel=0)
    nearby = abs(end - 1e-9)
    assert_equal(loss(student, teacher, **{parameter: nearby}), kl(student, teacher), rel=1e-6)


def test_generalized_jsd(rng):
    """At 1/2 it is js; it goes to 0 at both ends, unless it is scaled."""
    student, teacher = rng.normal(size=(2, 5, 41)) * 2
    assert_equal(generalized_jsd(student, teacher, beta=0.5), js(student, teacher), rel=0)
    for beta in (1e-3, 0.999):
        unscaled, scaled = (generalized_jsd(student, teacher, beta=beta, scaled=x)[0] for x in (False, True))
        assert unscaled < 0.01 and scaled > 1
        assert scaled * beta * (1 - beta) == pytest.approx(unscaled, rel=1e-13)


def test_alpha_divergence_by_hand():
    teacher, student = np.log([[0.5, 0.5]]), np.log([[0.8, 0.2]])
    hellinger = ((math.sqrt(0.5) - math.sqrt(0.8)) ** 2 + (math.sqrt(0.5) - math.sqrt(0.2)) ** 2) / 2
    assert alpha_divergence(student, teacher)[0] == pytest.approx(4 * hellinger, rel=1e-14)


def test_total_variation_by_hand():
    teacher, student = np.log([[0.5, 0.25, 0.25]]), np.log([[0.125, 0.625, 0.25]])
    value, vjp = total_variation(student, teacher)
    assert value == pytest.approx(0.375, rel=1e-15)
    # slopes -1/2, 1/2, and 0 where p and q meet; their mean under q is 1/4
    np.testing.assert_allclose(vjp(), [[0.125 * -0.75, 0.625 * 0.25, 0.25 * -0.25]], rtol=1e-14)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_total_variation_of_a_permutation_knows_which_entries_stay(rng, dtype):
    """p and q meet exactly at the entries that stay, whatever rounding says."""
    teacher = rng.integers(-64, 64, size=(200, 41)) / 16
    student = teacher.copy()
    student[:, :7] = student[:, 6::-1]
    _, vjp = total_variation(student.astype(dtype), teacher.astype(dtype), reduction="none")
    q = np.exp(student) / np.exp(student).sum(axis=-1, keepdims=True)
    slope = np.sign(student - teacher) / 2
    wanted = q * (slope - (q * slope).sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(vjp(), wanted, rtol=1e-5, atol=1e-9)


def test_taid_is_the_forward_kl_to_a_constant_between_the_two(rng):
    student, teacher = rng.normal(size=(2, 5, 41)) * 2
    for t in (0.2, 0.9):
        between = (1 - t) * student + t * teacher
        assert_equal(taid(student, teacher, t=t, temperature=3.0), forward_kl(student, between, temperature=3.0), 1e-12)
    value, vjp = taid(student, teacher, t=0)
    assert value == 0 and (vjp() == 0).all()


def test_bounds(rng):
    student, teacher = rng.normal(size=(2, 50, 41)) * 10 ** rng.uniform(-2, 2, size=(50, 1))
    forward, reverse = (kl(student, teacher, reduction="none")[0] for kl in (forward_kl, reverse_kl))
    variation, _ = total_variation(student, teacher, reduction="none")
    assert (variation <= 1).all()
    assert (variation**2 <= np.minimum(forward, reverse) / 2).all()  # Pinsker
    assert (js(student, teacher, reduction="none")[0] <= math.log(2) * (1 + 1e-15)).all()
    for skew, kl in ((skew_forward_kl, forward), (skew_reverse_kl, reverse)):
        value, _ = skew(student, teacher, alpha=0.1, reduction="none")
        assert (value <= np.minimum(math.log(10), 0.9 * kl)).all()  # convex in the mixture
    assert (alpha_divergence(student, teacher, alpha=0.3, reduction="none")[0] <= 1 / 0.21).all()


def test_high_temperatures_compare_the_logits(rng):
    """T^2 D_T tends to half the variance of the logits' difference over an even distribution, or to a part of that."""
    student, teacher = rng.normal(size=(2, 1, 41))
    temperature = 1e6
    limit = np.var(student - teacher) / 2
    for divergence, part in (
        (forward_kl, 1),
        (reverse_kl, 1),
        (symmetric_kl, 1),
        (js, 0.25),
        (partial(generalized_jsd, beta=0.1), 0.09),
        (partial(generalized_jsd, beta=0.1, scaled=True), 1),
        (partial(skew_forward_kl, alpha=0.2), 0.64),
        (partial(skew_reverse_kl, alpha=0.2), 0.64),
        (partial(alpha_divergence, alpha=0.2), 1),
        (partial(taid, t=0.2), 0.04),
    ):
        value, _ = divergence(student, teacher, temperature=temperature)
        assert temperature**2 * value == pytest.approx(part * limit, rel=1e-5)


def test_low_temperatures_compare_the_favourites():
    student, teacher = np.array([[0.0, 1.0, 3.0]]), np.array([[0.0, 3.0, 1.0]])
    assert 1e-3 * forward_kl(student, teacher, temperature=1e-3)[0] == pytest.approx(2, rel=1e-12)
    assert js(student, teacher, temperature=1e-3)[0] == pytest.approx(math.log(2), rel=1e-12)
    assert total_variation(student, teacher, temperature=1e-3)[0] == 1
    assert alpha_divergence(student, teacher, temperature=1e-3)[0] == 4
    assert forward_kl(student, student[:, ::-1][:, ::-1], temperature=1e-3)[0] == 0


def test_soft_cross_entropy_is_kl_plus_entropy(rng):
    student, teacher = rng.normal(size=(2, 5, 41))
    entropy = soft_cross_entropy(teacher, teacher, temperature=2.0)[0]
    value, vjp = soft_cross_entropy(student, teacher, temperature=2.0)
    kl, vjp_kl = forward_kl(student, teacher, temperature=2.0)
    assert value == pytest.approx(kl + entropy, rel=1e-14)
    np.testing.assert_array_equal(vjp(), vjp_kl())


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@all_divergences
def test_no_logit_is_too_large(divergence, dtype):
    """The largest numbers of a type, and masks that use its lowest one for -inf."""
    low, huge = np.finfo(dtype).min, np.finfo(dtype).max / 2
    student = np.array([[huge, -huge, 1, 0], [huge, -huge, 1, 0], [-huge, -huge, -huge, -1]], dtype=dtype)
    teacher = np.array([[-huge, huge, 0, 1], [0, 1, 2, -INF], [-huge, 2 * huge, 0, 0]], dtype=dtype)
    student_masked = np.array([[low, low, 1, 2], [low, 0, 1, low], [low, 0, 1, 2], [1, 2, low, low]], dtype=dtype)
    teacher_masked = np.array([[low, 3, 2, 1], [1, low, 2, low], [low, 1, 1, 3], [low, low, 1, 2]], dtype=dtype)
    for one, other, temperatures in (
        (student, teacher, (1.0, 1e15)),
        (student_masked, teacher_masked, (0.05, 1.0, 100.0)),
    ):
        for temperature in temperatures:
            value, vjp = divergence(one, other, temperature=temperature, reduction="none")
            assert (value >= 0).all() and not np.isnan(vjp()).any()


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


def test_skewed_divergences_are_finite_where_mass_is_lacking(xp):
    full, part = np.log([[0.25, 0.25, 0.5]]), np.array([[-INF, 0.0, 0.0]])
    for student, teacher in ((full, part), (part, full)):
        for name in ("js", "skew_forward_kl", "skew_reverse_kl", "total_variation", "alpha_divergence", "taid"):
            value, vjp = LOSSES[name](xp.asarray(student), xp.asarray(teacher))
            assert 0 < to_host(value) < 3
            gradient = to_host(vjp())
            assert np.isfinite(gradient).all() and (gradient[np.isinf(student)] == 0).all()
        value, vjp = symmetric_kl(xp.asarray(student), xp.asarray(teacher))
        assert to_host(value) == INF and not np.isnan(to_host(vjp())).any()


def test_nothing_in_common(xp):
    teacher, student = np.array([[0.0, 1.0, -INF, -INF]]), np.array([[-INF, -INF, 2.0, 0.0]])
    for divergence, wanted in (
        (forward_kl, INF),
        (reverse_kl, INF),
        (symmetric_kl, INF),
        (js, math.log(2)),
        (partial(generalized_jsd, beta=0.2), -0.2 * math.log(0.2) - 0.8 * math.log(0.8)),
        (skew_forward_kl, math.log(10)),
        (skew_reverse_kl, math.log(10)),
        (total_variation, 1),
        (alpha_divergence, 4),
        (taid, INF),
    ):
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
    with pytest.raises(ValueError, match="temperature is -1; wanted a number from 1e-15"):
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


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("divergence", VARIANTS.values(), ids=VARIANTS)
def test_what_is_not_a_number_stays_so(rng, divergence, dtype):
    for bad in (np.nan, INF):
        for n_classes, sides in [(1, [0]), (7, [0]), (7, [1]), (7, [0, 1])]:
            logits = rng.normal(size=(2, 3, n_classes)).astype(dtype)
            logits[1, 2, -1] = -INF if n_classes > 1 else 0
            logits[sides, 1, 0] = bad
            losses, vjp = divergence(*logits, reduction="none")
            gradient = vjp(np.ones(3, dtype))
            assert np.isnan(losses[1])
            assert np.isnan(gradient[1]).all()
            assert np.isfinite(gradient[0]).all()


@pytest.mark.parametrize(
    ("loss", "name", "wrong", "interval"),
    [
        (symmetric_kl, "weight", (-0.1, 1.5, math.nan, "half"), "[0, 1]"),
        (generalized_jsd, "beta", (0, 1, -1, math.inf), "(0, 1)"),
        (partial(generalized_jsd, scaled=True), "beta", (-0.1, 1.1), "[0, 1]"),
        (skew_forward_kl, "alpha", (1, -0.1, math.nan), "[0, 1)"),
        (skew_reverse_kl, "alpha", (1, -0.1, None), "[0, 1)"),
        (alpha_divergence, "alpha", (2, -1), "[0, 1]"),
        (taid, "t", (2, -1), "[0, 1]"),
    ],
)
def test_wrong_parameters(loss, name, wrong, interval):
    for value in wrong:
        with pytest.raises(ValueError, match=re.escape(f"{name} is {value!r}; wanted a number in {interval}")):
            loss(np.zeros((1, 3)), np.zeros((1, 3)), **{name: value})


@pytest.mark.torch
@pytest.mark.parametrize("name", LOSSES)
def test_against_torch(rng, name):
    torch = pytest.importorskip("torch")
    student, teacher = rng.normal(size=(2, 7, 401)) * 2
    value, vjp = LOSSES[name](student, teacher, temperature=2.0)
    z = torch.tensor(student, requires_grad=True)
    loss, target, own = target_of(name, z.detach(), torch.tensor(teacher))
    p, q = (torch.softmax(x / 2, dim=-1) for x in (target, z))
    wanted = TEXTBOOK[loss](p, q, **own)[0].mean()
    wanted.backward()
    assert value == pytest.approx(wanted.item(), rel=1e-12)
    np.testing.assert_allclose(vjp(), z.grad.numpy(), rtol=1e-9, atol=1e-15)


@pytest.mark.torch
def test_against_torchs_own_functions(rng):
    torch = pytest.importorskip("torch")
    student, teacher = rng.normal(size=(2, 7, 401)) * 2
    value, vjp = forward_kl(student, teacher, temperature=2.0)
    z = torch.tensor(student, requires_grad=True)
    log_q = torch.log_softmax(z / 2, dim=-1)
    loss = torch.nn.functional.kl_div(log_q, torch.softmax(torch.tensor(teacher) / 2, dim=-1), reduction="batchmean")
    loss.backward()
    assert value == pytest.approx(loss.item(), rel=1e-12)
    np.testing.assert_allclose(vjp(), z.grad.numpy(), rtol=1e-9, atol=1e-15)
