from functools import partial

import numpy as np
import pytest

from minikd.backend import to_host
from minikd.losses import (
    DIVERGENCES,
    cross_entropy,
    distillation_loss,
    linear,
    linear_cross_entropy,
    linear_distillation_loss,
)
from minikd.oracle import assert_vjp
from minikd.workers import Workers

N_CLASSES = 41


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(linear, "FEWEST_TOKENS", 6)
    monkeypatch.setattr(linear, "BLOCK_BYTES", 0)
    monkeypatch.setattr(linear, "PRODUCT_BYTES", 10 * 8 * 7)


@pytest.fixture
def batch(rng):
    """Hidden states and output weights of a student (7 wide) and a teacher (9 wide), and labels."""
    labels = rng.integers(0, N_CLASSES, size=(4, 5))
    labels[1, 3] = -100
    return (
        rng.normal(size=(4, 5, 7)),
        rng.normal(size=(N_CLASSES, 7)),
        rng.normal(size=(4, 5, 9)),
        rng.normal(size=(N_CLASSES, 9)) * 0.5,
        labels,
    )


def plain(loss, hidden, weight, w):
    """Value and gradients of loss(hidden @ weight.T), all logits at once."""
    value, vjp = loss(hidden @ weight.T)
    dlogits = vjp(w)
    return value, dlogits @ weight, np.einsum("btv,btc->vc", dlogits, hidden)


def assert_same(fused, wanted, rtol=1e-12):
    for a, b in zip(fused, wanted, strict=True):
        assert np.linalg.norm(a - b) <= rtol * np.linalg.norm(b)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("masked", [False, True])
