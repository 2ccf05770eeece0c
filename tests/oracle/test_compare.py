"""What is right is accepted; what is wrong is rejected, and the words say where."""

import math

import numpy as np
import pytest

from minikd.oracle.compare import TOLERANCES, compare, compare_outputs

TOL = TOLERANCES["float64"]


@pytest.fixture
def wanted(rng):
    return rng.normal(size=(2, 3, 5))


def changed(x, index, value):
    y = x.copy()
    y[index] = value
    return y


def test_accepts_what_is_the_same_to_rounding(wanted):
    assert compare(wanted, wanted, tol=TOL) == compare(wanted, wanted, tol=0.0)
    found = compare(wanted * (1 + 1e-9), wanted, tol=TOL)
    assert found.right and found.relative_error == pytest.approx(1e-9, rel=1e-3)
    assert found.median_ratio == pytest.approx(1) and str(found) == "right, relative error 1.0e-09"
    assert compare(wanted.astype("float32"), wanted, tol=TOLERANCES["float32"]).right


def test_accepts_numbers_of_any_kind():
    for got in (0.5, np.float32(0.5), np.array(0.5), np.array(0.5, dtype="float16")):
        assert compare(got, 0.5, tol=TOL).right
    assert compare(np.array([1, 2]), np.array([1, 2]), tol=TOL).right
    assert compare(np.zeros((0, 3)), np.zeros((0, 3)), tol=TOL).right


def test_rejects_a_factor_and_knows_it(wanted):
    found = compare(2 * wanted, wanted, tol=TOL)
    assert not found.right and found.relative_error == pytest.approx(1) and found.median_ratio == pytest.approx(2)
    assert found.where == "everywhere"
    assert found.index == np.unravel_index(abs(wanted).argmax(), wanted.shape)
    assert (found.got, found.wanted) == (2 * wanted[found.index], wanted[found.index])


@pytest.mark.parametrize("size", [1e-2, 1.0, 1e200])
def test_relative_to_any_size(wanted, size):
    assert compare(size * wanted * (1 + TOL / 2), size * wanted, tol=TOL).right
    found = compare(size * wanted * (1 + 2 * TOL), size * wanted, tol=TOL)
    assert not found.right and found.relative_error == pytest.approx(2 * TOL, rel=1e-6)


def test_what_is_nearly_nothing_is_right_to_rounding(wanted):
    assert compare(0 * wanted, 1e-60 * wanted, tol=TOL).right
    assert compare(wanted * 1e-9 * (1 + 1e-3), 1e-9 * wanted, tol=TOL).right
    assert not compare(1.01 * 1e-6 * wanted, 1e-6 * wanted, tol=TOL).right


def test_zeros_are_to_be_zero():
    wanted = np.array([[1.0, 2.0], [0.0, 0.0]])
    assert compare(wanted + np.array([[0, 0], [0, 1e-16]]), wanted, tol=TOL).right
    found = compare(wanted + np.array([[0, 0], [0, 1e-8]]), wanted, tol=TOL)  # within the tolerance of the others
    assert not found.right and found.where == "only where 0 is wanted" and found.index == (1, 1)
    assert compare(np.full(3, 1e-17), np.zeros(3), tol=TOL).right
    found = compare(np.full(3, 1e-6), np.zeros(3), tol=TOL)
    assert not found.right and found.relative_error == math.inf and math.isnan(found.median_ratio)


def test_infinities_are_exact():
    wanted = np.array([1.0, math.inf, -math.inf, 0.0])
    assert compare(wanted, wanted, tol=TOL).right
    found = compare(np.array([1.0, 1e308, -math.inf, 0.0]), wanted, tol=TOL)
    assert not found.right and found.where == "only where inf is wanted" and found.index == (1,)
    assert not compare(-wanted, wanted, tol=TOL).right
    assert not compare(np.array([math.inf]), np.array([-math.inf]), tol=TOL).right
    found = compare(np.array([1.0, math.inf, -math.inf, -math.inf]), wanted, tol=TOL)
    assert not found.right and found.where == "where it is inf (1 of 4 entries)" and found.got == -math.inf


