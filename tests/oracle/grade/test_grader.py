"""What is right passes, what is wrong fails, what is not written does not count."""

import pytest

from minikd.oracle.grade.sandbox import BadFile
from minikd.oracle.grade.trials import COLUMNS, seeded, trials
from minikd.oracle.subjects import SUBJECTS
from tests.oracle.grade.graded import HERE, LINEAR, graded, one

SOFTMAX = """
import numpy as np

def softmax(logits, temperature=1.0):
    z = logits / temperature
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return p, lambda dp: p * (dp - (p * dp).sum(-1, keepdims=True)) / temperature
"""


def failed(exercise):
    return {case.name: case.reason for case in exercise.cases if not case.passed}


def test_the_textbook_in_numpy_is_right():
    report = graded((HERE / "answers_numpy.py").read_text(encoding="utf-8"))
    assert {exercise.name: exercise.diagnosis for exercise in report.exercises if not exercise.passed} == {}
    assert len(report.exercises) == 23 and report.passed


@pytest.mark.torch
@pytest.mark.slow
def test_the_textbook_in_pytorch_is_right():
    pytest.importorskip("torch")
    report = graded((HERE / "answers_torch.py").read_text(encoding="utf-8"))
    assert {exercise.name: exercise.diagnosis for exercise in report.exercises if not exercise.passed} == {}
    assert len(report.exercises) == 33


@pytest.mark.slow
def test_the_textbook_in_jax_is_right():
    pytest.importorskip("jax")
    report = graded((HERE / "answers_jax.py").read_text(encoding="utf-8"))
    assert {exercise.name: exercise.diagnosis for exercise in report.exercises if not exercise.passed} == {}
    assert len(report.exercises) == 6


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
def test_what_is_right_is_right_with_any_cases(seed):
    report = graded((HERE / "answers_numpy.py").read_text(encoding="utf-8"), seed=seed)
    assert {exercise.name: exercise.diagnosis for exercise in report.exercises if not exercise.passed} == {}


def test_the_cases_are_new_with_every_seed_and_the_same_with_one():
    subject = SUBJECTS["softmax"]
    first, again, other = (
        [trial.sent["logits"].tobytes() for trial in trials(subject, seeded(seed, "softmax"))] for seed in (1, 1, 2)
    )
    assert first == again
    assert not set(first) & set(other)
    assert seeded(1, "softmax").random() != seeded(1, "xamtfos").random()


def test_every_column_is_looked_at():
    seen = {case.column for case in one(SOFTMAX).cases}
    assert seen == set(COLUMNS) - {"mask", "close"}
    (forward,) = graded((HERE / "answers_numpy.py").read_text(encoding="utf-8"), "forward_kl").exercises
    assert {case.column for case in forward.cases} == set(COLUMNS)


def test_the_judge_sends_neither_answers_nor_mistakes():
    for name in ("softmax", "forward_kl", "adamw_step"):
        for trial in trials(SUBJECTS[name], seeded(0, name)):
            head, arrays = trial.request(SUBJECTS[name])
            assert set(arrays) - {"cotangent 0"} == set(trial.case.inputs)
            assert set(head) == {
                "function", "positional", "keyword", "attributes", "wrt", "cotangents", "strided"
            }  # fmt: skip


def test_a_mistake_in_one_function_leaves_the_others_alone():
    report = graded(SOFTMAX.replace("/ temperature\n    p =", "\n    p =") + LINEAR)
    assert [(exercise.name, exercise.passed) for exercise in report.exercises] == [("softmax", False), ("linear", True)]
    assert not report.passed
    softmax = report.exercises[0]
    assert set(failed(softmax)) >= {"soft", "sharp"} and "basic" not in failed(softmax)


def test_a_loss_may_do_without_reduction():
    text = (HERE / "answers_numpy.py").read_text(encoding="utf-8")
    (exercise,) = graded(text, "cross_entropy").exercises
    assert exercise.passed
    assert not {"sum", "none", "mask-none"} & {case.name for case in exercise.cases}


def test_the_weight_of_a_loss_may_be_left_to_the_judge():
    text = (HERE / "answers_numpy.py").read_text(encoding="utf-8")
    without = text.replace("def vjp(w=1.0):", "def vjp():").replace("(w / ", "(1 / ")
    assert "w=1.0" not in without
    (exercise,) = graded(without, "cross_entropy").exercises
    assert exercise.passed


