"""The main job, small: what it leaves behind, and that its students stand on equal terms."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from minikd.compare import (
    PRESETS,
    STUDENTS,
    CompareConfig,
    compare,
    curves,
    doubtful_place,
    is_word,
    measure_all,
    over_seeds,
    shortened,
)
from minikd.distill.methods import DistillConfig
from minikd.distill.scratch import scratch
from minikd.errors import UserError
from minikd.evaluate import Evaluation
from minikd.job import Data, Machine, RunConfig, TextConfig, load
from minikd.report import Point
from minikd.run_folder import RunFolder
from minikd.text import Batches, Tokenizer
from minikd.train import Learner, Tick, TrainConfig, train_step

RUN = RunConfig(device="cpu", threads=1, quiet=True)
CONFIG = CompareConfig(preset="tiny", steps=6, seeds=2)
KEYS = {
    *("name", "parameters", "val_loss", "val_loss_se", "perplexity", "bits_per_byte", "agreement", "kl_to_teacher"),
    *("tokens_per_second", "gap_closed", "label_bytes_per_token"),
}


@pytest.fixture(scope="module", autouse=True)
def short_looks():
    """Less to evaluate and less for the teacher to write than `tiny` has."""
    tiny = PRESETS["tiny"]
    training = replace(tiny.training, eval_tokens=8192)
    with pytest.MonkeyPatch.context() as patch:
        methods = {"sequence": DistillConfig(corpus_tokens=5000)}
        patch.setitem(PRESETS, "tiny", replace(tiny, training=training, methods=methods))
        yield


@pytest.fixture(scope="module")
def out(short_looks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison") / "out"
    compare(TextConfig(), CONFIG, RUN, folder)
    return folder


@pytest.fixture
def report(out):
    return json.loads((out / "report.json").read_text())


@pytest.fixture
def machine():
    return Machine.of(RUN)


def weights(folder, machine):
    return load(folder, machine)[0].params.flat


def test_the_report_has_what_was_promised(report):
    assert {"corpus", "vocab_size", "seeds", "device", "versions", "runs"} <= report.keys()
    assert (report["corpus"], report["vocab_size"], report["seeds"]) == ("python-docs", 512, 2)
    assert [run["name"] for run in report["runs"]] == ["teacher", *STUDENTS]
    for run in report["runs"]:
        assert run.keys() >= KEYS
        assert 3 < run["val_loss"] < np.log(512) + 0.5
        assert run["perplexity"] == pytest.approx(np.exp(run["val_loss"]))
        assert run["val_loss_se"] > 0 and run["tokens_per_second"] > 0 and run["bits_per_byte"] > 0


def test_the_columns_follow_from_one_another(report):
    runs = {run["name"]: run for run in report["runs"]}
    teacher, students = runs["teacher"], [runs[name] for name in STUDENTS]
    assert len({run["parameters"] for run in students}) == 1 < teacher["parameters"] / students[0]["parameters"]
    assert teacher["agreement"] is None and teacher["kl_to_teacher"] is None
    assert all(0 <= run["agreement"] <= 1 and run["kl_to_teacher"] > 0 for run in students)
    assert runs["scratch"]["gap_closed"] == 0 and teacher["gap_closed"] == 1
    labels = {name: run["label_bytes_per_token"] for name, run in runs.items()}
    assert labels["soft"] == labels["codistill"] == 2 * 512 and labels["hard"] == 2
    assert labels["teacher"] == labels["scratch"] == 0 and 0 < labels["sequence"] < 10


def test_every_run_has_its_folder(out):
    for place in (out, out / "seed-1"):
        for name in ("teacher", *STUDENTS):
            assert (place / name / "model" / "model.safetensors").stat().st_size > 0
            assert (place / name / "metrics.jsonl").read_text().count("val_loss") >= 6
        assert len((place / "sequence" / "corpus.txt").read_text()) > 10_000
    for name in ("report.md", "validation-loss.png", "next-word.png", "comparison.png"):
        assert (out / name).stat().st_size > 1000


def test_the_teacher_is_bit_for_bit_the_one_that_trains_alone(out, machine):
    preset = PRESETS["tiny"]
    training = shortened(preset.training, 6)
    teacher = machine.new_model(preset.teacher.gpt2(512, training.context), (0, 1))
    learners = {"student": Learner.of(teacher, training, preset.teacher_learning_rate)}
    batches = Batches(np.load(out / "text" / "train.npy"), training.batch_size, training.context, seed=0)
    with machine.workers:
        for i in range(6):
            train_step(learners, scratch(teacher), batches(i), Tick(i, 6), training, machine.workers)
    np.testing.assert_array_equal(weights(out / "teacher" / "model", machine), teacher.params.flat)


def test_resuming_redoes_what_is_missing_and_nothing_else(out, report, machine, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    for gone in ("hard", "seed-1/soft/model", "seed-1/codistill/teacher", "teacher"):
        shutil.rmtree(copy / gone)
    kept = (copy / "sequence" / "metrics.jsonl").stat().st_mtime_ns
    compare(TextConfig(), CONFIG, RUN, copy, resume=True)
    again = json.loads((copy / "report.json").read_text())
    assert [run["val_losses"] for run in again["runs"]] == [run["val_losses"] for run in report["runs"]]
    np.testing.assert_array_equal(weights(copy / "hard" / "model", machine), weights(out / "hard" / "model", machine))
    assert (copy / "sequence" / "metrics.jsonl").stat().st_mtime_ns == kept


def test_a_damaged_result_is_named(out, machine, tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    monkeypatch.setattr("minikd.compare.look", lambda *arguments, **options: Evaluation(4.0, 10, 2.0))
    data = Data("some text", Tokenizer.load(out / "text"), [], [])
    for damage in ("x", "{}", '{"parameters": null}', '{"parameters": "x", "tokens_per_second": 1}'):
        (copy / "hard" / "result.json").write_text(damage)
        message = r"hard/result\.json is not what a run leaves; without it --resume evaluates again"
        with pytest.raises(UserError, match=message):
            measure_all(copy, data, PRESETS["tiny"].training, machine)


def test_curves_over_seeds(tmp_path):
    def write(place, steps):
        for name in STUDENTS:
            losses = {who: {"val_loss": steps[-1] + place} for who in ("student", "teacher")}
            RunFolder(tmp_path / str(place) / name).write([{"step": step, **losses} for step in steps])

    training = TrainConfig(steps=5, eval_every=2)
    places = [tmp_path / "0", tmp_path / "1"]
    write(0, [2, 3, 4, 5])  # after step 3, a version before this one was interrupted
    write(1, [2, 4, 5])
    assert curves(places, training)["teacher"] == [Point(step, 5.5, 0.5) for step in (2, 4, 5)]
    write(1, [2, 5])
    message = r"1/codistill/metrics\.jsonl: there is no validation loss of step 4; without .*codistill --resume trains"
    with pytest.raises(UserError, match=message):
        curves(places, training)


def test_means_and_standard_errors_over_seeds():
    row = {"name": "soft", "parameters": 7, "agreement": None}
    rows = [row | {"val_loss": loss, "gain_over_scratch": loss - 2} for loss in (1.0, 3.0)]
    row = over_seeds(rows)
    assert (row["name"], row["parameters"], row["val_loss"], row["agreement"]) == ("soft", 7, 2.0, None)
    assert row["val_loss_se"] == row["gain_over_scratch_se"] == 1.0
    assert over_seeds(rows[:1])["val_loss_se"] is None


def test_the_place_to_show_is_where_the_teacher_is_right_but_in_doubt():
    logits = np.log([[[0.4, 0.3, 0.3], [0.9, 0.05, 0.05], [0.5, 0.4, 0.1], [0.6, 0.3, 0.1]]])
    yes, no = np.array([[True] * 4]), np.array([[False] * 4])
    assert doubtful_place(logits, np.array([[0, 0, 0, 0]]), yes) == (0, 2)
    assert doubtful_place(logits, np.array([[0, 0, 1, 0]]), yes) == (0, 3)
    assert doubtful_place(logits, np.array([[1, 1, 1, 1]]), yes) == (0, 2)
    assert doubtful_place(logits, np.array([[0, 0, 0, 0]]), no) == (0, 2)
    assert doubtful_place(logits, np.array([[0, 0, 0, 0]]), np.array([[True, True, False, True]])) == (0, 3)


def test_a_word_is_a_space_and_letters():
    assert [is_word(token) for token in (" the", "the", "s", " a", "   ", " x1y", " Straße")] == [True] + 5 * [
        False
    ] + [True]


def test_fewer_steps_keep_the_shape_of_the_training():
    training = shortened(replace(PRESETS["lesson"].training, steps=500, warmup_steps=50, eval_every=50), 60)
    assert (training.steps, training.warmup_steps, training.eval_every) == (60, 6, 6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"preset": "huge"}, "preset is 'huge'; wanted one of tiny, lesson, small"),
        ({"steps": 0}, "steps is 0; wanted at least 1"),
        ({"seeds": 0}, "seeds is 0"),
    ],
)
def test_comparisons_that_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        CompareConfig(**fields)
