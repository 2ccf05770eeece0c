"""Multi-head causal attention, with or without a cache of earlier keys and values."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from minikd.backend import Array, get_array_module, row_blocks
from minikd.nn.dropout import dropout
from minikd.nn.linear import linear
from minikd.softmax import softmax


@dataclass
class KeyValueCache:
    """Keys and values of the tokens read so far, for one layer; room for S tokens.

    keys, values (B, H, S, D); the first `length` of S are filled.
    """

    keys: Array
    values: Array
    length: int = 0

    def append(self, keys: Array, values: Array) -> tuple[Array, Array]:
        """Store the keys and values (B, H, T, D) of T more tokens; all of those stored, (B, H, length, D) each."""
        start, self.length = self.length, self.length + keys.shape[2]
        self.keys[:, :, start : self.length] = keys
        self.values[:, :, start : self.length] = values
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]


def split_heads(qkv: Array, n_head: int) -> Array:
    """Queries, keys and values, head by head and contiguous: (B, T, 3 H D) -> (3, B, H, T, D)."""
    b, t, width = qkv.shape
    heads = qkv.reshape(b, t, 3, n_head, width // (3 * n_head))
    return get_array_module(qkv).ascontiguousarray(heads.transpose(2, 0, 3, 1, 4))


def merge_heads(heads: Array) -> Array:
    """The inverse of `split_heads`, for any number of parts: (n, B, H, T, D) -> (B, T, n H D)."""
    n, b, h, t, d = heads.shape
    return heads.transpose(1, 3, 0, 2, 4).reshape(b, t, n * h * d)


def attend(
    q: Array, k: Array, v: Array, bias: Array | None, *, pdrop: float = 0.0, rng: np.random.Generator | None = None
) -> tuple[Array, Callable]:
    """y = softmax(q k^T / sqrt(D) + bias) v.

    q (B, H, T, D), k and v (B, H, S, D); bias (T, S) or (B, 1, T, S), not differentiable: 0 where query t sees key s,
    -inf where not -> y (B, H, T, D); vjp(dy) -> dq, dk, dv. Vaswani et al. 2017, eq. 1. With `rng` the weights pass
    through dropout. Kept for the pullback: the weights, one block of sequences at a time.
    """
    xp = get_array_module(q)
    (_, h, t, d), s = q.shape, k.shape[2]
    scale = 1 / math.sqrt(d)
    y = xp.empty_like(q)
    kept = []
    for block in row_blocks(q, row_bytes=h * t * s * q.itemsize):
        scores = (q[block] * scale) @ k[block].swapaxes(-1, -2)
        if bias is not None:
            scores += bias if bias.ndim == 2 else bias[block]
        weights, vjp_softmax = softmax(scores)
        weights, vjp_dropout = dropout(weights, pdrop, rng)
        xp.matmul(weights, v[block], out=y[block])
        kept.append((block, weights, vjp_softmax, vjp_dropout))

    def vjp(dy: Array) -> tuple[Array, Array, Array]:
        dq, dk, dv = xp.empty_like(q), xp.empty_like(k), xp.empty_like(v)
        for block, weights, vjp_softmax, vjp_dropout in kept:
            xp.matmul(weights.swapaxes(-1, -2), dy[block], out=dv[block])
            dscores = vjp_softmax(vjp_dropout(dy[block] @ v[block].swapaxes(-1, -2)))
            dscores *= scale
            xp.matmul(dscores, k[block], out=dq[block])
            xp.matmul(dscores.swapaxes(-1, -2), q[block], out=dk[block])
        return dq, dk, dv

    return y, vjp


def self_attention(
    x: Array,
    p: Mapping[str, Array],
    bias: Array | None,
    n_head: int,
    *,
    cache: KeyValueCache | None = None,
    pdrop: float = 0.0,
    rng: np.random.Generator | None = None,
) -> tuple[Array, Callable]:
    """Every token gathers what the tokens it sees have to say.

    x (B, T, C) -> y (B, T, C); vjp(dy) -> dx, dp. With a cache, the keys and values of earlier tokens are seen too
    (and nothing is differentiable: a cache is for generation).
    """
    xp = get_array_module(x)
    qkv, vjp_qkv = linear(x, p["c_attn.weight"], p["c_attn.bias"])
    q, k, v = split_heads(qkv, n_head)
    if cache is not None:
        k, v = cache.append(k, v)
    y, vjp_attend = attend(q, k, v, bias, pdrop=pdrop, rng=rng)
    y, vjp_proj = linear(merge_heads(y[None]), p["c_proj.weight"], p["c_proj.bias"])

    def vjp(dy: Array) -> tuple[Array, dict[str, Array]]:
        dmerged, dw_proj, db_proj = vjp_proj(dy)
        b, t, c = dmerged.shape
        dheads = dmerged.reshape(b, t, n_head, c // n_head).transpose(0, 2, 1, 3)
        dqkv = merge_heads(xp.stack(vjp_attend(xp.ascontiguousarray(dheads))))
        dx, dw_qkv, db_qkv = vjp_qkv(dqkv)
        return dx, {
            "c_attn.weight": dw_qkv,
            "c_attn.bias": db_qkv,
            "c_proj.weight": dw_proj,
            "c_proj.bias": db_proj,
        }

    return y, vjp
