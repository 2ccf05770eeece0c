from functools import partial

import numpy as np
import pytest

from minikd.losses import cross_entropy, distillation_loss, forward_kl, js, reverse_kl
from minikd.oracle import assert_vjp


@pytest.fixture
def batch(rng):
    """Student's and teacher's logits and labels, one of which does not count."""
    student, teacher = rng.normal(size=(2, 4, 5, 41)) * 2
    labels = rng.integers(0, 41, size=(4, 5))
    labels[1, 3] = -100
    return student, teacher, labels


@pytest.mark.parametrize("alpha", [0, 0.3, 1.0])
def test_is_the_mix_with_temperature_squared(batch, alpha):
    student, teacher, labels = batch
    for divergence in (forward_kl, reverse_kl, js):
        loss, vjp = distillation_loss(student, teacher, labels, alpha=alpha, temperature=3.0, divergence=divergence)
        soft, vjp_soft = divergence(student, teacher, temperature=3.0, mask=labels >= 0)
        hard, vjp_hard = cross_entropy(student, labels)
        assert loss == pytest.approx(alpha * 9 * soft + (1 - alpha) * hard, rel=1e-14)
        np.testing.assert_allclose(vjp(2.0), vjp_soft(2.0 * 9 * alpha) + vjp_hard(2 * (1 - alpha)), rtol=1e-11)


def test_defaults(batch):
    student, teacher, labels = batch
    soft, hard = forward_kl(student, teacher, temperature=2.0, mask=labels >= 0)[0], cross_entropy(student, labels)[0]
    assert distillation_loss(student, teacher, labels)[0] == pytest.approx(2 * soft + 0.5 * hard, rel=1e-14)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_vjp(rng, batch, reduction):
    student, teacher, labels = batch
    for alpha in (0.0, 0.4, 1.0, rng.random((4, 5))):
        loss = partial(distillation_loss, alpha=alpha, temperature=3.0, divergence=js, reduction=reduction)
        assert_vjp(loss, student, teacher, labels, wrt=0)


def test_alpha_for_each_token(rng, batch):
    student, teacher, labels = batch
    alpha = rng.random((4, 5))
    alpha[0], alpha[2] = 0, 1
    loss, vjp = distillation_loss(student, teacher, labels, alpha=alpha, reduction="none")
    for i, j in np.ndindex(4, 5):
        at = (slice(i, i + 1), slice(j, j + 1))
        wanted, vjp_wanted = distillation_loss(
            student[at], teacher[at], labels[at], alpha=alpha[i, j], reduction="none"
        )
        assert loss[i, j] == pytest.approx(wanted[0, 0], rel=1e-14)
        np.testing.assert_allclose(vjp()[at], vjp_wanted(), rtol=1e-12, atol=1e-17)


def test_alpha_as_a_function_of_the_logits(batch):
    student, teacher, labels = batch
    seen = []

    def where_the_teacher_is_better(student_logits, teacher_logits, labels):
        seen.append((student_logits, teacher_logits, labels))
        own, theirs = (cross_entropy(x, labels, reduction="none")[0] for x in (student_logits, teacher_logits))
        return 0.7 * (theirs < own)

    loss, vjp = distillation_loss(student, teacher, labels, alpha=where_the_teacher_is_better)
    assert all(a is b for a, b in zip(seen[0], batch, strict=True))
    alpha = where_the_teacher_is_better(*batch)
    assert set(np.unique(alpha)) == {0, 0.7}
    wanted, vjp_wanted = distillation_loss(student, teacher, labels, alpha=alpha)
    assert loss == wanted
    np.testing.assert_array_equal(vjp(), vjp_wanted())


def test_a_token_without_soft_labels_is_not_shown_to_the_divergence(batch):
    """An infinite divergence of weight 0 is 0, not NaN."""
    student, teacher, labels = batch
    student[0, 0, 7] = -np.inf
    labels[0, 0] = 3
    alpha = np.full((4, 5), 0.5)
    assert distillation_loss(student, teacher, labels, alpha=alpha)[0] == np.inf
    alpha[0, 0] = 0
    loss, vjp = distillation_loss(student, teacher, labels, alpha=alpha)
    assert np.isfinite(loss) and np.isfinite(vjp()).all()
    assert distillation_loss(student, teacher, labels, alpha=0)[0] == cross_entropy(student, labels)[0]


