"""Soft labels: a fixed teacher's whole distribution at every position. Hinton, Vinyals & Dean 2015."""

from minikd.distill.schedule import SoftWeight
from minikd.losses import Divergence, forward_kl, linear_distillation_loss
from minikd.models import GPT2
from minikd.text import Batch
from minikd.train import Gradients, Step, Tick


def soft(
    student: GPT2,
    teacher: GPT2,
    *,
    weight: SoftWeight,
    temperature: float = 1.0,
    divergence: Divergence = forward_kl,
) -> Step:
    """Both read the text; the student learns from the text and from what the teacher thinks of it."""

    def step(batch: Batch, tick: Tick) -> Gradients:
        (hidden, head), student_vjp = student.trunk(batch.inputs, rng=tick.rng(0))
        teacher_hidden, teacher_head = teacher.read(batch.inputs)
        loss, loss_vjp = linear_distillation_loss(
            hidden,
            head,
            teacher_hidden,
            teacher_head,
            batch.targets,
            alpha=weight(tick.progress),
            temperature=temperature,
            divergence=divergence,
        )
        return {"student": (loss, student_vjp(*loss_vjp()))}

    return step
