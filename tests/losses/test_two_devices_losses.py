"""The losses on pairs of logits where arrays do what CuPy's do: the same numbers, and the host never waits."""

import numpy as np
import pytest

from minikd.backend import to_host
from minikd.distill.methods import DistillConfig, build_step
from minikd.losses import DIVERGENCES, cosine_logits, decoupled_kd, mse_logits, universal_logit_distance
from minikd.models import GPT2
from minikd.train import Learner, Tick, train_step
from minikd.workers import Workers
from tests.distill.learning import CONFIG, batches, model
from tests.losses.variants import VARIANTS
from tests.strict_array import assert_runs_on_strict, no_sync
from tests.strict_array import xp as strict_xp

ON_TWO = VARIANTS | {
    "universal_logit_distance": lambda z, u, **options: universal_logit_distance(z, u[..., 3:], **options),
    "mse_logits": mse_logits,
    "cosine_logits": cosine_logits,
}


@pytest.fixture
def batch(rng):
    """Logits, near and far, with -inf on either side and both; labels; a mask."""
    student, teacher = rng.normal(size=(2, 3, 5, 41)) * 3
    student[0] = teacher[0] * (1 + 1e-7)
    student[1, 0, :3] = teacher[1, 0, 1:4] = -np.inf
    labels, mask = rng.integers(0, 41, size=(3, 5)), rng.random((3, 5)) < 0.8
    labels[2, 1], mask[1] = -100, True
    return student, teacher, labels, mask


@pytest.mark.parametrize(("dtype", "tol"), [("float64", 1e-13), ("float32", 1e-6)])
@pytest.mark.parametrize("name", ON_TWO)
def test_the_same_without_waiting(batch, name, dtype, tol):
    student, teacher, _, mask = batch
    if name in ("forward_kl", "mse_logits") or "symmetric" in name or name == "reverse_kl":
        student, teacher = np.nan_to_num(student, neginf=-50.0), np.nan_to_num(teacher, neginf=-50.0)
    for reduction in ("mean", "none"):
        assert_runs_on_strict(
            lambda z, u, mask: ON_TWO[name](z, u, mask=mask, reduction=reduction),  # noqa: B023
            student.astype(dtype),
            teacher.astype(dtype),
            mask,
            tol=tol,
        )


def test_decoupled_kd_is_the_same_without_waiting(batch):
    student, teacher, labels, mask = batch
    student, teacher = np.nan_to_num(student, neginf=-50.0), np.nan_to_num(teacher, neginf=-50.0)

    def loss(z, u, labels, mask):
        return decoupled_kd(z, u, labels, mask=mask, temperature=2.0)

    assert_runs_on_strict(loss, student, teacher, labels, mask, tol=1e-13)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_training_step_gives_the_same_on_both_devices(gpu_xp, divergence):
    weights = []
    for xp in (np, gpu_xp):
        student, teacher = (GPT2(m.config, m.params.with_flat(xp.asarray(m.params.flat))) for m in (model(1), model(2)))
        learners = {"student": Learner.of(student, CONFIG)}
        step = build_step("soft", DistillConfig(divergence=divergence, temperature=2.0), student, teacher)
        with Workers(1) as pool:
            if xp is strict_xp:
                with no_sync():
                    train_step(learners, step, batches(0), Tick(0, 6), CONFIG, pool)
            else:
                train_step(learners, step, batches(0), Tick(0, 6), CONFIG, pool)
        weights.append(to_host(student.params.flat))
    np.testing.assert_allclose(weights[1], weights[0], rtol=1e-6, atol=1e-9)
