"""Teacher p and student q side by side: what every divergence between them is made of, to the last digits.

A divergence needs log q/p where it is nearly 0, and q - p where it is nearly 0: neither comes well from p and q, for
the digits that p and q share cancel. Both come well from the difference of the logits. With d = (z - u) / T, centred
at an entry where both have mass,

    log q/p = d - log sum(p exp d),    q - p = p expm1(log q/p),    KL(p || q) = sum(p phi(log q/p)),

where phi(x) = exp(x) - 1 - x is never negative. `Quick` does this in few passes and is right for ordinary rows;
`Careful` is right for all. Both answer to the same names, so a divergence is written once.
"""

import math
from collections.abc import Callable
from functools import cached_property

import numpy as np

from minikd.backend import Array, get_array_module, on_host
from minikd.losses.tokens import Pullback, check_same_vocabulary, counted_tokens, token_loss
from minikd.softmax import check_temperature, largest_entries, shift_and_scale, sum_of_others, take, working_dtype

Formula = Callable[["Quick | Careful"], tuple[Array, Array]]
"""A divergence between the p and q of a pair: values (n,), and T times its gradient at z, (n, V), times `total`."""


def divergence(
    formula: Formula,
    student_logits: Array,
    teacher_logits: Array,
    temperature: float,
    mask: Array | None,
    reduction: str,
) -> tuple[Array, Pullback]:
    """The divergence that `formula` describes, over tokens: value and pullback at the student's logits."""
    check_same_vocabulary(student_logits.shape[-1], teacher_logits.shape[-1])
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(f"student_logits are {student_logits.shape}, teacher_logits {teacher_logits.shape}; wanted one shape")
    check_temperature(temperature)

    def rows(z: Array, u: Array) -> tuple[Array, Array, Array]:
        with np.errstate(all="ignore"):  # an infinity that is right comes by way of 0 * inf and inf - inf
            if not on_host(z):  # to look which rows need care would mean to wait for them
                return _careful_rows(formula, z, u, temperature)
            return _rows(formula, z, u, temperature)

    counted = counted_tokens(student_logits.shape, None, mask)
    return token_loss(rows, (student_logits, teacher_logits), counted, reduction)


def _careful_rows(formula: Formula, z: Array, u: Array, temperature: float) -> tuple[Array, Array, Array]:
    pair = Careful(z.astype(np.float64), u.astype(np.float64), temperature)
    values, gradient = formula(pair)
    dtype = working_dtype(z)
    return values.astype(dtype), gradient.astype(dtype), 1 / (temperature * pair.total).astype(dtype)


def _rows(formula: Formula, z: Array, u: Array, temperature: float) -> tuple[Array, Array, Array]:
    pair = Quick(z, u, temperature)
    values, gradient = formula(pair)
    scale = 1 / (temperature * pair.total)
    doubtful = np.flatnonzero(~(pair.sound & _well_conditioned(values, gradient, pair.total)))
    if doubtful.size:
        values[doubtful], gradient[doubtful], scale[doubtful] = _careful_rows(
            formula, z[doubtful], u[doubtful], temperature
        )
    return values, gradient, scale


def _well_conditioned(values: Array, gradient: Array, total: Array) -> Array:
    """Whether rounding, which is relative to the sum of |gradient|, is small beside the divergence itself.

    By Pinsker's inequality, D >= sum(|q - p|)^2 / 2, it is where the divergence is not small.
    """
    well = (values > 5e-3) & (values < np.inf)
    small = np.flatnonzero((values > 1e-6) & ~well)
    if small.size:
        well[small] = values[small] * total[small] > 0.05 * np.abs(gradient[small]).sum(axis=-1)
    return well


class Quick:
    """p and q, both times `total` (n,), from logits (n, V), for rows without -inf whose logits are not far apart.

    `sound` (n,): where that is so.
    """

    def __init__(self, z: Array, u: Array, temperature: float):
        dtype = np.result_type(working_dtype(z), working_dtype(u))
        largest, index = largest_entries(u)
        p = shift_and_scale(u, largest, temperature, out=np.empty(z.shape, dtype=dtype))
        log_ratio = shift_and_scale(z, take(z, index), temperature, out=np.empty(z.shape, dtype=dtype))
        log_ratio -= p
        np.exp(p, out=p)
        self._ones = np.ones(z.shape[-1], dtype=dtype)
        self.total = np.vecdot(p, self._ones)
        gap = np.expm1(log_ratio)
        log_mean = np.log1p(np.vecdot(p, gap) / self.total)
        log_ratio -= log_mean[:, None]
        np.expm1(log_ratio, out=gap)
        gap *= p
        self.p, self.log_ratio, self.gap = p, log_ratio, gap
        # beyond this exp(log_ratio) has collected too many roundings, or 1 + sum(p expm1 d) has cancelled
        self.sound = (log_ratio.max(axis=-1) < 16) & (log_mean > -2)

    @cached_property
    def q(self) -> Array:
        return self.p + self.gap

    def kl(self, p: Array, log_ratio: Array, gap: Array) -> Array:
        """KL(p || m) of each row, from log m/p and m - p. The sum of m - p is 0 but for what log m/p is off by."""
        return (np.vecdot(gap, self._ones) - np.vecdot(p, log_ratio)) / self.total

    def pull(self, slope: Array) -> Array:
        """T dD/dz = q (g - sum(q g)) from the slope g = dD/dq, centred first where q is largest."""
        pulled = slope - take(slope, self.q.argmax(axis=-1))[:, None]
        pulled -= (np.vecdot(self.q, pulled) / self.total)[:, None]
        pulled *= self.q
        return pulled


