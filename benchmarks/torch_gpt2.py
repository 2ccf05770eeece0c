"""GPT-2 as a practised PyTorch user writes it: modules, scaled-dot-product attention, a preallocated cache."""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minikd.models.config import GPT2Config


class Cache:
    """Keys and values of every layer, preallocated for the longest sequence; `length` positions are filled."""

    def __init__(self, config: GPT2Config, batch: int, like: Tensor):
        shape = (config.n_layer, batch, config.n_head, config.n_positions, config.n_embd // config.n_head)
        self.keys = like.new_empty(shape)
        self.values = like.new_empty(shape)
        self.length = 0

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new positions (B, H, T, D) of a layer and give all positions so far (views, no copy)."""
        end = self.length + k.shape[2]
        self.keys[layer, :, :, self.length : end] = k
        self.values[layer, :, :, self.length : end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


class Attention(nn.Module):
    """Multi-head causal self-attention."""

    def __init__(self, config: GPT2Config, layer: int):
        super().__init__()
        self.layer = layer
        self.n_head = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.c_attn(x).view(b, t, 3, self.n_head, c // self.n_head).permute(2, 0, 3, 1, 4)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=t > 1)
        return self.c_proj(y.transpose(1, 2).reshape(b, t, c))


class MLP(nn.Module):
    """The feed-forward half of a block."""

    def __init__(self, config: GPT2Config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, config.inner)
        self.c_proj = nn.Linear(config.inner, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    """Attention and feed-forward, pre-norm."""

    def __init__(self, config: GPT2Config, layer: int):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        x = x + self.attn(self.ln_1(x), cache)
        return x + self.mlp(self.ln_2(x))


class TorchGPT2(nn.Module):
    """tokens (B, T) -> logits (B, T, V); the output weight is the embedding."""

    def __init__(self, config: GPT2Config):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)

    def hidden(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """The last hidden states (B, T, C), of tokens that follow those in the cache."""
        start = 0 if cache is None else cache.length
        positions = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        x = self.wte(tokens) + self.wpe(positions)
        for block in self.h:
            x = block(x, cache)
        if cache is not None:
            cache.length += tokens.shape[1]
        return self.ln_f(x)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(self.hidden(tokens), self.wte.weight)

    @torch.inference_mode()
    def generate(self, prompt: Tensor, n_new: int) -> Tensor:
        """The prompt (B, T) and `n_new` greedy tokens after it, through a cache; -> (B, T + n_new)."""
        b, t = prompt.shape
        cache = Cache(self.config, b, like=self.wte.weight)
        tokens = torch.empty((b, t + n_new), dtype=prompt.dtype, device=prompt.device)
        tokens[:, :t] = prompt
        step = prompt
        for position in range(t, t + n_new):
            last = self.hidden(step, cache)[:, -1]
            step = F.linear(last, self.wte.weight).argmax(dim=-1, keepdim=True)
            tokens[:, position : position + 1] = step
        return tokens

    def load_published(self, weights: Mapping[str, np.ndarray]) -> None:
        """Take weights with the published names and layouts: matrices (in, out), which nn.Linear stores (out, in)."""
        matrices = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
        state = {}
        for name, weight in weights.items():
            tensor = torch.tensor(weight)
            if name.endswith(matrices):
                tensor = tensor.t().contiguous()
            state[name.removeprefix("transformer.")] = tensor
        self.load_state_dict(state)
