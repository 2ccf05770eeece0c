"""The one training loop: every method is a step function that it calls."""

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from minikd.backend import Array, get_array_module
from minikd.checkpoint import LearnerState, Measured, RunState, has_state, latest, save_state
from minikd.errors import Interrupted, UserError
from minikd.models import GPT2, Parameters
from minikd.optim import AdamW, Moments, clip_scale, cosine_schedule, global_norm
from minikd.progress import Progress
from minikd.run_folder import RunFolder
from minikd.text import Batch
from minikd.workers import Workers

_COUNTS = ("steps", "batch_size", "context", "accumulate", "log_every", "eval_every", "eval_tokens", "save_every")


@dataclass(frozen=True)
class TrainConfig:
    """How to train; a ValueError names the field that cannot be."""

    steps: int = 600
    """updates of the weights"""
    batch_size: int = 16
    """sequences a step"""
    context: int = 128
    """tokens a sequence"""
    learning_rate: float = 3e-3
    """the highest learning rate, at the end of the warm-up"""
    warmup_steps: int = 50
    """steps over which the learning rate rises; then it falls along a cosine"""
    final_learning_rate: float = 0.1
    """learning rate of the last step, as a share of the highest"""
    weight_decay: float = 0.1
    """decoupled weight decay, on matrices only"""
    beta2: float = 0.99
    """how long AdamW remembers the squares of the gradients"""
    clip_norm: float = 1.0
    """longest gradient; a longer one is scaled down to it (inf: none is)"""
    accumulate: int = 1
    """parts a batch is computed in, one after the other, to save memory"""
    log_every: int = 10
    """steps between two entries of the training loss in metrics.jsonl"""
    eval_every: int = 100
    """steps between two looks at the validation text"""
    eval_tokens: int = 100_000
    """tokens of the validation text that are looked at"""
    save_every: int = 200
    """steps between two states to resume from"""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; wanted at least 1")
        check_learning_rate("learning_rate", self.learning_rate)
        if not self.clip_norm > 0:
            raise ValueError(f"clip_norm is {self.clip_norm}; wanted a number above 0, inf to clip nothing")
        if not self.warmup_steps >= 0:
            raise ValueError(f"warmup_steps is {self.warmup_steps}; wanted at least 0")
        if not 0 <= self.final_learning_rate <= 1:
            raise ValueError(f"final_learning_rate is {self.final_learning_rate}; wanted a number in [0, 1]")
        self.optimizer()

    def optimizer(self) -> AdamW:
        """The optimiser; ValueError where there is none of these fields."""
        return AdamW(beta2=self.beta2, weight_decay=self.weight_decay)

    def looks_after(self, step: int) -> bool:
        """Whether the validation text is looked at after so many steps."""
        return step % self.eval_every == 0 or step == self.steps


def check_learning_rate(name: str, value: float) -> None:
    """ValueError unless `value` is a finite number above 0."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} is {value}; wanted a finite number above 0")


@dataclass(frozen=True)
class Tick:
    """Where in the training a step function is called: for schedules, and for dropout."""

    step: int
    steps: int
    seed: int = 0
    part: int = 0

    @property
    def progress(self) -> float:
        """0 at the first step, towards 1 at the last."""
        return self.step / self.steps

    def rng(self, stream: int) -> np.random.Generator:
        """Random numbers that depend on nothing but the seed, the step, the part of the batch and `stream`."""
        return np.random.default_rng([self.seed, self.step, self.part, stream])


Gradients = Mapping[str, tuple[Array, Parameters]]
"""For each learner by name: its mean loss over the counted tokens (nats), and that loss's gradient."""

Step = Callable[[Batch, Tick], Gradients]
"""A method: looks at a batch and says how each learner would have to move; it moves none itself."""


@dataclass
class Learner:
    """A model that learns, and what its optimiser remembers."""

    model: GPT2
    learning_rate: float
    moments: Moments
    optimizer: AdamW = field(default_factory=AdamW)

    @classmethod
    def of(cls, model: GPT2, config: TrainConfig, learning_rate: float | None = None) -> "Learner":
        """`model`, about to take its first step; with a learning rate of its own, or the configuration's."""
        return cls(model, learning_rate or config.learning_rate, Moments.zeros(model.params), config.optimizer())


