"""The optimiser: values worked by hand, the textbook's loop, the schedule's shape, decay on matrices only."""

import math
from itertools import pairwise

import numpy as np
import pytest

from minikd.models import Parameters
from minikd.optim import AdamW, Moments, clip_scale, cosine_schedule, global_norm

SHAPES = {"matrix": (300, 700), "vector": (41,)}  # more than one chunk


def adamw_slowly(params, gradients, rate, beta1, beta2, eps, decay):
    """Loshchilov & Hutter 2019, algorithm 2, a tensor at a time."""
    params = {name: value.copy() for name, value in params.items()}
    m = {name: np.zeros_like(value) for name, value in params.items()}
    v = {name: np.zeros_like(value) for name, value in params.items()}
    for t, gradient in enumerate(gradients, start=1):
        for name, p in params.items():
            g = gradient[name]
            m[name] = beta1 * m[name] + (1 - beta1) * g
            v[name] = beta2 * v[name] + (1 - beta2) * g**2
            m_hat, v_hat = m[name] / (1 - beta1**t), v[name] / (1 - beta2**t)
            params[name] = p - rate * (m_hat / (np.sqrt(v_hat) + eps) + (decay * p if p.ndim == 2 else 0))
    return params


def random_parameters(rng):
    params = Parameters.zeros(SHAPES, dtype=np.float64)
    params.flat[...] = rng.normal(size=params.flat.shape)
    return params


def test_first_step_by_hand():
    params = Parameters({"w": (2, 1)}, np.array([1.0, -2.0]))
    moments = Moments.zeros(params)
    AdamW(weight_decay=0.5, eps=0.0).update(params, np.array([3.0, -4.0]), moments, learning_rate=0.1)
    # the first step is lr in the direction of the sign, after the decay of 5 %
    np.testing.assert_allclose(params.flat, [0.95 - 0.1, -1.9 + 0.1], rtol=1e-14)
    assert moments.updates == 1


def test_several_steps_are_the_textbooks(rng):
    params = random_parameters(rng)
    gradients = [random_parameters(rng) for _ in range(4)]
    wanted = adamw_slowly(params, gradients, 0.01, 0.9, 0.95, 1e-4, 0.3)
    moments, optimizer = Moments.zeros(params), AdamW(beta2=0.95, eps=1e-4, weight_decay=0.3)
    for gradient in gradients:
        optimizer.update(params, 2 * gradient.flat, moments, learning_rate=0.01, scale=0.5)
    for name in SHAPES:
        np.testing.assert_allclose(params[name], wanted[name], rtol=1e-12, atol=1e-15)


def test_only_matrices_decay(rng):
    params = random_parameters(rng)
    before = {name: value.copy() for name, value in params.items()}
    AdamW(weight_decay=0.1).update(params, np.zeros_like(params.flat), Moments.zeros(params), learning_rate=0.5)
    np.testing.assert_allclose(params["matrix"], 0.95 * before["matrix"], rtol=1e-14)
    np.testing.assert_array_equal(params["vector"], before["vector"])


def test_update_keeps_float32_and_the_gradient(rng):
    params = Parameters.zeros(SHAPES)
    gradient = rng.normal(size=params.flat.shape).astype(np.float32)
    kept, moments = gradient.copy(), Moments.zeros(params)
    norm = global_norm(gradient)
    AdamW().update(params, gradient, moments, learning_rate=1e-3, scale=clip_scale(norm, 1.0))
    assert {params.flat.dtype, moments.first.dtype, moments.second.dtype, norm.dtype} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(gradient, kept)


def test_clipping():
    assert global_norm(np.array([3.0, 4.0])) == 5.0
    assert clip_scale(np.float64(5.0), 1.0) == pytest.approx(0.2)
    assert clip_scale(np.float64(0.5), 1.0) == 1.0
    assert clip_scale(np.float64(0.0), 1.0) == 1.0
    assert clip_scale(np.float64(5.0), math.inf) == 1.0


@pytest.mark.parametrize("fields", [{"beta1": 1}, {"beta2": 1}, {"beta2": -0.1}, {"weight_decay": math.inf}])
def test_optimisers_that_cannot_be(fields):
    ((name, value),) = fields.items()
    with pytest.raises(ValueError, match=f"{name} is {value}; wanted a"):
        AdamW(**fields)


def test_schedule():
    rates = [cosine_schedule(i, peak=2.0, warmup_steps=4, steps=104, final=0.5) for i in range(105)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4] == 2.0
    assert rates[54] == pytest.approx((2.0 + 0.5) / 2)
    assert rates[104] == pytest.approx(0.5)
    assert all(a >= b for a, b in pairwise(rates[4:]))
    assert math.isclose(cosine_schedule(0, peak=1.0, warmup_steps=0, steps=1), 1.0)
