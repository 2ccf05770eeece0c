"""The losses: hard labels, the divergences between teacher and student, the objective that mixes them.

Reading order: `tokens` (what counts, and how it is reduced), `hard_labels`, `pair` (p and q side by side), `careful`
(to the last digits), `divergences`, `decoupled` (label and others apart), `universal` (two vocabularies), `logits` (no
softmax), `sparse` (a few entries a token), `hidden` (features), `objective`, `linear` (the output projection and a loss
in one), `minillm` (policy gradient over sequences).
"""

from minikd.losses.decoupled import decoupled_kd
from minikd.losses.divergences import (
    DIVERGENCES,
    Divergence,
    alpha_divergence,
    forward_kl,
    generalized_jsd,
    js,
    reverse_kl,
    skew_forward_kl,
    skew_reverse_kl,
    soft_cross_entropy,
    symmetric_kl,
    taid,
    total_variation,
)
from minikd.losses.hard_labels import cross_entropy
from minikd.losses.hidden import attention_transfer, cosine_hidden, mse_hidden, relation_kd
from minikd.losses.linear import linear_cross_entropy, linear_distillation_loss
from minikd.losses.logits import cosine_logits, mse_logits
from minikd.losses.minillm import minillm_loss
from minikd.losses.objective import Alpha, distillation_loss
from minikd.losses.sparse import sample_teacher, sparse_kl, top_k_teacher
from minikd.losses.tokens import Pullback
from minikd.losses.universal import universal_logit_distance

__all__ = [
    "DIVERGENCES",
    "Alpha",
    "Divergence",
    "Pullback",
    "alpha_divergence",
    "attention_transfer",
    "cosine_hidden",
    "cosine_logits",
    "cross_entropy",
    "decoupled_kd",
    "distillation_loss",
    "forward_kl",
    "generalized_jsd",
    "js",
    "linear_cross_entropy",
    "linear_distillation_loss",
    "minillm_loss",
    "mse_hidden",
    "mse_logits",
    "relation_kd",
    "reverse_kl",
    "sample_teacher",
    "skew_forward_kl",
    "skew_reverse_kl",
    "soft_cross_entropy",
    "sparse_kl",
    "symmetric_kl",
    "taid",
    "top_k_teacher",
    "total_variation",
    "universal_logit_distance",
]
