"""The whole model: its gradient, its first loss, causality, initial weights, and what it refuses."""

import math

import numpy as np
import pytest

from minikd.losses import cross_entropy
from minikd.models import GPT2, GPT2Config, Parameters, init_gpt2
from minikd.oracle import assert_vjp


def small(rng, *, dtype=np.float64, **fields):
    config = GPT2Config(**({"vocab_size": 11, "n_positions": 9, "n_embd": 6, "n_layer": 2, "n_head": 3} | fields))
    params = init_gpt2(config, rng, dtype=dtype)
    params.flat[...] += 0.3 * rng.normal(size=params.flat.shape)  # also where initial weights are 0
    return GPT2(config, params)


@pytest.mark.parametrize(
    "fields", [{}, {"n_layer": 1, "n_head": 1, "n_inner": 5}, {"vocab_size": 41, "n_positions": 7}]
)
def test_gradient_of_every_parameter(rng, fields):
    model = small(rng, **fields)
    tokens = rng.integers(0, model.config.vocab_size, size=(2, 7))
    assert_vjp(lambda params: GPT2(model.config, params)(tokens), model.params)


def test_gradient_with_dropout(rng):
    model = small(rng, embd_pdrop=0.3, attn_pdrop=0.3, resid_pdrop=0.3)
    tokens = rng.integers(0, 11, size=(2, 7))
    assert_vjp(lambda params: GPT2(model.config, params)(tokens, rng=np.random.default_rng(7)), model.params)


def test_trunk_and_head_make_the_logits(rng):
    model = small(rng)
    tokens = rng.integers(0, 11, size=(2, 9))
    (hidden, head), trunk_vjp = model.trunk(tokens)
    logits, vjp = model(tokens)
    np.testing.assert_allclose(logits, hidden @ head.T, rtol=1e-14)
    dlogits = rng.normal(size=logits.shape)
    dhead = np.einsum("btv,btc->vc", dlogits, hidden)
    np.testing.assert_allclose(trunk_vjp(dlogits @ head, dhead).flat, vjp(dlogits).flat, rtol=1e-10, atol=1e-13)


def test_the_first_loss_is_that_of_a_guess(rng):
    config = GPT2Config(vocab_size=500, n_positions=32, n_embd=64, n_layer=3, n_head=4)
    model = GPT2(config, init_gpt2(config, rng))
    tokens, targets = rng.integers(0, 500, size=(2, 4, 32))
    loss, _ = cross_entropy(model(tokens)[0], targets)
    assert loss == pytest.approx(math.log(500), rel=0.01)


def test_initial_weights(rng):
    config = GPT2Config(vocab_size=300, n_positions=50, n_embd=64, n_layer=8, n_head=4)
    params = init_gpt2(config, rng)
    std = {name: value.std() for name, value in params.items()}
    assert std["transformer.wte.weight"] == pytest.approx(0.02, rel=0.03)
    assert std["transformer.h.3.attn.c_attn.weight"] == pytest.approx(0.02, rel=0.03)
    assert std["transformer.h.3.mlp.c_proj.weight"] == pytest.approx(0.02 / 4, rel=0.03)
    assert (params["transformer.h.7.ln_2.weight"] == 1).all()
    assert not any(value.any() for name, value in params.items() if name.endswith("bias"))


def test_the_future_has_no_influence(rng):
    model = small(rng)
    tokens = rng.integers(0, 11, size=(1, 9))
    changed = tokens.copy()
    changed[0, 5:] = (changed[0, 5:] + 1) % 11
    np.testing.assert_array_equal(model(tokens)[0][:, :5], model(changed)[0][:, :5])


def test_float32_is_close_to_float64(rng):
    model = small(rng, n_embd=48, n_layer=3)
    tokens = rng.integers(0, 11, size=(4, 9))
    single = GPT2(model.config, model.params.with_flat(model.params.flat.astype(np.float32)))
    (wanted, wanted_vjp), (got, got_vjp) = model(tokens), single(tokens)
    dlogits = rng.normal(size=wanted.shape)
    gradient, exact = got_vjp(dlogits.astype(np.float32)).flat, wanted_vjp(dlogits).flat
    assert got.dtype == gradient.dtype == np.float32
    assert np.linalg.norm(got - wanted) < 1e-5 * np.linalg.norm(wanted)
    assert np.linalg.norm(gradient - exact) < 1e-5 * np.linalg.norm(exact)


def test_a_text_longer_than_the_model_reads_is_refused(rng):
    with pytest.raises(ValueError, match="10 long, but the model reads at most n_positions = 9"):
        small(rng)(np.zeros((1, 10), dtype=int))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_head": 4}, "n_head is 4, which does not divide n_embd, 6"),
        ({"n_layer": 0}, "n_layer is 0"),
        ({"vocab_size": True}, "vocab_size is True"),
        ({"n_inner": -1}, "n_inner is -1"),
        ({"attn_pdrop": 1.0}, r"attn_pdrop is 1.0; wanted a rate in \[0, 1\)"),
        ({"layer_norm_epsilon": 0.0}, "layer_norm_epsilon is 0.0"),
    ],
)
def test_configurations_that_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        GPT2Config(**({"vocab_size": 11, "n_embd": 6, "n_head": 3} | fields))


def test_parameters_share_one_buffer():
    params = Parameters.zeros({"a": (2, 3), "b": (4,)}, dtype=np.float64)
    params["b"][1] = 5
    params["a"][1] = 2
    np.testing.assert_array_equal(params.flat, [0, 0, 0, 2, 2, 2, 0, 5, 0, 0])
    assert list(params) == ["a", "b"] and len(params) == 2
    assert params.under("a")[""] is params["a"]
    with pytest.raises(ValueError, match=r"flat has shape \(9,\), but the parameters need \(10,\)"):
        params.with_flat(np.zeros(9))
