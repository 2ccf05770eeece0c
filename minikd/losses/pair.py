"""Teacher p and student q side by side: what every divergence between them is made of, to the last digits.

`Plain` is the textbook's arithmetic, in float64. For float32 logits its 29 spare bits are enough, except for the rows
where p and q are nearly the same (or nearly all on one entry), where one alone is -inf, or where exp overflows.
`Careful` (in `careful`) is right for every row, also for float64 logits. Both answer to the same names, so a divergence
is written once.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from minikd.backend import Array, get_array_module, on_host, row_dot, row_sum
from minikd.losses.careful import Careful, careful
from minikd.losses.tokens import Pullback, check_pair, counted_tokens, token_loss
from minikd.softmax import check_temperature, working_dtype

Formula = Callable[[Any], tuple[Array, Array]]
"""A divergence between the p and q of a pair, in float64: values (n,), and T times its gradient at z, (n, V)."""
Pairing = Callable[..., Any]
"""From logits z and u (n, V), labels (n,) where there are any, and T to the pair that a formula sees."""


class Plain:
    """p and q, and what divergences are made of, in the textbook's float64."""

    def __init__(self, p: Array, q: Array, log_ratio: Array):
        self.p, self.q, self.log_ratio = p, q, log_ratio

    @property
    def gap(self) -> Array:
        """q - p"""
        return self.q - self.p

    @property
    def sign(self) -> Array:
        """sign(q - p), NaN where rounding decides."""
        gap = self.gap
        return np.where(abs(gap) < 1e-12 * self.p, np.nan, np.sign(gap))

    @property
    def forward(self) -> Array:
        """KL(p || q) of each row."""
        return -row_dot(self.p, self.log_ratio)

    @property
    def reverse(self) -> Array:
        """KL(q || p) of each row."""
        return row_dot(self.q, self.log_ratio)

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


def plain(z: Array, u: Array, temperature: float) -> Plain:
    """The pair of logits z and u (n, V)."""
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
    return Plain(p, q, log_ratio)


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
    pairings: tuple[Pairing, Pairing] = (plain, careful),
) -> tuple[Array, Pullback]:
    """The divergence that `formula` describes, over `divisor`, over tokens: value and pullback at the student's logits.

    What `formula` gives is of the size of p and q: their rounding, 1e-16, tells for which rows the first, plain way of
    `pairings` is enough, and which need the second, careful one.
    """
    in_short, with_care = pairings
    check_pair(student_logits, teacher_logits)
    check_temperature(temperature)
    dtype = working_dtype(student_logits)

    def rows(z: Array, u: Array, *labels: Array) -> tuple[Array, Array, Array]:
        with np.errstate(all="ignore"):  # an infinity that is right comes by way of inf - inf and 0 * inf
            # to look which rows need care would mean to wait for the GPU
            if on_host(z) and np.float64 not in (z.dtype, u.dtype):
                values, gradient = formula(in_short(z, u, *labels, temperature))
                doubtful = _doubtful(values, gradient)
                if doubtful.size:
                    some = (x[doubtful] for x in (z, u, *labels))
                    values[doubtful], gradient[doubtful] = formula(with_care(*some, temperature))
            else:
                values, gradient = formula(with_care(z, u, *labels, temperature))
            if divisor != 1:
                values, gradient = values / divisor, gradient / divisor
            scale = get_array_module(z).full(len(z), 1 / float(temperature), dtype=dtype)
            return values.astype(dtype, copy=False), gradient.astype(dtype, copy=False), scale

    counted = counted_tokens(student_logits.shape, labels, mask)
    arrays = (student_logits, teacher_logits) if labels is None else (student_logits, teacher_logits, labels)
    return token_loss(rows, arrays, counted, reduction, itemsize=8)


def _doubtful(values: Array, gradient: Array) -> Array:
    """The rows for which the textbook's arithmetic may be off by a millionth, what is accepted of float32."""
    # rounding is about 1e-16 times the logarithms
    steep = row_dot(gradient, gradient) > 1e-13 * (1 + values * values)
    good = (values > 1e-7) & (values < np.inf) & steep
    return np.flatnonzero(~good)
