"""Mistakes in the losses on hidden states."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minikd.backend import Array
from minikd.losses.hidden import attention_transfer, cosine_hidden, mse_hidden, relation_kd
from minikd.losses.tokens import Pullback
from minikd.oracle.mutants.planting import Bed, scaled, with_gradients, with_value
from minikd.oracle.mutants.tokens import MASKS, MEANS, SIGN, Loss, chosen, plant_all

MUTANTS = Bed()
plant = MUTANTS.plant

BY_SEQUENCE = chosen(MEANS, "reduction-ignored", "upstream-ignored")

plant_all(MUTANTS, (cosine_hidden, relation_kd), [*SIGN, *MEANS, *MASKS])
plant_all(MUTANTS, (attention_transfer,), [*SIGN, *BY_SEQUENCE, *MASKS])
plant_all(MUTANTS, (mse_hidden,), [*SIGN, *BY_SEQUENCE, *MASKS])


# Mean square


def times(f: Loss, factor: Callable[..., float]) -> Loss:
    """f with value and gradients times factor(*arrays)."""

    def mutated(*arrays: Array, **own: Any) -> tuple[Array, Pullback]:
        loss, vjp = f(*arrays, **own)
        c = factor(*arrays)
        return c * loss, lambda *w: tuple(c * g for g in vjp(*w))

    return mutated


plant("mse_hidden", "sum-over-channels", "you sum over the channels; their mean is wanted")(
    times(mse_hidden, lambda student, teacher, projection: teacher.shape[-1])
)
plant("mse_hidden", "mean-over-student-channels", "you divide by the student's width, not the teacher's")(
    times(mse_hidden, lambda student, teacher, projection: teacher.shape[-1] / student.shape[-1])
)
plant("mse_hidden", "halved", "yours is half of the mean square")(times(mse_hidden, lambda *arrays: 0.5))
plant("mse_hidden", "factor-2-missing-in-gradient", "your gradients lack the factor 2")(
    with_gradients(mse_hidden, lambda dstudent, dprojection: (dstudent / 2, dprojection / 2))
)
plant("mse_hidden", "projection-gradient-forgotten", "the gradient of the projection is missing (0)")(
    with_gradients(mse_hidden, lambda dstudent, dprojection: (dstudent, 0 * dprojection))
)
plant("mse_hidden", "student-gradient-forgotten", "the gradient of the student's states is missing (0)")(
    with_gradients(mse_hidden, lambda dstudent, dprojection: (0 * dstudent, dprojection))
)


@plant("mse_hidden", "unit-vectors", "you scale all vectors to length 1 first: here their lengths count")
def _(student: Array, teacher: Array, projection: Array, **own: Any) -> tuple[Array, Pullback]:
    # |a - b|^2 = 2 (1 - cos) for unit vectors
    return times(cosine_hidden, lambda student, teacher, projection: 2 / teacher.shape[-1])(
        student, teacher, projection, **own
    )


# Cosine

plant("cosine_hidden", "arguments-exchanged", "your gradient is that at the teacher's states")(
    lambda student, teacher, **own: cosine_hidden(teacher, student, **own)
)


@plant("cosine_hidden", "similarity", "this is the cosine itself; the distance is 1 - cos")
def _(student: Array, teacher: Array, *, reduction: str = "mean", **own: Any) -> tuple[Array, Pullback]:
    loss, vjp = cosine_hidden(student, teacher, reduction=reduction, **own)
    counted = own.get("mask", np.ones(student.shape[:-1], dtype=bool))
    one = {"mean": 1.0, "sum": counted.sum(), "none": counted * 1.0}[reduction]
    return one - loss, lambda *w: -vjp(*w)


@plant("cosine_hidden", "unit-length-missing", "your gradient lacks 1 / |student|: longer vectors turn more slowly")
def _(student: Array, teacher: Array, **own: Any) -> tuple[Array, Pullback]:
    loss, vjp = cosine_hidden(student, teacher, **own)
    return loss, lambda *w: vjp(*w) * np.linalg.norm(student, axis=-1, keepdims=True)


@plant("cosine_hidden", "zero-is-nan", "a vector of zeros is divided by its length 0: its loss is 1, its gradient 0")
def _(student: Array, teacher: Array, **own: Any) -> tuple[Array, Pullback]:
    zero = [~x.any(axis=-1, keepdims=True) for x in (student, teacher)]
    return cosine_hidden(*(np.where(zero[0] | zero[1], np.nan, x) for x in (student, teacher)), **own)


@plant("cosine_hidden", "centred", "you take the mean out of each vector: this is a correlation")
def _(student: Array, teacher: Array, **own: Any) -> tuple[Array, Pullback]:
    def without_mean(x: Array) -> Array:
        return x - x.mean(axis=-1, keepdims=True)

    loss, vjp = cosine_hidden(without_mean(student), without_mean(teacher), **own)
    return loss, lambda *w: without_mean(vjp(*w))


# Attention transfer

plant("attention_transfer", "not-halved", "yours is the whole squared distance; half of it is wanted")(
    lambda *arrays, **own: scaled(attention_transfer(*arrays, **own), 2)
)
plant("attention_transfer", "factor-2-missing-in-gradient", "your gradient lacks the factor 2 of the squares")(
    lambda *arrays, **own: scaled(attention_transfer(*arrays, **own), 0.5, value=False)
)


@plant("attention_transfer", "absolute-values", "your maps are sums of absolute values; squares are summed")
def _(student: Array, teacher: Array, **own: Any) -> tuple[Array, Pullback]:
    # as squares of roots: |x| = sqrt(|x|)^2
    loss, vjp = attention_transfer(np.sqrt(abs(student)), np.sqrt(abs(teacher)), **own)
    slope = np.sign(student) / (2 * np.sqrt(np.where(student == 0, 1, abs(student))))
    return loss, lambda *w: vjp(*w) * slope


@plant("attention_transfer", "not-normalized", "your maps are not scaled to length 1: here only their shape counts")
def _(student: Array, teacher: Array, *, mask: Array | None = None, reduction: str = "mean") -> tuple[Array, Pullback]:
    counted = np.ones(student.shape[:-1], dtype=bool) if mask is None else mask
    maps, wanted = ((x * x).sum(axis=-1) * counted for x in (student, teacher))
    sequences = counted.any(axis=-1)
    share = sequences / sequences.sum() if reduction == "mean" else sequences * 1.0
    losses = ((maps - wanted) ** 2).sum(axis=-1) / 2
    dmaps = (maps - wanted) * counted

    def vjp(w: Array = 1.0) -> Array:
        return 2 * student * (dmaps * (w * share)[..., None])[..., None]

    return share * losses if reduction == "none" else (share * losses).sum(), vjp


plant("attention_transfer", "arguments-exchanged", "student and teacher are exchanged: the gradient is the teacher's")(
    lambda student, teacher, **own: attention_transfer(teacher, student, **own)
)


# Relations

plant("relation_kd", "heads-summed", "you sum over the heads; their mean is wanted")(
    lambda *arrays, n_head, **own: scaled(relation_kd(*arrays, n_head=n_head, **own), n_head)
)
plant("relation_kd", "one-head", "n_head is not used: yours is one relation of all channels")(
    lambda *arrays, n_head, **own: relation_kd(*arrays, n_head=1, **own)
)


def lengthened(factor: Callable[[int], float]) -> Loss:
    """Relations whose scores are multiplied by factor(size of a head), on both sides."""

    def mutated(student: Array, teacher: Array, *, n_head: int, **own: Any) -> tuple[Array, Pullback]:
        c, d = (np.sqrt(factor(x.shape[-1] // n_head)) for x in (student, teacher))
        loss, vjp = relation_kd(c * student, d * teacher, n_head=n_head, **own)
        return loss, lambda *w: c * vjp(*w)

    return mutated


plant("relation_kd", "not-scaled", "the scores are not divided by the root of a head's size")(lengthened(np.sqrt))
plant("relation_kd", "scaled-by-size", "the scores are divided by a head's size; its root is wanted")(
    lengthened(lambda size: 1 / np.sqrt(size))
)
plant("relation_kd", "half-of-the-gradient", "your gradient is halved: each state is a query and a key")(
    lambda *arrays, **own: scaled(relation_kd(*arrays, **own), 0.5, value=False)
)


@plant("relation_kd", "keys-not-masked", "tokens that do not count are still keys: only their queries are left out")
def _(
    student: Array, teacher: Array, *, n_head: int, mask: Array | None = None, reduction: str = "mean"
) -> tuple[Array, Pullback]:
    counted = np.ones(student.shape[:-1], dtype=bool) if mask is None else mask
    losses, vjp = relation_kd(student, teacher, n_head=n_head, reduction="none")
    share = counted / counted.sum() if reduction == "mean" else counted * 1.0
    return share * losses if reduction == "none" else (share * losses).sum(), lambda w=1.0: vjp(w * share)


plant("relation_kd", "gradient-at-the-teacher", "your gradient is that at the teacher's states")(
    with_value(relation_kd, lambda student, teacher, **own: relation_kd(teacher, student, **own))
)
