"""Teacher p and student q side by side: what every divergence between them is made of, to the last digits.

`Plain` is the textbook's arithmetic, in float64. For float32 logits its 29 spare bits are enough, except for the rows
where p and q are nearly the same (or nearly all on one entry), where one alone is -inf, or where exp overflows.

`Careful` is right for every row, also for float64 logits. A divergence needs log q/p where it is nearly 0, and q - p
where it is nearly 0: neither comes well from p and q, since the digits that these share cancel. Both come well from
the difference of the logits. With d = (z - u) / T, centred at an entry where both have mass,

    log q/p = d - log sum(p exp d),    q - p = p expm1(log q/p),    KL(p || q) = sum(p phi(log q/p)),

where phi(x) = exp(x) - 1 - x is never negative. Both answer to the same names, so a divergence is written once.
"""

import math
from collections.abc import Callable

import numpy as np

from minikd.backend import Array, get_array_module, on_host, row_sum
from minikd.losses.tokens import Pullback, check_pair, counted_tokens, token_loss
from minikd.softmax import check_temperature, inverse, largest_entries, sum_of_others, take, working_dtype

Formula = Callable[["Plain | Careful"], tuple[Array, Array]]
"""A divergence between the p and q of a pair, in float64: values (n,), and T times its gradient at z, (n, V)."""


def divergence(
    formula: Formula,
    student_logits: Array,
    teacher_logits: Array,
    temperature: float,
    mask: Array | None,
    reduction: str,
) -> tuple[Array, Pullback]:
    """The divergence that `formula` describes, over tokens: value and pullback at the student's logits."""
    check_pair(student_logits, teacher_logits)
    check_temperature(temperature)
    dtype = working_dtype(student_logits)

    def rows(z: Array, u: Array) -> tuple[Array, Array, Array]:
        with np.errstate(all="ignore"):  # an infinity that is right comes by way of inf - inf and 0 * inf
            # to look which rows need care would mean to wait for the GPU
            spare_bits = np.float64 not in (z.dtype, u.dtype)
            evaluate = _plain if on_host(z) and spare_bits else _careful
            values, gradient = evaluate(formula, z, u, temperature)
            scale = get_array_module(z).full(len(z), inverse(temperature, dtype), dtype=dtype)
            return values.astype(dtype, copy=False), gradient.astype(dtype, copy=False), scale

    counted = counted_tokens(student_logits.shape, None, mask)
    return token_loss(rows, (student_logits, teacher_logits), counted, reduction, itemsize=8)


def _careful(formula: Formula, z: Array, u: Array, temperature: float) -> tuple[Array, Array]:
    return formula(Careful(z.astype(np.float64), u.astype(np.float64), temperature))


def _plain(formula: Formula, z: Array, u: Array, temperature: float) -> tuple[Array, Array]:
    values, gradient = formula(Plain(z, u, temperature))
    # rounding is about 1e-16 times the logarithms: a millionth of what is accepted here
    steep = np.vecdot(gradient, gradient) > 1e-13 * (1 + values * values)
    good = (values > 1e-7) & (values < np.inf) & steep
    doubtful = np.flatnonzero(~good)
    if doubtful.size:
        values[doubtful], gradient[doubtful] = _careful(formula, z[doubtful], u[doubtful], temperature)
    return values, gradient


