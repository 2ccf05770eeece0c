"""The oracle accepts what is right, rejects what was planted, and says what it cannot know."""

import math
from functools import partial

import numpy as np
import pytest

from minikd.backend import get_array_module, to_host
from minikd.models.parameters import Parameters
from minikd.oracle import assert_vjp, check_vjp
from tests import strict_array

# Small functions with the contract, all of them right.


def softmax(x):
    xp = get_array_module(x)
    e = xp.exp(x - x.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    return p, lambda dp: p * (dp - (p * dp).sum(axis=-1, keepdims=True))


def affine(x, w, b):
    def vjp(dy):
        return dy @ w.T, x.T @ dy, dy.sum(axis=0)

    return x @ w + b, vjp


def relu(x):
    return get_array_module(x).maximum(x, 0), lambda dy: dy * (x > 0)


def look_up(ids, table):
    xp = get_array_module(table)

    def vjp(dy):
        return (ids[:, None] == xp.arange(table.shape[0])).astype(dy.dtype).T @ dy

    return table[ids], vjp


def forward_kl(student, teacher):
    """A loss: its pullback takes a weight, or nothing; the teacher is a constant."""
    xp = get_array_module(student)
    q, p = softmax(student)[0], softmax(teacher)[0]
    return (p * (xp.log(p) - xp.log(q))).sum(), lambda weight=1.0: weight * (q - p)


def halves(x):
    """Two parts, so the pullback takes two cotangents."""
    xp = get_array_module(x)
    return (x[:, :2] * 3, x[:, 2:]), lambda da, db: xp.concatenate((3 * da, db), axis=1)


def model(p):
    """Nested parameters in, nested gradients out; the count of steps is no number to differentiate by."""
    y, vjp = affine(p["x"], p["head"]["w"], p["head"]["b"])

    def model_vjp(dy):
        dx, dw, db = vjp(dy)
        return {"x": dx, "head": {"w": dw, "b": db}}

    return y, model_vjp


def flat_model(p):
    y, vjp = affine(p["x"], p["w"], p["b"])
    return y, lambda dy: p.with_flat(get_array_module(dy).concatenate([g.reshape(-1) for g in vjp(dy)]))


@pytest.fixture
def affine_args(rng):
    return rng.normal(size=(4, 3)), rng.normal(size=(3, 5)), rng.normal(size=5)


@pytest.mark.parametrize("shape", [(5,), (3, 41), (2, 3, 401), (1, 1)])
@pytest.mark.parametrize("f", [softmax, relu, lambda x: (x * x, lambda dy: 2 * x * dy)])
def test_accepts(rng, f, shape):
    assert_vjp(f, rng.normal(size=shape))


def test_accepts_several_arguments(affine_args):
    report = check_vjp(affine, affine_args)
    assert report.passed and [argument.name for argument in report.arguments] == ["x", "w", "b"]
    assert all(argument.relative_error < 1e-11 for argument in report.arguments)


def test_accepts_arguments_that_are_not_differentiable(rng):
    assert_vjp(look_up, rng.integers(0, 7, 4), rng.normal(size=(7, 3)))
    masked = lambda x, flag, n, mask: (x * mask * n, lambda dy: dy * mask * n)  # noqa: E731
    assert_vjp(masked, rng.normal(size=4), None, 2, rng.random(4) < 0.5)


def test_accepts_losses(rng):
    student, teacher = rng.normal(size=(3, 5)), rng.normal(size=(3, 5))
    assert_vjp(forward_kl, student, teacher, wrt=0)
    assert_vjp(lambda z: forward_kl(z, teacher), student)
    assert_vjp(lambda x: (float((x * x).sum()), lambda: 2 * x), student)
    assert_vjp(lambda x: ((x * x).sum(), lambda weight: 2 * weight * x), student)


def test_accepts_an_array_without_axes():
    assert_vjp(lambda x: (x * x, lambda dy: 2 * x * dy), np.array(2.0))  # of which NumPy makes scalars


def test_accepts_several_parts(rng):
    assert_vjp(halves, rng.normal(size=(3, 5)))


def test_accepts_mappings(affine_args):
    x, w, b = affine_args
    report = check_vjp(model, [{"x": x, "step": 3, "head": {"w": w, "b": b}}])
    assert report.passed
    assert [argument.name for argument in report.arguments] == ["p['x']", "p['head']['w']", "p['head']['b']"]
    params = Parameters({"x": x.shape, "w": w.shape, "b": b.shape}, np.concatenate([a.ravel() for a in affine_args]))
    assert_vjp(flat_model, params)


def test_accepts_arrays_in_any_layout(rng):
    assert_vjp(affine, rng.normal(size=(3, 4)).T, rng.normal(size=(6, 10))[::2, ::2], np.broadcast_to(1.5, (5,)))


def test_accepts_what_is_zero(rng):
    teacher = rng.normal(size=(3, 5))
    assert_vjp(forward_kl, teacher.copy(), teacher, wrt=0)  # a minimum
    assert_vjp(softmax, 1e3 * np.arange(5.0))  # saturated
    assert_vjp(lambda x: (x[:2], lambda dy: np.concatenate((dy, [0.0]))), rng.normal(size=3))
    assert_vjp(affine, np.zeros((0, 3)), rng.normal(size=(3, 5)), rng.normal(size=5))


def test_accepts_minus_infinity(rng):
    x = rng.normal(size=(3, 5))
    x[1, 2] = -np.inf
    assert_vjp(softmax, x)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 30.0, 1e8])
