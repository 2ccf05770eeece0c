"""Mistakes in causal attention."""

import math
from collections.abc import Callable

import numpy as np

from minikd import nn
from minikd.backend import Array
from minikd.nn import linear
from minikd.oracle.mutants.planting import Bed, with_gradients, with_value
from minikd.oracle.subjects.pure import attention, self_attention
from minikd.softmax import softmax

MUTANTS = Bed()
plant = MUTANTS.plant


# Attention


def seeing(visible: Callable[[int], Array]) -> Callable:
    """Attention where token t sees token s if visible(T)[t, s]."""

    def mutated(q: Array, k: Array, v: Array) -> tuple[Array, Callable]:
        bias = np.where(visible(q.shape[2]), 0.0, -np.inf).astype(q.dtype)
        return nn.attend(q, k, v, bias)

    return mutated


def weighed(weigh: Callable[[Array], tuple[Array, Callable]]) -> Callable:
    """Attention whose weights `weigh` makes of the scores q k^T / sqrt(D)."""

    def mutated(q: Array, k: Array, v: Array) -> tuple[Array, Callable]:
        scale = 1 / math.sqrt(q.shape[-1])
        weights, vjp_weights = weigh(scale * q @ k.swapaxes(-1, -2))

        def vjp(dy: Array) -> tuple[Array, Array, Array]:
            dscores = scale * vjp_weights(dy @ v.swapaxes(-1, -2))
            return dscores @ k, dscores.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ dy

        return weights @ v, vjp

    return mutated


def scaled_scores(factor: Callable[[int], float]) -> Callable:
    """Attention whose scores are multiplied by factor(D)."""

    def mutated(q: Array, k: Array, v: Array) -> tuple[Array, Callable]:
        c = factor(q.shape[-1])
        y, vjp = attention(c * q, k, v)

        def pullback(dy: Array) -> tuple[Array, Array, Array]:
            dq, dk, dv = vjp(dy)
            return c * dq, dk, dv

        return y, pullback

    return mutated


def looks_back(t: int, offset: int = 0) -> Array:
    return np.tri(t, k=offset, dtype=bool)


everything_seen = seeing(lambda t: np.ones((t, t), dtype=bool))

plant("attention", "no-causal-mask", "every token sees the whole text: the causal mask is missing")(everything_seen)
plant("attention", "no-causal-mask-in-backward", "the causal mask is missing in your backward pass")(
    with_value(attention, everything_seen)
)
plant("attention", "sees-the-next-token", "token t sees token t + 1: the mask is off by one")(
    seeing(lambda t: looks_back(t, 1))
)
plant("attention", "blind-to-itself", "no token but the first sees itself: the mask is off by one")(
    seeing(lambda t: looks_back(t, -1) | (np.arange(t) == 0) & (np.arange(t) == 0)[:, None])
)
plant("attention", "mask-transposed", "token t sees what comes after it: the mask is transposed")(
    seeing(lambda t: looks_back(t).T)
)
plant("attention", "not-scaled", "the scores are not divided by sqrt(D)")(scaled_scores(math.sqrt))
plant("attention", "scaled-by-width", "the scores are divided by D; they are divided by sqrt(D)")(
    scaled_scores(lambda d: 1 / math.sqrt(d))
)


@plant("attention", "not-scaled-in-backward", "your dq and dk lack the factor 1 / sqrt(D)")
def _(q: Array, k: Array, v: Array) -> tuple[Array, Callable]:
    root = math.sqrt(q.shape[-1])
    return with_gradients(attention, lambda dq, dk, dv: (root * dq, root * dk, dv))(q, k, v)


@plant("attention", "small-mask", "hidden scores are lowered by 10000 only: larger ones show through; use -inf")
def _(q: Array, k: Array, v: Array) -> tuple[Array, Callable]:
    return nn.attend(q, k, v, np.where(looks_back(q.shape[2]), 0.0, -1e4).astype(q.dtype))


