"""The same random weights in minikd's GPT-2 and in that of `transformers`."""

from dataclasses import asdict

import numpy as np
import torch
import transformers

from minikd.models import GPT2, GPT2Config, Parameters


def gpt2_pair(config: GPT2Config, rng: np.random.Generator, dtype: type = np.float64) -> tuple:
    """minikd's model and `transformers`', in `dtype`, in evaluation mode.

    The weights are larger than a fresh model's and no gain is 1, no bias 0: attention is uneven, every term counts.
    Positions weigh most, so that a greedy text does not say one word over and over.
    """
    params = Parameters.zeros(config.shapes, dtype=dtype)
    for name, value in params.items():
        gain = value.ndim == 1 and name.endswith("weight")
        scale = 2.0 if name == "transformer.wpe.weight" else 0.2
        value[...] = (1 if gain else 0) + rng.normal(scale=scale, size=value.shape)
    options = asdict(config) | {"attn_implementation": "eager", "bos_token_id": None, "eos_token_id": None}
    reference = transformers.GPT2LMHeadModel(transformers.GPT2Config(**options)).eval()
    if dtype is np.float64:
        reference.double()
    with torch.no_grad():
        for name, weight in reference.named_parameters():
            weight.copy_(torch.tensor(params[name]))
    return GPT2(config, params), reference


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Length of the difference over the length of what is expected."""
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))
