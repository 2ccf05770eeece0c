"""GPT-2 against `transformers`: logits and every parameter's gradient."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from minikd.models import GPT2Config  # noqa: E402
from tests.parity.gpt2_pair import gpt2_pair, relative_error  # noqa: E402

pytestmark = pytest.mark.torch

CASES = {
    "one token, one head": (GPT2Config(vocab_size=7, n_positions=9, n_embd=8, n_layer=1, n_head=1), (1, 1)),
    "full context": (GPT2Config(vocab_size=41, n_positions=16, n_embd=12, n_layer=2, n_head=3), (2, 16)),
    "odd sizes": (GPT2Config(vocab_size=401, n_positions=20, n_embd=35, n_layer=3, n_head=5), (3, 13)),
    "inner width given": (
        GPT2Config(vocab_size=101, n_positions=32, n_embd=24, n_layer=2, n_head=2, n_inner=37),
        (5, 7),
    ),
    "other epsilon": (
        GPT2Config(vocab_size=41, n_positions=8, n_embd=12, n_layer=1, n_head=2, layer_norm_epsilon=1e-2),
        (2, 5),
    ),
    "several cache blocks": (GPT2Config(vocab_size=611, n_positions=80, n_embd=48, n_layer=2, n_head=4), (9, 71)),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients(rng, case, dtype, tolerance):
    config, shape = CASES[case]
    model, reference = gpt2_pair(config, rng, dtype)
    tokens = rng.integers(config.vocab_size, size=shape)
    dlogits = rng.normal(size=(*shape, config.vocab_size)).astype(dtype)

    logits, vjp = model(tokens)
    grads = vjp(dlogits)
    reference_logits = reference(torch.from_numpy(tokens)).logits
    reference_logits.backward(torch.from_numpy(dlogits))

    assert logits.dtype == dtype
    assert relative_error(logits, reference_logits.detach().numpy()) < tolerance
    reference_grads = {name: weight.grad.numpy() for name, weight in reference.named_parameters()}
    assert set(grads) == set(reference_grads)
    errors = {name: relative_error(grads[name], reference_grads[name]) for name in grads}
    assert max(errors.values()) < tolerance, errors
