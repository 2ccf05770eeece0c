"""Models that the lessons share: each is trained once, and anew when what was asked for, or minikd itself, has changed.

The lessons' models are small, so that each trains in seconds: what they show is what distillation does to a student
that has too few parameters and too few steps, not what a good language model is.
"""

import hashlib
import json
import secrets
import shutil
import sys
import time
from contextlib import nullcontext, redirect_stderr
from dataclasses import asdict, dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import minikd
from minikd.distill.methods import DistillConfig, Method
from minikd.job import Data, Machine, MachineConfig, ModelConfig, TextConfig, load, new_data, run
from minikd.lesson import FOLDER
from minikd.models import GPT2
from minikd.reading import read_json_object
from minikd.run_folder import RunFolder
from minikd.text import open_corpus
from minikd.train import TrainConfig
from minikd.versions import versions

VOCAB_SIZE = 512
TEACHER = ModelConfig(n_layer=2, n_head=4, n_embd=96)
STUDENT = ModelConfig(n_layer=1, n_head=2, n_embd=32)
TRAINING = TrainConfig(steps=400, batch_size=16, context=64, warmup_steps=40, eval_every=40, eval_tokens=20_000)

# what decides the numbers of a trained model
SOURCES = ("backend", "softmax", "nn", "losses", "models", "optim", "text", "train", "distill", "workers", "job")


@dataclass(frozen=True)
class Trained:
    """What a training left of one learner: see the README for what lies in its folder."""

    folder: Path
    learner: str = "student"
    """the student (of `scratch`, whoever was trained), or the teacher that learned beside it in a co-distillation"""

    @property
    def model(self) -> GPT2:
        """The learner as it ended."""
        return load(self.folder / ("model" if self.learner == "student" else self.learner), machine())[0]

    @property
    def teacher(self) -> "Trained":
        """The teacher that learned beside it, in a co-distillation."""
        return Trained(self.folder, "teacher")

    @property
    def result(self) -> dict[str, Any]:
        """Of the student: number of parameters, the evaluation at the end (val_loss, agreement, ...), seconds, ..."""
        return read_json_object(self.folder / "result.json")

    @property
    def val_loss(self) -> float:
        """Cross-entropy on the validation text at the end, in nats a token."""
        return self.curve()[1][-1]

    def curve(self) -> tuple[list[int], list[float]]:
        """Steps, and the validation loss at each."""
        looks = [record for record in RunFolder(self.folder).records() if "val_loss" in record.get(self.learner, {})]
        return [look["step"] for look in looks], [look[self.learner]["val_loss"] for look in looks]


@cache
def machine() -> Machine:
    """Where the lessons compute: on the CPU, so that their numbers depend on little else."""
    chosen = Machine.of(MachineConfig(device="cpu", quiet=not sys.stderr.isatty()))
    chosen.workers.__enter__()  # until the lesson ends
    return chosen


@cache
def data(text: tuple[Path, ...] = (), vocab_size: int = VOCAB_SIZE) -> Data:
    """The lessons' text, Python's own documentation unless `text` names another, as tokens of `vocab_size` kinds."""
    corpus = open_corpus(text)
    folder = FOLDER / "text" / _key({"text": corpus.fingerprint, "vocab_size": vocab_size, "sources": _sources()})
    return new_data(TextConfig(text=text, vocab_size=vocab_size), folder, corpus=corpus, quiet=True)


def trained(
    method: Method = "scratch",
    *,
    model: ModelConfig = STUDENT,
    training: TrainConfig = TRAINING,
    distill: DistillConfig = DistillConfig(),
    teacher: Trained | None = None,
    new_teacher: ModelConfig = TEACHER,
    seed: int = 0,
    text: Data | None = None,
) -> Trained:
    """A model trained by `method`, from the cache if it has been trained before; the lesson says which it was.

    teacher: what a student of `soft`, `hard` or `sequence` learns from; new_teacher: the size of the untrained one of
    `codistill`. Students of one `model` and `seed` start from the same weights and read the same batches.
    """
    text = data() if text is None else text
    asked = {
        "method": method,
        "model": asdict(model),
        "training": asdict(training),
        "distill": asdict(distill),
        "teacher": None if teacher is None else (teacher.folder.name, teacher.learner),
        "new_teacher": asdict(new_teacher) if method == "codistill" else None,
        "seed": seed,
        "tokens": [hashlib.sha256(part.path.read_bytes()).hexdigest() for part in (text.train, text.validation)],
        "sources": _sources(),
        "versions": versions(),
    }
    folder = FOLDER / "models" / _key(asked)
    name = f"{method}, {model.n_layer} x {model.n_embd}, {training.steps} steps, seed {seed}"
    if (folder / "result.json").exists():
        print(f"from the cache: {name}")
        return Trained(folder)
    unfinished = folder.with_name(f".{folder.name}.tmp-{secrets.token_hex(4)}")  # another lesson may be at it, too
    start = time.perf_counter()
    sizes = text.tokenizer.vocab_size, training.context
    student = machine().new_model(model.gpt2(*sizes), (seed, 0))
    models: dict[str, Any] = {}
    if method == "codistill":
        models["teacher"] = machine().new_model(new_teacher.gpt2(*sizes), (seed, 1))
    elif teacher is not None:
        models["teacher"] = teacher.model
    with nullcontext() if sys.stderr.isatty() else redirect_stderr(StringIO()):
        run(method, unfinished, student, text, training, machine(), distill_config=distill, seed=seed, **models)
    try:
        unfinished.rename(folder)
    except OSError:  # the other lesson was quicker
        shutil.rmtree(unfinished)
    print(f"trained: {name}, in {time.perf_counter() - start:.0f} s")
    return Trained(folder)


def _key(asked: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


@cache
def _sources() -> str:
    """A fingerprint of those parts of minikd that decide a model's numbers."""
    package = Path(minikd.__file__).parent
    files = sorted(file for name in SOURCES for file in [*package.glob(f"{name}.py"), *package.glob(f"{name}/**/*.py")])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
