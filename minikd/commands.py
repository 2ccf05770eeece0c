"""What the commands do, once it is known what is wanted."""

import hashlib
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from minikd.atomic import write_json
from minikd.backend import to_host
from minikd.checkpoint import alone_in, prepare_out_folder
from minikd.compare import CompareConfig, compare
from minikd.distill.methods import DistillConfig, Method
from minikd.errors import Interrupted, UserError
from minikd.evaluate import Evaluation
from minikd.job import Machine, MachineConfig, ModelConfig, RunConfig, TextConfig, load, look, new_data, run
from minikd.models import GPT2
from minikd.models.generate import Sampling, generate
from minikd.options import RUN, nearest, read_run, refuse_changes
from minikd.report import has_report
from minikd.run_folder import is_finished, reading_result
from minikd.text import Corpus, Tokenizer, open_corpus, tokenize
from minikd.train import TrainConfig, check_learning_rate
from minikd.versions import versions


@dataclass(frozen=True)
class NewTeacherConfig:
    """The teacher of a co-distillation."""

    teacher_n_layer: int = 4
    """blocks of a new teacher"""
    teacher_n_head: int = 4
    """attention heads a block of a new teacher; must divide its width"""
    teacher_n_embd: int = 128
    """width of a new teacher, in channels"""
    teacher_learning_rate: float | None = None
    """the teacher's highest learning rate; the student's if not given"""

    def __post_init__(self) -> None:
        self.model(0.0)
        if self.teacher_learning_rate is not None:
            check_learning_rate("teacher_learning_rate", self.teacher_learning_rate)

    def model(self, dropout: float) -> ModelConfig:
        """The new teacher's size."""
        return ModelConfig(self.teacher_n_layer, self.teacher_n_head, self.teacher_n_embd, dropout)


@dataclass(frozen=True)
class Call:
    """A command that leaves a run in the folder `out`, and its options: what is needed to run it again."""

    command: str
    options: Mapping[str, Any]
    out: Path
    resume: bool


def train_by(
    method: Method,
    call: Call,
    text: TextConfig,
    model_config: ModelConfig,
    training: TrainConfig,
    run_config: RunConfig,
    *,
    distill_config: DistillConfig = DistillConfig(),
    new_teacher: NewTeacherConfig = NewTeacherConfig(),
    teacher_folder: Path | None = None,
    init: Path | None = None,
) -> None:
    """`minikd train` and `minikd distill`: a run of one method in the folder of the call."""
    if method in ("soft", "hard", "sequence") and teacher_folder is None:
        raise UserError(f"method {method!r} learns from a trained teacher; wanted --teacher MODEL_FOLDER")
    names = ("model", "teacher") if method == "codistill" else ("model",)
    if call.resume:
        refuse_other_options(call)
        if is_finished(call.out, names):
            say_result(call.out, names, "finished already: ")
            return
    with refusing():
        machine = Machine.of(run_config)
    corpus = open_text(text, call.out)
    teacher, student, tokenizer = loaded(teacher_folder, init, machine)
    inputs = {"text": corpus.fingerprint, "teacher": fingerprint(teacher), "init": fingerprint(student)}
    with machine.workers, in_out_folder(call, machine, inputs):
        with refusing():
            data = new_data(text, call.out / "text", corpus=corpus, tokenizer=tokenizer, quiet=machine.quiet)
            vocab_size = teacher.config.vocab_size if teacher is not None else data.tokenizer.vocab_size
            sizes = vocab_size, training.context
            if method == "codistill" and teacher is None:
                config = new_teacher.model(model_config.dropout).gpt2(*sizes)
                teacher = machine.new_model(config, (run_config.seed, 1))
            if student is None:
                student = machine.new_model(model_config.gpt2(*sizes), (run_config.seed, 0))
        run(
            method,
            call.out,
            student,
            data,
            training,
            machine,
            distill_config=distill_config,
            teacher=teacher,
            teacher_learning_rate=new_teacher.teacher_learning_rate,
            seed=run_config.seed,
            resume=call.resume,
        )
    say_result(call.out, names)


def compare_all(call: Call, text: TextConfig, config: CompareConfig, run_config: RunConfig) -> None:
    """`minikd compare`: all methods on equal terms."""
    if call.resume:
        refuse_other_options(call)
        if has_report(call.out):
            print(f"finished already: the report is in {call.out / 'report.md'}")
            return
    with refusing():
        machine = Machine.of(run_config)
    inputs = {"text": open_text(text, call.out).fingerprint}
    with in_out_folder(call, machine, inputs):
        compare(text, config, run_config, call.out, resume=call.resume)
    print(f"the report is in {call.out / 'report.md'}")


