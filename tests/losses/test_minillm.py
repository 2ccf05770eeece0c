import itertools
import math
from functools import partial

import numpy as np
import pytest

from minikd.backend import to_host
from minikd.losses import minillm, reverse_kl
from minikd.losses.minillm import minillm_loss
from minikd.oracle import assert_vjp, check_vjp
from tests.strict_array import assert_runs_on_strict

V, T = 3, 3
ON_POLICY = {"alpha": 0.0, "length_normalize": False, "reduction": "none"}
SWITCHES = [
    {"single_step": single_step, "alpha": alpha, "length_normalize": length_normalize}
    for single_step in (True, False)
    for alpha in (0.0, 0.2)
    for length_normalize in (True, False)
]
all_switches = pytest.mark.parametrize("switches", SWITCHES, ids=lambda s: "-".join(map(str, s.values())))


@pytest.fixture
def batch(rng):
    """Logits of student and teacher, tokens, and a mask with prompts and padding."""
    student, teacher = rng.normal(size=(2, 4, 6, 11)) * 1.5
    mask = np.arange(6) >= np.array([0, 2, 3, 1])[:, None]
    mask &= np.arange(6) < np.array([6, 5, 6, 2])[:, None]
    return student, teacher, rng.integers(0, 11, size=(4, 6)), mask


def log_softmax(x):
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def all_texts(length):
    """Every text of `length` tokens, and for each token the row of a table of logits that its prefix stands for."""
    texts = np.array(list(itertools.product(range(V), repeat=length)))
    rows = np.zeros_like(texts)
    for t in range(1, length):
        rows[:, t] = rows[:, t - 1] * V + texts[:, t - 1] + 1
    return texts, rows


def log_probability(table, texts, rows):
    return np.take_along_axis(log_softmax(table)[rows], texts[..., None], axis=-1).sum(axis=(-1, -2))


def exact_gradient(student, teacher, length):
    """The gradient of KL(q || p) over all texts, by complex steps, at a table of logits (one row for each prefix)."""
    texts, rows = all_texts(length)
    log_p = log_probability(teacher, texts, rows)

    def kl(table):
        log_q = log_probability(table, texts, rows)
        return (np.exp(log_q) * (log_q - log_p)).sum()

    gradient = np.zeros_like(student)
    for index in np.ndindex(student.shape):
        step = np.zeros(student.shape, dtype=complex)
        step[index] = 1e-30j
        gradient[index] = kl(student + step).imag / 1e-30
    return gradient


def gradients_by_text(student, teacher, length, **options):
    """The gradient of the loss on each text, at the table of logits: (texts, prefixes, V)."""
    texts, rows = all_texts(length)
    _, vjp = minillm_loss(student[rows], teacher[rows], texts, **options)
    gradients = np.zeros((len(texts), *student.shape))
    np.add.at(gradients, (np.arange(len(texts))[:, None], rows), vjp(np.ones(texts.shape)))
    return gradients


@pytest.fixture
def tables(rng):
    """Logits of student and teacher after each of the 1 + 3 + 9 prefixes of a text of 3 tokens."""
    return rng.normal(size=(2, 1 + V + V**2, V))


def test_the_expected_gradient_is_that_of_the_kl_between_sequences(tables):
    """Over every text there is, weighted with the student's probability of it."""
    exact = exact_gradient(*tables, T)
    probability = np.exp(log_probability(tables[0], *all_texts(T)))
    variances = []
    for single_step in (False, True):
        each = gradients_by_text(*tables, T, single_step=single_step, **ON_POLICY)
        mean = np.einsum("n,npv->pv", probability, each)
        np.testing.assert_allclose(mean, exact, rtol=1e-12, atol=1e-15)
        variances.append(np.einsum("n,npv->", probability, (each - mean) ** 2))
    assert variances[1] < 0.8 * variances[0]  # what the single step is for
    normalized = gradients_by_text(*tables, T, **ON_POLICY | {"length_normalize": True})
    mean = np.einsum("n,npv->pv", probability, normalized)
    assert np.linalg.norm(mean - exact) > 1e-2 * np.linalg.norm(exact)  # what it costs


