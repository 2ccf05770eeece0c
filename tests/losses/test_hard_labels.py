import math
from functools import partial

import numpy as np
import pytest

from minikd.backend import to_host
from minikd.losses import cross_entropy
from minikd.oracle import assert_vjp


def test_by_hand():
    logits, labels = np.log([[1.0, 2.0, 5.0], [3.0, 3.0, 2.0]]), np.array([2, 0])
    loss, vjp = cross_entropy(logits, labels)
    assert loss == pytest.approx(-(math.log(5 / 8) + math.log(3 / 8)) / 2, rel=1e-15)
    np.testing.assert_allclose(vjp(), np.array([[1, 2, -3], [-5, 3, 2]]) / 16, rtol=1e-14)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(1,), (1, 1), (3, 41), (2, 5, 401)])
def test_vjp(rng, shape, reduction):
    labels = np.asarray(rng.integers(0, shape[-1], size=shape[:-1]))
    assert_vjp(partial(cross_entropy, reduction=reduction), rng.normal(size=shape) * 3, labels)


def test_vjp_with_ignored_labels_and_logits_that_are_not_contiguous(rng):
    logits, labels = rng.normal(size=(41, 6, 5)).T, rng.integers(0, 41, size=(5, 6))
    labels[rng.random((5, 6)) < 0.3] = -100
    assert_vjp(cross_entropy, logits, labels)
    assert_vjp(partial(cross_entropy, mask=rng.random((5, 6)) < 0.7), logits, labels)


def test_ignored_labels_and_the_mask_both_leave_tokens_out(rng):
    logits, labels = rng.normal(size=(6, 41)), rng.integers(0, 41, size=6)
    labels[2] = -100
    mask = np.array([True, False, True, True, True, True])
    loss, vjp = cross_entropy(logits, labels, mask=mask)
    kept = [0, 3, 4, 5]
    assert loss == pytest.approx(cross_entropy(logits[kept], labels[kept])[0], rel=1e-15)
    assert (vjp()[[1, 2]] == 0).all() and (vjp()[kept] != 0).any(axis=-1).all()
    assert cross_entropy(logits, labels, mask=mask, reduction="none")[0][2] == 0


def test_minus_infinity(xp):
    logits = xp.asarray(np.array([[-np.inf, 0.0, 0.0], [0.0, 0.0, -np.inf]]))
    loss, vjp = cross_entropy(logits, xp.asarray(np.array([0, 0])), reduction="none")
    np.testing.assert_allclose(to_host(loss), [np.inf, math.log(2)], rtol=1e-15)
    np.testing.assert_allclose(to_host(vjp()), [[-1, 0.5, 0.5], [-0.5, 0.5, 0]], rtol=1e-15)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_types(rng, dtype):
    logits, labels = (3 * rng.normal(size=(300, 401))).astype(dtype), rng.integers(0, 401, size=300)
    for label_type in (np.int32, np.uint16, np.int64):
        loss, vjp = cross_entropy(logits, labels.astype(label_type))
        assert loss.dtype == ("float64" if dtype == "float64" else "float32") and vjp().dtype == dtype
    exact, vjp_exact = cross_entropy(logits.astype(float), labels)
    assert loss == pytest.approx(exact, rel=1e-6)
    np.testing.assert_allclose(vjp(), vjp_exact(), rtol=2e-6 if dtype != "float16" else 1e-3, atol=1e-7)


def test_inputs_stay_and_the_pullback_can_be_called_again(rng):
    logits, labels = rng.normal(size=(50, 401)).astype("float32"), rng.integers(0, 401, size=50)
    before = logits.copy()
    _, vjp = cross_entropy(logits, labels)
    first = vjp()
    kept = first.copy()
    first *= 0
    np.testing.assert_array_equal(vjp(), kept)
    np.testing.assert_array_equal(logits, before)


def test_the_same_on_both_devices(rng, gpu_xp):
    logits, labels = rng.normal(size=(3, 5, 41)).astype("float32"), rng.integers(0, 41, size=(3, 5))
    labels[1, 2:] = -100
    loss, vjp = cross_entropy(gpu_xp.asarray(logits), gpu_xp.asarray(labels))
    wanted, vjp_wanted = cross_entropy(logits, labels)
    np.testing.assert_allclose(to_host(loss), wanted, rtol=1e-6)
    np.testing.assert_allclose(to_host(vjp()), vjp_wanted(), rtol=1e-5, atol=1e-9)


def test_wrong_arguments():
    logits = np.zeros((2, 3, 5))
    labels = np.zeros((2, 3), dtype=np.int64)
    with pytest.raises(ValueError, match=r"labels are int64 \(2, 4\); wanted integers \(2, 3\)"):
        cross_entropy(logits, np.zeros((2, 4), dtype=np.int64))
    with pytest.raises(ValueError, match=r"labels are float64 \(2, 3\); wanted integers"):
        cross_entropy(logits, labels.astype(float))
    for wrong in (5, -1, -99, 1000):
        bad = labels.copy()
        bad[1, 2] = wrong
        with pytest.raises(ValueError, match=rf"labels\[1, 2\] is {wrong}; wanted 0 to 4, or -100"):
            cross_entropy(logits, bad)
    with pytest.raises(ValueError, match="mean over no token"):
        cross_entropy(logits, labels - 100)
    with pytest.raises(ValueError, match="reduction is 'avg'"):
        cross_entropy(logits, labels, reduction="avg")


@pytest.mark.torch
def test_against_torch(rng):
    torch = pytest.importorskip("torch")
    logits, labels = rng.normal(size=(2, 7, 401)) * 3, rng.integers(0, 401, size=(2, 7))
    labels[0, :3] = -100
    loss, vjp = cross_entropy(logits, labels)
    z = torch.tensor(logits, requires_grad=True)
    wanted = torch.nn.functional.cross_entropy(z.reshape(-1, 401), torch.tensor(labels).reshape(-1))
    wanted.backward()
    assert loss == pytest.approx(wanted.item(), rel=1e-13)
    np.testing.assert_allclose(vjp(), z.grad.numpy(), rtol=1e-10, atol=1e-17)
