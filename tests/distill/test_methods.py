"""The methods with a fixed teacher, the schedules, and the methods' names."""

import numpy as np
import pytest

from minikd.distill.hard import argmax_cross_entropy, hard
from minikd.distill.methods import DistillConfig, build_step
from minikd.distill.schedule import soft_weight
from minikd.distill.soft import soft
from minikd.losses import DIVERGENCES, cross_entropy, distillation_loss, reverse_kl
from minikd.oracle import assert_vjp
from minikd.train import Tick
from tests.distill.learning import batches, learn, model


def test_soft_is_the_distillation_loss_against_the_fixed_teacher():
    student, teacher = model(1, n_layer=1), model(2)
    kept = teacher.params.flat.copy()
    step = soft(student, teacher, weight=soft_weight("constant", 0.6), temperature=3.0, divergence=reverse_kl)
    loss, gradient = step(batches(0), Tick(0, 6))["student"]
    logits, vjp = student(batches(0).inputs)
    wanted, loss_vjp = distillation_loss(
        logits, teacher(batches(0).inputs)[0], batches(0).targets, alpha=0.6, temperature=3.0, divergence=reverse_kl
    )
    assert float(loss) == pytest.approx(float(wanted), rel=1e-12)
    np.testing.assert_allclose(gradient.flat, vjp(loss_vjp()).flat, rtol=1e-9, atol=1e-14)
    learn({"student": student}, step)
    np.testing.assert_array_equal(teacher.params.flat, kept)


def test_hard_mixes_the_teachers_argmax_with_the_text():
    student, teacher = model(1, n_layer=1), model(2)
    batch = batches(0)
    loss, gradient = hard(student, teacher, weight=soft_weight("constant", 0.25))(batch, Tick(0, 6))["student"]
    logits, vjp = student(batch.inputs)
    on_argmax, argmax_vjp = cross_entropy(logits, teacher(batch.inputs)[0].argmax(axis=-1))
    on_text, text_vjp = cross_entropy(logits, batch.targets)
    assert float(loss) == pytest.approx(0.25 * float(on_argmax) + 0.75 * float(on_text), rel=1e-12)
    wanted = vjp(argmax_vjp(0.25) + text_vjp(0.75)).flat
    np.testing.assert_allclose(gradient.flat, wanted, rtol=1e-9, atol=1e-14)


def test_argmax_cross_entropy_has_a_divergences_signature(rng):
    student, teacher = rng.normal(size=(5, 7)), rng.normal(size=(5, 7))
    mask = np.array([True, False, True, True, False])
    assert_vjp(lambda z: argmax_cross_entropy(z, teacher, temperature=2.0, mask=mask), student)
    wanted, _ = cross_entropy(student[mask], teacher[mask].argmax(axis=-1))
    assert argmax_cross_entropy(student, teacher, mask=mask)[0] == pytest.approx(float(wanted))


@pytest.mark.parametrize("method", ["scratch", "soft", "hard", "sequence", "codistill"])
def test_every_method_learns(method):
    student, teacher = model(1, n_layer=1), model(2)
    step = build_step(method, DistillConfig(), student, teacher)
    models = {"student": student} | ({"teacher": teacher} if method == "codistill" else {})
    before = student.params.flat.copy()
    _, losses = learn(models, step)
    assert np.isfinite([loss["student"] for loss in losses]).all()
    assert (student.params.flat != before).mean() > 0.9


