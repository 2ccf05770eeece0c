"""Mistakes with teachers of a few entries a token."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minikd.backend import Array
from minikd.losses.sparse import sparse_kl, top_k_teacher
from minikd.losses.tokens import Pullback
from minikd.oracle.mutants.arguments import (
    gradient_without_temperature,
    student_without_temperature,
    temperature_inverted,
    times_squared_temperature,
)
from minikd.oracle.mutants.planting import Bed, scaled, through_exp, through_probabilities
from minikd.oracle.mutants.tokens import MASKS, MEANS, OVER_CLASSES, SIGN, Loss, plant_all
from minikd.softmax import log_softmax, softmax

MUTANTS = Bed()
plant = MUTANTS.plant


# The teacher


@plant("top_k_teacher", "renormalized", "your probabilities are renormalised to sum to 1: what is left over is lost")
def _(logits: Array, k: int, *, temperature: float = 1.0) -> tuple[Array, Array]:
    ids, logprobs = top_k_teacher(logits, k, temperature=temperature)
    return ids, log_softmax(logprobs)[0]


@plant("top_k_teacher", "temperature-ignored", "the temperature is not used")
def _(logits: Array, k: int, *, temperature: float = 1.0) -> tuple[Array, Array]:
    return top_k_teacher(logits, k)


@plant("top_k_teacher", "temperature-after-softmax", "you divide log-probabilities by T: that is no distribution")
def _(logits: Array, k: int, *, temperature: float = 1.0) -> tuple[Array, Array]:
    ids, logprobs = top_k_teacher(logits, k)
    return ids, logprobs / temperature


@plant("top_k_teacher", "probabilities", "you return probabilities; their logarithms are wanted")
def _(logits: Array, k: int, *, temperature: float = 1.0) -> tuple[Array, Array]:
    ids, logprobs = top_k_teacher(logits, k, temperature=temperature)
    return ids, np.exp(logprobs)


@plant("top_k_teacher", "logits", "you return logits; log-probabilities of the full softmax are wanted")
def _(logits: Array, k: int, *, temperature: float = 1.0) -> tuple[Array, Array]:
    ids, _ = top_k_teacher(logits, k, temperature=temperature)
    return ids, np.take_along_axis(logits, ids, axis=-1) / temperature


@plant("top_k_teacher", "smallest-first", "your order is upwards; the largest comes first")
def _(logits: Array, k: int, *, temperature: float = 1.0) -> tuple[Array, Array]:
    ids, logprobs = top_k_teacher(logits, k, temperature=temperature)
    return ids[..., ::-1], logprobs[..., ::-1]


@plant("top_k_teacher", "least-likely", "you take the k least likely entries")
def _(logits: Array, k: int, *, temperature: float = 1.0) -> tuple[Array, Array]:
    ids, _ = top_k_teacher(-logits, k, temperature=temperature)
    return ids, np.take_along_axis(log_softmax(logits, temperature)[0], ids, axis=-1)


# The loss

plant_all(MUTANTS, (sparse_kl,), [*SIGN, *MEANS, *OVER_CLASSES, *MASKS])


def of_student(change: Callable[[Array, float], Array]) -> Loss:
    """sparse_kl with the student's logits changed at the given temperature."""

    def mutated(z: Array, *teacher: Array, temperature: float = 1.0, **own: Any) -> tuple[Array, Pullback]:
        return sparse_kl(change(z, temperature), *teacher, temperature=temperature, **own)

    return mutated


plant("sparse_kl", "no-max-subtraction", "exp overflows: subtract the largest logit of each token first")(
    of_student(through_exp)
)
plant("sparse_kl", "log-of-softmax", "you take the logarithm of a softmax, which is -inf where it underflows")(
    of_student(through_probabilities)
)
for name, diagnosis, change in (
    ("temperature-multiplied", "you multiply the logits by T; they are divided by T", temperature_inverted),
    ("temperature-ignored", "the student's logits are not divided by T", student_without_temperature),
    ("no-temperature-in-gradient", "your gradient lacks the factor 1/T", gradient_without_temperature),
    ("temperature-squared", "you multiply by T^2: that belongs to the objective", times_squared_temperature),
):
    plant("sparse_kl", name, diagnosis)(change(sparse_kl))


def always(tail: str) -> Loss:
    return lambda *arrays, tail="bucket", always=tail, **own: sparse_kl(*arrays, tail=always, **own)


plant("sparse_kl", "always-bucket", "`tail` is not used: what is left over is always one more class")(always("bucket"))
plant("sparse_kl", "always-truncated", "you sum over the ids alone: that is no KL and can be negative")(always("zero"))
plant("sparse_kl", "always-renormalized", "`tail` is not used: both sides are always restricted and renormalised")(
    always("renormalize")
)


def renormalized(tails: tuple[str, ...]) -> Loss:
    """For these tails: the teacher sums to 1 on the ids, the student on the whole vocabulary."""

    def mutated(z: Array, ids: Array, logprobs: Array, *, tail: str = "bucket", **own: Any) -> tuple[Array, Pullback]:
        if tail not in tails:
            return sparse_kl(z, ids, logprobs, tail=tail, **own)
        return sparse_kl(z, ids, log_softmax(logprobs)[0], tail="zero", **own)

    return mutated


plant("sparse_kl", "teacher-renormalized", "the teacher is renormalised and the student is not: both have to be")(
    renormalized(("renormalize",))
)
plant("sparse_kl", "renormalized-for-bucket", "the teacher is renormalised: what is left over is lost")(
    renormalized(("bucket",))
)


@plant("sparse_kl", "clamped", "you clamp the loss at 0, which also kills its gradient there")
def _(z: Array, *teacher: Array, reduction: str = "mean", **own: Any) -> tuple[Array, Pullback]:
    losses, vjp = sparse_kl(z, *teacher, reduction="none", **own)
    positive = losses > 0
    counted = own.get("mask", np.ones(losses.shape, dtype=bool))
    share = positive / counted.sum() if reduction == "mean" else positive * 1.0
    clamped = np.maximum(losses, 0) if reduction == "none" else np.where(positive, share * losses, 0).sum()
    return clamped, lambda w=1.0: vjp(w * share)


@plant("sparse_kl", "first-entries", "you take the student's first k entries; the teacher's ids say which")
def _(z: Array, ids: Array, *others: Array, **own: Any) -> tuple[Array, Pullback]:
    return sparse_kl(z, np.broadcast_to(np.arange(ids.shape[-1]), ids.shape), *others, **own)


@plant("sparse_kl", "gradient-of-full-mass", "with tail='zero' your gradient is q - p; it is sum(p) q - p")
def _(
    z: Array, ids: Array, logprobs: Array, *, tail: str = "bucket", temperature: float = 1.0, **own: Any
) -> tuple[Array, Pullback]:
    loss, vjp = sparse_kl(z, ids, logprobs, tail=tail, temperature=temperature, **own)
    if tail != "zero":
        return loss, vjp
    missing = softmax(z, temperature)[0] * (1 - np.exp(logprobs).sum(axis=-1, keepdims=True)) / temperature
    share = 1 / (z.size // z.shape[-1])  # such cases have no mask, and are means
    return loss, lambda w=1.0: vjp(w) + w * share * missing


plant("sparse_kl", "mean-over-ids", "you divide by k: the terms of the ids are summed")(
    lambda z, ids, *others, **own: scaled(sparse_kl(z, ids, *others, **own), 1 / ids.shape[-1])
)
