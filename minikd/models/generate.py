"""Writing text: one token after the other, with a cache of the keys and values of those before."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minikd.backend import Array, get_array_module, to_host
from minikd.models.gpt2 import GPT2
from minikd.nn import KeyValueCache
from minikd.softmax import softmax


@dataclass(frozen=True)
class Sampling:
    """How the next token is picked from the logits; a ValueError names what cannot be.

    `top_p`: nucleus sampling, Holtzman et al. 2020.
    """

    temperature: float = 1.0
    """flattens the distribution above 1, sharpens it below; 0 is greedy (the most likely token)"""
    top_k: int | None = None
    """keep only the k most likely tokens; all if not given"""
    top_p: float | None = None
    """keep only the fewest most likely tokens whose probabilities reach p; all if not given"""

    def __post_init__(self) -> None:
        if not (self.temperature >= 0 and np.isfinite(self.temperature)):
            raise ValueError(f"temperature is {self.temperature}; wanted a number of at least 0 (0 is greedy)")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; wanted at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; wanted a share in (0, 1]")

    def pick(self, logits: Array, uniform: Array) -> Array:
        """One token a row: logits (B, V), uniform (B,) drawn from [0, 1) -> tokens (B,)."""
        if self.temperature == 0:
            return logits.argmax(axis=-1)
        xp = get_array_module(logits)
        if self.top_k is None and self.top_p is None:
            return _invert(xp, softmax(logits, temperature=self.temperature)[0], uniform)
        k = min(self.top_k or logits.shape[-1], logits.shape[-1])
        order = xp.argsort(-logits, axis=-1)[:, :k]
        p, _ = softmax(xp.take_along_axis(logits, order, axis=-1), temperature=self.temperature)
        if self.top_p is not None:
            kept = xp.cumsum(p, axis=-1) - p < self.top_p
            kept[:, 0] = True  # also where top_p is 0 in float32
            p = xp.where(kept, p, p.dtype.type(0))
        return xp.take_along_axis(order, _invert(xp, p, uniform)[:, None], axis=-1)[:, 0]


def _invert(xp: Any, p: Array, uniform: Array) -> Array:
    """The first index at which the running sum of `p` (B, V), which need not sum to 1, passes its share `uniform`."""
    cumulative = xp.cumsum(p, axis=-1, dtype=np.float64)
    return (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(axis=-1)


def generate(
    model: GPT2,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    sampling: Sampling = Sampling(),
    seed: int | Sequence[int] = 0,
    stop: int | None = None,
    vocab_size: int | None = None,
    use_cache: bool = True,
) -> list[list[int]]:
    """Continue each prompt by at most `max_new_tokens` tokens, up to and without the token `stop`.

    The prompts may differ in length; what one row becomes does not depend on the others. Where a text outgrows
    `n_positions`, the model goes on from the latter half of what it has read. `vocab_size`: that of the tokenizer, if
    the model's is padded beyond it; other ids are not written. Without the cache every token is read again at every
    step: slow, and the same tokens. A ValueError says which prompt is empty or too long.
    """
    n_positions = model.config.n_positions
    _check(prompts, max_new_tokens, n_positions, model.config.vocab_size)
    xp = get_array_module(model.params.flat)
    uniforms = xp.asarray(np.random.default_rng(seed).random((len(prompts), max_new_tokens)))
    reader = _Reader(model, prompts, use_cache)
    written: list[list[int]] = [[] for _ in prompts]
    going = set(range(len(prompts)))
    for i in range(max_new_tokens):
        tokens = to_host(sampling.pick(reader.next_logits()[:, :vocab_size], uniforms[:, i]))
        for row in sorted(going):
            if stop is not None and tokens[row] == stop:
                going.discard(row)
            else:
                written[row].append(int(tokens[row]))
        if not going:
            break
        reader.append(tokens)
    return written


def _check(prompts: Sequence[Sequence[int]], max_new_tokens: int, n_positions: int, vocab_size: int) -> None:
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; wanted at least 1")
    if not prompts:
        raise ValueError("prompts is empty; wanted at least one")
    for i, prompt in enumerate(prompts):
        if not 1 <= len(prompt) <= n_positions:
            raise ValueError(f"prompt {i} has {len(prompt)} tokens; wanted 1 to n_positions = {n_positions}")
        for token in prompt:
            if not 0 <= token < vocab_size:
                raise ValueError(f"prompt {i} holds token {token}; wanted 0 to vocab_size - 1 = {vocab_size - 1}")


class _Reader:
    """The texts so far, padded on the left to one length, and how far the model has read them."""

    def __init__(self, model: GPT2, prompts: Sequence[Sequence[int]], use_cache: bool):
        self.model = model
        self.use_cache = use_cache
        self.xp = get_array_module(model.params.flat)
        self.start_reading(prompts)

    def start_reading(self, texts: Sequence[Sequence[int] | np.ndarray]) -> None:
        """Forget what was read: the next call reads all of `texts`."""
        longest = max(map(len, texts))
        self.pad = np.array([longest - len(text) for text in texts])
        self.tokens = np.zeros((len(texts), longest), dtype=np.int64)
        for row, pad, text in zip(self.tokens, self.pad, texts, strict=True):
            row[pad:] = text
        self.n_read = 0
        self.padded = bool(self.pad.any())
        config, flat = self.model.config, self.model.params.flat
        shape = (len(self.tokens), config.n_head, config.n_positions, config.n_embd // config.n_head)
        empty = self.xp.empty
        layers = range(config.n_layer if self.use_cache else 0)
        self.caches = [KeyValueCache(empty(shape, flat.dtype), empty(shape, flat.dtype)) for _ in layers]

    def append(self, tokens: np.ndarray) -> None:
        """Add one token (B,) to each text; of those that this outgrows the model, keep the latter half."""
        n_positions = self.model.config.n_positions
        if self.tokens.shape[1] == n_positions:
            texts = [row[pad:] for row, pad in zip(self.tokens, self.pad, strict=True)]
            half = n_positions - n_positions // 2
            self.start_reading([text[half:] if len(text) == n_positions else text for text in texts])
        self.tokens = np.concatenate((self.tokens, tokens[:, None]), axis=1)
        if not self.use_cache:
            self.n_read = 0

    def next_logits(self) -> Array:
        """Logits of the next token of every text, (B, V)."""
        n_read, length = self.n_read, self.tokens.shape[1]
        columns = np.arange(n_read, length)
        sees_all = length - n_read == 1 and not self.padded
        hidden, head = self.model.read(
            self.xp.asarray(self.tokens[:, n_read:]),
            caches=self.caches,
            positions=self.xp.asarray(np.maximum(columns - self.pad[:, None], 0) if self.padded else columns),
            bias=None if sees_all else self._bias(columns, length),
        )
        self.n_read = length
        return hidden[:, -1] @ head.T

    def _bias(self, columns: np.ndarray, length: int) -> Array:
        seen = columns[:, None] >= np.arange(length)
        real = np.arange(length) >= self.pad[:, None]
        itself = columns[:, None] == np.arange(length)  # padding sees itself, so that no row is empty
        visible = (seen & real[:, None, :]) | itself
        dtype = self.model.params.flat.dtype
        return self.xp.asarray(np.where(visible, dtype.type(0), dtype.type(-np.inf))[:, None])
