"""Distances between the logits themselves: no softmax, no temperature, and a shift of all logits is seen.

Student logits and teacher logits (..., V); mask (...) bool, True where a token counts -> loss; vjp(w) -> dstudent. The
teacher is a constant. `reduction`: mean over the counted tokens, sum, or none (loss and w are then (...)). ValueError:
shapes or vocabularies that differ, logits of other types than `softmax` takes, a mean over no token.
"""

import numpy as np

from minikd.backend import Array, get_array_module, row_dot
from minikd.losses.tokens import Pullback, Rows, check_pair, counted_tokens, token_loss
from minikd.losses.twofold import two_product
from minikd.softmax import take, working_dtype


def mse_logits(
    student_logits: Array, teacher_logits: Array, *, mask: Array | None = None, reduction: str = "mean"
) -> tuple[Array, Pullback]:
    """sum((z - u)^2) / V.  dD/dz = 2 (z - u) / V.

    An entry that is -inf on both sides is 0 in the sum; on one side, value and gradient are infinite.
    Ba & Caruana 2014 and Kim et al. 2021, who do not divide by V (the former take half).
    """
    return _on_logits(_mse_rows, student_logits, teacher_logits, mask, reduction)


def cosine_logits(
    student_logits: Array, teacher_logits: Array, *, mask: Array | None = None, reduction: str = "mean"
) -> tuple[Array, Pullback]:
    """1 - cos(z, u), between 0 and 2.  dD/dz = -(the part of u at right angles to z) / (|z| |u|).

    1, with gradient 0, where one of them is 0 throughout. -inf on both sides takes no part; on one side it gives that
    side the limit's direction, which no finite step changes: gradient 0.
    """
    return _on_logits(_cosine_rows, student_logits, teacher_logits, mask, reduction)


def _on_logits(rows: Rows, z: Array, u: Array, mask: Array | None, reduction: str) -> tuple[Array, Pullback]:
    check_pair(z, u)
    dtype = working_dtype(z)

    def evaluate(z: Array, u: Array) -> tuple[Array, Array, Array]:
        with np.errstate(all="ignore"):  # what is -inf on both sides comes as inf - inf
            results = rows(z.astype(np.float64, copy=False), u.astype(np.float64, copy=False))
            values, gradient, scale = (x.astype(dtype, copy=False) for x in results)
        return values, gradient, scale

    return token_loss(evaluate, (z, u), counted_tokens(z.shape, None, mask), reduction, itemsize=8)


def _mse_rows(z: Array, u: Array) -> tuple[Array, Array, Array]:
    xp, n_classes = get_array_module(z), z.shape[-1]
    gap = xp.where((z == -np.inf) & (u == -np.inf), 0.0, z - u)
    return row_dot(gap, gap) / n_classes, gap * (2 / n_classes), xp.ones(len(z))


def _cosine_rows(z: Array, u: Array) -> tuple[Array, Array, Array]:
    xp = get_array_module(z)
    both_empty = (z == -np.inf) & (u == -np.inf)
    (z, size_z), (u, _) = (_direction(xp.where(both_empty, 0.0, x)) for x in (z, u))
    squared_z, squared_u = row_dot(z, z), row_dot(u, u)
    norms = xp.sqrt(squared_z * squared_u)
    defined = norms > 0
    norms = xp.where(defined, norms, 1.0)
    cosine = row_dot(z, u) / norms
    across = _part_across(u, z)
    # 1 - cos = sin^2 / (1 + cos), and sin = |across| / |u|
    sine = xp.sqrt(row_dot(across, across) / xp.where(defined, squared_u, 1.0))
    values = xp.where(defined & (cosine > 0), sine * sine / (1 + cosine), 1 - cosine)
    steepness = xp.where(defined & (size_z < np.inf), 1 / (norms * size_z), 0.0)
    return values, -across * steepness[:, None], xp.ones(len(z))


def _direction(z: Array) -> tuple[Array, Array]:
    """Rows of z over a power of two near the largest entry, and that power; with -inf in it, the limit, and inf."""
    xp = get_array_module(z)
    infinite = (z == -np.inf).any(axis=-1)
    z = xp.where(infinite[:, None], xp.where(z == -np.inf, -1.0, 0.0 * z), z)
    largest = abs(z).max(axis=-1)
    size = xp.exp2(xp.floor(xp.log2(xp.where(largest > 0, largest, 1.0))))
    return z / size[:, None], xp.where(infinite, np.inf, size)


def _part_across(u: Array, z: Array) -> Array:
    """The part of each row of u at right angles to that of z, also where it is small beside u; 0 where z is 0.

    With k where |z| is largest, w = u - z u_k / z_k is known to the last digit: a difference of products over z_k. It
    has the same part across as u, and, w_k being 0, not much else.
    """
    xp = get_array_module(z)
    k = abs(z).argmax(axis=-1)
    z_k, u_k = take(z, k)[:, None], take(u, k)[:, None]
    (product, error), (other, other_error) = two_product(u, z_k), two_product(z, u_k)
    w = ((product - other) + (error - other_error)) / xp.where(z_k == 0, 1.0, z_k)
    squared = row_dot(z, z)
    return w - z * (row_dot(w, z) / xp.where(squared > 0, squared, 1.0))[:, None]
