"""Mistakes in what all losses over tokens share: which tokens count, and how their losses are reduced."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from minikd.backend import Array
from minikd.losses.tokens import IGNORED_LABEL, Pullback, counted_tokens, token_loss
from minikd.oracle.mutants.planting import Bed, scaled, with_gradients, with_value

Loss = Callable[..., tuple[Array, Pullback]]
"""f(*arrays, mask=None, reduction="mean", **own) -> loss, vjp"""
Change = Callable[[Loss], Loss]
Mistake = tuple[str, str, Change]
"""A name, a diagnosis, and what makes the mistake of a right loss."""


def plant_all(bed: Bed, losses: Iterable[Loss], mistakes: Iterable[Mistake]) -> None:
    """Make each mistake in each loss."""
    mistakes = list(mistakes)
    for loss in losses:
        for name, diagnosis, change in mistakes:
            bed.plant(loss.__name__, name, diagnosis)(change(loss))


def loss_of_rows(rows: Callable[..., tuple[Array, Array]]) -> Loss:
    """A loss over tokens from rows(z, u, temperature, **own) -> losses (n,), gradients at z (n, V)."""

    def loss(
        student_logits: Array,
        teacher_logits: Array,
        *,
        temperature: float = 1.0,
        mask: Array | None = None,
        reduction: str = "mean",
        **own: Any,
    ) -> tuple[Array, Pullback]:
        def block(z: Array, u: Array) -> tuple[Array, Array, Array]:
            return *rows(z, u, temperature, **own), np.ones(len(z))

        counted = counted_tokens(student_logits.shape, None, mask)
        return token_loss(block, (student_logits, teacher_logits), counted, reduction, itemsize=8)

    return loss


def chosen(mistakes: Iterable[Mistake], *names: str) -> list[Mistake]:
    """Those of the given names."""
    return [mistake for mistake in mistakes if mistake[0] in names]


def sum_of(*terms: tuple[float, tuple[Array, Pullback]]) -> tuple[Array, Pullback]:
    """A weighted sum of losses."""
    loss = sum(weight * value for weight, (value, _) in terms)
    return loss, lambda w=1.0: sum(vjp(w * weight) for weight, (_, vjp) in terms)


def scaled_by(f: Loss, factor: Callable[..., float], **parts: bool) -> Loss:
    """f times a factor that its own parameters give."""
    return lambda *arrays, **own: scaled(f(*arrays, **own), factor(**own), **parts)


def taken_for(f: Loss, **parameters: Any) -> Loss:
    """f in another's place: parameters of the other that f does not have are dropped."""

    def mutated(z: Array, u: Array, **own: Any) -> tuple[Array, Pullback]:
        common = {name: own[name] for name in ("temperature", "mask", "reduction") if name in own}
        return f(z, u, **parameters, **common)

    return mutated


# Means


def averaged(weights: Callable[[Array, int], Array]) -> Change:
    """The mean is the sum of losses times weights(counted (...), V) over tokens."""

    def change(f: Loss) -> Loss:
        def mutated(
            *arrays: Array, mask: Array | None = None, reduction: str = "mean", **own: Any
        ) -> tuple[Array, Pullback]:
            losses, vjp = f(*arrays, mask=mask, reduction="none", **own)
            if reduction != "mean":
                return f(*arrays, mask=mask, reduction=reduction, **own)
            w = weights(counted_by(arrays, mask, losses.shape), arrays[0].shape[-1])
            return (w * losses).sum(), lambda c=1.0: vjp(c * w)

        return mutated

    return change


def counted_by(arrays: Iterable[Array], mask: Array | None, tokens: tuple[int, ...]) -> Array:
    """Which tokens count, by the mask and by whole numbers among the arrays, which are labels."""
    counted = np.ones(tokens, dtype=bool) if mask is None else mask
    for x in arrays:
        if x.dtype.kind == "i" and x.shape == tokens:
            counted = counted & (x != IGNORED_LABEL)
    return counted


def mean_of_means(counted: Array, classes: int) -> Array:
    counts = counted.sum(axis=-1, keepdims=True)
    return counted / np.maximum(counts, 1) / (counts.size if counted.ndim > 1 else 1)


def summed(f: Loss) -> Loss:
    return averaged(lambda counted, classes: counted * 1.0)(f)