def test_accepts_any_size_of_numbers(rng, scale):
    x = rng.normal(size=9)
    assert_vjp(lambda x: (np.tanh(x / scale), lambda dy: dy / np.cosh(x / scale) ** 2 / scale), scale * x)
    assert_vjp(lambda x: (scale * np.exp(x), lambda dy: dy * scale * np.exp(x)), x)


def test_accepts_numbers_that_are_small_beside_what_changes_the_function(rng):
    assert_vjp(forward_kl, 1e-3 * rng.normal(size=(2, 41)), 1e-3 * rng.normal(size=(2, 41)), wrt=0)


def test_steps_out_of_the_domain_do_not_warn(rng):
    x = np.array([1e-3, 1.0])
    assert_vjp(lambda x: (np.log(x), lambda dy: dy / x), x)
    assert not check_vjp(lambda x: (np.log(x), lambda dy: 2 * dy / x), [x]).passed


def test_runs_on_both_kinds_of_array(xp, affine_args, rng):
    arrays = [xp.asarray(x) for x in affine_args]
    assert_vjp(affine, *arrays)
    assert_vjp(look_up, xp.asarray(rng.integers(0, 7, 4)), xp.asarray(rng.normal(size=(7, 3))))
    assert_vjp(forward_kl, arrays[0], arrays[0] + 1.5 * arrays[0] ** 2, wrt=0)
    assert_vjp(halves, xp.asarray(rng.normal(size=(30, 20))))
    params = Parameters({"x": (4, 3), "w": (3, 5), "b": (5,)}, xp.concatenate([x.reshape(-1) for x in arrays]))
    assert_vjp(flat_model, params)
    with pytest.raises(AssertionError, match="w: wrong"):
        assert_vjp(planted(dw=lambda g: g * 1.001), *arrays)


# Planted mistakes.


def same(gradient):
    return gradient


def planted(*, dx=same, dw=same, db=same):
    """`affine` with its gradients tampered with."""

    def f(x, w, b):
        y, vjp = affine(x, w, b)

        def wrong(dy):
            gx, gw, gb = vjp(dy)
            return dx(gx), dw(gw), db(gb)

        return y, wrong

    f.__name__ = "planted"
    return f


def one_entry_off(gradient, by=1e-4):
    gradient[1, 2] *= 1 + by
    return gradient


PLANTED = {
    "a factor": (planted(dw=lambda g: 2 * g), "w"),
    "a small factor": (planted(dw=lambda g: g * (1 + 1e-6)), "w"),
    "a sign": (planted(dx=np.negative), "x"),
    "nothing": (planted(db=np.zeros_like), "b"),
    "one entry": (planted(dw=one_entry_off), "w"),
    "not a number": (planted(dw=partial(one_entry_off, by=np.nan)), "w"),
    "mean for sum": (planted(db=lambda g: g / 4), "b"),
    "transposed shape": (planted(dw=np.transpose), "w"),
    "kept axis": (planted(db=lambda g: g[None]), "b"),
    "other dtype": (planted(dx=lambda g: g.astype(np.float32)), "x"),
    "a list": (planted(db=list), "b"),
    "None": (planted(dw=lambda g: None), "w"),
}


