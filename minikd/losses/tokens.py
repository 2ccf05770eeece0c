"""What all losses on logits share: which tokens count, and how their losses become one number and one gradient."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from minikd.backend import Array, get_array_module, on_host, row_blocks, unbuffered_rows
from minikd.softmax import check_floating, form, working_dtype

Pullback = Callable[..., Any]
Rows = Callable[..., tuple[Array, Array, Array]]
"""A loss on a block of tokens: logits (n, V), ... -> losses (n,), dlogits (n, V) / scale, scale (n,)."""

IGNORED_LABEL = -100
HOST_BLOCK_BYTES = 2 * 2**20  # in smaller ones two threads wait for each other's interpreter between the calls
DEVICE_BLOCK_BYTES = 64 * 2**20


def token_loss(
    rows: Rows, arrays: Sequence[Array], counted: Array | None, reduction: str, *, itemsize: int
) -> tuple[Array, Pullback]:
    """Evaluate `rows` block by block on those tokens that count, and reduce.

    arrays: the student's logits (..., V), then others (..., V) or (...); itemsize: bytes of a number in the middle of
    `rows`, for the size of its blocks. Losses and gradient of a token that does not count are 0, whatever its logits
    are. Kept for the pullback: the gradients that `rows` returned.
    """
    check_reduction(reduction)
    logits = arrays[0]
    xp, dtype, tokens = get_array_module(logits), working_dtype(logits), logits.shape[:-1]
    flat = [x.reshape(-1, *x.shape[len(tokens) :]) for x in arrays]
    picked = None  # the tokens that `rows` sees, where they are not all
    if counted is not None:
        counted = counted.reshape(-1)
        if on_host(counted):
            picked, flat = np.flatnonzero(counted), [x[counted] for x in flat]
        else:  # to pick them would mean to wait for their number
            flat = [xp.where(counted.reshape(-1, *[1] * (x.ndim - 1)), x, x.dtype.type(0)) for x in flat]

    with unbuffered_rows(logits.shape[-1]):
        pieces = [(block, *rows(*(x[block] for x in flat))) for block in blocks_of(flat[0], itemsize)]
    losses = xp.zeros(math.prod(tokens), dtype=dtype)
    for block, values, _, _ in pieces:
        losses[block if picked is None else picked[block]] = values
    if counted is not None and picked is None:
        losses = xp.where(counted, losses, dtype.type(0))
    loss, weight = reduce_tokens(losses.reshape(tokens), counted, reduction)

    def vjp(w: Array = 1.0) -> Array:
        w = xp.broadcast_to(xp.asarray(w, dtype=dtype) * weight, tokens).reshape(-1)
        if counted is not None:
            w = w[picked] if picked is not None else xp.where(counted, w, dtype.type(0))
        dlogits = xp.empty(flat[0].shape, dtype=logits.dtype)
        with unbuffered_rows(logits.shape[-1]):
            for block, _, gradient, scale in pieces:
                xp.multiply(gradient, (scale * w[block])[:, None], out=dlogits[block], casting="same_kind")
        if picked is not None:
            dpicked, dlogits = dlogits, xp.zeros((losses.size, logits.shape[-1]), dtype=logits.dtype)
            dlogits[picked] = dpicked
        return dlogits.reshape(logits.shape)

    return loss, vjp


def reduce_tokens(losses: Array, counted: Array | None, reduction: str) -> tuple[Array, Array]:
    """The reduced loss, and what the loss of a token that counts gives to it: 1 / their number for a mean, else 1.

    losses (...), 0 where a token does not count. ValueError: a mean over no token (on a GPU, NaN instead).
    """
    one = get_array_module(losses).ones((), dtype=losses.dtype)
    if reduction == "none":
        return losses, one
    total = losses.sum(dtype=np.float64)
    share = one if reduction == "sum" else mean_share(losses.size, counted, losses)
    return (total * share).astype(losses.dtype), share


def mean_share(n_tokens: int, counted: Array | None, like: Array) -> Array:
    """1 / the number of tokens that count, in the type of `like`; ValueError: none does (on a GPU: inf instead)."""
    count = n_tokens if counted is None else counted.sum()
    if (counted is None or on_host(counted)) and count == 0:
        raise ValueError("mean over no token: mask and labels leave none that counts; wanted at least one")
    return get_array_module(like).asarray(1 / count, dtype=like.dtype)


def blocks_of(logits: Array, itemsize: int) -> Iterable[slice]:
    """Slices over rows (n, V) of `itemsize` bytes a number: each fits a cache on a CPU, and a GPU's memory there."""
    row_bytes = itemsize * logits.shape[-1]
    if on_host(logits):
        return row_blocks(logits, row_bytes=row_bytes, block_bytes=HOST_BLOCK_BYTES)
    step = max(1, DEVICE_BLOCK_BYTES // row_bytes)
    return [slice(start, min(start + step, len(logits))) for start in range(0, len(logits), step)]


def counted_tokens(shape: tuple[int, ...], labels: Array | None, mask: Array | None) -> Array | None:
    """True for the tokens that count, by mask (...) and labels (...), or None if all do, for logits of shape (..., V).

    ValueError: another shape, a mask that is not boolean, labels that are not integers in [0, V) or -100. What only
    the values on a GPU could tell is not looked at.
    """
    tokens = shape[:-1]
    counted = None
    if mask is not None:
        if form(mask) != f"bool {tokens}":
            raise ValueError(f"mask is {form(mask)}; wanted bool {tokens}, True where a token counts")
        counted = mask
    if labels is not None:
        check_labels(labels, shape)
        labelled = labels != IGNORED_LABEL
        counted = labelled if counted is None else counted & labelled
    if counted is not None and on_host(counted) and counted.all():
        return None
    return counted


def check_labels(labels: Array, shape: tuple[int, ...]) -> None:
    """ValueError unless labels (...) are classes, or -100, of logits of shape (..., V)."""
    tokens, n_classes = shape[:-1], shape[-1]
    if not is_integer(labels) or labels.shape != tokens:
        raise ValueError(f"labels are {form(labels)}; wanted integers {tokens} for logits {shape}")
    if not on_host(labels):
        return
    wrong = ((labels < 0) | (labels >= n_classes)) & (labels != IGNORED_LABEL)
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"labels[{', '.join(map(str, index))}] is {labels[index]}; "
            f"wanted 0 to {n_classes - 1}, or {IGNORED_LABEL} for a token that does not count"
        )


def is_integer(x: Any) -> bool:
    """Whether `x` is an array of integers."""
    return hasattr(x, "dtype") and x.dtype.kind in "iu"


def check_pair(student_logits: Array, teacher_logits: Array) -> None:
    """ValueError unless student and teacher have logits of one shape (..., V)."""
    check_floating(student_logits=student_logits, teacher_logits=teacher_logits)
    student, teacher = student_logits.shape, teacher_logits.shape
    check_same_vocabulary(student[-1], teacher[-1])
    if student != teacher:
        raise ValueError(f"student_logits are {student}, teacher_logits {teacher}; wanted one shape")


def check_same_vocabulary(student: int, teacher: int) -> None:
    """ValueError unless student and teacher have equally many classes."""
    if student != teacher:
        raise ValueError(
            f"the student's vocabulary has {student} entries, the teacher's {teacher}; wanted the same vocabulary "
            "(universal_logit_distance compares two different ones)"
        )


def check_reduction(reduction: str) -> None:
    """ValueError unless `reduction` is one of mean, sum and none."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction is {reduction!r}; wanted 'mean', 'sum' or 'none'")
