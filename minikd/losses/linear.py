"""The output projection and a loss on its logits in one, block by block: all the logits are never there at once.

A block of tokens is projected, its loss and the gradient of its logits are taken by the very functions of the plain
form, and that gradient goes back through the projection before the next block comes. The pullback only scales.
"""

from collections.abc import Callable, Iterator

import numpy as np

from minikd.backend import Array, get_array_module, on_host
from minikd.losses.divergences import Divergence, forward_kl
from minikd.losses.hard_labels import cross_entropy
from minikd.losses.objective import Alpha, distillation_loss
from minikd.losses.tokens import Pullback, check_same_vocabulary, counted_tokens, mean_share

BLOCK_TOKENS = 256
DEVICE_BLOCK_BYTES = 256 * 2**20


def linear_cross_entropy(
    hidden: Array,
    weight: Array,
    labels: Array,
    *,
    mask: Array | None = None,
    reduction: str = "mean",
    gradient: bool = True,
) -> tuple[Array, Pullback | None]:
    """`cross_entropy` of the logits hidden weight^T.

    hidden (..., C), weight (V, C), labels and mask (...) -> loss in nats; vjp(w) -> dhidden, dweight. `reduction` is
    mean or sum. With `gradient=False` the loss alone, at a third of the work, and None for the pullback.
    """
    counted = _counted(hidden, weight, labels, mask)

    def block_loss(logits: Array, rows: slice, mask: Array | None) -> tuple[Array, Pullback]:
        return cross_entropy(logits, flat_labels[rows], mask=mask, reduction="sum")

    flat_labels = labels.reshape(-1)
    return _over_blocks(block_loss, hidden, weight, counted, reduction, gradient)


def linear_distillation_loss(
    student_hidden: Array,
    student_weight: Array,
    teacher_hidden: Array,
    teacher_weight: Array,
    labels: Array,
    *,
    alpha: Alpha = 0.5,
    temperature: float = 2.0,
    divergence: Divergence = forward_kl,
    mask: Array | None = None,
    reduction: str = "mean",
    gradient: bool = True,
) -> tuple[Array, Pullback | None]:
    """`distillation_loss` of the logits student_hidden student_weight^T and teacher_hidden teacher_weight^T.

    student_hidden (..., C), student_weight (V, C), teacher_hidden (..., D), teacher_weight (V, D), labels and mask
    (...) -> loss in nats; vjp(w) -> dstudent_hidden, dstudent_weight. `alpha` as a function sees blocks of tokens:
    logits (n, V) and labels (n,). `reduction` and `gradient` as in `linear_cross_entropy`.
    """
    check_same_vocabulary(len(student_weight), len(teacher_weight))
    if teacher_hidden.shape[:-1] != student_hidden.shape[:-1]:
        raise ValueError(
            f"student_hidden is {student_hidden.shape}, teacher_hidden {teacher_hidden.shape}; "
            "wanted the same tokens (...) before the channels"
        )
    if isinstance(alpha, (int, float)) and alpha == 0:  # no use for the teacher's logits
        return linear_cross_entropy(
            student_hidden, student_weight, labels, mask=mask, reduction=reduction, gradient=gradient
        )
    counted = _counted(student_hidden, student_weight, labels, mask)
    flat_teacher, flat_labels = teacher_hidden.reshape(-1, teacher_hidden.shape[-1]), labels.reshape(-1)
    per_token = None if callable(alpha) or not getattr(alpha, "shape", ()) else alpha.reshape(-1)

    def block_loss(logits: Array, rows: slice, mask: Array | None) -> tuple[Array, Pullback]:
        return distillation_loss(
            logits,
            flat_teacher[rows] @ teacher_weight.T,
            flat_labels[rows],
            alpha=alpha if per_token is None else per_token[rows],
            temperature=temperature,
            divergence=divergence,
            mask=mask,
            reduction="sum",
        )

    return _over_blocks(block_loss, student_hidden, student_weight, counted, reduction, gradient)


def _over_blocks(
    block_loss: Callable[[Array, slice, Array | None], tuple[Array, Pullback]],
    hidden: Array,
    weight: Array,
    counted: Array | None,
    reduction: str,
    gradient: bool,
) -> tuple[Array, Pullback | None]:
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}; wanted 'mean' or 'sum'")
    xp = get_array_module(hidden)
    x = hidden.reshape(-1, hidden.shape[-1])
    share = mean_share(counted, x[:, 0]) if reduction == "mean" else xp.ones((), dtype=hidden.dtype)
    counted = None if counted is None else counted.reshape(-1)
    total = xp.zeros((), dtype=np.float64)
    if gradient:
        dx, dweight = xp.empty_like(x), xp.zeros_like(weight)
    for rows in _token_blocks(len(x), weight):
        loss, vjp = block_loss(x[rows] @ weight.T, rows, None if counted is None else counted[rows])
        total += loss
        if gradient:
            dlogits = vjp()
            xp.matmul(dlogits, weight, out=dx[rows])
            dweight += dlogits.T @ x[rows]
    loss = (total * share).astype(hidden.dtype)
    if not gradient:
        return loss, None

    def pullback(w: Array = 1.0) -> tuple[Array, Array]:
        w = xp.asarray(w, dtype=hidden.dtype) * share
        return (dx * w).reshape(hidden.shape), dweight * w

    return loss, pullback


def _token_blocks(n_tokens: int, weight: Array) -> Iterator[slice]:
    """Slices of tokens: enough for an efficient matrix product, and on a CPU few enough for a cache."""
    step = BLOCK_TOKENS if on_host(weight) else max(1, DEVICE_BLOCK_BYTES // (len(weight) * weight.itemsize))
    for start in range(0, n_tokens, step):
        yield slice(start, min(start + step, n_tokens))


def _counted(hidden: Array, weight: Array, labels: Array, mask: Array | None) -> Array | None:
    if hidden.shape[-1:] != weight.shape[1:]:
        raise ValueError(f"hidden is {hidden.shape}, weight {weight.shape}; wanted (..., C) and (V, C)")
    return counted_tokens((*hidden.shape[:-1], len(weight)), labels, mask)
