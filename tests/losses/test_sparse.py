import math
from functools import partial

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minikd.backend import to_host
from minikd.losses import forward_kl, sparse
from minikd.losses.sparse import sample_teacher, sparse_kl, top_k_teacher
from minikd.oracle import assert_vjp
from minikd.softmax import softmax
from tests.losses.reference import gradient_error, relative_error
from tests.losses.reference import softmax as exact_softmax
from tests.strict_array import assert_runs_on_strict, upload

TAILS = ("bucket", "renormalize", "zero")
INF = np.inf
all_tails = pytest.mark.parametrize("tail", TAILS)


@pytest.fixture
def batch(rng):
    """Student's and teacher's logits, and the 7 largest of the teacher at T = 2."""
    student, teacher = rng.normal(size=(2, 3, 5, 41)) * 2
    return student, teacher, *top_k_teacher(teacher, 7, temperature=2.0)


def textbook(student, ids, p, tail, temperature):
    """Losses of tokens (n, V) as written in the textbook."""
    losses = []
    for z, at, kept in zip(student, ids, p, strict=True):
        q = np.exp(z / temperature) / np.exp(z / temperature).sum()
        others = np.delete(q, at).sum()
        p_all, q_all = {
            "bucket": (np.append(kept, 1 - kept.sum()), np.append(q[at], others)),
            "renormalize": (kept / kept.sum(), q[at] / q[at].sum()),
            "zero": (kept, q[at]),
        }[tail]
        losses.append((p_all * np.log(p_all / q_all)).sum())
    return np.array(losses)


def test_by_hand():
    """p = (1/2, 1/4, 1/8, 1/8), of which the first two are known, and an even q."""
    student, ids, logprobs = np.zeros((1, 4)), np.array([[0, 1]]), np.log([[0.5, 0.25]])
    two = math.log(2)
    wanted = {
        "bucket": (0.5 * two - 0.25 * two, [[-0.25, 0, 0.125, 0.125]]),
        "renormalize": (math.log(4 / 3) / 3 - math.log(3 / 2) / 3 + math.log(4 / 3) / 3, [[-1 / 6, 1 / 6, 0, 0]]),
        "zero": (0.5 * two, [[3 / 16 - 0.5, 3 / 16 - 0.25, 3 / 16, 3 / 16]]),
    }
    for tail, (value, gradient) in wanted.items():
        loss, vjp = sparse_kl(student, ids, logprobs, tail=tail)
        assert loss == pytest.approx(value, rel=1e-14)
        np.testing.assert_allclose(vjp(), gradient, rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_the_most_likely_entries(rng, dtype):
    logits = (rng.normal(size=(2, 5, 401)) * 3).astype(dtype)
    p, _ = softmax(logits.astype(float), 2.0)
    for k in (1, 6, 401):
        ids, logprobs = top_k_teacher(logits, k, temperature=2.0)
        assert ids.shape == logprobs.shape == (2, 5, k) and ids.dtype == np.int64
        assert logprobs.dtype == ("float64" if dtype == "float64" else "float32")
        np.testing.assert_allclose(logprobs, np.log(-np.sort(-p)[..., :k]), rtol=1e-6)
        np.testing.assert_allclose(np.take_along_axis(np.log(p), ids, axis=-1), logprobs, rtol=1e-6)
        assert (np.diff(np.sort(ids)) > 0).all()


def test_entries_without_mass_come_last():
    ids, logprobs = top_k_teacher(np.array([-INF, 1.0, -INF, 2.0]), 3)
    assert list(ids[:2]) == [3, 1] and ids[2] in (0, 2) and logprobs[2] == -INF
    assert np.exp(logprobs).sum() == pytest.approx(1, rel=1e-15)


@all_tails
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_against_the_textbook(rng, tail, temperature):
    student, teacher = rng.normal(size=(2, 60, 41)) * 2
    ids, logprobs = top_k_teacher(teacher, 9, temperature=temperature)
    value, _ = sparse_kl(student, ids, logprobs, tail=tail, temperature=temperature, reduction="none")
    wanted = textbook(student, ids, np.exp(logprobs), tail, temperature)
    np.testing.assert_allclose(value, wanted, rtol=1e-12, atol=1e-14)
    order = rng.permutation(9)  # of the entries: it means nothing
    other, _ = sparse_kl(
        student, ids[:, order], logprobs[:, order], tail=tail, temperature=temperature, reduction="none"
    )
    np.testing.assert_allclose(other, value, rtol=1e-12)


@all_tails
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("shape", "k"), [((4,), 2), ((1, 1), 1), ((2, 3, 17), 5), ((3, 401), 12)])
def test_vjp(rng, tail, reduction, shape, k):
    ids, logprobs = top_k_teacher(rng.normal(size=shape) * 2, k, temperature=3.0)
    loss = partial(sparse_kl, tail=tail, temperature=3.0, reduction=reduction)
    assert_vjp(loss, rng.normal(size=shape) * 2, ids, logprobs, wrt=0)


