"""The methods by name, and what can be chosen about them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np

from minikd.distill.codistill import codistill
from minikd.distill.hard import hard
from minikd.distill.schedule import Schedule, SoftWeight, soft_weight
from minikd.distill.scratch import scratch
from minikd.distill.sequence import sequence
from minikd.distill.soft import soft
from minikd.losses import DIVERGENCES, Divergence
from minikd.models import GPT2
from minikd.softmax import check_temperature
from minikd.train import Step

Method = Literal["scratch", "soft", "hard", "sequence", "codistill"]

DEFAULT_WEIGHT: dict[str, tuple[float, Schedule]] = {
    "soft": (0.9, "constant"),
    "hard": (0.1, "constant"),
    "codistill": (0.3, "cosine"),
}
"""Weight of the teacher's labels, and its schedule, that did best over seeds and corpora: see the README's tables."""

OWN_PARAMETERS = {
    "kl_weight": ("weight", ("symmetric_kl",)),
    "beta": ("beta", ("generalized_jsd",)),
    "jsd_scaled": ("scaled", ("generalized_jsd",)),
    "alpha_skew": ("alpha", ("skew_forward_kl", "skew_reverse_kl")),
    "alpha_amari": ("alpha", ("alpha_divergence",)),
    "taid_t": ("t", ("taid",)),
}
"""Fields of `DistillConfig` that are a divergence's own: the name of its parameter, and the divergences with it."""


@dataclass(frozen=True)
class DistillConfig:
    """What a student learns from its teacher; a ValueError names the field that cannot be."""

    alpha: float | None = None
    """weight of the teacher's labels against the text, 0 to 1 (soft, hard, codistill); each method has its default"""
    temperature: float = 1.0
    """temperature of both distributions (soft, codistill)"""
    divergence: Literal[
        "forward_kl",
        "reverse_kl",
        "symmetric_kl",
        "js",
        "generalized_jsd",
        "skew_forward_kl",
        "skew_reverse_kl",
        "total_variation",
        "alpha_divergence",
        "taid",
    ] = "forward_kl"
    """how far the student is from the teacher (soft, codistill)"""
    kl_weight: float | None = None
    """weight of the forward KL against the reverse, 0 to 1 (symmetric_kl; 0.5 if not given)"""
    beta: float | None = None
    """the teacher's share of the mixture, between 0 and 1 (generalized_jsd; 0.5 if not given)"""
    jsd_scaled: bool = False
    """divide by beta (1 - beta): from the forward KL at beta 0 to the reverse at 1 (generalized_jsd)"""
    alpha_skew: float | None = None
    """how much of itself is mixed into what a distribution is compared with, 0 to below 1 (skew_forward_kl: the
    teacher's, skew_reverse_kl: the student's; 0.1 if not given)"""
    alpha_amari: float | None = None
    """from the reverse KL at 0 to the forward at 1 (alpha_divergence; 0.5 if not given)"""
    taid_t: float | None = None
    """how far from the student to the teacher the target lies, 0 to 1 (taid; 0.5 if not given)"""
    schedule: Schedule | None = None
    """how alpha moves through training (soft, hard: constant if not given; codistill: cosine)"""
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
        self._check_own_parameters()
        check_temperature(self.temperature)
        for name in ("corpus_tokens", "prompt_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; wanted at least 1")
        for method in DEFAULT_WEIGHT:
            self.weight(method)

    def weight(self, method: str) -> SoftWeight:
        """The weight of the teacher's labels as a function of progress; what is not chosen is the method's default."""
        alpha, schedule = DEFAULT_WEIGHT[method]
        alpha = alpha if self.alpha is None else self.alpha
        schedule = schedule if self.schedule is None else self.schedule
        return soft_weight(schedule, alpha, start=self.start)

    def loss(self) -> Divergence:
        """The divergence, with its own parameters bound."""
        own = {OWN_PARAMETERS[field][0]: value for field, value in self._given().items()}
        return partial(DIVERGENCES[self.divergence], **own)

    def _given(self) -> dict[str, Any]:
        """The divergence's own parameters, by field, as far as they are chosen."""
        fields = {field: getattr(self, field) for field in OWN_PARAMETERS}
        return {field: value for field, value in fields.items() if value is not None and value is not False}

    def _check_own_parameters(self) -> None:
        for field, value in self._given().items():
            _, takers = OWN_PARAMETERS[field]
            if self.divergence not in takers:
                raise ValueError(
                    f"{field} is {value}, but divergence is {self.divergence!r}; wanted {' or '.join(takers)} with it"
                )
        try:
            self.loss()(np.zeros((1, 1)), np.zeros((1, 1)))
        except ValueError as error:  # which names the divergence's parameter
            parameter, wrong = str(error).split(" ", 1)
            field = next(field for field in self._given() if OWN_PARAMETERS[field][0] == parameter)
            raise ValueError(f"{field} {wrong}") from None


def build_step(method: str, config: DistillConfig, student: GPT2, teacher: GPT2 | None) -> Step:
    """The step function of `method`; ValueError: no such method, or one that needs a teacher has none."""
    if method not in get_args(Method):
        raise ValueError(f"method is {method!r}; wanted one of {', '.join(get_args(Method))}")
    if method in ("scratch", "sequence"):
        return sequence(student) if method == "sequence" else scratch(student)
    if teacher is None:
        raise ValueError(f"method {method!r} needs a teacher")
    weight = config.weight(method)
    if method == "hard":
        return hard(student, teacher, weight=weight)
    from_soft_labels: Callable[..., Step] = soft if method == "soft" else partial(codistill, mutual=config.mutual)
    divergence = config.loss()
    return from_soft_labels(student, teacher, weight=weight, temperature=config.temperature, divergence=divergence)
