"""Decoupled knowledge distillation: how sure of the label, and how the rest is shared, weighed apart."""

from dataclasses import dataclass

import numpy as np

from minikd.backend import Array, get_array_module, row_sum
from minikd.losses.careful import Careful, Difference, careful, difference_of, powers
from minikd.losses.divergences import check_parameter
from minikd.losses.pair import Pair, Plain, divergence, plain
from minikd.losses.tokens import Pullback
from minikd.softmax import take


def decoupled_kd(
    student_logits: Array,
    teacher_logits: Array,
    labels: Array,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 1.0,
    mask: Array | None = None,
    reduction: str = "mean",
) -> tuple[Array, Pullback]:
    """alpha KL of (p_label, 1 - p_label) to (q_label, 1 - q_label) + beta KL between p and q without the label.

    Logits (..., V), labels (...) integers, -100 where a token does not count -> loss in nats; vjp(w) -> dstudent. With
    beta = 1 - p_label it would be `forward_kl`. 0 for the second part where one side has no mass beside the label.
    Masks, reductions and errors as in `forward_kl` and `cross_entropy`; ValueError also: alpha or beta below 0, or both
    0. Zhao et al. 2022 (DKD), eq. 7, without the T^2 of their code.
    """
    check_parameter("alpha", alpha, "[0, inf)")
    check_parameter("beta", beta, "[0, inf)")
    larger = max(alpha, beta)
    if larger == 0:
        raise ValueError("alpha and beta are 0; wanted at least one of them above 0")

    def formula(parts: Parts) -> tuple[Array, Array]:
        target, others = parts.target, parts.others
        value = sum(weight / larger * part.forward for weight, part in ((alpha, target), (beta, others)) if weight)
        # the label's share moves at the cost of all others, in proportion to what they have
        moved = alpha / larger * target.gap[:, 0]
        gradient = beta / larger * others.gap - others.q * moved[:, None]
        gradient[get_array_module(moved).arange(len(moved)), parts.labels] = moved
        return value, gradient

    return divergence(
        formula,
        student_logits,
        teacher_logits,
        temperature,
        mask,
        reduction,
        divisor=1 / larger,
        labels=labels,
        pairings=(_plain_parts, _careful_parts),
    )


@dataclass
class Parts:
    """The label against all others (two classes, the label first), and the others among themselves."""

    target: Pair
    others: Pair
    labels: Array


def _plain_parts(z: Array, u: Array, labels: Array, temperature: float) -> Parts:
    whole = plain(z, u, temperature)
    at_label = np.arange(len(z)), labels
    p, q = whole.p.copy(), whole.q.copy()
    p[at_label] = q[at_label] = 0
    rest_p, rest_q = row_sum(p), row_sum(q)
    log_ratio = np.log(rest_q / rest_p)
    rest_p[rest_p < 1e-250] = np.nan  # its largest entries may have lost digits
    target = Plain(
        np.stack((whole.p[at_label], rest_p), axis=-1),
        np.stack((whole.q[at_label], rest_q), axis=-1),
        np.stack((whole.log_ratio[at_label], log_ratio), axis=-1),
    )
    p *= (1 / rest_p)[:, None]
    q *= (1 / rest_q)[:, None]
    return Parts(target, Plain(p, q, whole.log_ratio - log_ratio[:, None]), labels)


def _careful_parts(z: Array, u: Array, labels: Array, temperature: float) -> Parts:
    xp = get_array_module(z)
    z, u = z.astype(np.float64), u.astype(np.float64)
    rows = xp.arange(len(z))
    z_label, u_label = z[rows, labels], u[rows, labels]
    difference = difference_of(z, u, temperature)
    neither = (z_label == -np.inf) & (u_label == -np.inf)
    z[rows, labels] = u[rows, labels] = -np.inf
    alone_z, alone_u = (x.max(axis=-1) == -np.inf for x in (z, u))
    # a side that has nothing beside the label gets the other's logits there: nothing is then to be compared
    z, u = xp.where(alone_z[:, None], u, z), xp.where(alone_u[:, None], z, u)
    nothing = (alone_z & alone_u)[:, None]
    z, u = xp.where(nothing, 0.0, z), xp.where(nothing, 0.0, u)
    others = careful(z, u, temperature)

    # two classes: the label, and all others with the logarithm of their sum; and how z and u differ in the one and the
    # other, which is accurate if both are relative to the same entry, where the others have mass on both sides
    largest_z, largest_u = z.max(axis=-1), u.max(axis=-1)
    rest_z = xp.where(alone_z, -np.inf, others.student.log_total)
    rest_u = xp.where(alone_u, -np.inf, others.teacher.log_total)
    log_mean = xp.where(alone_z | alone_u, rest_z - rest_u, others.log_mean)
    apart = xp.isinf(take(others.student.x + others.teacher.x, others.centre))
    log_mean = xp.where(apart, (largest_z - largest_u) / temperature + rest_z - rest_u, log_mean)
    classes = xp.stack((take(difference.centred(others.centre), labels), log_mean), axis=-1)
    target = Careful(
        powers(xp.stack(((z_label - largest_z) / temperature, rest_z), axis=-1), temperature=1.0),
        powers(xp.stack(((u_label - largest_u) / temperature, rest_u), axis=-1), temperature=1.0),
        Difference(classes, xp.zeros_like(classes), xp.stack((neither, alone_z & alone_u), axis=-1), 1.0),
    )
    return Parts(target, others, labels)
