from functools import partial

import numpy as np
import pytest

from minikd.backend import to_host
from minikd.losses import cosine_logits, mse_logits
from minikd.oracle import assert_vjp

INF = np.inf
both = pytest.mark.parametrize("loss", [mse_logits, cosine_logits])


def test_by_hand():
    student, teacher = np.array([[3.0, 4.0]]), np.array([[0.0, 2.0]])
    value, vjp = mse_logits(student, teacher)
    assert value == (9 + 4) / 2
    np.testing.assert_array_equal(vjp(), [[3, 2]])
    value, vjp = cosine_logits(student, teacher)
    assert value == pytest.approx(1 - 0.8, rel=1e-15)
    # u is 2 (0, 1), of which (-0.48, 0.36) is at right angles to z
    np.testing.assert_allclose(vjp(), [[0.48 / 5, -0.36 / 5]], rtol=1e-14)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(2,), (1, 1), (3, 41), (2, 5, 401)])
@both
def test_vjp(rng, loss, shape, reduction):
    student, teacher = rng.normal(size=(2, *shape))
    if shape == (1, 1) and loss is cosine_logits:
        pytest.skip("of one logit, the cosine is 1 or -1")
    mask = np.asarray(rng.random(shape[:-1]) < 0.6)
    mask[...] |= not mask.any()
    assert_vjp(partial(loss, reduction=reduction, mask=mask), student, teacher, wrt=0)


@both
def test_zero_where_both_are_the_same(rng, loss):
    for dtype in ("float64", "float32"):
        logits = rng.normal(size=(9, 401)).astype(dtype)
        logits[1, ::3] = -INF
        value, vjp = loss(logits, logits, reduction="none")
        assert (value == 0).all() and (vjp() == 0).all()


def test_the_cosine_ignores_lengths(rng):
    student, teacher = rng.normal(size=(2, 5, 41))
    value, vjp = cosine_logits(student, teacher)
    for size in (1e-200, 3.0, 1e200):
        longer, vjp_longer = cosine_logits(student * size, teacher * 7)
        assert longer == pytest.approx(value, rel=1e-14)
        np.testing.assert_allclose(vjp_longer() * size, vjp(), rtol=1e-12, atol=1e-18)
    assert cosine_logits(student, -student)[0] == pytest.approx(2, rel=1e-15)
    assert cosine_logits(student, 2 * student)[0] == 0


def test_the_smallest_angle():
    value, vjp = cosine_logits(np.array([[1 / 3, 1e-99]]), np.array([[0.1, 0.0]]))
    assert value == pytest.approx(4.5e-198, rel=1e-15)
    np.testing.assert_allclose(vjp()[0, 1], 9e-99, rtol=1e-15)


@both
def test_minus_infinity_on_both_sides_takes_no_part(rng, xp, loss):
    student, teacher = rng.normal(size=(2, 4, 41))
    empty = np.arange(41) % 4 == 1
    student[:, empty] = teacher[:, empty] = -INF
    value, vjp = loss(xp.asarray(student), xp.asarray(teacher))
    alone, vjp_alone = loss(student[:, ~empty], teacher[:, ~empty])
    share = (~empty).mean() if loss is mse_logits else 1  # a mean over V, of which these are a part
    assert to_host(value) == pytest.approx(alone * share, rel=1e-14)
    gradient = to_host(vjp())
    assert (gradient[:, empty] == 0).all()
    np.testing.assert_allclose(gradient[:, ~empty], vjp_alone() * share, rtol=1e-12)


def test_minus_infinity_on_one_side(xp):
    infinite, finite = np.array([[-INF, 3.0, 0.0]]), np.array([[2.0, 1.0, 2.0]])
    value, vjp = mse_logits(xp.asarray(infinite), xp.asarray(finite))
    assert to_host(value) == INF
    np.testing.assert_allclose(to_host(vjp()), [[-INF, 4 / 3, -4 / 3]])
    assert to_host(mse_logits(xp.asarray(finite), xp.asarray(infinite))[1]())[0, 0] == INF
    value, vjp = cosine_logits(xp.asarray(infinite), xp.asarray(finite))  # (-1, 0, 0) in the limit
    assert to_host(value) == pytest.approx(1 + 2 / 3, rel=1e-15)
    assert (to_host(vjp()) == 0).all()
    value, vjp = cosine_logits(xp.asarray(finite), xp.asarray(infinite))
    assert to_host(value) == pytest.approx(1 + 2 / 3, rel=1e-15)
    _, vjp_near = cosine_logits(finite, np.array([[-1e12, 3.0, 0.0]]))
    np.testing.assert_allclose(to_host(vjp()), vjp_near(), rtol=1e-10)


def test_without_a_direction_there_is_no_angle(xp):
    nothing, something = xp.asarray(np.zeros((1, 3))), xp.asarray(np.array([[1.0, 2.0, 3.0]]))
    for student, teacher in ((nothing, something), (something, nothing), (nothing, nothing)):
        value, vjp = cosine_logits(student, teacher)
        assert to_host(value) == 1 and (to_host(vjp()) == 0).all()


@both
def test_types(rng, loss):
    logits = rng.normal(size=(2, 3, 41))
    for dtype, computed in (("float16", "float32"), ("float32", "float32"), ("float64", "float64")):
        student, teacher = logits.astype(dtype)
        value, vjp = loss(student, teacher)
        assert value.dtype == computed and vjp().dtype == vjp(np.float64(2)).dtype == dtype
        exact, _ = loss(student.astype(float), teacher.astype(float))
        assert value == pytest.approx(exact, rel=1e-6)


@both
def test_wrong_arguments(loss):
    logits = np.zeros((2, 3, 5))
    with pytest.raises(ValueError, match=r"student's vocabulary has 5 .* teacher's 4"):
        loss(logits, np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match="reduction is 'average'"):
        loss(logits, logits, reduction="average")
    with pytest.raises(ValueError, match="mean over no token"):
        loss(logits, logits, mask=np.zeros((2, 3), dtype=bool))


@pytest.mark.torch
@both
def test_against_torch(rng, loss):
    torch = pytest.importorskip("torch")
    student, teacher = rng.normal(size=(2, 7, 401)) * 2
    value, vjp = loss(student, teacher)
    z, u = torch.tensor(student, requires_grad=True), torch.tensor(teacher)
    f = torch.nn.functional
    wanted = f.mse_loss(z, u) if loss is mse_logits else (1 - f.cosine_similarity(z, u, dim=-1)).mean()
    wanted.backward()
    assert value == pytest.approx(wanted.item(), rel=1e-12)
    np.testing.assert_allclose(vjp(), z.grad.numpy(), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("bad", [np.nan, INF])
@both
def test_what_is_not_a_number_stays_so(rng, loss, bad):
    for sides in ([0], [1], [0, 1]):
        logits = rng.normal(size=(2, 3, 7))
        logits[:, 1, 3] = -INF
        logits[sides, 1, 0] = bad
        losses, vjp = loss(*logits, reduction="none")
        assert not np.isfinite(losses[1])
        assert np.isfinite(losses[[0, 2]]).all()
        assert np.isfinite(vjp(np.ones(3))[[0, 2]]).all()
