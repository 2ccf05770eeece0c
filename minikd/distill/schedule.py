"""How much the soft labels count as training goes on."""

import math
from collections.abc import Callable
from typing import Literal, get_args

from minikd.backend import Array
from minikd.losses import Alpha, cross_entropy

Schedule = Literal["constant", "linear", "cosine", "late", "gate"]
SoftWeight = Callable[[float], Alpha]


def soft_weight(schedule: Schedule, alpha: float, *, start: float = 0.6) -> SoftWeight:
    """The weight of the soft labels as a function of progress, from 0 at the first step to 1 at the end.

    `constant` is alpha throughout; `linear` and `cosine` rise from 0 to alpha; `late` is 0 before `start` and alpha
    from there; `gate` is alpha for those tokens that the teacher predicts better than the student does, 0 for the
    others. ValueError: another name, alpha outside [0, 1], start outside [0, 1].
    """
    for name, value in (("alpha", alpha), ("start", start)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; wanted a number in [0, 1]")
    weights: dict[str, SoftWeight] = {
        "constant": lambda progress: alpha,
        "linear": lambda progress: alpha * progress,
        "cosine": lambda progress: alpha * (1 - math.cos(math.pi * progress)) / 2,
        "late": lambda progress: alpha if progress >= start else 0.0,
        "gate": lambda progress: gate(alpha),
    }
    if schedule not in weights:
        raise ValueError(f"schedule is {schedule!r}; wanted one of {', '.join(get_args(Schedule))}")
    return weights[schedule]


def gate(alpha: float) -> Alpha:
    """alpha where the teacher's own loss on a token is below the student's, else 0."""

    def per_token(student_logits: Array, teacher_logits: Array, labels: Array) -> Array:
        student_loss, _ = cross_entropy(student_logits, labels, reduction="none")
        teacher_loss, _ = cross_entropy(teacher_logits, labels, reduction="none")
        return alpha * (teacher_loss < student_loss)

    return per_token
