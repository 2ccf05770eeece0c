"""Planted mistakes: what real libraries and their users got wrong, each with a sentence for the person who made it."""

from minikd.oracle.mutants import (
    attention,
    block,
    distances,
    divergences,
    hidden,
    labelled,
    layers,
    losses,
    mixtures,
    objective,
    optim,
    sampling,
    softmax,
    sparse,
    steps,
)
from minikd.oracle.mutants.planting import Mutant
from minikd.oracle.subjects import SUBJECTS

__all__ = ["MUTANTS", "Mutant"]

_TOPICS = (softmax, layers, attention, block, losses, divergences, mixtures, distances, objective, labelled)
_PLANTED = [mutant for topic in (*_TOPICS, sparse, hidden, optim, sampling, steps) for mutant in topic.MUTANTS]

MUTANTS: tuple[Mutant, ...] = tuple(mutant for name in SUBJECTS for mutant in _PLANTED if mutant.subject == name)
"""All mutants, in the order of `SUBJECTS`."""
