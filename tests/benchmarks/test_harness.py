"""The harness: its arithmetic, its workers, and that both sides of every task compute the same."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cases import HEAD_LOSSES, HEAD_TASKS, HEADS, TASKS, Case, Head
from benchmarks.harness import SIDES, largest_difference, measure, ratios
from minikd.errors import UserError

ROOT = Path(__file__).parent.parent.parent


def test_ratios_are_by_round_and_of_the_best_rounds():
    seconds = [{"torch": 2.0, "minikd": 1.0}, {"torch": 1.0, "minikd": 3.0}, {"torch": 4.0, "minikd": 5.0}]
    assert ratios(seconds) == {"median": 1.25, "min": 0.5, "max": 3.0, "best": 1.0}


def test_largest_difference_is_relative():
    assert largest_difference([[2.0, 100.0], [4.0]], [[2.0, 101.0], [3.0]]) == 0.25
    assert largest_difference([[0.0]], [[0.0]]) == 0


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_both_sides_compute_the_same(task):
    pytest.importorskip("torch")
    result = measure(Case("tiny", task, "cpu", threads=1), rounds=3, turn_seconds=0.1, progress=lambda text: None)
    assert result["largest_difference"] < 1e-4
    assert len(result["cores_busy_elsewhere"]) == 3
    for side in SIDES:
        assert len(result["seconds_per_step"][side]) == 3
        assert result["memory"][side]["peak_bytes"] > 1e7


@pytest.mark.torch
@pytest.mark.parametrize("task", HEAD_TASKS)
@pytest.mark.parametrize("loss", HEAD_LOSSES)
def test_both_sides_of_a_head_compute_the_same(loss, task, monkeypatch):
    pytest.importorskip("torch")
    from benchmarks.minikd_side import build_minikd
    from benchmarks.torch_side import build_torch

    monkeypatch.setitem(HEADS, "1k", Head(1000, tokens=300, student_width=16, teacher_width=32))
    case = Case("1k", task, "cpu", threads=1, loss=loss)
    results = [[side.numbers(side.step())] for side in (build_torch(case), build_minikd(case))]
    assert results[0][0][0] > 0.1
    assert largest_difference(*results) < 1e-5


@pytest.mark.torch
def test_a_worker_that_cannot_run_says_why():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("here the GPU that the test must miss is present")
    with pytest.raises(UserError, match=r"torch \(tiny train\): PyTorch sees no GPU"):
        measure(Case("tiny", "train", "gpu", threads=1), rounds=1, turn_seconds=0.1, progress=lambda text: None)


@pytest.mark.torch
@pytest.mark.slow
def test_command(tmp_path):
    pytest.importorskip("torch")
    out = tmp_path / "result.json"
    options = f"--size tiny --task generate --rounds 2 --seconds 0.1 --threads 1 --out {out}".split()
    done = subprocess.run([sys.executable, "-m", "benchmarks", *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "tiny    generate" in done.stdout
    [case] = json.loads(out.read_text())["cases"]
    assert case["ratio"]["min"] <= case["ratio"]["median"] <= case["ratio"]["max"]
    assert case["info"]["torch"]["torch"] and case["info"]["minikd"]["numpy"]