@pytest.mark.parametrize("method", ["soft", "codistill"])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_every_divergence_serves_every_method(divergence, method):
    student, teacher = model(1, n_layer=1), model(2)
    config = DistillConfig(divergence=divergence, alpha=0.5, schedule="constant", temperature=2.0)
    step = build_step(method, config, student, teacher)
    loss, gradient = step(batches(0), Tick(0, 6))["student"]
    logits, vjp = student(batches(0).inputs)
    wanted, loss_vjp = distillation_loss(
        logits,
        teacher(batches(0).inputs)[0],
        batches(0).targets,
        alpha=0.5,
        temperature=2.0,
        divergence=DIVERGENCES[divergence],
    )
    assert float(loss) == pytest.approx(float(wanted), rel=1e-12)
    np.testing.assert_allclose(gradient.flat, vjp(loss_vjp()).flat, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(
    ("divergence", "fields", "parameters"),
    [
        ("symmetric_kl", {"kl_weight": 0.0}, {"weight": 0.0}),
        ("generalized_jsd", {"beta": 0.1}, {"beta": 0.1}),
        ("generalized_jsd", {"beta": 1.0, "jsd_scaled": True}, {"beta": 1.0, "scaled": True}),
        ("skew_forward_kl", {"alpha_skew": 0.3}, {"alpha": 0.3}),
        ("skew_reverse_kl", {"alpha_skew": 0.0}, {"alpha": 0.0}),
        ("alpha_divergence", {"alpha_amari": 0.9}, {"alpha": 0.9}),
        ("taid", {"taid_t": 0.8}, {"t": 0.8}),
    ],
)
def test_a_divergence_gets_its_own_parameters(rng, divergence, fields, parameters):
    student, teacher = rng.normal(size=(2, 5, 7))
    loss = DistillConfig(divergence=divergence, **fields).loss()
    wanted, _ = DIVERGENCES[divergence](student, teacher, **parameters)
    assert loss(student, teacher)[0] == wanted != DIVERGENCES[divergence](student, teacher)[0]


def test_schedules_by_hand():
    def weights(schedule):
        return [soft_weight(schedule, 0.8, start=0.5)(progress) for progress in (0.0, 0.25, 0.5, 1.0)]

    assert weights("constant") == [0.8] * 4
    np.testing.assert_allclose(weights("linear"), [0, 0.2, 0.4, 0.8])
    np.testing.assert_allclose(weights("cosine"), [0, 0.8 * (1 - np.sqrt(0.5)) / 2, 0.4, 0.8], atol=1e-15)
    assert weights("late") == [0, 0, 0.8, 0.8]


def test_each_method_has_its_own_default_weight():
    def weights(method, **chosen):
        return [DistillConfig(**chosen).weight(method)(progress) for progress in (0.0, 0.5, 1.0)]

    assert weights("soft") == [0.9] * 3
    assert weights("hard") == [0.1] * 3
    np.testing.assert_allclose(weights("codistill"), [0, 0.15, 0.3])
    np.testing.assert_allclose(weights("codistill", alpha=0.8), [0, 0.4, 0.8])
    assert weights("codistill", schedule="constant") == [0.3] * 3
    np.testing.assert_allclose(weights("soft", schedule="linear"), [0, 0.45, 0.9])


def test_the_gate_opens_where_the_teacher_is_better():
    student, teacher = np.zeros((3, 2)), np.array([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    alpha = soft_weight("gate", 0.8)(0.5)(student, teacher, np.array([0, 0, 0]))
    np.testing.assert_array_equal(alpha, [0.8, 0.0, 0.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("often", 0.5), "schedule is 'often'; wanted one of constant, linear, cosine, late, gate"),
        (("constant", 1.5), r"alpha is 1.5; wanted a number in \[0, 1\]"),
        (("constant", -0.1), "alpha is -0.1"),
        (("late", 0.5, 2.0), "start is 2.0"),
    ],
)
def test_schedules_that_cannot_be(arguments, message):
    schedule, alpha, *start = arguments
    with pytest.raises(ValueError, match=message):
        soft_weight(schedule, alpha, **({"start": start[0]} if start else {}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0; wanted a number from 1e-15"),
        ({"alpha": 1.2}, "alpha is 1.2"),
        ({"divergence": "kl"}, "divergence is 'kl'; wanted one of forward_kl, reverse_kl"),
        ({"corpus_tokens": 0}, "corpus_tokens is 0"),
        ({"divergence": "skew_forward_kl", "alpha_skew": 1.0}, r"alpha_skew is 1.0; wanted a number in \[0, 1\)"),
        ({"divergence": "skew_reverse_kl", "alpha_skew": -0.5}, r"alpha_skew is -0.5; wanted a number in \[0, 1\)"),
        ({"divergence": "generalized_jsd", "beta": 0.0}, r"beta is 0.0; wanted a number in \(0, 1\)"),
        (
            {"divergence": "generalized_jsd", "beta": 2.0, "jsd_scaled": True},
            r"beta is 2.0; wanted a number in \[0, 1\]",
        ),
        ({"divergence": "symmetric_kl", "kl_weight": 1.5}, r"kl_weight is 1.5; wanted a number in \[0, 1\]"),
        ({"divergence": "alpha_divergence", "alpha_amari": -1.0}, r"alpha_amari is -1.0; wanted a number in \[0, 1\]"),
        ({"divergence": "taid", "taid_t": float("nan")}, r"taid_t is nan; wanted a number in \[0, 1\]"),
        ({"kl_weight": 0.0}, "kl_weight is 0.0, but divergence is 'forward_kl'; wanted symmetric_kl with it"),
        ({"divergence": "js", "beta": 0.5}, "beta is 0.5, but divergence is 'js'; wanted generalized_jsd with it"),
        ({"jsd_scaled": True}, "jsd_scaled is True, but divergence is 'forward_kl'; wanted generalized_jsd with it"),
        ({"divergence": "taid", "alpha_skew": 0.1}, "wanted skew_forward_kl or skew_reverse_kl with it"),
    ],
)
def test_settings_that_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        DistillConfig(**fields)


def test_a_method_that_is_none_or_lacks_its_teacher():
    with pytest.raises(ValueError, match="method is 'osmosis'; wanted one of scratch, soft, hard"):
        build_step("osmosis", DistillConfig(), model(1), model(2))
    with pytest.raises(ValueError, match="method 'soft' needs a teacher"):
        build_step("soft", DistillConfig(), model(1), None)
