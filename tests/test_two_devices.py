"""The whole training step on arrays that do what CuPy's do, and nothing more: the same numbers as on NumPy.

On a machine without a GPU these arrays are `tests.strict_array`'s; with one, CuPy's too.
"""

import numpy as np
import pytest

from minikd.backend import to_host
from minikd.distill.methods import DistillConfig, build_step
from minikd.evaluate import evaluate
from minikd.models import GPT2
from minikd.models.generate import Sampling, generate
from minikd.text import windows
from minikd.train import Learner, Tick, train_step
from minikd.workers import Workers
from tests.distill.learning import CONFIG, VOCAB, batches, model
from tests.strict_array import no_sync
from tests.strict_array import xp as strict_xp


def on(xp, model):
    return GPT2(model.config, model.params.with_flat(xp.asarray(model.params.flat)))


CASES = [
    ("scratch", {}),
    ("soft", {"temperature": 2.0}),
    ("soft", {"divergence": "reverse_kl"}),
    ("soft", {"divergence": "js", "schedule": "linear"}),
    ("hard", {}),
    ("codistill", {"schedule": "gate"}),
    ("codistill", {"mutual": True, "schedule": "cosine"}),
]


@pytest.mark.parametrize(("method", "fields"), CASES)
@pytest.mark.parametrize("pdrop", [0.0, 0.2])
def test_a_training_step_gives_the_same_on_both_devices(gpu_xp, method, fields, pdrop):
    weights = []
    for xp in (np, gpu_xp):
        student, teacher = on(xp, model(1, n_layer=1, resid_pdrop=pdrop)), on(xp, model(2, attn_pdrop=pdrop))
        learners = {"student": Learner.of(student, CONFIG)}
        if method == "codistill":
            learners["teacher"] = Learner.of(teacher, CONFIG)
        step = build_step(method, DistillConfig(**fields), student, teacher)
        with Workers(1) as pool:
            for i in range(3):
                train_step(learners, step, batches(i), Tick(i, 6), CONFIG, pool)
        weights.append([to_host(learner.model.params.flat) for learner in learners.values()])
    for wanted, got in zip(*weights, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("method", "fields"), CASES)
def test_the_hot_loop_never_waits_for_the_device(method, fields):
    student, teacher = on(strict_xp, model(1, n_layer=1)), on(strict_xp, model(2))
    learners = {"student": Learner.of(student, CONFIG)}
    if method == "codistill":
        learners["teacher"] = Learner.of(teacher, CONFIG)
    step = build_step(method, DistillConfig(**fields), student, teacher)
    with Workers(1) as pool, no_sync():
        train_step(learners, step, batches(0), Tick(0, 6), CONFIG, pool)


@pytest.mark.parametrize("sampling", [Sampling(0.0), Sampling(), Sampling(0.8, top_k=5), Sampling(1.0, top_p=0.7)])
def test_generation_gives_the_same_on_both_devices(gpu_xp, sampling):
    prompts = [[1, 2, 3], [4]]
    host, device = model(1), on(gpu_xp, model(1))
    assert generate(host, prompts, 9, sampling=sampling, seed=3) == generate(
        device, prompts, 9, sampling=sampling, seed=3
    )


def test_evaluation_gives_the_same_on_both_devices(gpu_xp, rng):
    tokens, lengths = rng.integers(0, VOCAB, size=45), np.arange(1, VOCAB + 1)
    results = []
    for xp in (np, gpu_xp):
        with Workers(1) as pool:
            student, teacher = on(xp, model(1)), on(xp, model(2))
            results.append(evaluate(student, windows(tokens, 8, 4), lengths, pool, teacher=teacher))
    assert results[0].tokens == results[1].tokens == 44
    for name in ("val_loss", "bits_per_byte", "agreement", "kl_to_teacher"):
        assert getattr(results[1], name) == pytest.approx(getattr(results[0], name), rel=1e-9)
