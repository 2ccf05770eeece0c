"""The losses as formulas: of each token (...), and then of those that count."""

from collections.abc import Callable
from typing import Any

import mpmath as mp
import numpy as np

from minikd.oracle.exact.traced import absolute, exp, held, log, sqrt

Formula = Callable[..., Any]
Mask = np.ndarray | None


def over_tokens(losses: Any, reduction: str = "mean", mask: Mask = None, labels: Mask = None) -> Any:
    """Their mean, their sum, or all of them, 0 where a token does not count."""
    counted = np.ones(losses.shape, dtype=bool) if mask is None else mask
    if labels is not None:
        counted = counted & (labels != -100)
    if reduction == "none":
        return losses * counted
    total = (losses * counted).sum()
    return total / mp.mpf(int(counted.sum())) if reduction == "mean" else total


def softmax(logits: Any, temperature: Any = 1) -> Any:
    powers = exp((logits - held(logits).max(axis=-1, keepdims=True)) / temperature)
    return powers / powers.sum(axis=-1, keepdims=True)


def onehot(labels: np.ndarray, like: Any) -> np.ndarray:
    """1 at the label (at class 0 where there is none), for logits (..., V)."""
    return np.equal(np.maximum(labels, 0)[..., None], np.arange(like.shape[-1])).astype(int)


# Between the teacher's p and the student's q (..., V)


def kl(p: Any, q: Any) -> Any:
    return (p * log(p / q)).sum(axis=-1)


def cross(p: Any, q: Any) -> Any:
    return -(p * log(q)).sum(axis=-1)


def generalized_jsd(p: Any, q: Any, *, beta: Any, scaled: bool) -> Any:
    if scaled and beta in (0, 1):
        return kl(p, q) if beta == 0 else kl(q, p)
    m = beta * p + (1 - beta) * q
    value = beta * kl(p, m) + (1 - beta) * kl(q, m)
    return value / (beta * (1 - beta)) if scaled else value


def alpha_divergence(p: Any, q: Any, *, alpha: Any) -> Any:
    if alpha in (0, 1):
        return kl(p, q) if alpha == 1 else kl(q, p)
    return (1 - (p**alpha * q ** (1 - alpha)).sum(axis=-1)) / (alpha * (1 - alpha))


def total_variation(p: Any, q: Any) -> Any:
    return absolute(p - q).sum(axis=-1) / 2


def universal_logit_distance(p: Any, q: Any) -> Any:
    p, q = descending(p), descending(q)
    common = min(p.shape[-1], q.shape[-1])
    longer = p if p.shape[-1] > common else q
    return absolute(p[..., :common] - q[..., :common]).sum(axis=-1) + longer[..., common:].sum(axis=-1)


def descending(p: Any) -> Any:
    rows = p.reshape(-1, p.shape[-1])
    order = np.argsort(-held(rows), axis=-1, kind="stable")
    return rows[np.arange(len(order))[:, None], order].reshape(*p.shape)


BETWEEN: dict[str, Formula] = {
    "forward_kl": kl,
    "reverse_kl": lambda p, q: kl(q, p),
    "symmetric_kl": lambda p, q, weight: weight * kl(p, q) + (1 - weight) * kl(q, p),
    "js": lambda p, q: generalized_jsd(p, q, beta=mp.mpf(1) / 2, scaled=False),
    "generalized_jsd": generalized_jsd,
    "skew_forward_kl": lambda p, q, alpha: kl(p, alpha * p + (1 - alpha) * q),
    "skew_reverse_kl": lambda p, q, alpha: kl(q, (1 - alpha) * p + alpha * q),
    "total_variation": total_variation,
    "alpha_divergence": alpha_divergence,
    "soft_cross_entropy": cross,
    "universal_logit_distance": universal_logit_distance,
}
"""The losses between two distributions."""


def on_logits(formula: Formula) -> Formula:
    """A loss between p and q as one of logits."""

    def loss(
        student_logits: Any,
        teacher_logits: Any,
        *,
        temperature: Any,
        reduction: str,
        mask: Mask = None,
        **own: Any,
    ) -> Any:
        losses = formula(softmax(teacher_logits, temperature), softmax(student_logits, temperature), **own)
        return over_tokens(losses, reduction, mask)

    return loss