@pytest.mark.parametrize("f, name", PLANTED.values(), ids=PLANTED.keys())
def test_rejects_a_wrong_gradient_and_names_it(affine_args, f, name):
    report = check_vjp(f, affine_args)
    assert not report.passed
    assert [a.name for a in report.arguments if a.verdict == "wrong"] == [name]


@pytest.mark.parametrize("f, name", PLANTED.values(), ids=PLANTED.keys())
def test_rejects_it_in_large_arrays_too(rng, f, name):
    args = rng.normal(size=(4, 37)), rng.normal(size=(37, 41)), rng.normal(size=41)
    report = check_vjp(f, args)
    assert [a.name for a in report.arguments if a.verdict == "wrong"] == [name]


def test_says_that_a_gradient_is_not_a_number(affine_args):
    report = check_vjp(planted(dw=partial(one_entry_off, by=np.nan)), affine_args)
    assert report.problems == ()
    assert "got nan" in str(report) and "the gradient is NaN or infinite" in str(report)


def test_rejects_what_is_right_for_square_matrices_transposed(rng):
    def wrong(x, w):
        return x @ w, lambda dy: (dy @ w, x.T @ dy)

    report = check_vjp(wrong, (rng.normal(size=(4, 4)), rng.normal(size=(4, 4))))
    assert [a.verdict for a in report.arguments] == ["wrong", "right"]


ONLY_FOR_ONES = {
    "softmax is constant in sum": lambda x: (softmax(x)[0], lambda dp: 0 * dp),
    "cotangent forgotten": lambda x: (x * x, lambda dy: 2 * x),
    "sum for a product": lambda x: (x * x, lambda dy: 2 * x + dy - 1),
    "mean of the cotangent": lambda x: (x * x, lambda dy: 2 * x * dy.mean()),
    "weight forgotten": lambda x: ((x * x).sum(), lambda weight=1.0: 2 * x),
    "weight squared": lambda x: ((x * x).sum(), lambda weight=1.0: 2 * x * weight**2),
}


@pytest.mark.parametrize("f", ONLY_FOR_ONES.values(), ids=ONLY_FOR_ONES.keys())
def test_rejects_what_is_right_for_a_cotangent_of_ones(rng, f):
    assert check_vjp(f, [rng.normal(size=(3, 5))]).arguments[0].verdict == "wrong"


def test_rejects_a_missing_term(rng):
    def layer_norm_with_detached_variance(x):
        centred = x - x.mean(axis=-1, keepdims=True)
        rstd = 1 / np.sqrt((centred * centred).mean(axis=-1, keepdims=True))
        return centred * rstd, lambda dy: rstd * (dy - dy.mean(axis=-1, keepdims=True))

    for shape in (3, 5), (30, 50):
        assert check_vjp(layer_norm_with_detached_variance, [rng.normal(size=shape)]).arguments[0].verdict == "wrong"


def mutates_its_argument(x):
    y = x * x

    def vjp(dy):
        nonlocal x
        dx = 2 * x * dy
        x *= 1.0
        x[0] += 1e-12
        return dx

    return y, vjp


def mutates_in_the_forward(x):
    x -= x.max()
    return np.exp(x), lambda dy: np.exp(x) * dy


def mutates_its_cotangent(x):
    def vjp(dy):
        dy *= 2
        return dy * x

    return x * x, vjp


def mutates_its_value(x):
    y = np.exp(x)

    def vjp(dy):
        dx = y * dy
        y[...] = 0
        return dx

    return y, vjp


def second_call_differs(x):
    calls = []

    def vjp(dy):
        calls.append(dy)
        return 2 * x * sum(calls)

    return x * x, vjp


def reuses_its_buffer(x):
    buffer = np.empty_like(x)
    return x * x, lambda dy: np.multiply(2 * x, dy, out=buffer)


def not_linear(x):
    return x * x, lambda dy: 2 * x * dy * (1 if dy[0, 0] == dy[0, 0] and abs(dy).max() < 2.2 else 1.01)


def random_forward(x, rng=np.random.default_rng(0)):
    scale = rng.normal()
    return x * scale, lambda dy: dy * scale


def two_minds_about_its_weight(x):
    return (x * x).sum(), lambda weight=2.0: 2 * x * weight


