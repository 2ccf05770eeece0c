"""What is said to a person is what they did."""

import numpy as np
import pytest

from minikd.oracle.mutants import MUTANTS
from tests.oracle.grade.graded import HERE, graded
from tests.oracle.grade.handed_in import diagnoses, in_torch, misnamed, numpy_file, torch_file

SOME = {
    "softmax": "no-temperature-in-gradient",
    "linear": "transposed-weight-gradient",
    "layer_norm": "detached-variance",
    "attention": "no-causal-mask-in-backward",
    "cross_entropy": "mean-over-all-positions",
    "forward_kl": "reverse-kl",
    "js": "mixture-in-probability-space",
    "distillation_loss": "no-squared-temperature",
    "adamw_step": next(mutant.name for mutant in MUTANTS if mutant.subject == "adamw_step"),
    "codistill_step": next(mutant.name for mutant in MUTANTS if mutant.subject == "codistill_step"),
}


def test_some_mistakes_in_numpy():
    some = [mutant for mutant in MUTANTS if SOME.get(mutant.subject) == mutant.name]
    assert len(some) == len(SOME)
    assert misnamed(diagnoses(some, numpy_file)) == {}


@pytest.mark.slow
def test_every_mistake_in_numpy():
    assert misnamed(diagnoses(MUTANTS, numpy_file)) == {}


@pytest.mark.slow
@pytest.mark.torch
def test_the_losses_mistakes_in_pytorch():
    pytest.importorskip("torch")
    mutants = in_torch()
    assert len(mutants) > 650
    assert misnamed(diagnoses(mutants, torch_file)) == {}


NUMPY = (HERE / "answers_numpy.py").read_text(encoding="utf-8")


def of_forward_kl(old: str, new: str) -> str:
    head, tail = NUMPY.split("def forward_kl(")
    assert old in tail
    (exercise,) = graded(f"{head}def forward_kl({tail.replace(old, new, 1)}", "forward_kl").exercises
    return exercise.diagnosis


@pytest.mark.parametrize(
    ("old", "new", "diagnosis"),
    [
        ("np.exp(logq) - p", "p - np.exp(logq)", "your gradient has the wrong sign"),
        ("np.exp(logq) - p", "np.exp(logq) - 0.9 * p", "dstudent_logits is wrong"),
        ("np.exp(logq) - p", "0.3 * (np.exp(logq) - p)", "your dstudent_logits is the right one times 0.3"),
    ],
)
def test_mistakes_that_have_no_name(old, new, diagnosis):
    assert diagnosis in of_forward_kl(old, new)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "diagnosis"),
    [
        ("np.exp(logq) - p", "np.exp(logq) * 0", "your dstudent_logits is 0 throughout"),
        ("np.exp(logq) - p", "3 * (np.exp(logq) - p) / p.shape[-1]", "dstudent_logits is wrong"),
        ("np.exp(logq) - p", "(np.exp(logq) - p) * p.shape[-1]", "times V (the number of classes)"),
        ("times(p, logp - logq).sum(axis=-1)", "times(p, logp - logq).sum(axis=-1) + 1", "loss is"),
    ],
)
def test_more_mistakes_that_have_no_name(old, new, diagnosis):
    assert diagnosis in of_forward_kl(old, new)


def test_a_mistake_that_shows_far_out_only():
    text = NUMPY.replace("np.multiply(p, log_ratio, where=p > 0, out=np.zeros_like(p))", "p * log_ratio")
    (exercise,) = graded(text, "reverse_kl").exercises
    assert exercise.diagnosis.startswith("0 times the logarithm of 0 is NaN")


def test_two_mistakes_at_once():
    said = of_forward_kl(
        "times(p, logp - logq).sum(axis=-1), np.exp(logq) - p", "-times(p, logq).sum(axis=-1), p - np.exp(logq)"
    )
    assert "the teacher's entropy is missing" in said and "the wrong sign" in said


def test_another_exercise_s_function():
    text = NUMPY + "\ndef cosine_logits(student_logits, teacher_logits, *, mask=None):\n"
    text += "    return mse_logits(student_logits, teacher_logits, mask=mask)\n"
    (exercise,) = graded(text, "cosine_logits").exercises
    assert exercise.diagnosis.startswith("this is mse_logits: sum((z - u)^2) / V")


def test_where_it_is_wrong():
    text = NUMPY.replace("        gradient[counted] = dz * (w / temperature / n)\n", "        gradient[:] = 7.5\n"
                         "        gradient[counted] = dz * (w / temperature / n)\n")  # fmt: skip
    (exercise,) = graded(text, "reverse_kl").exercises
    reasons = {case.name: case.reason for case in exercise.cases if not case.passed}
    assert set(reasons) >= {"mask", "soft-mask"} and "basic" not in reasons
    assert reasons["mask"].startswith("dstudent_logits is wrong only in the masked rows: at [")
    assert "7.5, wanted 0" in reasons["mask"]


def test_errors_of_right_answers_are_small():
    (exercise,) = graded(NUMPY, "js").exercises
    errors = [(case.loss_error, case.grad_error) for case in exercise.cases if case.column == "basic"]
    assert np.max(errors) < 1e-12
