"""Mistakes in the cross-entropy with hard labels, and in the output projection and a loss in one."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minikd.backend import Array
from minikd.losses.divergences import soft_cross_entropy
from minikd.losses.hard_labels import cross_entropy
from minikd.losses.linear import linear_cross_entropy, linear_distillation_loss
from minikd.losses.objective import distillation_loss
from minikd.losses.tokens import IGNORED_LABEL, Pullback
from minikd.oracle.mutants.arguments import LABELS, LOGARITHMS, NO_MAX
from minikd.oracle.mutants.planting import Bed, scaled, with_gradients
from minikd.oracle.mutants.tokens import (
    INFINITE_MASKS,
    MASKS,
    MEANS,
    SIGN,
    Loss,
    averaged,
    chosen,
    counted_by,
    plant_all,
)
from minikd.softmax import softmax

MUTANTS = Bed()
plant = MUTANTS.plant


# Cross-entropy

plant_all(
    MUTANTS,
    (cross_entropy,),
    [*SIGN, *MEANS, *MASKS, *INFINITE_MASKS, *LABELS, *NO_MAX, *LOGARITHMS],
)


@plant("cross_entropy", "softmax-twice", "you pass probabilities through softmax again: cross_entropy takes logits")
def _(logits: Array, labels: Array, **own: Any) -> tuple[Array, Pullback]:
    p, vjp_softmax = softmax(logits)
    loss, vjp = cross_entropy(p, labels, **own)
    return loss, lambda *w: vjp_softmax(vjp(*w))


@plant("cross_entropy", "base-2", "your logarithms are to the base 2 (bits); wanted natural ones (nats)")
def _(*arrays: Array, **own: Any) -> tuple[Array, Pullback]:
    return scaled(cross_entropy(*arrays, **own), 1 / math.log(2))


def smoothed_labels(logits: Array, labels: Array, smoothing: float) -> Array:
    """Logits of a teacher with 1 - smoothing at the label and the rest everywhere, where a logit is not -inf."""
    there = np.isfinite(logits)
    onehot = np.arange(logits.shape[-1]) == labels[..., None]
    p = (1 - smoothing) * onehot + smoothing * there / there.sum(axis=-1, keepdims=True)
    return np.log(np.where((labels != IGNORED_LABEL)[..., None], p, 1))


@plant("cross_entropy", "smoothed", "your labels are smoothed (a tenth of the mass goes to all classes)")
def _(logits: Array, labels: Array, *, mask: Array | None = None, **own: Any) -> tuple[Array, Pullback]:
    counted = counted_by((labels,), mask, labels.shape)
    return soft_cross_entropy(logits, smoothed_labels(logits, labels, 0.1), mask=counted, **own)


@plant("cross_entropy", "label-missing-in-gradient", "your gradient is softmax(z): subtract 1 at the label")
def _(logits: Array, labels: Array, **own: Any) -> tuple[Array, Pullback]:
    loss, vjp = cross_entropy(logits, labels, **own)
    onehot = np.arange(logits.shape[-1]) == labels[..., None]
    counted = counted_by((labels,), own.get("mask"), labels.shape)
    share = counted / (counted.sum() if own.get("reduction", "mean") == "mean" else 1)
    return loss, lambda w=1.0: vjp(w) + (w * share)[..., None] * onehot


# The fused form


def fused(loss: Callable[..., tuple[Array, Pullback]]) -> Loss:
    """A loss on the logits hidden weight^T, from one on logits (..., V), labels."""

    def mutated(hidden: Array, weight: Array, *others: Array, **own: Any) -> tuple[Array, Pullback]:
        loss_value, vjp = loss(hidden @ weight.T, *others, **own)

        def pullback(*w: Array) -> tuple[Array, Array]:
            dlogits = vjp(*w)
            rows = dlogits.reshape(-1, len(weight))
            return dlogits @ weight, rows.T @ hidden.reshape(len(rows), -1)

        return loss_value, pullback

    return mutated


def fused_pair(loss: Loss) -> Loss:
    """A loss on student's and teacher's logits, from their hidden states and weights."""

    def mutated(
        z_hidden: Array, z_weight: Array, u_hidden: Array, u_weight: Array, labels: Array, **own: Any
    ) -> tuple[Array, Pullback]:
        return fused(lambda z, *others, **own: loss(z, u_hidden @ u_weight.T, *others, **own))(
            z_hidden, z_weight, labels, **own
        )

    return mutated


def mean_of_blocks(counted: Array, classes: int) -> Array:
    """Each block of 128 tokens weighs the same, however many of it count."""
    flat = counted.reshape(-1)
    blocks = [flat[start : start + 128] for start in range(0, flat.size, 128)]
    weights = [block / max(1, block.sum()) / len(blocks) for block in blocks]
    return np.concatenate(weights).reshape(counted.shape)


COUNTING = chosen(MEANS, "sum-for-mean", "gradient-of-the-sum", "mean-over-all-positions", "mean-of-means")

for name, f, wrapped in (
    ("linear_cross_entropy", cross_entropy, fused),
    ("linear_distillation_loss", distillation_loss, fused_pair),
):
    for mistake, diagnosis, change in (*COUNTING, *MASKS, *LABELS):
        plant(name, mistake, diagnosis)(wrapped(change(f)))
right: Loss
for name, right in (
    ("linear_cross_entropy", linear_cross_entropy),
    ("linear_distillation_loss", linear_distillation_loss),
):
    plant(name, "weight-gradient-transposed", "dweight is transposed: the weight is stored (V, C)")(
        with_gradients(right, lambda dhidden, dweight: (dhidden, dweight.T))
    )
    plant(name, "weight-gradient-forgotten", "the gradient of the weight is missing (0)")(
        with_gradients(right, lambda dhidden, dweight: (dhidden, 0 * dweight))
    )
    plant(name, "hidden-gradient-forgotten", "the gradient of the hidden states is missing (0)")(
        with_gradients(right, lambda dhidden, dweight: (0 * dhidden, dweight))
    )
plant("linear_cross_entropy", "mean-of-blocks", "you average the means of blocks: weigh them by their counted tokens")(
    fused(averaged(mean_of_blocks)(cross_entropy))
)
