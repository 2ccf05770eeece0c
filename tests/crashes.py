"""Kill a save before every line of Python that it runs, and see that what is left is the old or the new.

`python crashes.py WHAT FOLDER`; run by test_checkpoint.py in a process of its own, which may fork. Prints how often
a child was killed, how often the old was left and how often the new. An AssertionError says that it was neither.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from minikd import atomic, checkpoint
from minikd.checkpoint import LearnerState, RunState, alone_in, latest, save_state
from minikd.model_folder import load_model, save_model
from minikd.models import GPT2Config, Parameters
from minikd.optim import Moments
from minikd.text.tokenizer import Tokenizer

# whatever makes, names or removes a file; what is inside a file while it has no name yet is all one
WATCHED = {module.__file__ for module in (atomic, checkpoint, shutil)}
FINISHED = 99

os.fsync = lambda descriptor: None  # a killed process loses nothing that it has written; a power cut is another test


def killed_before_line(n: int, save: Callable[[], object]) -> bool:
    """Whether `save`, in a child process, was killed before its n-th line; False when it has no n-th line."""
    child = os.fork()
    if child == 0:
        count = 0

        def local_trace(frame, event, argument):
            nonlocal count
            count += event == "line"
            if count == n:
                os.kill(os.getpid(), signal.SIGKILL)
            return local_trace

        sys.settrace(lambda frame, event, argument: local_trace if frame.f_code.co_filename in WATCHED else None)
        save()
        sys.settrace(None)
        os._exit(FINISHED)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == FINISHED, "the save itself failed"
    return os.WIFSIGNALED(status)


def state(step: int, value: float) -> RunState:
    parameters, first, second = np.full((3, 1000), value)
    return RunState(step, {"student": LearnerState(parameters, Moments(first, second))}, seconds=value)


def crash_states(folder: Path, step: int) -> None:
    """Save `step` in a run with states 20 and 30, whose values are 2 and 3; the new one's is 4."""
    run, original = folder / "run", folder / "original"
    save_state(original, state(20, 2.0))
    save_state(original, state(30, 3.0))
    kills = new = 0
    while True:
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(original, run)
        killed = killed_before_line(kills + 1, lambda: save_state(run, state(step, 4.0)))
        found = latest(run)
        assert (found.step, found.seconds) in ((30, 3.0), (step, 4.0), *([(20, 2.0)] if TWO_RENAMES else []))
        assert (found.learners["student"].parameters == found.seconds).all()
        with alone_in(run):
            pass
        assert all(path.name.startswith("step-") for path in (run / "state").iterdir())
        save_state(run, state(40, 5.0))
        assert latest(run).seconds == 5.0
        assert len(os.listdir(run / "state")) == checkpoint.KEPT
        if not killed:
            assert found.seconds == 4.0
            break
        kills += 1
        new += found.seconds == 4.0
    print(kills, kills - new, new)


def crash_model(folder: Path) -> None:
    """Replace a model folder whose weights are 1 by one whose weights are 2."""
    tokenizer = Tokenizer.train(["a text"], 257)
    config = GPT2Config(vocab_size=257, n_positions=4, n_embd=4, n_layer=1, n_head=1)
    ones = Parameters.zeros(config.shapes)
    ones.flat += 1
    kills = new = 0
    save_model(folder / "model", config, ones, tokenizer)
    while killed_before_line(
        kills + 1, lambda: save_model(folder / "model", config, ones.with_flat(2 * ones.flat), tokenizer)
    ):
        kills += 1
        value = set(load_model(folder / "model")[1].flat.tolist())
        assert value in ({1.0}, {2.0}), value
        if value == {2.0}:
            new += 1
            save_model(folder / "model", config, ones, tokenizer)
        atomic.remove_leftovers(folder)
        assert os.listdir(folder) == ["model"]
    print(kills, kills - new, new)


if __name__ == "__main__":
    what, where = sys.argv[1], Path(sys.argv[2])
    TWO_RENAMES = what == "the same step again, in three"
    if TWO_RENAMES:
        atomic.ctypes.CDLL = lambda name: object()
    if what == "a model":
        crash_model(where)
    else:
        crash_states(where, 40 if what == "a new state" else 30)