BROKEN = {
    mutates_its_argument: "the pullback changed argument x",
    mutates_in_the_forward: "the function changed argument x",
    mutates_its_cotangent: "the pullback changed its cotangent",
    mutates_its_value: "the pullback changed its value",
    second_call_differs: "a second call of the pullback gives another gradient \\(x\\)",
    reuses_its_buffer: "a later call of the pullback overwrote its gradient \\(x\\)",
    not_linear: "the pullback is not linear in its cotangent \\(x\\)",
    random_forward: "the function gives another value when it is called again",
    two_minds_about_its_weight: "vjp\\(\\) is not vjp\\(1\\)",
}


@pytest.mark.parametrize("f, complaint", BROKEN.items(), ids=lambda x: getattr(x, "__name__", ""))
def test_rejects_a_broken_contract(f, complaint):
    with pytest.raises(AssertionError, match=complaint):
        assert_vjp(f, np.random.default_rng(3).normal(size=(3, 5)))


def test_rejects_another_number_of_gradients(affine_args):
    def forgets_bias(x, w, b):
        return x @ w + b, lambda dy: (dy @ w.T, x.T @ dy)

    report = check_vjp(forgets_bias, affine_args)
    assert "2 gradients for 3 arguments" in str(report) and not report.passed
    assert not check_vjp(lambda x: (x * x, lambda dy: (2 * x * dy,)), affine_args[:1]).passed


def test_rejects_a_gradient_missing_from_a_mapping(affine_args):
    x, w, b = affine_args

    def forgets(p):
        y, vjp = model(p)
        return y, lambda dy: {"x": vjp(dy)["x"], "head": {"w": vjp(dy)["head"]["w"]}}

    report = check_vjp(forgets, [{"x": x, "head": {"w": w, "b": b}}])
    assert [a.name for a in report.arguments if a.verdict == "wrong"] == ["p['head']['b']"]


def test_rejects_a_gradient_on_another_device(rng):
    x = strict_array.xp.asarray(rng.normal(size=4))
    report = check_vjp(lambda x: (x * x, lambda dy: to_host(2 * x * dy)), [x])
    assert report.arguments[0].verdict == "wrong"


def test_localises_one_wrong_entry_among_many(rng):
    def wrong(x):
        def vjp(dy):
            dx = 2 * x * dy
            dx[17, 123] += 0.5
            return dx

        return x * x, vjp

    (argument,) = check_vjp(wrong, [rng.normal(size=(40, 200))]).arguments
    assert argument.index == (17, 123) and argument.got - argument.wanted == pytest.approx(0.5)


def test_finds_the_worst_of_few_entries(affine_args):
    (_, w, _) = check_vjp(planted(dw=one_entry_off), affine_args).arguments
    assert w.index == (1, 2) and w.got == pytest.approx(w.wanted * 1.0001, rel=1e-8)


def test_report_reads_well(affine_args):
    text = str(check_vjp(planted(dw=lambda g: 2 * g), affine_args))
    head, x, w, b = text.split("\n  ")
    assert head == "the pullback fails (tolerance 1e-07, seed 0)"
    assert x.startswith("x: right") and b.startswith("b: right")
    assert w.startswith("w: wrong, relative error 1.0e+00 in 15 entries, worst at (") and "wanted" in w


# What cannot be known.


def test_says_that_a_kink_is_in_the_way():
    x = np.random.default_rng(0).normal(size=(4, 5))
    x[2, 3] = 0.0
    (argument,) = check_vjp(relu, [x]).arguments
    assert argument.verdict == "unclear" and "kink" in argument.reason and argument.index == (2, 3)


def test_a_kink_does_not_hide_a_wrong_gradient():
    x = np.random.default_rng(0).normal(size=(4, 5))
    x[2, 3] = 0.0
    (argument,) = check_vjp(lambda x: (relu(x)[0], lambda dy: 1.1 * relu(x)[1](dy)), [x]).arguments
    assert argument.verdict == "wrong" and argument.index != (2, 3)


def test_a_kink_in_a_large_array():
    x = np.random.default_rng(0).normal(size=(40, 50))
    assert check_vjp(relu, [x]).passed
    x[2, 3] = 0.0
    (argument,) = check_vjp(relu, [x]).arguments
    assert argument.verdict == "unclear" and "kink" in argument.reason


def test_says_that_a_jump_is_in_the_way():
    (argument,) = check_vjp(lambda x: (np.sign(x), lambda dy: 0 * dy), [np.array([1.0, 0.0])]).arguments
    assert argument.verdict == "unclear"


