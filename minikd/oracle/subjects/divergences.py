"""The divergences between teacher and student, and the other distances between their logits."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from minikd.losses.divergences import (
    alpha_divergence,
    forward_kl,
    generalized_jsd,
    js,
    reverse_kl,
    skew_forward_kl,
    skew_reverse_kl,
    soft_cross_entropy,
    symmetric_kl,
    taid,
    total_variation,
)
from minikd.losses.logits import cosine_logits, mse_logits
from minikd.losses.universal import universal_logit_distance
from minikd.oracle.subjects.case import Case, Inputs, Subject, distinct
from minikd.oracle.subjects.tokens import (
    closeness,
    empty_on_both_sides,
    empty_on_one_side,
    hard_logits,
    loss_subject,
    own_parameters,
    padded_batch,
    pair,
    sizes_and_reductions,
    temperatures,
)


def divergence_cases(rng: np.random.Generator, *, own: tuple[dict[str, Any], ...] = ()) -> Iterator[Case]:
    yield from sizes_and_reductions(rng, pair)
    yield from temperatures(rng, pair)
    yield from hard_logits(rng, pair)
    yield from closeness(rng, pair)
    yield from empty_on_both_sides(rng, pair)
    yield from empty_on_one_side(rng, pair)
    yield from own_parameters(rng, pair, own)


def logit_cases(rng: np.random.Generator) -> Iterator[Case]:
    """For distances without a softmax: a shift of the logits is seen, and -inf makes sense on both sides only."""
    yield from sizes_and_reductions(rng, pair)
    yield from closeness(rng, pair)
    yield from empty_on_both_sides(rng, pair)
    inputs = pair(rng, 4)
    inputs["student_logits"] += 8
    yield Case("apart", "the student's logits are larger throughout, and that is seen", (), inputs)


def two_vocabularies(rng: np.random.Generator, *tokens: int, classes: int = 7, teacher_classes: int = 0) -> Inputs:
    """No two logits of a token are the same, or it would be open which of them comes first."""
    return {
        "student_logits": distinct(rng, *tokens, classes),
        "teacher_logits": distinct(rng, *tokens, teacher_classes or classes + 2),
    }


def universal_cases(rng: np.random.Generator) -> Iterator[Case]:
    yield from sizes_and_reductions(rng, two_vocabularies)
    yield from temperatures(rng, two_vocabularies)
    yield from hard_logits(rng, two_vocabularies)
    yield from empty_on_both_sides(rng, two_vocabularies)
    inputs = two_vocabularies(rng, 4, teacher_classes=3)
    yield Case("smaller-teacher", "the teacher's vocabulary is the smaller one", (), inputs)
    inputs = two_vocabularies(rng, 4, teacher_classes=7)
    yield Case("same-size", "two vocabularies of one size", (), inputs)
    inputs = {**inputs, "teacher_logits": np.ascontiguousarray(inputs["student_logits"][:, ::-1])}
    yield Case("permuted", "the teacher says the same of other tokens: 0", ("equal",), inputs)


def divergence_subject(function: Callable, convention: str, *own: dict[str, Any]) -> Subject:
    draw = partial(divergence_cases, own=own)
    batch = partial(padded_batch, draw=pair, attributes={"temperature": 2.0})
    convention += "; no T^2; mean over the counted tokens"
    return loss_subject(function, ("student_logits",), convention, draw, batch)


def logit_subject(function: Callable, convention: str) -> Subject:
    batch = partial(padded_batch, draw=pair, attributes={})
    return loss_subject(function, ("student_logits",), convention, logit_cases, batch)


DIVERGENCES = (
    divergence_subject(soft_cross_entropy, "-sum(p log q), without the teacher's entropy: not 0 at p = q"),
    divergence_subject(forward_kl, "KL(p || q), from the teacher to the student, with the teacher's entropy"),
    divergence_subject(reverse_kl, "KL(q || p), from the student to the teacher"),
    divergence_subject(
        symmetric_kl,
        "weight KL(p || q) + (1 - weight) KL(q || p)",
        {"weight": 0.25},
        {"weight": 0.0},
        {"weight": 1.0},
    ),
    divergence_subject(total_variation, "sum |p - q| / 2, at most 1; the slope is 0 where p and q meet"),
    divergence_subject(js, "KL(p || m) / 2 + KL(q || m) / 2 with m = (p + q) / 2, at most log 2"),
    divergence_subject(
        generalized_jsd,
        "beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q; `scaled` divides by beta (1 - beta)",
        {"beta": 0.25},
        {"beta": 0.25, "scaled": True},
        {"beta": 0.0, "scaled": True},
        {"beta": 1.0, "scaled": True},
    ),
    divergence_subject(skew_forward_kl, "KL(p || m) with m = alpha p + (1 - alpha) q", {"alpha": 0.25}, {"alpha": 0.0}),
    divergence_subject(skew_reverse_kl, "KL(q || m) with m = (1 - alpha) p + alpha q", {"alpha": 0.25}, {"alpha": 0.0}),
    divergence_subject(
        alpha_divergence,
        "(1 - sum p^alpha q^(1 - alpha)) / (alpha (1 - alpha)); alpha = 1 is KL(p || q), alpha = 0 is KL(q || p)",
        {"alpha": 0.25},
        {"alpha": 0.0},
        {"alpha": 1.0},
    ),
    divergence_subject(
        taid, "KL(r || q) with r = softmax(((1 - t) z + t u) / T) a constant", {"t": 0.25}, {"t": 0.0}, {"t": 1.0}
    ),
    logit_subject(mse_logits, "sum((z - u)^2) / V; mean over the counted tokens"),
    logit_subject(cosine_logits, "1 - cos(z, u); mean over the counted tokens"),
    loss_subject(
        universal_logit_distance,
        ("student_logits",),
        "sum |p - q| with both sorted, the shorter one filled up with zeros; no T^2; mean over the counted tokens",
        universal_cases,
        partial(padded_batch, draw=two_vocabularies, attributes={"temperature": 2.0}),
    ),
)
