"""Greedy generation against `transformers`."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from minikd.models import GPT2Config  # noqa: E402
from minikd.models.generate import Sampling, generate  # noqa: E402
from tests.parity.gpt2_pair import gpt2_pair  # noqa: E402

pytestmark = pytest.mark.torch

CONFIG = GPT2Config(vocab_size=97, n_positions=40, n_embd=24, n_layer=2, n_head=3)


def reference_tokens(reference, prompts, max_new_tokens, stop=None):
    """Greedy continuations by `transformers`, the prompts padded on the left."""
    longest = max(map(len, prompts))
    padded = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    tokens = reference.generate(
        padded, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=stop, pad_token_id=0
    )
    return tokens[:, longest:].tolist()


@pytest.mark.parametrize("lengths", [(1,), (6,), (4, 4), (9, 1, 5)])
@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_tokens(rng, lengths, use_cache):
    model, reference = gpt2_pair(CONFIG, rng)
    prompts = [rng.integers(CONFIG.vocab_size, size=length).tolist() for length in lengths]
    written = generate(model, prompts, 30, sampling=Sampling(temperature=0), use_cache=use_cache)
    assert written == reference_tokens(reference, prompts, 30)
    assert all(len(set(row)) > 5 for row in written)  # one token over and over would agree too easily


def test_greedy_stops_where_the_reference_stops(rng):
    model, reference = gpt2_pair(CONFIG, rng)
    prompts = [rng.integers(CONFIG.vocab_size, size=length).tolist() for length in (3, 7)]
    stop = generate(model, prompts, 20, sampling=Sampling(temperature=0))[0][4]
    written = generate(model, prompts, 20, sampling=Sampling(temperature=0), stop=stop)
    expected = [
        row[: row.index(stop)] if stop in row else row for row in reference_tokens(reference, prompts, 20, stop)
    ]
    assert written == expected
    assert len(written[0]) <= 4
