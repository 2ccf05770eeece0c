"""AdamW, clipping and the learning rate's schedule, over one flat buffer."""

import math
from dataclasses import dataclass

from minikd.backend import Array, get_array_module, row_blocks
from minikd.models.parameters import Parameters

CHUNK_BYTES = 512 * 1024


def cosine_schedule(step: int, *, peak: float, warmup_steps: int, steps: int, final: float = 0.0) -> float:
    """The learning rate of step 0, 1, ..., steps - 1: a linear rise to `peak`, then half a cosine down to `final`.

    Loshchilov & Hutter 2017, eq. 5, without restarts.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return final + (peak - final) * (1 + math.cos(math.pi * progress)) / 2


def global_norm(gradient: Array) -> Array:
    """Euclidean length of a flat gradient (N,), a number on the gradient's device."""
    return get_array_module(gradient).sqrt(gradient @ gradient)


def clip_scale(norm: Array, max_norm: float) -> Array:
    """What to multiply a gradient of length `norm` by so that it is at most `max_norm` long; inf leaves it as it is.

    Pascanu et al. 2013.
    """
    return 1 / get_array_module(norm).maximum(norm / max_norm, norm.dtype.type(1))


@dataclass
class Moments:
    """What AdamW remembers of the gradients: their running mean and the running mean of their squares, (N,) each."""

    first: Array
    second: Array
    updates: int = 0

    @classmethod
    def zeros(cls, params: Parameters) -> "Moments":
        """Of no gradient yet."""
        xp = get_array_module(params.flat)
        return cls(xp.zeros_like(params.flat), xp.zeros_like(params.flat))


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay on the matrices.

    Loshchilov & Hutter 2019, algorithm 2, but the decay is times the whole learning rate, as in PyTorch. A ValueError
    names the field that cannot be.
    """

    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; wanted a number in [0, 1)")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay is {self.weight_decay}; wanted a finite number of at least 0")

    def update(
        self, params: Parameters, gradient: Array, moments: Moments, *, learning_rate: float, scale: Array | float = 1.0
    ) -> None:
        """Move `params` and `moments` in place by one step along `scale * gradient` (N,)."""
        xp = get_array_module(gradient)
        if self.weight_decay:
            for value in params.values():
                if value.ndim == 2:
                    value *= 1 - learning_rate * self.weight_decay
        moments.updates += 1
        root_correction2 = math.sqrt(1 - self.beta2**moments.updates)
        # lr * (m / c1) / (sqrt(v / c2) + eps), with the corrections drawn out of the pass over the array
        rate = learning_rate * root_correction2 / (1 - self.beta1**moments.updates)
        for chunk in row_blocks(gradient, block_bytes=CHUNK_BYTES):
            m, v = moments.first[chunk], moments.second[chunk]
            g = gradient[chunk] * scale
            m *= self.beta1
            m += (1 - self.beta1) * g
            g *= g
            g *= 1 - self.beta2
            v *= self.beta2
            v += g
            denominator = xp.sqrt(v, out=g)
            denominator += self.eps * root_correction2
            move = m / denominator
            move *= rate
            params.flat[chunk] -= move
