from functools import partial

import numpy as np
import pytest

from minikd.backend import to_host
from minikd.losses import total_variation, universal_logit_distance
from minikd.oracle import assert_vjp


def test_by_hand():
    student, teacher = np.log([[0.1, 0.6, 0.3]]), np.log([[0.25, 0.75]])
    value, vjp = universal_logit_distance(student, teacher)
    assert value == pytest.approx(abs(0.6 - 0.75) + abs(0.3 - 0.25) + 0.1, rel=1e-14)
    # slopes 1, -1, 1, whose mean under q is -0.2
    np.testing.assert_allclose(vjp(), [[0.1 * 1.2, -0.6 * 0.8, 0.3 * 1.2]], rtol=1e-13)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("size", "of_teacher"), [(1, 1), (1, 7), (11, 11), (17, 401), (401, 17)])
def test_vjp(rng, size, of_teacher, reduction):
    student, teacher, mask = (
        rng.normal(size=(2, 3, size)),
        rng.normal(size=(2, 3, of_teacher)),
        rng.random((2, 3)) < 0.7,
    )
    mask[0, 0] = True
    loss = partial(universal_logit_distance, temperature=3.0, mask=mask, reduction=reduction)
    assert_vjp(loss, student, teacher, wrt=0)


def test_the_order_of_a_vocabulary_does_not_matter(rng):
    student, teacher = rng.normal(size=(5, 41)), rng.normal(size=(5, 30))
    value, vjp = universal_logit_distance(student, teacher)
    order = rng.permutation(41)
    permuted, vjp_permuted = universal_logit_distance(student[:, order], rng.permuted(teacher, axis=-1))
    assert permuted == pytest.approx(value, rel=1e-14)
    np.testing.assert_allclose(vjp_permuted(), vjp()[:, order], rtol=1e-12, atol=1e-17)
    assert universal_logit_distance(student[:, order], student)[0] == 0


def test_among_sorted_logits_it_is_twice_the_total_variation(rng):
    student, teacher = np.sort(rng.normal(size=(2, 5, 41)))
    value, vjp = universal_logit_distance(student, teacher)
    wanted, vjp_wanted = total_variation(student, teacher)
    assert value == pytest.approx(2 * wanted, rel=1e-14)
    np.testing.assert_allclose(vjp(), 2 * vjp_wanted(), rtol=1e-12, atol=1e-17)


def test_minus_infinity(xp):
    student, teacher = np.array([[0.0, -np.inf, 0.0]]), np.array([[-np.inf, 0.0]])
    value, vjp = universal_logit_distance(xp.asarray(student), xp.asarray(teacher))
    assert to_host(value) == 1
    np.testing.assert_allclose(to_host(vjp()), [[-0.5, 0, 0.5]], atol=1e-15)  # of equals, the first counts as larger


def test_types(rng):
    student, teacher = rng.normal(size=(3, 41)), rng.normal(size=(3, 30))
    for dtype, computed in (("float16", "float32"), ("float32", "float32"), ("float64", "float64")):
        z, u = student.astype(dtype), teacher.astype(dtype)
        before = z.copy(), u.copy()
        value, vjp = universal_logit_distance(z, u)
        assert value.dtype == computed and vjp().dtype == vjp(np.float64(2)).dtype == dtype
        exact, _ = universal_logit_distance(z.astype(float), u.astype(float))
        assert value == pytest.approx(exact, rel=1e-6)
        np.testing.assert_array_equal(z, before[0])
        np.testing.assert_array_equal(u, before[1])
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    assert universal_logit_distance(student.astype(bfloat16), teacher.astype(bfloat16))[1]().dtype == bfloat16


def test_wrong_arguments():
    with pytest.raises(
        ValueError, match=r"student_logits are \(2, 5\), teacher_logits \(3, 4\); wanted the same tokens"
    ):
        universal_logit_distance(np.zeros((2, 5)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="temperature is 0"):
        universal_logit_distance(np.zeros((2, 5)), np.zeros((2, 4)), temperature=0)
    with pytest.raises(ValueError, match="-inf throughout"):
        universal_logit_distance(np.full((1, 3), -np.inf), np.zeros((1, 4)))


@pytest.mark.torch
def test_against_torch(rng):
    torch = pytest.importorskip("torch")
    student, teacher = rng.normal(size=(7, 401)) * 2, rng.normal(size=(7, 300)) * 2
    value, vjp = universal_logit_distance(student, teacher, temperature=2.0)
    z = torch.tensor(student, requires_grad=True)
    q, p = (torch.softmax(x / 2, dim=-1).sort(dim=-1, descending=True).values for x in (z, torch.tensor(teacher)))
    wanted = (q - torch.nn.functional.pad(p, (0, 101))).abs().sum(-1).mean()
    wanted.backward()
    assert value == pytest.approx(wanted.item(), rel=1e-12)
    np.testing.assert_allclose(vjp(), z.grad.numpy(), rtol=1e-9, atol=1e-15)