class Plain:
    """p and q in float64, from logits (n, V), as the textbook has them."""

    def __init__(self, z: Array, u: Array, temperature: float):
        log_p = np.multiply(u, 1 / temperature, dtype=np.float64)
        log_ratio = np.multiply(z, 1 / temperature, dtype=np.float64)
        q = np.exp(log_ratio)
        log_ratio -= log_p
        if u.min() == -np.inf:
            log_ratio[(u == -np.inf) & (z == -np.inf)] = 0
        p = np.exp(log_p, out=log_p)
        total_p, total_q = row_sum(p), row_sum(q)
        p *= (1 / total_p)[:, None]
        q *= (1 / total_q)[:, None]
        log_ratio -= np.log(total_q / total_p)[:, None]
        self.p, self.q, self.log_ratio = p, q, log_ratio

    @property
    def gap(self) -> Array:
        """q - p"""
        return self.q - self.p

    @property
    def centred_ratio(self) -> Array:
        """log q/p but for a constant in each row."""
        return self.log_ratio

    def kl(self, p: Array, m: Array, log_m_p: Array) -> Array:
        """KL(p || m) of each row, from p, m and log m/p."""
        return -np.vecdot(p, log_m_p)

    def pull(self, slope: Array) -> Array:
        """T dD/dz = q (g - sum(q g)) from the slope g = dD/dq, which may be off by a constant in each row."""
        pulled = slope - np.vecdot(self.q, slope)[:, None]
        pulled *= self.q
        return pulled

    def mixture(self, weight: float) -> tuple[Array, Array, Array, Array]:
        """m = (1 - weight) p + weight q, log m/p, log m/q, and log q/m but for a constant in each row."""
        log_m_p = np.exp(self.log_ratio)
        log_m_p *= weight
        log_m_p += 1 - weight
        np.log(log_m_p, out=log_m_p)
        log_m_q = log_m_p - self.log_ratio
        return (1 - weight) * self.p + weight * self.q, log_m_p, log_m_q, -log_m_q


class Careful:
    """p and q from float64 logits (n, V), for any rows: near or far, -inf on either side or both."""

    def __init__(self, z: Array, u: Array, temperature: float):
        xp = get_array_module(z)
        a, p, log_total_p = _powers(u, temperature)
        b, q, log_total_q = _powers(z, temperature)
        centre = (a + b).argmax(axis=-1)
        difference = _Difference(z, u, temperature)
        d = difference.centred(centre)

        # log sum(p exp d) is a difference of logarithms of sums; where these share digits, it is log1p of a sum
        log_mean = take(a, centre) - take(b, centre) + log_total_q - log_total_p
        log_mean = xp.where(xp.isfinite(log_mean), log_mean, 0.0)
        near = abs(log_mean) < 0.5
        scaled_q = q * xp.exp(xp.where(near, log_mean, 0.0))[:, None]
        excess = _gap(p, scaled_q, d).sum(axis=-1)
        log_mean = xp.where(near, xp.log1p(excess), log_mean)

        self.p, self.q = p, q
        self.log_ratio = d - log_mean[:, None]
        self.gap = _gap(p, q, self.log_ratio)
        self._difference = difference

    @property
    def centred_ratio(self) -> Array:
        """log q/p minus its value where q is largest, among the entries where the teacher has mass if there are any."""
        xp = get_array_module(self.q)
        return self._difference.centred(xp.where(self.log_ratio == np.inf, -1.0, self.q).argmax(axis=-1))

    def kl(self, p: Array, m: Array, log_m_p: Array) -> Array:
        """KL(p || m) of each row as the sum of p phi(log m/p) = m - p - p log m/p, no term of it negative."""
        xp = get_array_module(p)
        far = m - p - xp.where(p > 0, p * log_m_p, 0.0)
        terms = xp.where(log_m_p > 1, far, p * _phi(xp.minimum(log_m_p, 1.0)))
        return xp.where(log_m_p == -np.inf, np.inf, terms).sum(axis=-1)

    def pull(self, slope: Array) -> Array:
        """T dD/dz = q (g - sum(q g)) from the slope g = dD/dq, centred first where q is largest.

        g = inf where the teacher has no mass: the limit, unless all of q is there (then nothing small helps: 0).
        """
        xp, q = get_array_module(slope), self.q
        outside = (slope == np.inf) & (q > 0)
        inside = xp.where(outside | (q == 0), 0.0, slope)
        pulled = q * (inside - (q * inside).sum(axis=-1, keepdims=True))
        mass_outside = xp.where(outside, q, 0.0).sum(axis=-1, keepdims=True)
        mass_inside = xp.where(outside, 0.0, q).sum(axis=-1, keepdims=True)
        rise = q * xp.where(outside, mass_inside, -mass_outside)
        return xp.where(rise != 0, xp.copysign(np.inf, rise), pulled)

    def mixture(self, weight: float) -> tuple[Array, Array, Array, Array]:
        """m = (1 - weight) p + weight q, log m/p, log m/q, and log q/m but for a constant in each row."""
        xp, p, q, log_ratio = get_array_module(self.q), self.p, self.q, self.log_ratio
        log_w, log_rest = math.log(weight), math.log1p(-weight)
        log_m_p = _log_mixed(log_ratio, log_w, log_rest, log_w + log_ratio)
        log_m_q = _log_mixed(-log_ratio, log_rest, log_w, log_rest - log_ratio)
        # where all of log m/q are near one number, its digits hide theirs, so they are taken relative to that where q
        # is largest: (m/q) / (m/q there) = 1 - s + s exp(-x), x = log q/p - (log q/p there), s = p's share of m there
        top = q.argmax(axis=-1)
        there, ratio_there = take(log_m_q, top)[:, None], take(log_ratio, top)[:, None]
        x = xp.where(ratio_there < np.inf, self._difference.centred(top), -np.inf)
        slope = -_log_mixed(-x, log_rest - ratio_there - there, log_w - there, log_rest - log_ratio - there)
        return (1 - weight) * p + weight * q, log_m_p, log_m_q, slope