def open_text(text: TextConfig, out: Path) -> Corpus:
    """The text of a run, if it can be split in two and will not grow by the results of the run."""
    for path in text.text:
        if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
            raise UserError(f"{out} lies in {path}, so the results would become part of the text; wanted another --out")
    corpus = open_corpus(text.text)
    with refusing():
        corpus.split(text.val_fraction)
    return corpus


def loaded(
    teacher_folder: Path | None, init: Path | None, machine: Machine
) -> tuple[GPT2 | None, GPT2 | None, Tokenizer | None]:
    """The teacher, the student, and the tokenizer of both, as far as there are folders to load them from."""
    teacher = load(teacher_folder, machine) if teacher_folder is not None else None
    student = load(init, machine) if init is not None else None
    if teacher is not None and student is not None:
        check_same(teacher_folder, teacher, init, student)
    tokenizers = [tokenizer for _, tokenizer in filter(None, (teacher, student))]
    return teacher and teacher[0], student and student[0], tokenizers[0] if tokenizers else None


def check_same(
    folder: Path | None, one: tuple[GPT2, Tokenizer], other_folder: Path | None, other: tuple[GPT2, Tokenizer]
) -> None:
    """UserError unless two models read and write the same tokens."""
    sizes = one[0].config.vocab_size, other[0].config.vocab_size
    if sizes[0] != sizes[1]:
        raise UserError(
            f"{folder} has a vocabulary of {sizes[0]} tokens, {other_folder} one of {sizes[1]}; wanted the same"
        )
    if not one[1].same_as(other[1]):
        raise UserError(
            f"the tokenizer in {folder} ({one[1].vocab_size} tokens) and the one in {other_folder} "
            f"({other[1].vocab_size} tokens) give a text different tokens; wanted the same tokenizer"
        )


def fingerprint(model: GPT2 | None) -> str | None:
    """A SHA-256 of a model's weights."""
    return None if model is None else hashlib.sha256(to_host(model.params.flat).data).hexdigest()