def test_cross_entropy_equals_the_plain_form(rng, batch, masked, reduction):
    hidden, weight, _, _, labels = batch
    mask = rng.random((4, 5)) < 0.5 if masked else None
    options = {"mask": mask, "reduction": reduction}
    loss, vjp = linear_cross_entropy(hidden, weight, labels, **options)
    wanted = plain(lambda logits: cross_entropy(logits, labels, **options), hidden, weight, 1.5)
    assert_same((loss, *vjp(1.5)), wanted)


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_distillation_equals_the_plain_form(rng, batch, name, reduction):
    hidden, weight, teacher_hidden, teacher_weight, labels = batch

    def follow_the_better(student_logits, teacher_logits, labels):
        own, theirs = (cross_entropy(x, labels, reduction="none")[0] for x in (student_logits, teacher_logits))
        return 0.7 * (theirs < own)

    for alpha in (0, 0.4, 1, rng.random((4, 5)), follow_the_better):
        options = {
            "alpha": alpha,
            "temperature": 3.0,
            "divergence": DIVERGENCES[name],
            "mask": rng.random((4, 5)) < 0.7,
            "reduction": reduction,
        }
        loss, vjp = linear_distillation_loss(*batch, **options)
        teacher_logits = teacher_hidden @ teacher_weight.T
        mixed = partial(distillation_loss, teacher_logits=teacher_logits, labels=labels, **options)
        assert_same((loss, *vjp(1.5)), plain(mixed, hidden, weight, 1.5))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_share_the_work(rng, batch, threads):
    mask = rng.random((4, 5)) < 0.7
    hidden, weight, *_, labels = batch
    for fused, arrays in ((linear_distillation_loss, batch), (linear_cross_entropy, (hidden, weight, labels))):
        loss, vjp = fused(*arrays, mask=mask)
        with Workers(threads) as workers:
            shared, shared_vjp = fused(*arrays, mask=mask, workers=workers)
        assert_same((shared, *shared_vjp(1.5)), (loss, *vjp(1.5)), rtol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("name", [None, "forward_kl", "reverse_kl", "js", "skew_forward_kl", "skew_reverse_kl"])
def test_a_large_vocabulary(rng, name):
    """None: the cross-entropy alone."""
    n_classes = 128_256
    hidden, teacher_hidden = rng.normal(size=(2, 7, 7)), rng.normal(size=(2, 7, 9))
    weight, teacher_weight = rng.normal(size=(n_classes, 7)), rng.normal(size=(n_classes, 9))
    labels = rng.integers(0, n_classes, size=(2, 7))
    if name is None:
        loss, vjp = linear_cross_entropy(hidden, weight, labels)
        wanted = plain(lambda logits: cross_entropy(logits, labels), hidden, weight, 1.5)
    else:
        options = {"alpha": 0.7, "divergence": DIVERGENCES[name]}
        loss, vjp = linear_distillation_loss(hidden, weight, teacher_hidden, teacher_weight, labels, **options)
        teacher_logits = teacher_hidden @ teacher_weight.T
        mixed = partial(distillation_loss, teacher_logits=teacher_logits, labels=labels, **options)
        wanted = plain(mixed, hidden, weight, 1.5)
    assert_same((loss, *vjp(1.5)), wanted)


def test_vjp(batch):
    assert_vjp(linear_cross_entropy, *batch[:2], batch[-1])
    assert_vjp(partial(linear_distillation_loss, alpha=0.4), *batch, wrt=(0, 1))


def test_never_more_than_a_block_of_logits(batch, monkeypatch):
    sizes = []

    def watched(student_logits, teacher_logits, **options):
        sizes.append(student_logits.shape)
        return DIVERGENCES["forward_kl"](student_logits, teacher_logits, **options)

    linear_distillation_loss(*batch, divergence=watched)
    assert sizes == [(6, N_CLASSES)] * 3 + [(2, N_CLASSES)]


def test_without_a_use_for_the_teacher_its_logits_are_not_computed(batch):
    hidden, weight, teacher_hidden, teacher_weight, labels = batch
    loss, _ = linear_distillation_loss(hidden, weight, teacher_hidden * np.nan, teacher_weight, labels, alpha=0.0)
    assert loss == linear_cross_entropy(hidden, weight, labels)[0]


def test_the_pullback_can_be_called_again(batch):
    _, vjp = linear_distillation_loss(*batch)
    first = vjp()
    kept = [x.copy() for x in first]
    for x in first:
        x *= 0
    assert_same(vjp(), kept, rtol=0)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_types(batch, dtype):
    *arrays, labels = batch
    short = [x.astype(dtype) for x in arrays]
    loss, vjp = linear_distillation_loss(*short, labels)
    exact, vjp_exact = linear_distillation_loss(*(x.astype(float) for x in short), labels)
    assert loss.dtype == "float32" and [x.dtype for x in vjp()] == [dtype, dtype]
    assert_same((loss, *vjp()), (exact, *vjp_exact()), rtol=1e-6 if dtype == "float32" else 2e-3)


def test_the_same_on_both_devices(batch, gpu_xp):
    wanted, vjp_wanted = linear_distillation_loss(*batch, alpha=0.3)
    loss, vjp = linear_distillation_loss(*map(gpu_xp.asarray, batch), alpha=0.3)
    assert_same(map(to_host, (loss, *vjp())), (wanted, *vjp_wanted()))


def test_wrong_arguments(batch):
    hidden, weight, teacher_hidden, teacher_weight, labels = batch
    with pytest.raises(ValueError, match=r"hidden is \(4, 5, 7\), weight \(41, 9\); wanted"):
        linear_cross_entropy(hidden, teacher_weight, labels)
    with pytest.raises(ValueError, match=r"hidden is int64 \(4, 5, 7\); wanted an array of type float16"):
        linear_cross_entropy(hidden.astype(int), weight, labels)
    with pytest.raises(ValueError, match=r"teacher_weight is int64 \(41, 9\); wanted an array of type float16"):
        linear_distillation_loss(hidden, weight, teacher_hidden, teacher_weight.astype(int), labels)
    with pytest.raises(ValueError, match=r"labels are int64 \(5,\); wanted integers \(4, 5\)"):
        linear_cross_entropy(hidden, weight, labels[0])
    with pytest.raises(ValueError, match=r"labels\[3, 4\] is 41"):
        linear_cross_entropy(hidden, weight, np.where(np.arange(20).reshape(4, 5) == 19, 41, labels))
    with pytest.raises(ValueError, match="reduction is 'none'; wanted 'mean' or 'sum'"):
        linear_cross_entropy(hidden, weight, labels, reduction="none")
    with pytest.raises(ValueError, match="mean over no token"):
        linear_cross_entropy(hidden, weight, labels, mask=np.zeros((4, 5), dtype=bool))
    with pytest.raises(ValueError, match=r"student's vocabulary has 41 .* teacher's 40"):
        linear_distillation_loss(hidden, weight, teacher_hidden, teacher_weight[1:], labels)
    with pytest.raises(ValueError, match=r"teacher_hidden \(3, 5, 9\); wanted the same tokens"):
        linear_distillation_loss(hidden, weight, teacher_hidden[1:], teacher_weight, labels)
    for alpha, message in ((2, "alpha is 2"), (np.zeros((5, 4)), r"alpha has shape \(5, 4\)")):
        with pytest.raises(ValueError, match=message):
            linear_distillation_loss(*batch, alpha=alpha)
    with pytest.raises(ValueError, match="temperature is 0"):
        linear_distillation_loss(*batch, alpha=0, temperature=0)
