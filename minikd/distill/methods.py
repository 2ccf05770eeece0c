"""The methods by name, and what can be chosen about them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

from minikd.distill.codistill import codistill
from minikd.distill.hard import hard
from minikd.distill.schedule import Schedule, soft_weight
from minikd.distill.scratch import scratch
from minikd.distill.sequence import sequence
from minikd.distill.soft import soft
from minikd.losses import DIVERGENCES
from minikd.models import GPT2
from minikd.softmax import check_temperature
from minikd.train import Step

Method = Literal["scratch", "soft", "hard", "sequence", "codistill"]

DEFAULT_ALPHA = {"soft": 0.9, "hard": 0.1, "codistill": 0.1}
"""Weights of the teacher's labels that did best over seeds and corpora: see the README's table."""


@dataclass(frozen=True)
class DistillConfig:
    """What a student learns from its teacher; a ValueError names the field that cannot be."""

    alpha: float | None = None
    """weight of the teacher's labels against the text, 0 to 1 (soft, hard, codistill); each method has its default"""
    temperature: float = 1.0
    """temperature of both distributions (soft, codistill)"""
    divergence: Literal["forward_kl", "reverse_kl", "js"] = "forward_kl"
    """how far the student is from the teacher (soft, codistill)"""
    schedule: Schedule = "constant"
    """how alpha moves through training (soft, hard, codistill)"""
    start: float = 0.6
    """share of the training after which the schedule `late` begins"""
    mutual: bool = False
    """let the teacher learn from the student too (codistill)"""
    corpus_tokens: int = 200_000
    """tokens that the teacher writes (sequence)"""
    prompt_tokens: int = 8
    """tokens of the training text that each of the teacher's pieces begins with (sequence)"""

    def __post_init__(self) -> None:
        if self.divergence not in DIVERGENCES:
            raise ValueError(f"divergence is {self.divergence!r}; wanted one of {', '.join(DIVERGENCES)}")
        check_temperature(self.temperature)
        for name in ("corpus_tokens", "prompt_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; wanted at least 1")
        soft_weight(self.schedule, 0.5 if self.alpha is None else self.alpha, start=self.start)


def build_step(method: str, config: DistillConfig, student: GPT2, teacher: GPT2 | None) -> Step:
    """The step function of `method`; ValueError: no such method, or one that needs a teacher has none."""
    if method not in get_args(Method):
        raise ValueError(f"method is {method!r}; wanted one of {', '.join(get_args(Method))}")
    if method in ("scratch", "sequence"):
        return sequence(student) if method == "sequence" else scratch(student)
    if teacher is None:
        raise ValueError(f"method {method!r} needs a teacher")
    alpha = DEFAULT_ALPHA[method] if config.alpha is None else config.alpha
    weight = soft_weight(config.schedule, alpha, start=config.start)
    if method == "hard":
        return hard(student, teacher, weight=weight)
    from_soft_labels: Callable[..., Step] = soft if method == "soft" else partial(codistill, mutual=config.mutual)
    divergence = DIVERGENCES[config.divergence]
    return from_soft_labels(student, teacher, weight=weight, temperature=config.temperature, divergence=divergence)
