"""Files that want another verdict than they deserve: each fails, with a reason, and changes nothing for others."""

import tempfile
from pathlib import Path

import pytest

from minikd.oracle.grade.sandbox import Limits
from tests.oracle.grade.graded import HERE, LINEAR, PROTECTIONS, ROOT, graded

REASONS = {
    "patches_minikd": "No module named 'minikd",
    "patches_the_harness": "",
    "inspects_frames": "your p is 0 throughout",
    "reads_vectors": "Permission denied",
    "exits": "it ended its process (exit code 0)",
    "exits_on_import": "it ended its process (exit code 0)",
    "calls_sys_exit": "it called sys.exit",
    "fakes_a_report": "your p is 0 throughout",
    "forges_replies": "it wrote to the judge's pipe",
    "loops": "it gave no answer within 3 s",
    "sleeps_on_import": "it gave no answer within 3 s",
    "forks": "PermissionError: [Errno 1] Operation not permitted",
    "starts_programs": "Error",
    "allocates": "MemoryError",
    "returns_too_much": "MemoryError",
    "returns_nan": "p is wrong where it is NaN",
    "equals_everything": "p is",
    "is_no_array": "is a Anything; wanted an array",
    "prints_without_end": "it gave no answer within 3 s",
    "closes_descriptors": "it closed its connection to the judge",
    "kills_its_parent": "PermissionError: [Errno 1] Operation not permitted",
    "raises_its_limits": "Error",
    "fills_the_disk": "File too large",
    "writes_elsewhere": "Permission denied",
    "opens_the_network": "PermissionError",
    "digs_deep": "ValueError: deep enough",
    "crashes": "it crashed (SIGSEGV)",
    "raises_oddly": "Odd",
    "says_too_much": "ValueError: ]0;owned [2J[bold red]all right",
    "answers_differently": "p is wrong",
    "changes_its_input": "it changed logits",
}
BY_DEFAULT = (
    "patches_minikd", "inspects_frames", "reads_vectors", "exits", "fakes_a_report", "loops", "forks", "allocates",
    "returns_nan", "equals_everything", "kills_its_parent",
)  # fmt: skip
NEEDS = {
    "no other files": ("reads_vectors", "writes_elsewhere"),
    "no other processes": ("forks", "starts_programs", "kills_its_parent", "opens_the_network"),
}
NO_ANSWER = ("loops", "sleeps_on_import", "prints_without_end")
ON_IMPORT = ("exits_on_import", "sleeps_on_import", "patches_the_harness")


def test_every_file_here_is_tried():
    assert {path.stem for path in (HERE / "hostile").glob("*.py")} == set(REASONS)


@pytest.mark.parametrize(
    "name", [name if name in BY_DEFAULT else pytest.param(name, marks=pytest.mark.slow) for name in REASONS]
)
def test_a_hostile_file_fails_and_hides_nothing(name, monkeypatch, tmp_path):
    lacking = [protection for protection in NEEDS if name in NEEDS[protection] and protection not in PROTECTIONS]
    if lacking:
        pytest.skip(f"this system cannot give a process {lacking[0]}")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("MINIKD_SECRET", "seldom seen")
    text = (HERE / "hostile" / f"{name}.py").read_text(encoding="utf-8").replace("@ROOT@", str(ROOT)) + LINEAR
    limits = Limits(seconds=3.0, import_seconds=3.0) if name in NO_ANSWER else Limits()
    report = graded(text, "softmax", "linear", limits=limits)
    softmax, linear = report.exercises
    assert not softmax.passed and not report.passed
    assert REASONS[name] in softmax.diagnosis
    assert softmax.diagnosis.isprintable() and len(softmax.diagnosis) < 1000
    assert linear.passed == (name not in ON_IMPORT)
    assert len(report.printed) <= 4000
    assert not list(tmp_path.iterdir()), "it left something behind"
    assert not Path(ROOT, "left-behind").exists()
