"""The losses with hard labels or given tokens: cross-entropy, the objective, and what else needs labels."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from minikd.losses.decoupled import decoupled_kd
from minikd.losses.hard_labels import cross_entropy
from minikd.losses.linear import linear_cross_entropy, linear_distillation_loss
from minikd.losses.minillm import minillm_loss
from minikd.losses.objective import distillation_loss
from minikd.oracle.subjects.case import Case, Inputs, sixteenths
from minikd.oracle.subjects.tokens import (
    closeness,
    empty_on_both_sides,
    hard_logits,
    ignored_labels,
    labelled_logits,
    labelled_pair,
    loss_subject,
    masked,
    own_parameters,
    padded_batch,
    pair,
    sizes,
    sizes_and_reductions,
    temperatures,
)


def cross_entropy_cases(rng: np.random.Generator) -> Iterator[Case]:
    yield from sizes_and_reductions(rng, labelled_logits)
    yield from hard_logits(rng, labelled_logits)
    yield from ignored_labels(rng, labelled_logits)
    inputs = labelled_logits(rng, 3)
    inputs["logits"][:, 5:] = -np.inf
    inputs["labels"][:] = 4, 0, 5
    flags = ("minus-infinity", "infinite", "none")
    yield Case("minus-infinity", "the label of the last token is impossible", flags, inputs, {"reduction": "none"})
    inputs = masked(labelled_logits(rng, 2, 4))
    inputs["logits"][0, 0, 1:], inputs["labels"][0, 0] = -np.inf, 1
    flags = ("minus-infinity", "mask", "garbage")
    yield Case("garbage", "the label of a token that does not count is impossible", flags, inputs)


def distillation_cases(rng: np.random.Generator) -> Iterator[Case]:
    for part in (sizes_and_reductions, temperatures, hard_logits, closeness, ignored_labels):
        yield from part(rng, labelled_pair)
    yield from own_parameters(rng, labelled_pair, ({"alpha": 0.25}, {"alpha": 0.75, "temperature": 1.0}))
    for alpha, what in ((0.0, "hard labels"), (1.0, "the teacher")):
        yield Case(f"alpha-{alpha:g}", f"{what} alone", ("limit",), labelled_pair(rng, 4), {"alpha": alpha})
    inputs = {**labelled_pair(rng, 4), "alpha": np.array([0.25, 0.5, 0.75, 1.0])}
    yield Case("alpha-a-token", "a weight for each token", ("parameter",), inputs, {"temperature": 3.0})


def decoupled_cases(rng: np.random.Generator) -> Iterator[Case]:
    for part in (sizes_and_reductions, temperatures, hard_logits, closeness, ignored_labels):
        yield from part(rng, labelled_pair)
    yield from own_parameters(rng, labelled_pair, ({"alpha": 2.0, "beta": 0.5}, {"alpha": 0.0}, {"beta": 0.0}))
    yield from empty_on_both_sides(rng, lambda rng, n: {**labelled_pair(rng, n), "labels": np.arange(n)})


def projected(rng: np.random.Generator, *tokens: int, classes: int = 7) -> Inputs:
    """Hidden states, the projection to logits, and hard labels."""
    return {
        "hidden": sixteenths(rng, *tokens, 3, scale=1.0),
        "weight": sixteenths(rng, classes, 3, scale=1.0),
        "labels": rng.integers(0, classes, size=tokens),
    }


def projected_pair(rng: np.random.Generator, *tokens: int, classes: int = 7) -> Inputs:
    """Hidden states of student and teacher, of two widths, their projections to logits, and hard labels."""
    return {
        "student_hidden": sixteenths(rng, *tokens, 3, scale=1.0),
        "student_weight": sixteenths(rng, classes, 3, scale=1.0),
        "teacher_hidden": sixteenths(rng, *tokens, 5, scale=1.0),
        "teacher_weight": sixteenths(rng, classes, 5, scale=1.0),
        "labels": rng.integers(0, classes, size=tokens),
    }


def linear_cross_entropy_cases(rng: np.random.Generator) -> Iterator[Case]:
    yield from sizes(rng, projected)
    yield from ignored_labels(rng, projected)
    inputs = projected(rng, 300)
    inputs["labels"][40:250] = -100
    yield Case(
        "blocks", "300 tokens, most of which do not count: more than one block of 128", ("ignored-label",), inputs
    )


def linear_distillation_cases(rng: np.random.Generator) -> Iterator[Case]:
    yield from sizes(rng, projected_pair)
    yield from ignored_labels(rng, projected_pair)
    yield from own_parameters(rng, projected_pair, ({"alpha": 0.25}, {"temperature": 1.0}, {"temperature": 3.0}))
    for alpha, what in ((0.0, "hard labels"), (1.0, "the teacher")):
        yield Case(f"alpha-{alpha:g}", f"{what} alone", ("limit",), projected_pair(rng, 4), {"alpha": alpha})


def sampled(rng: np.random.Generator, *tokens: int, classes: int = 7) -> Inputs:
    """Logits of student and teacher, and the tokens that were drawn; sequences along the last axis."""
    inputs = pair(rng, *tokens, classes=classes)
    return {**inputs, "tokens": rng.integers(0, classes, size=tokens)}


def minillm_cases(rng: np.random.Generator) -> Iterator[Case]:
    yield from sizes_and_reductions(rng, sampled)
    yield from hard_logits(rng, sampled)
    yield from closeness(rng, sampled)
    yield from ignored_labels(rng, sampled, name="tokens")
    without = ({"single_step": False}, {"length_normalize": False}, {"alpha": 0.0}, {"alpha": 0.5})
    yield from own_parameters(rng, sampled, without)
    nothing = {"single_step": False, "length_normalize": False, "alpha": 0.0}
    yield Case("plain", "none of the three stabilisers", ("parameter",), sampled(rng, 2, 4), nothing)


LOSSES = (
    loss_subject(
        cross_entropy,
        ("logits",),
        "-log softmax(z)[label] at T = 1; mean over the counted tokens; labels are not shifted",
        cross_entropy_cases,
        partial(padded_batch, draw=labelled_logits, attributes={}),
    ),
    loss_subject(
        linear_cross_entropy,
        ("hidden", "weight"),
        "cross_entropy of the logits hidden weight^T, with weight stored (V, C)",
        linear_cross_entropy_cases,
        partial(padded_batch, draw=projected, attributes={}),
    ),
)

OBJECTIVES = (
    loss_subject(
        distillation_loss,
        ("student_logits",),
        "alpha T^2 KL(p || q) + (1 - alpha) cross-entropy at T = 1; T = 2 if not given; mean over the counted tokens",
        distillation_cases,
        partial(padded_batch, draw=labelled_pair, attributes={"temperature": 2.0}),
    ),
    loss_subject(
        linear_distillation_loss,
        ("student_hidden", "student_weight"),
        "distillation_loss of the logits hidden weight^T, with weights stored (V, C)",
        linear_distillation_cases,
        partial(padded_batch, draw=projected_pair, attributes={"temperature": 2.0}),
    ),
    loss_subject(
        decoupled_kd,
        ("student_logits",),
        "alpha times the KL of label against rest + beta times the KL among the rest; no T^2; mean over the counted",
        decoupled_cases,
        partial(padded_batch, draw=labelled_pair, attributes={"temperature": 2.0}),
    ),
    loss_subject(
        minillm_loss,
        ("student_logits",),
        "the surrogate with the policy gradient of KL(q || p); rewards and importance weights are constants",
        minillm_cases,
        partial(padded_batch, draw=sampled, attributes={}),
    ),
)
