"""Correct functions that are written in another way than minikd's: the oracle has to accept them."""

import math

import numpy as np

from minikd.losses.divergences import (
    forward_kl,
    generalized_jsd,
    js,
    reverse_kl,
    skew_forward_kl,
    skew_reverse_kl,
    soft_cross_entropy,
)
from minikd.losses.hard_labels import cross_entropy
from minikd.losses.objective import distillation_loss
from minikd.nn import gelu, layer_norm
from minikd.oracle.mutants.attention import between_projections, on_heads, scaled_scores, weighed
from minikd.oracle.mutants.block import activated, halves, residual
from minikd.oracle.mutants.distances import matched
from minikd.oracle.mutants.divergences import distributions
from minikd.oracle.mutants.layers import logistic
from minikd.oracle.mutants.losses import fused, fused_pair
from minikd.oracle.mutants.mixtures import own_weights
from minikd.oracle.mutants.objective import mixed
from minikd.oracle.mutants.optim import clipping, moved
from minikd.oracle.mutants.sampling import from_nucleus
from minikd.oracle.mutants.tokens import counted_by, loss_of_rows, sum_of
from minikd.oracle.subjects.pure import attention
from minikd.softmax import log_softmax, softmax

ALTERNATES = []


def correct(subject, *without):
    """Keep a function for a subject, but for the cases that have one of the flags."""

    def keep(function):
        ALTERNATES.append((subject, function, without))
        return function

    return keep


def kl_rows(p, log_p, log_m):
    return np.where(p > 0, p * (np.where(p > 0, log_p, 0) - np.where(p > 0, log_m, 0)), 0).sum(axis=-1)


def logs(z, u, temperature):
    return log_softmax(u, temperature)[0], log_softmax(z, temperature)[0]


# Layers


@correct("softmax")
def by_logarithm(logits, temperature=1.0):
    logp, vjp = log_softmax(logits, temperature)
    return np.exp(logp), lambda dp: vjp(np.exp(logp) * dp)


@correct("softmax")
def with_jacobian(logits, temperature=1.0):
    powers = np.exp((logits - logits.max(axis=-1, keepdims=True)) / temperature)
    p = powers / powers.sum(axis=-1, keepdims=True)
    jacobian = (p[..., None] * np.eye(p.shape[-1]) - p[..., None] * p[..., None, :]) / temperature
    return p, lambda dp: np.einsum("...ij,...j->...i", jacobian, dp)


@correct("log_softmax")
def by_log_sum_exp(logits, temperature=1.0):
    x = logits / temperature
    largest = x.max(axis=-1, keepdims=True)
    logp = x - largest - np.log(np.exp(x - largest).sum(axis=-1, keepdims=True))

    def vjp(dlogp):
        dlogp = np.where(np.isinf(logp), 0, dlogp)
        return (dlogp - np.exp(logp) * dlogp.sum(axis=-1, keepdims=True)) / temperature

    return logp, vjp


@correct("linear")
def by_einsum(x, weight, bias):
    def vjp(dy):
        axes = tuple(range(dy.ndim - 1))
        return np.einsum("...o,io->...i", dy, weight), np.tensordot(x, dy, (axes, axes)), dy.sum(axis=axes)

    return np.einsum("...i,io->...o", x, weight) + bias, vjp


@correct("embedding")
def by_one_hot(ids, table):
    onehot = (ids[..., None] == np.arange(len(table))).astype(float)
    axes = tuple(range(ids.ndim))
    return onehot @ table, lambda dy: np.tensordot(onehot, dy, (axes, axes))


@correct("embedding")
def by_adding(ids, table):
    def vjp(dy):
        dtable = np.zeros_like(table)
        np.add.at(dtable, ids, dy)
        return dtable

    return table[ids], vjp


@correct("gelu")
def by_logistic(x):
    c = math.sqrt(8 / math.pi)
    gate = logistic(c * (x + 0.044715 * x**3))
    slope = gate * (1 - gate) * c * (1 + 3 * 0.044715 * x * x)
    return x * gate, lambda dy: dy * (gate + x * slope)


