"""Mistakes in a step of distillation, from a fixed teacher or from one that learns, too."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minikd.backend import Array
from minikd.losses.divergences import reverse_kl
from minikd.losses.hard_labels import cross_entropy
from minikd.losses.linear import linear_cross_entropy, linear_distillation_loss
from minikd.nn import dropout
from minikd.oracle.mutants.planting import Bed
from minikd.oracle.subjects.pure import codistill_step, distill_step

MUTANTS = Bed()
plant = MUTANTS.plant


# Distillation

Step = Callable[..., tuple[Array, ...]]


def twice_as_far(step: Step, factor: Callable[[float], float], *weights: int) -> Step:
    """A step whose results at `weights` moved factor(learning_rate) times as far."""

    def mutated(hidden: Array, labels: Array, *before: Array, learning_rate: float = 0.5, **own: Any) -> Any:
        after = list(step(hidden, labels, *before, learning_rate=learning_rate, **own))
        for i in weights:
            after[i] = before[i] + factor(learning_rate) * (after[i] - before[i])
        return tuple(after)

    return mutated


def ignored_is_class_0(step: Step) -> Step:
    return lambda hidden, labels, *weights, **own: step(hidden, np.maximum(labels, 0), *weights, **own)


def labels_shifted(step: Step) -> Step:
    return lambda hidden, labels, *weights, **own: step(hidden, np.roll(labels, -1), *weights, **own)


def alpha_exchanged(step: Step) -> Step:
    return lambda *arrays, alpha=0.5, **own: step(*arrays, alpha=1 - alpha, **own)


def temperature_ignored(step: Step) -> Step:
    return lambda *arrays, temperature=2.0, **own: step(*arrays, temperature=1.0, **own)


def no_squared_temperature(step: Step) -> Step:
    """alpha a T^2 + (1 - alpha) b, with a T^2 for a: other weights of the same two terms, and their sum."""

    def mutated(hidden: Array, labels: Array, *before: Array, alpha: float = 0.5, **own: Any) -> Any:
        squared = own.get("temperature", 2.0) ** 2
        total = alpha / squared + 1 - alpha
        after = list(step(hidden, labels, *before, alpha=alpha / squared / total, **own))
        after[0] = before[0] + total * (after[0] - before[0])
        loss = len(after) // 2
        after[loss] = total * after[loss]
        return tuple(after)

    return mutated


def losses_after(step: Step) -> Step:
    def mutated(hidden: Array, labels: Array, student: Array, teacher: Array, **own: Any) -> Any:
        moved = step(hidden, labels, student, teacher, **own)
        n = len(moved) // 2
        again = step(hidden, labels, moved[0], moved[1] if n > 1 else teacher, **own)
        return *moved[:n], *again[n:]

    return mutated


for name, step, weights in (("distill_step", distill_step, (0,)), ("codistill_step", codistill_step, (0, 1))):
    plant(name, "ascent", "the sign is wrong: this climbs")(twice_as_far(step, lambda rate: -1.0, *weights))
    plant(name, "learning-rate-missing", "the gradient is not multiplied by the learning rate")(
        twice_as_far(step, lambda rate: 1 / rate, *weights)
    )
    plant(name, "ignored-label-counted", "the label -100 is taken for a class: such a token does not count")(
        ignored_is_class_0(step)
    )
    plant(name, "labels-shifted", "your labels are off by one: token t is held against the label of t + 1")(
        labels_shifted(step)
    )
    plant(name, "weights-exchanged", "alpha and 1 - alpha are exchanged: alpha is the teacher's share")(
        alpha_exchanged(step)
    )
    plant(name, "temperature-ignored", "the temperature is not used")(temperature_ignored(step))
    plant(name, "losses-after-the-step", "your losses are those after the step; those that were minimised are wanted")(
        losses_after(step)
    )
plant("distill_step", "no-squared-temperature", "the factor T^2 is missing")(no_squared_temperature(distill_step))


def summed(hidden: Array, labels: Array, *arrays: Array, **own: Any) -> Any:
    n = int((labels >= 0).sum())
    weight, loss = twice_as_far(distill_step, lambda rate: n, 0)(hidden, labels, *arrays, **own)
    return weight, n * loss


plant("distill_step", "sum-for-mean", "your loss is the sum over the tokens; their mean is wanted")(summed)


def objective_step(divergence: Callable) -> Step:
    """distill_step with another divergence."""

    def mutated(
        hidden: Array,
        labels: Array,
        student: Array,
        teacher: Array,
        *,
        learning_rate: float = 0.5,
        **own: Any,
    ) -> tuple[Array, Array]:
        loss, vjp = linear_distillation_loss(hidden, student, hidden, teacher, labels, divergence=divergence, **own)
        return student - learning_rate * vjp()[1], loss

    return mutated


plant("distill_step", "reverse-kl", "your divergence is KL(q || p): student and teacher are exchanged")(
    objective_step(reverse_kl)
)


@plant("distill_step", "from-labels-alone", "the student learns from the labels alone")
def _(hidden: Array, labels: Array, student: Array, teacher: Array, **own: Any) -> tuple[Array, Array]:
    return distill_step(hidden, labels, student, teacher, **{**own, "alpha": 0.0})


@plant("distill_step", "teacher-with-dropout", "the teacher's dropout is on: it has to be in evaluation mode")
def _(hidden: Array, labels: Array, student: Array, teacher: Array, **own: Any) -> tuple[Array, Array]:
    noisy, _ = dropout(teacher, 0.1, np.random.default_rng(0))
    return distill_step(hidden, labels, student, noisy, **own)


# Co-distillation

Moved = tuple[Array, Array, Array, Array]


@plant("codistill_step", "teacher-moves-first", "the student learns from the teacher that moved already")
def _(hidden: Array, labels: Array, student: Array, teacher: Array, **own: Any) -> Moved:
    _, moved_teacher, _, teacher_loss = codistill_step(hidden, labels, student, teacher, **own)
    moved_student, _, student_loss, _ = codistill_step(hidden, labels, student, moved_teacher, **own)
    return moved_student, moved_teacher, student_loss, teacher_loss


@plant("codistill_step", "student-moves-first", "the teacher learns from the student that moved already")
def _(hidden: Array, labels: Array, student: Array, teacher: Array, **own: Any) -> Moved:
    moved_student, _, student_loss, _ = codistill_step(hidden, labels, student, teacher, **own)
    _, moved_teacher, _, teacher_loss = codistill_step(hidden, labels, moved_student, teacher, **own)
    return moved_student, moved_teacher, student_loss, teacher_loss


@plant(
    "codistill_step",
    "teacher-not-detached",
    "the student's loss moves the teacher, too: detach it",
)
def _(hidden: Array, labels: Array, student: Array, teacher: Array, **own: Any) -> Moved:
    moved = codistill_step(hidden, labels, student, teacher, **own)
    settings = {"alpha": 0.5, "temperature": 2.0, "learning_rate": 0.5, **own}
    t = settings["temperature"]
    # the slope of KL(p || q) at the teacher's logits is that of a reverse KL with the roles exchanged
    _, vjp = reverse_kl(hidden @ teacher.T, hidden @ student.T, temperature=t, mask=labels >= 0)
    pull = settings["learning_rate"] * settings["alpha"] * t * t * vjp().T @ hidden
    return moved[0], moved[1] - pull, moved[2], moved[3]


@plant("codistill_step", "frozen-teacher", "the teacher does not learn: this is distillation from a fixed teacher")
def _(hidden: Array, labels: Array, student: Array, teacher: Array, **own: Any) -> Moved:
    moved = codistill_step(hidden, labels, student, teacher, **own)
    return moved[0], teacher, moved[2], moved[3]


@plant("codistill_step", "student-from-labels-alone", "the student learns from the labels alone")
def _(hidden: Array, labels: Array, student: Array, teacher: Array, *, learning_rate: float = 0.5, **own: Any) -> Moved:
    moved = codistill_step(hidden, labels, student, teacher, learning_rate=learning_rate, **own)
    loss, vjp = linear_cross_entropy(hidden, student, labels)
    return student - learning_rate * vjp()[1], moved[1], loss, moved[3]


@plant("codistill_step", "always-mutual", "the teacher learns from the student, too, though `mutual` is False")
def _(*arrays: Array, mutual: bool = False, **own: Any) -> Moved:
    return codistill_step(*arrays, mutual=True, **own)


@plant("codistill_step", "never-mutual", "`mutual` is not used: the teacher learns from the labels alone")
def _(*arrays: Array, mutual: bool = False, **own: Any) -> Moved:
    return codistill_step(*arrays, **own)


@plant("codistill_step", "roles-exchanged", "the teacher learns from the student, and the student from the labels")
def _(hidden: Array, labels: Array, student: Array, teacher: Array, **own: Any) -> Moved:
    moved_teacher, moved_student, teacher_loss, student_loss = codistill_step(hidden, labels, teacher, student, **own)
    return moved_student, moved_teacher, student_loss, teacher_loss


@plant("codistill_step", "no-squared-temperature", "the factor T^2 is missing")
def _(hidden: Array, labels: Array, student: Array, teacher: Array, *, mutual: bool = False, **own: Any) -> Moved:
    moved_student, student_loss = no_squared_temperature(distill_step)(hidden, labels, student, teacher, **own)
    if mutual:
        moved_teacher, teacher_loss = no_squared_temperature(distill_step)(hidden, labels, teacher, student, **own)
    else:
        _, moved_teacher, _, teacher_loss = codistill_step(hidden, labels, student, teacher, **own)
    return moved_student, moved_teacher, student_loss, teacher_loss


@plant("codistill_step", "teacher-loss-on-the-student", "the teacher's loss is computed with the student's logits")
def _(hidden: Array, labels: Array, student: Array, teacher: Array, **own: Any) -> Moved:
    moved = codistill_step(hidden, labels, student, teacher, **own)
    return *moved[:3], cross_entropy(hidden @ student.T, labels)[0]
