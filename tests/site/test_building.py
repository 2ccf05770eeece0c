"""What `python -m docs` prepares before Sphinx begins."""

import json

import numpy as np
import pytest

pytestmark = pytest.mark.site

LESSON = "# %% [markdown]\n# # A lesson\n\n# %%\nx = 1\n\n# %%\nprint(x)\n"


@pytest.fixture
def building(tmp_path, monkeypatch):
    """docs.__main__ with a cache of its own."""
    for name in ("jupytext", "jupyter_cache", "sphinx"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install -e '.[docs]'")
    import docs.__main__

    monkeypatch.setattr(docs.__main__, "BUILD", tmp_path / "build")
    return docs.__main__


def read(text):
    import jupytext

    return jupytext.reads(text, fmt="py:percent")


def write_executed(folder, text, *, last=2):
    """A notebook as nbclient leaves it, executed up to the `last` cell of two."""
    import nbformat

    notebook = read(text)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for i, cell in enumerate(cells[:last], start=1):
        cell.execution_count = i
        cell.metadata["execution"] = {"shell.execute_reply": "2026-01-01T00:00:00Z"}
    cells[-1].outputs = [nbformat.v4.new_output("stream", text="1\n")]
    nbformat.write(notebook, folder / "01_lesson.ipynb")


def test_an_executed_lesson_is_taken_and_a_changed_one_is_not(building, tmp_path):
    write_executed(tmp_path, LESSON)
    building.take_executed(tmp_path)
    building.take_executed(tmp_path)  # again: the newer one counts
    cache = building.get_cache(tmp_path / "build" / ".jupyter_cache")
    _, merged = cache.merge_match_into_notebook(read(LESSON.replace("# A lesson", "# Other words")))
    assert merged.cells[-1].outputs[0].text == "1\n"
    with pytest.raises(KeyError):
        cache.match_cache_notebook(read(LESSON.replace("x = 1", "x = 2")))


def test_a_notebook_that_is_not_executed_is_refused(building, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no \*\.ipynb"):
        building.take_executed(tmp_path)
    write_executed(tmp_path, LESSON, last=1)
    with pytest.raises(ValueError, match=r"01_lesson\.ipynb is not executed"):
        building.take_executed(tmp_path)


def test_the_sentence_is_the_first_whole_one_that_fits():
    from docs.explore import LENGTHS, sentence

    short = [b"\n ", b" T", *[b"oo", b" few"] * 3, b"."]
    spelled = [*short, b"\n ", b" R", *[b"ea", b" d"] * 9, b"y", b".", b" z"]
    ids = np.arange(len(spelled))
    found = sentence(ids, spelled)
    assert b"".join(spelled[found]).startswith(b" Rea d") and spelled[found][-1] == b"."
    assert len(ids[found]) in LENGTHS
    assert sentence(ids[:5], spelled) == slice(0, LENGTHS[0])


def test_the_page_about_speed_has_every_case():
    from docs.benchmarks import MEASURED, page, row

    reports = [json.loads(path.read_text(encoding="utf-8")) for path in MEASURED]
    text = page(reports)
    assert text.count("\n| ") == sum(len(report["cases"]) + 2 for report in reports)
    assert all(report["machine"]["cpu"] in text for report in reports)
    case = {
        "size": "small",
        "task": "train",
        "tokens_per_step": 100,
        "seconds_per_step": {"torch": [1.0, 9.0, 2.0], "minikd": [4.0, 4.0, 4.0]},
        "ratio": {"median": 2.0, "min": 0.44, "max": 4.0},
        "goal": None,
        "memory": {side: {"peak_bytes": 3 * 2**20, "device_peak_bytes": None} for side in ("torch", "minikd")},
        "largest_difference": 2e-7,
    }
    assert row(case) == ["small", "train", "50", "25", "**2.00**", "0.44–4.00", "", "3", "3", "2e-7"]


def test_lessons_are_executed_once(building, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(building, "ROOT", tmp_path)
    (tmp_path / "lessons").mkdir()
    good, bad = tmp_path / "lessons" / "01_good.py", tmp_path / "lessons" / "02_bad.py"
    good.write_text("# # 1. Good\n# %%\nopen('runs.txt', 'a').write('x')\n")
    bad.write_text("# # 2. Bad\n# %%\n1 / 0\n")
    notebooks = tmp_path / "notebooks"
    assert building.execute_lessons(notebooks) == 1
    assert [path.name for path in notebooks.iterdir()] == ["01_good.ipynb"]
    bad.write_text("# # 2. Better\n# %%\n1 / 1\n")
    assert building.execute_lessons(notebooks) == 0
    assert building.execute_lessons(notebooks) == 0
    assert (tmp_path / "runs.txt").read_text() == "x"