@plant("attention", "hidden-scores-zero", "hidden scores become 0, which exp makes 1: they have to be -inf")
@weighed
def _(scores: Array) -> tuple[Array, Callable]:
    visible = looks_back(scores.shape[-1])
    weights, vjp = softmax(np.where(visible, scores, 0))
    return weights, lambda dweights: np.where(visible, vjp(dweights), 0)


@plant("attention", "masked-after-softmax", "you mask the weights after the softmax: they no longer sum to 1")
@weighed
def _(scores: Array) -> tuple[Array, Callable]:
    visible = looks_back(scores.shape[-1])
    weights, vjp = softmax(scores)
    return weights * visible, lambda dweights: vjp(dweights * visible)


@plant("attention", "softmax-over-queries", "your weights sum to 1 over the queries; they do so over the keys")
@weighed
def _(scores: Array) -> tuple[Array, Callable]:
    bias = np.where(looks_back(scores.shape[-1]), 0.0, -np.inf)
    weights, vjp = softmax(np.ascontiguousarray((scores + bias).swapaxes(-1, -2)))
    return weights.swapaxes(-1, -2), lambda dweights: vjp(dweights.swapaxes(-1, -2)).swapaxes(-1, -2)


@plant(
    "attention", "diagonal-softmax-gradient", "your softmax gradient is w (1 - w): each weight depends on all scores"
)
@weighed
def _(scores: Array) -> tuple[Array, Callable]:
    weights, _ = softmax(np.where(looks_back(scores.shape[-1]), scores, -np.inf))
    return weights, lambda dweights: weights * (1 - weights) * dweights


@plant("attention", "weights-not-transposed", "your dv is w dy; it is w^T dy")
def _(q: Array, k: Array, v: Array) -> tuple[Array, Callable]:
    y, vjp = attention(q, k, v)
    return y, lambda dy: (*vjp(dy)[:2], attention(q, k, dy)[0])


plant("attention", "gradients-exchanged", "dq and dk are exchanged")(
    with_gradients(attention, lambda dq, dk, dv: (dk, dq, dv))
)


@plant("attention", "queries-as-keys", "queries and keys are exchanged: your scores are transposed")
def _(q: Array, k: Array, v: Array) -> tuple[Array, Callable]:
    return with_gradients(attention, lambda dk, dq, dv: (dq, dk, dv))(k, q, v)


# Self-attention


def rearranged(columns: Callable[[int, int], Array]) -> Callable:
    """Self-attention whose queries, keys and values are columns(C, n_head) of those that it computes."""

    def mutated(
        x: Array, attn_weight: Array, attn_bias: Array, proj_weight: Array, proj_bias: Array, *, n_head: int
    ) -> tuple[Array, Callable]:
        order = columns(len(proj_bias), n_head)
        back = np.argsort(order)
        y, vjp = self_attention(x, attn_weight[:, order], attn_bias[order], proj_weight, proj_bias, n_head=n_head)

        def pullback(dy: Array) -> tuple[Array, ...]:
            dx, dweight, dbias, *dproj = vjp(dy)
            return dx, dweight[:, back], dbias[back], *dproj

        return y, pullback

    return mutated


