"""Writing: with and without the cache, alone and in a batch, greedy and sampled, to the end of the text."""

import numpy as np
import pytest

from minikd.models import GPT2, GPT2Config, init_gpt2
from minikd.models.generate import Sampling, generate
from minikd.softmax import softmax


@pytest.fixture
def model(rng):
    config = GPT2Config(vocab_size=23, n_positions=16, n_embd=12, n_layer=2, n_head=3)
    params = init_gpt2(config, rng, dtype=np.float64)
    params.flat[...] += 0.4 * rng.normal(size=params.flat.shape)
    return GPT2(config, params)


PROMPTS = [[1, 2, 3, 4, 5], [7], [9, 8, 7]]
SAMPLINGS = [Sampling(0.0), Sampling(), Sampling(0.7, top_k=5), Sampling(1.5, top_p=0.8), Sampling(1.0, 9, 0.5)]


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("n_new", [1, 11, 40])  # 40: beyond n_positions
def test_the_cache_changes_nothing(model, sampling, n_new):
    cached = generate(model, PROMPTS, n_new, sampling=sampling, seed=3)
    assert cached == generate(model, PROMPTS, n_new, sampling=sampling, seed=3, use_cache=False)
    assert [len(tokens) for tokens in cached] == [n_new] * 3


@pytest.mark.parametrize("n_new", [11, 40])  # 40: each outgrows n_positions at its own time
def test_a_prompt_in_a_batch_gets_what_it_gets_alone(model, n_new):
    together = generate(model, PROMPTS, n_new, sampling=Sampling(0.0))
    assert together == [generate(model, [prompt], n_new, sampling=Sampling(0.0))[0] for prompt in PROMPTS]


def test_what_a_padded_vocabulary_adds_is_not_written(model):
    assert max(map(max, generate(model, PROMPTS, 40))) > 9
    assert max(map(max, generate(model, PROMPTS, 40, vocab_size=10))) == 9


def test_greedy_is_the_argmax_of_the_whole_text(model):
    written = generate(model, [[4, 2]], 10, sampling=Sampling(0.0))[0]
    text = [4, 2, *written]
    logits, _ = model(np.array([text]))
    assert written == logits[0, 1:-1].argmax(axis=-1).tolist()


def test_seeds(model):
    first = generate(model, PROMPTS, 10, seed=1)
    assert first == generate(model, PROMPTS, 10, seed=1)
    assert first != generate(model, PROMPTS, 10, seed=2)


def test_writing_ends_before_the_stop_token(model):
    endless = generate(model, PROMPTS, 12, seed=5)
    stop = endless[0][4]
    ended = generate(model, PROMPTS, 12, seed=5, stop=stop)
    for short, long in zip(ended, endless, strict=True):
        assert short == (long[: long.index(stop)] if stop in long else long)


def test_samples_follow_the_distribution(rng):
    logits = rng.normal(size=6)
    n = 20_000
    picked = Sampling(2.0).pick(np.tile(logits, (n, 1)), rng.random(n))
    share = np.bincount(picked, minlength=6) / n
    np.testing.assert_allclose(share, softmax(logits, temperature=2.0)[0], atol=0.015)


def test_the_smallest_top_p_keeps_the_likeliest():
    logits = np.array([[0.0, 2.0, 1.0]], dtype=np.float32)
    assert Sampling(top_p=1e-300).pick(logits, np.array([0.9])).tolist() == [1]


def test_top_k_and_top_p_keep_the_likely():
    logits = np.log([[0.1, 0.5, 0.15, 0.25]])
    uniform = np.linspace(0, 1, 1000, endpoint=False)

    def share(**fields):
        picked = Sampling(**fields).pick(np.tile(logits, (1000, 1)), uniform)
        return np.bincount(picked, minlength=4) / 1000

    np.testing.assert_allclose(share(top_k=2), [0, 2 / 3, 0, 1 / 3], atol=2e-3)
    np.testing.assert_allclose(share(top_p=0.5), [0, 1, 0, 0], atol=2e-3)
    np.testing.assert_allclose(share(top_p=0.6), [0, 2 / 3, 0, 1 / 3], atol=2e-3)
    # of the renormalised top three, 5/9 and 2.5/9 reach 0.8; the third begins below 0.85 and is kept
    np.testing.assert_allclose(share(top_k=3, top_p=0.85), [0, 5 / 9, 1.5 / 9, 2.5 / 9], atol=2e-3)
    np.testing.assert_allclose(share(top_k=3, top_p=0.8), [0, 2 / 3, 0, 1 / 3], atol=2e-3)
    np.testing.assert_allclose(share(top_k=99), [0.1, 0.5, 0.15, 0.25], atol=2e-3)
    np.testing.assert_allclose(share(temperature=0.0), [0, 1, 0, 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 5), "prompts is empty"),
        (([[]], 5), "prompt 0 has 0 tokens; wanted 1 to n_positions = 16"),
        (([[1], [2] * 17], 5), "prompt 1 has 17 tokens"),
        (([[1, 23]], 5), "prompt 0 holds token 23; wanted 0 to vocab_size - 1 = 22"),
        (([[1]], 0), "max_new_tokens is 0"),
    ],
)
def test_what_cannot_be_continued(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        generate(model, *arguments)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 0.0}, r"top_p is 0.0; wanted a share in \(0, 1\]"),
    ],
)
def test_samplings_that_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**fields)