def test_says_that_the_function_is_not_finite():
    with np.errstate(all="ignore"):
        (argument,) = check_vjp(lambda x: (np.log(x), lambda dy: dy / x), [np.array([1.0, 0.0])]).arguments
    assert argument.verdict == "unclear" and "not finite" in argument.reason


def test_float32_is_held_to_what_it_can_do(affine_args):
    args = [x.astype(np.float32) for x in affine_args]
    report = check_vjp(affine, args)
    assert {argument.verdict for argument in report.arguments} == {"unclear"}
    assert "float32 rounds more than the tolerance" in str(report)
    assert_vjp(affine, *args, tol=1e-5)
    assert check_vjp(planted(dw=lambda g: g * np.float32(1.001)), args).arguments[1].verdict == "wrong"


def test_float16(affine_args):
    args = [x.astype(np.float16) for x in affine_args]
    assert_vjp(affine, *args, tol=0.1)
    assert not check_vjp(affine, args).passed


def test_says_that_the_function_itself_computes_in_float32(rng):
    def low(x):
        return np.exp(x.astype(np.float32)), lambda dy: dy * np.exp(x)

    def low_inside(x):
        return np.exp(x.astype(np.float32)).astype(np.float64), lambda dy: dy * np.exp(x)

    x = rng.normal(size=5)
    assert "not float64" in check_vjp(low, [x]).arguments[0].reason
    assert check_vjp(low_inside, [x]).arguments[0].verdict == "unclear"


def test_noise_is_no_excuse(rng):
    """A function that loses half of its digits must not pass a gradient for zero."""

    def noisy(x):
        return (1e9 + np.exp(x)) - 1e9, lambda dy: 0 * dy

    assert not check_vjp(noisy, [rng.normal(size=5)]).passed


# The options.


def test_seed_decides_everything(affine_args):
    f = planted(dw=one_entry_off)
    assert str(check_vjp(f, affine_args, seed=1)) == str(check_vjp(f, affine_args, seed=1))
    assert str(check_vjp(f, affine_args, seed=1)) != str(check_vjp(f, affine_args, seed=2))


def test_eps_is_the_first_step(rng):
    f = lambda x: (np.sin(1e5 * x), lambda dy: 1e5 * dy * np.cos(1e5 * x))  # noqa: E731
    assert_vjp(f, rng.normal(size=3), eps=1e-6)


def test_wrt_chooses_and_orders(affine_args):
    f = lambda x, w, b: (x @ w + b, lambda dy: (dy.sum(axis=0), dy @ w.T))  # noqa: E731
    report = check_vjp(f, affine_args, wrt=(2, 0))
    assert report.passed and [argument.name for argument in report.arguments] == ["b", "x"]


def test_number_of_evaluations_is_bounded(rng):
    calls = []

    def counted(x):
        calls.append(1)
        return x * x, lambda dy: 2 * x * dy

    assert_vjp(counted, rng.normal(size=(200, 300)))
    assert len(calls) < 150


@pytest.mark.parametrize(
    "f, options, message",
    [
        (lambda x: x, {}, r"returned ndarray; wanted a pair \(value, pullback\)"),
        (lambda x: (x, x), {}, "returned tuple; wanted a pair"),
        (lambda x: (x.astype(int), same), {}, "wanted floating arrays"),
        (lambda x: ("y", same), {}, "holds a str"),
        (lambda x: ((), same), {}, "value is an empty tuple"),
        (lambda x: (x, same), {"wrt": []}, "wrt names no position"),
        (lambda x: (x, same), {"tol": 2}, r"tol is 2; wanted a number in \(0, 1\)"),
        (lambda x: (x, same), {"tol": math.inf}, r"tol is inf; wanted a number in \(0, 1\)"),
        (lambda x: (x, same), {"max_entries": 0, "directions": 0}, "directions is 0; wanted at least 1"),
        (lambda x: (x, same), {"max_entries": -1}, "max_entries is -1; wanted at least 0"),
        (lambda x: (x, same), {"wrt": 1}, "wrt names position 1, where there is no floating array"),
    ],
)
def test_refuses_another_form(f, options, message):
    with pytest.raises(ValueError, match=message):
        check_vjp(f, [np.ones(3)], **options)


def test_refuses_arguments_without_anything_to_differentiate():
    with pytest.raises(ValueError, match="no argument holds a floating array"):
        check_vjp(lambda n: (np.ones(3) * n, same), [3])
