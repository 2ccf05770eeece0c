"""Whole steps of the methods, models and losses together, against PyTorch's autograd."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch.nn.functional as F  # noqa: E402

from minikd.distill.codistill import codistill  # noqa: E402
from minikd.distill.scratch import scratch  # noqa: E402
from minikd.distill.soft import soft  # noqa: E402
from minikd.models import GPT2Config  # noqa: E402
from minikd.text import NOT_COUNTED, Batch  # noqa: E402
from minikd.train import Learner, Tick, TrainConfig, gradients  # noqa: E402
from minikd.workers import Workers  # noqa: E402
from tests.parity.gpt2_pair import gpt2_pair, relative_error  # noqa: E402

pytestmark = pytest.mark.torch

TEACHER = GPT2Config(vocab_size=41, n_positions=12, n_embd=24, n_layer=2, n_head=3)
STUDENT = GPT2Config(vocab_size=41, n_positions=12, n_embd=12, n_layer=1, n_head=2)
ALPHA, TEMPERATURE = 0.3, 2.5
CONFIG = TrainConfig(batch_size=5, context=11)


def some_batch(rng):
    """Five sequences, some of whose positions do not count; their numbers differ between the parts of the batch."""
    rows = rng.integers(STUDENT.vocab_size, size=(5, 12))
    counted = rng.random(rows.shape) < np.array([[0.9], [0.2], [0.7], [1.0], [0.1]])
    counted[:, -1] = True
    return Batch.of(rows, counted)


def cross_entropy(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=NOT_COUNTED)


def mixed(student, teacher, targets):
    """alpha T^2 KL(teacher || student) + (1 - alpha) cross-entropy, over the counted tokens."""
    counted = targets != NOT_COUNTED
    p = F.log_softmax(teacher.detach()[counted] / TEMPERATURE, dim=-1)
    q = F.log_softmax(student[counted] / TEMPERATURE, dim=-1)
    kl = F.kl_div(q, p, reduction="batchmean", log_target=True)
    return ALPHA * TEMPERATURE**2 * kl + (1 - ALPHA) * cross_entropy(student, targets)


def assert_same(seen, losses, references):
    """Losses and every parameter's gradient, by learner."""
    assert set(seen) == set(losses)
    for name, (loss, grads) in seen.items():
        np.testing.assert_allclose(loss, losses[name].item(), rtol=1e-12)
        losses[name].backward()
        errors = {n: relative_error(grads[n], w.grad.numpy()) for n, w in references[name].named_parameters()}
        assert set(errors) == set(grads)
        assert max(errors.values()) < 1e-10, errors


@pytest.fixture(params=["whole batch", "parts", "threads"])
def look(request):
    """What computes the gradients of a batch, at once or in parts."""
    config = TrainConfig(**vars(CONFIG) | {"accumulate": 2 if request.param == "parts" else 1})

    def look(models, step, batch):
        learners = {name: Learner.of(model, config) for name, model in models.items()}
        with Workers(2 if request.param == "threads" else 1) as workers:
            return gradients(learners, step, batch, Tick(0, 10), config, workers)

    return look


def test_scratch(rng, look):
    model, reference = gpt2_pair(STUDENT, rng)
    batch = some_batch(rng)
    seen = look({"student": model}, scratch(model), batch)
    logits = reference(torch.from_numpy(batch.inputs)).logits
    loss = cross_entropy(logits, torch.from_numpy(batch.targets))
    assert_same(seen, {"student": loss}, {"student": reference})


def test_soft(rng, look):
    teacher, reference_teacher = gpt2_pair(TEACHER, rng)
    student, reference = gpt2_pair(STUDENT, rng)
    batch = some_batch(rng)
    step = soft(student, teacher, weight=lambda progress: ALPHA, temperature=TEMPERATURE)
    seen = look({"student": student}, step, batch)
    inputs, targets = torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets)
    loss = mixed(reference(inputs).logits, reference_teacher(inputs).logits, targets)
    assert_same(seen, {"student": loss}, {"student": reference})


@pytest.mark.parametrize("mutual", [False, True])
def test_codistill(rng, look, mutual):
    teacher, reference_teacher = gpt2_pair(TEACHER, rng)
    student, reference = gpt2_pair(STUDENT, rng)
    batch = some_batch(rng)
    step = codistill(student, teacher, weight=lambda progress: ALPHA, temperature=TEMPERATURE, mutual=mutual)
    seen = look({"teacher": teacher, "student": student}, step, batch)
    inputs, targets = torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets)
    teacher_logits, logits = reference_teacher(inputs).logits, reference(inputs).logits
    losses = {
        "teacher": mixed(teacher_logits, logits, targets) if mutual else cross_entropy(teacher_logits, targets),
        "student": mixed(logits, teacher_logits, targets),
    }
    assert_same(seen, losses, {"teacher": reference_teacher, "student": reference})
