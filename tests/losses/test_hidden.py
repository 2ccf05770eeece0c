from functools import partial

import numpy as np
import pytest

from minikd.backend import to_host
from minikd.losses import forward_kl
from minikd.losses.hidden import attention_transfer, cosine_hidden, mse_hidden, relation_kd
from minikd.oracle import assert_vjp
from tests.strict_array import assert_runs_on_strict

LOSSES = {
    "mse_hidden": mse_hidden,
    "cosine_hidden": cosine_hidden,
    "attention_transfer": attention_transfer,
    "relation_kd": partial(relation_kd, n_head=3),
}
all_losses = pytest.mark.parametrize("loss", LOSSES.values(), ids=list(LOSSES))
by_token = pytest.mark.parametrize("loss", [mse_hidden, cosine_hidden])
by_sequence = pytest.mark.parametrize("loss", [attention_transfer, partial(relation_kd, n_head=3)])


@pytest.fixture
def batch(rng):
    """Features of student and teacher, equally wide."""
    return rng.normal(size=(2, 4, 5, 12))


def test_by_hand():
    student, teacher = np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[4.0, 3.0], [-2.0, 0.0]])
    loss, vjp = mse_hidden(student, teacher)
    assert loss == pytest.approx((1 + 4.5) / 2, rel=1e-15)
    np.testing.assert_allclose(vjp(), np.array([[-1, 1], [3, 0]]) / 2, rtol=1e-15)
    loss, vjp = cosine_hidden(student, teacher, reduction="none")
    np.testing.assert_allclose(loss, [1 - 24 / 25, 2], rtol=1e-14)
    np.testing.assert_allclose(vjp(np.ones(2)), [[(0.96 * 0.6 - 0.8) / 5, (0.96 * 0.8 - 0.6) / 5], [0, 0]], atol=1e-15)
    loss, _ = attention_transfer(student[None], teacher[None])  # maps (25, 1) and (25, 4)
    assert loss == pytest.approx(1 - 629 / np.sqrt(626 * 641), rel=1e-12)


def test_relations_by_hand():
    """Two tokens at right angles for the teacher, two equal ones for the student; one head of two channels."""
    teacher, student = np.array([[[1.0, 0], [0, 1]]]), np.array([[[1.0, 0], [1, 0]]])
    loss, _ = relation_kd(student, teacher, n_head=1)
    p = 1 / (1 + np.exp(-1 / np.sqrt(2)))
    assert loss == pytest.approx(p * np.log(2 * p) + (1 - p) * np.log(2 * (1 - p)), rel=1e-14)


@all_losses
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_vjp(rng, batch, loss, reduction):
    student, teacher = batch[:, :2, :4, ::2]  # not contiguous
    mask = rng.random((2, 4)) < 0.6
    mask[0] = False
    assert_vjp(partial(loss, reduction=reduction), student, teacher, wrt=0)
    assert_vjp(partial(loss, mask=mask, reduction=reduction), student, teacher, wrt=0)


@by_token
def test_vjp_with_a_projection(rng, batch, loss):
    student, projection, teacher = rng.normal(size=(2, 5, 3)), rng.normal(size=(3, 12)), batch[1, :2]
    assert_vjp(loss, student, teacher, projection, wrt=(0, 2))
    assert_vjp(partial(loss, mask=np.arange(10).reshape(2, 5) % 3 > 0), student, teacher, projection, wrt=(0, 2))
    value, vjp = loss(student, teacher, projection)
    wanted, vjp_wanted = loss(student @ projection, teacher)
    assert value == pytest.approx(wanted, rel=1e-14)
    np.testing.assert_allclose(vjp()[0], vjp_wanted() @ projection.T, rtol=1e-12, atol=1e-17)


@by_sequence
def test_the_teacher_may_have_another_width(rng, batch, loss):
    assert_vjp(loss, batch[0, :2], rng.normal(size=(2, 5, 18)), wrt=0)


@by_sequence
def test_a_single_sequence_and_several_axes_of_sequences(rng, loss):
    student, teacher = rng.normal(size=(2, 2, 3, 4, 3))
    assert_vjp(loss, student, teacher, wrt=0)
    each, _ = loss(student, teacher, reduction="none")
    alone, _ = loss(student[1, 2], teacher[1, 2], reduction="none")
    np.testing.assert_allclose(each[1, 2], alone, rtol=1e-13)


