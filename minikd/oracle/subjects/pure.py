"""minikd's layers, updates and methods as functions of arrays alone: the form in which they are asked of a person."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minikd import nn, optim
from minikd.backend import Array
from minikd.distill.codistill import codistill
from minikd.distill.soft import soft
from minikd.models import gpt2
from minikd.models.config import GPT2Config
from minikd.models.generate import Sampling
from minikd.models.parameters import Parameters
from minikd.text import Batch
from minikd.train import Step, Tick


def attention(q: Array, k: Array, v: Array) -> tuple[Array, Callable]:
    """y = softmax(q k^T / sqrt(D) + bias) v, where token t sees the tokens 0 to t.

    q, k, v (B, H, T, D) -> y (B, H, T, D); vjp(dy) -> dq, dk, dv. Vaswani et al. 2017, eq. 1.
    """
    return nn.attend(q, k, v, gpt2.causal_bias(q.shape[2], np, q.dtype))


def self_attention(
    x: Array, attn_weight: Array, attn_bias: Array, proj_weight: Array, proj_bias: Array, *, n_head: int
) -> tuple[Array, Callable]:
    """Causal attention of H heads between an input and an output projection.

    x (B, T, C), attn_weight (C, 3 C) for queries, keys and values side by side, head by head, attn_bias (3 C,),
    proj_weight (C, C), proj_bias (C,) -> y (B, T, C); vjp(dy) -> a gradient for each.
    """
    p = {
        "c_attn.weight": attn_weight,
        "c_attn.bias": attn_bias,
        "c_proj.weight": proj_weight,
        "c_proj.bias": proj_bias,
    }
    y, vjp = nn.self_attention(x, p, gpt2.causal_bias(x.shape[1], np, x.dtype), n_head)

    def pullback(dy: Array) -> tuple[Array, ...]:
        dx, dp = vjp(dy)
        return dx, *(dp[name] for name in p)

    return y, pullback


def mlp(x: Array, fc_weight: Array, fc_bias: Array, proj_weight: Array, proj_bias: Array) -> tuple[Array, Callable]:
    """linear, gelu (the tanh form), linear.

    x (B, T, C), fc_weight (C, I), fc_bias (I,), proj_weight (I, C), proj_bias (C,) -> y (B, T, C); vjp(dy) -> a
    gradient for each.
    """
    p = {"c_fc.weight": fc_weight, "c_fc.bias": fc_bias, "c_proj.weight": proj_weight, "c_proj.bias": proj_bias}
    y, vjp = gpt2.mlp(x, p)

    def pullback(dy: Array) -> tuple[Array, ...]:
        dx, dp = vjp(dy)
        return dx, *(dp[name] for name in p)

    return y, pullback


def block(
    x: Array,
    ln_1_weight: Array,
    ln_1_bias: Array,
    attn_weight: Array,
    attn_bias: Array,
    attn_proj_weight: Array,
    attn_proj_bias: Array,
    ln_2_weight: Array,
    ln_2_bias: Array,
    fc_weight: Array,
    fc_bias: Array,
    mlp_proj_weight: Array,
    mlp_proj_bias: Array,
    *,
    n_head: int,
) -> tuple[Array, Callable]:
    """h = x + self_attention(layer_norm(x)), y = h + mlp(layer_norm(h)): GPT-2's pre-norm block.

    x (B, T, C), parameters as in `layer_norm`, `self_attention` and `mlp` -> y (B, T, C); vjp(dy) -> a gradient for
    each. Radford et al. 2019, section 2.3.
    """
    p = {
        "ln_1": {"weight": ln_1_weight, "bias": ln_1_bias},
        "attn": {
            "c_attn.weight": attn_weight,
            "c_attn.bias": attn_bias,
            "c_proj.weight": attn_proj_weight,
            "c_proj.bias": attn_proj_bias,
        },
        "ln_2": {"weight": ln_2_weight, "bias": ln_2_bias},
        "mlp": {
            "c_fc.weight": fc_weight,
            "c_fc.bias": fc_bias,
            "c_proj.weight": mlp_proj_weight,
            "c_proj.bias": mlp_proj_bias,
        },
    }
    config = GPT2Config(vocab_size=1, n_embd=x.shape[-1], n_head=n_head, n_inner=len(fc_bias))
    y, vjp = gpt2.block(x, p, gpt2.causal_bias(x.shape[1], np, x.dtype), config)

    def pullback(dy: Array) -> tuple[Array, ...]:
        dx, dp = vjp(dy)
        return dx, *(dp[part][name] for part, names in p.items() for name in names)

    return y, pullback


def sample_token(
    logits: Array, uniform: Array, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Array:
    """The token of each row at which the running sum of the probabilities, in the order kept, passes `uniform`.

    logits (B, V), uniform (B,) in [0, 1) -> tokens (B,). With `top_k` or `top_p` the tokens are taken from the most to
    the least likely, and what is kept is renormalised: the k most likely ones, of these the fewest that reach p.
    Temperature 0 is the most likely token. Holtzman et al. 2020.
    """
    return Sampling(temperature, top_k, top_p).pick(logits, uniform)


def clip_by_global_norm(weight: Array, bias: Array, *, max_norm: float) -> tuple[Array, Array]:
    """The gradients of a weight and a bias, both scaled alike so that together they are at most `max_norm` long.

    weight (I, O), bias (O,) -> the same shapes. Pascanu, Mikolov & Bengio 2013, algorithm 1.
    """
    norm = optim.global_norm(np.concatenate((weight.reshape(-1), bias.reshape(-1))))
    scale = optim.clip_scale(norm, max_norm)
    return weight * scale, bias * scale


def adamw_step(
    parameter: Array,
    gradient: Array,
    first: Array,
    second: Array,
    *,
    updates: int,
    learning_rate: float,
    beta1: float = 0.9,
    beta2: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.1,
) -> tuple[Array, Array, Array]:
    """One step of Adam with decoupled weight decay, which acts on matrices only.

    parameter, gradient, first and second moment, all of one shape; `updates` steps were made before this one ->
    parameter, first and second moment after it. Loshchilov & Hutter 2019, algorithm 2, but the decay is times the whole
    learning rate, as in PyTorch.
    """
    params = Parameters({"parameter": parameter.shape}, parameter.reshape(-1).copy())
    moments = optim.Moments(first.reshape(-1).copy(), second.reshape(-1).copy(), updates)
    optimizer = optim.AdamW(beta1, beta2, eps, weight_decay)
    optimizer.update(params, gradient.reshape(-1), moments, learning_rate=learning_rate)
    return params["parameter"], moments.first.reshape(parameter.shape), moments.second.reshape(parameter.shape)


@dataclass(frozen=True)
class Head:
    """The smallest model that a method takes: its inputs are its hidden states, and its head is all that it learns."""

    weight: Array

    def trunk(self, inputs: Array, *, rng: np.random.Generator | None = None) -> tuple[tuple[Array, Array], Callable]:
        """hidden (N, C) and head (V, C); vjp(dhidden, dhead) -> dweight."""
        return (inputs, self.weight), lambda dhidden, dhead: dhead

    def read(self, inputs: Array) -> tuple[Array, Array]:
        """`trunk` without a pullback."""
        return inputs, self.weight


def distill_step(
    hidden: Array,
    labels: Array,
    student_weight: Array,
    teacher_weight: Array,
    *,
    alpha: float = 0.5,
    temperature: float = 2.0,
    learning_rate: float = 0.5,
) -> tuple[Array, Array]:
    """One step of gradient descent on `distillation_loss`, for a student and a fixed teacher of logits hidden weight^T.

    hidden (N, C), labels (N,), -100 where a token does not count, weights (V, C) -> the student's weight after the
    step, and its loss before it. Hinton, Vinyals & Dean 2015.
    """
    student: Any = Head(student_weight)
    teacher: Any = Head(teacher_weight)
    step = soft(student, teacher, weight=lambda progress: alpha, temperature=temperature)
    (weight, loss) = _descend(step, hidden, labels, learning_rate, student=student)["student"]
    return weight, loss


def codistill_step(
    hidden: Array,
    labels: Array,
    student_weight: Array,
    teacher_weight: Array,
    *,
    alpha: float = 0.5,
    temperature: float = 2.0,
    learning_rate: float = 0.5,
    mutual: bool = False,
) -> tuple[Array, Array, Array, Array]:
    """One lockstep step: the teacher learns from the labels, the student from the labels and from the teacher.

    Both look at the batch before either one moves; both then take a step of gradient descent. The teacher minimises
    `cross_entropy` (with `mutual`, `distillation_loss` with the student as its teacher), the student
    `distillation_loss`. Arguments as in `distill_step` -> the student's weight, the teacher's, the student's loss, the
    teacher's. After Anil et al. 2018 and Zhang et al. 2018, where each model teaches the other, as with `mutual`.
    """
    student: Any = Head(student_weight)
    teacher: Any = Head(teacher_weight)
    step = codistill(student, teacher, weight=lambda progress: alpha, temperature=temperature, mutual=mutual)
    moved = _descend(step, hidden, labels, learning_rate, student=student, teacher=teacher)
    (student_weight, student_loss), (teacher_weight, teacher_loss) = moved["student"], moved["teacher"]
    return student_weight, teacher_weight, student_loss, teacher_loss


def _descend(
    step: Step, hidden: Array, labels: Array, learning_rate: float, **models: Head
) -> dict[str, tuple[Array, Array]]:
    """Each model's weight after a step of gradient descent, and its loss before it."""
    gradients: Any = step(Batch(hidden, labels), Tick(0, 1))
    return {
        name: (model.weight - learning_rate * gradients[name][1], gradients[name][0]) for name, model in models.items()
    }
