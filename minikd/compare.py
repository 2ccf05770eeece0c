"""The main job: a teacher, and its students by every method, on equal terms."""

import math
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from minikd.atomic import write_json
from minikd.backend import to_host
from minikd.distill.methods import DistillConfig
from minikd.distill.scratch import scratch
from minikd.errors import UserError
from minikd.job import Data, Machine, ModelConfig, RunConfig, TextConfig, load, look, new_data, run
from minikd.model_folder import save_model
from minikd.models import GPT2
from minikd.report import NextWords, Point, write_report
from minikd.run_folder import RESULT, RunFolder, is_finished, reading_result
from minikd.softmax import softmax
from minikd.text import Batches, windows
from minikd.train import Learner, Tick, TrainConfig, train_step
from minikd.versions import versions

STUDENTS = ("scratch", "soft", "hard", "sequence", "codistill")
WORD_TEMPERATURES = (1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Preset:
    """The sizes of a comparison."""

    vocab_size: int
    teacher: ModelConfig
    student: ModelConfig
    training: TrainConfig
    teacher_learning_rate: float
    methods: dict[str, DistillConfig] = field(default_factory=dict)


PRESETS = {
    "tiny": Preset(
        vocab_size=512,
        teacher=ModelConfig(n_layer=2, n_head=2, n_embd=64),
        student=ModelConfig(n_layer=1, n_head=2, n_embd=32),
        training=TrainConfig(steps=100, batch_size=8, context=64, warmup_steps=10, eval_every=20),
        teacher_learning_rate=3e-3,
        methods={"sequence": DistillConfig(corpus_tokens=20_000)},
    ),
    "lesson": Preset(
        vocab_size=1024,
        teacher=ModelConfig(n_layer=4, n_head=4, n_embd=128),
        student=ModelConfig(n_layer=2, n_head=2, n_embd=64),
        training=TrainConfig(steps=500, batch_size=16, context=128, eval_every=50),
        teacher_learning_rate=3e-3,
    ),
    "small": Preset(
        vocab_size=4096,
        teacher=ModelConfig(n_layer=6, n_head=6, n_embd=384),
        student=ModelConfig(n_layer=3, n_head=3, n_embd=192),
        training=TrainConfig(steps=2000, batch_size=8, context=256, eval_every=100, learning_rate=1e-3),
        teacher_learning_rate=1e-3,
        methods={"sequence": DistillConfig(corpus_tokens=2_000_000)},
    ),
}


@dataclass(frozen=True)
class CompareConfig:
    """How large a comparison; a ValueError names the field that cannot be."""

    preset: Literal["tiny", "lesson", "small"] = "lesson"
    """sizes of models, vocabulary and training: tiny is for trying out (seconds), lesson takes minutes, small hours"""
    steps: int | None = None
    """updates of the weights; the preset's number if not given"""
    seeds: int = 1
    """repetitions with other initial weights and another order of the text, for standard errors"""

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"preset is {self.preset!r}; wanted one of {', '.join(PRESETS)}")
        for name in ("steps", "seeds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; wanted at least 1")


def compare(text: TextConfig, config: CompareConfig, run_config: RunConfig, out: Path, *, resume: bool = False) -> None:
    """Train a teacher and five students of one size on a text, and leave runs, report and figures in `out`.

    All students start from the same weights and see the same text in the same order (`sequence`: the teacher's
    text). With `resume`, what is finished is kept. The first seed's runs lie in `out`, further ones in `out/seed-K`.
    """
    preset = PRESETS[config.preset]
    training = preset.training if config.steps is None else shortened(preset.training, config.steps)
    machine = Machine.of(run_config)
    with machine.workers:
        text = replace(text, vocab_size=text.vocab_size or preset.vocab_size)
        data = new_data(text, out / "text", quiet=machine.quiet)
        places = [out if k == 0 else out / f"seed-{k}" for k in range(config.seeds)]
        rows = []
        for k, place in enumerate(places):
            train_all(preset, training, data, machine, run_config.seed + k, place, resume=resume)
            rows.append(measure_all(place, data, training, machine))
        report = {
            "corpus": data.name,
            "vocab_size": data.tokenizer.vocab_size,
            "seeds": config.seeds,
            "device": "cpu" if machine.xp is np else machine.name,
            "versions": versions(),
            "settings": {"preset": config.preset, **asdict(replace(preset, training=training))},
            "runs": [over_seeds([row[name] for row in rows]) for name in ("teacher", *STUDENTS)],
        }
        write_report(out, report, curves(places, training), next_words(out, data, training.context, machine))


