"""Lockstep co-distillation: teacher and student start together and learn from the same batch at the same time.

The student's soft labels come from a teacher that is itself still learning. With `mutual`, the teacher learns from
the student too: deep mutual learning, Zhang et al. 2018. Online distillation at scale: Anil et al. 2018.
"""

from functools import partial

from minikd.distill.schedule import SoftWeight
from minikd.losses import Divergence, forward_kl, linear_cross_entropy, linear_distillation_loss
from minikd.models import GPT2
from minikd.text import Batch
from minikd.train import Gradients, Step, Tick


def codistill(
    student: GPT2,
    teacher: GPT2,
    *,
    weight: SoftWeight,
    temperature: float = 1.0,
    divergence: Divergence = forward_kl,
    mutual: bool = False,
) -> Step:
    """Both look at the batch before either one moves; the loop then moves both."""

    def step(batch: Batch, tick: Tick) -> Gradients:
        (teacher_hidden, teacher_head), teacher_vjp = teacher.trunk(batch.inputs, rng=tick.rng(0))
        (student_hidden, student_head), student_vjp = student.trunk(batch.inputs, rng=tick.rng(1))
        mixed_loss = partial(
            linear_distillation_loss, alpha=weight(tick.progress), temperature=temperature, divergence=divergence
        )
        student_loss, student_loss_vjp = mixed_loss(
            student_hidden, student_head, teacher_hidden, teacher_head, batch.targets
        )
        if mutual:
            teacher_loss, teacher_loss_vjp = mixed_loss(
                teacher_hidden, teacher_head, student_hidden, student_head, batch.targets
            )
        else:
            teacher_loss, teacher_loss_vjp = linear_cross_entropy(teacher_hidden, teacher_head, batch.targets)
        return {
            "teacher": (teacher_loss, teacher_vjp(*teacher_loss_vjp())),
            "student": (student_loss, student_vjp(*student_loss_vjp())),
        }

    return step
