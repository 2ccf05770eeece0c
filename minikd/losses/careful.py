"""Teacher p and student q to the last digits, for any rows of float64 logits: near or far, -inf on either side or both.

A divergence needs log q/p where it is nearly 0, and q - p where it is nearly 0: neither comes well from p and q, since
the digits that these share cancel. Both come well from the difference of the logits. With d = (z - u) / T, centred at
an entry where both have mass,

    log q/p = d - log sum(p exp d),    q - p = p expm1(log q/p),    KL(p || q) = sum(p phi(log q/p)),

where phi(x) = exp(x) - 1 - x is never negative. A slope g = dD/dq reaches the logits as q (g - sum(q g)), where what
all entries of g share cancels; so every slope is taken relative to that at the `top`, the entry where q is largest.
"""

import math
from typing import NamedTuple

import numpy as np

from minikd.backend import Array, get_array_module
from minikd.losses.twofold import two_product, two_sum
from minikd.softmax import largest_entries, sum_of_others, take


class Powers(NamedTuple):
    """One side's softmax: x = (z - max z) / T, the shares exp(x) / sum(exp x), and the logarithm of that sum."""

    x: Array
    shares: Array
    log_total: Array

    @property
    def log_shares(self) -> Array:
        """The logarithm of the softmax."""
        return self.x - self.log_total[:, None]


class Difference:
    """d = share (z - u) / T but for a constant in each row, from z - u in two numbers, and where both are -inf."""

    def __init__(self, rounded: Array, error: Array, both_empty: Array, temperature: float, share: float = 1.0):
        self.rounded, self.error, self.both_empty = rounded, error, both_empty
        self.temperature, self.share = temperature, share

    def centred(self, index: Array) -> Array:
        """Minus its value at `index` (n,) if that is finite; inf and -inf where one side is -inf, 0 where both are."""
        xp = get_array_module(index)
        there = take(self.rounded, index)
        there = xp.where(xp.isfinite(there), there, 0.0)
        d = (self.rounded - there[:, None]) + (self.error - take(self.error, index)[:, None])
        d = d if self.share == 1 else xp.where(xp.isinf(d), d, self.share * d)
        return xp.where(self.both_empty, 0.0, d / self.temperature)


class Careful:
    """p and q, log q/p and q - p, and what divergences are made of."""

    def __init__(self, student: Powers, teacher: Powers, difference: Difference):
        (a, p, log_total_p), (b, q, log_total_q) = teacher, student
        xp = get_array_module(p)
        centre = (a + b).argmax(axis=-1)
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
        self.centre, self.log_mean = centre, log_mean
        self.student, self.teacher, self.difference = student, teacher, difference

    @property
    def forward(self) -> Array:
        """KL(p || q) of each row."""
        return _kl(self.p, self.q, self.log_ratio)

    @property
    def reverse(self) -> Array:
        """KL(q || p) of each row."""
        return _kl(self.q, self.p, -self.log_ratio)

    @property
    def centred_ratio(self) -> Array:
        """log q/p minus its value where q is largest, among the entries where the teacher has mass if there are any."""
        xp = get_array_module(self.q)
        return self.difference.centred(xp.where(self.log_ratio == np.inf, -1.0, self.q).argmax(axis=-1))

    @property
    def sign(self) -> Array:
        """sign(q - p) minus that at the top; 0 where p and q are the same as far as can be told."""
        xp, log_ratio = get_array_module(self.q), self.log_ratio
        rounding = 4 * np.finfo(np.float64).eps * (abs(self.log_mean) + abs(self.gap).sum(axis=-1))
        sign = xp.where(abs(log_ratio) <= rounding[:, None], 0.0, xp.sign(log_ratio))
        return sign - take(sign, self.q.argmax(axis=-1))[:, None]

    def pull(self, slope: Array) -> Array:
        """T dD/dz = q (g - sum(q g)) from the slope g = dD/dq relative to the top.

        g = inf where the teacher has no mass: the limit, unless all of q is there (then nothing small helps: 0).
        """
        xp, q = get_array_module(slope), self.q
        outside = (slope == np.inf) & (q > 0)
        inside = xp.where(outside | (q == 0), 0.0, slope)
        mass_outside = xp.where(outside, q, 0.0).sum(axis=-1, keepdims=True)
        mass_inside = xp.where(outside, 0.0, q).sum(axis=-1, keepdims=True)
        rise = q * xp.where(outside, mass_inside, -mass_outside)
        return xp.where(abs(rise) > 0, xp.copysign(np.inf, rise), self.pull_mass(q * inside))

    def pull_mass(self, mass: Array) -> Array:
        """T dD/dz from q g, the slope times q."""
        return mass - self.q * mass.sum(axis=-1, keepdims=True)

    def mixture(self, of_p: float, of_q: float) -> "CarefulMixture":
        """m = of_p p + of_q q, for weights above 0 whose sum is 1."""
        return CarefulMixture(self, of_p, of_q)

    def geometric(self, alpha: float) -> tuple[Array, Array]:
        """Of w = p^alpha q^(1 - alpha), 0 < alpha < 1: 1 - sum w, and w with w/q relative to the top."""
        xp, p, q, log_ratio = get_array_module(self.q), self.p, self.q, self.log_ratio
        w = xp.exp(alpha * self.teacher.log_shares + (1 - alpha) * self.student.log_shares)
        # 1 - sum w is the sum of alpha p + (1 - alpha) q - w >= 0. Of p and q, call base that of the larger weight and
        # a the other's: with x = log(other/base) such a term is base (a phi(x) - phi(a x)), where little cancels
        base, other, x, a = (q, p, -log_ratio, alpha) if alpha <= 0.5 else (p, q, log_ratio, 1 - alpha)
        growth = xp.where(abs(a * x) < 1, base * xp.expm1(xp.clip(a * x, -1, 1)), w - base)
        near = xp.clip(x, -1, 1)
        terms = xp.where(abs(x) < 1, base * (a * _phi(near) - _phi(a * near)), a * (other - base) - growth)
        shortfall = xp.where((p == 0) & (q == 0), 0.0, terms).sum(axis=-1)

        x, ratio_there = self.ratio_from_top()
        at_top = xp.exp(-alpha * ratio_there)
        near = xp.clip(alpha * x, -1, 1)
        mass = xp.where(abs(alpha * x) < 1, q * at_top * xp.expm1(-near), w - q * at_top)
        return shortfall, mass

    def ratio_from_top(self) -> tuple[Array, Array]:
        """log q/p minus its value at the top, -inf if the teacher has no mass there; and that value (n, 1)."""
        xp, top = get_array_module(self.q), self.q.argmax(axis=-1)
        there = take(self.log_ratio, top)[:, None]
        return xp.where(there < np.inf, self.difference.centred(top), -np.inf), there


