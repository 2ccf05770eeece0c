"""What the commands do: text to batches, models to learners, a method to a trained model in its folder."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from minikd.atomic import remove_leftovers, write_json, writing
from minikd.backend import Array, select_device
from minikd.distill.methods import DistillConfig, build_step
from minikd.distill.sequence import load_pieces, save_pieces, sequence_batches, write_pieces
from minikd.errors import UserError
from minikd.evaluate import Evaluation, evaluate
from minikd.model_folder import load_model, save_model
from minikd.models import GPT2, GPT2Config, init_gpt2
from minikd.models.generate import Sampling, generate
from minikd.run_folder import RunFolder
from minikd.text import Batch, Batches, Corpus, TokenFile, Tokenizer, Tokens, open_corpus, tokenize, windows
from minikd.train import Learner, TrainConfig, train
from minikd.workers import Workers, available_cores

DEFAULT_VOCAB_SIZE = 1024
SAMPLE_PROMPT = 8
SAMPLE_TOKENS = 56
LOGITS_AT_ONCE = 1 << 21
"""Entries of the logits that are held at once in an evaluation."""


@dataclass(frozen=True)
class TextConfig:
    """Which text, and how it becomes tokens."""

    text: tuple[Path, ...] = ()
    """files or folders of UTF-8 text; Python's own documentation if not given"""
    tokenizer: Path | None = None
    """a tokenizer.json, or a folder with one; if not given, one is trained on the training part of the text"""
    vocab_size: int | None = None
    """tokens of the vocabulary that is trained; 1024 if not given, in a comparison what its preset says"""
    val_fraction: float = 0.1
    """share of the text, at its end, that is kept for validation"""


@dataclass(frozen=True)
class ModelConfig:
    """The size of a new model."""

    n_layer: int = 2
    """blocks"""
    n_head: int = 2
    """attention heads a block; must divide the width"""
    n_embd: int = 64
    """width, in channels"""
    dropout: float = 0.0
    """dropout on embeddings, attention weights and residual branches"""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; wanted a rate in [0, 1)")
        self.gpt2(vocab_size=1, n_positions=1)

    def gpt2(self, vocab_size: int, n_positions: int) -> GPT2Config:
        """The configuration of a GPT-2 of this size; ValueError when there is none."""
        return GPT2Config(
            vocab_size=vocab_size,
            n_positions=n_positions,
            n_embd=self.n_embd,
            n_layer=self.n_layer,
            n_head=self.n_head,
            embd_pdrop=self.dropout,
            attn_pdrop=self.dropout,
            resid_pdrop=self.dropout,
        )


@dataclass(frozen=True)
class MachineConfig:
    """Where and how to compute."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    """where to compute; auto takes a GPU if there is one that works"""
    dtype: Literal["float32", "float64"] = "float32"
    """type of all numbers"""
    threads: int | None = None
    """parts of a batch computed side by side on a CPU; one for each core if not given"""
    quiet: bool = False
    """plain lines instead of progress bars"""

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype is {self.dtype!r}; wanted float32 or float64")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads is {self.threads}; wanted at least 1")


@dataclass(frozen=True)
class RunConfig(MachineConfig):
    """Where and how to compute, and what is left to chance."""

    seed: int = 0
    """decides the initial weights, the order of the text and all sampling"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; wanted at least 0")


@dataclass(frozen=True)
class Machine:
    """The chosen device, in use."""

    xp: Any
    name: str
    dtype: np.dtype
    workers: Workers
    quiet: bool

    @classmethod
    def of(cls, config: MachineConfig) -> "Machine":
        """The device that `config` asks for; ValueError if it is not there. Its `workers` are to be entered."""
        xp, name = select_device(config.device)
        n_threads = (config.threads or available_cores()) if xp is np else 1
        return cls(xp, name, np.dtype(config.dtype), Workers(n_threads), config.quiet)

    def new_model(self, config: GPT2Config, seed: int | tuple[int, ...]) -> GPT2:
        """A model with the initial weights of `seed`."""
        return GPT2(config, init_gpt2(config, np.random.default_rng(seed), dtype=self.dtype, xp=self.xp))


@dataclass(frozen=True)
class Data:
    """A text as tokens."""

    name: str
    tokenizer: Tokenizer
    train: TokenFile
    validation: TokenFile