@all_losses
def test_zero_where_both_are_the_same_and_above_zero_nearby(rng, batch, loss):
    teacher = batch[1]
    value, vjp = loss(teacher, teacher)
    assert value == 0 and (vjp() == 0).all()
    near, _ = loss(teacher + 1e-9 * batch[0], teacher)
    nearer, _ = loss(teacher + 1e-10 * batch[0], teacher)
    assert near == pytest.approx(100 * nearer, rel=1e-3)


@by_token
def test_tokens_that_do_not_count_may_hold_anything(rng, batch, loss, xp):
    student, teacher = batch
    projection = rng.normal(size=(12, 12))
    mask = rng.random((4, 5)) < 0.6
    wanted, vjp_wanted = loss(student[mask], teacher[mask], projection)
    student[~mask], teacher[~mask] = np.nan, np.inf
    value, vjp = loss(*map(xp.asarray, (student, teacher, projection)), mask=xp.asarray(mask))
    assert to_host(value) == pytest.approx(wanted, rel=1e-13)
    dstudent, dprojection = map(to_host, vjp())
    np.testing.assert_allclose(dstudent[mask], vjp_wanted()[0], rtol=1e-11, atol=1e-17)
    np.testing.assert_allclose(dprojection, vjp_wanted()[1], rtol=1e-11, atol=1e-17)
    assert (dstudent[~mask] == 0).all()


@by_sequence
def test_padding_is_as_if_it_were_not_there(batch, loss, xp):
    """Neither query nor key nor a place in the map; a sequence of padding alone does not count."""
    student, teacher = batch
    lengths = [5, 3, 0, 1]
    mask = np.arange(5) < np.array(lengths)[:, None]
    alone = [loss(student[i : i + 1, :n], teacher[i : i + 1, :n], reduction="sum") for i, n in enumerate(lengths) if n]
    n_losses = 3 if loss is attention_transfer else mask.sum()
    student[~mask], teacher[~mask] = np.nan, np.inf
    value, vjp = loss(xp.asarray(student), xp.asarray(teacher), mask=xp.asarray(mask))
    assert to_host(value) == pytest.approx(sum(value for value, _ in alone) / n_losses, rel=1e-13)
    gradient = to_host(vjp())
    for i, n, (_, vjp_alone) in zip((0, 1, 3), (5, 3, 1), alone, strict=True):
        np.testing.assert_allclose(gradient[i, :n], vjp_alone()[0] / n_losses, rtol=1e-11, atol=1e-16)
    assert (gradient[~mask] == 0).all()


@all_losses
def test_reductions(rng, batch, loss):
    mask = rng.random((4, 5)) < 0.6
    mask[1] = False
    each, vjp_each = loss(*batch, mask=mask, reduction="none")
    counted = mask.any(axis=-1) if loss is attention_transfer else mask
    assert each.shape == counted.shape and (each[~counted] == 0).all()
    total, vjp_total = loss(*batch, mask=mask, reduction="sum")
    mean, vjp_mean = loss(*batch, mask=mask)
    assert total == pytest.approx(each.sum(), rel=1e-14) and mean == pytest.approx(total / counted.sum(), rel=1e-14)
    np.testing.assert_allclose(vjp_mean(3.0), 3 * vjp_total() / counted.sum(), rtol=1e-12, atol=1e-17)
    np.testing.assert_allclose(vjp_each(np.ones(each.shape)), vjp_total(), rtol=1e-12, atol=1e-17)


def test_a_cosine_keeps_the_digits_of_a_small_angle():
    for angle in (1e-3, 1e-7):
        loss, vjp = cosine_hidden(np.array([[2.0, 2 * np.tan(angle)]]), np.array([[5.0, 0.0]]))
        assert loss == pytest.approx(2 * np.sin(angle / 2) ** 2, rel=1e-8)
        np.testing.assert_allclose(vjp()[0, 1], np.sin(angle) * np.cos(angle) ** 2 / 2, rtol=1e-8)