def shortened(training: TrainConfig, steps: int) -> TrainConfig:
    """The same training in another number of steps, with as many looks at the validation text."""
    ratio = steps / training.steps
    return replace(
        training,
        steps=steps,
        warmup_steps=round(training.warmup_steps * ratio),
        eval_every=max(1, round(training.eval_every * ratio)),
    )


def train_all(
    preset: Preset, training: TrainConfig, data: Data, machine: Machine, seed: int, place: Path, *, resume: bool
) -> None:
    """All runs of one seed, each in its folder; the co-distilled student rides along with the teacher's training."""
    sizes = data.tokenizer.vocab_size, training.context
    teacher = machine.new_model(preset.teacher.gpt2(*sizes), (seed, 1))
    speed = teacher_speed(teacher, data, training, machine)
    for method in ("codistill", "scratch", "soft", "hard", "sequence"):
        folder = place / method
        models = ("model", "teacher") if method == "codistill" else ("model",)
        if not (resume and is_finished(folder, models)):
            run(
                method,
                folder,
                machine.new_model(preset.student.gpt2(*sizes), (seed, 0)),
                data,
                training,
                machine,
                distill_config=preset.methods.get(method, DistillConfig()),
                teacher=teacher,
                teacher_learning_rate=preset.teacher_learning_rate,
                seed=seed,
                resume=resume,
            )
        if method == "codistill":
            teacher, _ = load(folder / "teacher", machine)
            keep_teacher(teacher, data, folder, place / "teacher", speed)


def teacher_speed(teacher: GPT2, data: Data, training: TrainConfig, machine: Machine) -> float:
    """Training throughput of the teacher alone, in tokens a second, over a few steps of a copy.

    Its real training is shared with the co-distilled student, so its own speed cannot be read from that.
    """
    copy = GPT2(teacher.config, teacher.params.with_flat(teacher.params.flat.copy()))
    learners = {"student": Learner.of(copy, training)}
    step, batches = scratch(copy), Batches(data.train, training.batch_size, training.context, seed=0)
    n_steps = min(10, training.steps)
    for i in range(1 + n_steps):
        if i == 1:  # the first step warms up
            start = time.perf_counter()
        seen = train_step(learners, step, batches(i), Tick(i, 1 + n_steps), training, machine.workers)
    float(seen["student"][0])  # waits for the device
    return n_steps * training.batch_size * training.context / (time.perf_counter() - start)


def keep_teacher(teacher: GPT2, data: Data, codistilled: Path, folder: Path, speed: float) -> None:
    """Give the teacher, which was trained in the co-distillation's folder, a run folder of its own."""
    save_model(folder / "model", teacher.config, teacher.params, data.tokenizer)
    records = [record for record in RunFolder(codistilled).records() if "teacher" in record]
    RunFolder(folder).write([{"step": record["step"], "student": record["teacher"]} for record in records])
    values = {"parameters": teacher.params.flat.size, "tokens_per_second": speed, "label_bytes_per_token": 0.0}
    write_json(folder / RESULT, values)


def measure_all(place: Path, data: Data, training: TrainConfig, machine: Machine) -> dict[str, dict[str, Any]]:
    """Every model of one seed on the validation text, beside the teacher; a row of the report for each name."""
    teacher, _ = load(place / "teacher" / "model", machine)
    seen, byte_lengths = data.validation[: training.eval_tokens], data.tokenizer.byte_lengths
    rows: dict[str, dict[str, Any]] = {}
    for name in ("teacher", *STUDENTS):
        model, _ = load(place / name / "model", machine)
        beside = None if name == "teacher" else teacher
        evaluation = look(model, seen, byte_lengths, training.context, machine, teacher=beside)
        with reading_result(place / name) as result:
            rows[name] = {
                "name": name,
                "parameters": int(result["parameters"]),
                "val_loss": evaluation.val_loss,
                "bits_per_byte": evaluation.bits_per_byte,
                "agreement": evaluation.agreement,
                "kl_to_teacher": evaluation.kl_to_teacher,
                "tokens_per_second": float(result["tokens_per_second"]),
                "label_bytes_per_token": float(result["label_bytes_per_token"]),
            }
    worst, best = rows["scratch"]["val_loss"], rows["teacher"]["val_loss"]
    for row in rows.values():
        row["gain_over_scratch"] = worst - row["val_loss"]
        row["gap_closed"] = row["gain_over_scratch"] / (worst - best) if worst != best else None
    return rows


