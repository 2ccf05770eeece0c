"""The losses: hard labels, the divergences between teacher and student, the objective that mixes them.

Reading order: `tokens` (what counts, and how it is reduced), `hard_labels`, `pair` (p and q to the last digits),
`divergences`, `objective`, `linear` (the output projection and a loss in one).
"""

from minikd.losses.divergences import DIVERGENCES, Divergence, forward_kl, js, reverse_kl, soft_cross_entropy
from minikd.losses.hard_labels import cross_entropy
from minikd.losses.linear import linear_cross_entropy, linear_distillation_loss
from minikd.losses.objective import Alpha, distillation_loss
from minikd.losses.tokens import Pullback

__all__ = [
    "DIVERGENCES",
    "Alpha",
    "Divergence",
    "Pullback",
    "cross_entropy",
    "distillation_loss",
    "forward_kl",
    "js",
    "linear_cross_entropy",
    "linear_distillation_loss",
    "reverse_kl",
    "soft_cross_entropy",
]
