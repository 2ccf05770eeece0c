"""Mistakes in the objective that mixes soft labels from the teacher and hard labels from the text."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minikd.backend import Array
from minikd.losses.divergences import forward_kl, js, reverse_kl, soft_cross_entropy
from minikd.losses.hard_labels import cross_entropy
from minikd.losses.objective import distillation_loss
from minikd.losses.tokens import IGNORED_LABEL, Pullback
from minikd.oracle.mutants.arguments import (
    EXCHANGES,
    LABELS,
    LOGARITHMS,
    NO_MAX,
    SHIFTS,
    TEMPERATURES,
    gradient_without_temperature,
)
from minikd.oracle.mutants.losses import fused_pair
from minikd.oracle.mutants.planting import Bed, scaled
from minikd.oracle.mutants.tokens import MASKS, MEANS, SIGN, Loss, counted_by, plant_all, sum_of

MUTANTS = Bed()
plant = MUTANTS.plant


Term = Callable[..., tuple[Array, Pullback]]
"""A term of the objective: z, u, labels, temperature, mask, reduction -> loss, vjp."""


def soft_term(divergence: Loss = forward_kl) -> Term:
    """The divergence at T over those tokens that have a label."""

    def term(z: Array, u: Array, labels: Array, temperature: float, mask: Array, reduction: str) -> Any:
        return divergence(z, u, temperature=temperature, mask=mask, reduction=reduction)

    return term


def hard_term(z: Array, u: Array, labels: Array, temperature: float, mask: Array, reduction: str) -> Any:
    return cross_entropy(z, labels, mask=mask, reduction=reduction)


def mixed(
    soft: Term | None = None,
    hard: Term = hard_term,
    *,
    power: float = 2,
    weights: Callable[[Any], tuple[Any, Any]] = lambda alpha: (alpha, 1 - alpha),
) -> Loss:
    """weights(alpha)[0] T^power soft + weights(alpha)[1] hard, token by token, then reduced."""
    soft = soft or soft_term()

    def mutated(
        z: Array,
        u: Array,
        labels: Array,
        *,
        alpha: Any = 0.5,
        temperature: float = 2.0,
        mask: Array | None = None,
        reduction: str = "mean",
    ) -> tuple[Array, Pullback]:
        counted = counted_by((labels,), mask, labels.shape)
        share = counted / counted.sum() if reduction == "mean" else 1.0
        of_soft, of_hard = weights(alpha)
        losses, vjp = sum_of(
            (of_soft * temperature**power, soft(z, u, labels, temperature, counted, "none")),
            (of_hard, hard(z, u, labels, temperature, counted, "none")),
        )
        return losses if reduction == "none" else (share * losses).sum(), lambda w=1.0: vjp(w * share)

    return mutated


plant_all(
    MUTANTS,
    (distillation_loss,),
    [*SIGN, *MEANS, *MASKS, *LABELS, *NO_MAX, *LOGARITHMS, *SHIFTS, *EXCHANGES],
)
plant("distillation_loss", "no-squared-temperature", "the factor T^2 is missing: gradients shrink as T grows")(
    mixed(power=0)
)
plant("distillation_loss", "temperature-not-squared", "the factor is T^2, not T")(mixed(power=1))
plant("distillation_loss", "temperature-squared-twice", "the factor T^2 is there twice: the divergence has none")(
    mixed(power=4)
)
plant("distillation_loss", "weights-exchanged", "alpha and 1 - alpha are exchanged: alpha is the teacher's share")(
    mixed(weights=lambda alpha: (1 - alpha, alpha))
)
plant("distillation_loss", "hard-weight-missing", "the cross-entropy lacks its weight 1 - alpha")(
    mixed(weights=lambda alpha: (alpha, 1.0))
)
plant("distillation_loss", "soft-weight-missing", "the divergence lacks its weight alpha")(
    mixed(weights=lambda alpha: (1.0, 1 - alpha))
)
plant("distillation_loss", "weights-missing", "you add the two terms without their weights alpha and 1 - alpha")(
    mixed(weights=lambda alpha: (1.0, 1.0))
)
plant("distillation_loss", "alpha-ignored", "alpha is not used: yours is always 1/2")(
    mixed(weights=lambda alpha: (0.5, 0.5))
)
plant("distillation_loss", "alpha-averaged", "alpha may be a value for each token; you take its mean")(
    mixed(weights=lambda alpha: (np.mean(alpha), 1 - np.mean(alpha)))
)
for mistake, diagnosis, change in TEMPERATURES[:5]:
    plant("distillation_loss", mistake, f"in the divergence: {diagnosis}")(mixed(soft_term(change(forward_kl))))
for divergence, name, diagnosis in (
    (reverse_kl, "reverse-kl", "your divergence is KL(q || p): student and teacher are exchanged"),
    (soft_cross_entropy, "cross-entropy", "your divergence is the cross-entropy: the teacher's entropy is missing"),
    (js, "js", "your divergence is the Jensen-Shannon divergence; KL(p || q) is the default"),
):
    plant("distillation_loss", name, diagnosis)(mixed(soft_term(divergence)))


@plant("distillation_loss", "mean-over-vocabulary", "the divergence is divided by the vocabulary's size, too")
@mixed
def _(z: Array, u: Array, *others: Any) -> tuple[Array, Pullback]:
    return scaled(soft_term()(z, u, *others), 1 / z.shape[-1])


def with_hard_term(term: Term) -> Loss:
    return mixed(hard=term)


@plant("distillation_loss", "hard-labels-at-temperature", "the cross-entropy is at T; hard labels are learnt at T = 1")
@with_hard_term
def _(z: Array, u: Array, labels: Array, temperature: float, mask: Array, reduction: str) -> tuple[Array, Pullback]:
    return scaled(hard_term(z / temperature, u, labels, temperature, mask, reduction), 1 / temperature, value=False)


@plant("distillation_loss", "hard-labels-times-squared-temperature", "T^2 multiplies the cross-entropy, too")
@with_hard_term
def _(z: Array, u: Array, labels: Array, temperature: float, mask: Array, reduction: str) -> tuple[Array, Pullback]:
    return scaled(hard_term(z, u, labels, temperature, mask, reduction), temperature**2)


@plant("distillation_loss", "teacher-on-the-labels", "the cross-entropy is that of the teacher's logits")
@with_hard_term
def _(z: Array, u: Array, labels: Array, *others: Any) -> tuple[Array, Pullback]:
    return scaled(hard_term(u, z, labels, *others), 0, value=False)


@plant("distillation_loss", "hard-term-without-gradient", "the cross-entropy is missing in your gradient")
@with_hard_term
def _(*arguments: Any) -> tuple[Array, Pullback]:
    return scaled(hard_term(*arguments), 0, value=False)


@plant("distillation_loss", "soft-term-without-gradient", "the divergence is missing in your gradient")
@mixed
def _(*arguments: Any) -> tuple[Array, Pullback]:
    return scaled(soft_term()(*arguments), 0, value=False)


def apart(
    z: Array,
    u: Array,
    labels: Array,
    soft_mask: Array | None,
    hard_mask: Array | None,
    *,
    alpha: Any = 0.5,
    temperature: float = 2.0,
    reduction: str = "mean",
) -> tuple[Array, Pullback]:
    """The two terms, each reduced over tokens of its own."""
    if np.shape(alpha):
        alpha = np.mean(alpha)
    return sum_of(
        (alpha * temperature**2, forward_kl(z, u, temperature=temperature, mask=soft_mask, reduction=reduction)),
        (1 - alpha, cross_entropy(z, labels, mask=hard_mask, reduction=reduction)),
    )


@plant("distillation_loss", "unlabelled-in-soft-term", "tokens with the label -100 still count in the divergence")
def _(z: Array, u: Array, labels: Array, *, mask: Array | None = None, **own: Any) -> tuple[Array, Pullback]:
    return apart(z, u, labels, mask, mask, **own)


@plant("distillation_loss", "mask-missing-in-soft-term", "the mask is not used in the divergence")
def _(z: Array, u: Array, labels: Array, *, mask: Array | None = None, **own: Any) -> tuple[Array, Pullback]:
    return apart(z, u, labels, labels != IGNORED_LABEL, mask, **own)


@plant("distillation_loss", "mask-missing-in-hard-term", "the mask is not used in the cross-entropy")
def _(z: Array, u: Array, labels: Array, *, mask: Array | None = None, **own: Any) -> tuple[Array, Pullback]:
    return apart(z, u, labels, counted_by((labels,), mask, labels.shape), None, **own)


for name, diagnosis, f in (
    ("no-squared-temperature", "the factor T^2 is missing: gradients shrink as T grows", mixed(power=0)),
    ("temperature-squared-twice", "the factor T^2 is there twice: the divergence has none", mixed(power=4)),
    (
        "weights-exchanged",
        "alpha and 1 - alpha are exchanged: alpha is the teacher's share",
        mixed(weights=lambda alpha: (1 - alpha, alpha)),
    ),
    ("reverse-kl", "your divergence is KL(q || p): student and teacher are exchanged", mixed(soft_term(reverse_kl))),
    (
        "cross-entropy",
        "your divergence is the cross-entropy",
        mixed(soft_term(soft_cross_entropy)),
    ),
    (
        "no-temperature-in-gradient",
        "in the divergence: your gradient lacks the factor 1/T",
        mixed(soft_term(gradient_without_temperature(forward_kl))),
    ),
):
    plant("linear_distillation_loss", name, diagnosis)(fused_pair(f))
