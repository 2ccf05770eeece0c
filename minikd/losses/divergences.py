"""The divergences between teacher p = softmax(u / T) and student q = softmax(z / T): a formula and its slope each.

All are in nats, 0 if and only if p = q, never negative, and carry no T^2. All are called alike: student logits and
teacher logits (..., V); mask (...) bool, True where a token counts -> loss; vjp(w) -> dstudent. The teacher is a
constant. `reduction`: mean over the counted tokens, sum, or none (loss and w are then (...)). ValueError: T not above
0, shapes or vocabularies that differ, a mean over no token.
"""

from collections.abc import Callable

from minikd.backend import Array, get_array_module, row_dot
from minikd.losses.pair import Careful, Plain, divergence
from minikd.losses.tokens import Pullback, counted_tokens, token_loss
from minikd.softmax import log_softmax

Pair = Plain | Careful
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
        return pair.kl(pair.p, pair.q, pair.log_ratio), pair.gap

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
        return pair.kl(pair.q, pair.p, -pair.log_ratio), pair.pull(pair.centred_ratio)

    return divergence(formula, student_logits, teacher_logits, temperature, mask, reduction)


def js(
    student_logits: Array,
    teacher_logits: Array,
    *,
    temperature: float = 1.0,
    mask: Array | None = None,
    reduction: str = "mean",
) -> tuple[Array, Pullback]:
    """KL(p || m) / 2 + KL(q || m) / 2 with m = (p + q) / 2.  T dD/dz = q (log q/m - KL(q || m)) / 2.

    At most log 2. Lin 1991, eq. 4.1.
    """

    def formula(pair: Pair) -> tuple[Array, Array]:
        m, log_m_p, log_m_q, log_q_m = pair.mixture(0.5)
        return (pair.kl(pair.p, m, log_m_p) + pair.kl(pair.q, m, log_m_q)) / 2, pair.pull(log_q_m / 2)

    return divergence(formula, student_logits, teacher_logits, temperature, mask, reduction)


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
        logp, _ = log_softmax(u, temperature)
        return -row_dot(xp.exp(logp), xp.where(xp.isinf(logp), logp.dtype.type(0), logp)), None, None

    kl, vjp = forward_kl(student_logits, teacher_logits, temperature=temperature, mask=mask, reduction=reduction)
    counted = counted_tokens(teacher_logits.shape, None, mask)
    entropy, _ = token_loss(entropy_rows, (teacher_logits,), counted, reduction, itemsize=8)
    return kl + entropy, vjp


DIVERGENCES: dict[str, Divergence] = {"forward_kl": forward_kl, "reverse_kl": reverse_kl, "js": js}
"""The divergences by name."""
