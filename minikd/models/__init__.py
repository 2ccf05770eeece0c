"""Models: configuration, parameters over one flat buffer, GPT-2, generation."""

from minikd.models.config import GPT2Config
from minikd.models.gpt2 import GPT2, init_gpt2
from minikd.models.parameters import Parameters

__all__ = ["GPT2", "GPT2Config", "Parameters", "init_gpt2"]