def test_a_stub_is_not_attempted():
    stub = "\ndef gelu(x):\n    raise NotImplementedError\n"
    report = graded(SOFTMAX + stub)
    assert [(exercise.name, exercise.attempted) for exercise in report.exercises] == [
        ("softmax", True),
        ("gelu", False),
    ]
    assert report.passed
    assert not graded(stub).passed, "nothing was attempted"
    asked_for = graded(SOFTMAX + stub, "softmax", "gelu")
    assert not asked_for.passed
    assert "not written yet" in asked_for.exercises[1].diagnosis


def test_what_is_asked_for_and_missing_fails():
    report = graded(SOFTMAX, "gelu", "softmax")
    assert [(exercise.name, exercise.passed) for exercise in report.exercises] == [("gelu", False), ("softmax", True)]
    assert report.exercises[0].diagnosis == "the file has no function of this name"


def test_a_name_may_be_asked_for_twice():
    assert [exercise.name for exercise in graded(LINEAR, "linear", "linear").exercises] == ["linear"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it has none of the exercises' functions"),
        ("softmax = 3", "it has none of the exercises' functions"),
        ("def softmax(:\n", "line 1: SyntaxError"),
        ("import torch_geometric\n" + SOFTMAX, "No module named"),
        ("import os\nos._exit(0)", "it ended its process"),
    ],
)
def test_what_cannot_be_graded(text, message):
    with pytest.raises(BadFile, match=message):
        graded(text)


@pytest.mark.parametrize(
    ("change", "case", "reason"),
    [
        (("return p,", "return p.astype(np.float32),"), "basic", "p is float32; wanted float64, like the inputs"),
        (("return p, lambda", "return p, p, lambda"), "basic", "it returned a tuple of 3; wanted a pair"),
        (("return p, lambda", "return list(p), lambda"), "basic", "its value is a list; wanted an array"),
        (("return p, lambda", "return p[0], lambda"), "basic", "p is wrong in shape: (5,), wanted (3, 5)"),
        (("lambda dp: p * (", "lambda dp: 0 * 1j * ("), "basic", "the gradient of logits is an array of complex128"),
        (("lambda dp: p", "lambda dp: None and p"), "basic", "the gradient of logits is a NoneType; wanted an array"),
        (("lambda dp: p", "lambda: p"), "basic", "TypeError"),
        (("lambda dp: p", "lambda dp, seen=[]: seen.append(1) or len(seen) * p"), "pullback twice", "its second call"),
        (("z = logits / temperature", "z = np.ascontiguousarray(logits).base / temperature"), "basic", "TypeError"),
        (("z = logits /", "assert logits.flags.c_contiguous\n    z = logits /"), "non-contiguous", "AssertionError"),
        (
            ("z = logits /", "z = logits.astype(float) /"),
            "float32",
            "dlogits is float64; wanted float32, like the inputs",
        ),
        (("temperature=1.0", ""), "soft", "TypeError: softmax() got an unexpected keyword argument 'temperature'"),
    ],
)
def test_what_is_wrong_is_said(change, case, reason):
    text = SOFTMAX.replace(*change)
    assert text != SOFTMAX
    assert reason in failed(one(text))[case]


@pytest.mark.torch
@pytest.mark.slow
def test_pytorch_takes_the_gradient():
    pytest.importorskip("torch")
    text = "import torch\ndef softmax(logits, temperature=1.0): return torch.softmax(logits / temperature, -1)"
    assert one(text).passed


@pytest.mark.torch
@pytest.mark.torch
def test_what_is_imported_from_the_framework_is_no_exercise():
    pytest.importorskip("torch")
    text = "from torch.nn.functional import log_softmax, softmax as soft\n"
    text += "def softmax(logits, temperature=1.0): return soft(logits / temperature, dim=-1)"
    assert one(text).name == "softmax"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "diagnosis"),
    [
        (
            "import torch\ndef softmax(logits, temperature=1.0):\n    p = torch.softmax(logits / temperature, -1)\n"
            "    return p, lambda dp: p * (dp - (p * dp).sum(-1, keepdim=True)) / temperature",
            "",
        ),
        ("import torch\nFRAMEWORK = 'numpy'" + SOFTMAX, ""),
        (
            "import torch\ndef softmax(logits, temperature=1.0): return (logits / temperature).softmax(-1).detach()",
            "your dlogits is 0 throughout: is something detached, or taken for a constant?",
        ),
        (
            "import torch\ndef softmax(logits, temperature=1.0): return logits.softmax(-1).tolist()",
            "it returned a list; wanted a tensor, or a pair (value, pullback)",
        ),
    ],
)
def test_pytorch_in_either_form(text, diagnosis):
    pytest.importorskip("torch")
    exercise = one(text)
    assert exercise.diagnosis == diagnosis
    assert exercise.passed == (not diagnosis)
