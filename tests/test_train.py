"""The loop: resuming, diverging, being interrupted, accumulating, and what it writes down."""

import json
import math
import os
import signal
from dataclasses import replace

import numpy as np
import pytest

from minikd.checkpoint import latest
from minikd.distill.codistill import codistill
from minikd.distill.schedule import soft_weight
from minikd.distill.scratch import scratch
from minikd.errors import Interrupted, UserError
from minikd.run_folder import RunFolder
from minikd.train import Learner, Tick, TrainConfig, train, train_step
from minikd.workers import Workers
from tests.distill.learning import CONFIG, batches, copy, learn, model

LOOP = TrainConfig(
    steps=6, batch_size=4, context=8, warmup_steps=2, learning_rate=0.01, log_every=1, eval_every=3, save_every=2
)


def run(folder, *, steps=batches, step=None, config=LOOP, resume=False, workers=1, pdrop=0.0):
    """A co-distillation with a folder; returns the flat parameters of student and teacher."""
    student, teacher = model(1, n_embd=8, n_layer=1, resid_pdrop=pdrop), model(2, resid_pdrop=pdrop)
    step = step or codistill(student, teacher, weight=soft_weight("linear", 0.5))
    learners = {"teacher": Learner.of(teacher, config, 0.005), "student": Learner.of(student, config)}
    with Workers(workers) as pool:
        train(
            learners,
            step,
            steps,
            config,
            RunFolder(folder),
            validate=lambda learners: {name: 1.5 for name in learners},
            sample=lambda learners: "a few words",
            workers=pool,
            resume=resume,
            quiet=True,
        )
    return student.params.flat, teacher.params.flat


class Stop(Exception):
    """Something that ends a run from outside."""


def stopping_at(step):
    def batches_until(i):
        if i == step:
            raise Stop
        return batches(i)

    return batches_until


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("at", [2, 3, 5])
def test_a_run_that_was_stopped_and_resumed_ends_with_the_same_bytes(tmp_path, at, workers):
    whole = run(tmp_path / "whole", workers=workers, pdrop=0.1)
    with pytest.raises(Stop):
        run(tmp_path / "parts", steps=stopping_at(at), workers=workers, pdrop=0.1)
    resumed = run(tmp_path / "parts", resume=True, workers=workers, pdrop=0.1)
    np.testing.assert_array_equal(whole[0], resumed[0])
    np.testing.assert_array_equal(whole[1], resumed[1])
    assert written(tmp_path / "whole") == written(tmp_path / "parts")


def written(folder):
    """What a run has written down, but for measured times."""
    records = [{**record, "tokens_per_second": 0} for record in RunFolder(folder).records()]
    return records, (folder / "samples.txt").read_text()


def test_metrics_and_samples(tmp_path):
    run(tmp_path)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert [record["step"] for record in records if "val_loss" in record["student"]] == [3, 6]
    assert all(np.isfinite(record["teacher"]["loss"]) and record["tokens_per_second"] > 0 for record in records)
    assert records[0]["student"]["loss"] > records[-1]["student"]["loss"] > 0
    assert (tmp_path / "samples.txt").read_text().count("a few words") == 2


def test_a_last_line_cut_short_by_a_kill_is_dropped(tmp_path):
    run(tmp_path, config=replace(LOOP, steps=4))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "stu')
    folder = RunFolder(tmp_path)
    assert [record["step"] for record in folder.records()] == [1, 2, 3, 4]
    folder.rewind(2)
    assert [record["step"] for record in folder.records()] == [1, 2]


@pytest.mark.parametrize(
    "line", [b"", b"garbage", b"\xff", b"[1]", b"{}", b'{"step": 2}', b'{"step": 2, "student": {"loss": null}}']
)
def test_a_damaged_line_of_the_metrics_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "student": {"loss": 4.5}}\n' + line + b"\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 2: .*; wanted an? ") as error:
        RunFolder(tmp_path).records()
    assert "\n" not in str(error.value)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(tmp_path):
    student = model(1)
    good = scratch(student)

    def step(batch, tick):
        (loss, gradient) = good(batch, tick)["student"]
        return {"student": (loss if tick.step < 4 else loss * np.nan, gradient)}

    learners = {"student": Learner.of(student, LOOP)}
    with Workers(1) as pool, pytest.raises(UserError, match=r"is nan .* step 5: training diverged.*learning-rate"):
        train(
            learners,
            step,
            batches,
            LOOP,
            RunFolder(tmp_path),
            validate=lambda learners: {"student": 1.0},
            sample=lambda learners: "",
            workers=pool,
            quiet=True,
        )
    state = latest(tmp_path)
    assert state.step == 4
    assert np.isfinite(state.learners["student"].parameters).all()


