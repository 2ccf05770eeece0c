"""The command line: `minikd compare | train | distill | sample | eval | info | grade | course | lessons | vectors`.

Options are the fields of the configuration dataclasses, whose docstrings are the help. What a person got wrong
becomes one line on the standard error stream and exit code 2.
"""

import json
import math
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import (
    App,
    CoercionError,
    CycloptsError,
    Group,
    MissingArgumentError,
    Parameter,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from minikd import commands
from minikd.commands import Call, NewTeacherConfig
from minikd.compare import CompareConfig
from minikd.distill.methods import DistillConfig, Method
from minikd.errors import Interrupted, UserError
from minikd.info import about
from minikd.job import MachineConfig, ModelConfig, RunConfig, TextConfig
from minikd.models.generate import Sampling
from minikd.options import fill_in, flat, nearest, wanted
from minikd.train import TrainConfig
from minikd.versions import package_version


def panel(title: str, place: int) -> Group:
    """A part of the help, in its place."""
    return Group(title, sort_key=place)


ARGUMENTS, SIZE, TEXT = panel("What", 0), panel("Comparison", 1), panel("Text", 2)
MODEL, TRAINING, DISTILLATION = panel("Model", 3), panel("Training", 4), panel("Distillation", 5)
SAMPLING, RUN, GRADING = panel("Sampling", 6), panel("Run", 7), panel("Grading", 6)

Texts = Annotated[TextConfig, Parameter(name="*", group=TEXT)]
Model = Annotated[ModelConfig, Parameter(name="*", group=MODEL)]
Training = Annotated[TrainConfig, Parameter(name="*", group=TRAINING)]
Distillation = Annotated[DistillConfig, Parameter(name="*", group=DISTILLATION)]
NewTeacher = Annotated[NewTeacherConfig, Parameter(name="*", group=DISTILLATION)]
Run = Annotated[RunConfig, Parameter(name="*", group=RUN)]
Machine = Annotated[MachineConfig, Parameter(name="*", group=RUN)]
Init = Annotated[
    Path | None, Parameter(group=MODEL, help="a model folder to start from, instead of a new model; sizes are its own")
]
Teacher = Annotated[
    Path | None,
    Parameter(
        group=DISTILLATION,
        help="model folder of the teacher, whose tokenizer is used; codistill makes a new teacher if not given",
    ),
]
Out = Annotated[Path, Parameter(group=RUN, help="folder for the results; new, or empty")]
Resume = Annotated[bool, Parameter(group=RUN, help="go on with the unfinished run in the folder, with its own options")]
ConfigFile = Annotated[
    Path | None, Parameter(name="--config", group=RUN, help="TOML file of options (steps = 600); the command line wins")
]
ModelFolder = Annotated[Path, Parameter(group=ARGUMENTS, help="folder of the model")]


def shown(default: Any) -> str:
    """A default in the help."""
    if default in (None, (), ""):
        return "none"
    return {True: "yes", False: "no"}[default] if isinstance(default, bool) else str(default)


app = App(
    name="minikd",
    help="Distil a small language model on real text: a teacher, and students that learn from it in different ways.",
    version=package_version("minikd"),
    config=fill_in,
    default_parameter=Parameter(negative_iterable=(), json_list=False, show_default=shown),
)


@app.command(sort_key=0)
def compare(
    *,
    size: Annotated[CompareConfig, Parameter(name="*", group=SIZE)] = CompareConfig(),
    text: Texts = TextConfig(),
    run: Run = RunConfig(),
    out: Out = Path("runs/compare"),
    resume: Resume = False,
    config: ConfigFile = None,
) -> None:
    """Train a teacher, and a student by every method, and report what each method gave."""
    commands.compare_all(Call("compare", flat(size, text, run), out, resume), text, size, run)


@app.command(sort_key=1)
def train(
    *,
    text: Texts = TextConfig(),
    model: Model = ModelConfig(),
    init: Init = None,
    training: Training = TrainConfig(),
    run: Run = RunConfig(),
    out: Out = Path("runs/train"),
    resume: Resume = False,
    config: ConfigFile = None,
) -> None:
    """Train a model on a text; it lies in OUT/model."""
    call = Call("train", flat(text, model, training, run, init=init), out, resume)
    commands.train_by("scratch", call, text, model, training, run, init=init)


@app.command(sort_key=2)
def distill(
    *,
    text: Texts = TextConfig(),
    model: Model = ModelConfig(),
    init: Init = None,
    training: Training = TrainConfig(),
    method: Annotated[Method, Parameter(group=DISTILLATION, help="how the student learns")] = "soft",
    teacher: Teacher = None,
    distillation: Distillation = DistillConfig(),
    new_teacher: NewTeacher = NewTeacherConfig(),
    run: Run = RunConfig(),
    out: Out = Path("runs/distill"),
    resume: Resume = False,
    config: ConfigFile = None,
) -> None:
    """Train a student that learns from a teacher; it lies in OUT/model, a co-distilled teacher in OUT/teacher."""
    options = flat(text, model, training, distillation, new_teacher, run, init=init, method=method, teacher=teacher)
    commands.train_by(
        method,
        Call("distill", options, out, resume),
        text,
        model,
        training,
        run,
        distill_config=distillation,
        new_teacher=new_teacher,
        teacher_folder=teacher,
        init=init,
    )


@app.command(sort_key=3)
def sample(
    model: ModelFolder,
    /,
    *,
    prompt: Annotated[
        str, Parameter(group=SAMPLING, allow_leading_hyphen=True, help="how the text begins; may be empty")
    ] = "",
    tokens: Annotated[int, Parameter(group=SAMPLING, help="tokens to write, at most")] = 100,
    n: Annotated[int, Parameter(name=("-n", "--texts"), group=SAMPLING, help="texts to write")] = 1,
    greedy: Annotated[bool, Parameter(group=SAMPLING, help="always the most likely token: temperature 0")] = False,
    sampling: Annotated[Sampling, Parameter(name="*", group=SAMPLING)] = Sampling(),
    run: Run = RunConfig(),
    config: ConfigFile = None,
) -> None:
    """Let a model write."""
    for name, value in (("tokens", tokens), ("texts", n)):
        if value < 1:
            raise UserError(f"{name} is {value}; wanted at least 1")
    if greedy:
        sampling = replace(sampling, temperature=0.0)
    texts = commands.sample_texts(model, prompt, tokens, n, sampling, run)
    for i, text in enumerate(texts):
        print(f"--- {i + 1}\n{text}" if n > 1 else text)


@app.command(name="eval", sort_key=4)
def evaluate(
    model: ModelFolder,
    /,
    *,
    text: Annotated[
        tuple[Path, ...],
        Parameter(group=TEXT, help="files or folders of UTF-8 text; Python's own documentation if not given"),
    ] = (),
    split: Annotated[
        Literal["validation", "all"],
        Parameter(group=TEXT, help="the part of the text that training keeps for validation, or all of it"),
    ] = "validation",
    val_fraction: Annotated[
        float, Parameter(group=TEXT, help="share of the text that is the validation part; as it was in training")
    ] = TextConfig.val_fraction,
    context: Annotated[
        int | None, Parameter(group=TEXT, help="tokens that the model reads at once; as many as it can if not given")
    ] = None,
    teacher: Annotated[
        Path | None, Parameter(group=ARGUMENTS, help="model folder to measure agreement and kl_to_teacher against")
    ] = None,
    as_json: Annotated[bool, Parameter(name="--json", group=RUN, help="print one JSON object")] = False,
    machine: Machine = MachineConfig(),
    config: ConfigFile = None,
) -> None:
    """Measure how well a model predicts a text: by default the part of it that training does not read."""
    values = commands.evaluate_model(
        model, text, machine, split=split, val_fraction=val_fraction, context=context, teacher_folder=teacher
    )
    if as_json:
        print(json.dumps({name: value if math.isfinite(value) else None for name, value in values.items()}))
    else:
        for name, value in values.items():
            print(f"{name:14s} {value:.6g}" if isinstance(value, float) else f"{name:14s} {value}")


@app.command(sort_key=5)
def info(
    folder: Annotated[Path | None, Parameter(group=ARGUMENTS, help="a model folder, or the folder of a run")] = None, /
) -> None:
    """Tell versions, device and cores, or what is in a folder."""
    for line in about(folder):
        print(line)


@app.command(sort_key=6)
def grade(
    file: Annotated[Path | None, Parameter(group=ARGUMENTS, help="Python file with the functions to grade")] = None,
    /,
    *,
    adapter: Annotated[
        Path | None, Parameter(group=ARGUMENTS, help="such a file that brings its own modules, which lie beside it")
    ] = None,
    only: Annotated[
        tuple[str, ...], Parameter(group=GRADING, help="name of an exercise; all that the file has if not given")
    ] = (),
    hint: Annotated[
        int, Parameter(group=GRADING, count=True, help="print a hint; given twice or three times, further ones")
    ] = 0,
    watch: Annotated[bool, Parameter(group=GRADING, help="grade again whenever the file is saved")] = False,
    seed: Annotated[int | None, Parameter(group=GRADING, help="draws the cases; a new one if not given")] = None,
    bubblewrap: Annotated[
        bool, Parameter(group=GRADING, help="run the file in a container by bubblewrap, where that is installed")
    ] = False,
    as_json: Annotated[Path | None, Parameter(name="--json", group=RUN, help="file for the report as JSON")] = None,
    gradescope: Annotated[Path | None, Parameter(group=RUN, help="file for Gradescope's results.json")] = None,
) -> int:
    """Say which functions of a file are right, and what is wrong with the others. Exit code 0 if all are right."""
    from minikd import grade_command  # with all the judge's functions

    wishes = grade_command.Wishes(only, hint, as_json, gradescope, seed, bubblewrap)
    return grade_command.grade_file(file, adapter, wishes, watch=watch)


course = App(name="course", help="Make a course of the exercises that `minikd grade` judges.", sort_key=7)
app.command(course)


@course.command(sort_key=0)
def make(folder: Annotated[Path, Parameter(group=ARGUMENTS, help="folder for the exercises; new, or empty")], /) -> int:
    """Write a student's folder: the exercises to fill in, a guide, and a list of progress."""
    from minikd import grade_command

    return grade_command.make(folder)


@course.command(sort_key=1)
def check() -> int:
    """See that every exercise's stub fails and its solution passes."""
    from minikd import grade_command

    return grade_command.check()


lessons = App(name="lessons", help="The lessons: which there are, and what running them gives.", sort_key=8)
app.command(lessons)

Which = Annotated[str, Parameter(group=ARGUMENTS, help="numbers of lessons, or 8-10; all if not given")]
LessonFolder = Annotated[
    Path | None, Parameter(group=RUN, help="folder with the lessons; lessons/ here or beside minikd if not given")
]


@lessons.default
@lessons.command(name="list", sort_key=0)
def list_lessons(*, folder: LessonFolder = None) -> None:
    """Show the lessons in their order: titles, how long they take, and whether they passed."""
    from minikd.lessons import find_lessons, list_lessons

    list_lessons(find_lessons(folder).values())


@lessons.command(name="run", sort_key=1)
def run_lessons(*which: Which, folder: LessonFolder = None) -> int:
    """Run lessons and record what they claim and measure. Exit code 0 if every claim holds, else 1."""
    from minikd.lessons import as_script, chosen, find_lessons, run_lessons

    return run_lessons(chosen(find_lessons(folder), which), as_script)


@lessons.command(sort_key=2)
def export(
    out: Annotated[Path, Parameter(group=ARGUMENTS, help="folder for the notebooks")],
    /,
    *which: Which,
    execute: Annotated[bool, Parameter(group=RUN, help="run them, so that they hold their output and figures")] = False,
    folder: LessonFolder = None,
) -> int:
    """Write lessons as Jupyter notebooks."""
    from minikd.lessons import chosen, find_lessons
    from minikd.notebooks import export

    return export(chosen(find_lessons(folder), which), out, execute=execute)


@app.command(sort_key=9)
def vectors(
    out: Annotated[Path, Parameter(group=ARGUMENTS, help="folder for the results; new, or empty")],
    /,
    *,
    only: Annotated[tuple[str, ...], Parameter(group=RUN, help="names of functions; all if not given")] = (),
) -> None:
    """Write reference vectors: what every function gives on small inputs, to the last digit."""
    commands.reference_vectors(out, only)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 2 when it cannot be done as asked, 130 after Ctrl-C."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        getattr(sys, name).reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # what overflows is told as a loss
            code = run_command(sys.argv[1:] if argv is None else argv)
        print(end="", flush=True)
        return code or 0
    except UserError as error:
        return say(f"error: {error}", 2)
    except MemoryError as error:
        return say(": ".join(filter(None, ("error: not enough memory", str(error)))), 2)
    except Interrupted as error:
        return say(str(error), 130)
    except KeyboardInterrupt:
        return say("stopped", 130)
    except (BrokenPipeError, SystemExit):  # whoever reads has read enough, which rich makes a SystemExit
        write_no_more()
        return 141
    except OSError as error:
        write_no_more()
        return say(f"error: {error}", 2)


def run_command(argv: Sequence[str]) -> int | None:
    """Parse and call; an exit code if it is not 0. UserError: what a person can get wrong."""
    try:
        with commands.refusing():
            command, bound, _ = app.parse_args(list(argv), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise UserError(parse_message(error)) from error
    return command(*bound.args, **bound.kwargs)


def parse_message(error: CycloptsError) -> str:
    """What is wrong with a command line."""
    argument = error.argument
    match error:
        case UnknownOptionError(token=token):
            name = token.keyword or token.value
            return f"unknown option {name}{nearest(name, [n for a in error.argument_collection for n in a.names])}"
        case UnknownCommandError(unused_tokens=[name, *_]):
            return f"unknown command {name}{nearest(name, commands_after(error.command_chain))}"
        case UnusedCliTokensError(unused_tokens=[token, *_]):
            meant = nearest(token, commands_after(error.command_chain))
            return f"{token!r} belongs to no option{meant or '; see --help'}"
        case MissingArgumentError(keyword=None) if argument is not None:
            return f"{argument.name} is missing; wanted a {argument.parameter.help}"
        case MissingArgumentError(keyword=name):
            return f"{name} has no value; wanted one after it"
        case RepeatArgumentError(token=token):
            return f"{token.keyword} is given twice; wanted it once"
        case CoercionError(token=token) if argument is not None and token is not None:
            return f"{token.keyword or argument.name} is {token.value!r}; wanted {wanted(argument)}"
    return " ".join(str(error).split())


def commands_after(chain: Sequence[str] | None) -> list[str]:
    """The names of the commands that may follow those of `chain`."""
    return [name for name in reduce(App.__getitem__, chain or (), app) if not name.startswith("-")]


def write_no_more() -> None:
    """Forget what is still to be written to the standard output, which takes no more of it."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(line: str, code: int) -> int:
    """Print one line on the standard error stream."""
    print(" ".join(line.splitlines()), file=sys.stderr)
    return code