class CarefulMixture:
    """m = of_p p + of_q q beside its parts."""

    def __init__(self, pair: Careful, of_p: float, of_q: float):
        xp = get_array_module(pair.q)
        self._pair, self._of_p, self._of_q = pair, of_p, of_q
        log_of_p, log_of_q = self._logs = math.log(of_p), math.log(of_q)
        x, there = pair.ratio_from_top()
        # (m/q) / (m/q at the top) = s + r exp(-x), s and r = 1 - s the shares of m at the top that are q's and p's
        log_m_q = _log_mixed(-there, log_of_p, log_of_q, log_of_p - there)
        log_s, log_r = log_of_q - log_m_q, log_of_p - there - log_m_q
        self._share_of_q, self._share_of_p = xp.exp(log_s), xp.exp(log_r)
        self.log_ratio = -_log_mixed(-x, log_r, log_s, log_of_p - pair.log_ratio - log_m_q)

    @property
    def from_p(self) -> Array:
        """KL(p || m) of each row."""
        x, (log_of_p, log_of_q) = self._pair.log_ratio, self._logs
        return _kl(self._pair.p, self._m, _log_mixed(x, log_of_q, log_of_p, log_of_q + x))

    @property
    def from_q(self) -> Array:
        """KL(q || m) of each row."""
        x, (log_of_p, log_of_q) = self._pair.log_ratio, self._logs
        return _kl(self._pair.q, self._m, _log_mixed(-x, log_of_p, log_of_q, log_of_p - x))

    @property
    def _m(self) -> Array:
        return self._of_p * self._pair.p + self._of_q * self._pair.q

    @property
    def slope_from_p(self) -> Array:
        """dKL(p || m)/dq = -of_q p/m relative to the top: of_q / of_p times what q's share of m gains."""
        return self._of_q * self._gain_of_q / self._of_p

    @property
    def slope_from_q(self) -> Array:
        """dKL(q || m)/dq = log q/m - of_q q/m relative to the top: x - s (exp(x) - 1) = (1 - s) x - s phi(x)."""
        xp, x = get_array_module(self.log_ratio), self.log_ratio
        near = xp.clip(x, -1, 1)
        near = self._share_of_p * near - self._share_of_q * _phi(near)
        return xp.where(abs(x) < 1, near, x - self._gain_of_q)

    @property
    def _gain_of_q(self) -> Array:
        """q's share of m, of_q q/m, minus that at the top; it is at most 1, so an overflow would be rounding's."""
        xp = get_array_module(self.log_ratio)
        return self._share_of_q * xp.expm1(xp.minimum(self.log_ratio, 709.0))


