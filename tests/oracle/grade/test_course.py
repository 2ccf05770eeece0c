"""The student's folder."""

import ast
import errno
import os

import pytest

from minikd.errors import UserError
from minikd.oracle.grade.course import PROGRESS, check_course, make_course, record_progress, stubs
from minikd.oracle.grade.trials import COLUMNS
from minikd.oracle.subjects import SUBJECTS
from tests.oracle.grade.graded import LINEAR, graded


def test_the_folder(tmp_path):
    make_course(tmp_path / "a" / "course")
    (tmp_path / "other").mkdir()
    there = (tmp_path / "other").stat().st_ino
    make_course(tmp_path / "other")
    assert (tmp_path / "other").stat().st_ino == there  # whoever works in it still does
    names = {"exercises.py", "README.md", "PROGRESS.md"}
    for folder in (tmp_path / "a" / "course", tmp_path / "other"):
        assert {path.name for path in folder.iterdir()} == names
    for name in names:
        assert (tmp_path / "a" / "course" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    readme = (tmp_path / "other" / "README.md").read_text(encoding="utf-8")
    assert all(f"**{heading}**" in readme for heading in ("T", "far", "-inf", "view"))
    assert len(COLUMNS) == readme.count("- **")


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty; wanted a new or an empty folder"):
        make_course(tmp_path)
    with pytest.raises(UserError, match="is a file; wanted a folder"):
        make_course(tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_that_cannot_be_filled_stays_empty(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        make_course(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_stub_for_every_exercise():
    tree = ast.parse(stubs())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert [function.name for function in functions] == list(SUBJECTS)
    for function in functions:
        text = ast.get_docstring(function)
        assert "Convention: " in text and "Hint: " in text and "GPU" not in text and "Kept for" not in text
        assert ast.unparse(function.body[1:]) == "raise NotImplementedError"
    assert max(map(len, stubs().splitlines())) <= 120
    assert "def forward_kl(student_logits, teacher_logits, *, temperature=1.0, mask=None, reduction='mean'):" in stubs()
    assert "divergence" not in ast.unparse(next(f for f in functions if f.name == "distillation_loss").args)


@pytest.mark.slow
def test_stubs_are_not_attempted():
    report = graded(stubs())
    assert len(report.exercises) == len(SUBJECTS) and not report.attempted and not report.passed


def test_progress_is_kept(tmp_path):
    make_course(tmp_path / "course")
    file, progress = tmp_path / "course" / "exercises.py", tmp_path / "course" / PROGRESS
    assert progress.read_text(encoding="utf-8").count("- [ ] ") == len(SUBJECTS)
    record_progress(file, graded(LINEAR, "linear", "softmax").exercises)
    text = progress.read_text(encoding="utf-8")
    assert text.count("- [x] ") == 1 and "- [x] linear: " in text
    notes = b"\r\n\xff and \xc3\xa9 are mine\r\n"
    progress.write_bytes(progress.read_bytes() + notes)
    record_progress(file, graded("def linear(x, weight, bias): pass", "linear").exercises)
    assert progress.read_bytes().endswith(notes)
    progress.write_bytes(progress.read_bytes().removesuffix(notes))
    assert "- [x] " not in progress.read_text(encoding="utf-8")
    record_progress(tmp_path / "exercises.py", ())
    assert not (tmp_path / PROGRESS).exists()


@pytest.mark.slow
def test_every_stub_fails_and_every_solution_passes():
    assert check_course(seed=3) == []


@pytest.mark.slow
def test_a_course_that_is_wrong_is_told(monkeypatch):
    from minikd.oracle.grade import course

    some = {name: SUBJECTS[name] for name in ("softmax", "linear")}
    monkeypatch.setattr(course, "SUBJECTS", some)
    assert check_course(seed=3) == []
    monkeypatch.setattr(course, "stubs", lambda: LINEAR)
    assert check_course(seed=3) == ["linear: the stub passes"]
