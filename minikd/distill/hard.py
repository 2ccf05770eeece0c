"""Hard labels: a fixed teacher's most likely token at every position, and nothing of its doubts."""

from minikd.backend import Array
from minikd.distill.schedule import SoftWeight
from minikd.distill.soft import soft
from minikd.losses import Pullback, cross_entropy
from minikd.models import GPT2
from minikd.train import Step


def argmax_cross_entropy(
    student_logits: Array,
    teacher_logits: Array,
    *,
    temperature: float = 1.0,
    mask: Array | None = None,
    reduction: str = "mean",
) -> tuple[Array, Pullback]:
    """Cross-entropy on the teacher's most likely class; its argmax is the same at every temperature.

    Student and teacher logits (..., V) -> loss in nats; vjp(w) -> dstudent. With the signature of a divergence.
    """
    return cross_entropy(student_logits, teacher_logits.argmax(axis=-1), mask=mask, reduction=reduction)


def hard(student: GPT2, teacher: GPT2, *, weight: SoftWeight) -> Step:
    """Both read the text; the student learns from the text and from the token that the teacher would have bet on."""
    return soft(student, teacher, weight=weight, temperature=1.0, divergence=argmax_cross_entropy)
