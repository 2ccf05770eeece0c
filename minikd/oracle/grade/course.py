"""The student's folder: a file of stubs, what to do with it, and how far one has come."""

import inspect
import re
import textwrap
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from minikd.atomic import atomic_write, writing
from minikd.errors import UserError
from minikd.oracle.grade.grader import Exercise, Limits, Source, grade
from minikd.oracle.grade.hints import HINTS
from minikd.oracle.grade.report import HEADINGS
from minikd.oracle.grade.trials import COLUMNS
from minikd.oracle.subjects import SUBJECTS, Subject
from minikd.reading import reading

EXERCISES, PROGRESS, README = "exercises.py", "PROGRESS.md", "README.md"
WIDTH = 100
UNASKED = re.compile(r"\s+(Kept for the pullback|Ids are checked)[^.]*\.|,? \((values )?on a GPU[^)]*\)")
"""What minikd's own docstrings say of minikd alone."""

HEAD = '''"""Write these functions. `minikd grade exercises.py` says which are right, and what is wrong with the others.

A function that has a gradient returns a pair: its value, and its pullback `vjp`, which takes the gradient with respect
to the value and returns the gradients with respect to the arguments, in their order. The pullback of a loss, which is
one number, takes that number's weight: `def vjp(w=1.0)`. No function changes its arguments.
"""

import numpy as np
'''

GUIDE = """# Distillation by hand

{count} functions, from a stable softmax to a lockstep co-distillation step: write them in `exercises.py`, in NumPy.

```sh
minikd grade exercises.py                              # everything that you have begun
minikd grade exercises.py --only softmax --watch       # one function, again whenever you save
minikd grade exercises.py --only softmax --hint        # a hint; --hint --hint says more, a third one nearly all
```

`PROGRESS.md` is brought up to date by every grading. The functions stand in the order in which they build on each
other; within a topic the order is yours.

A function returns its value and its pullback:

```python
y, vjp = layer_norm(x, gain, bias)
dx, dgain, dbias = vjp(dy)
```

In PyTorch or JAX write the value alone, `def softmax(logits, temperature=1.0): return ...`, in a file that imports the
library: it takes the gradient. A file that imports both says which one it means: `FRAMEWORK = "torch"`.

The cases are drawn anew each time, and a line at the end tells how to get the same ones again. What is looked at:

{columns}

Right is a relative error below 1e-7 in float64, 1e-4 in float32. `reduction` may be left out.
"""


def make_course(folder: Path) -> None:
    """Write the student's folder. UserError: there is something in it already, or it cannot be written."""
    with reading(folder):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file; wanted a folder, new or empty")
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"{folder} is not empty; wanted a new or an empty folder")
    columns = "\n".join(f"- **{HEADINGS.get(name, name)}**: {meaning}" for name, meaning in COLUMNS.items())
    guide = GUIDE.format(count=len(SUBJECTS), columns=columns)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as all_or_none:
        for name, text in ((EXERCISES, stubs()), (README, guide), (PROGRESS, progress())):
            file = all_or_none.enter_context(atomic_write(folder / name))
            file.write(text)
            file.flush()


def stubs() -> str:
    """The file of exercises, none of them written."""
    return "\n\n".join([HEAD, *map(stub, SUBJECTS.values())])


def stub(subject: Subject) -> str:
    """A function without a body: what it is given, what it returns, and the first hint."""
    about = UNASKED.sub("", inspect.getdoc(subject.function) or "")
    text = f"{about}\n\nConvention: {subject.convention}.\n\nHint: {HINTS[subject.name][0]}"
    paragraphs = "\n\n".join(
        paragraph if "\n    " in paragraph else textwrap.fill(paragraph, 112) for paragraph in text.split("\n\n")
    )
    body = textwrap.indent(f'"""{paragraphs}\n"""\nraise NotImplementedError', "    ")
    return f"{heading(subject)}\n{body}\n"


def heading(subject: Subject) -> str:
    """The line `def ...`, with the parameters that the exercise is called with."""
    rng = np.random.default_rng(0)
    used = {name for case in [*subject.draw(rng), subject.batch(rng)] for name in (*case.inputs, *case.attributes)}
    parameters = [
        parameter.replace(annotation=parameter.empty)
        for parameter in inspect.signature(subject.function).parameters.values()
        if parameter.name in used
    ]
    line = f"def {subject.name}{inspect.Signature(parameters)}:"
    if len(line) <= WIDTH:
        return line
    inner = textwrap.fill(line[line.index("(") + 1 : -2], WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 4)
    return f"def {subject.name}(\n{inner}\n):"


def progress() -> str:
    """The list of all exercises, none of them done."""
    lines = [f"- [ ] {name}: {subject.convention}" for name, subject in SUBJECTS.items()]
    return "\n".join(["# Progress", "", *lines, ""])


def record_progress(file: Path, exercises: Sequence[Exercise]) -> None:
    """Tick off what is right, in the list beside a graded file if there is one, and take back what no longer is."""
    path = file.with_name(PROGRESS)
    if file.name != EXERCISES or not path.is_file():
        return
    with reading(path):
        old = text = path.read_bytes().decode("utf-8", "surrogateescape")
    for exercise in exercises:
        tick = "x" if exercise.passed else " "
        text = re.sub(rf"^- \[[ x]\] {exercise.name}:", f"- [{tick}] {exercise.name}:", text, flags=re.MULTILINE)
    if text != old:
        with atomic_write(path, binary=True) as written:
            written.write(text.encode("utf-8", "surrogateescape"))


def check_course(*, seed: int, limits: Limits = Limits()) -> list[str]:
    """What is wrong with the course: the stubs that are not refused, and the solutions that are."""
    solutions = "from minikd.oracle.subjects import SUBJECTS\n" + "".join(
        f"{name} = SUBJECTS[{name!r}].function\n" for name in SUBJECTS
    )
    stub_report = grade(Source(EXERCISES, stubs()), only=list(SUBJECTS), seed=seed, limits=limits)
    report = grade(Source("solutions.py", solutions, with_minikd=True), only=list(SUBJECTS), seed=seed, limits=limits)
    return [f"{exercise.name}: the stub passes" for exercise in stub_report.exercises if exercise.passed] + [
        f"{exercise.name}: the solution fails: {exercise.diagnosis}"
        for exercise in report.exercises
        if not exercise.passed
    ]
