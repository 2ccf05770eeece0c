"""Lockstep: who sees what, and when."""

import numpy as np
import pytest

from minikd.distill.codistill import codistill
from minikd.distill.schedule import soft_weight
from minikd.distill.scratch import scratch
from minikd.losses import cross_entropy, distillation_loss, forward_kl, js
from minikd.train import Tick
from tests.distill.learning import CONFIG, batches, copy, learn, model


def pair(**fields):
    return model(1, n_embd=8, n_layer=1, **fields), model(2, **fields)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("pdrop", [0.0, 0.2])
def test_the_teacher_is_the_one_that_trains_alone(workers, pdrop):
    student, teacher = pair(resid_pdrop=pdrop, embd_pdrop=pdrop)
    alone = copy(teacher)
    start = teacher.params.flat.copy()
    step = codistill(student, teacher, weight=soft_weight("constant", 0.7), temperature=2.0)
    learn({"teacher": teacher, "student": student}, step, workers=workers)
    learn({"student": alone}, scratch(alone), workers=workers)
    np.testing.assert_array_equal(teacher.params.flat, alone.params.flat)
    assert (teacher.params.flat != start).mean() > 0.9


def test_with_mutual_the_teacher_learns_from_the_student():
    student, teacher = pair()
    alone = copy(teacher)
    step = codistill(student, teacher, weight=soft_weight("constant", 0.7), mutual=True)
    learn({"teacher": teacher, "student": student}, step)
    learn({"student": alone}, scratch(alone))
    assert np.abs(teacher.params.flat - alone.params.flat).max() > 1e-4


@pytest.mark.parametrize("divergence", [forward_kl, js])
def test_the_students_gradient_is_that_of_the_mixed_loss_at_the_teachers_logits_before_its_update(divergence):
    student, teacher = pair()
    step = codistill(student, teacher, weight=soft_weight("constant", 0.3), temperature=2.0, divergence=divergence)
    learn({"teacher": teacher, "student": student}, step, steps=range(3))
    before_teacher, before_student = copy(teacher), copy(student)
    batch = batches(3)
    gradients = step(batch, Tick(3, CONFIG.steps))
    teacher_logits, teacher_vjp = before_teacher(batch.inputs)
    student_logits, student_vjp = before_student(batch.inputs)
    loss, loss_vjp = distillation_loss(
        student_logits, teacher_logits, batch.targets, alpha=0.3, temperature=2.0, divergence=divergence
    )
    hard, hard_vjp = cross_entropy(teacher_logits, batch.targets)
    assert gradients["student"][0] == pytest.approx(float(loss), rel=1e-12)
    assert gradients["teacher"][0] == pytest.approx(float(hard), rel=1e-12)
    wanted_student, wanted_teacher = student_vjp(loss_vjp()).flat, teacher_vjp(hard_vjp()).flat
    np.testing.assert_allclose(gradients["student"][1].flat, wanted_student, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(gradients["teacher"][1].flat, wanted_teacher, rtol=1e-9, atol=1e-14)


def test_mutual_gives_the_teacher_the_mirrored_loss():
    student, teacher = pair()
    batch = batches(0)
    gradients = codistill(student, teacher, weight=soft_weight("constant", 0.4), mutual=True)(batch, Tick(0, 6))
    teacher_logits, teacher_vjp = teacher(batch.inputs)
    student_logits, _ = student(batch.inputs)
    loss, loss_vjp = distillation_loss(teacher_logits, student_logits, batch.targets, alpha=0.4, temperature=1.0)
    assert gradients["teacher"][0] == pytest.approx(float(loss), rel=1e-12)
    np.testing.assert_allclose(gradients["teacher"][1].flat, teacher_vjp(loss_vjp()).flat, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("mutual", [False, True])
def test_who_is_updated_first_changes_nothing(mutual):
    results = []
    for order in (("teacher", "student"), ("student", "teacher")):
        student, teacher = pair()
        models = {"student": student, "teacher": teacher}
        step = codistill(student, teacher, weight=soft_weight("linear", 0.8), mutual=mutual)
        learn({name: models[name] for name in order}, step)
        results.append((student.params.flat, teacher.params.flat))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])


def test_parts_on_threads_give_the_gradient_of_the_whole_batch():
    flats = []
    for workers in (1, 2, 3):
        student, teacher = pair()
        step = codistill(student, teacher, weight=soft_weight("gate", 0.5))
        learn({"teacher": teacher, "student": student}, step, workers=workers)
        flats.append(student.params.flat)
    np.testing.assert_allclose(flats[1], flats[0], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(flats[2], flats[0], rtol=1e-7, atol=1e-9)


def test_late_is_scratch_before_its_start_and_not_after():
    student, teacher = pair()
    alone = copy(student)
    step = codistill(student, teacher, weight=soft_weight("late", 0.5, start=0.5))
    learners, _ = learn({"teacher": teacher, "student": student}, step, steps=range(3))
    scratch_learners, _ = learn({"student": alone}, scratch(alone), steps=range(3))
    np.testing.assert_allclose(student.params.flat, alone.params.flat, rtol=1e-12, atol=1e-15)
    learn({}, step, steps=range(3, 6), learners=learners)
    learn({}, scratch(alone), steps=range(3, 6), learners=scratch_learners)
    assert np.abs(student.params.flat - alone.params.flat).max() > 1e-5
