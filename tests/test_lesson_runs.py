import json
import re
import subprocess
import sys

import pytest

from minikd.atomic import write_json
from minikd.errors import UserError
from minikd.lessons import as_script, chosen, find_lessons, list_lessons, run_lessons

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


@pytest.mark.parametrize("which", ["3", "x", "2-1", "1-3", "-1", "", "1-99999999999999999999", "1" * 5000])
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


RECORD = {"passed": True, "seconds": 1.5, "checks": [], "sha256": ""}


@pytest.mark.parametrize(
    "record", [5, {}, RECORD | {"seconds": "1"}, RECORD | {"checks": [{}]}, {**RECORD, "sha256": None}]
)
def test_what_is_no_record_counts_as_not_run(record, course, monkeypatch, capsys):
    monkeypatch.chdir(course)
    (course / "runs" / "lessons").mkdir(parents=True)
    write_json(course / "runs" / "lessons" / "lessons.json", {"01_good.py": record, "02_bad.py": RECORD})
    list_lessons(find_lessons().values())
    assert re.findall("not run|changed", capsys.readouterr().out) == ["not run", "changed"]


@pytest.mark.parametrize("name", ["02_bad.py", "README.md"])
def test_a_lesson_that_is_no_text(name, course):
    (course / "lessons" / name).write_bytes(b"# \xff")
    with pytest.raises(UserError, match=rf"{name}: byte 2 is not UTF-8; wanted text"):
        find_lessons(course / "lessons")


def test_two_lessons_of_one_number(course):
    (course / "lessons" / "01_copy.py").write_text(GOOD)
    with pytest.raises(UserError, match=r"01_good.py has the number of 01_copy.py; wanted one lesson of each number"):
        find_lessons(course / "lessons")


def test_titles_are_shown_as_they_are_written(course, monkeypatch, capsys):
    monkeypatch.chdir(course)
    (course / "lessons" / "01_good.py").write_text("# # 1. [bold]T[/red] of [red]x[/red] :smile:\n")
    (course / "lessons" / "README.md").write_text("| 1 | [T](01_good.py) | T? | [red] s |\n")
    lessons = list(find_lessons().values())[:1]
    list_lessons(lessons)
    assert run_lessons(lessons, lambda lesson, checks: "") == 0
    listed, *done = capsys.readouterr().out.splitlines()[1:3]
    assert listed == "1  [bold]T[/red] of [red]x[/red] :smile:  [red] s  not run"
    assert done == ["passed    1  [bold]T[/red] of [red]x[/red] :smile:   0 checks hold, 0 s"]


def test_a_lesson_may_print_any_bytes(course, monkeypatch, capsys):
    monkeypatch.chdir(course)
    (course / "lessons" / "02_bad.py").write_text("import os\nos.write(1, b'no \\xff [/b]')\nraise SystemExit(1)\n")
    assert run_lessons(list(find_lessons().values())[1:], as_script) == 1
    assert "no \ufffd [/b]" in capsys.readouterr().out


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
