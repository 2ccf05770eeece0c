"""Losses on hidden states: the student's features beside the teacher's, or what each makes of its own tokens.

All take features of student and teacher (..., C) and (..., D) for the same tokens (...), and `mask` (...) bool, True
where a token counts. The teacher is a constant. `reduction`: mean over the counted tokens, sum, or none. ValueError:
shapes or types that do not fit, a mean over no token.
"""

import math
from collections.abc import Callable

import numpy as np

from minikd.backend import Array, at_least_float32, get_array_module
from minikd.losses.divergences import forward_kl
from minikd.losses.logits import cosine_logits, mse_logits
from minikd.losses.tokens import Pullback, check_reduction, counted_tokens, reduce_tokens
from minikd.nn import linear
from minikd.softmax import check_floating, working_dtype


def mse_hidden(
    student: Array,
    teacher: Array,
    projection: Array | None = None,
    *,
    mask: Array | None = None,
    reduction: str = "mean",
) -> tuple[Array, Pullback]:
    """The mean over the channels of (s - t)^2, with s = student projection.

    student (..., C), teacher (..., D), projection (C, D), none if C = D -> loss; vjp(w) -> dstudent, or dstudent and
    dprojection where there is one. Romero et al. 2015, eq. 3 (there half the sum); Jiao et al. 2020, eq. 8.
    """
    return _side_by_side(mse_logits, student, teacher, projection, mask, reduction)


def cosine_hidden(
    student: Array,
    teacher: Array,
    projection: Array | None = None,
    *,
    mask: Array | None = None,
    reduction: str = "mean",
) -> tuple[Array, Pullback]:
    """1 - cos(s, t) with s = student projection: 0 if they point the same way, 2 if opposite ways.

    Arrays and pullback as in `mse_hidden`. A vector of zeros has no direction: its cosine with anything counts as 0, so
    the loss is 1, and the gradient is 0. Sanh et al. 2019, section 2.
    """
    return _side_by_side(cosine_logits, student, teacher, projection, mask, reduction)


def attention_transfer(
    student: Array, teacher: Array, *, mask: Array | None = None, reduction: str = "mean"
) -> tuple[Array, Pullback]:
    """Where in the text the features are large: |Q_S / |Q_S| - Q_T / |Q_T||^2 / 2 with Q = the sum of squares by token.

    student (..., T, C), teacher (..., T, D), mask (..., T) -> loss; vjp(w) -> dstudent. There is one loss for each
    sequence, and the mean is over the sequences with a token that counts; only such tokens have a place in Q. Adapted
    from Zagoruyko & Komodakis 2017, activations with F_sum^2: the positions are tokens instead of pixels, and the
    distance is squared, as half of it is then 1 - cos(Q_S, Q_T) (`cosine_hidden`, also for zeros), smooth where the
    maps are equal.
    """
    _check_sequences(student, teacher)
    xp, dtype = get_array_module(student), working_dtype(student)
    counted = counted_tokens(student.shape, None, mask)
    sequences = None if counted is None else counted.any(axis=-1)
    x, y = (_without_uncounted(features, counted).astype(np.float64) for features in (student, teacher))
    loss, vjp_maps = cosine_hidden((x * x).sum(axis=-1), (y * y).sum(axis=-1), mask=sequences, reduction=reduction)

    def vjp(w: Array = 1.0) -> Array:
        return (2 * x * xp.expand_dims(vjp_maps(w), -1)).astype(student.dtype)

    return loss.astype(dtype), vjp


