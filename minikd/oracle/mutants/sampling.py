"""Mistakes in how the next token is picked."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from minikd.backend import Array
from minikd.models.generate import Sampling
from minikd.oracle.mutants.planting import Bed
from minikd.oracle.subjects.pure import sample_token
from minikd.softmax import softmax

MUTANTS = Bed()
plant = MUTANTS.plant


def sampling(change: Callable[[Sampling], Sampling]) -> Callable:
    """Tokens picked in another way."""

    def mutated(logits: Array, uniform: Array, **own: Any) -> Array:
        return change(Sampling(**own)).pick(logits, uniform)

    return mutated


plant("sample_token", "greedy", "yours is always the most likely token")(
    sampling(lambda how: replace(how, temperature=0.0))
)
plant("sample_token", "temperature-ignored", "the temperature is not used")(
    sampling(lambda how: replace(how, temperature=1.0 if how.temperature else 0.0))
)
plant("sample_token", "temperature-multiplied", "you multiply the logits by T; they are divided by T")(
    sampling(lambda how: replace(how, temperature=1 / how.temperature if how.temperature else 0.0))
)
plant("sample_token", "top-k-ignored", "`top_k` is not used")(sampling(lambda how: replace(how, top_k=None)))
plant("sample_token", "top-p-ignored", "`top_p` is not used")(sampling(lambda how: replace(how, top_p=None)))
plant("sample_token", "one-token-too-many", "you keep k + 1 tokens")(
    sampling(lambda how: replace(how, top_k=how.top_k + 1 if how.top_k else None))
)


def kept(logits: Array, keep: Callable[[Array], Array], temperature: float, top_k: int | None) -> tuple[Array, Array]:
    """Tokens from the most likely down, and their probabilities, 0 where keep(p) is False."""
    order = np.argsort(-logits, axis=-1)[:, :top_k]
    p, _ = softmax(np.take_along_axis(logits, order, axis=-1), temperature)
    return order, np.where(keep(p), p, 0)


def picked(order: Array, p: Array, share: Array) -> Array:
    """The first token at which the running sum of p passes `share`, the last if none does."""
    index = np.minimum((p.cumsum(axis=-1) <= share[:, None]).sum(axis=-1), p.shape[-1] - 1)
    return np.take_along_axis(order, index[:, None], axis=-1)[:, 0]


def from_nucleus(keep: Callable[[Array, float], Array], *, renormalize: bool = True) -> Callable:
    """Sampling whose nucleus is keep(p, top_p)."""

    def mutated(
        logits: Array,
        uniform: Array,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> Array:
        if temperature == 0 or top_p is None:
            return sample_token(logits, uniform, temperature=temperature, top_k=top_k)
        order, p = kept(logits, lambda p: keep(p, top_p), temperature, top_k)
        return picked(order, p, uniform * p.sum(axis=-1) if renormalize else uniform)

    return mutated


plant("sample_token", "nucleus-too-small", "the token that makes the nucleus reach p is left out: it belongs to it")(
    from_nucleus(lambda p, top_p: (p.cumsum(axis=-1) <= top_p) | (np.arange(p.shape[-1]) == 0))
)
plant("sample_token", "threshold", "you keep tokens more likely than top_p times the likeliest (min-p), not a nucleus")(
    from_nucleus(lambda p, top_p: p >= top_p * p[:, :1])
)
plant("sample_token", "not-renormalized", "what the nucleus leaves is not renormalised")(
    from_nucleus(lambda p, top_p: p.cumsum(axis=-1) - p < top_p, renormalize=False)
)


@plant("sample_token", "nucleus-before-temperature", "the nucleus is that of T = 1: the temperature comes first")
def _(logits: Array, uniform: Array, *, temperature: float = 1.0, top_k: int | None = None, **own: Any) -> Array:
    top_p = own.get("top_p")
    if temperature == 0 or top_p is None:
        return sample_token(logits, uniform, temperature=temperature, top_k=top_k)
    order, p = kept(logits, lambda p: p.cumsum(axis=-1) - p < top_p, 1.0, top_k)
    p = np.where(p > 0, softmax(np.take_along_axis(logits, order, axis=-1), temperature)[0], 0)
    return picked(order, p, uniform * p.sum(axis=-1))


@plant("sample_token", "least-likely-first", "your order is upwards: the least likely tokens are kept")
def _(logits: Array, uniform: Array, *, temperature: float = 1.0, **own: Any) -> Array:
    if temperature == 0 or not own:
        return sample_token(logits, uniform, temperature=temperature)
    order = np.argsort(logits, axis=-1)[:, : own.get("top_k")]
    p, _ = softmax(np.take_along_axis(logits, order, axis=-1), temperature)
    p = np.where(p.cumsum(axis=-1) - p < own.get("top_p", 1.0), p, 0)
    return picked(order, p, uniform * p.sum(axis=-1))
