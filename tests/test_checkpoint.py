import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minikd.checkpoint import (
    LearnerState,
    RunState,
    alone_in,
    has_state,
    latest,
    load_state,
    prepare_out_folder,
    save_state,
)
from minikd.errors import UserError
from minikd.optim import Moments
from minikd.reading import SUMS, write_sums
from tests.disks import locked_folder, small_disk

CRASHES = Path(__file__).with_name("crashes.py")


def random_state(step, rng, names=("teacher", "student"), dtype=np.float32):
    learners = {}
    for i, name in enumerate(names):
        parameters, first, second = rng.normal(size=(3, 50 + i)).astype(dtype)
        learners[name] = LearnerState(parameters, Moments(first, second, updates=step - i))
    return RunState(step, learners, float(rng.normal()), [(step, {name: (1.5, 2.0) for name in names})])


def assert_same_state(found, wanted):
    assert (found.step, found.seconds, found.pending) == (wanted.step, wanted.seconds, wanted.pending)
    assert list(found.learners) == list(wanted.learners)
    for name, learner in wanted.learners.items():
        read = found.learners[name]
        assert read.moments.updates == learner.moments.updates
        for a, b in (
            (read.parameters, learner.parameters),
            (read.moments.first, learner.moments.first),
            (read.moments.second, learner.moments.second),
        ):
            assert type(a) is np.ndarray and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def no_report(line):
    pytest.fail(line)


@pytest.fixture
def run(tmp_path, rng):
    """A run with states after 20 and 30 steps."""
    for step in (20, 30):
        save_state(tmp_path / "run", random_state(step, rng))
    return tmp_path / "run"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_state_comes_back_bit_for_bit(tmp_path, rng, dtype):
    state = random_state(500, rng, ("a.b", "teacher"), dtype)
    state.learners["teacher"].moments.first[:3] = np.nan, -0.0, np.inf
    folder = save_state(tmp_path, state)
    assert folder == tmp_path / "state" / "step-00000500"
    assert_same_state(load_state(folder), state)
    assert_same_state(latest(tmp_path, report=no_report), state)
    latest(tmp_path).learners["teacher"].parameters += 1  # arrays of its own


def test_the_newest_two_are_kept(tmp_path, rng):
    for step in (0, 5, 100, 99_999_999, 100_000_000):
        state = random_state(step, rng)
        save_state(tmp_path, state)
        assert latest(tmp_path, report=no_report).step == step
    assert sorted(os.listdir(tmp_path / "state")) == ["step-100000000", "step-99999999"]


def test_saving_the_same_step_again_replaces_it(run, rng):
    state = random_state(30, rng)
    save_state(run, state)
    assert_same_state(latest(run, report=no_report), state)
    assert sorted(os.listdir(run / "state")) == ["step-00000020", "step-00000030"]


def break_file(path, how):
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[len(data) // 2] ^= 4
    elif how == "truncate":
        del data[len(data) * 2 // 3 :]
    elif how == "empty":
        data.clear()
    if how == "remove":
        path.unlink()
    else:
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["flip", "truncate", "empty", "remove"])
@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "SHA256SUMS"])
def test_a_broken_state_is_passed_over_and_told(run, rng, name, how):
    break_file(run / "state" / "step-00000030" / name, how)
    told = []
    assert latest(run, report=told.append).step == 20
    assert len(told) == 1
    assert told[0].startswith(f"passed over a broken state: {run}/state/step-00000030/") and "\n" not in told[0]


def test_broken_states_are_told_on_the_error_stream(run, capsys):
    break_file(run / "state" / "step-00000030" / "state.json", "flip")
    latest(run)
    assert capsys.readouterr().err.startswith("passed over a broken state: ")


def test_no_sound_state(run, tmp_path):
    for folder in (run / "state").iterdir():
        break_file(folder / "state.safetensors", "truncate")
    told = []
    with pytest.raises(UserError, match="wanted a state to resume from; found 2 states, all broken"):
        latest(run, report=told.append)
    assert len(told) == 2
    with pytest.raises(UserError, match="wanted a state to resume from; found none"):
        latest(tmp_path / "elsewhere")


def test_resuming_before_a_broken_state_forgets_it(run, rng):
    break_file(run / "state" / "step-00000030" / "state.safetensors", "truncate")
    save_state(run, random_state(25, rng))
    assert sorted(os.listdir(run / "state")) == ["step-00000020", "step-00000025"]
    save_state(run, random_state(30, rng))
    assert sorted(os.listdir(run / "state")) == ["step-00000025", "step-00000030"]
    assert latest(run, report=no_report).step == 30


def rewrite(folder, **fields):
    """Change a state's JSON, and its checksums with it."""
    path = folder / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    (folder / SUMS).unlink()
    write_sums(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"step": "30"},
        {"step": 20},
        {"updates": None},
        {"updates": {"student": "many"}},
        {"updates": {"pupil": 3}},
        {"meta": [1]},
        {"meta": {}},
        {"meta": {"seconds": None}},
        {"meta": {"seconds": 1.0, "pending": [3]}},
    ],
)
def test_a_sound_folder_that_is_no_state(run, fields):
    folder = run / "state" / "step-00000030"
    rewrite(folder, **fields)
    with pytest.raises(UserError, match="sound, but not a state that this version of minikd writes"):
        load_state(folder)
    assert latest(run, report=lambda line: None).step == 20