def gradients(
    learners: Mapping[str, Learner], step: Step, batch: Batch, tick: Tick, config: TrainConfig, workers: Workers
) -> Gradients:
    """Losses and gradients of a whole batch, computed in `accumulate` parts for each worker.

    Parts are weighted by their counted tokens and added in order, so the mean is over tokens, whatever the parts.
    """
    xp = get_array_module(next(iter(learners.values())).model.params.flat)
    pieces = batch.split(config.accumulate * workers.count)

    def look(part: int) -> Gradients:
        piece = pieces[part]
        return step(Batch(xp.asarray(piece.inputs), xp.asarray(piece.targets)), replace(tick, part=part))

    total: dict[str, tuple[Array, Parameters]] = {}
    for start in range(0, len(pieces), workers.count):
        group = range(start, min(start + workers.count, len(pieces)))
        for part, result in zip(group, workers.map(look, group), strict=True):
            share = pieces[part].count / batch.count
            for name, (loss, gradient) in result.items():
                gradient.flat *= share
                loss = loss * share
                if name in total:
                    gradient.flat += total[name][1].flat
                    loss = loss + total[name][0]
                total[name] = loss, gradient
    return total


def train_step(
    learners: Mapping[str, Learner], step: Step, batch: Batch, tick: Tick, config: TrainConfig, workers: Workers
) -> dict[str, tuple[Array, Array]]:
    """One update of every learner; what each moves by is known before any of them moves.

    Returns the loss (nats a token) and the gradient's length before clipping, by learner, on the learner's device.
    """
    seen = {}
    result = gradients(learners, step, batch, tick, config, workers)
    for name, learner in learners.items():
        loss, gradient = result[name]
        norm = global_norm(gradient.flat)
        learner.optimizer.update(
            learner.model.params,
            gradient.flat,
            learner.moments,
            learning_rate=learning_rate(config, learner.learning_rate, tick.step),
            scale=clip_scale(norm, config.clip_norm),
        )
        seen[name] = loss, norm
    return seen


def learning_rate(config: TrainConfig, peak: float, step: int) -> float:
    """The learning rate of a step for a learner whose highest is `peak`."""
    return cosine_schedule(
        step,
        peak=peak,
        warmup_steps=config.warmup_steps,
        steps=config.steps,
        final=peak * config.final_learning_rate,
    )


Validate = Callable[[Mapping[str, Learner]], Mapping[str, float]]
"""Validation loss of each learner, in nats a token."""

Sample = Callable[[Mapping[str, Learner]], str]
"""A few words from the learners, to read."""


def train(
    learners: Mapping[str, Learner],
    step: Step,
    batches: Callable[[int], Batch],
    config: TrainConfig,
    folder: RunFolder,
    *,
    validate: Validate,
    sample: Sample,
    workers: Workers,
    seed: int = 0,
    resume: bool = False,
    quiet: bool = False,
) -> float:
    """Train all learners for `config.steps` steps and return the training throughput in tokens a second.

    Leaves metrics, samples and states to resume from in `folder`. With `resume`, goes on from the newest sound state
    (from the start if the run has not come as far as its first) and ends with the same bytes, but for measured times,
    as without the interruption. A loss or a weight that is not finite raises UserError and leaves the last good state;
    Ctrl-C saves a state and raises Interrupted.
    """
    done, seconds, pending = restore(learners, folder) if resume else (0, 0.0, [])
    tokens_a_step = config.batch_size * config.context
    with (
        Progress(
            total=config.steps * tokens_a_step,
            initial=done * tokens_a_step,
            description=folder.folder.name,
            unit=" tokens",
            quiet=quiet,
        ) as progress,
        ctrl_c() as interrupted,
    ):
        while done < config.steps:
            start = time.perf_counter()
            seen = train_step(learners, step, batches(done), Tick(done, config.steps, seed), config, workers)
            seconds += time.perf_counter() - start
            done += 1
            pending.append((done, seen))
            progress.update(tokens_a_step)
            stopping = bool(interrupted)
            looks, saves = config.looks_after(done), done % config.save_every == 0 or done == config.steps
            logs = looks or saves or done % config.log_every == 0
            if logs or stopping:
                pending = on_host(pending, folder)
            if logs:
                record = summary(pending)
                record["tokens_per_second"] = done * tokens_a_step / seconds
                progress.set_postfix_str(" ".join(f"{n} {record[n]['loss']:.3f}" for n in learners), refresh=False)
                pending = []
                if looks:
                    for name, loss in validate(learners).items():
                        if not np.isfinite(loss):
                            raise diverged(f"the {name}'s validation loss is {loss}", done, folder)
                        record[name]["val_loss"] = loss
                    record["sample"] = sample(learners)
                    progress.line(f"{folder.folder.name}: {line(record, config)}")
                folder.log(record)
            if saves or stopping:
                save(learners, folder, done, seconds, pending)
            if stopping and done < config.steps:
                raise Interrupted(f"stopped after step {done} of {config.steps}; its state is saved in {folder.folder}")
    return config.steps * tokens_a_step / seconds


