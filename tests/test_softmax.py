import math
from functools import partial

import numpy as np
import pytest

from minikd.backend import to_host
from minikd.oracle import assert_vjp
from minikd.softmax import log_softmax, softmax


def test_by_hand():
    logits = np.log([[1.0, 2.0, 5.0]])
    np.testing.assert_allclose(softmax(logits)[0], [[0.125, 0.25, 0.625]], rtol=1e-15)
    np.testing.assert_allclose(log_softmax(logits)[0], np.log([[0.125, 0.25, 0.625]]), rtol=1e-15)
    roots = np.sqrt([1, 2, 5])
    np.testing.assert_allclose(softmax(logits, temperature=2)[0], [roots / roots.sum()], rtol=1e-15)
    np.testing.assert_array_equal(softmax(logits, 2.0)[0], softmax(logits, temperature=2.0)[0])


@pytest.mark.parametrize("shape", [(1,), (1, 1), (3, 41), (2, 5, 401), (40, 2048)])
@pytest.mark.parametrize("function", [softmax, log_softmax])
def test_vjp(rng, function, shape):
    assert_vjp(partial(function, temperature=3.0), rng.normal(size=shape))
    assert_vjp(function, rng.normal(size=shape).swapaxes(0, -1) * 2)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
@pytest.mark.parametrize("function", [softmax, log_softmax])
def test_types(rng, function, dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    logits = rng.normal(size=(3, 41)).astype(dtype)
    y, vjp = function(logits, 2.0)
    assert y.dtype == ("float64" if dtype == "float64" else "float32")
    wanted = function(logits.astype("float64"), 2.0)[0]
    np.testing.assert_allclose(y, wanted, rtol=1e-6)  # a float16 was computed in float32
    assert vjp(np.ones_like(y)).dtype == dtype


def test_probabilities_sum_to_one_and_a_shift_changes_nothing(rng):
    logits = rng.integers(-100, 100, size=(7, 401)) / 8
    p, _ = softmax(logits, 3.0)
    np.testing.assert_allclose(p.sum(axis=-1), 1, rtol=1e-14)
    for shift in (-1024.0, 4096.0):
        np.testing.assert_array_equal(softmax(logits + shift, 3.0)[0], p)
        np.testing.assert_array_equal(log_softmax(logits + shift, 3.0)[0], log_softmax(logits, 3.0)[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_any_temperature_stays_finite(dtype):
    logits = np.array([[3.0, 1.0, 3.0, -7.0]], dtype=dtype)
    for cold in (1e-3, 1e-9, 1e-15):
        np.testing.assert_array_equal(softmax(logits, cold)[0], [[0.5, 0, 0.5, 0]])
        assert not np.isnan(log_softmax(logits, cold)[0]).any()
    for hot in (1e10, 1e12, 1e15):
        np.testing.assert_allclose(softmax(logits, hot)[0], 0.25, rtol=1e-6)
        np.testing.assert_allclose(log_softmax(logits, hot)[0], -math.log(4), rtol=1e-6)
        assert np.isfinite(softmax(logits, hot)[1](logits)).all()


def test_huge_logits_and_almost_certain_entries():
    p, _ = softmax(np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]]))
    np.testing.assert_allclose(p, [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-15)
    logp, _ = log_softmax(np.array([[0.0, -50.0]]))
    assert logp[0, 0] == pytest.approx(-math.exp(-50), rel=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_minus_infinity_has_no_probability_and_no_gradient(rng, xp, dtype):
    logits = rng.normal(size=(4, 41)).astype(dtype)
    logits[:, ::5] = -np.inf
    cotangent = rng.normal(size=(4, 41)).astype(dtype)
    finite = np.isfinite(logits[0])
    for function, empty in ((softmax, 0), (log_softmax, -np.inf)):
        y, vjp = function(xp.asarray(logits), 2.0)
        gradient = to_host(vjp(xp.asarray(cotangent)))
        assert (to_host(y)[:, ~finite] == empty).all()
        assert (gradient[:, ~finite] == 0).all()
        alone, vjp_alone = function(logits[:, finite], 2.0)
        np.testing.assert_allclose(to_host(y)[:, finite], alone, rtol=1e-6)
        np.testing.assert_allclose(gradient[:, finite], vjp_alone(cotangent[:, finite]), rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("function", [softmax, log_softmax])
def test_wrong_arguments(function):
    logits = np.zeros((2, 3))
    for temperature in (0, -1.0, math.inf, math.nan, "hot", None, 5e-324, 9e-16, 1.1e15, 10**400):
        with pytest.raises(ValueError, match=r"temperature is .*; wanted a number from 1e-15 to 1e\+15"):
            function(logits, temperature)
    with pytest.raises(ValueError, match="-inf throughout"):
        function(np.array([[0.0, 1.0], [-np.inf, -np.inf]]))
    for dtype in (int, bool, complex, object, ">f8"):
        with pytest.raises(ValueError, match=r"logits are \S+ \(2, 3\); wanted an array of type float16, "):
            function(logits.astype(dtype))
    with pytest.raises(ValueError, match="logits are a list; wanted an array"):
        function([1.0, 2.0])
    for shape in ((), (2, 0)):
        with pytest.raises(ValueError, match=r"logits are float64 \(.*\); wanted at least one axis"):
            function(np.zeros(shape))


@pytest.mark.parametrize("function", [softmax, log_softmax])
def test_a_cotangent_has_the_shape_of_the_value(function):
    _, vjp = function(np.zeros((2, 3)))
    for wrong in (np.ones((3, 2)), np.ones(6), np.ones(3), 1.0):
        with pytest.raises(ValueError, match=r"the cotangent is .*; wanted the value's shape, \(2, 3\)"):
            vjp(wrong)