def test_a_state_that_knows_of_no_pending_steps(run):
    folder = run / "state" / "step-00000030"
    rewrite(folder, meta={"seconds": 2.5})
    state = load_state(folder)
    assert (state.seconds, state.pending) == (2.5, [])


@pytest.mark.parametrize("call", ["fsync", "mkdir", "rename"])
def test_a_full_disk_leaves_the_old_states(run, rng, monkeypatch, call):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = latest(run)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        message = rf"^{run}/state/step-00000040: cannot be written: No space left on device$"
        with pytest.raises(UserError, match=message):
            save_state(run, random_state(40, rng))
    assert sorted(os.listdir(run / "state")) == ["step-00000020", "step-00000030"]
    assert_same_state(latest(run, report=no_report), before)


def test_a_disk_that_fills_half_way_through_the_arrays(run, rng):
    large = random_state(40, rng)
    large.learners["teacher"].parameters = rng.normal(size=50_000)
    message = rf"^{run}/state/step-00000040/state\.safetensors: cannot be written: .*File too large"
    with small_disk(), pytest.raises(UserError, match=message):
        save_state(run, large)
    assert sorted(os.listdir(run / "state")) == ["step-00000020", "step-00000030"]
    assert latest(run, report=no_report).step == 30


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork to kill children of")
@pytest.mark.parametrize(
    "what",
    [
        "a new state",
        "the same step again",
        "a model",
        pytest.param("the same step again, in three", marks=pytest.mark.slow),
    ],
)
def test_killed_at_every_line_of_a_save(tmp_path, what):
    """`crashes.py` saves in child processes that are killed before their first, second, ... line of Python."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, CRASHES, what, tmp_path], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    kills, old, new = map(int, done.stdout.split())
    assert kills == old + new > 50
    assert old > 20 and new > 5


# The folder of a run


def test_prepare_out_folder(tmp_path):
    assert prepare_out_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert os.listdir(tmp_path / "a" / "b") == []
    prepare_out_folder(tmp_path / "a" / "b")


@pytest.mark.parametrize("resume", [False, True])
def test_a_file_in_place_of_the_out_folder(tmp_path, resume):
    (tmp_path / "out").write_text("x")
    with pytest.raises(UserError, match="out is a file; wanted a folder for the results"):
        prepare_out_folder(tmp_path / "out", resume=resume)
    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        prepare_out_folder(tmp_path / "out" / "deeper")
    assert (tmp_path / "out").read_text() == "x"


def test_a_link_to_nothing_in_place_of_the_out_folder(tmp_path):
    (tmp_path / "out").symlink_to("nowhere")
    with pytest.raises(UserError, match="out is a link to nothing; wanted a folder for the results"):
        prepare_out_folder(tmp_path / "out")


def test_an_out_folder_that_is_not_empty(run):
    with pytest.raises(UserError, match="run is not empty; wanted a new or empty folder, or to resume the run in it"):
        prepare_out_folder(run)
    assert has_state(run)
    assert prepare_out_folder(run, resume=True) == run


@pytest.mark.parametrize("there", [False, True])
def test_nothing_to_resume(tmp_path, there):
    if there:
        (tmp_path / "out" / "state" / ".step-00000010.tmp-00000000").mkdir(parents=True)
    with pytest.raises(UserError, match="out: there is no state to resume from; wanted"):
        prepare_out_folder(tmp_path / "out", resume=True)
    assert (tmp_path / "out").exists() == there
    assert not has_state(tmp_path / "out")


def test_an_out_folder_that_no_system_can_make(tmp_path):
    with pytest.raises(UserError, match="cannot be written: File name too long"):
        prepare_out_folder(tmp_path / ("x" * 5000))


@pytest.mark.parametrize("deeper", ["", "new"])
def test_an_out_folder_without_permission(deeper):
    with locked_folder() as folder:
        with pytest.raises(UserError, match="cannot be written: Permission denied"):
            prepare_out_folder(folder / deeper)
        assert os.listdir(folder) == []


def test_resuming_clears_what_a_killed_run_left(run):
    before = latest(run)
    shutil.copytree(run / "state" / "step-00000030", run / "state" / ".step-00000040.tmp-0123abcd")
    shutil.copytree(run / "state" / "step-00000030", run / ".model.tmp-0123abcd")
    (run / ".metrics.jsonl.tmp-0123abcd").write_text("half")
    with alone_in(run):
        assert os.listdir(run) == ["state"]
    assert sorted(os.listdir(run / "state")) == ["step-00000020", "step-00000030"]
    assert_same_state(latest(run, report=no_report), before)


def test_a_folder_in_which_another_process_is_at_work(run):
    lock = "import sys, pathlib; from minikd.checkpoint import alone_in\nwith alone_in(pathlib.Path(sys.argv[1])):\n"
    code = lock + "    print('locked', flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, run], **pipes) as other:
        assert other.stdout.readline() == b"locked\n"
        (run / ".metrics.jsonl.tmp-0123abcd").write_text("the other's")
        with pytest.raises(UserError, match="run: another process is at work there; wanted one"), alone_in(run):
            pass
        assert (run / ".metrics.jsonl.tmp-0123abcd").exists()
        other.kill()
    with alone_in(run):
        assert os.listdir(run) == ["state"]