def on_host(pending: list[Measured], folder: RunFolder) -> list[Measured]:
    """The steps since the last record, as numbers of the host.

    Here the host waits for the device, so here a loss that is not finite is seen: UserError, before anything is saved.
    """
    numbers = []
    for step, measured in pending:
        numbers.append((step, {name: (float(loss), float(norm)) for name, (loss, norm) in measured.items()}))
        for name, (loss, norm) in numbers[-1][1].items():
            if not (np.isfinite(loss) and np.isfinite(norm)):
                raise diverged(f"the {name}'s loss is {loss} and its gradient's length {norm}", step, folder)
    return numbers


def diverged(found: str, step: int, folder: RunFolder) -> UserError:
    """What stops a run in which numbers are no longer finite."""
    kept = f"states saved before are in {folder.folder}; " if has_state(folder.folder) else ""
    return UserError(f"{found} at step {step}: training diverged; {kept}a lower --learning-rate may help")


def summary(pending: list[Measured]) -> dict[str, Any]:
    """The steps since the last record as one record: mean loss and last gradient length of each learner."""
    step, newest = pending[-1]
    record: dict[str, Any] = {"step": step}
    for name, (_, norm) in newest.items():
        losses = [measured[name][0] for _, measured in pending]
        record[name] = {"loss": sum(losses) / len(losses), "gradient_norm": norm}
    return record


def line(record: Mapping[str, Any], config: TrainConfig) -> str:
    """A record for the reader of a terminal."""
    learners = {name: value for name, value in record.items() if isinstance(value, dict)}
    seen = "  ".join(f"{name} loss {v['loss']:.3f} validation {v['val_loss']:.3f}" for name, v in learners.items())
    return f"step {record['step']}/{config.steps}  {seen}  {record['tokens_per_second']:,.0f} tokens/s"


def save(
    learners: Mapping[str, Learner], folder: RunFolder, step: int, seconds: float, pending: list[Measured]
) -> None:
    """Save a state to resume from; UserError for weights that are not finite."""
    states = {}
    for name, learner in learners.items():
        flat = learner.model.params.flat
        if not get_array_module(flat).isfinite(flat).all():
            raise diverged(f"the {name} has weights that are not finite", step, folder)
        states[name] = LearnerState(flat, learner.moments)
    save_state(folder.folder, RunState(step, states, seconds, pending))


def restore(learners: Mapping[str, Learner], folder: RunFolder) -> tuple[int, float, list[Measured]]:
    """Set the learners to the newest sound state; returns its step, the seconds it took, and what is not yet recorded.

    Before the first state a run is at its start. UserError: no state is sound, or it is of other learners.
    """
    if not has_state(folder.folder):
        folder.rewind(0)
        return 0, 0.0, []
    state = latest(folder.folder)
    for name, learner in learners.items():
        flat, moments = learner.model.params.flat, learner.moments
        saved = state.learners.get(name)
        if saved is None or saved.parameters.shape != flat.shape or saved.parameters.dtype != flat.dtype:
            raise UserError(f"{folder.folder}: the saved state is not that of this {name}; wanted the same options")
        xp = get_array_module(flat)
        flat[...] = xp.asarray(saved.parameters)
        moments.first[...] = xp.asarray(saved.moments.first)
        moments.second[...] = xp.asarray(saved.moments.second)
        moments.updates = saved.moments.updates
    folder.rewind(state.step)
    return state.step, state.seconds, state.pending


@contextmanager
def ctrl_c() -> Iterator[list[int]]:
    """Collect Ctrl-C (SIGINT) into a list instead of stopping in the middle of a step; a second one stops at once."""
    received: list[int] = []

    def receive(number: int, frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    try:
        before = signal.signal(signal.SIGINT, receive)
    except ValueError:  # not in the main thread, where no signal arrives
        yield received
        return
    try:
        yield received
    finally:
        signal.signal(signal.SIGINT, before)
