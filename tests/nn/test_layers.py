"""Each layer: a value worked by hand, its pullback against differences, odd sizes, and its slow textbook form."""

import math
from functools import partial

import numpy as np
import pytest

from minikd.nn import dropout, embedding, gelu, layer_norm, linear
from minikd.oracle import assert_vjp

SHAPES = [(1, 3), (5, 41), (2, 3, 7), (3, 401)]


def test_linear_by_hand():
    y, vjp = linear(np.array([[1.0, 2.0]]), np.array([[1.0, 0.0, 2.0], [3.0, 1.0, 0.0]]), np.array([0.5, 0.0, -1.0]))
    dx, dweight, dbias = vjp(np.array([[1.0, 10.0, 100.0]]))
    np.testing.assert_array_equal(y, [[7.5, 2.0, 1.0]])
    np.testing.assert_array_equal(dx, [[201.0, 13.0]])
    np.testing.assert_array_equal(dweight, [[1.0, 10.0, 100.0], [2.0, 20.0, 200.0]])
    np.testing.assert_array_equal(dbias, [1.0, 10.0, 100.0])


@pytest.mark.parametrize("shape", SHAPES)
def test_linear_vjp(rng, shape):
    assert_vjp(linear, rng.normal(size=shape), rng.normal(size=(shape[-1], 5)), rng.normal(size=5))


@pytest.mark.parametrize("layer", [linear, layer_norm, gelu])
def test_a_strided_input_gives_what_a_contiguous_one_gives(rng, layer):
    parameters = {linear: [rng.normal(size=(6, 2)), rng.normal(size=2)], layer_norm: [np.ones(6), np.zeros(6)]}
    others = parameters.get(layer, [])
    x = rng.normal(size=(4, 6, 3)).swapaxes(1, 2)
    (strided, strided_vjp), (y, vjp) = layer(x, *others), layer(x.copy(order="C"), *others)
    dy = rng.normal(size=(y.shape[-1], *y.shape[:-1])).transpose(1, 2, 0)
    np.testing.assert_allclose(strided, y, rtol=1e-12, atol=1e-14)
    for got, wanted in zip(strided_vjp(dy), vjp(dy.copy(order="C")), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_embedding_by_hand():
    table = np.arange(8.0).reshape(4, 2)
    y, vjp = embedding(np.array([[2, 0, 2]]), table)
    np.testing.assert_array_equal(y, [[[4.0, 5.0], [0.0, 1.0], [4.0, 5.0]]])
    dtable = vjp(np.array([[[1.0, 2.0], [3.0, 4.0], [10.0, 20.0]]]))
    np.testing.assert_array_equal(dtable, [[3.0, 4.0], [0.0, 0.0], [11.0, 22.0], [0.0, 0.0]])


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 41)])
def test_embedding_vjp(rng, shape):
    assert_vjp(embedding, rng.integers(0, 9, size=shape), rng.normal(size=(9, 5)))


def test_layer_norm_by_hand():
    y, _ = layer_norm(np.array([[1.0, 3.0]]), np.array([2.0, 1.0]), np.array([0.0, 10.0]), eps=0.0)
    np.testing.assert_allclose(y, [[-2.0, 11.0]], rtol=1e-15)


@pytest.mark.parametrize("shape", SHAPES)
def test_layer_norm_vjp(rng, shape):
    assert_vjp(layer_norm, rng.normal(size=shape), rng.normal(size=shape[-1:]), rng.normal(size=shape[-1:]))


def test_layer_norm_keeps_its_precision_far_from_zero(rng):
    x = rng.normal(size=(3, 64))
    gain, bias = np.ones(64), np.zeros(64)
    shifted, _ = layer_norm((x + 1000).astype(np.float32), gain.astype(np.float32), bias.astype(np.float32))
    plain, _ = layer_norm(x, gain, bias)
    np.testing.assert_allclose(shifted, plain, atol=1e-3)


def test_gelu_by_hand():
    x = np.array([0.0, 1.0, -2.0])
    wanted = [0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in x]
    np.testing.assert_allclose(gelu(x)[0], wanted, rtol=1e-15)


@pytest.mark.parametrize("shape", [*SHAPES, (7,)])
def test_gelu_vjp(rng, shape):
    assert_vjp(gelu, 2 * rng.normal(size=shape))


def test_gelu_in_blocks_is_gelu_of_each_entry(rng):
    x = rng.normal(size=(700, 301)).astype(np.float32)  # more than one block
    y, vjp = gelu(x)
    dy = rng.normal(size=x.shape).astype(np.float32)
    few, few_vjp = gelu(x[-3:])
    np.testing.assert_array_equal(y[-3:], few)
    np.testing.assert_array_equal(vjp(dy)[-3:], few_vjp(dy[-3:]))


@pytest.mark.parametrize("x", [1e4, -1e4, 300.0])
def test_gelu_far_out(x):
    y, vjp = gelu(np.full((1, 1), x, np.float32))
    assert y == max(x, 0.0)
    assert vjp(np.ones((1, 1), np.float32)) == (x > 0)


def test_dropout_keeps_the_mean_and_drops_the_rate(rng):
    y, vjp = dropout(np.ones((200, 300)), 0.25, rng)
    assert set(np.unique(y)) == {0.0, 1 / 0.75}
    assert np.mean(y == 0) == pytest.approx(0.25, abs=0.01)
    np.testing.assert_array_equal(vjp(np.ones_like(y)), y)


def test_dropout_vjp(rng):
    assert_vjp(lambda x: dropout(x, 0.5, np.random.default_rng(1)), rng.normal(size=(5, 41)))


def test_dropout_without_random_numbers_does_nothing(rng):
    x = rng.normal(size=(2, 3))
    assert dropout(x, 0.5, None)[0] is x
    assert dropout(x, 0.0, rng)[0] is x


@pytest.mark.parametrize("rate", [-1, 1, 1.5, math.nan])
def test_dropout_of_another_rate(rng, rate):
    with pytest.raises(ValueError, match=rf"rate is {rate}; wanted a number in \[0, 1\)"):
        dropout(np.ones(3), rate, rng)


@pytest.mark.parametrize(
    "layer",
    [
        gelu,
        partial(layer_norm, gain=np.ones(8, np.float32), bias=np.zeros(8, np.float32)),
        partial(linear, weight=np.ones((8, 8), np.float32), bias=np.zeros(8, np.float32)),
    ],
)
def test_float32_stays_float32(rng, layer):
    x = rng.normal(size=(4, 8)).astype(np.float32)
    y, vjp = layer(x)
    grads = vjp(y)
    assert y.dtype == np.float32
    assert all(g.dtype == np.float32 for g in (grads if isinstance(grads, tuple) else (grads,)))
