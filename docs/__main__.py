"""Build the site: `python -m docs`. Warnings are errors; nothing is fetched from a network."""

import argparse
import sys
from pathlib import Path

import nbformat
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn, NbValidityError
from sphinx.cmd.build import build_main

from docs import benchmarks, explore
from minikd.lessons import find_lessons, read_records
from minikd.notebooks import export

HERE = Path(__file__).parent
ROOT = HERE.parent
BUILD = HERE / "_build"


def execute_lessons(folder: Path) -> int:
    """Execute those lessons whose notebook in `folder` is missing or older than they are; 0 if all passed, else 1.

    They share their trained models in this way, which they could not if each was executed in a place of its own.
    """
    notebooks = {lesson: folder / f"{lesson.path.stem}.ipynb" for lesson in find_lessons(ROOT / "lessons").values()}
    old = [
        lesson
        for lesson, notebook in notebooks.items()
        if not notebook.exists() or notebook.stat().st_mtime < lesson.path.stat().st_mtime
    ]
    failed = export(old, folder, execute=True) if old else 0
    for lesson in old:
        if not read_records()[lesson.path.name]["passed"]:
            notebooks[lesson].unlink()
    return failed


def take_executed(folder: Path) -> None:
    """Put executed lessons where myst-nb looks for them: it executes only those whose code has changed since.

    ValueError, naming the file: a notebook that is not executed. FileNotFoundError: no notebook is there.
    """
    paths = sorted(folder.glob("*.ipynb"))
    if not paths:
        raise FileNotFoundError(f"--notebooks: no *.ipynb in {folder}; wanted the lessons, executed")
    cache = get_cache(BUILD / ".jupyter_cache")
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        notebook.metadata.pop("kernelspec", None)  # this and the times count in the comparison; scripts have neither
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)
        try:
            cache.cache_notebook_bundle(CacheBundleIn(notebook, str(path)), overwrite=True)
        except NbValidityError as error:
            raise ValueError(f"--notebooks: {path} is not executed from its first cell to its last") from error


def main(arguments: list[str]) -> int:
    """Write the pages that are generated, then all pages; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m docs", description=__doc__, epilog="Other options go to Sphinx.")
    parser.add_argument(
        "--notebooks", type=Path, metavar="DIR", help="a folder of executed lessons; if not given, they are executed"
    )
    options, for_sphinx = parser.parse_known_args(arguments)
    if options.notebooks is None and execute_lessons(BUILD / "notebooks"):
        return 1
    try:
        take_executed(options.notebooks or BUILD / "notebooks")
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    benchmarks.main()
    explore.main()
    return build_main(["-W", "--keep-going", str(HERE), str(BUILD / "html"), *for_sphinx])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
