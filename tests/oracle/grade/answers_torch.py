"""What a good student hands in: the losses as plain functions in PyTorch, whose gradients PyTorch takes."""

import math

import torch
import torch.nn.functional as F


def softmax(logits, temperature=1.0):
    return torch.softmax(logits / temperature, dim=-1)


def log_softmax(logits, temperature=1.0):
    return torch.log_softmax(logits / temperature, dim=-1)


def layer_norm(x, gain, bias, *, eps=1e-5):
    return F.layer_norm(x, x.shape[-1:], gain, bias, eps)


def gelu(x):
    return F.gelu(x, approximate="tanh")


def attention(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def reduced(losses, counted, reduction):
    """The losses (n,) of the tokens that count, reduced."""
    if reduction == "none":
        return torch.zeros(counted.shape, dtype=losses.dtype).masked_scatter(counted, losses)
    return losses.mean() if reduction == "mean" else losses.sum()


def counted_in(logits, mask, labels=None):
    counted = torch.ones(logits.shape[:-1], dtype=torch.bool) if mask is None else mask
    return counted if labels is None else counted & (labels != -100)


def over_tokens(rows):
    """A loss from the losses rows(z (n, V), u (n, W), temperature, ...) of the tokens that count."""

    def loss(student_logits, teacher_logits, *, temperature=1.0, mask=None, reduction="mean", **own):
        counted = counted_in(student_logits, mask)
        return reduced(rows(student_logits[counted], teacher_logits[counted], temperature, **own), counted, reduction)

    return loss


def times(p, x):
    """p x, 0 with gradient 0 where p is 0."""
    return p * torch.where(p > 0, x, 0)


def kl(log_p, log_q):
    return times(log_p.exp(), log_p - log_q).sum(-1)


def log_mixture(share, log_p, log_q):
    """log(share p + (1 - share) q), -inf with gradient 0 where both are 0."""
    if share in (0, 1):
        return log_p if share else log_q
    neither = torch.isneginf(log_p) & torch.isneginf(log_q)
    log_p, log_q = (torch.where(neither, 0, x) for x in (log_p, log_q))
    return torch.where(neither, -math.inf, torch.logaddexp(log_p + math.log(share), log_q + math.log(1 - share)))


@over_tokens
def soft_cross_entropy(z, u, temperature):
    return -times(softmax(u, temperature), log_softmax(z, temperature)).sum(-1)


@over_tokens
def forward_kl(z, u, temperature):
    return kl(log_softmax(u, temperature), log_softmax(z, temperature))


@over_tokens
def reverse_kl(z, u, temperature):
    return kl(log_softmax(z, temperature), log_softmax(u, temperature))


def symmetric_kl(*arrays, weight=0.5, **own):
    terms = [(weight, forward_kl), (1 - weight, reverse_kl)]
    return sum(w * f(*arrays, **own) for w, f in terms if w)


@over_tokens
def total_variation(z, u, temperature):
    return (softmax(u, temperature) - softmax(z, temperature)).abs().sum(-1) / 2


@over_tokens
def generalized_jsd(z, u, temperature, beta=0.5, scaled=False):
    log_p, log_q = log_softmax(u, temperature), log_softmax(z, temperature)
    if beta in (0, 1):
        return kl(log_q, log_p) if beta else kl(log_p, log_q)
    log_m = log_mixture(beta, log_p, log_q)
    loss = beta * kl(log_p, log_m) + (1 - beta) * kl(log_q, log_m)
    return loss / (beta * (1 - beta)) if scaled else loss


def js(*arrays, **own):
    return generalized_jsd(*arrays, **own)


@over_tokens
def skew_forward_kl(z, u, temperature, alpha=0.1):
    log_p, log_q = log_softmax(u, temperature), log_softmax(z, temperature)
    return kl(log_p, log_mixture(alpha, log_p, log_q))


@over_tokens
def skew_reverse_kl(z, u, temperature, alpha=0.1):
    log_p, log_q = log_softmax(u, temperature), log_softmax(z, temperature)
    return kl(log_q, log_mixture(1 - alpha, log_p, log_q))


@over_tokens
def alpha_divergence(z, u, temperature, alpha=0.5):
    log_p, log_q = log_softmax(u, temperature), log_softmax(z, temperature)
    if alpha in (0, 1):
        return kl(log_p, log_q) if alpha else kl(log_q, log_p)
    return (1 - (alpha * log_p + (1 - alpha) * log_q).exp().sum(-1)) / (alpha * (1 - alpha))


def between(share, z, u):
    """(1 - share) z + share u, -inf where either is."""
    return torch.where(torch.isneginf(z) | torch.isneginf(u), -math.inf, (1 - share) * z + share * u)


@over_tokens
def taid(z, u, temperature, t=0.5):
    target = u if t == 1 else between(t, z.detach(), u) if t else z.detach()
    return kl(log_softmax(target, temperature), log_softmax(z, temperature))


def finite_gap(z, u):
    return torch.where(torch.isneginf(z) & torch.isneginf(u), 0, z - u)


@over_tokens
def mse_logits(z, u, temperature):
    return (finite_gap(z, u) ** 2).mean(-1)


@over_tokens
def cosine_logits(z, u, temperature):
    neither = torch.isneginf(z) & torch.isneginf(u)
    z, u = (torch.where(neither, 0, x) for x in (z, u))
    return 1 - F.cosine_similarity(z, u, dim=-1)


@over_tokens
def universal_logit_distance(z, u, temperature):
    p, q = softmax(u, temperature), softmax(z, temperature)
    width = max(p.shape[-1], q.shape[-1])
    p, q = (F.pad(x.sort(dim=-1, descending=True).values, (0, width - x.shape[-1])) for x in (p, q))
    return (p - q).abs().sum(-1)


def cross_entropy(logits, labels, *, mask=None, reduction="mean"):
    counted = counted_in(logits, mask, labels)
    return reduced(F.cross_entropy(logits[counted], labels[counted], reduction="none"), counted, reduction)


def distillation_loss(
    student_logits, teacher_logits, labels, *, alpha=0.5, temperature=2.0, mask=None, reduction="mean"
):
    counted = counted_in(student_logits, mask, labels)
    alpha = alpha[counted] if torch.is_tensor(alpha) else alpha
    z, u = student_logits[counted], teacher_logits[counted]
    soft = temperature**2 * kl(log_softmax(u, temperature), log_softmax(z, temperature))
    hard = F.cross_entropy(z, labels[counted], reduction="none")
    return reduced(alpha * soft + (1 - alpha) * hard, counted, reduction)


def linear_cross_entropy(hidden, weight, labels, **own):
    return cross_entropy(hidden @ weight.T, labels, **own)


def linear_distillation_loss(student_hidden, student_weight, teacher_hidden, teacher_weight, labels, **own):
    return distillation_loss(student_hidden @ student_weight.T, teacher_hidden @ teacher_weight.T, labels, **own)


def split(logits, labels, temperature):
    """log(p_label), log(1 - p_label), and the logits without the label."""
    at_label = F.one_hot(labels, logits.shape[-1]).bool()
    rest = torch.where(at_label, -math.inf, logits / temperature)
    total = torch.logsumexp(logits / temperature, dim=-1)
    return (logits / temperature)[at_label] - total, torch.logsumexp(rest, dim=-1) - total, rest


def decoupled_kd(
    student_logits, teacher_logits, labels, *, alpha=1.0, beta=8.0, temperature=1.0, mask=None, reduction="mean"
):
    counted = counted_in(student_logits, mask, labels)
    label_q, others_q, rest_q = split(student_logits[counted], labels[counted], temperature)
    label_p, others_p, rest_p = split(teacher_logits[counted], labels[counted], temperature)
    target = times(label_p.exp(), label_p - label_q) + times(others_p.exp(), others_p - others_q)
    alone = torch.isneginf(rest_p).all(-1) | torch.isneginf(rest_q).all(-1)
    rest_p, rest_q = (torch.where(alone[:, None], 0, x) for x in (rest_p, rest_q))
    return reduced(alpha * target + beta * kl(log_softmax(rest_p), log_softmax(rest_q)), counted, reduction)


def top_k_teacher(logits, k, *, temperature=1.0):
    logprobs, ids = log_softmax(logits, temperature).topk(k, dim=-1)
    return ids, logprobs


def sparse_kl(student_logits, ids, logprobs, *, tail="bucket", temperature=1.0, mask=None, reduction="mean"):
    counted = counted_in(student_logits, mask)
    log_q, log_p, ids = log_softmax(student_logits[counted], temperature), logprobs[counted], ids[counted]
    at_ids = log_q.gather(-1, ids)
    losses = kl(log_softmax(log_p), log_softmax(at_ids)) if tail == "renormalize" else kl(log_p, at_ids)
    if tail == "bucket":
        left = torch.log1p(-log_p.exp().sum(-1))
        others = torch.logsumexp(log_q.scatter(-1, ids, -math.inf), dim=-1)
        losses = losses + times(left.exp(), left - others)
    return reduced(losses, counted, reduction)


def mse_hidden(student, teacher, projection=None, *, mask=None, reduction="mean"):
    counted = counted_in(student, mask)
    s = student[counted] if projection is None else student[counted] @ projection
    return reduced(((s - teacher[counted]) ** 2).mean(-1), counted, reduction)


def cosine_hidden(student, teacher, *, mask=None, reduction="mean"):
    counted = counted_in(student, mask)
    s, t = student[counted], teacher[counted]
    there = (s != 0).any(-1) & (t != 0).any(-1)
    losses = torch.ones(len(s), dtype=s.dtype).masked_scatter(
        there, 1 - F.cosine_similarity(s[there], t[there], dim=-1)
    )
    return reduced(losses, counted, reduction)


def attention_transfer(student, teacher, *, mask=None, reduction="mean"):
    counted = counted_in(student, mask)
    maps = [torch.where(counted, (x**2).sum(-1), 0) for x in (student, teacher)]
    sequences = counted.any(-1)
    q_s, q_t = (F.normalize(x[sequences], dim=-1) for x in maps)
    return reduced(((q_s - q_t) ** 2).sum(-1) / 2, sequences, reduction)


def relation_kd(student, teacher, *, n_head, mask=None, reduction="mean"):
    counted = counted_in(student, mask)

    def relations(x):
        heads = x.unflatten(-1, (n_head, -1)).transpose(-3, -2)
        scores = heads @ heads.transpose(-1, -2) / math.sqrt(heads.shape[-1])
        return torch.log_softmax(torch.where(counted[..., None, None, :], scores, -math.inf), dim=-1)

    losses = kl(relations(teacher), relations(student)).mean(-2)
    return reduced(losses[counted], counted, reduction)


def minillm_loss(
    student_logits,
    teacher_logits,
    tokens,
    *,
    alpha=0.2,
    single_step=True,
    length_normalize=True,
    mask=None,
    reduction="mean",
):
    counted = counted_in(student_logits, mask, tokens)
    log_q, log_p = log_softmax(student_logits), log_softmax(teacher_logits)
    said = tokens.clamp(min=0)[..., None]
    at_q, at_p = (torch.where(counted, x.gather(-1, said)[..., 0], 0) for x in (log_q, log_p))
    ratio = (at_p - at_q).detach()
    weight = 1 / (alpha * ratio.exp() + 1 - alpha)
    to_go = ratio.flip(-1).cumsum(-1).flip(-1)
    number = counted.long().flip(-1).cumsum(-1).flip(-1)
    if single_step:
        to_go, number = (F.pad(x[..., 1:], (0, 1)) for x in (to_go, number))
    if length_normalize:
        to_go = to_go / number.clamp(min=1)
    long_part = -(to_go if single_step else to_go - 1) * at_q
    losses = (weight * long_part)[counted]
    if single_step:
        losses = losses + weight[counted] * kl(log_q[counted], log_p[counted])
    return reduced(losses, counted, reduction)


def cosine_schedule(step, *, peak, warmup_steps, steps, final=0.0):
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return final + (peak - final) * (1 + math.cos(math.pi * (step - warmup_steps) / (steps - warmup_steps))) / 2


def adamw_step(
    parameter, gradient, first, second, *, updates, learning_rate, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.1
):
    p = parameter.clone().requires_grad_()
    p.grad = gradient
    decay = weight_decay if parameter.ndim == 2 else 0.0
    optimizer = torch.optim.AdamW([p], lr=learning_rate, betas=(beta1, beta2), eps=eps, weight_decay=decay)
    optimizer.state[p] = {"step": torch.tensor(float(updates)), "exp_avg": first.clone(), "exp_avg_sq": second.clone()}
    optimizer.step()
    state = optimizer.state[p]
    return p, state["exp_avg"], state["exp_avg_sq"]
