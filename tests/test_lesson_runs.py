import json
import subprocess
import sys

import pytest

from minikd.errors import UserError
from minikd.lessons import chosen, find_lessons

GOOD = """# %% [markdown]
# # 1. What holds
# %%
import numpy as np
from minikd.lesson import check, figure
check("one is one", 1.0, 1.0)
check("and a half is nearly a half", 0.5000001, 0.5, within=np.float64(1e-3))
"""
BAD = """# %% [markdown]
# # 2. What does not
# %%
from minikd.lesson import check
print("first said")
check("one is two", 1.0, 2.0)
"""
GUIDE = """| 1 | [What holds](01_good.py) | Is one one? | 7 s |
| 2 | [What does not](02_bad.py) | Is it two? | 8 s |
"""


@pytest.fixture
def course(tmp_path):
    folder = tmp_path / "lessons"
    folder.mkdir()
    for name, text in (("01_good.py", GOOD), ("02_bad.py", BAD), ("README.md", GUIDE)):
        (folder / name).write_text(text)
    return tmp_path


def minikd(course, *arguments):
    command = [sys.executable, "-m", "minikd", "lessons", *map(str, arguments)]
    return subprocess.run(command, cwd=course, capture_output=True, text=True, timeout=120)


def test_lessons_are_listed_with_their_times_and_states(course):
    listed = minikd(course)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert [" ".join(line.split()) for line in listed.stdout.splitlines()] == [
        "Lesson Time State",
        "1 What holds 7 s not run",
        "2 What does not 8 s not run",
    ]
    assert minikd(course, "run", 1).returncode == 0
    assert minikd(course, "run", 2).returncode == 1
    states = [line.split()[-1] for line in minikd(course, "list").stdout.splitlines()[1:]]
    assert states == ["passed", "failed"]
    (course / "lessons" / "01_good.py").write_text(GOOD + "\n")
    assert "changed" in minikd(course, "list").stdout


def test_what_lessons_claim_is_recorded(course):
    done = minikd(course, "run")
    assert done.returncode == 1
    assert "1 of 2 lessons passed with 3 checks" in done.stdout
    assert "first said" in done.stdout and "AssertionError: FALSE: one is two" in done.stdout
    record = json.loads((course / "runs" / "lessons" / "lessons.json").read_text())
    good, bad = record["01_good.py"], record["02_bad.py"]
    assert (good["passed"], bad["passed"]) == (True, False)
    assert [(check["claim"], check["holds"]) for check in good["checks"]] == [
        ("one is one", True),
        ("and a half is nearly a half", True),
    ]
    assert [(check["claim"], check["holds"]) for check in bad["checks"]] == [("one is two", False)]
    summary = (course / "runs" / "lessons" / "lessons.txt").read_text()
    assert "    holds: one is one" in summary
    assert "    FALSE: one is two   [1, off by 1.0e+00; claimed: at most 0]" in summary


@pytest.mark.parametrize(
    ("which", "numbers"), [((), [1, 2]), (("2",), [2]), (("1-2",), [1, 2]), (("2", "1", "1-2"), [1, 2])]
)
def test_which(which, numbers, course):
    assert [lesson.number for lesson in chosen(find_lessons(course / "lessons"), which)] == numbers


@pytest.mark.parametrize("which", ["3", "x", "2-1", "1-3", "-1", ""])
def test_no_such_lesson(which, course):
    with pytest.raises(UserError, match="names no lesson; wanted a number from 1 to 2"):
        chosen(find_lessons(course / "lessons"), (which,))


def test_no_lessons_at_all(tmp_path):
    done = minikd(tmp_path, "list", "--folder", tmp_path / "nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no lessons in ") and done.stderr.count("\n") == 1


def test_a_broken_record_is_told(course):
    (course / "runs" / "lessons").mkdir(parents=True)
    (course / "runs" / "lessons" / "lessons.json").write_text("[")
    done = minikd(course, "list")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "lessons.json" in done.stderr


def test_notebooks(course):
    jupytext = pytest.importorskip("jupytext")
    done = minikd(course, "export", "notebooks")
    assert (done.returncode, done.stderr) == (0, "")
    notebook = jupytext.read(course / "notebooks" / "01_good.ipynb")
    assert [cell.cell_type for cell in notebook.cells] == ["markdown", "code"]
    assert notebook.cells[1].source == GOOD.split("# %%\n")[1].strip()
    assert not notebook.cells[1].outputs


@pytest.mark.slow
def test_executed_notebooks(course):
    pytest.importorskip("nbclient")
    jupytext = pytest.importorskip("jupytext")
    assert minikd(course, "export", "notebooks", 1, "--execute").returncode == 0
    cell = jupytext.read(course / "notebooks" / "01_good.ipynb").cells[1]
    assert "holds: one is one" in cell.outputs[0].text
    failed = minikd(course, "export", "notebooks", "--execute")
    assert failed.returncode == 1 and "FALSE: one is two" in failed.stdout
    cell = jupytext.read(course / "notebooks" / "02_bad.ipynb").cells[1]
    assert cell.outputs[-1].ename == "AssertionError"
