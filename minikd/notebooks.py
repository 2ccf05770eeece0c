"""The lessons as Jupyter notebooks, clean or executed."""

import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from minikd.atomic import atomic_write, writing
from minikd.errors import UserError
from minikd.lesson import CHECKS
from minikd.lessons import Lesson, run_lessons

SECONDS = 900
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def export(lessons: Sequence[Lesson], folder: Path, *, execute: bool) -> int:
    """Write each lesson as `folder`/NAME.ipynb; with `execute`, run it there, and record that as `run_lessons` does."""
    jupytext = _imported("jupytext")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)

    def as_notebook(lesson: Lesson, checks: Path) -> str:
        notebook = jupytext.read(lesson.path, fmt="py:percent")
        try:
            _execute(notebook, checks)
        finally:  # a notebook that failed shows where
            _write(notebook, folder / f"{lesson.path.stem}.ipynb")
        return ""

    if execute:
        _imported("nbclient")
        return run_lessons(lessons, as_notebook)
    for lesson in lessons:
        _write(jupytext.read(lesson.path, fmt="py:percent"), folder / f"{lesson.path.stem}.ipynb")
    print(f"{len(lessons)} notebooks in {folder}; jupyter lab opens them")
    return 0


def _execute(notebook: Any, checks: Path) -> None:
    """Run all cells in place, in the current folder; RuntimeError, with what it said, where one fails."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    here = {"metadata": {"path": "."}}
    client = NotebookClient(notebook, timeout=SECONDS, kernel_name=KERNEL["name"], resources=here)
    try:
        client.execute(env=os.environ | {CHECKS: str(checks)})
    except CellExecutionError as error:
        raise RuntimeError(f"{error.ename}: {error.evalue}") from error


def _write(notebook: Any, path: Path) -> None:
    notebook.metadata["kernelspec"] = KERNEL
    with atomic_write(path) as file:
        file.write(_imported("nbformat").writes(notebook) + "\n")


def _imported(name: str) -> ModuleType:
    try:
        return __import__(name)
    except ImportError:
        raise UserError(f"{name} is not installed; wanted it for notebooks: pip install 'minikd[notebooks]'") from None
