"""What a good student hands in: the textbook's forms in NumPy, careful about overflow, -inf and masks."""

import math

import numpy as np


def softmax(logits, temperature=1.0):
    z = logits / temperature
    p = np.exp(z - z.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    return p, lambda dp: p * (dp - (p * dp).sum(axis=-1, keepdims=True)) / temperature


def log_softmax(logits, temperature=1.0):
    z = logits / temperature
    z = z - z.max(axis=-1, keepdims=True)
    logp = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))

    def vjp(dlogp):
        dlogp = np.where(np.isinf(logp), 0, dlogp).astype(dlogp.dtype)
        return (dlogp - np.exp(logp) * dlogp.sum(axis=-1, keepdims=True)) / temperature

    return logp, vjp


def linear(x, weight, bias):
    rows = x.reshape(-1, weight.shape[0])
    y = (rows @ weight + bias).reshape(*x.shape[:-1], weight.shape[1])

    def vjp(dy):
        dy = dy.reshape(-1, weight.shape[1])
        return (dy @ weight.T).reshape(x.shape), rows.T @ dy, dy.sum(axis=0)

    return y, vjp


def embedding(ids, table):
    def vjp(dy):
        dtable = np.zeros_like(table)
        np.add.at(dtable, ids, dy)
        return dtable

    return table[ids], vjp


def gelu(x):
    c = math.sqrt(2 / math.pi)
    t = np.tanh(c * (x + 0.044715 * x * x * x))
    slope = (1 + t) / 2 + x * (1 - t * t) / 2 * c * (1 + 3 * 0.044715 * x * x)
    return x * (1 + t) / 2, lambda dy: dy * slope


def layer_norm(x, gain, bias, *, eps=1e-5):
    rstd = 1 / np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    normed = (x - x.mean(axis=-1, keepdims=True)) * rstd

    def vjp(dy):
        g = dy * gain
        dx = rstd * (g - g.mean(axis=-1, keepdims=True) - normed * (g * normed).mean(axis=-1, keepdims=True))
        rows = tuple(range(x.ndim - 1))
        return dx, (dy * normed).sum(axis=rows), dy.sum(axis=rows)

    return normed * gain + bias, vjp


def attention(q, k, v):
    t, d = q.shape[-2:]
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(d)
    scores = np.where(np.tri(t, dtype=bool), scores, -np.inf).astype(q.dtype)
    weights, vjp_softmax = softmax(scores)

    def vjp(dy):
        dscores = vjp_softmax(dy @ v.swapaxes(-1, -2)) / math.sqrt(d)
        return dscores @ k, dscores.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ dy

    return weights @ v, vjp


