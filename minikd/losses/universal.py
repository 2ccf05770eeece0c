"""A teacher with another vocabulary: only how the probabilities fall off, from the largest down, can be compared."""

from minikd.backend import Array, at_least_float32, get_array_module
from minikd.losses.divergences import total_variation
from minikd.losses.tokens import Pullback
from minikd.softmax import check_floating


def universal_logit_distance(
    student_logits: Array,
    teacher_logits: Array,
    *,
    temperature: float = 1.0,
    mask: Array | None = None,
    reduction: str = "mean",
) -> tuple[Array, Pullback]:
    """sum |sorted p - sorted q|, the shorter one filled up with zeros: twice the total variation of the sorted.

    student_logits (..., V), teacher_logits (..., W) -> loss, at most 2; vjp(w) -> dstudent. 0 also where p is a
    permutation of q; of equal logits, the first counts as the largest. Masks, reductions and errors as in
    `total_variation`, but V and W may differ.
    Boizard et al. 2024 (ULD).
    """
    check_floating(student_logits=student_logits, teacher_logits=teacher_logits)
    xp = get_array_module(student_logits)
    if teacher_logits.shape[:-1] != student_logits.shape[:-1]:
        raise ValueError(
            f"student_logits are {student_logits.shape}, teacher_logits {teacher_logits.shape}; "
            "wanted the same tokens (...) before the vocabulary"
        )
    z, u = at_least_float32(student_logits), at_least_float32(teacher_logits)
    order = xp.argsort(-z, axis=-1, kind="stable")
    sorted_z, sorted_u = xp.take_along_axis(z, order, axis=-1), -xp.sort(-u, axis=-1)
    n_classes = max(z.shape[-1], u.shape[-1])
    loss, sorted_vjp = total_variation(
        _filled_up(sorted_z, n_classes),
        _filled_up(sorted_u, n_classes),
        temperature=temperature,
        mask=mask,
        reduction=reduction,
    )

    def vjp(w: Array = 1.0) -> Array:
        dlogits = xp.empty(z.shape, dtype=student_logits.dtype)
        dsorted = 2 * sorted_vjp(w)[..., : z.shape[-1]]
        xp.put_along_axis(dlogits, order, dsorted.astype(student_logits.dtype, copy=False), axis=-1)
        return dlogits

    return 2 * loss, vjp


def _filled_up(logits: Array, n_classes: int) -> Array:
    """Logits (..., V) with -inf behind them, up to n_classes."""
    xp = get_array_module(logits)
    missing = xp.full((*logits.shape[:-1], n_classes - logits.shape[-1]), -xp.inf, dtype=logits.dtype)
    return xp.concatenate((logits, missing), axis=-1)
