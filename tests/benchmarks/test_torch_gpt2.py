"""The model that minikd is measured against is a GPT-2: the same numbers as that of `transformers`."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from benchmarks.torch_gpt2 import TorchGPT2  # noqa: E402
from minikd.models import GPT2Config  # noqa: E402
from tests.parity.gpt2_pair import gpt2_pair, relative_error  # noqa: E402

pytestmark = pytest.mark.torch

CONFIG = GPT2Config(vocab_size=61, n_positions=24, n_embd=24, n_layer=2, n_head=3)


def test_logits(rng):
    model, reference = gpt2_pair(CONFIG, rng)
    measured = TorchGPT2(CONFIG).double()
    measured.load_published(model.params)
    tokens = torch.from_numpy(rng.integers(CONFIG.vocab_size, size=(3, 17)))
    with torch.no_grad():
        assert relative_error(measured(tokens).numpy(), reference(tokens).logits.numpy()) < 1e-12


def test_generated_tokens(rng):
    model, reference = gpt2_pair(CONFIG, rng)
    measured = TorchGPT2(CONFIG).double()
    measured.load_published(model.params)
    prompt = torch.from_numpy(rng.integers(CONFIG.vocab_size, size=(2, 5)))
    written = measured.generate(prompt, 19)
    expected = reference.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=19, do_sample=False, pad_token_id=0
    )
    assert written.tolist() == expected.tolist()
    assert len(set(written[0].tolist())) > 5
