from dataclasses import replace

import numpy as np
import pytest

from minikd import classroom
from minikd.classroom import TRAINING, trained
from minikd.distill.methods import DistillConfig
from minikd.job import ModelConfig

SMALL = ModelConfig(n_layer=1, n_head=2, n_embd=8)
SHORT = replace(TRAINING, steps=4, batch_size=2, context=16, warmup_steps=1, eval_every=2, eval_tokens=64)


@pytest.fixture(autouse=True)
def room(tmp_path, monkeypatch):
    monkeypatch.setattr(classroom, "FOLDER", tmp_path)
    classroom.data.cache_clear()
    yield
    classroom.data.cache_clear()
    classroom.machine().workers.__exit__(None, None, None)
    classroom.machine.cache_clear()


def test_a_model_is_trained_once(capsys):
    first = trained(model=SMALL, training=SHORT)
    again = trained(model=SMALL, training=SHORT)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("trained: scratch, 1 x 8, 4 steps, seed 0, in ")
    assert said[1] == "from the cache: scratch, 1 x 8, 4 steps, seed 0"
    assert first == again
    assert first.val_loss == pytest.approx(first.curve()[1][-1])
    assert first.curve()[0] == [2, 4]


def test_whatever_else_is_asked_for_is_trained_anew():
    plain = trained(model=SMALL, training=SHORT)
    others = [
        trained(model=SMALL, training=SHORT, seed=1),
        trained(model=replace(SMALL, n_embd=16), training=SHORT),
        trained(model=SMALL, training=replace(SHORT, steps=5)),
        trained("soft", model=SMALL, training=SHORT, teacher=plain),
        trained("soft", model=SMALL, training=SHORT, teacher=plain, distill=DistillConfig(temperature=2.0)),
        trained("codistill", model=SMALL, training=SHORT, new_teacher=SMALL),
    ]
    folders = [run.folder for run in (plain, *others)]
    assert len(set(folders)) == len(folders)
    weights = [run.model.params.flat for run in (plain, *others)]
    assert all(not np.array_equal(weights[0], other) for other in weights[1:])
    assert others[-1].teacher.curve()[0] == [2, 4]
    assert others[-1].teacher.model.config == plain.model.config


def test_a_teacher_that_learned_beside_its_student_teaches_others():
    pair = trained("codistill", model=SMALL, training=SHORT, new_teacher=replace(SMALL, n_embd=16))
    taught = [trained("soft", model=SMALL, training=SHORT, teacher=teacher) for teacher in (pair, pair.teacher)]
    assert pair.teacher.model.config.n_embd == 16
    assert pair.teacher.val_loss != pair.val_loss
    assert taught[0].folder != taught[1].folder


def test_minikd_changed(monkeypatch):
    before = trained(model=SMALL, training=SHORT)
    monkeypatch.setattr(classroom, "_sources", lambda: "another minikd")
    assert trained(model=SMALL, training=SHORT).folder != before.folder


def test_a_stopped_lesson_leaves_no_model(monkeypatch):
    def stopped(method, folder, *rest, **named):
        folder.mkdir(parents=True)
        (folder / "result.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(classroom, "run", stopped)
        trained(model=SMALL, training=SHORT)
    assert np.isfinite(trained(model=SMALL, training=SHORT).model.params.flat).all()


def test_two_lessons_that_train_the_same_model(monkeypatch):
    others, run = [], classroom.run

    def beside(*asked, **named):
        run(*asked, **named)
        monkeypatch.setattr(classroom, "run", run)
        others.append(trained(model=SMALL, training=SHORT))  # the other lesson, which finishes first

    monkeypatch.setattr(classroom, "run", beside)
    mine = trained(model=SMALL, training=SHORT)
    assert [mine] == others
    assert mine.curve()[0] == [2, 4]
    assert [folder.name for folder in mine.folder.parent.iterdir()] == [mine.folder.name]
