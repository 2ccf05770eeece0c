"""The state of a run, to resume from: kept under RUN/state/step-00000500, a folder a step, the newest two.

A state is the exact bytes of every learner's parameters and moments, and what the training loop has not yet written
down. Each is written whole or not at all (`minikd.atomic`) and under checksums, so that a run killed at any moment has
a sound one to go on from.
"""

import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from minikd.atomic import LEFTOVER, atomic_folder, remove_folder, remove_leftovers, writing
from minikd.backend import Array
from minikd.errors import UserError
from minikd.optim import Moments
from minikd.reading import read_json_object, reading, verify_sums, write_sums
from minikd.tensor_file import open_tensors, write_tensors

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]

KEPT = 2
STEP = re.compile(r"step-(\d{8,})")
ARRAYS, META = "state.safetensors", "state.json"

Measured = tuple[int, dict[str, tuple[Array, Array]]]
"""A step, and by learner its loss (nats a token) and the gradient's length before clipping."""


@dataclass
class LearnerState:
    """What one learner has become: its flat parameters (N,) and AdamW's moments of them."""

    parameters: Array
    moments: Moments


@dataclass
class RunState:
    """Everything that a run needs to go on after `step` steps."""

    step: int
    learners: dict[str, LearnerState]
    seconds: float
    """what the steps took"""
    pending: list[Measured] = field(default_factory=list)
    """the steps since the last record in metrics.jsonl, as numbers of the host"""


def save_state(run: str | os.PathLike[str], state: RunState) -> Path:
    """Save under RUN/state, whole or not at all, keep the newest two up to this step, and return the state's folder.

    States of later steps go too: a run that saves an earlier one had to resume before them. Raises UserError when the
    folder cannot be written; the states already there are then as they were.
    """
    folder = Path(run) / "state" / _name(state.step)
    arrays = {}
    for name, learner in state.learners.items():
        arrays[f"{name}.parameters"] = learner.parameters
        arrays[f"{name}.first_moment"] = learner.moments.first
        arrays[f"{name}.second_moment"] = learner.moments.second
    updates = {name: learner.moments.updates for name, learner in state.learners.items()}
    meta = {"seconds": state.seconds, "pending": state.pending}
    fields = json.dumps({"step": state.step, "updates": updates, "meta": meta}, indent=2)
    with atomic_folder(folder) as new:
        (new / META).write_text(fields + "\n", encoding="utf-8")
        write_tensors(new / ARRAYS, arrays)
        write_sums(new)
    _prune(folder)
    return folder


def load_state(folder: str | os.PathLike[str]) -> RunState:
    """Read one state back, as NumPy arrays; UserError when it is not, byte for byte, what was saved as this state."""
    folder = Path(folder)
    verify_sums(folder, required=(ARRAYS, META))
    fields = read_json_object(folder / META)
    arrays = {name: tensor.read() for name, tensor in open_tensors(folder / ARRAYS).items()}
    try:
        learners = {
            name: LearnerState(
                arrays[f"{name}.parameters"],
                Moments(arrays[f"{name}.first_moment"], arrays[f"{name}.second_moment"], int(updates)),
            )
            for name, updates in fields["updates"].items()
        }
        pending = [
            (int(step), {name: (float(loss), float(norm)) for name, (loss, norm) in measured.items()})
            for step, measured in fields["meta"].get("pending", [])
        ]
        state = RunState(fields["step"], learners, float(fields["meta"]["seconds"]), pending)
        if _name(state.step) != folder.name:
            raise ValueError("the state of another step")
        return state
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{folder}: sound, but not a state that this version of minikd writes") from error


def latest(run: str | os.PathLike[str], *, report: Callable[[str], None] | None = None) -> RunState:
    """The newest sound state of a run; each broken one that is passed over goes to `report` as a line.

    `report` prints to the standard error stream if not given. Raises UserError when there is no sound state.
    """
    report = report or (lambda line: print(line, file=sys.stderr))
    folders = _state_folders(Path(run) / "state")
    for folder in reversed(folders):
        try:
            return load_state(folder)
        except UserError as error:
            report(f"passed over a broken state: {error}")
    found = f"{len(folders)} states, all broken" if folders else "none"
    raise UserError(f"{run}: wanted a state to resume from; found {found}")


def has_state(run: str | os.PathLike[str]) -> bool:
    """Whether a run has come as far as its first state, sound or not."""
    return bool(_state_folders(Path(run) / "state"))


def prepare_out_folder(path: str | os.PathLike[str], *, resume: bool = False) -> Path:
    """Make sure that a run can write to the folder `path`: a new or empty one, or with `resume` one of a run.

    Raises UserError, and changes nothing, when the folder is not empty, is a file, cannot be written, or has nothing to
    resume from.
    """
    path = Path(path)
    with writing(path):
        if os.path.lexists(path) and not path.is_dir():
            found = "a file" if path.exists() else "a link to nothing"
            raise UserError(f"{path} is {found}; wanted a folder for the results")
        if resume and not (has_state(path) or (path / "config.json").exists()):
            raise UserError(f"{path}: there is no state to resume from; wanted the folder of an unfinished run")
        path.mkdir(parents=True, exist_ok=True)
        if not resume and not all(LEFTOVER.fullmatch(entry.name) for entry in path.iterdir()):
            run = has_state(path) or (path / "config.json").exists()
            hint = ", or to resume the run in it" if run else ""
            raise UserError(f"{path} is not empty; wanted a new or empty folder{hint}")
        with tempfile.TemporaryFile(dir=path):
            pass  # it can be written to
    return path


@contextmanager
def alone_in(path: Path) -> Iterator[None]:
    """Keep other processes out of a run's folder until the block ends, and clear away what a killed one left there.

    UserError if another process is at work in the folder. Where the system cannot lock a folder, nobody is kept out.
    """
    with writing(path):
        folder = os.open(path, os.O_RDONLY) if fcntl else None
    try:
        if folder is not None:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{path}: another process is at work there; wanted one at a time") from None
            except OSError:  # a file system without locks
                pass
        for place in (path, path / "state"):
            if place.is_dir():
                remove_leftovers(place)
        yield
    finally:
        if folder is not None:
            os.close(folder)  # and with it the lock, as does the end of the process


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _state_folders(states: Path) -> list[Path]:
    """The states' folders, the oldest step first."""
    with reading(states):
        if not states.is_dir():
            return []
        steps = {int(match[1]): path for path in states.iterdir() if (match := STEP.fullmatch(path.name))}
    return [steps[step] for step in sorted(steps)]


def _prune(newest: Path) -> None:
    """Keep `newest` and those just before it."""
    folders = _state_folders(newest.parent)
    end = folders.index(newest) + 1
    for folder in folders[: max(0, end - KEPT)] + folders[end:]:
        remove_folder(folder)
    remove_leftovers(newest.parent)