def self_attention(x, attn_weight, attn_bias, proj_weight, proj_bias, *, n_head):
    b, t, c = x.shape
    qkv, vjp_qkv = linear(x, attn_weight, attn_bias)
    heads, vjp_attention = attention(*qkv.reshape(b, t, 3, n_head, c // n_head).transpose(2, 0, 3, 1, 4))
    y, vjp_proj = linear(heads.transpose(0, 2, 1, 3).reshape(b, t, c), proj_weight, proj_bias)

    def vjp(dy):
        dmerged, dproj_weight, dproj_bias = vjp_proj(dy)
        dheads = vjp_attention(dmerged.reshape(b, t, n_head, c // n_head).transpose(0, 2, 1, 3))
        dqkv = np.stack(dheads).transpose(1, 3, 0, 2, 4).reshape(b, t, 3 * c)
        return *vjp_qkv(dqkv), dproj_weight, dproj_bias

    return y, vjp


def mlp(x, fc_weight, fc_bias, proj_weight, proj_bias):
    h, vjp_fc = linear(x, fc_weight, fc_bias)
    h, vjp_gelu = gelu(h)
    y, vjp_proj = linear(h, proj_weight, proj_bias)

    def vjp(dy):
        dh, *dproj = vjp_proj(dy)
        return *vjp_fc(vjp_gelu(dh)), *dproj

    return y, vjp


def on_logits(formula, student_logits, teacher_logits, temperature, mask):
    """A loss from losses (n,) and their gradients T dz (n, V), computed on the tokens that count."""
    counted = np.ones(student_logits.shape[:-1], dtype=bool) if mask is None else mask
    logq, _ = log_softmax(student_logits[counted], temperature)
    logp, _ = log_softmax(teacher_logits[counted], temperature)
    losses, dz = formula(logp, logq)
    n = counted.sum()

    def vjp(w=1.0):
        gradient = np.zeros_like(student_logits)
        gradient[counted] = dz * (w / temperature / n)
        return gradient

    return losses.sum() / n, vjp


def times(p, log_ratio):
    """p log(...), 0 where p is."""
    return np.multiply(p, log_ratio, where=p > 0, out=np.zeros_like(p))


def cross_entropy(logits, labels, *, mask=None):
    counted = labels != -100
    if mask is not None:
        counted &= mask
    logp, _ = log_softmax(logits[counted])
    rows, n = np.arange(len(logp)), counted.sum()
    picked = labels[counted]

    def vjp(w=1.0):
        dz = np.exp(logp)
        dz[rows, picked] -= 1
        gradient = np.zeros_like(logits)
        gradient[counted] = dz * (w / n)
        return gradient

    return -logp[rows, picked].mean(), vjp


def soft_cross_entropy(student_logits, teacher_logits, *, temperature=1.0, mask=None):
    def formula(logp, logq):
        p = np.exp(logp)
        return -times(p, logq).sum(axis=-1), np.exp(logq) - p

    return on_logits(formula, student_logits, teacher_logits, temperature, mask)


def forward_kl(student_logits, teacher_logits, *, temperature=1.0, mask=None):
    def formula(logp, logq):
        p = np.exp(logp)
        return times(p, logp - logq).sum(axis=-1), np.exp(logq) - p

    return on_logits(formula, student_logits, teacher_logits, temperature, mask)


def reverse_kl(student_logits, teacher_logits, *, temperature=1.0, mask=None):
    def formula(logp, logq):
        q = np.exp(logq)
        terms = times(q, logq - logp)
        kl = terms.sum(axis=-1)
        return kl, terms - q * kl[:, None]

    return on_logits(formula, student_logits, teacher_logits, temperature, mask)


def generalized_jsd(student_logits, teacher_logits, *, beta=0.5, scaled=False, temperature=1.0, mask=None):
    if scaled and beta in (0, 1):
        return (forward_kl if beta == 0 else reverse_kl)(
            student_logits, teacher_logits, temperature=temperature, mask=mask
        )
    scale = 1 / (beta * (1 - beta)) if scaled else 1.0

    def formula(logp, logq):
        p, q = np.exp(logp), np.exp(logq)
        logm = np.logaddexp(np.log(beta) + logp, np.log(1 - beta) + logq)
        of_q = times(q, logq - logm)
        kl = of_q.sum(axis=-1)
        losses = beta * times(p, logp - logm).sum(axis=-1) + (1 - beta) * kl
        return scale * losses, scale * (1 - beta) * (of_q - q * kl[:, None])

    return on_logits(formula, student_logits, teacher_logits, temperature, mask)


def js(student_logits, teacher_logits, *, temperature=1.0, mask=None):
    return generalized_jsd(student_logits, teacher_logits, temperature=temperature, mask=mask)


def total_variation(student_logits, teacher_logits, *, temperature=1.0, mask=None):
    def formula(logp, logq):
        p, q = np.exp(logp), np.exp(logq)
        g = np.sign(q - p) / 2
        return np.abs(p - q).sum(axis=-1) / 2, q * (g - (q * g).sum(axis=-1, keepdims=True))

    return on_logits(formula, student_logits, teacher_logits, temperature, mask)


def distillation_loss(student_logits, teacher_logits, labels, *, alpha=0.5, temperature=2.0, mask=None):
    counted = labels != -100
    if mask is not None:
        counted &= mask
    if np.ndim(alpha):
        alpha = alpha[counted]
    soft = [forward_kl(z[None], u[None], temperature=temperature)
            for z, u in zip(student_logits[counted], teacher_logits[counted], strict=True)]  # fmt: skip
    hard = [cross_entropy(z[None], y[None]) for z, y in zip(student_logits[counted], labels[counted], strict=True)]
    weights = np.broadcast_to(alpha, len(soft))
    losses = [a * temperature**2 * s[0] + (1 - a) * h[0] for a, s, h in zip(weights, soft, hard, strict=True)]

    def vjp(w=1.0):
        rows = [a * temperature**2 * s[1]() + (1 - a) * h[1]() for a, s, h in zip(weights, soft, hard, strict=True)]
        gradient = np.zeros_like(student_logits)
        gradient[counted] = np.concatenate(rows) * (w / len(rows))
        return gradient

    return np.mean(losses), vjp


def mse_logits(student_logits, teacher_logits, *, mask=None):
    counted = np.ones(student_logits.shape[:-1], dtype=bool) if mask is None else mask
    z, u = student_logits[counted], teacher_logits[counted]
    gap = np.where(z == u, 0, z - u)

    def vjp(w=1.0):
        gradient = np.zeros_like(student_logits)
        gradient[counted] = 2 * gap * (w / gap.size)
        return gradient

    return (gap * gap).mean(), vjp


def cosine_schedule(step, *, peak, warmup_steps, steps, final=0.0):
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return final + (peak - final) * (1 + math.cos(math.pi * (step - warmup_steps) / (steps - warmup_steps))) / 2


def clip_by_global_norm(weight, bias, *, max_norm):
    norm = math.sqrt((weight**2).sum() + (bias**2).sum())
    scale = max_norm / max(norm, max_norm)
    return weight * scale, bias * scale


def adamw_step(
    parameter, gradient, first, second, *, updates, learning_rate, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.1
):
    n = updates + 1
    first = beta1 * first + (1 - beta1) * gradient
    second = beta2 * second + (1 - beta2) * gradient**2
    if parameter.ndim == 2:
        parameter = parameter * (1 - learning_rate * weight_decay)
    move = first / (1 - beta1**n) / (np.sqrt(second / (1 - beta2**n)) + eps)
    return parameter - learning_rate * move, first, second


def distill_step(hidden, labels, student_weight, teacher_weight, *, alpha=0.5, temperature=2.0, learning_rate=0.5):
    loss, vjp = distillation_loss(
        hidden @ student_weight.T, hidden @ teacher_weight.T, labels, alpha=alpha, temperature=temperature
    )
    return student_weight - learning_rate * vjp().T @ hidden, loss


def codistill_step(
    hidden, labels, student_weight, teacher_weight, *, alpha=0.5, temperature=2.0, learning_rate=0.5, mutual=False
):
    z, u = hidden @ student_weight.T, hidden @ teacher_weight.T
    student_loss, student_vjp = distillation_loss(z, u, labels, alpha=alpha, temperature=temperature)
    if mutual:
        teacher_loss, teacher_vjp = distillation_loss(u, z, labels, alpha=alpha, temperature=temperature)
    else:
        teacher_loss, teacher_vjp = cross_entropy(u, labels)
    return (
        student_weight - learning_rate * student_vjp().T @ hidden,
        teacher_weight - learning_rate * teacher_vjp().T @ hidden,
        student_loss,
        teacher_loss,
    )
