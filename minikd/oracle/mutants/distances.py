"""Mistakes in the other divergences, and in the distances between the logits themselves."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minikd.backend import Array
from minikd.losses.divergences import (
    alpha_divergence,
    forward_kl,
    reverse_kl,
    taid,
    total_variation,
)
from minikd.losses.logits import cosine_logits, mse_logits
from minikd.losses.tokens import Pullback
from minikd.losses.universal import universal_logit_distance
from minikd.oracle.mutants.arguments import EXCHANGES, NO_MAX, SHIFTS, TEMPERATURES, between_logits
from minikd.oracle.mutants.divergences import gradient_of_rows
from minikd.oracle.mutants.planting import Bed, scaled, with_value
from minikd.oracle.mutants.tokens import (
    MASKS,
    MEANS,
    OVER_CLASSES,
    SIGN,
    Loss,
    loss_of_rows,
    plant_all,
    scaled_by,
    taken_for,
)
from minikd.softmax import softmax

MUTANTS = Bed()
plant = MUTANTS.plant


# Total variation, alpha-divergence, TAID

plant("total_variation", "not-halved", "you sum |p - q|; total variation is half of that")(
    scaled_by(total_variation, lambda **own: 2.0)
)


@plant("total_variation", "squared", "you sum the squares (p - q)^2 / 2; total variation has absolute values")
@loss_of_rows
def _(z: Array, u: Array, temperature: float) -> tuple[Array, Array]:
    q, vjp = softmax(z, temperature)
    gap = q - softmax(u, temperature)[0]
    return (gap * gap).sum(axis=-1) / 2, vjp(gap)


@gradient_of_rows
def uncentred_signs(z: Array, u: Array, temperature: float) -> Array:
    q = softmax(z, temperature)[0]
    return q * np.sign(q - softmax(u, temperature)[0]) / 2 / temperature


plant(
    "total_variation", "gradient-not-centred", "your gradient is q sign(q - p) / 2: q sums to 1, whatever the logits do"
)(with_value(total_variation, uncentred_signs))

plant("alpha_divergence", "alpha-exchanged", "alpha and 1 - alpha are exchanged: alpha = 1 is KL(p || q)")(
    lambda *arrays, alpha=0.5, **own: alpha_divergence(*arrays, alpha=1 - alpha, **own)
)
plant("alpha_divergence", "alpha-ignored", "alpha is not used: yours is always 1/2")(taken_for(alpha_divergence))
plant("alpha_divergence", "not-scaled", "you forgot to divide by alpha (1 - alpha)")(
    scaled_by(alpha_divergence, lambda alpha=0.5, **own: alpha * (1 - alpha))
)


@plant("alpha_divergence", "renyi", "this is Renyi's divergence, with a logarithm of the sum; Amari's has none")
def _(z: Array, u: Array, *, alpha: float = 0.5, reduction: str = "mean", **own: Any) -> tuple[Array, Pullback]:
    if alpha in (0, 1):
        return alpha_divergence(z, u, alpha=alpha, reduction=reduction, **own)
    amari, vjp = alpha_divergence(z, u, alpha=alpha, reduction="none", **own)
    total = 1 - alpha * (1 - alpha) * amari
    counted = own.get("mask", np.ones(amari.shape, dtype=bool))
    share = counted / counted.sum() if reduction == "mean" else np.ones(amari.shape)
    renyi = -np.log(total) / (alpha * (1 - alpha))
    return (renyi if reduction == "none" else (share * renyi).sum()), lambda w=1.0: vjp(w * share / total)


plant("taid", "t-exchanged", "t and 1 - t are exchanged: at t = 1 the target is the teacher")(
    lambda *arrays, t=0.5, **own: taid(*arrays, t=1 - t, **own)
)
plant("taid", "t-ignored", "t is not used: yours is always 1/2")(taken_for(taid))
plant("taid", "forward-kl", "this is KL(p || q): the target is the teacher itself")(taken_for(forward_kl))


@plant("taid", "probabilities-mixed", "your target mixes the probabilities; TAID mixes the logits")
def _(z: Array, u: Array, *, t: float = 0.5, temperature: float = 1.0, **own: Any) -> tuple[Array, Pullback]:
    r = (1 - t) * softmax(z, temperature)[0] + t * softmax(u, temperature)[0]
    return forward_kl(z, np.log(r) * temperature, temperature=temperature, **own)


@plant("taid", "target-not-detached", "a gradient flows through the target: the student in it is a constant")
def _(z: Array, u: Array, *, t: float = 0.5, **own: Any) -> tuple[Array, Pullback]:
    loss, vjp = taid(z, u, t=t, **own)
    at_target = reverse_kl(between_logits(t, z, u), z, **own)[1]
    return loss, lambda *w: vjp(*w) + (1 - t) * at_target(*w)


# The logits themselves

ON_LOGITS = [*SIGN, *MEANS, *OVER_CLASSES, *MASKS, *SHIFTS]
plant_all(MUTANTS, (mse_logits,), ON_LOGITS)  # with the arguments exchanged, its gradient has the wrong sign
plant_all(MUTANTS, (cosine_logits,), [*ON_LOGITS, *EXCHANGES])


def of_probabilities(f: Loss) -> Loss:
    def mutated(z: Array, u: Array, **own: Any) -> tuple[Array, Pullback]:
        q, vjp_softmax = softmax(z)
        loss, vjp = f(q, softmax(u)[0], **own)
        return loss, lambda *w: vjp_softmax(vjp(*w))

    return mutated


def centred(f: Loss) -> Loss:
    """The mean logit of each token taken out, on both sides."""

    def without_mean(x: Array) -> Array:
        there = np.isfinite(x)
        mean = np.where(there, x, 0).sum(axis=-1, keepdims=True) / there.sum(axis=-1, keepdims=True)
        return np.where(there, x - mean, x)

    def mutated(z: Array, u: Array, **own: Any) -> tuple[Array, Pullback]:
        loss, vjp = f(without_mean(z), without_mean(u), **own)

        def pullback(*w: Array) -> Array:
            dz = np.where(np.isfinite(z), vjp(*w), -np.inf)
            return np.where(np.isfinite(z), without_mean(dz), 0)

        return loss, pullback

    return mutated


for name, on_logits in (("mse_logits", mse_logits), ("cosine_logits", cosine_logits)):
    plant(name, "of-probabilities", "you compare probabilities; logits are wanted")(of_probabilities(on_logits))
    plant(name, "centred", "you take each token's mean out of the logits: here a shift is seen")(centred(on_logits))


@plant("mse_logits", "sum-over-vocabulary", "you sum over the vocabulary; the mean over it is wanted")
def _(z: Array, u: Array, **own: Any) -> tuple[Array, Pullback]:
    return scaled(mse_logits(z, u, **own), z.shape[-1])


plant("mse_logits", "halved", "yours is half of the mean square")(scaled_by(mse_logits, lambda **own: 0.5))
plant("mse_logits", "factor-2-missing-in-gradient", "your gradient lacks the factor 2")(
    scaled_by(mse_logits, lambda **own: 0.5, value=False)
)


@plant("mse_logits", "absolute", "you take absolute values; squares are wanted")
@loss_of_rows
def _(z: Array, u: Array, temperature: float) -> tuple[Array, Array]:
    gap = np.where(np.isfinite(z), z - u, 0)
    return abs(gap).mean(axis=-1), np.sign(gap) / z.shape[-1]


@plant("cosine_logits", "similarity", "this is the cosine itself; the distance is 1 - cos")
def _(z: Array, u: Array, *, reduction: str = "mean", **own: Any) -> tuple[Array, Pullback]:
    loss, vjp = cosine_logits(z, u, reduction=reduction, **own)
    counted = own.get("mask", np.ones(z.shape[:-1], dtype=bool))
    one = {"mean": 1.0, "sum": counted.sum(), "none": counted * 1.0}[reduction]
    return one - loss, lambda *w: -vjp(*w)


@gradient_of_rows
def towards_teacher(z: Array, u: Array, temperature: float) -> Array:
    z, u = np.where(np.isfinite(z), z, 0), np.where(np.isfinite(u), u, 0)
    return -u / np.linalg.norm(z, axis=-1, keepdims=True) / np.linalg.norm(u, axis=-1, keepdims=True)


plant("cosine_logits", "norm-detached", "your gradient takes the student's norm for a constant")(
    with_value(cosine_logits, towards_teacher)
)

# Two vocabularies

UNIVERSAL = [*SIGN, *MEANS, *OVER_CLASSES, *MASKS, *TEMPERATURES, *NO_MAX]
plant_all(MUTANTS, (universal_logit_distance,), UNIVERSAL)


def matched(order: Callable[[Array], Array]) -> Loss:
    """sum |p - q| entry by entry, each side in an order of its own and filled up behind."""

    def mutated(z: Array, u: Array, **own: Any) -> tuple[Array, Pullback]:
        at = order(z)
        ordered = [np.take_along_axis(x, order(x), axis=-1) for x in (z, u)]
        n = max(z.shape[-1], u.shape[-1])
        filled = [np.concatenate((x, np.full((*x.shape[:-1], n - x.shape[-1]), -np.inf)), axis=-1) for x in ordered]
        loss, vjp = total_variation(*filled, **own)

        def pullback(w: Array = 1.0) -> Array:
            dz = np.empty_like(z)
            np.put_along_axis(dz, at, 2 * vjp(w)[..., : z.shape[-1]], axis=-1)
            return dz

        return 2 * loss, pullback

    return mutated


def as_it_is(x: Array) -> Array:
    return np.broadcast_to(np.arange(x.shape[-1]), x.shape)


plant(
    "universal_logit_distance", "not-sorted", "you compare token by token: the probabilities have to be sorted first"
)(matched(as_it_is))
plant("universal_logit_distance", "sorted-upwards", "you sort upwards and fill up behind: the largest no longer meet")(
    matched(lambda x: np.argsort(x, axis=-1))
)
plant("universal_logit_distance", "halved", "yours is half of the sum (total variation)")(
    scaled_by(universal_logit_distance, lambda **own: 0.5)
)


@plant("universal_logit_distance", "gradient-not-sorted-back", "your gradient is still sorted: undo the sorting")
def _(z: Array, u: Array, **own: Any) -> tuple[Array, Pullback]:
    loss, vjp = universal_logit_distance(z, u, **own)
    return loss, lambda *w: np.take_along_axis(vjp(*w), np.argsort(-z, axis=-1), axis=-1)