def careful(z: Array, u: Array, temperature: float) -> Careful:
    """The pair of logits z and u (n, V)."""
    z, u, temperature = _quarters(z, u, temperature)
    difference = difference_of(z, u, temperature)
    return Careful(powers(z, temperature=temperature), powers(u, temperature=temperature), difference)


def difference_of(z: Array, u: Array, temperature: float) -> Difference:
    """(z - u) / T for float64 logits (n, V)."""
    return Difference(*two_sum(z, -u), (z == -np.inf) & (u == -np.inf), temperature)


def careful_between(z: Array, u: Array, temperature: float, share: float) -> Careful:
    """The pair of logits z and (1 - share) z + share u, in two numbers as z - share (z - u).

    An entry that is -inf in z or u is so between them; if all are, u itself is taken.
    """
    xp = get_array_module(z)
    z, u, temperature = _quarters(z, u, temperature)
    gap, gap_error = two_sum(z, -u)
    part, part_error = two_product(gap, share)
    between, error = two_sum(z, -part)
    empty = (z == -np.inf) | (u == -np.inf)
    between = xp.where(empty.all(axis=-1, keepdims=True), u, xp.where(empty, -np.inf, between))
    error = xp.where(empty, 0.0, error - (part_error + share * gap_error))
    both_empty = (z == -np.inf) & (between == -np.inf)
    difference = Difference(gap, gap_error, both_empty, temperature, share)
    return Careful(powers(z, temperature=temperature), powers(between, error, temperature=temperature), difference)


def _quarters(z: Array, u: Array, temperature: float) -> tuple[Array, Array, float]:
    """A quarter of everything, in float64: softmax(z / T) stays what it is, and differences of differences finite.

    +inf, which belongs to no distribution, becomes NaN: so does then all that is made of such a row.
    """
    xp = get_array_module(z)
    z, u = (xp.where(x == np.inf, np.nan, x.astype(np.float64, copy=False) / 4) for x in (z, u))
    return z, u, temperature / 4


def powers(z: Array, error: Array | None = None, *, temperature: float) -> Powers:
    """The softmax of logits z (n, V), or of logits z + error that are known in two numbers."""
    xp = get_array_module(z)
    largest, index = largest_entries(z)
    x = z - largest[:, None]
    if error is not None:
        x = x + error
        index = x.argmax(axis=-1)
        x = x - take(x, index)[:, None]
    x = x / temperature
    shares = xp.exp(x)
    rest = sum_of_others(shares, index)
    return Powers(x, shares / (1 + rest)[:, None], xp.log1p(rest))


def _kl(p: Array, m: Array, log_m_p: Array) -> Array:
    """KL(p || m) of each row as the sum of p phi(log m/p) = m - p - p log m/p, no term of it negative."""
    xp = get_array_module(p)
    far = m - p - xp.where(p > 0, p * log_m_p, 0.0)
    terms = xp.where(log_m_p > 1, far, p * _phi(xp.minimum(log_m_p, 1.0)))
    return xp.where(log_m_p == -np.inf, np.inf, terms).sum(axis=-1)


def _gap(p: Array, q: Array, log_ratio: Array) -> Array:
    """q - p with the digits that p and q share: p expm1(log q/p)."""
    xp = get_array_module(p)
    return xp.where(log_ratio > 1, q - p, p * xp.expm1(xp.minimum(log_ratio, 1.0)))


def _log_mixed(x: Array, log_weight: Array, log_rest: Array, log_term: Array) -> Array:
    """log(rest + weight exp x) for rest + weight = 1, accurate where it is small; log_term is log_weight + x."""
    xp = get_array_module(x)
    weight = xp.exp(log_weight)
    excess = xp.where(x < 1, weight * xp.expm1(xp.minimum(x, 1.0)), xp.exp(log_term) - weight)
    near = (log_term < 700) & (excess > -0.5)
    return xp.where(near, xp.log1p(xp.maximum(excess, -0.5)), xp.logaddexp(log_rest, log_term))


def _phi(x: Array) -> Array:
    """exp(x) - 1 - x for x <= 1, accurate where it is small."""
    xp = get_array_module(x)
    small = xp.clip(x, -1 / 16, 1 / 16)
    series = xp.zeros_like(x)
    for k in range(9, 1, -1):  # small^2 / 2! + small^3 / 3! + ...
        series = series * small + 1 / math.factorial(k)
    return xp.where(abs(x) < 1 / 16, series * small * small, xp.expm1(x) - x)
