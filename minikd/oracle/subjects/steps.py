"""What moves a model: the schedule, clipping, AdamW, the steps of distillation and co-distillation; and sampling."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from minikd.optim import cosine_schedule
from minikd.oracle.subjects.case import Case, Inputs, Subject, distinct, sixteenths
from minikd.oracle.subjects.pure import adamw_step, clip_by_global_norm, codistill_step, distill_step, sample_token


def schedule_case(id: str, comment: str, step: int, *flags: str, **other: Any) -> Case:
    attributes = {"step": step, "peak": 0.5, "warmup_steps": 4, "steps": 20, "final": 0.0625, **other}
    return Case(id, comment, flags, {}, attributes)


def schedule_cases(rng: np.random.Generator) -> Iterable[Case]:
    yield schedule_case("first", "the first step: a quarter of the peak, not 0", 0, "limit")
    yield schedule_case("rising", "within the warm-up", 2)
    yield schedule_case("warm", "the last step of the warm-up: the peak", 3, "limit")
    yield schedule_case("peak", "the first step of the cosine: the peak again", 4, "limit")
    yield schedule_case("falling", "before the middle of the cosine", 9)
    yield schedule_case("last", "the last step, just above the final rate", 19, "limit")
    yield schedule_case("no-warm-up", "no warm-up at all", 0, "limit", warmup_steps=0)
    yield schedule_case("all-warm-up", "nothing but warm-up", 17, "limit", warmup_steps=20)
    yield schedule_case("to-zero", "down to 0", 13, "parameter", final=0.0)


def clip_inputs(rng: np.random.Generator, scale: float, *, n: int = 4) -> Inputs:
    return {"weight": sixteenths(rng, 3, n, scale=scale), "bias": sixteenths(rng, n, scale=scale)}


def clip_cases(rng: np.random.Generator) -> Iterable[Case]:
    yield Case("long", "longer than max_norm", (), clip_inputs(rng, 2), {"max_norm": 1.0})
    yield Case("short", "shorter than max_norm: stays as it is", (), clip_inputs(rng, 0.5), {"max_norm": 8.0})
    apart = clip_inputs(rng, 1)
    apart["weight"] *= 4
    yield Case("together", "too long only together", ("parameter",), apart, {"max_norm": 12.0})
    yield Case("small", "a small length, still longer than max_norm", (), clip_inputs(rng, 0.0625), {"max_norm": 0.125})
    still = {name: np.zeros_like(x) for name, x in clip_inputs(rng, 1).items()}
    yield Case("zero", "of length 0: not to be divided by", ("limit",), still, {"max_norm": 1.0})
    yield Case("odd", "41 columns", ("odd-size",), clip_inputs(rng, 1, n=41), {"max_norm": 0.5})


def adamw_inputs(rng: np.random.Generator, *shape: int, scale: float = 0.5) -> Inputs:
    return {
        "parameter": sixteenths(rng, *shape),
        "gradient": sixteenths(rng, *shape, scale=scale),
        "first": sixteenths(rng, *shape, scale=scale),
        "second": abs(sixteenths(rng, *shape, scale=scale)),
    }


def adamw_cases(rng: np.random.Generator) -> Iterable[Case]:
    def case(id: str, comment: str, inputs: Inputs, *flags: str, **attributes: Any) -> Case:
        return Case(id, comment, flags, inputs, {"updates": 3, "learning_rate": 0.125, **attributes})

    first = adamw_inputs(rng, 3, 4)
    first["first"][...] = first["second"][...] = 0
    yield case("first", "the first step: moments are 0", first, "limit", updates=0)
    yield case("matrix", "a later step of a matrix, which decays", adamw_inputs(rng, 3, 4))
    yield case("vector", "a vector, which does not decay", adamw_inputs(rng, 5))
    yield case("no-decay", "weight_decay = 0", adamw_inputs(rng, 3, 4), "parameter", weight_decay=0.0)
    yield case("late", "after 5000 steps the corrections are gone", adamw_inputs(rng, 3, 4), "limit", updates=5000)
    yield case("betas", "other betas", adamw_inputs(rng, 3, 4), "parameter", beta1=0.5, beta2=0.75)
    yield case("eps", "an eps that is seen", adamw_inputs(rng, 3, 4), "parameter", eps=0.25)
    still = adamw_inputs(rng, 3, 4)
    still["gradient"][1] = still["first"][1] = still["second"][1] = 0
    yield case("still", "a row that never had a gradient: 0 / (0 + eps)", still, "constant")


def adamw_batch(rng: np.random.Generator) -> Case:
    inputs = adamw_inputs(rng, 48, 64)
    return Case("batch", "a matrix of 48 x 64", (), inputs, {"updates": 100, "learning_rate": 2.0**-8})


def sample_inputs(rng: np.random.Generator, n: int, *, classes: int = 9) -> Inputs:
    """No two logits of a row are the same, or it would be open which of them comes first."""
    return {"logits": distinct(rng, n, classes, limit=4), "uniform": rng.integers(0, 16, size=n) / 16}


def sample_cases(rng: np.random.Generator) -> Iterable[Case]:
    yield Case("basic", "from all tokens", (), sample_inputs(rng, 41))
    yield Case("soft", "T = 2", ("temperature",), sample_inputs(rng, 41), {"temperature": 2.0})
    yield Case("greedy", "T = 0 is the most likely token", ("limit",), sample_inputs(rng, 9), {"temperature": 0.0})
    yield Case("top-k", "from the 3 most likely tokens", ("parameter",), sample_inputs(rng, 41), {"top_k": 3})
    yield Case("top-p", "from the nucleus of 0.75", ("parameter",), sample_inputs(rng, 41), {"top_p": 0.75})
    both = {"temperature": 2.0, "top_k": 5, "top_p": 0.5}
    yield Case("all", "the nucleus of the 5 most likely at T = 2", ("parameter",), sample_inputs(rng, 41), both)
    yield Case("top-1", "k = 1 is the most likely token", ("limit",), sample_inputs(rng, 9), {"top_k": 1})
    masked = sample_inputs(rng, 41)
    masked["logits"][:, ::2] = -np.inf
    yield Case("minus-infinity", "tokens that can never come", ("minus-infinity",), masked)


def sample_batch(rng: np.random.Generator) -> Case:
    return Case("batch", "128 rows", ("parameter",), sample_inputs(rng, 128, classes=101), {"top_p": 0.75})


def step_inputs(rng: np.random.Generator, n: int, *, channels: int = 3, classes: int = 5) -> Inputs:
    return {
        "hidden": sixteenths(rng, n, channels, scale=1.0),
        "labels": rng.integers(0, classes, size=n),
        "student_weight": sixteenths(rng, classes, channels, scale=1.0),
        "teacher_weight": sixteenths(rng, classes, channels, scale=1.0),
    }


def step_cases(rng: np.random.Generator, *, own: tuple[dict[str, Any], ...] = ()) -> Iterable[Case]:
    yield Case("basic", "six tokens", (), step_inputs(rng, 6))
    inputs = step_inputs(rng, 6)
    inputs["labels"][1::3] = -100
    yield Case("ignored", "two of six tokens have no label", ("ignored-label",), inputs)
    for name, value in (("alpha", 0.25), ("temperature", 1.0), ("learning_rate", 0.125)):
        yield Case(f"{name}", f"{name} = {value}", ("parameter",), step_inputs(rng, 6), {name: value})
    yield Case("alpha-0", "nothing from the teacher", ("limit",), step_inputs(rng, 6), {"alpha": 0.0})
    yield Case("alpha-1", "everything from the teacher", ("limit",), step_inputs(rng, 6), {"alpha": 1.0})
    equal = step_inputs(rng, 6)
    equal["teacher_weight"] = equal["student_weight"].copy()
    yield Case("equal", "student and teacher are the same", ("equal",), equal)
    yield Case("odd", "17 tokens, 13 channels", ("odd-size",), step_inputs(rng, 17, channels=13, classes=41))
    for attributes in own:
        (name,) = attributes
        yield Case(name, f"{name} = {attributes[name]}", ("parameter",), step_inputs(rng, 6), attributes)


def step_batch(rng: np.random.Generator) -> Case:
    inputs = step_inputs(rng, 128, channels=48, classes=101)
    for name in ("student_weight", "teacher_weight"):
        inputs[name] /= 8
    inputs["labels"][1::3] = -100
    return Case("batch", "128 tokens, 101 classes", ("ignored-label",), inputs)


def _plain(
    function: Callable,
    returns: tuple[str, ...],
    convention: str,
    draw: Callable[[np.random.Generator], Iterable[Case]],
    batch: Callable[[np.random.Generator], Case],
) -> Subject:
    return Subject(function.__name__, function, (), returns, convention, draw, batch)


STEPS = (
    _plain(
        cosine_schedule,
        ("learning_rate",),
        "steps count from 0; the warm-up ends at the peak, the cosine falls from there to `final`",
        schedule_cases,
        lambda rng: schedule_case("batch", "step 70 of 500", 70, warmup_steps=50, steps=500, peak=2.0**-8, final=0.0),
    ),
    _plain(
        clip_by_global_norm,
        ("weight", "bias"),
        "one length for all gradients together; what is shorter stays as it is",
        clip_cases,
        lambda rng: Case("batch", "49 x 48 numbers", (), clip_inputs(rng, 0.5, n=48), {"max_norm": 1.0}),
    ),
    _plain(
        adamw_step,
        ("parameter", "first", "second"),
        "decoupled decay times the learning rate, on matrices only; eps outside the root; bias-corrected moments",
        adamw_cases,
        adamw_batch,
    ),
    _plain(
        sample_token,
        ("tokens",),
        "temperature first, then top_k, then top_p on what is left, renormalised; the token that reaches p stays",
        sample_cases,
        sample_batch,
    ),
    _plain(
        distill_step,
        ("student_weight", "loss"),
        "w - learning_rate * dw; alpha T^2 KL(p || q) + (1 - alpha) cross-entropy, mean over the labelled tokens",
        step_cases,
        step_batch,
    ),
    _plain(
        codistill_step,
        ("student_weight", "teacher_weight", "student_loss", "teacher_loss"),
        "both losses at the weights before the step; each model is a constant in the other's loss",
        partial(step_cases, own=({"mutual": True},)),
        step_batch,
    ),
)