def load(folder: Path, machine: Machine) -> tuple[GPT2, Tokenizer]:
    """A model folder's model, on the machine's device, and its tokenizer."""
    config, params, tokenizer = load_model(folder, dtype=machine.dtype)
    return GPT2(config, params.with_flat(machine.xp.asarray(params.flat))), tokenizer


def new_data(
    config: TextConfig,
    folder: Path,
    *,
    corpus: Corpus | None = None,
    tokenizer: Tokenizer | None = None,
    quiet: bool = False,
) -> Data:
    """Split the text, train a tokenizer if none is given, and write it and the tokens to `folder`.

    What already lies there from the same text is used again. `corpus`: the text, if it has been opened before.
    """
    corpus = corpus or open_corpus(config.text)
    training, validation = corpus.split(config.val_fraction)
    if config.tokenizer is not None:
        own = Tokenizer.load(config.tokenizer)
        if tokenizer is not None and not own.same_as(tokenizer):
            raise UserError(
                f"{config.tokenizer} has {own.vocab_size} tokens and differs from the teacher's tokenizer of "
                f"{tokenizer.vocab_size}; wanted one tokenizer for both"
            )
        tokenizer = own
    if tokenizer is None and (folder / "tokenizer.json").exists():
        tokenizer = Tokenizer.load(folder)
    if tokenizer is None:
        tokenizer = Tokenizer.train(training.sample(), config.vocab_size or DEFAULT_VOCAB_SIZE)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder)
    parts = [
        tokenize(part, tokenizer, folder / f"{name}.npy", progress=not quiet and sys.stderr.isatty())
        for name, part in (("train", training), ("validation", validation))
    ]
    return Data(corpus.name, tokenizer, *parts)