plant("self_attention", "keys-before-queries", "queries and keys are exchanged: the order is queries, keys, values")(
    rearranged(lambda c, h: np.arange(3 * c).reshape(3, c)[[1, 0, 2]].reshape(-1))
)
plant("self_attention", "values-first", "the order of your three parts is values, queries, keys")(
    rearranged(lambda c, h: np.arange(3 * c).reshape(3, c)[[1, 2, 0]].reshape(-1))
)
plant("self_attention", "heads-interleaved", "your heads take every H-th channel; each takes D channels in a row")(
    rearranged(lambda c, h: np.arange(3 * c).reshape(3, c // h, h).swapaxes(1, 2).reshape(-1))
)
plant("self_attention", "parts-within-heads", "you split into heads first and into queries, keys, values then")(
    rearranged(lambda c, h: np.arange(3 * c).reshape(h, 3, c // h).swapaxes(0, 1).reshape(-1))
)


def between_projections(attend: Callable[..., tuple[Array, Callable]]) -> Callable:
    """Self-attention whose middle is attend(qkv (B, T, 3 C), n_head) -> (B, T, C)."""

    def mutated(
        x: Array, attn_weight: Array, attn_bias: Array, proj_weight: Array, proj_bias: Array, *, n_head: int
    ) -> tuple[Array, Callable]:
        qkv, vjp_qkv = linear(x, attn_weight, attn_bias)
        merged, vjp_attend = attend(qkv, n_head)
        y, vjp_proj = linear(merged, proj_weight, proj_bias)

        def vjp(dy: Array) -> tuple[Array, ...]:
            dmerged, *dproj = vjp_proj(dy)
            return *vjp_qkv(vjp_attend(dmerged)), *dproj

        return y, vjp

    return mutated


def on_heads(attend: Callable) -> Callable[..., tuple[Array, Callable]]:
    """attend(q, k, v) on the heads of qkv (B, T, 3 C), merged again."""

    def mutated(qkv: Array, n_head: int) -> tuple[Array, Callable]:
        heads = nn.split_heads(qkv, n_head)
        y, vjp = attend(*heads)

        def pullback(dmerged: Array) -> Array:
            b, t, c = dmerged.shape
            dy = dmerged.reshape(b, t, n_head, c // n_head).swapaxes(1, 2)
            return nn.merge_heads(np.stack(vjp(np.ascontiguousarray(dy))))

        return nn.merge_heads(y[None]), pullback

    return mutated


plant("self_attention", "no-causal-mask", "every token sees the whole text: the causal mask is missing")(
    between_projections(on_heads(everything_seen))
)
plant("self_attention", "no-causal-mask-in-backward", "the causal mask is missing in your backward pass")(
    between_projections(on_heads(with_value(attention, everything_seen)))
)
plant("self_attention", "not-scaled", "the scores are not divided by sqrt(C / n_head)")(
    between_projections(on_heads(scaled_scores(math.sqrt)))
)


@plant("self_attention", "scaled-by-all-channels", "the scores are divided by sqrt(C); they are by sqrt(C / n_head)")
@between_projections
def _(qkv: Array, n_head: int) -> tuple[Array, Callable]:
    return on_heads(scaled_scores(lambda d: 1 / math.sqrt(n_head)))(qkv, n_head)


@plant("self_attention", "one-head", "n_head is not used: yours is one head of C channels")
@between_projections
def _(qkv: Array, n_head: int) -> tuple[Array, Callable]:
    return on_heads(attention)(qkv, 1)


@plant(
    "self_attention",
    "heads-cut-across-time",
    "you reshape to (B, H, T, D) without moving axes: heads mix up the tokens",
)
@between_projections
def _(qkv: Array, n_head: int) -> tuple[Array, Callable]:
    b, t, width = qkv.shape
    heads = np.moveaxis(qkv.reshape(b, t, 3, width // 3), 2, 0).reshape(3, b, n_head, t, -1)
    y, vjp = attention(*heads)

    def pullback(dmerged: Array) -> Array:
        dheads = np.stack(vjp(dmerged.reshape(y.shape)))
        return np.moveaxis(dheads.reshape(3, b, t, width // 3), 0, 2).reshape(qkv.shape)

    return y.reshape(b, t, -1), pullback


plant(
    "self_attention", "attention-bias-gradient-forgotten", "the gradient of the input projection's bias is missing (0)"
)(with_gradients(self_attention, lambda dx, dw, db, dwp, dbp: (dx, dw, 0 * db, dwp, dbp)))
plant(
    "self_attention", "projection-bias-gradient-forgotten", "the gradient of the output projection's bias is missing"
)(with_gradients(self_attention, lambda dx, dw, db, dwp, dbp: (dx, dw, db, dwp, 0 * dbp)))
