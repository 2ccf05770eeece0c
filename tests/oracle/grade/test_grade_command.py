"""`minikd grade` and `minikd course` as people call them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minikd import grade_command
from tests.oracle.grade.graded import LINEAR
from tests.tiny import command

ROOT = Path(__file__).parents[3]
WRONG = LINEAR.replace("+ bias)", "- bias)")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(text, name="answers.py"):
    Path(name).write_text(text, encoding="utf-8")
    return name


def error_of(capsys):
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_what_is_right_and_what_is_wrong(capsys):
    assert command("grade", write(LINEAR), "--seed", 5) == 0
    assert "answers.py: 1 of 1 right (the same cases again: --seed 5)" in capsys.readouterr().out
    assert command("grade", write(WRONG)) == 1
    printed = capsys.readouterr()
    assert "✗ linear: y is wrong" in printed.out and printed.err == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "answers.py: there is no such file; wanted a Python file"),
        ("def linear(:", "answers.py: cannot be graded: line 1: SyntaxError: "),
        ("import no_such_library", "answers.py: cannot be graded: line 1: ModuleNotFoundError: "),
        ("x = 1", "answers.py: cannot be graded: it has none of the exercises' functions"),
        ("#" * (2**20 + 1), "answers.py is larger than 1,048,576 bytes; wanted a file of functions"),
        (b"\xff\xfe", "answers.py: byte 0 is not UTF-8; wanted a Python file"),
    ],
)
def test_a_file_that_cannot_be_graded(text, message, capsys):
    if text is not None:
        Path("answers.py").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert command("grade", "answers.py") == 2
    assert error_of(capsys).startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "wanted one file to grade: FILE, or --adapter FILE for one that brings its own modules"),
        (("a.py", "--adapter", "b.py"), "wanted one file to grade"),
        ((".",), ".: not a file; wanted a Python file"),
        (("a.py", "--only", "forwardkl"), "--only forwardkl is no exercise; did you mean forward_kl?"),
        (("a.py", "--hint", "--hint", "--hint", "--hint"), "--hint is 4; wanted at most 3"),
        (("a.py", "--hint=some"), "--hint is 'some'; wanted a whole number"),
        (("a.py", "--seed", "-1"), "--seed is -1; wanted at least 0"),
        (("a.py", "--seed", "1.5"), "--seed is '1.5'; wanted a whole number"),
    ],
)
def test_what_cannot_be_asked(options, message, capsys):
    assert command("grade", *options) == 2
    assert error_of(capsys).startswith(f"error: {message}")


def test_results_in_files():
    files = ("--json", "report.json", "--gradescope", "results.json")
    assert command("grade", write(WRONG), *files, "--only", "linear", "--only", "gelu") == 1
    report = json.loads(Path("report.json").read_text())
    assert [(exercise["name"], exercise["passed"]) for exercise in report["exercises"]] == [
        ("linear", False), ("gelu", False)
    ]  # fmt: skip
    results = json.loads(Path("results.json").read_text())
    assert [(test["name"], test["score"]) for test in results["tests"]] == [("linear", 0.0), ("gelu", 0.0)]


def test_a_file_that_cannot_be_graded_scores_0(capsys):
    assert command("grade", write("1 +"), "--json", "report.json", "--gradescope", "results.json") == 2
    report = json.loads(Path("report.json").read_text())
    assert report["passed"] is False and report["exercises"] == [] and "SyntaxError" in report["error"]
    results = json.loads(Path("results.json").read_text())
    assert len(results["tests"]) == 42 and sum(test["score"] for test in results["tests"]) == 0
    assert "SyntaxError" in results["output"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--json", "answers.py"), "--json answers.py is the file to grade; wanted another file"),
        (("--json", "./a", "--gradescope", "a"), "--gradescope a is the file of --json; wanted another file"),
        (("--json", "link"), "--json link is the file to grade; wanted another file"),
        (
            ("--gradescope", "no/results.json"),
            "--gradescope no/results.json: its folder does not exist; wanted one that",
        ),
        (("--json", "."), "--json . is a folder; wanted a file"),
    ],
)
def test_results_that_have_no_place_are_refused_before_grading(options, message, monkeypatch, capsys):
    monkeypatch.setattr(grade_command, "grade", lambda *args, **kwargs: pytest.fail("graded"))
    Path("link").symlink_to(write(LINEAR))
    assert command("grade", "answers.py", *options) == 2
    assert error_of(capsys).startswith(f"error: {message}")
    assert sorted(os.listdir()) == ["answers.py", "link"] and Path("answers.py").read_text() == LINEAR


@pytest.mark.skipif(not os.path.exists("/dev/stdout"), reason="needs a name for the standard output")
def test_results_do_not_replace_what_the_table_goes_to():
    write(LINEAR)
    Path("log").write_text("old\n")
    with open("log", "a") as log:
        call = [sys.executable, "-m", "minikd", "grade", "answers.py", "--json", "/dev/stdout"]
        done = subprocess.run(call, stdout=log, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr == (
        "error: --json /dev/stdout is the file that the standard output goes to; wanted another file\n"
    )
    assert Path("log").read_text() == "old\n"


def test_results_are_written_though_nobody_reads_the_table(monkeypatch):
    def show(*args, **kwargs):
        raise BrokenPipeError

    monkeypatch.setattr(grade_command, "show", show)
    assert command("grade", write(LINEAR), "--json", "report.json") == 141
    assert json.loads(Path("report.json").read_text())["passed"] is True


def test_hints(capsys):
    assert command("grade", write(WRONG), "--hint") == 1
    assert re.findall(r"^(\w+), hint (\d):", capsys.readouterr().out, flags=re.MULTILINE) == [("linear", "1")]
    assert command("grade", "answers.py", "--hint", "--hint", "--hint") == 1
    assert capsys.readouterr().out.count("linear, hint ") == 3
    assert command("grade", write("def gelu(x): raise NotImplementedError"), "--hint=2") == 1
    assert capsys.readouterr().out.count("gelu, hint ") == 2
    assert command("grade", write(LINEAR), "--hint") == 0
    assert "hint" not in capsys.readouterr().out


def test_watching(monkeypatch, capsys):
    texts = iter((WRONG, "def linear(:", LINEAR))
    write(next(texts))
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) % 2:
            return
        text = next(texts, None)
        if text is None:
            raise KeyboardInterrupt
        write(text + "#" * len(looks))

    monkeypatch.setattr(grade_command.time, "sleep", sleep)
    assert command("grade", "answers.py", "--watch") == 130
    printed = capsys.readouterr()
    assert re.findall(r"(\d) of 1 right", printed.out) == ["0", "1"]
    errors = printed.err.splitlines()
    assert sum(line.startswith("error: answers.py: cannot be graded") for line in errors) == 1
    assert errors[-1] == "stopped"


def test_an_adapter(capsys):
    write(LINEAR, "mine.py")
    write("from mine import linear", "adapter.py")
    assert command("grade", "adapter.py") == 2
    assert "No module named 'mine'" in error_of(capsys)
    assert command("grade", "--adapter", "adapter.py") == 0
    assert "linear follows: y = x W + b with W stored (in, out)" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_in_a_container():
    assert command("grade", write(LINEAR), "--bubblewrap") == 0


def test_without_a_container(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert command("grade", write(LINEAR), "--bubblewrap") == 2
    assert "--bubblewrap needs the program bwrap" in error_of(capsys)


def test_windows_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "win32")
    assert command("grade", write(LINEAR)) == 2
    assert error_of(capsys) == "error: minikd grade needs Linux or macOS, whose processes can be limited"


@pytest.mark.slow
def test_a_course(capsys):
    assert command("course", "make", "course") == 0
    assert "course/exercises.py" in capsys.readouterr().out
    assert command("grade", "course/exercises.py") == 1
    assert "0 of 0 right, 42 not written yet" in capsys.readouterr().out
    stubs = Path("course/exercises.py").read_text()
    Path("course/exercises.py").write_text(stubs + LINEAR)
    assert command("grade", "course/exercises.py") == 0
    assert "- [x] linear: " in Path("course/PROGRESS.md").read_text()
    assert command("course", "make", "course") == 2
    assert "course is not empty; wanted a new or an empty folder" in capsys.readouterr().err


@pytest.mark.slow
def test_the_course_is_checked(capsys):
    assert command("course", "check") == 0
    assert capsys.readouterr().out == "all 42 stubs fail, all 42 solutions pass\n"
