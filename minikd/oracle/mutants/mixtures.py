"""Mistakes in the symmetric KL, and in the divergences from a mixture of teacher and student."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minikd.backend import Array
from minikd.losses.divergences import (
    forward_kl,
    generalized_jsd,
    js,
    reverse_kl,
    skew_forward_kl,
    skew_reverse_kl,
    symmetric_kl,
)
from minikd.losses.tokens import Pullback
from minikd.oracle.mutants.arguments import between_logits
from minikd.oracle.mutants.planting import Bed, scaled
from minikd.oracle.mutants.tokens import Loss, scaled_by, sum_of, taken_for
from minikd.softmax import softmax

MUTANTS = Bed()
plant = MUTANTS.plant


plant("symmetric_kl", "weights-exchanged", "the two weights are exchanged: `weight` belongs to KL(p || q)")(
    lambda *arrays, weight=0.5, **own: symmetric_kl(*arrays, weight=1 - weight, **own)
)
plant("symmetric_kl", "weight-ignored", "`weight` is not used: yours is always 1/2")(taken_for(symmetric_kl))
plant("symmetric_kl", "sum-of-both", "you add the two KLs (Jeffreys); they are weighted with weight and 1 - weight")(
    lambda z, u, weight=0.5, **own: scaled(symmetric_kl(z, u, **own), 2)
)
plant("symmetric_kl", "js", "this is the Jensen-Shannon divergence, KLs to the mixture")(taken_for(js))
plant("symmetric_kl", "forward-kl", "this is KL(p || q) alone")(taken_for(forward_kl))
plant("symmetric_kl", "reverse-kl", "this is KL(q || p) alone")(taken_for(reverse_kl))


plant("js", "not-halved", "you add KL(p || m) and KL(q || m); their mean is wanted")(scaled_by(js, lambda **own: 2.0))
plant("js", "symmetric-kl", "this is the mean of the two KLs (Jeffreys): KLs to the mixture m are wanted")(symmetric_kl)
plant("js", "teacher-half", "this is KL(p || m) alone")(lambda z, u, **own: skew_forward_kl(z, u, alpha=0.5, **own))
plant("js", "student-half", "this is KL(q || m) alone")(lambda z, u, **own: skew_reverse_kl(z, u, alpha=0.5, **own))


@plant("js", "mixture-of-logits", "your mixture is softmax of the mean logits; it is the mean of the probabilities")
def _(z: Array, u: Array, **own: Any) -> tuple[Array, Pullback]:
    m = between_logits(0.5, z, u)
    (to_p, vjp_p), (to_q, vjp_q) = forward_kl(m, u, **own), forward_kl(m, z, **own)
    at_q = reverse_kl(z, m, **own)[1]
    return (to_p + to_q) / 2, lambda *w: (vjp_p(*w) / 2 + vjp_q(*w) / 2 + at_q(*w)) / 2


def own_weights(first: Callable[[float], float], mixture: Callable[[float], float]) -> Loss:
    """first(beta) KL(p || m) + (1 - first(beta)) KL(q || m) with mixture(beta) as the teacher's share of m."""

    def mutated(z: Array, u: Array, *, beta: float = 0.5, scaled: bool = False, **own: Any) -> tuple[Array, Pullback]:
        if beta in (0, 1):
            return generalized_jsd(z, u, beta=beta, scaled=scaled, **own)
        share = mixture(beta)
        factor = 1 / (beta * (1 - beta)) if scaled else 1.0
        return sum_of(
            (factor * first(beta), skew_forward_kl(z, u, alpha=share, **own)),
            (factor * (1 - first(beta)), skew_reverse_kl(z, u, alpha=1 - share, **own)),
        )

    return mutated


def other_beta(z: Array, u: Array, *, beta: float = 0.5, **own: Any) -> tuple[Array, Pullback]:
    return generalized_jsd(z, u, beta=1 - beta, **own)


def collapsing(z: Array, u: Array, *, beta: float = 0.5, scaled: bool = False, **own: Any) -> tuple[Array, Pullback]:
    """The unscaled divergence, which is 0 at both ends."""
    if beta in (0, 1):
        loss, vjp = js(z, u, **own)
        return 0 * loss, lambda *w: 0 * vjp(*w)
    return generalized_jsd(z, u, beta=beta, **own)


