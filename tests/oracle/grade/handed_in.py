"""Every known mistake handed in as a file, in NumPy and (the losses) in PyTorch, and what is said to the person."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from minikd.oracle.grade.grader import grade
from minikd.oracle.grade.sandbox import Source
from minikd.oracle.mutants import MUTANTS, Mutant

HERE = Path(__file__).parent
SEED = 1


def numpy_file(mutants: Iterable[Mutant]) -> Source:
    """A file whose functions are these mutants."""
    lines = [f"{mutant.subject} = MUTANTS[{MUTANTS.index(mutant)}].function" for mutant in mutants]
    return Source("answers.py", "\n".join(["from minikd.oracle.mutants import MUTANTS", *lines]), with_minikd=True)


def torch_file(mutants: Iterable[Mutant]) -> Source:
    """A file whose functions make the same mistakes in PyTorch; they stand in a namespace of their own."""
    lines = [f"{mutant.subject} = space['MISTAKES'][{mutant.subject!r}, {mutant.name!r}]" for mutant in mutants]
    return Source("answers.py", "\n".join(["import torch", f"space = {{}}\nexec({torch_text()!r}, space)", *lines]))


def torch_text() -> str:
    """The right losses in PyTorch and the mistakes made in them."""
    return "\n".join((HERE / f"{name}_torch.py").read_text(encoding="utf-8") for name in ("answers", "mistakes"))


def in_torch() -> list[Mutant]:
    """The mutants that exist in PyTorch."""
    space: dict = {}
    exec(compile(torch_text(), "mistakes_torch.py", "exec"), space)
    unknown = set(space["MISTAKES"]) - {(mutant.subject, mutant.name) for mutant in MUTANTS}
    assert not unknown, unknown
    return [mutant for mutant in MUTANTS if (mutant.subject, mutant.name) in space["MISTAKES"]]


def rounds(mutants: Iterable[Mutant]) -> Iterator[list[Mutant]]:
    """The mutants in files: one of each subject in a file."""
    by_subject: Mapping[str, list[Mutant]] = defaultdict(list)
    for mutant in mutants:
        by_subject[mutant.subject].append(mutant)
    for i in range(max(map(len, by_subject.values()))):
        yield [of_subject[i] for of_subject in by_subject.values() if len(of_subject) > i]


def diagnoses(mutants: Iterable[Mutant], file: Callable[[Iterable[Mutant]], Source]) -> dict[Mutant, str]:
    """What is said to the person who made each mistake."""
    found = {}
    for handed_in in rounds(mutants):
        exercises = {exercise.name: exercise for exercise in grade(file(handed_in), seed=SEED).exercises}
        found |= {mutant: exercises[mutant.subject].diagnosis for mutant in handed_in}
    return found


def misnamed(diagnosed: Mapping[Mutant, str]) -> dict[str, str]:
    """The mistakes that are not named, or that another name comes before."""
    return {
        f"{mutant.subject}: {mutant.name}": said
        for mutant, said in diagnosed.items()
        if not said.startswith(mutant.diagnosis)
    }
