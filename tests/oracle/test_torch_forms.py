"""PyTorch's own functions are right where their conventions are minikd's; elsewhere the mutants say what is wrong."""

import numpy as np
import pytest

from minikd.oracle.compare import TOLERANCES, compare_outputs
from minikd.oracle.mutants import MUTANTS
from minikd.oracle.subjects import SUBJECTS

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
F = torch.nn.functional


def pulled_back(f, wrt):
    """A forward function of tensors with the contract `y, vjp`."""

    def with_contract(*arrays, **attributes):
        tensors = [torch.tensor(x) for x in arrays]
        attributes = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in attributes.items()}
        for i in wrt:
            tensors[i].requires_grad_()
        y = f(*tensors, **attributes)

        def vjp(dy=1.0):
            (y * torch.as_tensor(dy)).sum().backward()
            gradients = tuple(tensors[i].grad.numpy() for i in wrt)
            return gradients if len(gradients) > 1 else gradients[0]

        return y.detach().numpy(), vjp

    return with_contract


def softmax(logits, temperature=1.0):
    return F.softmax(logits / temperature, dim=-1)


def log_softmax(logits, temperature=1.0):
    return F.log_softmax(logits / temperature, dim=-1)


def layer_norm(x, gain, bias, *, eps=1e-5):
    return F.layer_norm(x, gain.shape, gain, bias, eps)


def attention(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def cross_entropy(logits, labels, *, mask=None, reduction="mean"):
    if mask is not None:
        labels = torch.where(mask, labels, -100)
    loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction=reduction)
    return loss.reshape(labels.shape) if reduction == "none" else loss


def forward_kl(student_logits, teacher_logits, *, temperature=1.0, mask=None, reduction="mean"):
    log_q, p = log_softmax(student_logits, temperature), softmax(teacher_logits, temperature)
    losses = F.kl_div(log_q, p, reduction="none").sum(dim=-1)
    return reduced(losses, mask, reduction)


def reduced(losses, mask, reduction):
    mask = torch.ones_like(losses, dtype=torch.bool) if mask is None else mask
    losses = torch.where(mask, losses, 0)
    return losses if reduction == "none" else losses.sum() / (mask.sum() if reduction == "mean" else 1)


RIGHT = {
    "softmax": (softmax, (0,), ()),
    "log_softmax": (log_softmax, (0,), ("minus-infinity",)),
    "linear": (lambda x, weight, bias: F.linear(x, weight.T, bias), (0, 1, 2), ()),
    "embedding": (F.embedding, (1,), ()),
    "gelu": (lambda x: F.gelu(x, approximate="tanh"), (0,), ("extreme",)),  # a gradient of NaN at -1000
    "layer_norm": (layer_norm, (0, 1, 2), ()),
    "attention": (attention, (0, 1, 2), ()),
    "cross_entropy": (cross_entropy, (0,), ()),
    "forward_kl": (forward_kl, (0,), ("minus-infinity",)),
}


def differ(name, function, other=None, without=()):
    """The cases, but for those with one of the flags, on which a function is not another one, or not minikd's."""
    subject, found = SUBJECTS[name], set()
    for case in subject.cases(np.random.default_rng(0)):
        if not set(without) & set(case.flags):
            got, wanted = subject.outputs(case, function), subject.outputs(case, other)
            if not all(x.right for x in compare_outputs(got, wanted, tol=TOLERANCES["float64"]).values()):
                found.add(case.id)
    return found


@pytest.mark.parametrize("name", RIGHT)
def test_right(name):
    function, wrt, without = RIGHT[name]
    assert not differ(name, pulled_back(function, wrt), without=without)


def mean_of_everything(student_logits, teacher_logits, *, temperature=1.0, mask=None, reduction="mean"):
    if reduction != "mean" or mask is not None:
        return forward_kl(student_logits, teacher_logits, temperature=temperature, mask=mask, reduction=reduction)
    return F.kl_div(log_softmax(student_logits, temperature), softmax(teacher_logits, temperature), reduction="mean")


def batch_mean(student_logits, teacher_logits, *, temperature=1.0, mask=None, reduction="mean"):
    if reduction != "mean" or mask is not None:
        return forward_kl(student_logits, teacher_logits, temperature=temperature, mask=mask, reduction=reduction)
    return F.kl_div(
        log_softmax(student_logits, temperature), softmax(teacher_logits, temperature), reduction="batchmean"
    )


def exchanged(student_logits, teacher_logits, *, temperature=1.0, mask=None, reduction="mean"):
    log_p, q = log_softmax(teacher_logits, temperature), softmax(student_logits, temperature)
    return reduced(F.kl_div(log_p, q, reduction="none").sum(dim=-1), mask, reduction)


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@pytest.mark.parametrize(
    "function, name",
    [(mean_of_everything, "mean-over-vocabulary"), (batch_mean, "mean-over-sequences"), (exchanged, "reverse-kl")],
)
def test_wrong_and_named(function, name):
    """What PyTorch's users write in place of forward KL is the mutant of that name, and no other."""
    candidate, without = pulled_back(function, (0,)), ("mask", "minus-infinity", "extreme")
    assert differ("forward_kl", candidate, without=without)
    mutants = [mutant for mutant in MUTANTS if mutant.subject == "forward_kl"]
    alike = [m.name for m in mutants if not differ("forward_kl", candidate, m.function, without)]
    assert alike == [name]