@all_tails
def test_vjp_with_a_mask_and_logits_that_are_not_contiguous(rng, batch, tail):
    _, _, ids, logprobs = batch
    student = rng.normal(size=(41, 5, 6)).T[::2]
    assert_vjp(partial(sparse_kl, tail=tail, mask=rng.random((3, 5)) < 0.6), student, ids, logprobs, wrt=0)


@all_tails
def test_with_all_entries_it_is_the_full_kl(rng, tail):
    student, teacher = rng.normal(size=(2, 4, 41)) * 3
    teacher[0], student[1] = student[0], teacher[1] + 1e-9 * student[1]
    teacher[2, ::3] = student[2, ::3] = -INF
    for dtype, tolerance in (("float64", 1e-12), ("float32", 1e-6)):
        z, u = student.astype(dtype), teacher.astype(dtype)
        value, vjp = sparse_kl(z, *top_k_teacher(u, 41, temperature=2.0), tail=tail, temperature=2.0, reduction="none")
        wanted, vjp_wanted = forward_kl(z, u, temperature=2.0, reduction="none")
        np.testing.assert_allclose(value, wanted, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(vjp(), vjp_wanted(), atol=tolerance)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 60), st.floats(-3, 1.5), st.floats(-6, 1), st.floats(-1, 1))
def test_more_entries_bring_the_bucket_closer_to_the_full_kl_from_below(seed, size, spread, distance, log_temperature):
    rng, temperature = np.random.default_rng(seed), 10**log_temperature
    teacher = rng.normal(size=size) * 10**spread
    student = teacher + rng.normal(size=size) * 10**distance
    bounds = [
        sparse_kl(student, *top_k_teacher(teacher, k, temperature=temperature), temperature=temperature)[0]
        for k in range(1, size + 1)
    ]
    full, _ = forward_kl(student, teacher, temperature=temperature)
    rounding = 1e-13 * (1 + full)  # of the logarithms that the sparse teacher consists of
    assert min(bounds) >= 0
    assert (np.diff([*bounds, full]) > -rounding).all()


@pytest.mark.parametrize(
    ("dtype", "gap"),
    [("float64", 3), ("float64", 30), ("float64", 300), ("float32", 3), ("float32", 12), ("float32", 60)],
)
def test_a_tiny_left_over_mass_keeps_its_digits(rng, gap, dtype):
    """Against 500 digits, from the very logprobs that the loss was given."""
    teacher, student = rng.normal(size=(2, 9))
    teacher[4] += gap
    student[4] += 0.9 * gap
    ids, logprobs = top_k_teacher(teacher.astype(dtype), 3)
    student = student.astype(dtype)
    value, vjp = sparse_kl(student, ids, logprobs)
    with mp.workdps(500):
        q = exact_softmax(student, 1.0)
        p_kept = [mp.exp(mp.mpf(float(x))) for x in logprobs]
        p_rest = 1 - mp.fsum(p_kept)
        total = mp.fsum(p_kept) + p_rest
        q_rest = mp.fsum(q[i] for i in range(9) if i not in ids)
        pairs = [*zip(p_kept, (q[i] for i in ids), strict=True), (p_rest, q_rest)]
        wanted = mp.fsum(p * mp.log(p / r) for p, r in pairs) / total
        gradient = [x - x / q_rest * p_rest for x in q]
        for i, p in zip(ids, p_kept, strict=True):
            gradient[i] = q[i] - p
    tolerance = 1e-12 if dtype == "float64" else 2e-6
    assert p_rest > 0
    assert relative_error(value, wanted) < tolerance
    assert gradient_error(vjp(), gradient) < tolerance


