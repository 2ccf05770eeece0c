"""Teacher p and student q side by side: what every divergence between them is made of, to the last digits.

`Plain` is the textbook's arithmetic. For float32 logits float64 has 29 bits to spare: enough, except for the rows where
p and q are nearly the same (or nearly all on one entry) or where one alone is -inf. For the KLs even float32 is enough
where p and q are well apart, at half the time. `Careful` (in `careful`) is right for every row, also for float64
logits. All answer to the same names, so a divergence is written once.
"""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np

from minikd.backend import Array, get_array_module, on_host, row_dot, row_sum
from minikd.losses.careful import Careful, careful
from minikd.losses.tokens import Pullback, check_pair, counted_tokens, token_loss
from minikd.softmax import check_temperature, inverse, shift_and_scale, working_dtype

Formula = Callable[[Any], tuple[Array, Array]]
"""A divergence between the p and q of a pair: values (n,), and T times its gradient at z, (n, V)."""
Pairing = Callable[..., Any]
"""From logits z and u (n, V), labels (n,) where there are any, and T to the pair that a formula sees."""


class Plain:
    """p and q, and what divergences are made of, in the textbook's arithmetic.

    log_ratio: log q/p, to which `excess` (n,) was added in each row by rounding.
    """

    def __init__(self, p: Array, q: Array, log_ratio: Array, excess: Array | float = 0.0):
        self.p, self.q, self.log_ratio, self.excess = p, q, log_ratio, excess

    @cached_property
    def gap(self) -> Array:
        """q - p"""
        return self.q - self.p

    @cached_property
    def surplus(self) -> Array:
        """What rounding added to sum(p log q/p) and to sum(q log q/p), to first order, where it moved a whole row.

        A p, q too large by factors 1 + a, 1 + b, and the log q/p that belongs to them, change the first sum by b - a
        and the second too; so do sum(q) and sum(p), which would else be equal.
        """
        return row_sum(self.gap) + self.excess

    @property
    def size(self) -> Array:
        """|p|^2 + |q|^2 of each row."""
        return row_dot(self.p, self.p) + row_dot(self.q, self.q)

    @property
    def sign(self) -> Array:
        """sign(q - p), NaN where rounding decides."""
        gap = self.gap
        return np.where(abs(gap) < 1e-12 * self.p, np.nan, np.sign(gap))

    @property
    def forward(self) -> Array:
        """KL(p || q) of each row."""
        return self.surplus - row_dot(self.p, self.log_ratio)

    @property
    def reverse(self) -> Array:
        """KL(q || p) of each row."""
        return row_dot(self.q, self.log_ratio) - self.surplus

    @property
    def centred_ratio(self) -> Array:
        """log q/p but for a constant in each row."""
        return self.log_ratio

    def pull(self, slope: Array) -> Array:
        """T dD/dz = q (g - sum(q g)) from the slope g = dD/dq, which may be off by a constant in each row."""
        pulled = slope - row_dot(self.q, slope)[:, None]
        pulled *= self.q
        return pulled

    def pull_mass(self, mass: Array) -> Array:
        """T dD/dz from q g, the slope times q."""
        return mass - self.q * row_sum(mass)[:, None]

    def mixture(self, of_p: float, of_q: float) -> "PlainMixture":
        """m = of_p p + of_q q, for weights whose sum is 1."""
        return PlainMixture(self, of_p, of_q)

    def geometric(self, alpha: float) -> tuple[Array, Array]:
        """Of w = p^alpha q^(1 - alpha): 1 - sum w, and w, which may be off by a multiple of q in each row."""
        w = np.exp(-alpha * self.log_ratio)
        w *= self.q
        return 1 - row_sum(w), w


class PlainMixture:
    """m = of_p p + of_q q beside its parts."""

    def __init__(self, pair: Plain, of_p: float, of_q: float):
        self._pair, self._of_q = pair, of_q
        log_m_p = np.exp(pair.log_ratio)
        log_m_p *= of_q
        log_m_p += of_p
        self._log_m_p = np.log(log_m_p, out=log_m_p)
        self.log_ratio = pair.log_ratio - log_m_p

    @property
    def from_p(self) -> Array:
        """KL(p || m) of each row."""
        return -row_dot(self._pair.p, self._log_m_p)

    @property
    def from_q(self) -> Array:
        """KL(q || m) of each row."""
        return row_dot(self._pair.q, self.log_ratio)

    @property
    def slope_from_p(self) -> Array:
        """dKL(p || m)/dq = -of_q p/m."""
        return -self._of_q * np.exp(-self._log_m_p)

    @property
    def slope_from_q(self) -> Array:
        """dKL(q || m)/dq = log q/m - of_q q/m but for a constant in each row."""
        return self.log_ratio - self._of_q * np.exp(self.log_ratio)


