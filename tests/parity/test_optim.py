"""AdamW, its clipping and its schedule against `torch.optim`."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from minikd.models import Parameters  # noqa: E402
from minikd.optim import AdamW, Moments, clip_scale, cosine_schedule, global_norm  # noqa: E402

pytestmark = pytest.mark.torch

SHAPES = {"embedding": (13, 5), "matrix": (5, 7), "bias": (7,), "gain": (5,)}
STEPS, WARMUP, PEAK, FINAL, MAX_NORM = 60, 8, 0.02, 0.002, 9.0


def gradients(rng):
    """Gradients of very different lengths (N,), some of which clipping shortens; the last entries are tiny."""
    size = sum(math.prod(shape) for shape in SHAPES.values())
    for length in rng.uniform(0.1, 3, size=STEPS):
        gradient = length * rng.normal(size=size)
        gradient[-3:] *= 1e-9  # where eps decides
        yield gradient


def start(rng):
    size = sum(math.prod(shape) for shape in SHAPES.values())
    return Parameters(SHAPES, rng.normal(size=size))


def minikd_run(params, optimizer, all_gradients, dtype):
    params = params.with_flat(params.flat.astype(dtype))
    moments = Moments.zeros(params)
    for step, gradient in enumerate(all_gradients):
        rate = cosine_schedule(step, peak=PEAK, warmup_steps=WARMUP, steps=STEPS, final=FINAL)
        gradient = gradient.astype(dtype)
        scale = clip_scale(global_norm(gradient), MAX_NORM)
        optimizer.update(params, gradient, moments, learning_rate=rate, scale=scale)
    return params


def torch_run(params, optimizer, all_gradients):
    tensors = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in params.items()}
    groups = [
        {"params": [t for t in tensors.values() if t.dim() == 2], "weight_decay": optimizer.weight_decay},
        {"params": [t for t in tensors.values() if t.dim() != 2], "weight_decay": 0.0},
    ]
    betas = (optimizer.beta1, optimizer.beta2)
    adamw = torch.optim.AdamW(groups, lr=PEAK, betas=betas, eps=optimizer.eps)
    rise = torch.optim.lr_scheduler.LinearLR(adamw, start_factor=1 / WARMUP, total_iters=WARMUP - 1)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(adamw, T_max=STEPS - WARMUP, eta_min=FINAL)
    schedule = torch.optim.lr_scheduler.SequentialLR(adamw, [rise, fall], milestones=[WARMUP])
    for gradient in all_gradients:
        for name, value in params.with_flat(gradient).items():
            tensors[name].grad = torch.tensor(value)
        norm = torch.nn.utils.get_total_norm([t.grad for t in tensors.values()])
        for t in tensors.values():
            t.grad *= (MAX_NORM / norm).clamp(max=1)  # clip_grad_norm_ divides by norm + 1e-6
        adamw.step()
        schedule.step()
    return {name: t.detach().numpy() for name, t in tensors.items()}


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_training_run(rng, dtype, tolerance, weight_decay):
    optimizer = AdamW(beta1=0.8, beta2=0.97, eps=1e-8, weight_decay=weight_decay)
    params, all_gradients = start(rng), list(gradients(rng))
    lengths = [np.linalg.norm(gradient) for gradient in all_gradients]
    assert min(lengths) < MAX_NORM < max(lengths)

    actual = minikd_run(params, optimizer, all_gradients, dtype)
    expected = torch_run(params, optimizer, all_gradients)
    for name in SHAPES:
        np.testing.assert_allclose(actual[name], expected[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("length", [0.5, 1.0, 7.0])
def test_clipping(rng, length):
    gradient = rng.normal(size=50)
    gradient *= length / np.linalg.norm(gradient)
    weight = torch.nn.Parameter(torch.zeros(50, dtype=torch.float64))
    weight.grad = torch.tensor(gradient)
    norm = torch.nn.utils.clip_grad_norm_([weight], 1.0)
    np.testing.assert_allclose(global_norm(gradient), norm, rtol=1e-14)
    clipped = gradient * clip_scale(global_norm(gradient), 1.0)
    np.testing.assert_allclose(clipped, weight.grad, rtol=2e-6)  # clip_grad_norm_ divides by norm + 1e-6
