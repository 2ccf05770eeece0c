"""Mistakes in the other losses that take labels or tokens beside the logits."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minikd.backend import Array
from minikd.losses.decoupled import decoupled_kd
from minikd.losses.divergences import forward_kl, reverse_kl
from minikd.losses.hard_labels import cross_entropy
from minikd.losses.minillm import minillm_loss
from minikd.losses.tokens import Pullback
from minikd.oracle.mutants.arguments import EXCHANGES, LABELS, NO_MAX, SHIFTS, TEMPERATURES
from minikd.oracle.mutants.planting import Bed, through_exp, with_value
from minikd.oracle.mutants.tokens import MASKS, MEANS, OVER_CLASSES, SIGN, Loss, counted_by, plant_all, sum_of

MUTANTS = Bed()
plant = MUTANTS.plant


# Decoupled KD

plant_all(
    MUTANTS,
    (decoupled_kd,),
    [*SIGN, *MEANS, *OVER_CLASSES, *MASKS, *LABELS, *TEMPERATURES, *NO_MAX, *SHIFTS, *EXCHANGES],
)


def of_target(z: Array, u: Array, labels: Array, **own: Any) -> tuple[Array, Pullback]:
    """KL of label against rest."""
    return decoupled_kd(z, u, labels, alpha=1.0, beta=0.0, **own)


def of_all(z: Array, u: Array, labels: Array, *, mask: Array | None = None, **own: Any) -> tuple[Array, Pullback]:
    """KL(p || q) over the tokens with a label: that of label against rest + (1 - p_label) times that among the rest."""
    return forward_kl(z, u, mask=counted_by((labels,), mask, labels.shape), **own)


plant("decoupled_kd", "weights-exchanged", "alpha and beta are exchanged: alpha belongs to label against rest")(
    lambda *arrays, alpha=1.0, beta=8.0, **own: decoupled_kd(*arrays, alpha=beta, beta=alpha, **own)
)
plant("decoupled_kd", "alpha-ignored", "alpha is not used: yours is always 1")(
    lambda *arrays, alpha=1.0, **own: decoupled_kd(*arrays, **own)
)
plant("decoupled_kd", "beta-ignored", "beta is not used: yours is always 8")(
    lambda *arrays, beta=8.0, **own: decoupled_kd(*arrays, **own)
)
plant("decoupled_kd", "not-decoupled", "this is KL(p || q), without alpha and beta")(
    lambda *arrays, alpha=1.0, beta=8.0, **own: of_all(*arrays, **own)
)


@plant("decoupled_kd", "still-coupled", "the part among the rest is still multiplied by 1 - p_label: renormalise it")
def _(*arrays: Array, alpha: float = 1.0, beta: float = 8.0, **own: Any) -> tuple[Array, Pullback]:
    return sum_of((alpha - beta, of_target(*arrays, **own)), (beta, of_all(*arrays, **own)))


@plant("decoupled_kd", "label-among-the-rest", "the label is still among the rest: take it out before the second KL")
def _(*arrays: Array, alpha: float = 1.0, beta: float = 8.0, **own: Any) -> tuple[Array, Pullback]:
    return sum_of((alpha, of_target(*arrays, **own)), (beta, of_all(*arrays, **own)))


@plant("decoupled_kd", "label-set-to-0", "the label's logit becomes 0 among the rest: it has to be -inf")
def _(
    z: Array, u: Array, labels: Array, *, alpha: float = 1.0, beta: float = 8.0, **own: Any
) -> tuple[Array, Pullback]:
    onehot = np.arange(z.shape[-1]) == labels[..., None]
    rest, vjp_rest = of_all(np.where(onehot, 0, z), np.where(onehot, 0, u), labels, **own)
    return sum_of((alpha, of_target(z, u, labels, **own)), (beta, (rest, lambda *w: np.where(onehot, 0, vjp_rest(*w)))))


# MiniLLM

plant_all(
    MUTANTS,
    (minillm_loss,),
    [*SIGN, *MEANS, *MASKS, *LABELS, *SHIFTS, *EXCHANGES],
)


@plant("minillm_loss", "no-max-subtraction", "exp overflows: subtract the largest logit of each token first")
def _(z: Array, u: Array, tokens: Array, **own: Any) -> tuple[Array, Pullback]:
    z, u = (through_exp(x) for x in (z, u))
    said = np.maximum(tokens, 0)[..., None]
    impossible = np.take_along_axis(np.isneginf(z) | np.isneginf(u), said, axis=-1)
    return minillm_loss(np.where(impossible, np.nan, z), np.where(impossible, np.nan, u), tokens, **own)


def without(*names: str) -> Loss:
    """minillm_loss with some parameters at their defaults whatever is given."""

    def mutated(*arrays: Array, **own: Any) -> tuple[Array, Pullback]:
        return minillm_loss(*arrays, **{name: value for name, value in own.items() if name not in names})

    return mutated


plant("minillm_loss", "alpha-ignored", "alpha is not used: yours is always 0.2")(without("alpha"))
plant("minillm_loss", "no-importance-weight", "the importance weight is missing: the teacher drew tokens, too")(
    lambda *arrays, alpha=0.2, **own: minillm_loss(*arrays, alpha=0.0, **own)
)
plant("minillm_loss", "alpha-exchanged", "alpha and 1 - alpha are exchanged in the importance weight")(
    lambda *arrays, alpha=0.2, **own: minillm_loss(*arrays, alpha=1 - alpha if alpha else 0.0, **own)
)
plant("minillm_loss", "single-step-ignored", "`single_step` is not used: the exact KL of the step is always there")(
    without("single_step")
)
plant("minillm_loss", "length-normalize-ignored", "`length_normalize` is not used: rewards are always divided")(
    without("length_normalize")
)


def of_tokens(f: Callable[[Array, Array, Array, dict[str, Any]], tuple[Array, Pullback]]) -> Loss:
    """A loss in the place of minillm_loss that has none of its parameters."""

    def mutated(
        z: Array, u: Array, tokens: Array, *, mask: Array | None = None, reduction: str = "mean", **own: Any
    ) -> tuple[Array, Pullback]:
        common = {"mask": counted_by((tokens,), mask, tokens.shape), "reduction": reduction}
        return f(z, u, tokens, common)

    return mutated


plant("minillm_loss", "steps-alone", "this is the KL of each step alone: what follows from a token is missing")(
    of_tokens(lambda z, u, tokens, common: reverse_kl(z, u, **common))
)
plant("minillm_loss", "cross-entropy", "this is the cross-entropy of the sampled tokens: no reward weighs them")(
    of_tokens(lambda z, u, tokens, common: cross_entropy(z, tokens, **common))
)
plant(
    "minillm_loss",
    "gradient-of-steps-alone",
    "your gradient lacks the long part, with the reward to go",
)(with_value(minillm_loss, of_tokens(lambda z, u, tokens, common: reverse_kl(z, u, **common))))