@pytest.mark.parametrize(("dtype", "stored"), [("float64", "float64"), ("float32", "float32"), ("float32", "float16")])
@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_rounding_is_no_left_over_mass(rng, dtype, stored, spread):
    """Neither side has mass outside the ids; a rest of 1e-8, say, would make the loss infinite."""
    student, teacher = (rng.normal(size=(2, 50, 400)) * spread).astype(dtype)
    student[:, 300:] = teacher[:, 300:] = -INF
    ids, logprobs = top_k_teacher(teacher, 300)
    logprobs = logprobs.astype(stored)
    assert (np.exp(logprobs.astype(float)).sum(axis=-1) < 1).any()
    value, vjp = sparse_kl(student, ids, logprobs, reduction="none")
    wanted, _ = forward_kl(student[:, :300], teacher[:, :300], reduction="none")
    np.testing.assert_allclose(value, wanted, rtol=1e-2 if stored == "float16" else 1e-4)
    assert (vjp()[:, 300:] == 0).all()


def test_nothing_is_left_over_by_all_entries(rng):
    """However coarsely their logprobs were rounded."""
    student, teacher = rng.normal(size=(2, 9))
    ids, logprobs = top_k_teacher(teacher, 9)
    logprobs = np.floor(logprobs * 10) / 10
    assert np.exp(logprobs).sum() < 0.99
    wanted, _ = forward_kl(student[ids], logprobs)
    assert sparse_kl(student, ids, logprobs)[0] == pytest.approx(wanted, rel=1e-12)


def test_left_over_mass_on_one_side_only(xp):
    student, logprobs = np.array([[0.0, 0, -INF, -INF], [0, 0, 0, 0]]), np.log([[0.5, 0.25], [0.5, 0.5]])
    ids = np.array([[0, 1], [0, 1]])
    value, vjp = sparse_kl(*map(xp.asarray, (student, ids, logprobs)), reduction="none")
    np.testing.assert_allclose(to_host(value), [INF, math.log(2)], rtol=1e-15)
    np.testing.assert_allclose(to_host(vjp()), [[0, 0.25, 0, 0], [-0.25, -0.25, 0.25, 0.25]], atol=1e-15)
    for tail in ("renormalize", "zero"):
        value, vjp = sparse_kl(*map(xp.asarray, (student, ids, logprobs)), tail=tail)
        assert np.isfinite(to_host(value)) and np.isfinite(to_host(vjp())).all()


@all_tails
def test_mass_that_the_student_lacks_at_an_id(xp, tail):
    student, ids, logprobs = np.array([[-INF, 0.0, 0, 0]]), np.array([[0, 1, 2]]), np.log([[0.25, 0.5, 0.125]])
    value, vjp = sparse_kl(*map(xp.asarray, (student, ids, logprobs)), tail=tail)
    assert to_host(value) == INF and np.isfinite(to_host(vjp())).all()
    empty = np.array([[-INF, math.log(0.5), math.log(0.125)]])
    value, vjp = sparse_kl(*map(xp.asarray, (student, ids, empty)), tail=tail)
    assert np.isfinite(to_host(value)) and to_host(vjp())[0, 0] == 0


@all_tails
def test_tokens_that_do_not_count_may_hold_anything(batch, xp, tail):
    student, _, ids, logprobs = batch
    mask = np.ones((3, 5), dtype=bool)
    mask[1], mask[2, 3] = False, False
    options = {"tail": tail, "temperature": 2.0}
    wanted, vjp_wanted = sparse_kl(student[mask], ids[mask], logprobs[mask], **options)
    student[~mask], ids[~mask], logprobs[~mask] = np.nan, 99, np.nan
    value, vjp = sparse_kl(*map(xp.asarray, (student, ids, logprobs)), mask=xp.asarray(mask), **options)
    assert to_host(value) == pytest.approx(wanted, rel=1e-14)
    gradient = to_host(vjp())
    np.testing.assert_allclose(gradient[mask], vjp_wanted(), rtol=1e-12, atol=1e-18)
    assert (gradient[~mask] == 0).all()
    assert sparse_kl(student, ids, logprobs, mask=mask & False, reduction="sum", **options)[0] == 0


