"""Measure which known mistakes the grader names, and write the page: `python -m docs.diagnosis`."""

from collections.abc import Mapping
from pathlib import Path

from minikd.atomic import atomic_write
from minikd.oracle.mutants import MUTANTS, Mutant
from minikd.oracle.subjects import SUBJECTS
from tests.oracle.grade.handed_in import diagnoses, in_torch, misnamed, numpy_file, torch_file

PAGE = Path(__file__).with_name("diagnosis.md")

INTRODUCTION = """\
# The mistakes that the grader names

Each of minikd's {n} planted mistakes ({{py:mod}}`minikd.oracle.mutants`) was handed in to `minikd grade` as a person's
file, in NumPy; {m} of those in the losses also in PyTorch, whose gradients PyTorch took. The table counts how often
the diagnosis began with the words that belong to the mistake.

{table}
{others}"""


def page(in_numpy: Mapping[Mutant, str], in_pytorch: Mapping[Mutant, str]) -> str:
    """The page about these measurements."""
    rows = [counts(name, in_numpy, in_pytorch) for name in SUBJECTS]
    rows.append(["**all**", *(total([row[i] for row in rows]) for i in (1, 2))])
    lines = ["| exercise | NumPy | PyTorch |", "| --- | --- | --- |", *("| " + " | ".join(row) + " |" for row in rows)]
    wrong = [
        f'- {mistake} ({where}): "{said}"'
        for where, found in (("NumPy", in_numpy), ("PyTorch", in_pytorch))
        for mistake, said in misnamed(found).items()
    ]
    others = "\n".join(["Not named:", "", *wrong, ""]) if wrong else ""
    return INTRODUCTION.format(n=len(in_numpy), m=len(in_pytorch), table="\n".join([*lines, ""]), others=others)


def counts(name: str, *found: Mapping[Mutant, str]) -> list[str]:
    """A row: the name of an exercise, and how many of its mistakes were named."""
    cells = []
    for diagnosed in found:
        own = {mutant: said for mutant, said in diagnosed.items() if mutant.subject == name}
        cells.append(f"{len(own) - len(misnamed(own))} of {len(own)}" if own else "–")
    return [name, *cells]


def total(cells: list[str]) -> str:
    """The sum of cells like "3 of 4"."""
    pairs = [cell.split(" of ") for cell in cells if " of " in cell]
    return f"{sum(int(named) for named, _ in pairs)} of {sum(int(all_of) for _, all_of in pairs)}"


def main() -> None:
    """Measure, and write the page."""
    text = page(diagnoses(MUTANTS, numpy_file), diagnoses(in_torch(), torch_file))
    with atomic_write(PAGE) as file:
        file.write(text)


if __name__ == "__main__":
    main()
