"""What `minikd grade` and `minikd course` do."""

import os
import secrets
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from minikd.atomic import write_json
from minikd.errors import UserError
from minikd.options import nearest
from minikd.oracle.grade.course import check_course, make_course, record_progress
from minikd.oracle.grade.grader import Report, grade
from minikd.oracle.grade.hints import HINTS
from minikd.oracle.grade.report import as_gradescope, as_json, show, summary
from minikd.oracle.grade.sandbox import BadFile, Source
from minikd.oracle.subjects import SUBJECTS
from minikd.reading import reading

MAX_SOURCE = 2**20
SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True)
class Wishes:
    """How a file is to be graded, and where the results go."""

    only: tuple[str, ...] = ()
    hint: int = 0
    json: Path | None = None
    gradescope: Path | None = None
    seed: int | None = None
    bubblewrap: bool = False

    def __post_init__(self) -> None:
        for name in self.only:
            if name not in SUBJECTS:
                raise UserError(f"--only {name} is no exercise{nearest(name, SUBJECTS)}")
        if not 0 <= self.hint <= 3:
            raise UserError(f"--hint is {self.hint}; wanted at most 3")
        if self.seed is not None and self.seed < 0:
            raise UserError(f"--seed is {self.seed}; wanted at least 0")


def grade_file(file: Path | None, adapter: Path | None, wishes: Wishes, *, watch: bool) -> int:
    """`minikd grade`: 0 if all that was attempted is right, else 1. UserError: the file cannot be graded."""
    if (file is None) == (adapter is None):
        raise UserError("wanted one file to grade: FILE, or --adapter FILE for one that brings its own modules")
    path = file or adapter
    assert path is not None
    check_targets(path, wishes)
    if sys.platform == "win32":
        raise UserError("minikd grade needs Linux or macOS, whose processes can be limited")
    if not watch:
        return grade_once(path, wishes, adapter=adapter is not None)
    while True:
        seen = state_of(path)
        try:
            grade_once(path, wishes, adapter=adapter is not None)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
        print("watching; Ctrl-C ends it", file=sys.stderr)
        while state_of(path) == seen:
            time.sleep(SECONDS_BETWEEN_LOOKS)


def check_targets(path: Path, wishes: Wishes) -> None:
    """UserError: a report has nowhere to go, or would take the place of the graded file or of the other report."""
    taken = {os.path.realpath(path): "the file to grade"}
    if os.path.isfile("/dev/stdout"):
        taken[os.path.realpath("/dev/stdout")] = "the file that the standard output goes to"
    for option, target in (("--json", wishes.json), ("--gradescope", wishes.gradescope)):
        if target is None:
            continue
        place = os.path.realpath(target)
        if os.path.isdir(place):
            raise UserError(f"{option} {target} is a folder; wanted a file")
        if not os.path.isdir(os.path.dirname(place)):
            raise UserError(f"{option} {target}: its folder does not exist; wanted one that does")
        if place in taken:
            raise UserError(f"{option} {target} is {taken[place]}; wanted another file")
        taken[place] = f"the file of {option}"


def grade_once(path: Path, wishes: Wishes, *, adapter: bool) -> int:
    """Grade a file, print the report, write what is to be written."""
    source = read_source(path, adapter=adapter)
    console = Console(highlight=False)
    seed = secrets.randbelow(2**31) if wishes.seed is None else wishes.seed
    try:
        report = grade(source, only=wishes.only, seed=seed, bubblewrap=wishes.bubblewrap)
    except BadFile as error:
        why = f"{path}: cannot be graded: {error}"
        failed = {"file": str(path), "seed": seed, "passed": False, "error": why, "exercises": []}
        write_results(wishes, failed, as_gradescope([], wishes.only or tuple(SUBJECTS), why))
        raise UserError(why) from error
    try:
        show(report, console, conventions=adapter)
        show_hints(report, wishes, console)
    finally:  # the files are written even if nobody reads on
        tests = as_gradescope(report.exercises, wishes.only or tuple(SUBJECTS), summary(report))
        write_results(wishes, as_json(report), tests)
        record_progress(path, report.exercises)
    return 0 if report.passed else 1


def write_results(wishes: Wishes, as_json: dict[str, Any], as_gradescope: dict[str, Any]) -> None:
    """Write the files that are asked for."""
    for path, value in ((wishes.json, as_json), (wishes.gradescope, as_gradescope)):
        if path is not None:
            write_json(path, value)


def read_source(path: Path, *, adapter: bool) -> Source:
    """A file to grade. UserError: it is none, or no text."""
    with reading(path):
        if not path.is_file():
            raise UserError(
                f"{path}: {'not a file' if path.exists() else 'there is no such file'}; wanted a Python file"
            )
        with open(path, "rb") as file:
            data = file.read(MAX_SOURCE + 1)
    if len(data) > MAX_SOURCE:
        raise UserError(f"{path} is larger than {MAX_SOURCE:,} bytes; wanted a file of functions")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; wanted a Python file") from error
    return Source(str(path), text, folder=path.resolve().parent if adapter else None)


def show_hints(report: Report, wishes: Wishes, console: Console) -> None:
    """Print as many hints as are asked for, for what is wrong, or else for what is to be written next."""
    wrong = [e for e in report.exercises if e.attempted and not e.passed]
    to_do = [e for e in report.exercises if not e.attempted][:1]
    for exercise in (wrong or to_do) if wishes.hint else ():
        for level, hint in enumerate(HINTS[exercise.name][: wishes.hint], start=1):
            console.print(Text(f"{exercise.name}, hint {level}: {hint}"), soft_wrap=True)


def state_of(path: Path) -> tuple[int, int] | None:
    """What changes when a file is saved; None while there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def make(folder: Path) -> int:
    """`minikd course make`."""
    make_course(folder)
    print(f"{len(SUBJECTS)} exercises in {folder / 'exercises.py'}; {folder / 'README.md'} says how to go on")
    return 0


def check() -> int:
    """`minikd course check`."""
    seed = secrets.randbelow(2**31)
    problems = check_course(seed=seed)
    for problem in problems:
        print(f"{problem} (seed {seed})")
    if not problems:
        print(f"all {len(SUBJECTS)} stubs fail, all {len(SUBJECTS)} solutions pass")
    return 1 if problems else 0