@correct("layer_norm")
def by_mean_of_squares(x, gain, bias, *, eps=1e-5):
    mean = x.mean(axis=-1, keepdims=True)
    std = np.sqrt((x * x).mean(axis=-1, keepdims=True) - mean * mean + eps)
    normed = (x - mean) / std
    _, vjp = layer_norm(x, gain, bias, eps=eps)
    return normed * gain + bias, vjp


@correct("layer_norm")
def term_by_term(x, gain, bias, *, eps=1e-5):
    c = x.shape[-1]
    centred = x - x.sum(axis=-1, keepdims=True) / c
    variance = (centred**2).sum(axis=-1, keepdims=True) / c

    def vjp(dy):
        rows = tuple(range(x.ndim - 1))
        dnormed = dy * gain
        dvariance = (dnormed * centred).sum(axis=-1, keepdims=True) * -0.5 * (variance + eps) ** -1.5
        dcentred = dnormed / np.sqrt(variance + eps) + 2 * centred * dvariance / c
        dx = dcentred - dcentred.sum(axis=-1, keepdims=True) / c
        return dx, (dy * centred / np.sqrt(variance + eps)).sum(axis=rows), dy.sum(axis=rows)

    return centred / np.sqrt(variance + eps) * gain + bias, vjp


@correct("attention")
@weighed
def with_a_finite_mask(scores):
    weights, vjp = softmax(np.where(np.tri(scores.shape[-1], dtype=bool), scores, -1e30))
    return weights, vjp


correct("attention")(scaled_scores(lambda d: 1.0))
correct("self_attention")(between_projections(on_heads(attention)))
correct("mlp")(activated(gelu))
correct("block")(halves(residual, residual))


# Losses


@correct("cross_entropy", "mask", "ignored-label", "sum", "none")
def by_picking(logits, labels):
    logp = log_softmax(logits)[0]
    onehot = labels[..., None] == np.arange(logits.shape[-1])
    n = labels.size
    return -logp[onehot].mean(), lambda: (softmax(logits)[0] - onehot) / n


correct("linear_cross_entropy")(fused(cross_entropy))
correct("linear_distillation_loss")(fused_pair(distillation_loss))
correct("linear_distillation_loss")(fused_pair(mixed()))
correct("distillation_loss")(mixed())


@correct("soft_cross_entropy")
@loss_of_rows
def against_log_softmax(z, u, temperature):
    p, q, _ = distributions(z, u, temperature)
    log_q = log_softmax(z, temperature)[0]
    return -np.where(p > 0, p * np.where(p > 0, log_q, 0), 0).sum(axis=-1), (q - p) / temperature


@correct("forward_kl")
@loss_of_rows
def as_in_the_textbook(z, u, temperature):
    p, q, _ = distributions(z, u, temperature)
    return kl_rows(p, *logs(z, u, temperature)), (q - p) / temperature


@correct("forward_kl")
def cross_entropy_less_entropy(z, u, **own):
    own_entropy, _ = soft_cross_entropy(u, u, **own)
    loss, vjp = soft_cross_entropy(z, u, **own)
    return loss - own_entropy, vjp


@correct("forward_kl")
def with_teacher_probabilities_as_logits(z, u, *, temperature=1.0, **own):
    return forward_kl(z, temperature * log_softmax(u, temperature)[0], temperature=temperature, **own)


@correct("reverse_kl")
@loss_of_rows
def through_softmax(z, u, temperature):
    (log_p, log_q), (q, vjp) = logs(z, u, temperature), softmax(z, temperature)
    values = kl_rows(q, log_q, log_p)
    slope = np.where(q > 0, np.where(q > 0, log_q, 0) - np.where(q > 0, log_p, 0) + 1, 0)
    outside = np.isposinf(slope)  # the limit: what is outside falls, everything else rises
    limit = np.where(outside, np.inf, np.where(q > 0, -np.inf, 0))
    return values, np.where(outside.any(axis=-1, keepdims=True), limit, vjp(np.where(outside, 0, slope)))


