"""The layers as formulas."""

from collections.abc import Callable
from typing import Any

import mpmath as mp
import numpy as np

from minikd.oracle.exact.losses import softmax
from minikd.oracle.exact.traced import log, sqrt, tanh


def linear(x: Any, weight: Any, bias: Any) -> Any:
    return x @ weight + bias


def layer_norm(x: Any, gain: Any, bias: Any, *, eps: Any) -> Any:
    centred = x - x.sum(axis=-1, keepdims=True) / x.shape[-1]
    variance = (centred * centred).sum(axis=-1, keepdims=True) / x.shape[-1]
    return centred / sqrt(variance + eps) * gain + bias


def gelu(x: Any) -> Any:
    u = mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3)
    return x * (1 + tanh(u)) / 2


def attention(q: Any, k: Any, v: Any) -> Any:
    t, d = q.shape[-2:]
    unseen = np.triu(np.ones((t, t), dtype=int), k=1) * -mp.mpf("1e40")
    return softmax(q @ k.swapaxes(-1, -2) / mp.sqrt(d) + unseen) @ v


def self_attention(x: Any, attn_weight: Any, attn_bias: Any, proj_weight: Any, proj_bias: Any, *, n_head: int) -> Any:
    b, t, c = x.shape
    qkv = linear(x, attn_weight, attn_bias)
    heads = (qkv[..., i * c : (i + 1) * c].reshape(b, t, n_head, c // n_head).swapaxes(1, 2) for i in range(3))
    merged = attention(*heads).swapaxes(1, 2).reshape(b, t, c)
    return linear(merged, proj_weight, proj_bias)


def mlp(x: Any, fc_weight: Any, fc_bias: Any, proj_weight: Any, proj_bias: Any) -> Any:
    return linear(gelu(linear(x, fc_weight, fc_bias)), proj_weight, proj_bias)


def block(x: Any, *, n_head: int, **named: Any) -> Any:
    parameters = list(named.values())
    ln_1, attn, ln_2, feed_forward = parameters[:2], parameters[2:6], parameters[6:8], parameters[8:]
    eps = mp.mpf(1e-5)
    h = x + self_attention(layer_norm(x, *ln_1, eps=eps), *attn, n_head=n_head)
    return h + mlp(layer_norm(h, *ln_2, eps=eps), *feed_forward)


LAYERS: dict[str, Callable[..., Any]] = {
    "softmax": softmax,
    "log_softmax": lambda logits, temperature: log(softmax(logits, temperature)),
    "linear": linear,
    "embedding": lambda ids, table: table[ids],
    "gelu": gelu,
    "layer_norm": layer_norm,
    "attention": attention,
    "self_attention": self_attention,
    "mlp": mlp,
    "block": block,
}