@pytest.mark.parametrize("size", [1e-300, 1e-30, 1e30, 1e300])
def test_a_cosine_looks_at_the_direction_alone(rng, size):
    student, teacher = rng.normal(size=(2, 3, 7))
    wanted, vjp_wanted = cosine_hidden(student, teacher)
    loss, vjp = cosine_hidden(student * size, teacher / size)
    assert loss == pytest.approx(wanted, rel=1e-13)
    np.testing.assert_allclose(vjp() * size, vjp_wanted(), rtol=1e-12)


def test_zeros_have_no_direction(xp):
    student, teacher = np.array([[0.0, 0], [1, 2], [0, 0]]), np.array([[1.0, 2], [0, 0], [0, 0]])
    for dtype in ("float64", "float32"):
        loss, vjp = cosine_hidden(*(xp.asarray(x.astype(dtype)) for x in (student, teacher)), reduction="none")
        np.testing.assert_array_equal(to_host(loss), [1, 1, 1])
        assert (to_host(vjp(xp.asarray(np.ones(3, dtype=dtype)))) == 0).all()
    loss, vjp = attention_transfer(xp.asarray(np.zeros((1, 3, 2))), xp.asarray(np.ones((1, 3, 2))))
    assert to_host(loss) == 1 and (to_host(vjp()) == 0).all()


def test_a_map_does_not_depend_on_the_channels_order_nor_on_the_size_of_the_features(rng, batch):
    student, teacher = batch
    wanted, _ = attention_transfer(student, teacher)
    turned = 5 * student @ np.linalg.qr(rng.normal(size=(12, 12)))[0]
    assert attention_transfer(turned, teacher[..., ::-1] / 3)[0] == pytest.approx(wanted, rel=1e-12)


def test_relations_do_not_depend_on_the_basis_of_a_head(rng, batch):
    """They see angles and lengths alone, so a turned student is as good as the teacher, but for turns across heads."""
    teacher = batch[1]
    turn = np.zeros((12, 12))
    for head in range(3):
        part = slice(4 * head, 4 * head + 4)
        turn[part, part] = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    assert relation_kd(teacher @ turn, teacher, n_head=3)[0] < 1e-28
    assert relation_kd(teacher @ turn, teacher, n_head=2)[0] > 1e-3


def test_relations_are_the_mean_over_heads_of_a_forward_kl(batch):
    def scores(x, head):
        part = x[..., 4 * head : 4 * head + 4]
        return part @ part.swapaxes(-1, -2) / 2

    student, teacher = batch
    loss, _ = relation_kd(student, teacher, n_head=3, reduction="none")
    heads = [forward_kl(scores(student, h), scores(teacher, h), reduction="none")[0] for h in range(3)]
    np.testing.assert_allclose(loss, np.mean(heads, axis=0), rtol=1e-12)


@all_losses
def test_types(batch, loss):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    for dtype in ("float16", bfloat16, "float32", "float64"):
        student, teacher = batch.astype(dtype)
        value, vjp = loss(student, teacher)
        assert value.dtype == ("float64" if dtype == "float64" else "float32") and vjp().dtype == student.dtype
        exact, vjp_exact = loss(student.astype(float), teacher.astype(float))
        assert value == pytest.approx(exact, rel=1e-5)
        np.testing.assert_allclose(vjp().astype(float), vjp_exact(), rtol=1e-2, atol=1e-5)


@by_token
def test_types_with_a_projection(rng, batch, loss):
    student, teacher = batch.astype("float16")
    projection = rng.normal(size=(12, 12)).astype("float32")
    value, vjp = loss(student, teacher, projection)
    assert value.dtype == "float32" and [x.dtype for x in vjp()] == ["float16", "float32"]
    exact, _ = loss(*(x.astype(float) for x in (student, teacher, projection)))
    assert value == pytest.approx(exact, rel=1e-5)


@all_losses
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_same_on_both_devices(rng, batch, loss, dtype):
    student, teacher = batch.astype(dtype)
    mask = rng.random((4, 5)) < 0.6
    mask[1] = False
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    assert_runs_on_strict(loss, student, teacher, tol=tolerance)
    assert_runs_on_strict(lambda s, t, m: loss(s, t, mask=m), student, teacher, mask, tol=tolerance)