def relation_kd(
    student: Array, teacher: Array, *, n_head: int, mask: Array | None = None, reduction: str = "mean"
) -> tuple[Array, Pullback]:
    """How the tokens relate to each other: KL(R_T || R_S), R = softmax(X X^T / sqrt(size)) for each head of X.

    student (..., T, C) and teacher (..., T, D), the value vectors of all heads side by side, are split into `n_head`
    heads each, of sizes C / n_head and D / n_head; mask (..., T) -> loss in nats, the mean over the heads; vjp(w) ->
    dstudent. Tokens that do not count are no keys either. Value relations: Wang et al. 2020 (MiniLM), section 3.2;
    any relation heads, also for queries or keys: Wang et al. 2021 (MiniLMv2), section 3. Kept for the pullback: the
    student's relations.
    """
    check_reduction(reduction)
    _check_sequences(student, teacher)
    xp, counted = get_array_module(student), counted_tokens(student.shape, None, mask)
    scores, vjp_student = _relations("student", student, n_head, counted)
    wanted, _ = _relations("teacher", teacher, n_head, counted)
    queries = None if counted is None else xp.broadcast_to(counted[..., None, :], scores.shape[:-1])
    by_head, vjp_scores = forward_kl(scores, wanted, mask=queries, reduction="none")
    loss, share = reduce_tokens(by_head.mean(axis=-2), counted, reduction)

    def vjp(w: Array = 1.0) -> Array:
        w = xp.broadcast_to(xp.asarray(w, dtype=loss.dtype) * share, student.shape[:-1]) / n_head
        return vjp_student(vjp_scores(xp.broadcast_to(w[..., None, :], by_head.shape)))

    return loss, vjp


def _check_sequences(student: Array, teacher: Array) -> None:
    check_floating(student=student, teacher=teacher)
    if len(student.shape) < 2 or teacher.shape[:-1] != student.shape[:-1]:
        raise ValueError(f"student is {student.shape}, teacher {teacher.shape}; wanted (..., T, C) and (..., T, D)")


def _side_by_side(
    loss: Callable,
    student: Array,
    teacher: Array,
    projection: Array | None,
    mask: Array | None,
    reduction: str,
) -> tuple[Array, Pullback]:
    """`loss` between student projection and teacher."""
    check_floating(student=student, teacher=teacher)
    x, vjp_projection = student, None
    if projection is not None:
        x, vjp_projection = _project(student, projection, counted_tokens(student.shape, None, mask))
    if x.shape != teacher.shape:
        given = "" if projection is None else f", projection {projection.shape}"
        raise ValueError(f"student is {student.shape}{given}, teacher {teacher.shape}; wanted one shape")
    value, vjp = loss(x, teacher, mask=mask, reduction=reduction)
    return value, vjp if vjp_projection is None else lambda w=1.0: vjp_projection(vjp(w))


def _project(student: Array, projection: Array, counted: Array | None) -> tuple[Array, Callable]:
    check_floating(projection=projection)
    if len(projection.shape) != 2 or projection.shape[0] != student.shape[-1]:
        raise ValueError(
            f"projection is {projection.shape}; wanted ({student.shape[-1]}, D) for student {student.shape}"
        )
    x, weight = at_least_float32(_without_uncounted(student, counted)), at_least_float32(projection)
    no_bias = get_array_module(weight).zeros(weight.shape[1], dtype=weight.dtype)
    y, vjp_linear = linear(x, weight, no_bias)

    def vjp(dy: Array) -> tuple[Array, Array]:
        dstudent, dprojection, _ = vjp_linear(dy)
        return dstudent.astype(student.dtype, copy=False), dprojection.astype(projection.dtype, copy=False)

    return y, vjp


def _relations(name: str, x: Array, n_head: int, counted: Array | None) -> tuple[Array, Callable]:
    """X X^T / sqrt(size) for each head, -inf where the key does not count: (..., T, C) -> (..., H, T, T)."""
    *batch, t, width = x.shape
    if n_head < 1 or width % n_head:
        raise ValueError(f"n_head is {n_head}; wanted a divisor of the {name}'s width {width}")
    xp, size = get_array_module(x), width // n_head
    features = at_least_float32(_without_uncounted(x, counted))
    heads = xp.ascontiguousarray(features.reshape(*batch, t, n_head, size).swapaxes(-3, -2))
    scores = heads @ heads.swapaxes(-1, -2) / math.sqrt(size)
    if counted is not None:
        scores = xp.where(counted[..., None, None, :], scores, -np.inf)

    def vjp(dscores: Array) -> Array:
        # X stands on both sides of the product
        dheads = (dscores + dscores.swapaxes(-1, -2)) @ heads / math.sqrt(size)
        return dheads.swapaxes(-3, -2).reshape(x.shape).astype(x.dtype, copy=False)

    return scores, vjp


def _without_uncounted(x: Array, counted: Array | None) -> Array:
    """x (..., C) with zeros for the tokens that do not count: 0 times what they hold might not be 0."""
    return x if counted is None else get_array_module(x).where(counted[..., None], x, x.dtype.type(0))
