"""minikd's side: its own methods under its own training step, as its users have them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.cases import (
    ALPHA,
    BATCH_SEED,
    BETA2,
    FINAL_LEARNING_RATE,
    HEAD_TASKS,
    LEARNING_RATE,
    MAX_NORM,
    STEPS,
    TEMPERATURE,
    WARMUP_STEPS,
    WEIGHT_DECAY,
    Case,
    batch_rows,
    head_arrays,
    head_labels,
    initial_weights,
    prompt,
    teacher_weights,
    token_stream,
)
from benchmarks.side import Side, wall_clock
from minikd.backend import Array, select_device
from minikd.distill.codistill import codistill
from minikd.distill.scratch import scratch
from minikd.distill.soft import soft
from minikd.losses import DIVERGENCES, linear_cross_entropy, linear_distillation_loss
from minikd.models import GPT2, GPT2Config, Parameters
from minikd.models.generate import Sampling, generate
from minikd.text import Batch
from minikd.train import Learner, Step, Tick, TrainConfig, train_step
from minikd.workers import Workers


def load(config: GPT2Config, weights: Mapping[str, np.ndarray], xp: Any) -> GPT2:
    """A model with weights of the published names."""
    params = Parameters.zeros(config.shapes)
    for name, weight in weights.items():
        params[name][...] = weight
    return GPT2(config, params.with_flat(xp.asarray(params.flat)))


def method(case: Case, xp: Any) -> tuple[dict[str, GPT2], Step]:
    """Who learns in a case, and how."""
    model = load(case.size.model, initial_weights(case.size.model, 0), xp)
    if case.task == "train":
        return {"student": model}, scratch(model)
    student = load(case.size.student, initial_weights(case.size.student, 1), xp)
    labels: dict[str, Any] = {"weight": lambda progress: ALPHA, "temperature": TEMPERATURE}
    if case.task == "soft":
        teacher = load(case.size.model, teacher_weights(case.size.model, 0), xp)
        return {"student": student}, soft(student, teacher, **labels)
    return {"teacher": model, "student": student}, codistill(student, model, **labels)


def training(case: Case, xp: Any) -> Callable[[], list[Array]]:
    """The training step of a case; it gives the losses."""
    config = TrainConfig(
        steps=STEPS,
        batch_size=case.size.batch,
        context=case.size.model.n_positions,
        learning_rate=LEARNING_RATE,
        warmup_steps=WARMUP_STEPS,
        final_learning_rate=FINAL_LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        beta2=BETA2,
        clip_norm=MAX_NORM,
    )
    models, look = method(case, xp)
    learners = {name: Learner.of(model, config) for name, model in models.items()}
    workers = Workers(case.threads if xp is np else 1).__enter__()  # until the process ends
    stream, rng = token_stream(case), np.random.default_rng(BATCH_SEED)
    done = 0

    def step() -> list[Array]:
        nonlocal done
        batch = Batch.of(batch_rows(case, stream, rng))
        seen = train_step(learners, look, batch, Tick(done, STEPS), config, workers)
        done += 1
        return [loss for loss, _ in seen.values()]

    return step


def head(case: Case, xp: Any) -> Callable[[], list[Array]]:
    """A loss of the projections of given hidden states, and its gradients."""
    x, weight, teacher_x, teacher_weight = (xp.asarray(array) for array in head_arrays(case.head))
    labels = xp.asarray(head_labels(case.head))
    workers = Workers(case.threads if xp is np else 1).__enter__()  # until the process ends
    options: dict[str, Any] = {"alpha": ALPHA, "temperature": TEMPERATURE}
    if case.loss != "mix":
        options = {"alpha": 1.0, "temperature": 1.0, "divergence": DIVERGENCES.get(case.loss)}

    def step() -> list[Array]:
        if case.loss == "cross_entropy":
            loss, vjp = linear_cross_entropy(x, weight, labels, workers=workers)
        else:
            loss, vjp = linear_distillation_loss(
                x, weight, teacher_x, teacher_weight, labels, **options, workers=workers
            )
        vjp()
        return [loss]

    return step


def generation(case: Case, xp: Any) -> Callable[[], list[int]]:
    """Greedy tokens after one prompt, through a cache."""
    model = load(case.size.model, initial_weights(case.size.model, 0), xp)
    prompts = [prompt(case).tolist()]
    return lambda: generate(model, prompts, case.new_tokens, sampling=Sampling(temperature=0))[0]


def build_minikd(case: Case) -> Side:
    """minikd's side of a case; ValueError if a GPU is wanted and there is none that works."""
    xp, device = select_device(case.device)
    info = {
        "numpy": np.__version__,
        "blas": np.show_config(mode="dicts")["Build Dependencies"]["blas"],
        "threads": case.threads,
        "device": device,
    }
    build = {"generate": generation, **dict.fromkeys(HEAD_TASKS, head)}.get(case.task, training)
    step: Callable[[], Any] = build(case, xp)

    def numbers(result: Any) -> list[float]:
        return [float(number) for number in result]

    if xp is np:
        return Side(step, numbers, info, wall_clock, lambda: None)
    info |= {"cupy": xp.__version__, "cuda": xp.cuda.runtime.runtimeGetVersion()}
    return Side(step, numbers, info, gpu_clock(xp), xp.get_default_memory_pool().total_bytes)


def gpu_clock(cupy: Any) -> Callable[[Callable[[], Any]], tuple[float, Any]]:
    """What measures the seconds between two events on the GPU, before and after some work, and gives its result."""

    def timed(work: Callable[[], Any]) -> tuple[float, Any]:
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        result = work()
        end.record()
        end.synchronize()
        return cupy.cuda.get_elapsed_time(start, end) / 1000, result

    return timed
