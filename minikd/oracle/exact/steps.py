"""What moves a model, and what picks a token, as formulas."""

from collections.abc import Callable
from typing import Any

import mpmath as mp
import numpy as np

from minikd.oracle.exact.losses import cross_entropy, distillation_loss, softmax
from minikd.oracle.exact.traced import Traced, gradients, held, log, sqrt


def cosine_schedule(step: int, *, peak: Any, warmup_steps: int, steps: int, final: Any) -> Any:
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = mp.mpf(step - warmup_steps) / max(1, steps - warmup_steps)
    return final + (peak - final) * (1 + mp.cos(mp.pi * progress)) / 2


def clip_by_global_norm(weight: Any, bias: Any, *, max_norm: Any) -> Any:
    norm = mp.sqrt((weight * weight).sum() + (bias * bias).sum())
    scale = max_norm / max(norm, max_norm)
    return weight * scale, bias * scale


def adamw_step(
    parameter: Any,
    gradient: Any,
    first: Any,
    second: Any,
    *,
    updates: int,
    learning_rate: Any,
    beta1: Any,
    beta2: Any,
    eps: Any,
    weight_decay: Any,
) -> Any:
    first = beta1 * first + (1 - beta1) * gradient
    second = beta2 * second + (1 - beta2) * gradient**2
    move = first / (1 - beta1 ** (updates + 1)) / (sqrt(second / (1 - beta2 ** (updates + 1))) + eps)
    decay = weight_decay * parameter if parameter.ndim == 2 else 0
    return parameter - learning_rate * (move + decay), first, second


def sample_token(logits: Any, uniform: Any, *, temperature: Any, top_k: int | None = None, top_p: Any = None) -> Any:
    if temperature == 0:
        return logits.argmax(axis=-1)
    tokens = np.empty(len(logits), dtype=np.int64)
    for row, (z, u) in enumerate(zip(logits, uniform, strict=True)):
        order = np.arange(len(z)) if top_k is None and top_p is None else np.argsort(-z, kind="stable")[:top_k]
        p = softmax(z[order], temperature)
        if top_p is not None:
            p = p * (p.cumsum() - p < top_p)
        tokens[row] = order[np.sum(p.cumsum() <= u * p.sum())]
    return tokens


def distill_step(
    hidden: Any,
    labels: np.ndarray,
    student_weight: Any,
    teacher_weight: Any,
    *,
    alpha: Any,
    temperature: Any,
    learning_rate: Any,
) -> Any:
    teacher_logits = hidden @ teacher_weight.T

    def mixed(logits: Any) -> Any:
        options = {"alpha": alpha, "temperature": temperature, "reduction": "mean"}
        return distillation_loss(logits, teacher_logits, labels, **options)

    return descend(mixed, hidden, student_weight, learning_rate)


def codistill_step(
    hidden: Any,
    labels: np.ndarray,
    student_weight: Any,
    teacher_weight: Any,
    *,
    alpha: Any,
    temperature: Any,
    learning_rate: Any,
    mutual: bool,
) -> Any:
    options = {"alpha": alpha, "temperature": temperature, "learning_rate": learning_rate}
    student, loss = distill_step(hidden, labels, student_weight, teacher_weight, **options)
    if mutual:
        return student, *swapped(loss, distill_step(hidden, labels, teacher_weight, student_weight, **options))
    hard = descend(
        lambda logits: cross_entropy(logits, labels, reduction="mean"), hidden, teacher_weight, learning_rate
    )
    return student, *swapped(loss, hard)


def swapped(student_loss: Any, teacher: tuple[Any, Any]) -> tuple[Any, Any, Any]:
    """The teacher's weight, the student's loss, the teacher's."""
    return teacher[0], student_loss, teacher[1]


def descend(loss: Callable[[Any], Any], hidden: Any, weight: Any, learning_rate: Any) -> tuple[Any, Any]:
    """The weight after a step of gradient descent on the loss of the logits hidden weight^T, and the loss before it."""
    moving = Traced(weight)
    value = loss(hidden @ moving.swapaxes(0, 1))
    (slope,) = gradients(value, [moving])
    return weight - learning_rate * slope, held(value)


def top_k_teacher(logits: Any, k: int, *, temperature: Any) -> Any:
    logp = log(softmax(logits, temperature))
    ids = np.argsort(-logp, axis=-1, kind="stable")[..., :k]
    return ids, np.take_along_axis(logp, ids, axis=-1)


STEPS: dict[str, Callable[..., Any]] = {
    formula.__name__: formula
    for formula in (
        cosine_schedule,
        clip_by_global_norm,
        adamw_step,
        sample_token,
        distill_step,
        codistill_step,
        top_k_teacher,
    )
}
"""The plain functions by name."""
