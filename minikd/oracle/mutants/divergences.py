"""Mistakes in the KL divergences, and those that all divergences between teacher and student share."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minikd.backend import Array
from minikd.distill.hard import argmax_cross_entropy
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
from minikd.losses.sparse import sparse_kl, top_k_teacher
from minikd.losses.tokens import Pullback
from minikd.oracle.mutants.arguments import EXCHANGES, LOGARITHMS, NO_MAX, SHIFTS, TEMPERATURES
from minikd.oracle.mutants.planting import Bed, scaled, with_value
from minikd.oracle.mutants.tokens import (
    INFINITE_MASKS,
    MASKS,
    MEANS,
    OVER_CLASSES,
    SIGN,
    Change,
    Loss,
    loss_of_rows,
    plant_all,
)
from minikd.softmax import log_softmax, softmax

MUTANTS = Bed()
plant = MUTANTS.plant

WITH_LOGARITHMS: tuple[Loss, ...] = (
    soft_cross_entropy,
    forward_kl,
    reverse_kl,
    symmetric_kl,
    js,
    generalized_jsd,
    skew_forward_kl,
    skew_reverse_kl,
)
DIVERGENCES: tuple[Loss, ...] = (*WITH_LOGARITHMS, total_variation, alpha_divergence, taid)
UNBOUNDED: tuple[Loss, ...] = (soft_cross_entropy, forward_kl, reverse_kl, symmetric_kl)

plant_all(MUTANTS, DIVERGENCES, [*SIGN, *MEANS, *OVER_CLASSES, *MASKS, *TEMPERATURES, *NO_MAX, *SHIFTS, *EXCHANGES])
plant_all(MUTANTS, UNBOUNDED, [*LOGARITHMS, *INFINITE_MASKS])


def nan_where(empty: Callable[[Array, Array], Array]) -> Change:
    """0 times log 0, for the entries that `empty` finds in the logits of student and teacher."""

    def change(f: Loss) -> Loss:
        def mutated(z: Array, u: Array, **own: Any) -> tuple[Array, Pullback]:
            return f(np.where(empty(z, u).any(axis=-1, keepdims=True), np.nan, z), u, **own)

        return mutated

    return change


ZERO = "0 times the logarithm of 0 is NaN: a term with probability 0 is 0"
for f, empty in (
    (forward_kl, lambda z, u: np.isneginf(u)),
    (skew_forward_kl, lambda z, u: np.isneginf(u)),
    (reverse_kl, lambda z, u: np.isneginf(z)),
    (skew_reverse_kl, lambda z, u: np.isneginf(z)),
    (soft_cross_entropy, lambda z, u: np.isneginf(z) & np.isneginf(u)),
    (symmetric_kl, lambda z, u: np.isneginf(z) | np.isneginf(u)),
    (js, lambda z, u: np.isneginf(z) | np.isneginf(u)),
    (generalized_jsd, lambda z, u: np.isneginf(z) | np.isneginf(u)),
):
    plant(f.__name__, "zero-times-log-zero", ZERO)(nan_where(empty)(f))


def in_probability_space(f: Loss) -> Loss:
    """0 times the logarithm of 0 wherever a probability underflows."""

    def mutated(z: Array, u: Array, *, temperature: float = 1.0, **own: Any) -> tuple[Array, Pullback]:
        z, u = (np.where(softmax(x, temperature)[0] > 0, x, -np.inf) for x in (z, u))
        either = nan_where(lambda z, u: np.isneginf(z) | np.isneginf(u))
        return either(f)(z, u, temperature=temperature, **own)

    return mutated


IN_PROBABILITIES = "you take the logarithm of mixed probabilities, NaN where they underflow: mix with logaddexp"
for f in (js, generalized_jsd, skew_forward_kl, skew_reverse_kl):
    plant(f.__name__, "mixture-in-probability-space", IN_PROBABILITIES)(in_probability_space(f))

BITS = "your logarithms are to the base 2 (bits); wanted natural ones (nats)"
for f in WITH_LOGARITHMS:
    plant(f.__name__, "base-2", BITS)(lambda *arrays, f=f, **own: scaled(f(*arrays, **own), 1 / math.log(2)))


# KL(p || q)

K = 3


def of_top_k(tail: str, *, renormalized: bool = False) -> Loss:
    """forward_kl from the teacher's K most likely entries alone."""

    def mutated(z: Array, u: Array, *, temperature: float = 1.0, **own: Any) -> tuple[Array, Pullback]:
        ids, logprobs = top_k_teacher(u, min(K, u.shape[-1]), temperature=temperature)
        if renormalized:
            logprobs = log_softmax(logprobs)[0]
        return sparse_kl(z, ids, logprobs, tail=tail, temperature=temperature, **own)

    return mutated


def distributions(z: Array, u: Array, temperature: float) -> tuple[Array, Array, Array]:
    """p, q and log q/p, the last 0 where p is 0."""
    p, q = softmax(u, temperature)[0], softmax(z, temperature)[0]
    log_p, log_q = log_softmax(u, temperature)[0], log_softmax(z, temperature)[0]
    return p, q, np.where(p > 0, log_q - np.where(p > 0, log_p, 0), 0)


def clamped_rows(z: Array, u: Array, temperature: float) -> tuple[Array, Array]:
    p, q, log_ratio = distributions(z, u, temperature)
    kept = np.where(log_ratio < 0, p, 0)
    values = -np.where(kept > 0, kept * log_ratio, 0).sum(axis=-1)
    return values, (q * kept.sum(axis=-1, keepdims=True) - kept) / temperature