def look(model: GPT2, tokens: Tokens, byte_lengths: Array, context: int, machine: Machine, **beside: Any) -> Evaluation:
    """Evaluate a model in windows of `context` tokens."""
    rows = max(1, LOGITS_AT_ONCE // (context * model.config.vocab_size))
    return evaluate(model, windows(tokens, context, rows), byte_lengths, machine.workers, **beside)


@dataclass(frozen=True)
class Result:
    """What a run gave."""

    parameters: int
    """trained parameters"""
    evaluation: Evaluation
    """of the trained model"""
    tokens_per_second: float
    """training throughput"""
    label_bytes_per_token: float
    """what storing the teacher's labels would cost"""


def run(
    method: str,
    folder: Path,
    student: GPT2,
    data: Data,
    train_config: TrainConfig,
    machine: Machine,
    *,
    distill_config: DistillConfig = DistillConfig(),
    teacher: GPT2 | None = None,
    teacher_learning_rate: float | None = None,
    seed: int = 0,
    resume: bool = False,
) -> Result:
    """Train `student` (in place) by `method` and leave everything in `folder`: see the README for what lies where."""
    check(student, teacher, data, train_config)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    run_folder = RunFolder(folder)
    learners = {"student": Learner.of(student, train_config)}
    if method == "codistill":
        if teacher is None:
            raise ValueError("method 'codistill' needs a teacher")
        learners = {"teacher": Learner.of(teacher, train_config, teacher_learning_rate), **learners}
    context = train_config.context
    if method == "sequence":
        batches = teachers_text(folder, data, train_config, distill_config, teacher, machine, seed)
    else:
        batches = Batches(data.train, train_config.batch_size, context, seed)
    seen, byte_lengths = data.validation[: train_config.eval_tokens], data.tokenizer.byte_lengths

    def validate(learners: Mapping[str, Learner]) -> dict[str, float]:
        models = {name: learner.model for name, learner in learners.items()}
        return {name: look(model, seen, byte_lengths, context, machine).val_loss for name, model in models.items()}

    def sample(learners: Mapping[str, Learner]) -> str:
        prompt = seen[: min(SAMPLE_PROMPT, context)].tolist()
        return sample_text(learners["student"].model, data.tokenizer, prompt)

    tokens_per_second = train(
        learners,
        build_step(method, distill_config, student, teacher),
        batches,
        train_config,
        run_folder,
        validate=validate,
        sample=sample,
        workers=machine.workers,
        seed=seed,
        resume=resume,
        quiet=machine.quiet,
    )
    for name, learner in learners.items():
        place = folder / ("model" if name == "student" else name)
        save_model(place, learner.model.config, learner.model.params, data.tokenizer)
    result = Result(
        parameters=student.params.flat.size,
        evaluation=look(student, seen, byte_lengths, context, machine, teacher=teacher),
        tokens_per_second=tokens_per_second,
        label_bytes_per_token=label_bytes(method, folder, student.config.vocab_size),
    )
    write_json(folder / "result.json", asdict(result))
    return result


def check(student: GPT2, teacher: GPT2 | None, data: Data, train_config: TrainConfig) -> None:
    """UserError unless models, text, context and evaluation fit together."""
    if train_config.eval_tokens < 2:
        raise UserError(f"eval_tokens is {train_config.eval_tokens}; wanted at least 2, one to read and one to predict")
    context = train_config.context
    models = {"student": student.config} | ({"teacher": teacher.config} if teacher is not None else {})
    for name, config in models.items():
        if config.vocab_size != student.config.vocab_size:
            raise UserError(
                f"the student's vocabulary has {student.config.vocab_size} tokens, the teacher's {config.vocab_size}; "
                "wanted the same"
            )
        if config.vocab_size < data.tokenizer.vocab_size:
            raise UserError(
                f"the {name}'s vocabulary has {config.vocab_size} tokens, the tokenizer's {data.tokenizer.vocab_size}; "
                "wanted at least as many"
            )
        if config.n_positions < context:
            raise UserError(
                f"context is {context}, but the {name} reads at most {config.n_positions} tokens (n_positions); "
                "wanted a shorter context"
            )
    for name, tokens, least in (("training", data.train, context + 1), ("validation", data.validation, 2)):
        if len(tokens) < least:
            raise UserError(
                f"the {name} part of {data.name} has {len(tokens)} tokens; wanted at least {least} "
                f"(the context is {context}): a longer text, or a shorter context"
            )


def teachers_text(
    folder: Path,
    data: Data,
    train_config: TrainConfig,
    distill_config: DistillConfig,
    teacher: GPT2 | None,
    machine: Machine,
    seed: int,
) -> Callable[[int], Batch]:
    """Batches of the text that the teacher writes, once, into `folder`."""
    if teacher is None:
        raise ValueError("method 'sequence' needs a teacher")
    context, prompt_tokens = train_config.context, distill_config.prompt_tokens
    if prompt_tokens > context:
        raise UserError(f"prompt_tokens is {prompt_tokens}; wanted at most the context, {context}")
    pieces = load_pieces(folder)
    if pieces is None:
        pieces = list(
            write_pieces(
                teacher,
                data.tokenizer,
                data.train,
                n_pieces=-(-distill_config.corpus_tokens // (context + 1 - prompt_tokens)),
                prompt_tokens=prompt_tokens,
                context=context,
                seed=seed,
                workers=machine.workers,
                quiet=machine.quiet,
            )
        )
        save_pieces(pieces, folder)
    return sequence_batches(pieces, data.tokenizer, batch_size=train_config.batch_size, context=context, seed=seed)


def sample_text(model: GPT2, tokenizer: Tokenizer, prompt: list[int]) -> str:
    """The prompt and how the model goes on from it, always with the same random numbers."""
    n_new = min(SAMPLE_TOKENS, model.config.n_positions)
    written = generate(
        model, [prompt], n_new, sampling=Sampling(0.8), stop=tokenizer.eos_id, vocab_size=tokenizer.vocab_size
    )
    return tokenizer.decode(prompt + written[0])


def label_bytes(method: str, folder: Path, vocab_size: int) -> float:
    """Bytes a token that the teacher's labels would take if they were stored, without compression.

    Soft labels: a float16 for every token of the vocabulary. Hard labels: one token id. A written corpus: its text.
    """
    if method in ("soft", "codistill"):
        return 2.0 * vocab_size
    if method == "hard":
        return 2.0 if vocab_size <= 2**16 else 4.0
    if method == "sequence":
        pieces = load_pieces(folder) or []
        tokens = sum(piece.tokens for piece in pieces)
        return sum(len(piece.continuation.encode()) for piece in pieces) / tokens
    return 0.0
