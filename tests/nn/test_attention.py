"""Attention: against the loop over tokens that the textbook writes, its pullback, causality, and the cache."""

import numpy as np
import pytest

from minikd.models.gpt2 import causal_bias
from minikd.nn import KeyValueCache, attend, merge_heads, self_attention, split_heads
from minikd.oracle import assert_vjp


def attend_slowly(q, k, v):
    """One token at a time, only over the keys it may see."""
    y = np.zeros_like(q)
    for b, h, t in np.ndindex(q.shape[:3]):
        scores = k[b, h, : t + 1] @ q[b, h, t] / np.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max())
        y[b, h, t] = weights / weights.sum() @ v[b, h, : t + 1]
    return y


def qkv(rng, b=2, h=3, t=7, d=4):
    return tuple(rng.normal(size=(b, h, t, d)) for _ in range(3))


def parameters(rng, c):
    shapes = {"c_attn.weight": (c, 3 * c), "c_attn.bias": (3 * c,), "c_proj.weight": (c, c), "c_proj.bias": (c,)}
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("t", [1, 7, 41])
def test_attend_is_the_textbook_loop(rng, t):
    q, k, v = qkv(rng, t=t)
    y, _ = attend(q, k, v, causal_bias(t, np, q.dtype))
    np.testing.assert_allclose(y, attend_slowly(q, k, v), rtol=1e-12)


@pytest.mark.parametrize("t", [1, 5, 13])
def test_attend_vjp(rng, t):
    bias = causal_bias(t, np, np.dtype(float))
    assert_vjp(lambda q, k, v: attend(q, k, v, bias), *qkv(rng, t=t))


def test_attend_vjp_without_bias_and_with_dropout(rng):
    q, k, v = qkv(rng)
    assert_vjp(lambda q, k, v: attend(q, k, v, None), q, k, v)
    assert_vjp(lambda q, k, v: attend(q, k, v, None, pdrop=0.3, rng=np.random.default_rng(5)), q, k, v)


def test_attend_with_a_bias_for_each_sequence(rng):
    q, k, v = qkv(rng, b=2)
    bias = np.zeros((2, 1, 7, 7))
    bias[1, ..., 0] = -np.inf
    y, _ = attend(q, k, v, bias)
    np.testing.assert_allclose(y[1], attend(q[1:], k[1:, :, 1:], v[1:, :, 1:], None)[0][0], rtol=1e-12)
    np.testing.assert_allclose(y[0], attend(q[:1], k[:1], v[:1], None)[0][0], rtol=1e-12)
    assert_vjp(lambda q, k, v: attend(q, k, v, bias), q, k, v)


def test_blocks_of_sequences_change_nothing(rng):
    q, k, v = (x.astype(np.float32) for x in qkv(rng, b=9, h=2, t=130, d=8))  # more than one block
    bias = causal_bias(130, np, q.dtype)
    y, vjp = attend(q, k, v, bias)
    last, last_vjp = attend(q[-1:], k[-1:], v[-1:], bias)
    np.testing.assert_array_equal(y[-1:], last)
    for whole, part in zip(vjp(y), last_vjp(last), strict=True):
        np.testing.assert_array_equal(whole[-1:], part)


def test_split_and_merge_are_inverse(rng):
    x = rng.normal(size=(2, 5, 36))
    heads = split_heads(x, n_head=3)
    assert heads.shape == (3, 2, 3, 5, 4)
    np.testing.assert_array_equal(merge_heads(heads), x)


def test_self_attention_vjp(rng):
    bias = causal_bias(5, np, np.dtype(float))
    assert_vjp(lambda x, p: self_attention(x, p, bias, 2), rng.normal(size=(2, 5, 6)), parameters(rng, 6))


def test_the_future_has_no_influence(rng):
    x, p, bias = rng.normal(size=(1, 9, 6)), parameters(rng, 6), causal_bias(9, np, np.dtype(float))
    before, vjp = self_attention(x, p, bias, 2)
    changed = x.copy()
    changed[:, 5:] += 1
    after, _ = self_attention(changed, p, bias, 2)
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert (np.abs(before[:, 5:] - after[:, 5:]) > 1e-3).all()
    dy = np.zeros_like(before)
    dy[:, 4] = 1
    dx, _ = vjp(dy)
    assert (dx[:, 5:] == 0).all() and (dx[:, :5] != 0).all()


def test_one_token_after_the_other_through_the_cache(rng):
    x, p = rng.normal(size=(2, 6, 8)), parameters(rng, 8)
    whole, _ = self_attention(x, p, causal_bias(6, np, x.dtype), 2)
    cache = KeyValueCache(np.empty((2, 2, 10, 4)), np.empty((2, 2, 10, 4)))
    parts = [self_attention(x[:, t : t + 1], p, None, 2, cache=cache)[0] for t in range(6)]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=1e-12)
    assert cache.length == 6