@correct("symmetric_kl")
def sum_of_two(z, u, *, weight=0.5, **own):
    if weight in (0, 1):
        return (forward_kl if weight else reverse_kl)(z, u, **own)
    return sum_of((weight, forward_kl(z, u, **own)), (1 - weight, reverse_kl(z, u, **own)))


@correct("js")
@loss_of_rows
def with_logaddexp(z, u, temperature):
    log_p, log_q = logs(z, u, temperature)
    log_m = np.logaddexp(log_p, log_q) - math.log(2)
    p, q = np.exp(log_p), np.exp(log_q)
    _, vjp = softmax(z, temperature)
    slope = np.where(q > 0, np.where(q > 0, log_q, 0) - np.where(q > 0, log_m, 0), 0) / 2
    return (kl_rows(p, log_p, log_m) + kl_rows(q, log_q, log_m)) / 2, vjp(slope)


@correct("js")
def with_the_mixture_detached(z, u, *, temperature=1.0, **own):
    """What m contributes to the gradient sums to nothing."""
    log_m = temperature * (np.logaddexp(*logs(z, u, temperature)) - math.log(2))
    _, vjp = reverse_kl(z, log_m, temperature=temperature, **own)
    return js(z, u, temperature=temperature, **own)[0], lambda w=1.0: vjp(w) / 2


correct("generalized_jsd")(own_weights(lambda beta: beta, lambda beta: beta))


@correct("skew_forward_kl")
def as_jsd_without_its_other_half(z, u, *, alpha=0.1, **own):
    if alpha == 0:
        return forward_kl(z, u, **own)
    both, other = generalized_jsd(z, u, beta=alpha, **own), skew_reverse_kl(z, u, alpha=1 - alpha, **own)
    return sum_of((1 / alpha, both), (1 - 1 / alpha, other))


@correct("skew_reverse_kl")
def mirrored_value(z, u, **own):
    return skew_forward_kl(u, z, **own)[0], skew_reverse_kl(z, u, **own)[1]


@correct("total_variation")
@loss_of_rows
def positive_part(z, u, temperature):
    (q, vjp), p = softmax(z, temperature), softmax(u, temperature)[0]
    return np.maximum(q - p, 0).sum(axis=-1), vjp(np.where(q == p, 0.5, q > p))


@correct("alpha_divergence", "near")
def as_powers(z, u, *, alpha=0.5, temperature=1.0, **own):
    if alpha in (0, 1):
        return (forward_kl if alpha else reverse_kl)(z, u, temperature=temperature, **own)

    @loss_of_rows
    def loss(z, u, temperature):
        q, vjp = softmax(z, temperature)
        log_p, log_q = logs(z, u, temperature)
        w = np.exp(np.where(q > 0, alpha * log_p + (1 - alpha) * np.where(q > 0, log_q, 0), -np.inf))
        slope = -np.divide(w, q, out=np.zeros_like(w), where=q > 0) / alpha
        return (1 - w.sum(axis=-1)) / (alpha * (1 - alpha)), vjp(slope)

    return loss(z, u, temperature=temperature, **own)


@correct("taid")
def forward_kl_to_mixed_logits(z, u, *, t=0.5, **own):
    with np.errstate(invalid="ignore"):
        target = u if t == 1 else np.where(np.isneginf(z) | np.isneginf(u), -np.inf, (1 - t) * z + t * u)
    return forward_kl(z, target, **own)


@correct("mse_logits")
@loss_of_rows
def mean_of_squares(z, u, temperature):
    gap = np.where(np.isinf(z), 0, z - u)
    return (gap**2).mean(axis=-1), 2 * gap / z.shape[-1]


@correct("cosine_logits")
@loss_of_rows
def of_unit_vectors(z, u, temperature):
    z, u = (np.where(np.isinf(x), 0, x) for x in (z, u))
    length = np.linalg.norm(z, axis=-1, keepdims=True)
    a, b = z / length, u / np.linalg.norm(u, axis=-1, keepdims=True)
    cosine = (a * b).sum(axis=-1)
    return 1 - cosine, (cosine[:, None] * a - b) / length