# On logits, and on labels


def taid(
    student_logits: Any, teacher_logits: Any, *, t: Any, temperature: Any, reduction: str, mask: Mask = None
) -> Any:
    between = (1 - t) * held(student_logits) + t * teacher_logits
    losses = kl(softmax(between, temperature), softmax(student_logits, temperature))
    return over_tokens(losses, reduction, mask)


def mse_logits(student_logits: Any, teacher_logits: Any, *, reduction: str, mask: Mask = None) -> Any:
    losses = ((student_logits - teacher_logits) ** 2).sum(axis=-1) / student_logits.shape[-1]
    return over_tokens(losses, reduction, mask)


def cosine_distance(a: Any, b: Any) -> Any:
    """1 - cos(a, b) of each row; 1, whatever the row, where one of them is 0."""
    sizes = [(x * x).sum(axis=-1) for x in (a, b)]
    directed = (held(sizes[0]) != 0) & (held(sizes[1]) != 0)
    norms = [sqrt(size + ~directed) for size in sizes]
    return 1 - (a * b).sum(axis=-1) / (norms[0] * norms[1]) * directed


def cosine_logits(student_logits: Any, teacher_logits: Any, *, reduction: str, mask: Mask = None) -> Any:
    return over_tokens(cosine_distance(student_logits, teacher_logits), reduction, mask)


def cross_entropy(logits: Any, labels: np.ndarray, *, reduction: str, mask: Mask = None) -> Any:
    return over_tokens(cross(onehot(labels, logits), softmax(logits)), reduction, mask, labels)


def distillation_loss(
    student_logits: Any,
    teacher_logits: Any,
    labels: np.ndarray,
    *,
    alpha: Any,
    temperature: Any,
    reduction: str,
    mask: Mask = None,
) -> Any:
    soft = kl(softmax(teacher_logits, temperature), softmax(student_logits, temperature))
    hard = cross(onehot(labels, student_logits), softmax(student_logits))
    return over_tokens(alpha * temperature**2 * soft + (1 - alpha) * hard, reduction, mask, labels)


def decoupled_kd(
    student_logits: Any,
    teacher_logits: Any,
    labels: np.ndarray,
    *,
    alpha: Any,
    beta: Any,
    temperature: Any,
    reduction: str,
    mask: Mask = None,
) -> Any:
    p, q = softmax(teacher_logits, temperature), softmax(student_logits, temperature)
    label = onehot(labels, student_logits)
    if label.shape[-1] == 1:
        return over_tokens(kl(p, q), reduction, mask, labels)
    rest_p, rest_q = ((x * (1 - label)).sum(axis=-1) for x in (p, q))
    log_rest = log(rest_p / rest_q)
    target = (p * label * log(p / q)).sum(axis=-1) + rest_p * log_rest
    others = (p * (1 - label) * log(p / q)).sum(axis=-1) / rest_p - log_rest
    return over_tokens(alpha * target + beta * others, reduction, mask, labels)


def sparse_kl(
    student_logits: Any,
    ids: np.ndarray,
    logprobs: Any,
    *,
    tail: str,
    temperature: Any,
    reduction: str,
    mask: Mask = None,
) -> Any:
    kept = np.equal(ids[..., None], np.arange(student_logits.shape[-1])).astype(int)
    p, q = exp(logprobs), (softmax(student_logits, temperature)[..., None, :] * kept).sum(axis=-1)
    all_kept = ids.shape[-1] == student_logits.shape[-1]  # so that nothing is left for a bucket
    if tail == "renormalize" or (tail == "bucket" and all_kept):
        return over_tokens(kl(*(x / x.sum(axis=-1, keepdims=True) for x in (p, q))), reduction, mask)
    losses = kl(p, q)
    if tail == "bucket":
        rest_p, rest_q = (1 - x.sum(axis=-1) for x in (p, q))
        losses = losses + rest_p * log(rest_p / rest_q)
    return over_tokens(losses, reduction, mask)