class _Difference:
    """(z - u) / T with the digits that z - u rounds away. Knuth, TAOCP 2, 4.2.2, theorem B."""

    def __init__(self, z: Array, u: Array, temperature: float):
        xp = get_array_module(z)
        self._rounded, self._temperature = z - u, temperature
        virtual = z - self._rounded
        error = (z - (self._rounded + virtual)) + (virtual - u)
        self._error = xp.where(xp.isfinite(error), error, 0.0)
        self._both_empty = xp.isnan(self._rounded)

    def centred(self, index: Array) -> Array:
        """Minus its value at `index` (n,); inf and -inf where one of the two is -inf, 0 where both are."""
        xp = get_array_module(index)
        there = take(self._rounded, index)
        there = xp.where(xp.isfinite(there), there, 0.0)
        d = (self._rounded - there[:, None]) + (self._error - take(self._error, index)[:, None])
        return xp.where(self._both_empty, 0.0, d / self._temperature)


def _powers(z: Array, temperature: float) -> tuple[Array, Array, Array]:
    """x = (z - max z) / T, softmax(z / T), and the logarithm of the sum of exp x."""
    xp = get_array_module(z)
    largest, index = largest_entries(z)
    x = (z - largest[:, None]) / temperature
    powers = xp.exp(x)
    rest = sum_of_others(powers, index)
    return x, powers / (1 + rest)[:, None], xp.log1p(rest)


def _gap(p: Array, q: Array, log_ratio: Array) -> Array:
    """q - p with the digits that p and q share: p expm1(log q/p)."""
    xp = get_array_module(p)
    return xp.where(log_ratio > 1, q - p, p * xp.expm1(xp.minimum(log_ratio, 1.0)))


def _log_mixed(x: Array, log_weight: Array, log_rest: Array, log_term: Array) -> Array:
    """log(rest + weight exp x) for rest + weight = 1, accurate where it is small; log_term is log_weight + x."""
    xp = get_array_module(x)
    excess = xp.exp(log_weight) * xp.expm1(xp.minimum(x, 700.0))
    near = (x < 700) & (log_weight > -650) & (excess > -0.5)
    return xp.where(near, xp.log1p(xp.maximum(excess, -0.5)), xp.logaddexp(log_rest, log_term))


def _phi(x: Array) -> Array:
    """exp(x) - 1 - x for x <= 1, accurate where it is small."""
    xp = get_array_module(x)
    small = xp.clip(x, -1 / 16, 1 / 16)
    series = xp.zeros_like(x)
    for k in range(9, 1, -1):  # small^2 / 2! + small^3 / 3! + ...
        series = series * small + 1 / math.factorial(k)
    return xp.where(abs(x) < 1 / 16, series * small * small, xp.expm1(x) - x)