Pair = Plain | Careful


def plain(z: Array, u: Array, temperature: float, dtype: Any = np.float64) -> Plain:
    """The pair of logits z and u (n, V)."""
    log_q, log_p = (shift_and_scale(x, x.max(axis=-1), temperature, out=np.empty(x.shape, dtype=dtype)) for x in (z, u))
    q, p = np.exp(log_q), np.exp(log_p)
    log_ratio = np.subtract(log_q, log_p, out=log_q)
    if u.min() == -np.inf:
        log_ratio[(u == -np.inf) & (z == -np.inf)] = 0
    inverse_p, inverse_q = 1 / row_sum(p), 1 / row_sum(q)
    p *= inverse_p[:, None]
    q *= inverse_q[:, None]
    shift = np.log(np.divide(inverse_q, inverse_p, dtype=np.float64))
    rounded = shift.astype(dtype)
    log_ratio += rounded[:, None]
    return Plain(p, q, log_ratio, rounded - shift)


single = partial(plain, dtype=np.float32)


def divergence(
    formula: Formula,
    student_logits: Array,
    teacher_logits: Array,
    temperature: float,
    mask: Array | None,
    reduction: str,
    *,
    divisor: float = 1.0,
    labels: Array | None = None,
    pairings: Sequence[Pairing] = (plain, careful),
) -> tuple[Array, Pullback]:
    """The divergence that `formula` describes, over `divisor`, over tokens: value and pullback at the student's logits.

    A row that the first, quickest of `pairings` may have wrong goes to the next; the last is right for every row.
    """
    check_pair(student_logits, teacher_logits)
    check_temperature(temperature)
    dtype = working_dtype(student_logits)
    # to look which rows need care would mean to wait for the GPU
    quick = on_host(student_logits) and np.float64 not in (student_logits.dtype, teacher_logits.dtype)
    ways = list(pairings if quick else pairings[-1:])

    def evaluate(ways: list[Pairing], *rows: Array) -> tuple[Array, Array]:
        pair = ways[0](*rows, temperature)
        values, gradient = formula(pair)
        doubtful = _doubtful(pair, values, gradient) if len(ways) > 1 else np.empty(0)
        if doubtful.size:
            values[doubtful], gradient[doubtful] = evaluate(ways[1:], *(x[doubtful] for x in rows))
        if doubtful.size > len(values) // 2:
            del ways[0]  # it would be of no more use for the next rows
        return values, gradient

    def rows(*arrays: Array) -> tuple[Array, Array, Array]:
        with np.errstate(all="ignore"):  # an infinity that is right comes by way of inf - inf and 0 * inf
            values, gradient = evaluate(ways, *arrays)
            if divisor != 1:
                values, gradient = values / divisor, gradient / divisor
            scale = get_array_module(values).full(len(values), inverse(temperature, dtype), dtype=dtype)
            return values.astype(dtype, copy=False), gradient.astype(dtype, copy=False), scale

    counted = counted_tokens(student_logits.shape, labels, mask)
    arrays = (student_logits, teacher_logits) if labels is None else (student_logits, teacher_logits, labels)
    return token_loss(rows, arrays, counted, reduction, itemsize=4 if ways[0] is single else 8)


def _doubtful(pair: Any, values: Array, gradient: Array) -> Array:
    """The rows for which the arithmetic of `pair` may be off by 2e-6, what is accepted of float32.

    Rounding is about 1e-16 times p, q and their logarithms in float64, 1e-7 times in float32, where not much may cancel
    then. What is kept of float32 was off by at most 1e-6 in the generated cases of docs/accuracy.md.
    """
    least, cancelled, size = (1e-7, 1e-13, 1.0) if gradient.dtype == np.float64 else (0.05, 0.15**2, pair.size)
    steep = row_dot(gradient, gradient) > cancelled * size * (1 + values * values)
    good = (values > least) & (values < np.inf) & steep
    return np.flatnonzero(~good)
