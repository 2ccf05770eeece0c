"""Mistakes in the layers that look at one row at a time."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minikd.backend import Array
from minikd.nn import embedding, gelu, layer_norm, linear
from minikd.oracle.mutants.planting import Bed, scaled, with_gradients, with_value

MUTANTS = Bed()
plant = MUTANTS.plant


# Linear, embedding


@plant("linear", "no-bias", "the bias is not added")
def _(x: Array, weight: Array, bias: Array) -> tuple[Array, Callable]:
    return linear(x, weight, 0 * bias)


@plant("linear", "weight-transposed", "you multiply by the transposed weight (stored (out, in), as PyTorch's)")
def _(x: Array, weight: Array, bias: Array) -> tuple[Array, Callable]:
    y, vjp = linear(x, weight.T.reshape(weight.shape), bias)

    def pullback(dy: Array) -> tuple[Array, Array, Array]:
        dx, dweight, dbias = vjp(dy)
        return dx, dweight.reshape(weight.T.shape).T, dbias

    return y, pullback


plant("linear", "transposed-weight-gradient", "your weight's gradient is transposed: it is x^T dy, not dy^T x")(
    with_gradients(linear, lambda dx, dweight, dbias: (dx, dweight.T.reshape(dweight.shape), dbias))
)


@plant("linear", "transpose-missing-in-dx", "your dx is dy W; it is dy W^T")
def _(x: Array, weight: Array, bias: Array) -> tuple[Array, Callable]:
    transposed = linear(x, weight.T.reshape(weight.shape), bias)[1]
    return linear(x, weight, bias)[0], lambda dy: (transposed(dy)[0], *linear(x, weight, bias)[1](dy)[1:])


plant("linear", "bias-gradient-forgotten", "the gradient of the bias is missing (0)")(
    with_gradients(linear, lambda dx, dweight, dbias: (dx, dweight, 0 * dbias))
)


@plant("linear", "bias-gradient-averaged", "the bias's gradient is a mean over the rows; it is their sum")
def _(x: Array, weight: Array, bias: Array) -> tuple[Array, Callable]:
    n = x.size // len(weight)
    return with_gradients(linear, lambda dx, dweight, dbias: (dx, dweight, dbias / n))(x, weight, bias)


@plant("linear", "weight-gradient-averaged", "the weight's gradient is a mean over the rows; it is their sum")
def _(x: Array, weight: Array, bias: Array) -> tuple[Array, Callable]:
    n = x.size // len(weight)
    return with_gradients(linear, lambda dx, dweight, dbias: (dx, dweight / n, dbias))(x, weight, bias)


@plant(
    "linear", "bias-gradient-of-one-axis", "the bias's gradient is summed over the first axis only, not over all rows"
)
def _(x: Array, weight: Array, bias: Array) -> tuple[Array, Callable]:
    y, vjp = linear(x, weight, bias)
    return y, lambda dy: (*vjp(dy)[:2], dy.sum(axis=0))


@plant("embedding", "repeated-ids-overwrite", "where an id comes twice, one gradient overwrites the other: add them up")
def _(ids: Array, table: Array) -> tuple[Array, Callable]:
    def vjp(dy: Array) -> Array:
        dtable = np.zeros_like(table)
        dtable[ids] = dy
        return dtable

    return table[ids], vjp


@plant("embedding", "repeated-ids-averaged", "where an id comes twice you average the gradients: add them up")
def _(ids: Array, table: Array) -> tuple[Array, Callable]:
    y, vjp = embedding(ids, table)
    counts = np.maximum(1, np.bincount(ids.reshape(-1), minlength=len(table)))
    return y, lambda dy: vjp(dy) / counts[:, None]


@plant("embedding", "first-id-is-padding", "row 0 gets no gradient: no id is special here")
def _(ids: Array, table: Array) -> tuple[Array, Callable]:
    y, vjp = embedding(ids, table)
    return y, lambda dy: vjp(dy) * (np.arange(len(table)) > 0)[:, None]


@plant("embedding", "scaled-by-root-of-width", "your rows are multiplied by sqrt(C)")
def _(ids: Array, table: Array) -> tuple[Array, Callable]:
    return scaled(embedding(ids, table), math.sqrt(table.shape[1]))


# GELU


def gated(gate: Callable[[Array], Array], slope: Callable[[Array], Array]) -> Callable:
    """x times a gate of x, whose slope is given."""
    return lambda x: (x * gate(x), lambda dy: dy * (gate(x) + x * slope(x)))


def logistic(x: Array) -> Array:
    return (1 + np.tanh(x / 2)) / 2


def normal_cdf(x: Array) -> Array:
    return np.vectorize(lambda t: math.erfc(-t / math.sqrt(2)) / 2, otypes=[float])(x)


exact_gelu = gated(normal_cdf, lambda x: np.exp(-x * x / 2) / math.sqrt(2 * math.pi))
relu = gated(lambda x: x > 0, np.zeros_like)

plant("gelu", "exact-form", "this is the exact GELU (with erf); GPT-2's is the tanh form")(exact_gelu)
plant("gelu", "sigmoid-form", "this is x sigmoid(1.702 x), a rougher approximation; GPT-2's is the tanh form")(
    gated(lambda x: logistic(1.702 * x), lambda x: 1.702 * logistic(1.702 * x) * logistic(-1.702 * x))
)
plant("gelu", "silu", "this is x sigmoid(x) (SiLU)")(gated(logistic, lambda x: logistic(x) * logistic(-x)))
plant("gelu", "relu", "this is max(x, 0) (ReLU)")(relu)
plant("gelu", "exact-form-in-gradient", "your gradient is that of the exact GELU, your value the tanh form")(
    with_value(gelu, exact_gelu)
)


@plant(
    "gelu", "gate-only-gradient", "your gradient is the gate alone: by the product rule x times its slope is missing"
)
def _(x: Array) -> tuple[Array, Callable]:
    y, _ = gelu(x)
    return y, lambda dy: dy * np.divide(y, x, out=np.full_like(x, 0.5), where=x != 0)


@plant("gelu", "cubic-not-differentiated", "the slope of x + 0.044715 x^3 has the factor 3: 1 + 3 * 0.044715 x^2")
def _(x: Array) -> tuple[Array, Callable]:
    y, vjp = gelu(x)
    gate = np.divide(y, x, out=np.full_like(x, 0.5), where=x != 0)
    share = (1 + 0.044715 * x * x) / (1 + 3 * 0.044715 * x * x)
    return y, lambda dy: dy * gate + (vjp(dy) - dy * gate) * share


# Layer norm


@plant("layer_norm", "detached-variance", "your dx takes the variance for a constant: the component along normed stays")
def _(x: Array, gain: Array, bias: Array, *, eps: float = 1e-5) -> tuple[Array, Callable]:
    y, vjp = layer_norm(x, gain, bias, eps=eps)
    rstd = 1 / np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    return y, lambda dy: (rstd * (dy * gain - (dy * gain).mean(axis=-1, keepdims=True)), *vjp(dy)[1:])


@plant(
    "layer_norm", "detached-mean", "your dx takes the mean for a constant: the mean of the gradient is not taken out"
)
def _(x: Array, gain: Array, bias: Array, *, eps: float = 1e-5) -> tuple[Array, Callable]:
    y, vjp = layer_norm(x, gain, bias, eps=eps)
    rstd = 1 / np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    return y, lambda dy: (vjp(dy)[0] + rstd * (dy * gain).mean(axis=-1, keepdims=True), *vjp(dy)[1:])


@plant("layer_norm", "detached-mean-and-variance", "your dx is dy gain / std: mean and variance depend on x, too")
def _(x: Array, gain: Array, bias: Array, *, eps: float = 1e-5) -> tuple[Array, Callable]:
    y, vjp = layer_norm(x, gain, bias, eps=eps)
    rstd = 1 / np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    return y, lambda dy: (rstd * dy * gain, *vjp(dy)[1:])


@plant("layer_norm", "eps-outside-the-root", "you add eps to the standard deviation; it is added to the variance")
def _(x: Array, gain: Array, bias: Array, *, eps: float = 1e-5) -> tuple[Array, Callable]:
    centred = x - x.mean(axis=-1, keepdims=True)
    std = np.sqrt((centred * centred).mean(axis=-1, keepdims=True))
    normed = centred / (std + eps)

    def vjp(dy: Array) -> tuple[Array, Array, Array]:
        g = dy * gain
        along = (g * normed).mean(axis=-1, keepdims=True) * np.divide(centred, std, out=0 * x, where=std > 0)
        dx = (g - g.mean(axis=-1, keepdims=True) - along) / (std + eps)
        return dx, (dy * normed).reshape(-1, len(gain)).sum(axis=0), dy.reshape(-1, len(gain)).sum(axis=0)

    return normed * gain + bias, vjp


@plant("layer_norm", "eps-fixed", "eps is not used: yours is always 1e-5")
def _(x: Array, gain: Array, bias: Array, *, eps: float = 1e-5) -> tuple[Array, Callable]:
    return layer_norm(x, gain, bias)


@plant("layer_norm", "unbiased-variance", "your variance divides by C - 1; here it is by C")
def _(x: Array, gain: Array, bias: Array, *, eps: float = 1e-5) -> tuple[Array, Callable]:
    # sum / (C - 1) + eps = C / (C - 1) (sum / C + eps (C - 1) / C)
    c = x.shape[-1]
    shrink = math.sqrt((c - 1) / c)
    y, vjp = layer_norm(x, gain * shrink, bias, eps=eps * (c - 1) / c)

    def pullback(dy: Array) -> tuple[Array, Array, Array]:
        dx, dgain, dbias = vjp(dy)
        return dx, dgain * shrink, dbias

    return y, pullback


@plant("layer_norm", "over-rows", "you take mean and variance over the rows (batch norm); it is over the channels")
def _(x: Array, gain: Array, bias: Array, *, eps: float = 1e-5) -> tuple[Array, Callable]:
    columns = np.ascontiguousarray(x.reshape(-1, x.shape[-1]).T)
    ones = np.ones(columns.shape[-1], dtype=x.dtype)
    normed, vjp = layer_norm(columns, ones, 0 * ones, eps=eps)
    normed = normed.T.reshape(x.shape)

    def pullback(dy: Array) -> tuple[Array, Array, Array]:
        rows = (dy * gain).reshape(-1, x.shape[-1])
        dx = vjp(rows.T)[0].T.reshape(x.shape)
        return dx, (dy * normed).reshape(rows.shape).sum(axis=0), dy.reshape(rows.shape).sum(axis=0)

    return normed * gain + bias, pullback


@plant("layer_norm", "mean-not-subtracted", "the mean is not subtracted: this is RMS norm")
def _(x: Array, gain: Array, bias: Array, *, eps: float = 1e-5) -> tuple[Array, Callable]:
    # a row beside its negative has mean 0
    y, vjp = layer_norm(np.concatenate((x, -x), axis=-1), np.tile(gain, 2), np.tile(bias, 2), eps=eps)
    c = x.shape[-1]

    def pullback(dy: Array) -> tuple[Array, Array, Array]:
        dx, dgain, dbias = vjp(np.concatenate((dy, 0 * dy), axis=-1))
        return dx[..., :c] - dx[..., c:], dgain[:c], dbias[:c]

    return y[..., :c], pullback


@plant("layer_norm", "gain-missing-in-dx", "your dx lacks the gain: dnormed is dy gain")
def _(x: Array, gain: Array, bias: Array, *, eps: float = 1e-5) -> tuple[Array, Callable]:
    y, vjp = layer_norm(x, gain, bias, eps=eps)
    dx_of = layer_norm(x, np.ones_like(gain), bias, eps=eps)[1]
    return y, lambda dy: (dx_of(dy)[0], *vjp(dy)[1:])


@plant("layer_norm", "gain-gradient-from-x", "your dgain is sum(dy x); it is sum(dy normed)")
def _(x: Array, gain: Array, bias: Array, *, eps: float = 1e-5) -> tuple[Array, Callable]:
    y, vjp = layer_norm(x, gain, bias, eps=eps)
    return y, lambda dy: (vjp(dy)[0], (dy * x).reshape(-1, len(gain)).sum(axis=0), vjp(dy)[2])


@plant("layer_norm", "gain-gradient-from-y", "your dgain is sum(dy y), with gain and bias in it; it is sum(dy normed)")
def _(x: Array, gain: Array, bias: Array, *, eps: float = 1e-5) -> tuple[Array, Callable]:
    y, vjp = layer_norm(x, gain, bias, eps=eps)
    return y, lambda dy: (vjp(dy)[0], (dy * y).reshape(-1, len(gain)).sum(axis=0), vjp(dy)[2])


plant("layer_norm", "bias-gradient-forgotten", "the gradient of the bias is missing (0)")(
    with_gradients(layer_norm, lambda dx, dgain, dbias: (dx, dgain, 0 * dbias))
)


@plant("layer_norm", "parameter-gradients-averaged", "dgain and dbias are means over the rows; they are sums")
def _(x: Array, gain: Array, bias: Array, *, eps: float = 1e-5) -> tuple[Array, Callable]:
    n = x.size // x.shape[-1]
    averaged: Any = with_gradients(layer_norm, lambda dx, dgain, dbias: (dx, dgain / n, dbias / n))
    return averaged(x, gain, bias, eps=eps)