def without_reduction(f: Loss) -> Loss:
    return lambda *arrays, reduction="mean", **own: f(*arrays, **own)


def gradient_of_sum(f: Loss) -> Loss:
    return with_value(f, summed(f))


def weight_ignored(f: Loss) -> Loss:
    def mutated(*arrays: Array, **own: Any) -> tuple[Array, Pullback]:
        loss, vjp = f(*arrays, **own)
        return loss, lambda w=1.0: vjp()

    return mutated


def sign_flipped(f: Loss) -> Loss:
    return with_gradients(f, lambda *gradients: negative(gradients))


def negative(gradients: tuple[Array, ...]) -> Any:
    return -gradients[0] if len(gradients) == 1 else tuple(-g for g in gradients)


SIGN: list[Mistake] = [("sign", "your gradient has the wrong sign", sign_flipped)]

MEANS: list[Mistake] = [
    ("sum-for-mean", "you return the sum over the tokens; the mean is wanted", summed),
    ("gradient-of-the-sum", "your value is the mean, your gradient that of the sum: divide it, too", gradient_of_sum),
    (
        "mean-over-sequences",
        "you divide by the number of sequences (the first axis, PyTorch's batchmean), not by that of counted tokens",
        averaged(lambda counted, classes: counted / len(counted)),
    ),
    (
        "mean-over-all-positions",
        "you divide by the number of all positions; only those count that the mask (or a label) leaves",
        averaged(lambda counted, classes: counted / counted.size),
    ),
    (
        "mean-of-means",
        "you average the means of the sequences (or chunks): weigh them by their counted tokens",
        averaged(mean_of_means),
    ),
    ("reduction-ignored", "`reduction` is not used: yours is always the mean", without_reduction),
    ("upstream-ignored", "your pullback ignores the weight that it is given", weight_ignored),
]

OVER_CLASSES: list[Mistake] = [
    (
        "mean-over-vocabulary",
        "you divide by the vocabulary's size, too (PyTorch's reduction='mean'); the mean is over tokens",
        averaged(lambda counted, classes: counted / counted.sum() / classes),
    )
]


# Masks


def masked_by(change_mask: Callable[[Array], Array | None]) -> Change:
    """The mask becomes another one."""

    def change(f: Loss) -> Loss:
        def mutated(*arrays: Array, mask: Array | None = None, **own: Any) -> tuple[Array, Pullback]:
            return f(*arrays, mask=None if mask is None else change_mask(mask), **own)

        return mutated

    return change


def gradient_without_mask(f: Loss) -> Loss:
    return with_value(f, masked_by(lambda mask: None)(f))


def mask_multiplied(f: Loss) -> Loss:
    """0 times a loss that is inf is NaN."""

    def mutated(
        *arrays: Array, mask: Array | None = None, reduction: str = "mean", **own: Any
    ) -> tuple[Array, Pullback]:
        if mask is None:
            return f(*arrays, reduction=reduction, **own)
        losses, vjp = f(*arrays, reduction="none", **own)
        counted = counted_by(arrays, mask, losses.shape)
        w = counted / (counted.sum() if reduction == "mean" else 1.0)
        product = w * losses
        return product if reduction == "none" else product.sum(), lambda c=1.0: vjp(c * w)

    return mutated


def from_first_counted(mask: Array) -> Array:
    return np.maximum.accumulate(mask, axis=-1)


def to_last_counted(mask: Array) -> Array:
    return np.maximum.accumulate(mask[..., ::-1], axis=-1)[..., ::-1]


MASKS: list[Mistake] = [
    ("mask-ignored", "the mask is not used: prompt and padding count", masked_by(lambda mask: None)),
    ("prompt-counted", "the prompt counts: the mask's first tokens are not left out", masked_by(to_last_counted)),
    ("padding-counted", "padding counts: the mask's last tokens are not left out", masked_by(from_first_counted)),
    ("mask-inverted", "the mask is inverted: True is where a token counts", masked_by(np.logical_not)),
    ("mask-missing-in-gradient", "the mask is not used in your gradient", gradient_without_mask),
]

INFINITE_MASKS: list[Mistake] = [
    (
        "mask-multiplied",
        "you multiply losses by the mask, and 0 times inf is NaN: leave out what does not count",
        mask_multiplied,
    ),
]