@all_tails
def test_types(batch, tail):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    student, teacher, _, _ = batch
    for dtype in ("float16", bfloat16, "float32", "float64"):
        z, (ids, logprobs) = student.astype(dtype), top_k_teacher(teacher.astype(dtype), 5)
        value, vjp = sparse_kl(z, ids.astype(np.int32), logprobs, tail=tail)
        assert value.dtype == ("float64" if dtype == "float64" else "float32") and vjp().dtype == z.dtype
        exact, vjp_exact = sparse_kl(z.astype(float), ids, logprobs.astype(float), tail=tail)
        assert value == pytest.approx(exact, rel=1e-6)
        np.testing.assert_allclose(vjp().astype(float), vjp_exact(), rtol=1e-2, atol=1e-7)
        short, _ = sparse_kl(z, ids, logprobs.astype(bfloat16), tail=tail)
        assert short == pytest.approx(exact, rel=0.05)


@all_tails
def test_the_same_on_both_devices(rng, batch, tail):
    student, teacher, ids, logprobs = batch
    student, mask = student.astype("float32"), rng.random((3, 5)) < 0.7
    loss = partial(sparse_kl, tail=tail, temperature=2.0)
    assert_runs_on_strict(loss, student, ids, logprobs, tol=1e-6)
    assert_runs_on_strict(lambda z, i, p, m: loss(z, i, p, mask=m), student, ids, logprobs, mask, tol=1e-6)
    assert_runs_on_strict(partial(top_k_teacher, k=7), teacher)


def test_sampling_gives_the_same_on_both_devices(batch):
    teacher = batch[1]
    for variant in ("counts", "distinct"):
        host, device = (
            sample_teacher(x, 6, np.random.default_rng(5), variant=variant) for x in (teacher, upload(teacher))
        )
        for wanted, got in zip(host, device, strict=True):
            np.testing.assert_array_equal(to_host(got), wanted)


def test_counts_are_what_was_drawn(rng):
    teacher = np.log([[0.5, 0.25, 0.25, 1e-300, 0.0]], where=[True] * 4 + [False], out=np.full((1, 5), -INF))
    ids, targets = sample_teacher(np.repeat(teacher, 400, axis=0), 3, rng)
    assert ids.shape == targets.shape == (400, 3)
    counts = 3 * np.exp(targets)
    np.testing.assert_allclose(counts, np.round(counts), rtol=1e-12)
    np.testing.assert_allclose(counts.sum(axis=-1), 3, rtol=1e-12)
    assert (np.diff(np.sort(ids)) > 0).all() and (ids[targets > -INF] < 3).all()
    assert sample_teacher(teacher, 12, rng)[0].shape == (1, 5)


@pytest.mark.parametrize("uniform", [0.0, 0.25, 0.75, 1 - 2**-53])
def test_an_entry_without_mass_is_never_drawn(uniform):
    """Not even by a number that is the end of another's interval."""

    class Fixed:
        def random(self, n):
            return np.full(n, uniform)

    teacher = np.array([-INF, math.log(0.25), -INF, math.log(0.5), -INF, math.log(0.25), -INF])
    ids, targets = sample_teacher(teacher, 2, Fixed())
    assert ids[0] == {0.0: 1, 0.25: 3, 0.75: 5, 1 - 2**-53: 5}[uniform]
    assert targets[0] == pytest.approx(0, abs=1e-15) and targets[1] == -INF


def test_distinct_entries_share_their_mass(rng):
    teacher = rng.normal(size=(60, 41))
    teacher[:, 30:] = -INF
    ids, targets = sample_teacher(teacher, 12, rng, variant="distinct", temperature=2.0)
    assert (np.diff(np.sort(ids)) > 0).all() and ids.max() < 30
    wanted, _ = softmax(np.take_along_axis(teacher, ids, axis=-1), 2.0)
    np.testing.assert_allclose(np.exp(targets), wanted, rtol=1e-13)
    ids, targets = sample_teacher(teacher, 35, rng, variant="distinct")
    assert ((targets > -INF) == (ids < 30)).all()
    value, _ = sparse_kl(rng.normal(size=(60, 41)), ids, targets, tail="zero", reduction="none")
    assert (value > 0).all()


