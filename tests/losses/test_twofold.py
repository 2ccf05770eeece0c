from fractions import Fraction

import numpy as np

from minikd.losses.twofold import two_product, two_sum


def test_nothing_is_lost(rng):
    a, b = rng.normal(size=(2, 300)) * 10.0 ** rng.integers(-40, 40, size=(2, 300))
    for result, exact in ((two_sum(a, b), Fraction.__add__), (two_product(a, b), Fraction.__mul__)):
        for x, y, rounded, error in zip(a, b, *result, strict=True):
            assert Fraction(rounded) + Fraction(error) == exact(Fraction(x), Fraction(y))
            assert abs(error) <= np.spacing(abs(rounded)) / 2


def test_of_what_is_not_finite_the_error_is_zero():
    a, b = np.array([np.inf, -np.inf, np.inf, 1e308]), np.array([1.0, 2.0, -np.inf, 1e308])
    with np.errstate(all="ignore"):
        for rounded, error in (two_sum(a, b), two_product(a, b)):
            assert not np.isfinite(rounded).any() and (error == 0).all()