@pytest.mark.parametrize("single_step", [True, False])
@pytest.mark.parametrize("alpha", [0.2, 0.9])
def test_the_weights_make_up_for_the_teacher_in_the_sampling(tables, alpha, single_step):
    """Exactly so for one token: the weight of a token knows nothing of those before."""
    student, teacher = tables[:, :1]
    texts, rows = all_texts(1)
    p, q = (np.exp(log_probability(table, texts, rows)) for table in (teacher, student))
    each = gradients_by_text(student, teacher, 1, single_step=single_step, **ON_POLICY | {"alpha": alpha})
    mean = np.einsum("n,npv->pv", alpha * p + (1 - alpha) * q, each)
    np.testing.assert_allclose(mean, exact_gradient(student, teacher, 1), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(mean[0], reverse_kl(student, teacher, reduction="sum")[1]()[0], rtol=1e-12, atol=1e-15)


def test_by_hand():
    """Two tokens of two, an even student, and a teacher who likes what was said: r = log 1.5, then log 1.8."""
    student, teacher = np.zeros((1, 2, 2)), np.log([[[0.75, 0.25], [0.1, 0.9]]])
    tokens = np.array([[0, 1]])
    r, two = np.log([1.5, 1.8]), math.log(2)
    loss, _ = minillm_loss(student, teacher, tokens, single_step=False, **ON_POLICY)
    np.testing.assert_allclose(loss, [[(r.sum() - 1) * two, (r[1] - 1) * two]], rtol=1e-13)
    loss, _ = minillm_loss(student, teacher, tokens, single_step=False, **ON_POLICY | {"length_normalize": True})
    np.testing.assert_allclose(loss, [[(r.mean() - 1) * two, (r[1] - 1) * two]], rtol=1e-14)
    kl = reverse_kl(student, teacher, reduction="none")[0]
    long_part = np.array([[r[1] * two, 0]])
    loss, _ = minillm_loss(student, teacher, tokens, **ON_POLICY)
    np.testing.assert_allclose(loss, kl + long_part, rtol=1e-14)
    weights = 0.5 / (0.2 * np.array([0.75, 0.9]) + 0.8 * 0.5)
    loss, _ = minillm_loss(student, teacher, tokens, alpha=0.2)
    assert loss == pytest.approx((weights * (kl + long_part)).mean(), rel=1e-14)


def test_rewards_of_tokens_that_do_not_count_are_left_out():
    log_ratio = np.array([[0.0, 1.0, 0.0, 2.0, 4.0, 0.0]])
    counted = np.array([[False, True, False, True, True, False]])
    weight, later = minillm._constants(log_ratio, counted, 0.0, True, False)
    np.testing.assert_array_equal(weight, np.ones((1, 6)))
    np.testing.assert_array_equal(later, [[7, 6, 6, 4, 0, 0]])
    _, later = minillm._constants(log_ratio, counted, 0.0, True, True)
    np.testing.assert_allclose(later, [[7 / 3, 3, 3, 4, 0, 0]])
    _, to_go = minillm._constants(log_ratio, counted, 0.0, False, True)
    np.testing.assert_allclose(to_go + 1, [[7 / 3, 7 / 3, 3, 3, 4, 0]])
    weight, _ = minillm._constants(log_ratio, counted, 0.2, True, True)
    np.testing.assert_allclose(weight, 1 / (0.2 * np.exp(log_ratio) + 0.8))


@all_switches
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_vjp_with_the_constants_held_fixed(batch, monkeypatch, switches, reduction):
    student, teacher, tokens, mask = (x[:3, 1:5] for x in batch)
    loss = partial(minillm_loss, mask=mask, reduction=reduction, **switches)
    fixed = []
    with monkeypatch.context() as patch:
        compute = minillm._constants
        patch.setattr(minillm, "_constants", lambda *args: fixed.append(compute(*args)) or fixed[0])
        assert_vjp(loss, student[..., :5], teacher[..., :5], tokens % 5, wrt=0)


def test_without_the_constants_held_fixed_the_value_has_another_slope(batch):
    student, teacher, tokens, _ = (x[:1] for x in batch)
    report = check_vjp(minillm_loss, (student[..., :3], teacher[..., :3], tokens % 3), wrt=0)
    assert [argument.verdict for argument in report.arguments] == ["wrong"]


@pytest.mark.torch
@all_switches
def test_against_a_surrogate_in_torch(batch, switches):
    torch = pytest.importorskip("torch")
    student, teacher, tokens, mask = batch
    loss, vjp = minillm_loss(student, teacher, tokens, mask=mask, **switches)

    z, keep = torch.tensor(student, requires_grad=True), torch.tensor(mask)
    log_q, log_p = z.log_softmax(-1), torch.tensor(teacher).log_softmax(-1)
    said = torch.tensor(tokens)[..., None]
    q_said, p_said = (x.gather(-1, said)[..., 0] for x in (log_q, log_p))
    weight = (q_said.exp() / (switches["alpha"] * p_said.exp() + (1 - switches["alpha"]) * q_said.exp())).detach()
    reward = (p_said - q_said).detach() * keep
    total = torch.zeros(())
    for i in range(4):
        for t in range(6):
            if keep[i, t]:
                later = reward[i, t + switches["single_step"] :]
                number = keep[i, t + switches["single_step"] :].sum() if switches["length_normalize"] else 1
                to_go = later.sum() / max(int(number), 1)
                if switches["single_step"]:
                    step = (log_q[i, t].exp() * (log_q[i, t] - log_p[i, t])).sum()
                    total = total + weight[i, t] * (step - to_go * q_said[i, t])
                else:
                    total = total - weight[i, t] * (to_go - 1) * q_said[i, t]
    wanted = total / keep.sum()
    wanted.backward()
    assert loss == pytest.approx(wanted.item(), rel=1e-12)
    np.testing.assert_allclose(vjp(), z.grad.numpy(), rtol=1e-9, atol=1e-15)


@all_switches
def test_a_prompt_and_padding_change_nothing(batch, switches, xp):
    student, teacher, tokens, mask = batch
    parts = [
        minillm_loss(student[i, m], teacher[i, m], tokens[i, m], reduction="sum", **switches)
        for i, m in enumerate(mask)
    ]
    student[~mask], teacher[~mask] = np.nan, np.nan
    value, vjp = minillm_loss(*map(xp.asarray, (student, teacher, tokens)), mask=xp.asarray(mask), **switches)
    assert to_host(value) == pytest.approx(sum(part for part, _ in parts) / mask.sum(), rel=1e-12)
    gradient = to_host(vjp())
    for i, (_, vjp_part) in enumerate(parts):
        np.testing.assert_allclose(gradient[i, mask[i]], vjp_part() / mask.sum(), rtol=1e-11, atol=1e-16)
    assert (gradient[~mask] == 0).all()
    labelled, vjp_labelled = minillm_loss(student, teacher, np.where(mask, tokens, -100), **switches)
    assert labelled == pytest.approx(to_host(value), rel=1e-14)
    np.testing.assert_allclose(vjp_labelled(), gradient, rtol=1e-11, atol=1e-16)


def test_a_student_like_the_teacher_has_nothing_to_learn(batch):
    student, _, tokens, mask = batch
    loss, vjp = minillm_loss(student, student, tokens, mask=mask)
    assert loss == 0 and (vjp() == 0).all()


def test_rewards_beyond_what_exp_can_hold(xp):
    student, teacher = np.zeros((1, 3, 2)), np.zeros((1, 3, 2))
    student[0, 0, 0], teacher[0, 1, 0], student[0, 2, 1] = 2000, 2000, 900
    tokens = np.array([[1, 1, 0]])  # log p/q = 2000, -2000 and 900
    for alpha in (0.0, 0.2):
        loss, vjp = minillm_loss(*map(xp.asarray, (student, teacher, tokens)), alpha=alpha, length_normalize=False)
        assert np.isfinite(to_host(loss)) and np.isfinite(to_host(vjp())).all()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_types(batch, dtype):
    student, teacher, tokens, mask = batch
    student, teacher = student.astype(dtype), teacher.astype(dtype)
    loss, vjp = minillm_loss(student, teacher, tokens, mask=mask)
    assert loss.dtype == "float32" and vjp().dtype == dtype
    exact, vjp_exact = minillm_loss(student.astype(float), teacher.astype(float), tokens, mask=mask)
    assert loss == pytest.approx(exact, rel=1e-5)
    np.testing.assert_allclose(vjp(), vjp_exact(), rtol=1e-2, atol=1e-6)


@all_switches
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_same_on_both_devices(batch, switches, dtype):
    student, teacher, tokens, mask = batch
    arrays = student.astype(dtype), teacher.astype(dtype), tokens
    loss = partial(minillm_loss, **switches)
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    assert_runs_on_strict(loss, *arrays, tol=tolerance)
    assert_runs_on_strict(lambda z, u, y, m: loss(z, u, y, mask=m), *arrays, mask, tol=tolerance)


def test_wrong_arguments(batch):
    student, teacher, tokens, mask = batch
    for alpha in (-0.1, 1, math.nan):
        with pytest.raises(ValueError, match=rf"alpha is {alpha}; wanted a number in \[0, 1\)"):
            minillm_loss(student, teacher, tokens, alpha=alpha)
    with pytest.raises(ValueError, match=r"vocabulary has 11 .* 10"):
        minillm_loss(student, teacher[..., 1:], tokens)
    with pytest.raises(ValueError, match=r"labels are int64 \(4, 5\); wanted integers \(4, 6\)"):
        minillm_loss(student, teacher, tokens[:, 1:])
    with pytest.raises(ValueError, match=r"student_logits are \(11,\); wanted \(..., T, V\)"):
        minillm_loss(student[0, 0], teacher[0, 0], tokens[0, 0])
    with pytest.raises(ValueError, match="mean over no token"):
        minillm_loss(student, teacher, tokens, mask=mask & False)
    with pytest.raises(ValueError, match="reduction is 'average'"):
        minillm_loss(student, teacher, tokens, reduction="average")
    for who, logits in (("student", student), ("teacher", teacher)):
        before, logits[2, 4, tokens[2, 4]] = logits[2, 4, tokens[2, 4]], -np.inf
        with pytest.raises(ValueError, match=rf"tokens\[2, 4\] has probability 0 for the {who}"):
            minillm_loss(student, teacher, tokens)
        logits[2, 4, tokens[2, 4]] = before