@contextmanager
def refusing() -> Iterator[None]:
    """Turn a ValueError, with which functions refuse their arguments, into a UserError: the user chose them."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error


@contextmanager
def in_out_folder(call: Call, machine: Machine, inputs: Mapping[str, str | None]) -> Iterator[None]:
    """Prepare the folder for a run; whoever stops the run there is told how to go on."""
    try:
        with nothing_left(call.out, unless=call.resume):
            prepare_out_folder(call.out, resume=call.resume)
            with alone_in(call.out), nothing_left(call.out, RUN, "text", unless=call.resume):
                write_run(call, machine, inputs)
                print(f"computing on {machine.name}, {machine.workers.count} threads", file=sys.stderr)
                yield
    except (Interrupted, KeyboardInterrupt) as error:
        again = f"{program()} {call.command} --resume --out {shlex.quote(str(call.out))}"
        raise Interrupted(f"{str(error) or 'stopped'}; to go on: {again}") from error


@contextmanager
def nothing_left(folder: Path, *beginnings: str, unless: bool) -> Iterator[None]:
    """Remove a folder that is new, or empty but for `beginnings`, if the block fails in it; Ctrl-C is no failure."""
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        raise
    except BaseException:
        if not unless:
            with suppress(OSError):
                if set(os.listdir(folder)) <= set(beginnings):
                    for path in folder.iterdir():
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
            for place in new:
                with suppress(OSError):  # not empty
                    place.rmdir()
        raise


def refuse_other_options(call: Call) -> None:
    """UserError if a run is to be resumed with other options than it was started with."""
    options = {name: value for name, value in call.options.items() if value != "auto"}  # which says nothing yet
    refuse_changes(call.out, options, read_run(call.out)["options"])


def write_run(call: Call, machine: Machine, inputs: Mapping[str, str | None]) -> None:
    """Write down what is needed to run the call again, or see that the run in the folder had the same from the start.

    Device and threads are written as they were found: both decide the last bits of a sum.
    """
    found = {"device": "cpu" if machine.xp is np else "gpu", "threads": machine.workers.count}
    if not call.resume:
        options = {**call.options, **found}
        fields = {"command": call.command, "options": options, "inputs": inputs, "versions": versions()}
        write_json(call.out / RUN, fields)
        return
    started = read_run(call.out)
    refuse_changes(call.out, found, started["options"])
    for name, before in started["inputs"].items():
        if inputs.get(name) != before:
            raise UserError(f"the {name} has changed since the run in {call.out} began; wanted it as it was")
    for name, now in versions().items():
        if (before := started["versions"].get(name)) != now:
            print(f"note: the run in {call.out} began with {name} {before}; this is {now}", file=sys.stderr)


def program() -> str:
    """How minikd was called, for a command to type."""
    return "python -m minikd" if Path(sys.argv[0]) == Path(__file__).with_name("__main__.py") else "minikd"


def say_result(out: Path, models: tuple[str, ...], before: str = "") -> None:
    """Print where the models of a finished run lie, and how good they are."""
    with reading_result(out) as result:
        evaluation = Evaluation(**result["evaluation"])
        loss, perplexity = f"{evaluation.val_loss:.4f}", f"{evaluation.perplexity:.2f}"
    print(f"{before}{' and '.join(f'{name} in {out / name}' for name in models)}")
    print(f"validation loss {loss}, perplexity {perplexity}")


def evaluate_model(
    folder: Path,
    text: tuple[Path, ...],
    machine_config: MachineConfig,
    *,
    split: Literal["validation", "all"],
    val_fraction: float,
    context: int | None = None,
    teacher_folder: Path | None = None,
) -> dict[str, float | int]:
    """`minikd eval`: a model on a text, beside its teacher if there is one."""
    with refusing():
        machine = Machine.of(machine_config)
        corpus = open_corpus(text)
        if split == "validation":
            corpus = corpus.split(val_fraction)[1]
    teacher, model, tokenizer = loaded(teacher_folder, folder, machine)
    assert model is not None and tokenizer is not None
    longest = min(one.config.n_positions for one in (model, teacher) if one is not None)
    context = longest if context is None else context
    if not 1 <= context <= longest:
        raise UserError(f"context is {context}; wanted 1 to {longest}, which is what can be read (n_positions)")
    with machine.workers, tempfile.TemporaryDirectory(prefix="minikd-") as place:
        progress = not machine.quiet and sys.stderr.isatty()
        tokens = tokenize(corpus, tokenizer, Path(place) / "tokens.npy", progress=progress)
        seen = look(model, tokens, tokenizer.byte_lengths, context, machine, teacher=teacher)
    values = {
        "val_loss": seen.val_loss,
        "perplexity": seen.perplexity,
        "bits_per_byte": seen.bits_per_byte,
        "tokens": seen.tokens,
        "agreement": seen.agreement,
        "kl_to_teacher": seen.kl_to_teacher,
    }
    return {name: value for name, value in values.items() if value is not None}


def sample_texts(
    folder: Path, prompt: str, n_tokens: int, n_texts: int, sampling: Sampling, run_config: RunConfig
) -> list[str]:
    """`minikd sample`: texts that begin with the prompt, as the model goes on from there."""
    with refusing():
        machine = Machine.of(run_config)
    model, tokenizer = load(folder, machine)
    with refusing(), machine.workers:
        ids = tokenizer.encode(prompt).tolist()
        if not ids:
            if tokenizer.eos_id is None:
                raise UserError(f"{folder}: its tokenizer has no end of text to start from; wanted a --prompt")
            ids = [tokenizer.eos_id]
        prompts = [ids] * n_texts
        written = generate(
            model,
            prompts,
            n_tokens,
            sampling=sampling,
            seed=run_config.seed,
            stop=tokenizer.eos_id,
            vocab_size=tokenizer.vocab_size,
        )
    return [prompt + tokenizer.decode(tokens) for tokens in written]


def reference_vectors(out: Path, only: tuple[str, ...]) -> None:
    """`minikd vectors`: what the functions `only`, or all of them, give on small inputs."""
    from minikd.oracle.subjects import SUBJECTS  # with all functions and their mistakes
    from minikd.oracle.vectors import write_vectors

    for name in only:
        if name not in SUBJECTS:
            raise UserError(f"--only is {name!r}; wanted the name of a function{nearest(name, SUBJECTS)}")
    with nothing_left(out, unless=False):
        prepare_out_folder(out)
        names = dict.fromkeys(only or SUBJECTS)
        with alone_in(out):
            n_tests = write_vectors(out, names)
    print(f"{n_tests} tests of {len(names)} functions in {out}")
