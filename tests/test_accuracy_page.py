"""The page about the losses' accuracy, and how it is measured."""

import json
import math

import mpmath as mp
import numpy as np
import pytest

from docs.accuracy import MEASURED, PAGE, page


@pytest.fixture(scope="module")
def report():
    return json.loads(MEASURED.read_text(encoding="utf-8"))


def test_the_page_says_what_was_measured(report):
    assert PAGE.read_text(encoding="utf-8") == page(report)


def test_minikd_keeps_what_is_asked_of_it(report):
    assert report["cases"]["difficult"] >= 2000
    for dtype in ("float64", "float32"):
        for loss, libraries in report["losses"]["difficult"][dtype].items():
            own = libraries["minikd"]
            assert own["negative"] == own["not_a_number"] == 0, loss
            assert own["value"]["too_large"] == own["gradient"]["too_large"] == 0, loss
            assert min(own[what]["cases"] for what in ("value", "gradient")) > 900


@pytest.mark.torch
def test_how_a_case_counts():
    pytest.importorskip("torch")
    from benchmarks.accuracy import Tally

    half, gradient = mp.mpf("0.5"), np.array([0.25, -0.25])
    truth = half, [mp.mpf("0.25"), mp.mpf("-0.25")], mp.mpf("1e-30")
    tally = Tally()
    tally.add(np.float64(0.5), gradient, *truth)
    tally.add(np.float64(0.75), gradient * 2, *truth)
    tally.add(np.float64(-0.5), gradient, *truth)
    tally.add(np.float64(math.nan), gradient, *truth)
    tally.add(np.float64(0.5), gradient * math.nan, *truth)
    tally.add(np.float64(math.inf), gradient, mp.inf, [], mp.mpf("1e-30"))
    summary = tally.summary(1e-12)
    assert summary["value"] == {"cases": 4, "median": 0.25, "worst": 2.0, "too_large": 2}
    assert summary["gradient"] == {"cases": 4, "median": 0.0, "worst": 1.0, "too_large": 1}
    assert summary["negative"] == 1
    assert summary["not_a_number"] == 2


@pytest.mark.torch
def test_on_ordinary_logits_all_libraries_agree():
    pytest.importorskip("torch")
    from benchmarks.accuracy import CALLS, measure, ordinary_cases

    for of_loss in measure(ordinary_cases(1, "float64"), "float64", CALLS).values():
        for library, summary in of_loss.items():
            assert summary["value"]["worst"] < 1e-13, library
            assert summary["gradient"]["worst"] < 1e-13, library