class Careful:
    """p and q from float64 logits (n, V), for any rows: near or far, -inf on either side or both."""

    def __init__(self, z: Array, u: Array, temperature: float):
        xp = get_array_module(z)
        a, p, log_total_p = _powers(u, temperature)
        b, q, log_total_q = _powers(z, temperature)
        both_empty, teacher_empty, student_empty = (z == u) & (u == -np.inf), u == -np.inf, z == -np.inf
        centre = (a + b).argmax(axis=-1)
        d = _centred_difference(z, u, centre) / temperature
        d = xp.where(teacher_empty, np.inf, xp.where(student_empty, -np.inf, d))
        d = xp.where(both_empty, 0.0, d)

        # log sum(p exp d) is the difference of the two logarithms of sums; where these share digits, log1p of a sum
        log_mean = take(a, centre) - take(b, centre) + log_total_q - log_total_p
        log_mean = xp.where(xp.isfinite(log_mean), log_mean, 0.0)
        near = abs(log_mean) < 0.5
        q_there = q * xp.exp(xp.where(near, log_mean, 0.0))[:, None]
        log1p_sum = xp.where(d > 1, q_there - p, p * xp.expm1(xp.minimum(d, 1.0))).sum(axis=-1)
        log_mean = xp.where(near, xp.log1p(log1p_sum), log_mean)

        self.p, self.q, self.total = p, q, xp.ones_like(log_mean)
        self.log_ratio = d - log_mean[:, None]
        self.gap = xp.where(self.log_ratio > 1, q - p, p * xp.expm1(xp.minimum(self.log_ratio, 1.0)))

    def kl(self, p: Array, log_ratio: Array, gap: Array) -> Array:
        """KL(p || m) of each row as the sum of p phi(log m/p) = m - p - p log m/p, no term of it negative."""
        xp = get_array_module(p)
        far = gap - xp.where(p > 0, p * log_ratio, 0.0)
        terms = xp.where(log_ratio > 1, far, p * _phi(xp.minimum(log_ratio, 1.0)))
        return xp.where(log_ratio == -np.inf, np.inf, terms).sum(axis=-1)

    def pull(self, slope: Array) -> Array:
        """T dD/dz = q (g - sum(q g)) from the slope g = dD/dq, centred first where q is largest.

        g = inf where the teacher has no mass: the limit, unless all of q is there (then nothing small helps: 0).
        """
        xp, q = get_array_module(slope), self.q
        outside = (slope == np.inf) & (q > 0)
        inside = xp.where(outside | (q == 0), 0.0, slope)
        inside = inside - take(inside, xp.where(outside, 0.0, q).argmax(axis=-1))[:, None]
        inside = xp.where(outside | (q == 0), 0.0, inside)
        pulled = q * (inside - (q * inside).sum(axis=-1, keepdims=True))
        mass_outside = xp.where(outside, q, 0.0).sum(axis=-1, keepdims=True)
        mass_inside = xp.where(outside, 0.0, q).sum(axis=-1, keepdims=True)
        rise = q * xp.where(outside, mass_inside, -mass_outside)
        return xp.where(rise != 0, xp.copysign(np.inf, rise), pulled)


def _powers(z: Array, temperature: float) -> tuple[Array, Array, Array]:
    """x = (z - max z) / T, softmax(z / T), and the logarithm of the sum of exp x."""
    xp = get_array_module(z)
    largest, index = largest_entries(z)
    x = (z - largest[:, None]) / temperature
    powers = xp.exp(x)
    rest = sum_of_others(powers, index)
    return x, powers / (1 + rest)[:, None], xp.log1p(rest)


def _centred_difference(z: Array, u: Array, centre: Array) -> Array:
    """z - u minus its value at `centre`, with the digits that z - u rounds away. Knuth, TAOCP 2, 4.2.2, theorem B."""
    xp = get_array_module(z)
    difference = z - u
    virtual = z - difference
    error = (z - (difference + virtual)) + (virtual - u)
    error = xp.where(xp.isfinite(error), error, 0.0)
    return (difference - take(difference, centre)[:, None]) + (error - take(error, centre)[:, None])


def _phi(x: Array) -> Array:
    """exp(x) - 1 - x for x <= 1, accurate where it is small."""
    xp = get_array_module(x)
    small = xp.clip(x, -1 / 16, 1 / 16)
    series = xp.zeros_like(x)
    for k in range(10, 1, -1):  # small^2 / 2! + small^3 / 3! + ...
        series = series * small + 1 / math.factorial(k)
    return xp.where(abs(x) < 1 / 16, series * small * small, xp.expm1(x) - x)