correct("universal_logit_distance")(matched(lambda x: np.argsort(-x, axis=-1)))


@correct("decoupled_kd", "one-class", "minus-infinity", "extreme")
def label_and_rest(z, u, labels, *, alpha=1.0, beta=8.0, temperature=1.0, mask=None, reduction="mean"):
    """Two KLs: over (label, rest), and over the rest with the label at -inf."""
    counted = counted_by((labels,), mask, labels.shape)
    onehot = np.arange(z.shape[-1]) == labels[..., None]
    own = {"temperature": temperature, "mask": counted, "reduction": reduction}
    others, vjp_others = forward_kl(*(np.where(onehot, -np.inf, x) for x in (z, u)), **own)
    at = np.maximum(labels, 0)[..., None]

    def two_classes(x):
        label = np.take_along_axis(x, at, axis=-1) / temperature
        rest = np.where(onehot, -np.inf, x) / temperature
        largest = rest.max(axis=-1, keepdims=True)
        return np.concatenate((label, largest + np.log(np.exp(rest - largest).sum(axis=-1, keepdims=True))), axis=-1)

    target, vjp_target = forward_kl(two_classes(z), two_classes(u), **{**own, "temperature": 1.0})
    share = softmax(np.where(onehot, -np.inf, z), temperature)[0]

    def vjp(w=1.0):
        dlabel, drest = np.moveaxis(vjp_target(w)[..., None], -2, 0)
        return alpha * (np.where(onehot, dlabel, drest * share)) / temperature + beta * vjp_others(w)

    return alpha * target + beta * others, vjp


# Sparse and hidden


@correct("top_k_teacher")
def by_sorting(logits, k, *, temperature=1.0):
    ids = np.argsort(-logits, axis=-1)[..., :k]
    return ids, np.take_along_axis(log_softmax(logits, temperature)[0], ids, axis=-1)


@correct("mse_hidden", "mask", "none", "sum")
def matrix_product(student, teacher, projection):
    gap = student @ projection - teacher
    c = 2 / gap.size
    return (gap**2).mean(), lambda: (c * gap @ projection.T, c * np.tensordot(student, gap, ((0, 1), (0, 1))))


# Steps

correct("clip_by_global_norm")(clipping(lambda norm, most: min(1.0, most / norm) if norm else 1.0))
correct("adamw_step")(moved(lambda m, v, c1, c2, eps: m / c1 / (np.sqrt(v / c2) + eps)))
correct("sample_token")(from_nucleus(lambda p, top_p: p.cumsum(axis=-1) - p < top_p))


@correct("cosine_schedule")
def half_a_cosine(step, *, peak, warmup_steps, steps, final=0.0):
    if step < warmup_steps:
        return peak / warmup_steps * (step + 1)
    share = math.cos(math.pi / 2 * (step - warmup_steps) / (steps - warmup_steps)) ** 2
    return share * peak + (1 - share) * final


@correct("distill_step")
def on_logits(hidden, labels, student, teacher, *, alpha=0.5, temperature=2.0, learning_rate=0.5):
    own = {"alpha": alpha, "temperature": temperature}
    loss, vjp = distillation_loss(hidden @ student.T, hidden @ teacher.T, labels, **own)
    return student - learning_rate * vjp().T @ hidden, loss


@correct("codistill_step")
def one_after_the_other(hidden, labels, student, teacher, *, learning_rate=0.5, mutual=False, **own):
    z, u = hidden @ student.T, hidden @ teacher.T
    own = {"temperature": 2.0, "alpha": 0.5, **own}
    student_loss, student_vjp = distillation_loss(z, u, labels, **own)
    teacher_loss, teacher_vjp = distillation_loss(u, z, labels, **own) if mutual else cross_entropy(u, labels)
    student = student - learning_rate * student_vjp().T @ hidden
    teacher = teacher - learning_rate * teacher_vjp().T @ hidden
    return student, teacher, student_loss, teacher_loss
