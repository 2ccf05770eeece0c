"""Other people's divergences on PyTorch, for `benchmarks.accuracy`: its own functions put together as one does, and the
losses of TRL, torchtune and Liger where they are installed."""

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch.nn.functional import kl_div, log_softmax

Loss = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
"""Of logits z and u (V,) and T."""


def kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """KL(p || q), which PyTorch writes the other way round."""
    return kl_div(log_q, log_p, reduction="sum", log_target=True)


def mixed(log_p: torch.Tensor, log_q: torch.Tensor, of_p: float) -> torch.Tensor:
    """log(of_p p + (1 - of_p) q)."""
    return torch.logaddexp(log_p + math.log(of_p), log_q + math.log(1 - of_p))


def jsd(log_p: torch.Tensor, log_q: torch.Tensor, beta: float) -> torch.Tensor:
    log_m = mixed(log_p, log_q, beta)
    return beta * kl(log_p, log_m) + (1 - beta) * kl(log_q, log_m)


ON_LOG_PROBABILITIES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "forward_kl": kl,
    "reverse_kl": lambda log_p, log_q: kl(log_q, log_p),
    "symmetric_kl": lambda log_p, log_q: (kl(log_p, log_q) + kl(log_q, log_p)) / 2,
    "js": lambda log_p, log_q: jsd(log_p, log_q, 0.5),
    "generalized_jsd(beta=0.9)": lambda log_p, log_q: jsd(log_p, log_q, 0.9),
    "skew_forward_kl": lambda log_p, log_q: kl(log_p, mixed(log_p, log_q, 0.1)),
    "skew_reverse_kl": lambda log_p, log_q: kl(log_q, mixed(log_p, log_q, 0.9)),
    "total_variation": lambda log_p, log_q: (log_p.exp() - log_q.exp()).abs().sum() / 2,
    "alpha_divergence": lambda log_p, log_q: 4 * (1 - ((log_p + log_q) / 2).exp().sum()),
    "soft_cross_entropy": lambda log_p, log_q: -(log_p.exp() * log_q).sum(),
}


def on_logits(loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Loss:
    return lambda z, u, temperature: loss(log_softmax(u / temperature, dim=-1), log_softmax(z / temperature, dim=-1))


def taid(z: torch.Tensor, u: torch.Tensor, temperature: float) -> torch.Tensor:
    return on_logits(kl)(z, (z.detach() + u) / 2, temperature)


def in_torchtune(loss: Any) -> Loss:
    """One of torchtune's, which take labels to know which tokens count, and leave T to the caller."""
    counted = torch.zeros(1, dtype=torch.long)
    return lambda z, u, temperature: loss((z / temperature)[None], (u / temperature)[None], counted)


def in_trl(loss: Any, beta: float) -> Loss:
    """TRL's generalised JSD, the KLs at its ends."""
    return lambda z, u, temperature: loss(z[None, None], u[None, None], None, beta, temperature)


def in_liger(loss: Any, beta: float) -> Loss:
    """Liger's, which leaves T to the caller."""
    return lambda z, u, temperature: loss((z / temperature)[None], (u / temperature)[None], beta)


BETAS = {"js": 0.5, "generalized_jsd(beta=0.9)": 0.9, "forward_kl": 0.0, "reverse_kl": 1.0}


def installed(dtype: str) -> dict[str, dict[str, Loss]]:
    """The losses for a type of number, by library and by minikd's name for what they compute."""
    found = {"PyTorch": {name: on_logits(loss) for name, loss in ON_LOG_PROBABILITIES.items()} | {"taid": taid}}
    with suppress(ImportError):
        from trl.experimental.gkd import GKDTrainer

        gkd = GKDTrainer.generalized_jsd_loss
        found["TRL"] = {name: in_trl(gkd, beta) for name, beta in BETAS.items()}
    with suppress(ImportError):
        from torchtune.modules.loss import ForwardKLLoss, ReverseKLLoss

        if dtype == "float32":  # which they compute in, whatever they are given
            losses = {"soft_cross_entropy": ForwardKLLoss(), "reverse_kl": ReverseKLLoss()}
            found["torchtune"] = {name: in_torchtune(loss) for name, loss in losses.items()}
    with suppress(ImportError):
        from liger_kernel.chunked_loss.jsd_loss import LigerFusedLinearJSDFunction

        jsd_loss = LigerFusedLinearJSDFunction.distillation_loss_fn
        found["Liger"] = {name: in_liger(jsd_loss, beta) for name, beta in BETAS.items()}
    return found
