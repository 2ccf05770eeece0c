"""The divergences between teacher p = softmax(u / T) and student q = softmax(z / T): a formula and its slope each.

All are in nats, 0 if and only if p = q, never negative, and carry no T^2. All are called alike: student logits and
teacher logits (..., V); mask (...) bool, True where a token counts -> loss; vjp(w) -> dstudent. The teacher is a
constant. Logits may be -inf; a NaN or +inf among those of a token makes its loss and gradient NaN. `reduction`: mean
over the counted tokens, sum, or none (loss and w are then (...)). ValueError: T not in 1e-15 to 1e15, shapes or
vocabularies that differ, logits of other types than `softmax` takes, a parameter outside its range, a mean over no
token.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from minikd.backend import Array, get_array_module, row_dot, row_sum
from minikd.losses.careful import careful_between
from minikd.losses.pair import Pair, Plain, divergence, plain
from minikd.losses.tokens import Pullback, counted_tokens, token_loss
from minikd.softmax import log_softmax

Divergence = Callable[..., tuple[Array, Pullback]]


def forward_kl(
    student_logits: Array,
    teacher_logits: Array,
    *,
    temperature: float = 1.0,
    mask: Array | None = None,
    reduction: str = "mean",
) -> tuple[Array, Pullback]:
    """KL(p || q) = sum(p (log p - log q)).  T dD/dz = q - p.

    inf where the teacher has mass and the student has none; the gradient is then the limit, q - p still.
    Hinton, Vinyals & Dean 2015, section 2.
    """

    def formula(pair: Pair) -> tuple[Array, Array]:
        return pair.forward, pair.gap

    return divergence(formula, student_logits, teacher_logits, temperature, mask, reduction)


def reverse_kl(
    student_logits: Array,
    teacher_logits: Array,
    *,
    temperature: float = 1.0,
    mask: Array | None = None,
    reduction: str = "mean",
) -> tuple[Array, Pullback]:
    """KL(q || p) = sum(q (log q - log p)).  T dD/dz = q (log q/p - KL(q || p)).

    inf where the student has mass and the teacher has none, and the gradient is infinite there.
    Gu, Dong, Wei & Huang 2024, eq. 1.
    """

    def formula(pair: Pair) -> tuple[Array, Array]:
        return pair.reverse, pair.pull(pair.centred_ratio)

    return divergence(formula, student_logits, teacher_logits, temperature, mask, reduction)


def symmetric_kl(
    student_logits: Array,
    teacher_logits: Array,
    *,
    weight: float = 0.5,
    temperature: float = 1.0,
    mask: Array | None = None,
    reduction: str = "mean",
) -> tuple[Array, Pullback]:
    """weight KL(p || q) + (1 - weight) KL(q || p), 0 <= weight <= 1.

    inf where either is, except at weight 1, which is `forward_kl`, and 0, which is `reverse_kl`.
    Jeffreys 1946, whose J is the sum of both: twice this at weight 1/2.
    """
    check_parameter("weight", weight, "[0, 1]")
    options: dict[str, Any] = {"temperature": temperature, "mask": mask, "reduction": reduction}
    if weight in (0, 1):
        return (forward_kl if weight == 1 else reverse_kl)(student_logits, teacher_logits, **options)

    def formula(pair: Pair) -> tuple[Array, Array]:
        value = weight * pair.forward + (1 - weight) * pair.reverse
        return value, weight * pair.gap + (1 - weight) * pair.pull(pair.centred_ratio)

    return divergence(formula, student_logits, teacher_logits, **options)


def js(
    student_logits: Array,
    teacher_logits: Array,
    *,
    temperature: float = 1.0,
    mask: Array | None = None,
    reduction: str = "mean",
) -> tuple[Array, Pullback]:
    """KL(p || m) / 2 + KL(q || m) / 2 with m = (p + q) / 2: `generalized_jsd` at beta = 1/2.

    At most log 2. Lin 1991, section 4.
    """
    return generalized_jsd(student_logits, teacher_logits, temperature=temperature, mask=mask, reduction=reduction)


def generalized_jsd(
    student_logits: Array,
    teacher_logits: Array,
    *,
    beta: float = 0.5,
    scaled: bool = False,
    temperature: float = 1.0,
    mask: Array | None = None,
    reduction: str = "mean",
) -> tuple[Array, Pullback]:
    """beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q.  T dD/dz = (1 - beta) J(q, log q/m).

    0 < beta < 1; it goes to 0 at both ends. `scaled` divides by beta (1 - beta): then it goes to KL(p || q) as beta
    goes to 0 and to KL(q || p) as beta goes to 1, and both ends are allowed.
    Lin 1991, section 4; Agarwal et al. 2024 (GKD), section 2.
    """
    check_parameter("beta", beta, "[0, 1]" if scaled else "(0, 1)")
    options: dict[str, Any] = {"temperature": temperature, "mask": mask, "reduction": reduction}
    if beta in (0, 1):
        return (forward_kl if beta == 0 else reverse_kl)(student_logits, teacher_logits, **options)

    def formula(pair: Pair) -> tuple[Array, Array]:
        m = pair.mixture(beta, 1 - beta)
        return beta * m.from_p + (1 - beta) * m.from_q, (1 - beta) * pair.pull(m.log_ratio)

    divisor = beta * (1 - beta) if scaled else 1.0
    return divergence(formula, student_logits, teacher_logits, **options, divisor=divisor)


def skew_forward_kl(
    student_logits: Array,
    teacher_logits: Array,
    *,
    alpha: float = 0.1,
    temperature: float = 1.0,
    mask: Array | None = None,
    reduction: str = "mean",
) -> tuple[Array, Pullback]:
    """KL(p || m) with m = alpha p + (1 - alpha) q, 0 <= alpha < 1.  dD/dq = -(1 - alpha) p/m.

    At most log 1/alpha; `forward_kl` at alpha = 0. Ko et al. 2024 (DistiLLM); Lee 1999, whose alpha is 1 - this.
    """
    check_parameter("alpha", alpha, "[0, 1)")
    options: dict[str, Any] = {"temperature": temperature, "mask": mask, "reduction": reduction}
    if alpha == 0:
        return forward_kl(student_logits, teacher_logits, **options)

    def formula(pair: Pair) -> tuple[Array, Array]:
        m = pair.mixture(alpha, 1 - alpha)
        return m.from_p, pair.pull(m.slope_from_p)

    return divergence(formula, student_logits, teacher_logits, **options)


def skew_reverse_kl(
    student_logits: Array,
    teacher_logits: Array,
    *,
    alpha: float = 0.1,
    temperature: float = 1.0,
    mask: Array | None = None,
    reduction: str = "mean",
) -> tuple[Array, Pullback]:
    """KL(q || m) with m = (1 - alpha) p + alpha q, 0 <= alpha < 1.  dD/dq = log q/m - alpha q/m, but for a constant.

    At most log 1/alpha; `reverse_kl` at alpha = 0. Ko et al. 2024 (DistiLLM).
    """
    check_parameter("alpha", alpha, "[0, 1)")
    options: dict[str, Any] = {"temperature": temperature, "mask": mask, "reduction": reduction}
    if alpha == 0:
        return reverse_kl(student_logits, teacher_logits, **options)

    def formula(pair: Pair) -> tuple[Array, Array]:
        m = pair.mixture(1 - alpha, alpha)
        return m.from_q, pair.pull(m.slope_from_q)

    return divergence(formula, student_logits, teacher_logits, **options)


def total_variation(
    student_logits: Array,
    teacher_logits: Array,
    *,
    temperature: float = 1.0,
    mask: Array | None = None,
    reduction: str = "mean",
) -> tuple[Array, Pullback]:
    """sum |p - q| / 2, at most 1.  dD/dq = sign(q - p) / 2, where p and q meet 0.

    Wen, Li, Du & Mou 2023 (f-distill).
    """

    def formula(pair: Pair) -> tuple[Array, Array]:
        return row_sum(abs(pair.gap)) / 2, pair.pull(pair.sign / 2)

    return divergence(formula, student_logits, teacher_logits, temperature, mask, reduction)


def alpha_divergence(
    student_logits: Array,
    teacher_logits: Array,
    *,
    alpha: float = 0.5,
    temperature: float = 1.0,
    mask: Array | None = None,
    reduction: str = "mean",
) -> tuple[Array, Pullback]:
    """(1 - sum w) / (alpha (1 - alpha)), w = p^alpha q^(1 - alpha), 0 <= alpha <= 1.  T dD/dz = (q sum w - w) / alpha.

    Its limits are KL(p || q) at alpha = 1 and KL(q || p) at alpha = 0; at 1/2 it is 4 times the squared Hellinger
    distance. Cichocki & Amari 2010; Amari 1985, with a parameter from -1 to 1.
    """
    check_parameter("alpha", alpha, "[0, 1]")
    options: dict[str, Any] = {"temperature": temperature, "mask": mask, "reduction": reduction}
    if alpha in (0, 1):
        return (forward_kl if alpha == 1 else reverse_kl)(student_logits, teacher_logits, **options)

    def formula(pair: Pair) -> tuple[Array, Array]:
        shortfall, w = pair.geometric(alpha)
        return shortfall, -(1 - alpha) * pair.pull_mass(w)

    return divergence(formula, student_logits, teacher_logits, **options, divisor=alpha * (1 - alpha))


def taid(
    student_logits: Array,
    teacher_logits: Array,
    *,
    t: float = 0.5,
    temperature: float = 1.0,
    mask: Array | None = None,
    reduction: str = "mean",
) -> tuple[Array, Pullback]:
    """KL(r || q) with r = softmax of (1 - t) z + t u, a constant, 0 <= t <= 1.  T dD/dz = q - r.

    `forward_kl` at t = 1, and 0 at t = 0. Below 1, an entry that is -inf on either side has no share in r; where they
    have none in common, r is the teacher. Shing et al. 2025 (TAID).
    """
    check_parameter("t", t, "[0, 1]")
    options: dict[str, Any] = {"temperature": temperature, "mask": mask, "reduction": reduction}
    if t == 1:
        return forward_kl(student_logits, teacher_logits, **options)

    def plain_between(z: Array, u: Array, temperature: float) -> Plain:
        between = np.multiply(z, 1 - t, dtype=np.float64) + np.multiply(u, t, dtype=np.float64)
        return plain(z, between, temperature)

    def formula(pair: Pair) -> tuple[Array, Array]:
        return pair.forward, pair.gap

    pairings = plain_between, partial(careful_between, share=t)
    return divergence(formula, student_logits, teacher_logits, **options, pairings=pairings)


def soft_cross_entropy(
    student_logits: Array,
    teacher_logits: Array,
    *,
    temperature: float = 1.0,
    mask: Array | None = None,
    reduction: str = "mean",
) -> tuple[Array, Pullback]:
    """-sum(p log q) = KL(p || q) + the teacher's entropy: no divergence, it is not 0 at p = q.  T dD/dz = q - p.

    Hinton, Vinyals & Dean 2015, section 2.
    """

    def entropy_rows(u: Array) -> tuple[Array, None, None]:
        xp = get_array_module(u)
        logp, _ = log_softmax(u.astype(np.float64, copy=False), temperature)
        return -row_dot(xp.exp(logp), xp.where(xp.isinf(logp), 0.0, logp)), None, None

    kl, vjp = forward_kl(student_logits, teacher_logits, temperature=temperature, mask=mask, reduction=reduction)
    counted = counted_tokens(teacher_logits.shape, None, mask)
    entropy, _ = token_loss(entropy_rows, (teacher_logits,), counted, reduction, itemsize=8)
    return kl + entropy, vjp


def check_parameter(name: str, value: float, interval: str) -> None:
    """ValueError unless `value` is a number in an interval as one writes it: "[0, 1)"."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    if not (
        isinstance(value, (int, float, np.number))
        and (low < value < high or (value == low and interval[0] == "[") or (value == high and interval[-1] == "]"))
    ):
        raise ValueError(f"{name} is {value!r}; wanted a number in {interval}")


DIVERGENCES: dict[str, Divergence] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "symmetric_kl": symmetric_kl,
    "js": js,
    "generalized_jsd": generalized_jsd,
    "skew_forward_kl": skew_forward_kl,
    "skew_reverse_kl": skew_reverse_kl,
    "total_variation": total_variation,
    "alpha_divergence": alpha_divergence,
    "taid": taid,
}
"""The divergences by name."""
