"""What a student minimises: soft labels from the teacher and hard labels from the text, mixed."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minikd.backend import Array, get_array_module, on_host
from minikd.losses.divergences import Divergence, forward_kl
from minikd.losses.hard_labels import cross_entropy
from minikd.losses.tokens import Pullback, check_pair, check_reduction, counted_tokens, reduce_tokens
from minikd.softmax import check_temperature, working_dtype

Alpha = float | Array | Callable[[Array, Array, Array], Array]
"""The weight of the soft labels: a number, one for each token (...), or a function of student_logits, teacher_logits
(..., V) and labels (...) that gives one for each token."""


def distillation_loss(
    student_logits: Array,
    teacher_logits: Array,
    labels: Array,
    *,
    alpha: Alpha = 0.5,
    temperature: float = 2.0,
    divergence: Divergence = forward_kl,
    mask: Array | None = None,
    reduction: str = "mean",
) -> tuple[Array, Pullback]:
    """alpha T^2 D_T(p, q) + (1 - alpha) cross_entropy(z, labels).

    Logits (..., V), labels and mask (...) -> loss in nats; vjp(w) -> dstudent. Tokens count, losses reduce and errors
    are raised as in `cross_entropy` and `forward_kl`; ValueError also if alpha is not in [0, 1]. `divergence` is any
    function with the signature of `forward_kl` (its own parameters bound by functools.partial). A token whose alpha is
    0 is not shown to it. T^2 keeps the gradient's size when T is changed. Hinton, Vinyals & Dean 2015, section 2.
    """
    check_reduction(reduction)
    check_temperature(temperature)
    check_pair(student_logits, teacher_logits)
    xp, dtype = get_array_module(student_logits), working_dtype(student_logits)
    counted = counted_tokens(student_logits.shape, labels, mask)
    if callable(alpha):
        alpha = alpha(student_logits, teacher_logits, labels)
    alpha = checked_alpha(alpha, labels.shape, dtype)

    terms = []  # a weight, and the losses with their pullback
    if not never(alpha):
        soft_mask = those_with(alpha, counted)
        soft = divergence(student_logits, teacher_logits, temperature=temperature, mask=soft_mask, reduction="none")
        terms.append((alpha * float(temperature) ** 2, soft))
    if not never(1 - alpha):
        hard = cross_entropy(student_logits, labels, mask=those_with(1 - alpha, counted), reduction="none")
        terms.append((1 - alpha, hard))
    loss, share = reduce_tokens(sum(weight * losses for weight, (losses, _) in terms), counted, reduction)

    def vjp(w: Array = 1.0) -> Array:
        w = xp.asarray(w, dtype=dtype) * share
        *others, dlogits = (pull(w * weight) for weight, (_, pull) in terms)
        for other in others:
            dlogits += other
        return dlogits

    return loss, vjp


def checked_alpha(alpha: Any, tokens: tuple[int, ...], dtype: Any) -> float | Array:
    """alpha as a float, or as an array (...) of `dtype`; ValueError unless it is in [0, 1] (on a GPU: unseen)."""
    shape = getattr(alpha, "shape", ())
    if shape not in ((), tokens):
        raise ValueError(f"alpha has shape {shape}; wanted a number, or one for each token {tokens}")
    if on_host(alpha):
        values = np.atleast_1d(alpha)
        wrong = values[~((values >= 0) & (values <= 1))]
        if wrong.size:
            raise ValueError(f"alpha is {wrong[0]}; wanted a number in [0, 1]")
    return alpha.astype(dtype) if shape else float(alpha)


def never(weight: Alpha) -> bool:
    """Whether a weight is 0 for all tokens, as far as can be told without waiting for a GPU."""
    return isinstance(weight, float) and weight == 0


def those_with(weight: float | Array, counted: Array | None) -> Array | None:
    """The counted tokens whose weight is above 0."""
    if isinstance(weight, float):
        return counted
    return weight > 0 if counted is None else counted & (weight > 0)