def over_seeds(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of the report from the same run's rows of every seed: means, and the standard error of the loss.

    `gain_over_scratch` is paired: of each seed's difference to the student of the same seed that had no teacher.
    """
    mean: dict[str, Any] = {
        key: float(np.mean([row[key] for row in rows])) if isinstance(value, float) else value
        for key, value in rows[0].items()
    }
    losses = [row["val_loss"] for row in rows]
    return mean | {
        "val_loss_se": standard_error(losses),
        "gain_over_scratch_se": standard_error([row["gain_over_scratch"] for row in rows]),
        "perplexity": math.exp(mean["val_loss"]),
        "val_losses": losses,
    }


def standard_error(values: list[float]) -> float | None:
    """Of the mean; None for a single value."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def curves(places: list[Path], training: TrainConfig) -> dict[str, list[Point]]:
    """Validation loss against steps of every run: mean and standard error over the seeds."""
    steps = [step for step in range(1, training.steps + 1) if training.looks_after(step)]
    result = {}
    for name in ("teacher", *STUDENTS):
        run, learner = ("codistill", "teacher") if name == "teacher" else (name, "student")
        seeds = [losses_at(steps, place / run, learner) for place in places]
        result[name] = [
            Point(step, float(np.mean(values)), standard_error(list(values)))
            for step, *values in zip(steps, *seeds, strict=True)
        ]
    return result


def losses_at(steps: list[int], folder: Path, learner: str) -> list[float]:
    """A learner's validation losses in the records of a run; UserError when that of a step is not there."""
    run = RunFolder(folder)
    losses = {record["step"]: record.get(learner, {}).get("val_loss") for record in run.records()}
    for step in steps:
        if losses.get(step) is None:
            raise UserError(
                f"{run.metrics}: there is no validation loss of step {step}; without {folder} --resume trains it again"
            )
    return [losses[step] for step in steps]


def next_words(place: Path, data: Data, context: int, machine: Machine, n_words: int = 8) -> NextWords:
    """What every model expects next at a place of the validation text where the teacher is right, but in doubt."""
    decode = data.tokenizer.decode
    batch = next(windows(data.validation[: 16 * context + 1], context, 16))
    models = {name: load(place / name / "model", machine)[0] for name in ("teacher", *STUDENTS)}
    logits = {name: to_host(model.predict(machine.xp.asarray(batch.inputs))) for name, model in models.items()}
    wordlike = np.array([[token >= 0 and is_word(decode([token])) for token in row] for row in batch.targets])
    row, at = doubtful_place(logits["teacher"], batch.targets, wordlike)
    words = np.argsort(-logits["teacher"][row, at], kind="stable")[:n_words]
    return NextWords(
        text=decode(batch.inputs[row, : at + 1]),
        next_word=decode(batch.targets[row, at : at + 1]),
        words=[decode([word]) for word in words],
        probabilities={
            name: {t: softmax(rows[row, at], temperature=t)[0][words].tolist() for t in WORD_TEMPERATURES}
            for name, rows in logits.items()
        },
    )


def is_word(token: str) -> bool:
    """Whether a token's text is a space and at least three letters: a word's beginning, not an ending or a sign."""
    return token.startswith(" ") and len(token) > 3 and token[1:].isalpha()


def doubtful_place(logits: np.ndarray, following: np.ndarray, wordlike: np.ndarray) -> tuple[int, int]:
    """Where a model that is right hesitates between about as many words as a reader can compare.

    logits (B, T, V), the following tokens (B, T), and whether these are words -> row and place: of the words in the
    latter half of a row that the argmax gets right (of all words, of all tokens, if there is none), the one with the
    entropy nearest to 2 nats, that of seven equally likely words.
    """
    p, _ = softmax(logits)
    entropy = -(p * np.log(np.maximum(p, np.finfo(p.dtype).tiny))).sum(axis=-1)
    right = logits.argmax(axis=-1) == following
    later = (following >= 0) & (np.arange(logits.shape[1]) >= logits.shape[1] // 2)
    choices = (later & wordlike & right, later & wordlike, later, following >= 0)
    chosen = next(choice for choice in choices if choice.any())
    row, at = np.unravel_index(np.where(chosen, abs(entropy - 2), np.inf).argmin(), right.shape)
    return int(row), int(at)