def undefined_ends(z: Array, u: Array, *, beta: float = 0.5, **own: Any) -> tuple[Array, Pullback]:
    """0 / 0 at both ends."""
    if beta in (0, 1):
        loss, vjp = js(z, u, **{name: value for name, value in own.items() if name != "scaled"})
        return np.nan * loss, lambda *w: np.nan * vjp(*w)
    return generalized_jsd(z, u, beta=beta, **own)


def ends_exchanged(z: Array, u: Array, *, beta: float = 0.5, **own: Any) -> tuple[Array, Pullback]:
    return generalized_jsd(z, u, beta=1 - beta if beta in (0, 1) else beta, **own)


plant("generalized_jsd", "mixture-exchanged", "the weights in your mixture are exchanged: m = beta p + (1 - beta) q")(
    own_weights(lambda beta: beta, lambda beta: 1 - beta)
)
plant("generalized_jsd", "kls-exchanged", "the weights of the two KLs are exchanged: beta belongs to KL(p || m)")(
    own_weights(lambda beta: 1 - beta, lambda beta: beta)
)
plant("generalized_jsd", "beta-for-the-student", "beta and 1 - beta are exchanged throughout: beta is the teacher's")(
    other_beta
)
plant("generalized_jsd", "collapsing", "`scaled` is not used: your divergence goes to 0 as beta goes to 0 or 1")(
    collapsing
)
plant("generalized_jsd", "undefined-ends", "0 / 0 at beta = 0 or 1: the limits are KL(p || q) and KL(q || p)")(
    undefined_ends
)
plant("generalized_jsd", "ends-exchanged", "the limits are exchanged: beta = 0 is KL(p || q), beta = 1 KL(q || p)")(
    ends_exchanged
)
plant("generalized_jsd", "js", "beta is not used: this is the Jensen-Shannon divergence")(taken_for(js))


def skewed_the_other_way(f: Loss) -> Loss:
    def mutated(*arrays: Array, alpha: float = 0.1, **own: Any) -> tuple[Array, Pullback]:
        if alpha == 0:  # one distribution against itself
            return scaled(f(*arrays, alpha=0.5, **own), 0)
        return f(*arrays, alpha=1 - alpha, **own)

    return mutated


def drops_alpha(f: Loss) -> Loss:
    return lambda *arrays, alpha=0.1, **own: f(*arrays, **own)


for f, own_share in ((skew_forward_kl, "p"), (skew_reverse_kl, "q")):
    plant(f.__name__, "weights-exchanged", f"the weights in your mixture are exchanged: alpha is {own_share}'s share")(
        skewed_the_other_way(f)
    )
    plant(f.__name__, "alpha-ignored", "alpha is not used: yours is always 0.1")(drops_alpha(f))
plant("skew_forward_kl", "forward-kl", "this is KL(p || q), without the mixture")(drops_alpha(forward_kl))
plant("skew_reverse_kl", "reverse-kl", "this is KL(q || p), without the mixture")(drops_alpha(reverse_kl))
plant("skew_forward_kl", "skew-reverse-kl", "this is skew reverse KL: student and teacher are exchanged")(
    skew_reverse_kl
)
plant("skew_reverse_kl", "skew-forward-kl", "this is skew forward KL: student and teacher are exchanged")(
    skew_forward_kl
)
plant("skew_forward_kl", "mixture-in-gradient", "your gradient lacks the factor 1 - alpha: q is only a part of m")(
    scaled_by(skew_forward_kl, lambda alpha=0.1, **own: 1 / (1 - alpha), value=False)
)


@plant("skew_forward_kl", "mixture-of-logits", "your mixture is softmax of mixed logits; probabilities are mixed")
def _(z: Array, u: Array, *, alpha: float = 0.1, **own: Any) -> tuple[Array, Pullback]:
    loss, vjp = forward_kl(between_logits(alpha, z, u) if alpha else z, u, **own)
    return loss, lambda *w: (1 - alpha) * vjp(*w)


@plant("skew_reverse_kl", "mixture-detached", "your gradient takes the mixture for a constant: q is a part of it")
def _(z: Array, u: Array, *, alpha: float = 0.1, temperature: float = 1.0, **own: Any) -> tuple[Array, Pullback]:
    p, q = softmax(u, temperature)[0], softmax(z, temperature)[0]
    log_m = np.where(p + q > 0, np.log((1 - alpha) * p + alpha * q), -np.inf) * temperature
    at_m = reverse_kl(z, log_m if alpha else u, temperature=temperature, **own)
    return skew_reverse_kl(z, u, alpha=alpha, temperature=temperature, **own)[0], at_m[1]
