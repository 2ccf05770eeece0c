"""What docs/grading.md and the README show is what happens. The libraries of the adapters are stood in for."""

import re
from pathlib import Path

import pytest

from tests.oracle.grade.graded import ROOT
from tests.tiny import command

PAGE = (ROOT / "docs" / "grading.md").read_text(encoding="utf-8")
ANSWERS, OWN, TORCHTUNE, TRL = (block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))

MY_TRAINING = """
import torch

def kd_loss(student, teacher, valid, T):
    p, logq = torch.softmax(teacher[valid] / T, -1), torch.log_softmax(student[valid] / T, -1)
    return T**2 * torch.nn.functional.kl_div(logq, p, reduction="sum") / valid.sum()
"""
TORCHTUNE_LOSS = """
import torch

class ForwardKLLoss(torch.nn.Module):
    def forward(self, student_logits, teacher_logits, labels):
        p, logq = teacher_logits.float().softmax(-1), student_logits.float().log_softmax(-1)
        terms = torch.where(torch.isinf(student_logits), 0, p * logq).sum(-1)
        counted = labels != -100
        return -(terms * counted).sum() / counted.sum()
"""
TRL_TRAINER = """
import torch

def kl(log_p, log_q):
    return (log_p.exp() * (log_p - log_q)).sum(-1)

class GKDTrainer:
    @staticmethod
    def generalized_jsd_loss(student_logits, teacher_logits, labels=None, beta=0.5, temperature=1.0, reduction="mean"):
        assert reduction == "batchmean"
        logq, logp = ((x / temperature).log_softmax(-1) for x in (student_logits, teacher_logits))
        b = torch.tensor(beta, dtype=logq.dtype)
        logm = torch.logaddexp(logp + b.log(), logq + (1 - b).log())
        losses = beta * kl(logp, logm) + (1 - beta) * kl(logq, logm)
        return losses[labels != -100].sum() / (labels != -100).sum()
"""


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name, text):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text, encoding="utf-8")


def test_the_example_is_graded_as_shown(capsys):
    write("answers.py", ANSWERS)
    (shown,) = re.findall(r"\$ minikd grade answers.py --seed 7\n(.*?)```", PAGE, re.DOTALL)
    assert command("grade", "answers.py", "--seed", 7) == 1
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == shown.splitlines()


@pytest.mark.torch
def test_the_readme_s_example_is_graded_as_shown(capsys):
    pytest.importorskip("torch")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    example, shown = re.search(
        r"```python\n(from torch[^`]*)```\n\n```text\n\$ minikd (.*?)```", readme, re.DOTALL
    ).groups()
    line, _, shown = shown.partition("\n")
    assert line == "grade my_losses.py --seed 1"
    write("my_losses.py", example)
    assert command(*line.split()) == 1
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == shown.splitlines()


def said(capsys):
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
@pytest.mark.torch
def test_one_s_own_loss(capsys):
    pytest.importorskip("torch")
    write("adapter.py", OWN)
    write("my_training.py", MY_TRAINING)
    assert command("grade", "--adapter", "adapter.py", "--seed", 7) == 1
    assert "forward_kl: you multiply by T^2: that belongs to the objective" in said(capsys)
    write("my_training.py", MY_TRAINING.replace("T**2 * ", ""))
    assert command("grade", "--adapter", "adapter.py", "--seed", 7, "--only", "forward_kl") in (0, 1)
    printed = said(capsys)
    assert "you multiply by T^2" not in printed
    assert re.search(r"forward_kl ✓ ✓ ✓ ✓ ✓ [✓✗] ✓ ✓ ✓ ✓ ✓ ✓", printed)


@pytest.mark.slow
@pytest.mark.torch
def test_torchtune(capsys):
    pytest.importorskip("torch")
    write("torchtune_kl.py", TORCHTUNE)
    write("torchtune/modules/loss.py", TORCHTUNE_LOSS)
    assert command("grade", "--adapter", "torchtune_kl.py", "--seed", 7) == 1
    printed = said(capsys)
    assert "forward_kl: this is the cross-entropy -sum(p log q): the teacher's entropy is missing" in printed
    assert "soft_cross_entropy follows: -sum(p log q)" in printed
    assert re.search(r"soft_cross_entropy ✓ ✓ ✓ ✓ ✓ ✓ ✓ ✓ ✓ ✓ ✓ ✓", printed)


@pytest.mark.slow
@pytest.mark.torch
def test_trl(capsys):
    pytest.importorskip("torch")
    write("trl_jsd.py", TRL)
    write("trl/__init__.py", TRL_TRAINER)
    assert command("grade", "--adapter", "trl_jsd.py", "--seed", 7) == 1
    assert re.search(r"generalized_jsd ✓ ✓ ✓ [✓✗] ✓ ✗ ✓ ✓ ✓ ✓ ✓ ✓", said(capsys))