def test_the_first_of_the_distinct_entries_is_drawn_from_p(rng):
    p = np.array([0.6, 0.3, 0.1])
    ids, _ = sample_teacher(np.tile(np.log(p), (20_000, 1)), 1, rng, variant="distinct")
    share = np.bincount(ids[:, 0], minlength=3) / 20_000
    assert (abs(share - p) < 4 * np.sqrt(p * (1 - p) / 20_000)).all()


@pytest.mark.parametrize("variant", ["counts", "distinct"])
def test_the_blocks_of_sampling_change_nothing(batch, monkeypatch, variant):
    teacher = batch[1]
    wanted = sample_teacher(teacher, 6, np.random.default_rng(5), variant=variant)
    monkeypatch.setattr(sparse, "row_blocks", lambda x: [slice(i, i + 4) for i in range(0, len(x), 4)])
    got = sample_teacher(teacher, 6, np.random.default_rng(5), variant=variant)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(top_k_teacher(teacher, 7, temperature=2.0), batch[2:], strict=True):
        np.testing.assert_array_equal(a, b)


def gradients_of_draws(rng, student, teacher, n_draws, n, **options):
    """The gradient at the student's logits (V,) for each of many sparse targets: (n_draws, V)."""
    ids, targets = sample_teacher(np.tile(teacher, (n_draws, 1)), n, rng, temperature=2.0, **options)
    _, vjp = sparse_kl(np.tile(student, (n_draws, 1)), ids, targets, tail="zero", temperature=2.0, reduction="sum")
    return vjp()


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.3])
def test_the_mean_gradient_of_random_draws_is_the_full_gradient(rng, beta):
    student, teacher = rng.normal(size=(2, 31)) * 2
    full = forward_kl(student, teacher, temperature=2.0)[1]()
    drawn = gradients_of_draws(rng, student, teacher, 5000, 12, beta=beta)
    error_in_sigmas = (drawn.mean(axis=0) - full) / (drawn.std(axis=0) / math.sqrt(5000))
    assert abs(error_in_sigmas).max() < 4.5
    assert 0.6 < math.sqrt(np.mean(error_in_sigmas**2)) < 1.4
    biased = gradients_of_draws(rng, student, teacher, 5000, 12, variant="distinct")
    assert abs(biased.mean(axis=0) - full).max() > 20 * (biased.std(axis=0) / math.sqrt(5000)).max()


@pytest.fixture
def large(rng):
    """A student, and a teacher of 50,000 entries as frequent as words: 0.6 of the mass is on the 64 largest."""
    teacher = -1.22 * np.log(np.arange(50_000) + 2.7)
    return 1.2 * teacher + 0.7 * rng.normal(size=50_000), teacher


@pytest.mark.slow
def test_what_each_tail_makes_of_a_large_vocabulary(large):
    student, teacher = large
    full, _ = forward_kl(student, teacher)
    ids, logprobs = top_k_teacher(teacher, 64)
    mass = np.exp(logprobs).sum()
    assert mass == pytest.approx(0.6, abs=0.02) and full > 0.2
    values = {tail: sparse_kl(student, ids, logprobs, tail=tail)[0] for tail in TAILS}
    teacher_renormalized, _ = sparse_kl(student, ids, logprobs - np.log(mass), tail="zero")
    assert 0 < values["bucket"] < 0.8 * full < 1.2 * full < teacher_renormalized
    assert values["zero"] < 0.2 * full
    assert sparse_kl(student, *top_k_teacher(teacher, 8), tail="zero")[0] < 0


@pytest.mark.slow
def test_random_draws_have_no_bias_where_the_most_likely_entries_have(rng, large):
    student, teacher = large
    (p, _), gradient = softmax(teacher), forward_kl(student, teacher)[1]()
    size = np.linalg.norm(gradient)
    ids, logprobs = top_k_teacher(teacher, 50)
    targets = logprobs - np.log(np.exp(logprobs).sum())
    bias = np.linalg.norm(sparse_kl(student, ids, targets, tail="zero")[1]() - gradient) / size
    assert bias > 1

    n_rounds, n_rows, n = 6, 100, 12
    mean = np.zeros_like(gradient)
    for _ in range(n_rounds):
        ids, targets = sample_teacher(np.tile(teacher, (n_rows, 1)), n, rng)
        mean += sparse_kl(np.tile(student, (n_rows, 1)), ids, targets, tail="zero")[1]().sum(axis=0) / n_rounds
    # the variance of counts / n is p (1 - p) / n
    expected = math.sqrt((1 - (p * p).sum()) / (n * n_rows * n_rounds)) / size
    assert np.linalg.norm(mean - gradient) / size == pytest.approx(expected, rel=0.3)
    assert expected < 0.2


