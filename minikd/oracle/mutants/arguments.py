"""Mistakes in what a loss is given: temperature, logits, labels."""

from typing import Any

import numpy as np

from minikd.backend import Array
from minikd.losses.tokens import IGNORED_LABEL, Pullback
from minikd.oracle.mutants.planting import scaled, through_exp, through_probabilities
from minikd.oracle.mutants.tokens import Loss, Mistake


def between_logits(share: float, z: Array, u: Array) -> Array:
    """(1 - share) z + share u, also where either is -inf."""
    return np.where(np.isneginf(z) | np.isneginf(u), -np.inf, (1 - share) * z + share * u)


# Temperature


def temperature_ignored(f: Loss) -> Loss:
    return lambda *arrays, temperature=1.0, **own: f(*arrays, **own)


def temperature_inverted(f: Loss) -> Loss:
    return lambda *arrays, temperature=1.0, **own: f(*arrays, temperature=1 / temperature, **own)


def teacher_without_temperature(f: Loss) -> Loss:
    return lambda z, u, *labels, temperature=1.0, **own: f(z, temperature * u, *labels, temperature=temperature, **own)


def student_without_temperature(f: Loss) -> Loss:
    def mutated(z: Array, u: Array, *labels: Array, temperature: float = 1.0, **own: Any) -> tuple[Array, Pullback]:
        result = f(temperature * z, u, *labels, temperature=temperature, **own)
        return scaled(result, temperature, value=False)

    return mutated


def gradient_without_temperature(f: Loss) -> Loss:
    def mutated(*arrays: Array, temperature: float = 1.0, **own: Any) -> tuple[Array, Pullback]:
        return scaled(f(*arrays, temperature=temperature, **own), temperature, value=False)

    return mutated


def times_squared_temperature(f: Loss) -> Loss:
    def mutated(*arrays: Array, temperature: float = 1.0, **own: Any) -> tuple[Array, Pullback]:
        return scaled(f(*arrays, temperature=temperature, **own), temperature**2)

    return mutated


TEMPERATURES: list[Mistake] = [
    ("temperature-ignored", "the temperature is not used", temperature_ignored),
    ("temperature-multiplied", "you multiply the logits by T; they are divided by T", temperature_inverted),
    (
        "temperature-on-the-student-only",
        "only the student's logits are divided by T, not the teacher's",
        teacher_without_temperature,
    ),
    (
        "temperature-on-the-teacher-only",
        "only the teacher's logits are divided by T, not the student's",
        student_without_temperature,
    ),
    ("no-temperature-in-gradient", "your gradient lacks the factor 1/T", gradient_without_temperature),
    (
        "temperature-squared",
        "you multiply by T^2: that belongs to the objective (distillation_loss), not to the divergence",
        times_squared_temperature,
    ),
]


# Logits


def overflowing(f: Loss) -> Loss:
    """exp without the largest subtracted."""

    def mutated(z: Array, *others: Array, temperature: float = 1.0, **own: Any) -> tuple[Array, Pullback]:
        arrays = [through_exp(x, temperature) if x.shape == z.shape else x for x in (z, *others)]
        return f(*arrays, **({} if temperature == 1 else {"temperature": temperature}), **own)

    return mutated


def logged_probabilities(f: Loss) -> Loss:
    """log(softmax), which is -inf where the probability underflows."""

    def mutated(z: Array, *others: Array, temperature: float = 1.0, **own: Any) -> tuple[Array, Pullback]:
        arrays = [through_probabilities(x, temperature) if x.shape == z.shape else x for x in (z, *others)]
        return f(*arrays, **({} if temperature == 1 else {"temperature": temperature}), **own)

    return mutated


def next_teacher(f: Loss) -> Loss:
    return lambda z, u, *others, **own: f(z, np.roll(u, -1, axis=-2), *others, **own)


def exchanged(f: Loss) -> Loss:
    return lambda z, u, *others, **own: f(u, z, *others, **own)


def teacher_for_student(f: Loss) -> Loss:
    return lambda z, u, *others, **own: f(u, u, *others, **own)


NO_MAX: list[Mistake] = [
    ("no-max-subtraction", "exp overflows: subtract the largest logit of each token first", overflowing)
]

SHIFTS: list[Mistake] = [
    (
        "teacher-shifted",
        "the student's token t is compared with the teacher's t + 1: no loss shifts, the data does",
        next_teacher,
    ),
    ("teacher-for-student", "the teacher's logits stand in the student's place, too", teacher_for_student),
]

EXCHANGES: list[Mistake] = [
    (
        "arguments-exchanged",
        "student and teacher are exchanged, in the value and in what the gradient is for",
        exchanged,
    )
]

LOGARITHMS: list[Mistake] = [
    (
        "log-of-softmax",
        "you take the logarithm of a softmax, which is -inf where it underflows: use log_softmax",
        logged_probabilities,
    )
]


# Labels


def labels_rolled(f: Loss) -> Loss:
    return lambda *arrays, **own: f(*(np.roll(x, -1, axis=-1) if is_labels(x) else x for x in arrays), **own)


def shifted_inside(f: Loss) -> Loss:
    """logits[:-1] against labels[1:], where there are two tokens or more."""

    def mutated(*arrays: Array, mask: Array | None = None, **own: Any) -> tuple[Array, Pullback]:
        labels = next(x for x in arrays if is_labels(x))
        if labels.shape[-1] == 1:
            return f(*arrays, mask=mask, **own)
        later = np.roll(labels, -1, axis=-1)
        later[..., -1] = IGNORED_LABEL
        if mask is not None:
            mask = np.roll(mask, -1, axis=-1)
        return f(*(later if x is labels else x for x in arrays), mask=mask, **own)

    return mutated


def ignored_label_is_class_0(f: Loss) -> Loss:
    return lambda *arrays, **own: f(*(np.maximum(x, 0) if is_labels(x) else x for x in arrays), **own)


def is_labels(x: Array) -> bool:
    return x.dtype.kind == "i"


LABELS: list[Mistake] = [
    ("labels-shifted", "your labels are off by one: token t is held against the label of t + 1", labels_rolled),
    (
        "shifted-inside",
        "you shift inside (logits[:-1] against labels[1:]): the data has done it already",
        shifted_inside,
    ),
    (
        "ignored-label-counted",
        "the label -100 is taken for a class: such a token does not count",
        ignored_label_is_class_0,
    ),
]
