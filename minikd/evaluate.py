"""How well a model predicts a text, and how far it is from its teacher."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from minikd.backend import Array, get_array_module
from minikd.losses import cross_entropy, forward_kl
from minikd.models import GPT2
from minikd.text import Batch
from minikd.workers import Workers


@dataclass(frozen=True)
class Evaluation:
    """What one look at a validation text gives; `agreement` and `kl_to_teacher` only beside a teacher."""

    val_loss: float
    """mean cross-entropy, in nats a token"""
    tokens: int
    """tokens predicted"""
    bits_per_byte: float
    """the same loss in bits a byte of text, which does not depend on the tokenizer"""
    agreement: float | None = None
    """share of the tokens at which student and teacher have the same most likely token"""
    kl_to_teacher: float | None = None
    """mean KL(teacher || student) at temperature 1, in nats a token"""

    @property
    def perplexity(self) -> float:
        """exp(val_loss): the number of equally likely tokens that would be as hard to guess."""
        return math.exp(min(self.val_loss, 700.0))


def evaluate(
    model: GPT2, windows: Iterable[Batch], byte_lengths: Array, workers: Workers, *, teacher: GPT2 | None = None
) -> Evaluation:
    """Predict every counted token of `windows` once; `byte_lengths` (V,) is the length of every token in bytes."""
    xp = get_array_module(model.params.flat)

    def look(batch: Batch) -> tuple[float, float, float, int, int]:
        counted = batch.targets >= 0
        targets = xp.asarray(batch.targets)
        logits = model.predict(xp.asarray(batch.inputs))
        loss, _ = cross_entropy(logits, targets, reduction="sum")
        agreed = kl = 0.0
        if teacher is not None:
            teacher_logits = teacher.predict(xp.asarray(batch.inputs))
            mask = xp.asarray(counted)
            agreed = float(((logits.argmax(axis=-1) == teacher_logits.argmax(axis=-1)) & mask).sum())
            kl = float(forward_kl(logits, teacher_logits, mask=mask, reduction="sum")[0])
        n_bytes = int(byte_lengths[batch.targets[counted]].sum())
        return float(loss), agreed, kl, int(counted.sum()), n_bytes

    remaining, seen = iter(windows), []
    while group := list(islice(remaining, workers.count)):  # no more of a large text in memory at once
        seen += workers.map(look, group)
    loss, agreed, kl, tokens, n_bytes = (sum(values) for values in zip(*seen, strict=True))
    return Evaluation(
        val_loss=loss / tokens,
        tokens=tokens,
        bits_per_byte=loss / math.log(2) / n_bytes,
        agreement=agreed / tokens if teacher is not None else None,
        kl_to_teacher=kl / tokens if teacher is not None else None,
    )
