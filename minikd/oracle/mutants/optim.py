"""Mistakes in the learning rate's schedule, in clipping and in AdamW."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minikd.backend import Array
from minikd.optim import cosine_schedule
from minikd.oracle.mutants.planting import Bed
from minikd.oracle.subjects.pure import adamw_step, clip_by_global_norm

MUTANTS = Bed()
plant = MUTANTS.plant


# The schedule


@plant("cosine_schedule", "starts-at-0", "your first step has the rate 0 and does nothing: it is peak / warmup_steps")
def _(step: int, *, warmup_steps: int, **own: Any) -> float:
    return cosine_schedule(step - (step < warmup_steps), warmup_steps=warmup_steps, **own)


@plant("cosine_schedule", "cosine-from-step-0", "your cosine starts at step 0; it starts when the warm-up ends")
def _(step: int, *, warmup_steps: int, **own: Any) -> float:
    return cosine_schedule(step, warmup_steps=warmup_steps if step < warmup_steps else 0, **own)


@plant("cosine_schedule", "no-warm-up", "there is no warm-up")
def _(step: int, *, warmup_steps: int, peak: float, **own: Any) -> float:
    return peak if step < warmup_steps else cosine_schedule(step, warmup_steps=warmup_steps, peak=peak, **own)


@plant("cosine_schedule", "final-ignored", "`final` is not used: yours falls to 0")
def _(step: int, *, final: float = 0.0, **own: Any) -> float:
    return cosine_schedule(step, **own)


@plant("cosine_schedule", "final-added", "you add `final` to the cosine: it then starts above the peak")
def _(step: int, *, final: float = 0.0, warmup_steps: int, **own: Any) -> float:
    return cosine_schedule(step, warmup_steps=warmup_steps, **own) + final * (step >= warmup_steps)


@plant("cosine_schedule", "linear-decay", "yours falls along a line")
def _(step: int, *, peak: float, warmup_steps: int, steps: int, final: float = 0.0) -> float:
    rate = cosine_schedule(step, peak=peak, warmup_steps=warmup_steps, steps=steps, final=final)
    if step < warmup_steps:
        return rate
    return peak + (final - peak) * (step - warmup_steps) / max(1, steps - warmup_steps)


@plant("cosine_schedule", "whole-cosine", "yours is a whole period, which rises again; half of one is wanted")
def _(step: int, *, warmup_steps: int, **own: Any) -> float:
    way = max(0, step - warmup_steps)
    return cosine_schedule(step + way, warmup_steps=warmup_steps, **own)


@plant("cosine_schedule", "last-step-is-final", "your last step has the final rate: the cosine ends one step after it")
def _(step: int, *, warmup_steps: int, steps: int, **own: Any) -> float:
    shorter = steps - 1 if step >= warmup_steps else steps
    return cosine_schedule(step, warmup_steps=warmup_steps, steps=shorter, **own)


# Clipping


def clipping(scale: Callable[[float, float], float]) -> Callable:
    """Gradients times scale(their length, max_norm)."""

    def mutated(weight: Array, bias: Array, *, max_norm: float) -> tuple[Array, Array]:
        c = scale(math.sqrt(float((weight * weight).sum() + (bias * bias).sum())), max_norm)
        return c * weight, c * bias

    return mutated


plant("clip_by_global_norm", "not-clipped", "nothing is clipped")(clipping(lambda norm, most: 1.0))
plant("clip_by_global_norm", "always-scaled", "short gradients are lengthened to max_norm: they stay as they are")(
    clipping(lambda norm, most: most / norm if norm else 1.0)
)
plant("clip_by_global_norm", "zero-is-nan", "a gradient of length 0 is divided by its length")(
    clipping(lambda norm, most: min(1.0, most / norm) if norm else math.nan)
)
plant("clip_by_global_norm", "squared-norm", "you compare with the square of the length: its root is missing")(
    clipping(lambda norm, most: most / max(norm**2, most))
)
plant("clip_by_global_norm", "epsilon-in-norm", "you divide by the length + 1e-6 (as PyTorch does): it is not needed")(
    clipping(lambda norm, most: min(1.0, most / (norm + 1e-6)))
)


@plant("clip_by_global_norm", "by-value", "you clip each number; the whole gradient is scaled, and keeps its direction")
def _(weight: Array, bias: Array, *, max_norm: float) -> tuple[Array, Array]:
    return np.clip(weight, -max_norm, max_norm), np.clip(bias, -max_norm, max_norm)


@plant("clip_by_global_norm", "each-on-its-own", "each array is clipped by its own length; the length is that of all")
def _(weight: Array, bias: Array, *, max_norm: float) -> tuple[Array, Array]:
    return (
        clip_by_global_norm(weight, 0 * bias, max_norm=max_norm)[0],
        clip_by_global_norm(0 * weight, bias, max_norm=max_norm)[1],
    )


@plant("clip_by_global_norm", "sum-of-absolute-values", "your length is a sum of absolute values; it is Euclid's")
def _(weight: Array, bias: Array, *, max_norm: float) -> tuple[Array, Array]:
    scale = max_norm / max(abs(weight).sum() + abs(bias).sum(), max_norm)
    return scale * weight, scale * bias


# AdamW

State = tuple[Array, Array, Array]


def moved(step: Callable[..., Array]) -> Callable:
    """AdamW that moves by step(m, v, c1, c2, eps) times the learning rate: moments after it, their corrections."""

    def mutated(
        parameter: Array,
        gradient: Array,
        first: Array,
        second: Array,
        *,
        updates: int,
        learning_rate: float,
        beta1: float = 0.9,
        beta2: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.1,
    ) -> State:
        decay = learning_rate * weight_decay * (parameter.ndim == 2)
        m = beta1 * first + (1 - beta1) * gradient
        v = beta2 * second + (1 - beta2) * gradient**2
        c1, c2 = 1 - beta1 ** (updates + 1), 1 - beta2 ** (updates + 1)
        return (1 - decay) * parameter - learning_rate * step(m, v, c1, c2, eps), m, v

    return mutated


plant("adamw_step", "no-bias-correction", "the moments are not corrected for having started at 0")(
    moved(lambda m, v, c1, c2, eps: m / (np.sqrt(v) + eps))
)
plant("adamw_step", "first-moment-not-corrected", "the first moment is not corrected for having started at 0")(
    moved(lambda m, v, c1, c2, eps: m / (np.sqrt(v / c2) + eps))
)
plant("adamw_step", "second-moment-not-corrected", "the second moment is not corrected for having started at 0")(
    moved(lambda m, v, c1, c2, eps: m / c1 / (np.sqrt(v) + eps))
)
plant("adamw_step", "eps-inside-the-root", "eps is added under the root; it is added to the root")(
    moved(lambda m, v, c1, c2, eps: m / c1 / np.sqrt(v / c2 + eps))
)
plant("adamw_step", "eps-before-correction", "eps is added before the bias correction; it comes after")(
    moved(lambda m, v, c1, c2, eps: m / c1 * math.sqrt(c2) / (np.sqrt(v) + eps))
)
plant("adamw_step", "no-eps", "eps is missing: 0 / 0 where there never was a gradient")(
    moved(lambda m, v, c1, c2, eps: m / c1 / np.sqrt(v / c2))
)
plant("adamw_step", "no-root", "the root of the second moment is missing")(
    moved(lambda m, v, c1, c2, eps: m / c1 / (v / c2 + eps))
)
plant("adamw_step", "ascent", "the sign is wrong: this climbs")(
    moved(lambda m, v, c1, c2, eps: -m / c1 / (np.sqrt(v / c2) + eps))
)


@plant("adamw_step", "corrected-by-updates-before", "the bias correction is off by one: this step counts, too")
def _(*arrays: Array, updates: int, beta1: float = 0.9, beta2: float = 0.99, **own: Any) -> State:
    if updates == 0:
        parameter, first, second = adamw_step(*arrays, updates=0, beta1=beta1, beta2=beta2, **own)
        return parameter * np.nan, first, second
    _, first, second = adamw_step(*arrays, updates=updates, beta1=beta1, beta2=beta2, **own)
    return adamw_step(*arrays, updates=updates - 1, beta1=beta1, beta2=beta2, **own)[0], first, second


@plant("adamw_step", "l2", "you add the decay to the gradient (L2, Adam); AdamW's acts on the weights alone")
def _(parameter: Array, gradient: Array, *moments: Array, weight_decay: float = 0.1, **own: Any) -> State:
    gradient = gradient + weight_decay * parameter * (parameter.ndim == 2)
    return adamw_step(parameter, gradient, *moments, weight_decay=0.0, **own)


@plant("adamw_step", "no-decay", "the weight decay is missing")
def _(*arrays: Array, weight_decay: float = 0.1, **own: Any) -> State:
    return adamw_step(*arrays, weight_decay=0.0, **own)


@plant("adamw_step", "decay-without-learning-rate", "the decay lacks the learning rate: weights shrink far too fast")
def _(*arrays: Array, learning_rate: float, weight_decay: float = 0.1, **own: Any) -> State:
    return adamw_step(*arrays, learning_rate=learning_rate, weight_decay=weight_decay / learning_rate, **own)


@plant("adamw_step", "vectors-decay", "vectors (biases, gains) decay, too; only matrices do here")
def _(*arrays: Array, **own: Any) -> State:
    if arrays[0].ndim > 1:
        return adamw_step(*arrays, **own)
    parameter, first, second = adamw_step(*(x[None] for x in arrays), **own)
    return parameter[0], first[0], second[0]


@plant("adamw_step", "decay-after-the-step", "you decay what the step has moved; the weights before it are to decay")
def _(*arrays: Array, learning_rate: float, weight_decay: float = 0.1, **own: Any) -> State:
    parameter, first, second = adamw_step(*arrays, learning_rate=learning_rate, weight_decay=0.0, **own)
    return parameter * (1 - learning_rate * weight_decay * (parameter.ndim == 2)), first, second


@plant("adamw_step", "betas-exchanged", "beta1 and beta2 are exchanged: beta1 is the first moment's")
def _(*arrays: Array, beta1: float = 0.9, beta2: float = 0.99, **own: Any) -> State:
    return adamw_step(*arrays, beta1=beta2, beta2=beta1, **own)


@plant("adamw_step", "moments-not-returned", "you return the moments of before the step: it forgets every gradient")
def _(parameter: Array, gradient: Array, first: Array, second: Array, **own: Any) -> State:
    return adamw_step(parameter, gradient, first, second, **own)[0], first, second


@plant("adamw_step", "moments-of-before", "the step uses the moments of before it: update them first")
def _(parameter: Array, gradient: Array, first: Array, second: Array, **own: Any) -> State:
    _, *moments = adamw_step(parameter, gradient, first, second, **own)
    settings = {"beta1": 0.9, "beta2": 0.99, **own}
    # those out of which the step makes the moments of before it
    earlier_first = (first - (1 - settings["beta1"]) * gradient) / settings["beta1"]
    earlier_second = (second - (1 - settings["beta2"]) * gradient**2) / settings["beta2"]
    return adamw_step(parameter, gradient, earlier_first, earlier_second, **own)[0], *moments
