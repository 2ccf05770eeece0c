"""Which tokens count and how losses are reduced: the same for every loss."""

from functools import partial

import numpy as np
import pytest

from minikd.losses import (
    DIVERGENCES,
    cosine_logits,
    cross_entropy,
    decoupled_kd,
    distillation_loss,
    mse_logits,
    soft_cross_entropy,
    tokens,
    universal_logit_distance,
)

N_CLASSES = 41


def losses(rng, shape):
    """Each loss as a function of the student's logits, a slice of tokens, a mask and a reduction."""
    teacher, labels = rng.normal(size=(*shape, N_CLASSES)), rng.integers(0, N_CLASSES, size=shape)

    def on_pair(loss):
        return lambda z, at, **options: loss(z[at], teacher[at], **options)

    yield from map(on_pair, DIVERGENCES.values())
    yield from map(on_pair, (partial(soft_cross_entropy, temperature=3.0), universal_logit_distance))
    yield from map(on_pair, (mse_logits, cosine_logits))
    yield lambda z, at, **options: cross_entropy(z[at], labels[at], **options)
    yield lambda z, at, **options: decoupled_kd(z[at], teacher[at], labels[at], **options)
    alpha = rng.random(shape)
    yield lambda z, at, **options: distillation_loss(z[at], teacher[at], labels[at], alpha=alpha[at], **options)


def test_a_mean_is_over_the_tokens_that_count(rng):
    shape = (6, 5)
    student, mask = rng.normal(size=(*shape, N_CLASSES)), rng.random(shape) < 0.6
    for loss in losses(rng, shape):
        each, vjp_each = loss(student, ..., mask=mask, reduction="none")
        assert each.shape == shape and (each[~mask] == 0).all() and (each[mask] > 0).all()
        total, vjp_total = loss(student, ..., mask=mask, reduction="sum")
        mean, vjp_mean = loss(student, ..., mask=mask)
        assert total == pytest.approx(each.sum(), rel=1e-14)
        assert mean == pytest.approx(each.sum() / mask.sum(), rel=1e-14)
        gradient = vjp_mean(1.5)
        assert gradient.shape == student.shape and (gradient[~mask] == 0).all()
        np.testing.assert_allclose(gradient, 1.5 * vjp_total() / mask.sum(), rtol=1e-12)
        w = rng.normal(size=shape)
        np.testing.assert_allclose(vjp_each(w), w[..., None] * vjp_total(), rtol=1e-12)
        alone, _ = loss(student, mask)
        assert mean == pytest.approx(alone, rel=1e-13)


def test_parts_weighted_by_their_counts_give_the_whole(rng):
    shape = (7, 5)
    student, mask = rng.normal(size=(*shape, N_CLASSES)), rng.random(shape) < 0.5
    mask[2:4] = True
    for loss in losses(rng, shape):
        whole, vjp = loss(student, ..., mask=mask)
        gradient, value = np.zeros_like(student), 0.0
        for part in (slice(0, 3), slice(3, 7)):
            weight = mask[part].sum() / mask.sum()
            value_part, vjp_part = loss(student, part, mask=mask[part])
            value += weight * value_part
            gradient[part] = vjp_part(weight)
        assert value == pytest.approx(whole, rel=1e-13)
        np.testing.assert_allclose(gradient, vjp(), rtol=1e-11, atol=1e-18)


def test_tokens_that_do_not_count_may_hold_anything(rng):
    shape = (4, 3)
    student, mask = rng.normal(size=(*shape, N_CLASSES)), np.ones(shape, dtype=bool)
    mask[1], mask[3, 2] = False, False
    clean = [loss(student, ..., mask=mask) for loss in losses(np.random.default_rng(5), shape)]
    student[1, 0], student[1, 1], student[1, 2], student[3, 2] = np.nan, np.inf, -np.inf, 1e300
    dirty = [loss(student, ..., mask=mask) for loss in losses(np.random.default_rng(5), shape)]
    for (value, vjp), (value_dirty, vjp_dirty) in zip(clean, dirty, strict=True):
        assert value_dirty == value
        np.testing.assert_array_equal(vjp_dirty(), vjp())


def test_a_sum_over_no_token_is_zero_and_a_mean_an_error(rng):
    student, none = rng.normal(size=(2, 3, N_CLASSES)), np.zeros((2, 3), dtype=bool)
    for loss in losses(rng, (2, 3)):
        total, vjp = loss(student, ..., mask=none, reduction="sum")
        assert total == 0 and (vjp() == 0).all()
        with pytest.raises(ValueError, match="mean over no token"):
            loss(student, ..., mask=none)
        with pytest.raises(ValueError, match="mean over no token"):
            loss(student, slice(0, 0))


@pytest.mark.parametrize("dtype", [int, bool, complex, ">f8"])
def test_logits_of_another_type_are_refused(rng, dtype):
    for loss in losses(rng, (2, 3)):
        with pytest.raises(ValueError, match=r"logits are \S+ \(2, 3, 41\); wanted an array of type float16"):
            loss(np.ones((2, 3, N_CLASSES), dtype=dtype), ...)


def test_what_is_no_array_is_refused(rng):
    student = rng.normal(size=(2, 3, N_CLASSES))
    for loss in losses(rng, (2, 3)):
        for mask in (True, [[True] * 3] * 2):
            with pytest.raises(ValueError, match=r"mask is a (bool|list); wanted bool \(2, 3\)"):
                loss(student, ..., mask=mask)
    with pytest.raises(ValueError, match="teacher_logits are a list; wanted an array"):
        mse_logits(student, student.tolist())
    with pytest.raises(ValueError, match=r"labels are a list; wanted integers \(2, 3\)"):
        cross_entropy(student, [[0] * 3] * 2)
    for shape in ((), (2, 0)):
        with pytest.raises(ValueError, match=r"student_logits are float64 .*; wanted at least one axis"):
            universal_logit_distance(np.zeros(shape), np.zeros(shape))
        with pytest.raises(ValueError, match=r"logits are float64 .*; wanted at least one axis"):
            cross_entropy(np.zeros(shape), np.zeros(shape[:-1], dtype=int))


def test_block_size_changes_nothing(rng, monkeypatch):
    student = rng.normal(size=(40, N_CLASSES))
    mask = rng.random(40) < 0.8
    whole = [loss(student, ..., mask=mask) for loss in losses(np.random.default_rng(6), (40,))]
    for loss, (value, vjp) in zip(losses(np.random.default_rng(6), (40,)), whole, strict=True):
        with monkeypatch.context() as patch:
            patch.setattr(tokens, "HOST_BLOCK_BYTES", 3 * 8 * N_CLASSES)
            in_blocks, vjp_in_blocks = loss(student, ..., mask=mask)
        assert in_blocks == pytest.approx(value, rel=1e-14)
        np.testing.assert_allclose(vjp_in_blocks(), vjp(), rtol=1e-13)
