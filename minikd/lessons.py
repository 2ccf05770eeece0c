"""The lessons from outside: which there are, what running them gave, and what they look like as notebooks."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

import minikd
from minikd.atomic import atomic_write, write_json, writing
from minikd.errors import UserError
from minikd.lesson import CHECKS, FOLDER
from minikd.reading import read_json_object, reading

TITLE = re.compile(r"^# # \d+\. (.+)$", re.MULTILINE)
ROW = re.compile(r"^\| (\d+) \| \[[^]]+\]\([^)]+\) \| .+ \| (.+) \|$", re.MULTILINE)
RECORD, SUMMARY = "lessons.json", "lessons.txt"
USED = {"passed": bool, "seconds": int | float, "checks": list, "sha256": str}  # of a record, later
SECONDS_BETWEEN_LOOKS = 0.1
LAST_LINES = 12  # of a failed lesson, shown

Execute = Callable[["Lesson", Path], str]
"""What runs a lesson, its checks recorded in a file, and gives what it said; RuntimeError if the lesson fails."""


@dataclass(frozen=True)
class Lesson:
    """A script of the course."""

    number: int
    path: Path
    title: str
    usual_time: str

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def find_lessons(folder: Path | None = None) -> dict[int, Lesson]:
    """The lessons by number, in `folder`, else in ./lessons, else beside minikd's own folder; UserError if none are."""
    places = [folder] if folder else [Path("lessons"), Path(minikd.__file__).parents[1] / "lessons"]
    for place in places:
        paths = sorted(place.glob("[0-9][0-9]_*.py"))
        if paths:
            break
    else:
        where = " and ".join(map(str, places))
        raise UserError(f"no lessons in {where}; wanted the folder lessons/ of minikd's repository (--folder)")
    guide = place / "README.md"
    times = dict(ROW.findall(_text(guide))) if guide.exists() else {}
    lessons: dict[int, Lesson] = {}
    for path in paths:
        title = TITLE.search(_text(path))
        number = int(path.name[:2])
        if number in lessons:
            raise UserError(f"{path} has the number of {lessons[number].path.name}; wanted one lesson of each number")
        lessons[number] = Lesson(number, path, title[1] if title else path.stem, times.get(str(number), ""))
    return lessons


def chosen(lessons: dict[int, Lesson], which: Sequence[str]) -> list[Lesson]:
    """Those of `which` ("3", "8-10"), or all; UserError: none of that number."""
    numbers: list[int] = []
    for part in which:
        ends = re.fullmatch(r"(\d\d?)(?:-(\d\d?))?", part)
        wanted = range(int(ends[1]), int(ends[2] or ends[1]) + 1) if ends else range(0)
        if not wanted or not set(wanted) <= set(lessons):
            raise UserError(f"{part!r} names no lesson; wanted a number from {min(lessons)} to {max(lessons)}, or 8-10")
        numbers += wanted
    return [lessons[number] for number in sorted(set(numbers) or lessons)]


def list_lessons(lessons: Iterable[Lesson]) -> None:
    """Print the lessons: order, title, how long, and what came of running them."""
    records = read_records()
    table = Table("", "Lesson", "Time", "State", box=None, pad_edge=False)
    for lesson in lessons:
        record = records.get(lesson.path.name, {})
        seconds = f"{record['seconds']:.0f} s" if record else lesson.usual_time
        table.add_row(str(lesson.number), Text(lesson.title), Text(seconds), _state(lesson, record))
    Console(highlight=False).print(table)


def run_lessons(lessons: Sequence[Lesson], execute: Execute) -> int:
    """Run lessons in their order, record what came of them, and print a summary; 0 if all passed, else 1."""
    console = Console(highlight=False)
    records = read_records()
    for lesson in lessons:
        record = records[lesson.path.name] = _run(lesson, execute, console)
        with writing(FOLDER):
            FOLDER.mkdir(parents=True, exist_ok=True)
        write_json(FOLDER / RECORD, dict(sorted(records.items())))
        held = sum(check["holds"] for check in record["checks"])
        colour = "green" if record["passed"] else "red"
        console.print(
            Text.assemble(
                (f"{_state(lesson, record):7s}", colour),
                f"  {lesson.number:2d}  {lesson.title}   ",
                (f"{held} checks hold, {record['seconds']:.0f} s", "dim"),
            )
        )
        if not record["passed"]:
            console.print(Text(record["said"]))
    done = {lesson.path.name: records[lesson.path.name] for lesson in lessons}
    with atomic_write(FOLDER / SUMMARY) as file:
        file.write(as_text(records))
    failed = [name for name, record in done.items() if not record["passed"]]
    n_checks = sum(len(record["checks"]) for record in done.values())
    total = sum(record["seconds"] for record in done.values())
    console.print(
        f"{len(done) - len(failed)} of {len(done)} lessons passed with {n_checks} checks in {total:.0f} s; "
        f"all of them in {FOLDER / SUMMARY} and {FOLDER / RECORD}"
    )
    return 1 if failed else 0


def read_records() -> dict[str, Any]:
    """What running the lessons has given so far, by the name of the script; without what is no such record."""
    path = FOLDER / RECORD
    records = read_json_object(path) if path.exists() else {}
    return {name: record for name, record in records.items() if _is_record(record)}


def as_text(records: dict[str, Any]) -> str:
    """All checks of all lessons that were run, for people."""
    lines = []
    for name, record in records.items():
        lines.append(f"{name}: {'passed' if record['passed'] else 'failed'} in {record['seconds']:.0f} s")
        for check in record["checks"]:
            lines.append(f"    {'holds' if check['holds'] else 'FALSE'}: {check['claim']}{check['measured']}")
    return "\n".join(lines) + "\n"


def as_script(lesson: Lesson, checks: Path) -> str:
    """Run a lesson as what it is, a script (an `Execute`)."""
    environment = os.environ | {CHECKS: str(checks), "PYTHONUNBUFFERED": "1", "MPLBACKEND": "agg"}
    command = [sys.executable, str(lesson.path)]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    if done.returncode:
        raise RuntimeError(done.stdout)
    return done.stdout


def _run(lesson: Lesson, execute: Execute, console: Console) -> dict[str, Any]:
    fingerprint, start = lesson.fingerprint, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        checks = Path(folder) / "checks.jsonl"
        checks.touch()
        usual = f", usually {lesson.usual_time}" if lesson.usual_time else ""
        try:
            with console.status(Text(f"{lesson.number}  {lesson.title}: running{usual}")):
                said, passed = execute(lesson, checks), True
        except RuntimeError as error:
            said, passed = str(error), False
        recorded = [json.loads(line) for line in checks.read_text(encoding="utf-8").splitlines()]
    return {
        "number": lesson.number,
        "title": lesson.title,
        "passed": passed,
        "seconds": round(time.perf_counter() - start, 1),
        "checks": recorded,
        "said": "" if passed else "\n".join(said.rstrip().splitlines()[-LAST_LINES:]),
        "sha256": fingerprint,
    }


def _is_record(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(name), kind) for name, kind in USED.items())
        and all(isinstance(check, dict) and check.keys() >= {"claim", "holds", "measured"} for check in value["checks"])
    )


def _text(path: Path) -> str:
    try:
        with reading(path):
            return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; wanted text") from error


def _state(lesson: Lesson, record: dict[str, Any]) -> str:
    if not record or record["sha256"] != lesson.fingerprint:
        return "changed" if record else "not run"
    return "passed" if record["passed"] else "failed"