def linear_cross_entropy(hidden: Any, weight: Any, labels: np.ndarray, *, reduction: str, mask: Mask = None) -> Any:
    return cross_entropy(hidden @ weight.swapaxes(0, 1), labels, reduction=reduction, mask=mask)


def linear_distillation_loss(
    student_hidden: Any,
    student_weight: Any,
    teacher_hidden: Any,
    teacher_weight: Any,
    labels: np.ndarray,
    **options: Any,
) -> Any:
    student, teacher = student_hidden @ student_weight.swapaxes(0, 1), teacher_hidden @ teacher_weight.swapaxes(0, 1)
    return distillation_loss(student, teacher, labels, **options)


# On hidden states


def mse_hidden(student: Any, teacher: Any, projection: Any = None, *, reduction: str, mask: Mask = None) -> Any:
    return mse_logits(projected(student, projection), teacher, reduction=reduction, mask=mask)


def cosine_hidden(student: Any, teacher: Any, projection: Any = None, *, reduction: str, mask: Mask = None) -> Any:
    return over_tokens(cosine_distance(projected(student, projection), teacher), reduction, mask)


def projected(student: Any, projection: Any) -> Any:
    return student if projection is None else student @ projection


def attention_transfer(student: Any, teacher: Any, *, reduction: str, mask: Mask = None) -> Any:
    counted = np.ones(student.shape[:-1], dtype=bool) if mask is None else mask
    maps = ((x * x).sum(axis=-1) * counted for x in (student, teacher))
    return over_tokens(cosine_distance(*maps), reduction, np.asarray(counted.any(axis=-1)))


def relation_kd(student: Any, teacher: Any, *, n_head: int, reduction: str, mask: Mask = None) -> Any:
    counted = np.ones(student.shape[:-1], dtype=bool) if mask is None else mask
    unseen = ~counted[..., None, None, :] * -mp.mpf("1e40")

    def relations(x: Any) -> Any:
        *tokens, width = x.shape
        heads = x.reshape(*tokens, n_head, width // n_head).swapaxes(-2, -3)
        return softmax(heads @ heads.swapaxes(-1, -2) / mp.sqrt(width // n_head) + unseen)

    losses = kl(relations(teacher), relations(student))
    return over_tokens(losses.sum(axis=-2) / n_head, reduction, mask)


# On sequences


def minillm_loss(
    student_logits: Any,
    teacher_logits: Any,
    tokens: np.ndarray,
    *,
    alpha: Any,
    single_step: bool,
    length_normalize: bool,
    reduction: str,
    mask: Mask = None,
) -> Any:
    counted = (np.ones(tokens.shape, dtype=bool) if mask is None else mask) & (tokens != -100)
    p, q, said = softmax(teacher_logits), softmax(student_logits), onehot(tokens, student_logits)
    p_said, q_said = (p * said).sum(axis=-1), (q * said).sum(axis=-1)
    weight = held(q_said) / (alpha * p_said + (1 - alpha) * held(q_said))
    reward, number = to_go(log(p_said / held(q_said)) * counted), to_go(counted.astype(int))
    if single_step:
        reward, number = (np.concatenate((x[..., 1:], x[..., :1] * 0), axis=-1) for x in (reward, number))
    if length_normalize:
        reward = reward / np.maximum(number, 1)
    long_part = -log(q_said) * (reward if single_step else reward - 1)
    return over_tokens(weight * (kl(q, p) + long_part if single_step else long_part), reduction, counted)


def to_go(x: np.ndarray) -> np.ndarray:
    """The sum of each entry and all that follow."""
    return x[..., ::-1].cumsum(axis=-1)[..., ::-1]


LOSSES: dict[str, Formula] = {name: on_logits(formula) for name, formula in BETWEEN.items()}
LOSSES |= {
    formula.__name__: formula
    for formula in (
        taid,
        mse_logits,
        cosine_logits,
        cross_entropy,
        distillation_loss,
        decoupled_kd,
        sparse_kl,
        linear_cross_entropy,
        linear_distillation_loss,
        mse_hidden,
        cosine_hidden,
        attention_transfer,
        relation_kd,
        minillm_loss,
    )
}
"""All losses by name."""