def epsilon_rows(z: Array, u: Array, temperature: float) -> tuple[Array, Array]:
    p, _, _ = distributions(z, u, temperature)
    q, vjp = softmax(z, temperature)
    log_p = np.where(p > 0, log_softmax(u, temperature)[0], 0)
    return (p * (log_p - np.log(q + 1e-8))).sum(axis=-1), vjp(-p / (q + 1e-8))


def gradient_of_rows(rows: Callable[[Array, Array, float], Array]) -> Loss:
    """A loss of which only the gradient is of interest."""
    return loss_of_rows(lambda z, u, temperature: (np.zeros(len(z)), rows(z, u, temperature)))


def at_log_probabilities(z: Array, u: Array, temperature: float) -> Array:
    return -softmax(u, temperature)[0]


def at_probabilities(z: Array, u: Array, temperature: float) -> Array:
    return -np.exp(-distributions(z, u, temperature)[2])


plant("forward_kl", "reverse-kl", "this is reverse KL, KL(q || p): student and teacher are exchanged")(reverse_kl)
plant("forward_kl", "cross-entropy", "this is the cross-entropy -sum(p log q): the teacher's entropy is missing")(
    soft_cross_entropy
)
plant("forward_kl", "js", "this is the Jensen-Shannon divergence")(js)
plant("forward_kl", "hard-labels", "you use the teacher's most likely token only (hard labels)")(argmax_cross_entropy)
plant("forward_kl", "truncated", f"you sum over the teacher's top {K} only: such a sum is no KL and can be negative")(
    of_top_k("zero")
)
plant(
    "forward_kl",
    "teacher-renormalized",
    f"the teacher's top {K} are renormalised and the student's are not: that asks more of the student than the teacher",
)(of_top_k("zero", renormalized=True))
plant("forward_kl", "top-k-renormalized", f"you compare the renormalised top {K} only; the whole vocabulary counts")(
    of_top_k("renormalize")
)
plant("forward_kl", "top-k-bucket", f"all but the teacher's top {K} are lumped together: that is a lower bound only")(
    of_top_k("bucket")
)
plant("forward_kl", "terms-clamped", "you clamp the terms of the sum at 0: the negative ones belong to it")(
    loss_of_rows(clamped_rows)
)
plant("forward_kl", "epsilon-in-logarithm", "you add an epsilon to q inside the logarithm: use log_softmax")(
    loss_of_rows(epsilon_rows)
)
plant(
    "forward_kl", "gradient-at-log-probabilities", "your gradient -p is that at log q; at the logits it is (q - p) / T"
)(with_value(forward_kl, gradient_of_rows(at_log_probabilities)))
plant("forward_kl", "gradient-at-probabilities", "your gradient -p/q is that at q; at the logits it is (q - p) / T")(
    with_value(forward_kl, gradient_of_rows(at_probabilities))
)
plant("forward_kl", "gradient-at-the-teacher", "your gradient is that at the teacher's logits")(
    with_value(forward_kl, lambda z, u, **own: reverse_kl(u, z, **own))
)

plant("soft_cross_entropy", "kl", "this is KL(p || q): you subtract the teacher's entropy")(forward_kl)
plant("soft_cross_entropy", "hard-labels", "you use the teacher's most likely token only (hard labels)")(
    argmax_cross_entropy
)


@plant("soft_cross_entropy", "reverse", "this is -sum(q log p): student and teacher are exchanged")
@loss_of_rows
def _(z: Array, u: Array, temperature: float) -> tuple[Array, Array]:
    q, vjp = softmax(z, temperature)
    log_p, _ = log_softmax(u, temperature)
    return -np.where(q > 0, q * log_p, 0).sum(axis=-1), vjp(np.where(q > 0, -log_p, 0))


# KL(q || p)


def reverse_ratio(z: Array, u: Array, temperature: float) -> tuple[Array, Array]:
    """q and log q/p, 0 where q is 0."""
    q, _, log_ratio = distributions(u, z, temperature)
    return q, -log_ratio


def not_centred(z: Array, u: Array, temperature: float) -> Array:
    q, log_ratio = reverse_ratio(z, u, temperature)
    return q * np.where(q > 0, log_ratio, 0) / temperature


plant("reverse_kl", "forward-kl", "this is forward KL, KL(p || q): student and teacher are exchanged")(forward_kl)
plant("reverse_kl", "js", "this is the Jensen-Shannon divergence")(js)
plant("reverse_kl", "gradient-not-centred", "your gradient lacks -q KL(q || p): q sums to 1, whatever the logits do")(
    with_value(reverse_kl, gradient_of_rows(not_centred))
)
plant("reverse_kl", "student-detached", "your gradient is 0: q in front of the logarithm was taken for a constant")(
    lambda *arrays, **own: scaled(reverse_kl(*arrays, **own), 0, value=False)
)
plant("reverse_kl", "gradient-of-forward-kl", "your gradient, (q - p) / T, is that of forward KL")(
    with_value(reverse_kl, forward_kl)
)
plant("reverse_kl", "gradient-at-the-teacher", "your gradient is that at the teacher's logits")(
    with_value(reverse_kl, lambda z, u, **own: forward_kl(u, z, **own))
)


@plant("reverse_kl", "cross-entropy", "this is the cross-entropy -sum(q log p): the student's entropy is missing")
@loss_of_rows
def _(z: Array, u: Array, temperature: float) -> tuple[Array, Array]:
    q, vjp = softmax(z, temperature)
    log_p, _ = log_softmax(u, temperature)
    return -np.where(q > 0, q * log_p, 0).sum(axis=-1), vjp(np.where(q > 0, -log_p, 0))
