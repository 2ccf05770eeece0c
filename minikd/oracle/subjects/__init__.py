"""The functions that people write themselves, from a stable softmax to a step of co-distillation, and their cases."""

from minikd.oracle.subjects.case import FLAGS, Case, Subject
from minikd.oracle.subjects.divergences import DIVERGENCES
from minikd.oracle.subjects.hidden import HIDDEN
from minikd.oracle.subjects.layers import LAYERS
from minikd.oracle.subjects.losses import LOSSES, OBJECTIVES
from minikd.oracle.subjects.sparse import SPARSE
from minikd.oracle.subjects.steps import STEPS

__all__ = ["FLAGS", "SUBJECTS", "Case", "Subject"]

SUBJECTS: dict[str, Subject] = {
    subject.name: subject
    for topic in (LAYERS, LOSSES, DIVERGENCES, OBJECTIVES, SPARSE, HIDDEN, STEPS)
    for subject in topic
}
"""All subjects by name, topic by topic, the easier ones first."""