def test_nan_is_wrong_where_a_number_is_wanted(wanted):
    found = compare(changed(wanted, (1, 2, 3), math.nan), wanted, tol=TOL)
    assert not found.right and found.where == "where it is NaN (1 of 30 entries)" and found.index == (1, 2, 3)
    assert compare(math.nan, 1.0, tol=TOL).where == "where it is NaN"
    assert not compare(np.zeros(2), np.full(2, math.nan), tol=TOL).right
    assert compare(np.full(2, math.nan), np.full(2, math.nan), tol=TOL).right


def test_shapes(wanted):
    found = compare(wanted[0], wanted, tol=TOL)
    assert not found.right and found.where == "in shape: (3, 5), wanted (2, 3, 5)" and found.index is None
    assert compare(np.zeros(1), 0.0, tol=TOL).where == "in shape: (1,), wanted a number"
    assert compare(wanted.mean(), wanted, tol=TOL).where == "in shape: a number, wanted (2, 3, 5)"
    for nothing in (None, "1.0 of them", [[1.0], [1.0, 2.0]], object()):
        assert not compare(nothing, wanted, tol=TOL).right


@pytest.mark.parametrize(
    "index, where",
    [
        ((1, 2, 3), "in one entry only"),
        (np.s_[:, 2], "only in the last token"),
        (np.s_[:, 0], "only in the first token"),
        (np.s_[:, 1, 2:], "only in token 1"),
        (np.s_[1], "only in the last sequence"),
        (np.s_[..., 4], "only in the last column"),
        (np.s_[0, :2], "only in the first sequence"),
        (np.s_[:, :2, :2], "in 8 of 30 entries"),
        (np.s_[:], "everywhere"),
    ],
)
def test_where(wanted, index, where):
    assert compare(changed(wanted, index, 9.0), wanted, tol=TOL).where == where


def test_where_in_arrays_of_fewer_axes(rng):
    wanted = rng.normal(size=(4, 3))
    assert compare(changed(wanted, -1, 9.0), wanted, tol=TOL).where == "only in the last row"
    assert compare(changed(wanted, np.s_[:, 1], 9.0), wanted, tol=TOL).where == "only in column 1"
    wanted = rng.normal(size=7)
    assert compare(changed(wanted, 3, 9.0), wanted, tol=TOL).where == "in one entry only"
    assert compare(2.0, 1.0, tol=TOL).where == "in its value"
    wanted = rng.normal(size=(2, 2, 3, 4))
    assert compare(changed(wanted, np.s_[:, 1], 9.0), wanted, tol=TOL).where == "only in the last index of axis 1"


def test_masked_rows(wanted):
    mask = np.array([[True, True, False], [True, False, True]])
    right = np.where(mask[..., None], wanted, 0)
    assert compare(wanted, right, tol=TOL, mask=mask).where == "only in the masked rows"
    assert compare(np.where(mask, 1.0, 2.0), np.where(mask, 1.0, 0.0), tol=TOL, mask=mask).where == (
        "only in the masked rows"
    )
    assert compare(2 * right, right, tol=TOL, mask=mask).where == "in 20 of 30 entries"
    assert compare(2 * wanted[0, 0], wanted[0, 0], tol=TOL, mask=mask).where == "everywhere"  # no tokens in its axes
    assert compare(2.0, 1.0, tol=TOL, mask=mask).where == "in its value"


def test_small_errors_spread_over_many_entries_are_found():
    wanted = np.ones(10_000)
    got = wanted + np.where(np.arange(10_000) % 2, 1.2e-7, 0.9e-7)
    found = compare(got, wanted, tol=TOL)
    assert not found.right and found.index is not None and found.index[0] % 2 == 1


def test_it_reads_well(wanted):
    text = str(compare(changed(2 * wanted, (0, 1, 2), 100.0), wanted, tol=TOL))
    assert text.startswith("wrong everywhere, worst at [0, 1, 2]: got 100, wanted ")
    assert "relative error" in text and text.endswith("median ratio 2")


def test_outputs_by_name(wanted):
    found = compare_outputs({"loss": 1.0, "dx": 2 * wanted, "dy": wanted}, {"loss": 1.0, "dx": wanted}, tol=TOL)
    assert {name: comparison.right for name, comparison in found.items()} == {"loss": True, "dx": False}
    missing = compare_outputs({"loss": 1.0}, {"loss": 1.0, "dx": wanted}, tol=TOL)["dx"]
    assert not missing.right and missing.where == "in number: it is missing"
