"""What people and programs are shown."""

import io
import json

import pytest
from rich.console import Console

from minikd.oracle.grade.hints import HINTS
from minikd.oracle.grade.report import as_gradescope, as_json, show
from minikd.oracle.grade.trials import COLUMNS
from minikd.oracle.subjects import SUBJECTS
from tests.oracle.grade.graded import LINEAR, graded

TEXT = (
    LINEAR
    + """
import numpy as np

def softmax(logits, temperature=1.0):
    print("looking at", logits.shape, "\\x1b[2J[bold]")
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return p, lambda dp: p * (dp - (p * dp).sum(-1, keepdims=True))

def gelu(x):
    raise NotImplementedError

def embedding(ids, table):
    import os
    os._exit(0)
"""
)


@pytest.fixture(scope="module")
def report():
    return graded(TEXT)


def shown(report, monkeypatch, *, terminal=False, encoding="utf-8", no_color=False, **options):
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict", write_through=True)
    show(report, Console(file=file, force_terminal=terminal or None, highlight=False), **options)
    return file.buffer.getvalue().decode(encoding)


def test_a_table_for_people(report, monkeypatch):
    lines = shown(report, monkeypatch).splitlines()
    assert lines[0].split() == [
        "basic",
        "edges",
        "T",
        "mask",
        "far",
        "-inf",
        "shift",
        "close",
        "f32",
        "view",
        "again",
        "rand",
    ]
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:4]}
    assert len(lines[0].split()) == len(COLUMNS)
    assert rows["softmax"] == list("✓✓✗·✓✓✓·✓✓✓✗") or rows["softmax"][2] == "✗"
    assert rows["linear"] == list("✓✓······✓✓✓✓")
    assert set(rows["embedding"]) == {"✗", "·"}
    text = "\n".join(lines)
    assert "✗ softmax: the temperature is not used" in text
    assert "soft: p is wrong everywhere: at [" in text
    assert "✗ embedding: it ended its process (exit code 0) instead of answering" in text
    assert "not called any more" not in text
    assert "  | looking at (3, 5) " in text
    assert lines[-1] == "answers.py: 1 of 3 right, 1 not written yet (the same cases again: --seed 0)"


def test_colours_are_for_terminals(report, monkeypatch):
    assert "\x1b" not in shown(report, monkeypatch)
    coloured = shown(report, monkeypatch, terminal=True)
    assert "\x1b[31m" in coloured and "\x1b[32m" in coloured
    plain = shown(report, monkeypatch, terminal=True, no_color=True)
    assert not any(f"\x1b[{code}m" in plain for code in (31, 32))
    assert all("\x1b[2J" not in text for text in (coloured, plain)), "a file writes to the terminal"


def test_signs_that_any_terminal_has(report, monkeypatch):
    text = shown(report, monkeypatch, encoding="ascii")
    assert "x softmax: the temperature is not used" in text


def test_conventions_in_words(report, monkeypatch):
    assert "linear follows: y = x W + b with W stored (in, out)" in shown(report, monkeypatch, conventions=True)
    assert "follows" not in shown(report, monkeypatch)


def test_json(report):
    found = json.loads(json.dumps(as_json(report), allow_nan=False))
    assert (found["file"], found["seed"], found["passed"]) == ("answers.py", 0, False)
    by_name = {exercise["name"]: exercise for exercise in found["exercises"]}
    assert set(by_name) == {"softmax", "linear", "embedding", "gelu"}
    for exercise in by_name.values():
        assert {"name", "passed", "cases", "diagnosis"} <= set(exercise)
        for case in exercise["cases"]:
            assert {"name", "passed", "loss_error", "grad_error", "reason"} <= set(case)
            assert case["passed"] == (case["reason"] == "")
    assert [name for name, exercise in by_name.items() if exercise["passed"]] == ["linear"]
    assert by_name["gelu"]["attempted"] is False
    soft = next(case for case in by_name["softmax"]["cases"] if case["name"] == "soft")
    assert soft["loss_error"] > 0.1 and soft["grad_error"] > 0.1 and soft["reason"].startswith("p is wrong")


def test_gradescope(report):
    found = json.loads(json.dumps(as_gradescope(report.exercises, ["linear", "softmax", "js", "linear"], "summary")))
    assert found["output"] == "summary"
    assert [test["name"] for test in found["tests"]] == ["linear", "softmax", "js"]
    assert [(test["score"], test["max_score"]) for test in found["tests"]] == [(1.0, 1.0), (0.0, 1.0), (0.0, 1.0)]
    assert [test["status"] for test in found["tests"]] == ["passed", "failed", "failed"]
    assert found["tests"][1]["output"].startswith("the temperature is not used\nsoft: p is wrong")
    assert found["tests"][2]["output"] == "not written yet"
    assert {test["output_format"] for test in found["tests"]} == {"text"}


def test_three_hints_for_every_exercise():
    assert list(HINTS) == list(SUBJECTS)
    for hints in HINTS.values():
        assert len(hints) == len(set(hints)) == 3
        assert all(20 < len(hint) < 330 and hint[-1] in ".?" for hint in hints)
