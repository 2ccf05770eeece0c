"""Training on the text alone: what every student is measured against, and how a teacher is made."""

from minikd.losses import linear_cross_entropy
from minikd.models import GPT2
from minikd.text import Batch
from minikd.train import Gradients, Step, Tick


def scratch(student: GPT2) -> Step:
    """The student reads the text and learns to predict it."""

    def step(batch: Batch, tick: Tick) -> Gradients:
        (hidden, head), student_vjp = student.trunk(batch.inputs, rng=tick.rng(0))
        loss, loss_vjp = linear_cross_entropy(hidden, head, batch.targets)
        return {"student": (loss, student_vjp(*loss_vjp()))}

    return step