@pytest.mark.parametrize("tail", TAILS)
def test_ids_without_a_sign(batch, tail):
    student, _, ids, logprobs = batch
    wanted, _ = sparse_kl(student, ids, logprobs, tail=tail)
    for dtype in ("uint8", "uint16", "uint64"):
        assert sparse_kl(student, ids.astype(dtype), logprobs, tail=tail)[0] == wanted


def test_wrong_arguments(batch):
    student, _, ids, logprobs = batch

    def refused(message, student=student, ids=ids, logprobs=logprobs, **options):
        with pytest.raises(ValueError, match=message):
            sparse_kl(student, ids, logprobs, **options)

    def changed(x, value):
        x = x.copy()
        x[1, 2, 3] = value
        return x

    refused(r"ids\[1, 2, 3\] is 41; wanted 0 to 40", ids=changed(ids, 41))
    refused(r"ids\[1, 2, 3\] is -1; wanted 0 to 40", ids=changed(ids, -1))
    refused(r"ids\[1, 2\] repeats \d+; wanted every entry once", ids=changed(ids, ids[1, 2, 0]))
    refused(r"ids are float64 \(3, 5, 7\); wanted integers", ids=ids.astype(float))
    refused(r"ids are int64 \(3, 7\); wanted integers \(..., k\) for logits \(3, 5, 41\)", ids=ids[:, 0])
    refused(r"ids are int64 \(3, 5, 0\)", ids=ids[..., :0], logprobs=logprobs[..., :0])
    refused(r"logprobs are float64 \(3, 5, 6\); wanted floats \(3, 5, 7\)", logprobs=logprobs[..., 1:])
    refused(r"logprobs are int64", logprobs=np.zeros(ids.shape, dtype=int))
    refused(r"logprobs\[1, 2, 3\] is nan; wanted numbers below inf", logprobs=changed(logprobs, np.nan))
    refused(r"logprobs\[1, 2, 3\] is inf; wanted numbers below inf", logprobs=changed(logprobs, INF))
    refused(r"max\(logprobs\)\[0, 0\] is -inf; wanted an entry above -inf", logprobs=np.full(ids.shape, -INF))
    refused(r"sum\(exp\(logprobs\)\)\[0, 0\] is .*; wanted at most 1", logprobs=np.exp(logprobs))
    refused(r"ids are a list; wanted integers", ids=ids.tolist())
    refused(r"logprobs are complex128", logprobs=logprobs.astype(complex))
    refused(r"tail is 'tail'; wanted 'bucket', 'renormalize' or 'zero'", tail="tail")
    refused("temperature is 0", temperature=0)
    refused("reduction is 'average'", reduction="average")
    refused("mean over no token", mask=np.zeros((3, 5), dtype=bool))
    with pytest.raises(ValueError, match="-inf throughout"):
        sparse_kl(np.array([-INF, -INF, 0.0]), np.array([0, 1]), np.log([0.5, 0.25]), tail="renormalize")


def test_wrong_arguments_of_the_teachers(rng, batch):
    teacher = batch[1]
    for k in (0, 42, 2.0):
        with pytest.raises(ValueError, match=rf"k is {k}; wanted an integer from 1 to the vocabulary's 41"):
            top_k_teacher(teacher, k)
        with pytest.raises(ValueError, match="temperature is 0"):
            top_k_teacher(teacher, 3, temperature=0)
    with pytest.raises(ValueError, match="n is 0; wanted an integer above 0"):
        sample_teacher(teacher, 0, rng)
    with pytest.raises(ValueError, match="variant is 'unique'; wanted 'counts' or 'distinct'"):
        sample_teacher(teacher, 3, rng, variant="unique")
    for options in ({"beta": 0}, {"beta": -1}, {"beta": INF}, {"beta": 1e-20}, {"beta": 0.5, "variant": "distinct"}):
        with pytest.raises(ValueError, match="beta is"):
            sample_teacher(teacher, 3, rng, **options)
