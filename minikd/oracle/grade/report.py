"""What became of a graded file: for people a table and what is wrong, for programs JSON, for Gradescope its form."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from minikd.oracle.grade.grader import NOT_CALLED, Exercise, Report
from minikd.oracle.grade.sandbox import clean
from minikd.oracle.grade.trials import COLUMNS
from minikd.oracle.subjects import SUBJECTS

SHOWN_CASES = 3
SHOWN_LINES = 20
NARROWEST = 100  # columns of text
HEADINGS = {
    "temperature": "T", "extreme": "far", "shift": "shift", "float32": "f32", "strided": "view", "random": "rand",
}  # fmt: skip


def show(report: Report, console: Console, *, conventions: bool = False) -> None:
    """Print the table, what is wrong, a line that sums it up; with the conventions of what is right, if asked for."""
    console.width = max(console.width, NARROWEST)
    ticks = marks(console)
    if report.attempted:
        console.print(table(report.attempted, ticks))
    for exercise in report.exercises:
        if exercise.attempted and not exercise.passed:
            console.print(Group(*failure(exercise, ticks)))
        elif conventions and exercise.passed:
            console.print(Text(f"{exercise.name} follows: {SUBJECTS[exercise.name].convention}"), soft_wrap=True)
    if report.printed:
        console.print(Text("the file printed:", style="dim"))
        for line in report.printed.splitlines()[:SHOWN_LINES]:
            console.print(Text(f"  | {clean(line)}", style="dim"), soft_wrap=True)
    console.print(Text(summary(report), style="bold green" if report.passed else "bold red"), soft_wrap=True)


def marks(console: Console) -> dict[bool | None, str]:
    """The signs for passed, failed and not asked."""
    return dict(zip((True, False, None), "✓✗·" if "utf" in console.encoding.lower() else "+x.", strict=True))


def table(exercises: Sequence[Exercise], ticks: dict[bool | None, str]) -> Table:
    """Exercises by columns: passed, failed, not asked."""
    found = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    found.add_column("")
    for column in COLUMNS:
        found.add_column(HEADINGS.get(column, column), justify="center", style="dim", header_style="dim")
    for exercise in exercises:
        style = "green" if exercise.passed else "red"
        cells = [mark(in_column(exercise, column), ticks) for column in COLUMNS]
        found.add_row(Text(exercise.name, style=style), *cells)
    return found


def in_column(exercise: Exercise, column: str) -> bool | None:
    """Whether all cases of a column passed; None if there is none."""
    passed = [case.passed for case in exercise.cases if case.column == column]
    return all(passed) if passed else None


def mark(passed: bool | None, ticks: dict[bool | None, str]) -> Text:
    """A cell."""
    return Text(ticks[passed], style={True: "green", False: "bold red", None: "dim"}[passed])


def failure(exercise: Exercise, ticks: dict[bool | None, str]) -> Iterator[Text]:
    """What is wrong with an exercise: the diagnosis, and the first cases that failed."""
    yield Text(f"\n{ticks[False]} {exercise.name}: {exercise.diagnosis}", style="bold")
    failed = [case for case in exercise.cases if not case.passed]
    told = [case for case in failed if case.reason != exercise.diagnosis and case.reason != NOT_CALLED][:SHOWN_CASES]
    for case in told:
        yield Text(f"    {case.name}: {case.reason}")
    if len(failed) > len(told):
        yield Text(f"    {len(failed)} of {len(exercise.cases)} cases fail", style="dim")


def summary(report: Report) -> str:
    """One line."""
    passed = sum(exercise.passed for exercise in report.exercises)
    left = len(report.exercises) - len(report.attempted)
    to_do = f", {left} not written yet" if left else ""
    return (
        f"{report.file}: {passed} of {len(report.attempted)} right{to_do} (the same cases again: --seed {report.seed})"
    )


def as_json(report: Report) -> dict[str, Any]:
    """The report for programs."""
    return {
        "file": report.file,
        "seed": report.seed,
        "passed": report.passed,
        "protections": list(report.protections),
        "exercises": [
            {
                "name": exercise.name,
                "attempted": exercise.attempted,
                "passed": exercise.passed,
                "convention": SUBJECTS[exercise.name].convention,
                "diagnosis": exercise.diagnosis,
                "cases": [
                    {
                        "name": case.name,
                        "column": case.column,
                        "passed": case.passed,
                        "loss_error": case.loss_error,
                        "grad_error": case.grad_error,
                        "reason": case.reason,
                    }
                    for case in exercise.cases
                ],
            }
            for exercise in report.exercises
        ],
    }


def as_gradescope(exercises: Sequence[Exercise], names: Sequence[str], output: str) -> dict[str, Any]:
    """The results.json of Gradescope: a point for each of the exercises asked for, whether the file has it or not."""
    found = {exercise.name: exercise for exercise in exercises}
    return {
        "output": output,
        "output_format": "text",
        "tests": [_gradescope_test(name, found.get(name)) for name in dict.fromkeys(names)],
    }


def _gradescope_test(name: str, exercise: Exercise | None) -> dict[str, Any]:
    passed = exercise is not None and exercise.passed
    if exercise is None or not exercise.attempted:
        text = "not written yet"
    else:
        failed = [f"{case.name}: {case.reason}" for case in exercise.cases if not case.passed]
        text = "\n".join([exercise.diagnosis, *failed]) if failed else f"all {len(exercise.cases)} cases are right"
    return {
        "name": name,
        "score": float(passed),
        "max_score": 1.0,
        "status": "passed" if passed else "failed",
        "output": text,
        "output_format": "text",
    }