@by_token
def test_a_projection_gives_the_same_on_both_devices(rng, batch, loss):
    assert_runs_on_strict(loss, *batch, rng.normal(size=(12, 12)), tol=1e-12)


@all_losses
def test_wrong_arguments(batch, loss):
    student, teacher = batch
    with pytest.raises(ValueError, match=r"student is \(4, 5, 12\), teacher \(4, 4, 12\); wanted"):
        loss(student, teacher[:, 1:])
    with pytest.raises(ValueError, match=r"mask is bool \(5,\); wanted bool \(4, 5\)"):
        loss(student, teacher, mask=np.ones(5, dtype=bool))
    with pytest.raises(ValueError, match="mean over no token"):
        loss(student, teacher, mask=np.zeros((4, 5), dtype=bool))
    with pytest.raises(ValueError, match="reduction is 'average'"):
        loss(student, teacher, reduction="average")


def test_wrong_widths(batch):
    student, teacher = batch
    for loss in (mse_hidden, cosine_hidden):
        with pytest.raises(ValueError, match=r"student is \(4, 5, 12\), teacher \(4, 5, 11\); wanted one shape"):
            loss(student, teacher[..., 1:])
        with pytest.raises(ValueError, match=r"projection is \(11, 12\); wanted \(12, D\) for student \(4, 5, 12\)"):
            loss(student, teacher, np.zeros((11, 12)))
        with pytest.raises(ValueError, match=r"student is .*, projection \(12, 9\), teacher \(4, 5, 12\)"):
            loss(student, teacher, np.zeros((12, 9)))
    for loss in (attention_transfer, partial(relation_kd, n_head=1)):
        with pytest.raises(ValueError, match=r"student is \(12,\), teacher \(12,\); wanted \(..., T, C\)"):
            loss(student[0, 0], teacher[0, 0])
    for loss in (mse_hidden, cosine_hidden, attention_transfer, partial(relation_kd, n_head=1)):
        with pytest.raises(ValueError, match=r"student is int64 \(4, 5, 12\); wanted an array of type float16"):
            loss(student.astype(int), teacher)
        with pytest.raises(ValueError, match="teacher is a list; wanted an array"):
            loss(student, teacher.tolist())
    with pytest.raises(ValueError, match=r"projection is int64 \(12, 12\); wanted an array of type float16"):
        mse_hidden(student, teacher, np.eye(12, dtype=int))
    for n_head in (0, 5):
        with pytest.raises(ValueError, match=f"n_head is {n_head}; wanted a divisor of the student's width 12"):
            relation_kd(student, teacher, n_head=n_head)
    with pytest.raises(ValueError, match="n_head is 3; wanted a divisor of the teacher's width 10"):
        relation_kd(student, teacher[..., 2:], n_head=3)


@pytest.mark.torch
def test_against_torch(rng, batch):
    torch = pytest.importorskip("torch")
    f = torch.nn.functional

    def heads(x):
        return x.reshape(4, 5, 3, 4).transpose(1, 2)

    def relations(x):
        return heads(x) @ heads(x).transpose(-1, -2) / 2

    def maps(x):
        return f.normalize((x**2).sum(dim=-1), dim=-1)

    references = {
        "mse_hidden": f.mse_loss,
        "cosine_hidden": lambda s, t: (1 - f.cosine_similarity(s, t, dim=-1)).mean(),
        "attention_transfer": lambda s, t: ((maps(s) - maps(t)) ** 2).sum(dim=-1).mean() / 2,
        "relation_kd": lambda s, t: (
            f.kl_div(relations(s).log_softmax(-1), relations(t).softmax(-1), reduction="sum") / (4 * 3 * 5)
        ),
    }
    for name, reference in references.items():
        loss, vjp = LOSSES[name](*batch)
        s = torch.tensor(batch[0], requires_grad=True)
        wanted = reference(s, torch.tensor(batch[1]))
        wanted.backward()
        assert loss == pytest.approx(wanted.item(), rel=1e-12)
        np.testing.assert_allclose(vjp(), s.grad.numpy(), rtol=1e-9, atol=1e-15)