@pytest.mark.parametrize(
    ("loss", "weight", "message"),
    [(np.nan, 0.0, "validation loss is nan"), (1.5, np.inf, "has weights that are not finite")],
)
def test_what_is_not_finite_at_the_end_is_not_saved(tmp_path, loss, weight, message):
    student = model(1)

    def validate(learners):
        student.params.flat[0] = weight
        return {"student": loss}

    with Workers(1) as pool, pytest.raises(UserError, match=f"the student.* {message} at step 4: training diverged"):
        train(
            {"student": Learner.of(student, LOOP)},
            scratch(student),
            batches,
            replace(LOOP, steps=4, eval_every=4),
            RunFolder(tmp_path),
            validate=validate,
            sample=lambda learners: "",
            workers=pool,
            quiet=True,
        )
    assert latest(tmp_path).step == 2
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def test_a_gradient_that_is_not_finite_stops_too(tmp_path):
    student = model(1)
    good = scratch(student)

    def step(batch, tick):
        loss, gradient = good(batch, tick)["student"]
        gradient.flat[3] = np.inf
        return {"student": (loss, gradient)}

    with np.errstate(invalid="ignore"), pytest.raises(UserError, match="gradient's length inf at step 1"):
        learners = {"student": Learner.of(student, LOOP)}
        with Workers(1) as pool:
            train(
                learners,
                step,
                batches,
                LOOP,
                RunFolder(tmp_path),
                validate=lambda learners: {"student": 1.0},
                sample=lambda learners: "",
                workers=pool,
                quiet=True,
            )


def test_ctrl_c_finishes_the_step_saves_and_says_so(tmp_path):
    """It comes between two records, and leaves no trace in what is written down."""

    def interrupting(i):
        if i == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return batches(i)

    config = replace(LOOP, log_every=5, eval_every=5, save_every=6)
    with pytest.raises(Interrupted, match="stopped after step 3 of 6"):
        run(tmp_path / "parts", steps=interrupting, config=config)
    assert latest(tmp_path / "parts").step == 3
    assert not (tmp_path / "parts" / "metrics.jsonl").exists()
    whole = run(tmp_path / "whole", config=config)
    np.testing.assert_array_equal(run(tmp_path / "parts", config=config, resume=True)[0], whole[0])
    assert written(tmp_path / "parts") == written(tmp_path / "whole")


def test_a_state_of_other_sizes_is_refused(tmp_path):
    run(tmp_path)
    other = Learner.of(model(1, n_embd=16), LOOP)
    with pytest.raises(UserError, match="not that of this student"), Workers(1) as pool:
        train(
            {"student": other},
            scratch(other.model),
            batches,
            LOOP,
            RunFolder(tmp_path),
            validate=lambda learners: {},
            sample=lambda learners: "",
            workers=pool,
            resume=True,
            quiet=True,
        )


@pytest.mark.parametrize(("accumulate", "workers"), [(2, 1), (4, 1), (2, 2), (1, 3)])
def test_parts_of_a_batch_give_the_step_of_the_whole(accumulate, workers):
    whole, parts = model(1), model(1)
    learn({"student": whole}, scratch(whole), steps=range(2))
    config = replace(CONFIG, accumulate=accumulate)
    learn({"student": parts}, scratch(parts), steps=range(2), workers=workers, config=config)
    np.testing.assert_allclose(parts.params.flat, whole.params.flat, rtol=1e-7, atol=1e-9)


def test_parts_are_weighted_by_the_tokens_that_count():
    batch = batches(0)
    batch.targets[0] = -100
    batch.targets[1, 3:] = -100
    flats = []
    for workers in (1, 2):
        student = model(1)
        learners = {"student": Learner.of(student, CONFIG)}
        with Workers(workers) as pool:
            seen = train_step(learners, scratch(student), batch, Tick(0, 6), CONFIG, pool)
        flats.append((student.params.flat, float(seen["student"][0])))
    np.testing.assert_allclose(flats[0][0], flats[1][0], rtol=1e-7, atol=1e-9)
    assert flats[0][1] == pytest.approx(flats[1][1], rel=1e-12)


def test_training_learns_a_pattern():
    student = model(3, n_embd=16)
    config = replace(CONFIG, steps=60)
    rows = lambda step: batches(step % 2)  # noqa: E731
    learners = {"student": Learner.of(student, config)}
    with Workers(1) as pool:
        losses = [
            float(train_step(learners, scratch(student), rows(i), Tick(i, 60), config, pool)["student"][0])
            for i in range(60)
        ]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps is 0; wanted at least 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; wanted a finite number above 0"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"learning_rate": math.inf}, "learning_rate is inf; wanted a finite number above 0"),
        ({"weight_decay": math.inf}, "weight_decay is inf; wanted a finite number of at least 0"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0; wanted a number above 0, inf to clip nothing"),
        ({"beta2": 1.0}, r"beta2 is 1.0; wanted a number in \[0, 1\)"),
    ],
)
def test_configurations_that_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**fields)


def test_copies_are_separate():
    first = model(1)
    second = copy(first)
    second.params.flat[0] += 1
    assert first.params.flat[0] != second.params.flat[0]