def test_any_function_with_the_signature_serves_as_divergence(batch):
    student, teacher, labels = batch

    def squared(student_logits, teacher_logits, *, temperature, mask, reduction, power):
        assert (temperature, reduction, power) == (2.0, "none", 2)
        difference = np.where(mask[..., None], student_logits - teacher_logits, 0)
        return (difference**power).sum(axis=-1), lambda w: 2 * difference * w[..., None]

    loss, vjp = distillation_loss(student, teacher, labels, alpha=1.0, divergence=partial(squared, power=2))
    counted = labels >= 0
    wanted = 4 * ((student - teacher)[counted] ** 2).sum() / counted.sum()
    assert loss == pytest.approx(wanted, rel=1e-14)
    np.testing.assert_allclose(vjp(), 8 * (student - teacher) * counted[..., None] / counted.sum(), rtol=1e-13)


def test_float32_stays_float32(rng, batch):
    student, teacher, labels = batch[0].astype("float32"), batch[1].astype("float32"), batch[2]
    exact, vjp_exact = distillation_loss(*batch, temperature=1.7)
    for alpha in (0.5, np.float64(0.5), np.full((4, 5), 0.5)):
        loss, vjp = distillation_loss(student, teacher, labels, alpha=alpha, temperature=np.float64(1.7))
        assert loss.dtype == vjp().dtype == vjp(np.float64(2)).dtype == "float32"
        assert loss == pytest.approx(exact, rel=1e-6)
        np.testing.assert_allclose(vjp(), vjp_exact(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extreme_temperatures_have_a_square(batch, dtype):
    student, teacher, labels = batch[0].astype(dtype), batch[1].astype(dtype), batch[2]
    for temperature in (1e-15, 1e15):
        loss, vjp = distillation_loss(student, teacher, labels, temperature=temperature)
        assert loss > 0 and np.isfinite(loss) and np.isfinite(vjp()).all()
    for temperature in (5e-324, 1e-300, 1e38, 1e300):
        with pytest.raises(ValueError, match=r"temperature is .*; wanted a number from 1e-15"):
            distillation_loss(student, teacher, labels, temperature=temperature)


def test_wrong_arguments(batch):
    student, teacher, labels = batch
    for alpha in (-0.1, 1.1, np.nan, np.full((4, 5), 2.0), lambda *logits: np.full((4, 5), -1.0)):
        with pytest.raises(ValueError, match=r"alpha is .*; wanted a number in \[0, 1\]"):
            distillation_loss(student, teacher, labels, alpha=alpha)
    with pytest.raises(ValueError, match=r"alpha has shape \(5,\); wanted a number, or one for each token \(4, 5\)"):
        distillation_loss(student, teacher, labels, alpha=np.zeros(5))
    for alpha in (0, 0.5):
        with pytest.raises(ValueError, match="temperature is 0;"):
            distillation_loss(student, teacher, labels, alpha=alpha, temperature=0)
        with pytest.raises(ValueError, match=r"vocabulary has 41 .* 40"):
            distillation_loss(student, teacher[..., 1:], labels, alpha=alpha)
        with pytest.raises(ValueError, match="mean over no token"):
            distillation_loss(student, teacher, labels, alpha=alpha, mask=np.zeros((4, 5), dtype=bool))
    with pytest.raises(ValueError, match=r"labels are int64 \(5,\)"):
        distillation_loss(student, teacher, labels[0])


@pytest.mark.torch
def test_against_torch(batch):
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    student, teacher, labels = batch
    loss, vjp = distillation_loss(student, teacher, labels, alpha=0.3, temperature=2.0)
    z, u, y = torch.tensor(student, requires_grad=True), torch.tensor(teacher), torch.tensor(labels)
    counted = y >= 0
    soft = f.kl_div(f.log_softmax(z / 2, -1)[counted], f.softmax(u / 2, -1)[counted], reduction="batchmean")
    wanted = 0.3 * 4 * soft + 0.7 * f.cross_entropy(z[counted], y[counted])
    wanted.backward()
    assert loss == pytest.approx(wanted.item(), rel=1e-12)
    np.testing.assert_allclose(vjp(), z.grad.numpy(), rtol=1e-9, atol=1e-16)
