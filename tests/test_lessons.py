import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minikd import lesson
from minikd.oracle.subjects import SUBJECTS

FIRST = Path(__file__).parents[1] / "lessons" / "01_softmax_and_temperature.py"
T_SQUARED = FIRST.with_name("10_why_t_squared.py")
FAULTS = {
    "the shift forgotten": (FIRST, "textbook(z - z.max(), temperature)", "textbook(z, temperature)"),
    "a wrong sign": (FIRST, "return -(p * log_softmax", "return (p * log_softmax"),
    "1/T forgotten": (FIRST, "(np.diag(p) - np.outer(p, p)) / temperature", "(np.diag(p) - np.outer(p, p))"),
    "another sign": (T_SQUARED, "limit = (centred_z - centred_u)", "limit = (centred_z + centred_u)"),
    "a gradient without 1/T": (
        T_SQUARED,
        "size(gradient(forward_kl, t)) for t",
        "size(t * gradient(forward_kl, t)) for t",
    ),
    "the KL exchanged": (T_SQUARED, "kl, kl_vjp = forward_kl(z, u,", "kl, kl_vjp = reverse_kl(z, u,"),
}


def run_copy(text, folder):
    (folder / "lesson.py").write_text(text, encoding="utf-8")
    environment = os.environ | {"MPLBACKEND": "agg", "PYTHONWARNINGS": "error::RuntimeWarning"}
    command = [sys.executable, "lesson.py"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_the_first_lesson_holds_and_keeps_its_figures(tmp_path):
    text = FIRST.read_text(encoding="utf-8")
    done = run_copy(text, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("holds: ") >= text.count("\ncheck(") > 0
    assert len(list(tmp_path.glob("runs/lessons/*.png"))) == text.count("with figure(") > 0


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_lesson_is_noticed(fault, tmp_path):
    lesson, right, wrong = FAULTS[fault]
    text = lesson.read_text(encoding="utf-8")
    assert text.count(right) == 1
    done = run_copy(text.replace(right, wrong), tmp_path)
    assert done.returncode != 0
    assert "AssertionError: FALSE: " in done.stderr


@pytest.mark.parametrize(
    ("value", "wanted", "within", "holds"),
    [
        (1.0, 1.0, 0.0, True),
        (1.0, 1.5, 0.5, True),
        (1.0, 1.51, 0.5, False),
        ([1.0, 2.0], [1.0, 2.1], 0.05, False),
        ([1.0, np.nan], 1.0, 1.0, False),
        (np.inf, np.inf, 1.0, False),
        (1e300, 0.0, np.inf, True),
        (True, 0.0, 0.0, True),
        ([True, False], 0.0, 0.0, False),
    ],
)
def test_check(value, wanted, within, holds, capsys):
    if holds:
        lesson.check("so it is", value, wanted, within=within)
    else:
        with pytest.raises(AssertionError, match="FALSE: so it is"):
            lesson.check("so it is", value, wanted, within=within)
    assert capsys.readouterr().out.startswith("holds: so it is" if holds else "FALSE: so it is")


def test_check_refuses_shapes_that_differ():
    with pytest.raises(ValueError, match="wanted has shape"):
        lesson.check("a column is a row", np.zeros(3), np.zeros((3, 1)), within=1)


LESSONS = sorted(FIRST.parent.glob("[0-9]*.py"))
GUIDE = FIRST.with_name("README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_is_complete(path):
    text = path.read_text(encoding="utf-8")
    number = re.search(r"^# # (\d+)\. .+$", text, re.MULTILINE)[1]
    assert int(number) == int(path.name[:2])
    assert re.search(rf"^\| {number} \| \[[^]]+\]\({re.escape(path.name)}\) \| .+\? \| \d+ s \|$", GUIDE, re.MULTILINE)
    end = text[text.index("# ## What you should be able to explain now") :]
    exercises = end[end.index("# ## Exercises") :]
    assert 2 <= len(re.findall(r"^# \d\. ", exercises, re.MULTILINE)) <= 3
    graded = re.findall(r"--only\s+(?:#\s+)?(\w+)", exercises)
    assert graded and set(graded) <= set(SUBJECTS)
    assert text.count("check(") >= 5 and text.count("with figure(") >= 1


def test_the_guide_names_every_lesson_and_every_graded_function_exists():
    assert re.findall(r"\]\((\d\d_\w+\.py)\)", GUIDE) == [path.name for path in LESSONS]
    homework = GUIDE[GUIDE.index("### A workshop") : GUIDE.index("## Writing one")]
    assert set(re.findall(r"`(\w+)`", homework)) <= set(SUBJECTS)
