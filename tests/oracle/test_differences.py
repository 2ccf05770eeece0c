import math

import numpy as np
import pytest

from minikd.oracle.differences import slope


def along(f, x=0.0):
    return lambda h: (f(x + h) - f(x - h), f(x + h) - 2 * f(x) + f(x - h))


SMOOTH = {
    "exp": (math.exp, 0.5, math.exp(0.5)),
    "sine, steep": (lambda x: math.sin(1000 * x), 0.1, 1000 * math.cos(100.0)),
    "square": (lambda x: x * x, 0.0, 0.0),
    "line": (lambda x: 3 * x + 1, 2.0, 3.0),
    "logistic, narrow": (lambda x: 1 / (1 + math.exp(-(x - 2) / 1e-3)), 2.0005, 235.003712201594),
    "kink nearby": (lambda x: abs(x - 1), 1.001, 1.0),
}


@pytest.mark.parametrize("f, x, wanted", SMOOTH.values(), ids=SMOOTH.keys())
def test_slope_of_smooth_functions(f, x, wanted):
    found = slope(along(f, x), step=0.02, goal=1e-9, noise=2e-16)
    assert not found.kink
    assert abs(found.value - wanted) <= 1e-9 * max(1.0, abs(wanted))
    assert abs(found.value - wanted) <= 10 * found.error + 1e-15


@pytest.mark.parametrize("bend", [1e-3, 1.0, 1e3])
def test_kink_at_the_point(bend):
    found = slope(along(lambda x: math.sin(x) + bend * abs(x)), step=0.02, goal=1e-9, noise=2e-16)
    assert found.kink


def test_jump_is_no_slope():
    found = slope(along(lambda x: float(x > 0)), step=0.02, goal=1e-9, noise=2e-16)
    assert found.error > 0.1


def test_error_says_how_much_noise_there_is():
    noise = np.random.default_rng(0)
    found = slope(along(lambda x: math.exp(x) + 1e-6 * noise.standard_normal()), step=0.1, goal=1e-9, noise=1e-6)
    assert found.error >= 1e-6 and abs(found.value - 1) <= 10 * found.error


def test_not_finite():
    found = slope(along(lambda x: math.inf if x > 0 else x), step=0.02, goal=1e-9, noise=2e-16)
    assert math.isnan(found.value) and found.error == math.inf


def test_secant():
    assert slope(along(lambda x: x * x + x), step=0.25, goal=1e-9, noise=0.0).secant == pytest.approx(1.25)
