import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minikd import figures
from minikd.errors import UserError
from minikd.figures import (
    NextWords,
    Point,
    comparison_figure,
    drawable,
    fitting,
    loss_range,
    next_word_figure,
    shared_places,
    spread,
    validation_loss_figure,
    visible,
)
from minikd.report import describe, digits, findings, has_report, plain, table_markdown, write_report
from tests.disks import locked_folder, small_disk

NAMES = ["teacher", "scratch", "soft", "hard", "sequence", "codistill"]
LOSSES = {"teacher": 3.78, "scratch": 4.13, "soft": 3.98, "hard": 4.30, "sequence": 4.40, "codistill": 4.05}
SHAKEN = {"teacher": 0, "scratch": 1, "soft": 2, "hard": 3, "sequence": 4, "codistill": -1}
FILES = {"report.json", "report.md", "validation-loss.png", "next-word.png", "comparison.png"}


def report(seeds=5, error=0.01, **losses):
    """A report whose difference between runs i and j has the standard error |SHAKEN[i] - SHAKEN[j]| * error."""
    losses = LOSSES | losses
    pattern = np.linspace(-1, 1, seeds) if seeds > 1 else np.zeros(1)
    if seeds > 1:
        pattern *= error * math.sqrt(seeds) / pattern.std(ddof=1)
    gap = losses["scratch"] - losses["teacher"]
    runs = [
        {
            "name": name,
            "parameters": 1_412_608 if name == "teacher" else 171_072,
            "val_loss": losses[name],
            "val_loss_se": error if seeds > 1 else None,
            "val_losses": (losses[name] + SHAKEN[name] * pattern).tolist(),
            "perplexity": math.exp(losses[name]),
            "bits_per_byte": losses[name] / math.log(2) / 2.93,
            "agreement": None if name == "teacher" else 0.5416,
            "kl_to_teacher": None if name == "teacher" else 0.4321,
            "tokens_per_second": 98_123.4,
            "gap_closed": None if name == "teacher" else (losses["scratch"] - losses[name]) / gap,
            "label_bytes_per_token": {"soft": 2048.0, "hard": 2.0, "sequence": 2.871}.get(name, 0.0),
        }
        for name in NAMES
    ]
    return {
        "corpus": "python-docs",
        "vocab_size": 1024,
        "seeds": seeds,
        "device": "cpu",
        "versions": {"minikd": "0.1.0", "numpy": "2.0"},
        "settings": {"steps": 600},
        "runs": runs,
    }


def curves(seeds=5, steps=600, **losses):
    at = range(50, steps + 1, 50)
    ends = {name: (end, math.log(1024) - end) for name, end in (LOSSES | losses).items()}
    return {
        name: [Point(step, end + fall * math.exp(-step / 90), 0.012 if seeds > 1 else None) for step in at]
        for name, (end, fall) in ends.items()
    }


def next_words(
    words=(" string", " list", " new", " n", " tuple", " valid", " single", "\n"), next_word=" list", text="a"
):
    rng = np.random.default_rng(0)
    probabilities = {name: {t: (0.1 * rng.random(len(words))).tolist() for t in (1.0, 2.0, 4.0)} for name in NAMES}
    return NextWords(text, next_word, words, probabilities)


def refuse_constant(name):
    raise AssertionError(f"{name} is no JSON")


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are laid out, but their PNGs are so many bytes."""
    monkeypatch.setattr(figures, "png", lambda figure: bytes(100_000))


def test_report_folder(tmp_path):
    from matplotlib.image import imread

    write_report(tmp_path, report(), curves(), next_words())
    assert {path.name for path in tmp_path.iterdir()} == FILES
    for name in ("validation-loss", "next-word", "comparison"):
        image = imread(tmp_path / f"{name}.png")
        assert image.shape[1] == 1800
        assert 700 < image.shape[0] < 1800
        assert 0.02 < np.mean(image[..., :3].min(axis=-1) < 0.7) < 0.4  # neither empty nor flooded with ink
        assert not any(word in (tmp_path / f"{name}.png").read_bytes() for word in (b"tEXt", b"tIME", b"atplotlib"))


def test_report_page(tmp_path, undrawn):
    write_report(tmp_path, report(), curves(), next_words())
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert table_markdown(report()) in page
    assert all(f"]({name})" in page for name in FILES if name.endswith("png"))


def test_a_report_of_which_a_part_is_gone_is_none(tmp_path, undrawn):
    for name in FILES:
        write_report(tmp_path, report(), curves(), next_words())
        assert has_report(tmp_path)
        (tmp_path / name).unlink()
        assert not has_report(tmp_path)
    for damage in ("x", "{}", "[1]"):
        (tmp_path / "report.json").write_text(damage)
        assert not has_report(tmp_path)


def test_report_json_is_strict_and_free_of_numpy(tmp_path, undrawn):
    given = report()
    given["runs"][3]["kl_to_teacher"] = math.inf
    given["runs"][4]["agreement"] = np.float32(0.5)
    given["settings"] = {"steps": np.int64(7), "nan": math.nan, "text": (Path("a.txt"),), "ids": np.arange(2)}
    write_report(tmp_path, given, curves(), next_words())
    found = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse_constant)
    assert found["settings"] == {"steps": 7, "nan": None, "text": ["a.txt"], "ids": [0, 1]}
    assert found["runs"][3] == given["runs"][3] | {"kl_to_teacher": None}
    assert found["runs"][4]["agreement"] == 0.5
    assert {key: found[key] for key in found if key not in ("runs", "settings")} == {
        key: given[key] for key in given if key not in ("runs", "settings")
    }


def test_plain_keeps_what_json_can_hold():
    value = {"a": [1, 2.5, True, None, "é"], "b": {"c": -0.0}}
    assert plain(value) == value


def test_figures_depend_on_nothing_but_their_data():
    import matplotlib

    first = comparison_figure(report()["runs"], subtitle="a text")
    with matplotlib.rc_context({"font.size": 30, "xtick.direction": "in", "savefig.dpi": 20}):
        assert comparison_figure(report()["runs"], subtitle="a text") == first
        assert matplotlib.rcParams["font.size"] == 30
    assert comparison_figure(report()["runs"], subtitle="another") != first


def test_matplotlib_is_imported_only_to_draw_and_without_pyplot():
    program = (
        "import sys, minikd.report as report; assert 'matplotlib' not in sys.modules\n"
        "from minikd.figures import Point, validation_loss_figure as draw\n"
        "assert draw({'soft': [Point(1, 2.0)]}, subtitle='', chance=3.0)[:4] == b'\\x89PNG'\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


CASES = {
    "one seed": (report(1), curves(1)),
    "five seeds": (report(), curves()),
    "close": (
        report(error=0.02, teacher=3.67, scratch=3.74, soft=3.70, hard=3.72, sequence=3.735, codistill=3.64),
        curves(steps=1500, teacher=3.67, scratch=3.74, soft=3.70, hard=3.72, sequence=3.735, codistill=3.64),
    ),
    "tiny errors": (report(error=0.0003), curves()),
    "off the scale": (report(1, hard=8.6), curves(1, hard=8.6)),
    "no gap": (report(teacher=4.2), curves(teacher=4.2)),
    "one look": (report(1), {name: curve[:1] for name, curve in curves(1).items()}),
    "all the same": (
        report(1, teacher=6.92, **dict.fromkeys(NAMES[1:], 6.93)),
        {name: [Point(2, 6.93)] for name in NAMES},
    ),
    "not finite": (
        report(),
        {name: [*curve, Point(650, math.nan), Point(700, math.inf)] for name, curve in curves().items()},
    ),
    "long corpus": (report() | {"corpus": "/home/日本/" + "long/" * 60 + "text.txt"}, curves()),
}


def shown_texts(figure):
    """Every text of a figure that is drawn, with its box in pixels."""
    from matplotlib.text import Text

    figure.canvas.draw()
    off_scale = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        ticks = zip(axis.get_majorticklabels(), axis.get_majorticklocs(), strict=True)
        off_scale |= {label for label, at in ticks if not low <= at <= high}
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text() and text not in off_scale]
    return [(text, text.get_window_extent()) for text in texts]


@pytest.fixture
def inspected(monkeypatch):
    """Every text of a figure must be large enough to read, inside the figure and apart from every other."""

    def inspect(figure):
        texts = shown_texts(figure)
        assert len(texts) > 10
        width, height = figure.canvas.get_width_height()
        for text, box in texts:
            assert text.get_fontsize() >= 10
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text
        for (text, box), (other, other_box) in itertools.combinations(texts, 2):
            assert not box.padded(-1).overlaps(other_box.padded(-1)), (text, other)
        return b"seen"

    monkeypatch.setattr(figures, "png", inspect)


@pytest.mark.parametrize("case", CASES)
def test_every_text_of_the_loss_figures_has_its_own_place(inspected, case):
    given, given_curves = CASES[case]
    subtitle = describe(given)
    assert validation_loss_figure(given_curves, subtitle=subtitle, chance=math.log(1024)) == b"seen"
    assert comparison_figure(given["runs"], subtitle=subtitle) == b"seen"


ODD_TOKENS = [" internationalization", "日本語", "\U0001f9ea", "$x$_{", "\ufffd", "\r\n\t", "W" * 200, "\u200b\u0301 "]


@pytest.mark.parametrize(
    "words",
    [
        next_words(),
        next_words(text="", next_word="W" * 99),
        next_words(ODD_TOKENS, next_word="\U0001f9ea", text="x" * 999 + "日\n  f($a$):\n\t "),  # no glyph: a warning
        next_words(words=["one"]),
    ],
)
def test_every_text_of_the_next_word_figure_has_its_own_place(inspected, words):
    assert next_word_figure(words, vocab_size=50_257) == b"seen"


@pytest.mark.parametrize(
    "token, shown",
    [
        (" string", "␣string"),
        ("\n\n", "↵↵"),
        ("\t", "⇥"),
        ("日$x$", "□$x$"),
        ("\x00\u200b", "□□"),
        ("é", "é"),
        ("", ""),
    ],
)
def test_visible_tokens(token, shown):
    assert visible(token, 2.0) == shown


@pytest.mark.parametrize("keep_end", [False, True])
@pytest.mark.parametrize("inches", [0.5, 2.0, 6.0])
def test_fitting_cuts_no_more_than_it_must(inches, keep_end):
    from matplotlib.textpath import TextPath

    def width(text):
        return TextPath((0, 0), text, size=11).get_extents().width / 72

    text = "".join(chr(97 + i % 26) for i in range(200))
    shown = fitting(text, inches, 11, keep_end=keep_end)
    kept = shown.strip("…")
    assert text.endswith(kept) if keep_end else text.startswith(kept)
    assert shown == ("…" + kept if keep_end else kept + "…")
    assert inches - 0.25 < width(shown) <= inches
    assert fitting("short", inches, 11, keep_end=keep_end) == "short"


def test_drawable_leaves_what_the_font_has():
    assert drawable("naïve → Σ жα") == "naïve → Σ жα"


@pytest.mark.parametrize(
    "values, expected",
    [
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]),
        ([3.0, 1.0, 2.0], [3.0, 1.0, 2.0]),
        ([2.0, 2.0], [1.75, 2.25]),
        ([2.0, 2.1, 5.0], [1.8, 2.3, 5.0]),
        ([0.0, 0.0, 0.0], [0.0, 0.5, 1.0]),
        ([9.0, 10.0, 10.0], [9.0, 9.5, 10.0]),
    ],
)
def test_spread(values, expected):
    assert spread(values, 0.5, 0.0, 10.0) == pytest.approx(expected)


def test_spread_keeps_order_distance_and_limits(rng):
    for _ in range(50):
        values = rng.normal(size=6)
        places = spread(list(values), 0.3, -2.0, 2.0)
        ordered = places[np.argsort(values)]
        assert np.diff(ordered).min() >= 0.3 - 1e-12
        assert ordered[0] >= -2.0 and ordered[-1] <= 2.0 + 1e-12


def test_loss_range_shows_all_ends_but_those_far_away():
    low, high = loss_range(curves().values())
    assert low < 3.78 and 4.40 < high < 5.0
    assert loss_range(curves(hard=8.6).values()) == pytest.approx((low, high))


@pytest.mark.parametrize("errors, places", [([0.009, 0.02], 3), ([0.02], 2), ([0.014], 3), ([0.00001], 4), ([3.0], 2)])
def test_decimal_places_follow_the_errors(errors, places):
    assert shared_places(errors) == places
    assert shared_places([None, *errors, 0.0]) == places


@pytest.mark.parametrize(
    "value, text",
    [
        (None, "–"),
        (0.0, "0"),
        (2048.0, "2,048"),
        (2.871, "2.87"),
        (98_123.4, "98,100"),
        (62.18, "62.2"),
        (1e300, "1.00e+300"),
    ],
)
def test_digits(value, text):
    assert digits(value) == text


def rows(markdown):
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_table():
    head, rule, *body = rows(table_markdown(report()))
    assert head[:3] == ["run", "parameters", "loss"]
    assert rule == ["---"] + ["---:"] * 9
    assert [row[0] for row in body] == NAMES
    assert body[0] == ["teacher", "1,412,608", "3.780 ± 0.010", "43.8", "1.861", "–", "–", "–", "98,100", "0"]
    assert body[2] == ["soft", "171,072", "3.980 ± 0.010", "53.5", "1.960", "54.2%", "0.432", "43%", "98,100", "2,048"]
    assert [row[7] for row in body] == ["–", "0%", "43%", "−49%", "−77%", "23%"]


def test_table_of_one_seed_has_no_errors():
    markdown = table_markdown(report(1))
    assert [row[2] for row in rows(markdown)[2:]] == ["3.78", "4.13", "3.98", "4.30", "4.40", "4.05"]
    assert "±" not in markdown


@pytest.mark.parametrize(
    "name", ["run", "parameters", "loss", "perplexity", "bits/byte", "agreement", "KL", "gap closed"]
)
def test_every_column_is_defined(name):
    assert f"- **{name}**: " in table_markdown(report())


FINDINGS = {
    "clear": (
        report(),
        [
            "Over 5 seeds, a difference (seed by seed) counts when it exceeds two standard errors.",
            "The teacher ends 0.350 ± 0.010 nats a token below",
            "Of this gap, soft closes 43% (0.150 ± 0.010) and codistill 23% (0.08 ± 0.02).",
            "hard (0.17 ± 0.02) and sequence (0.27 ± 0.03) end above scratch.",
            "soft ends lowest of the students, 0.07 ± 0.03 below codistill.",
            "Co-distillation pays here, but less than soft labels",
        ],
        ["no winner", "one seed", "One seed", "does not"],
    ),
    "no winner within noise": (
        report(codistill=4.035),
        ["Among soft and codistill the numbers name no winner.", "pays here, not measurably more or less than soft"],
        ["lowest"],
    ),
    "three without a winner": (
        report(soft=3.99, codistill=4.0, hard=4.005),
        ["soft closes", "Among soft, codistill and hard the numbers name no winner."],
        ["lowest"],
    ),
    "co-distillation ahead": (
        report(codistill=3.90),
        ["codistill ends lowest of the students, 0.08 ± 0.03 below soft.", "pays here, more than soft labels"],
        ["no winner", "does not"],
    ),
    "co-distillation within noise of scratch": (
        report(codistill=4.10),
        ["codistill cannot be told from scratch.", "Co-distillation does not measurably pay here."],
        ["codistill closes", "and codistill 9%"],
    ),
    "co-distillation behind": (
        report(codistill=4.2),
        ["codistill (0.07 ± 0.02), hard", "Co-distillation does not pay here."],
        ["pays here"],
    ),
    "nobody ahead": (
        report(soft=4.13, codistill=4.14),
        ["soft and codistill cannot be told from scratch."],
        ["closes", "lowest", "winner"],
    ),
    "errors as large as the differences": (
        report(error=0.2),
        ["does not end clearly below scratch", "soft, codistill, hard and sequence cannot be told from scratch."],
        ["closes", "lowest", "above scratch", "pays here"],
    ),
    "no gap": (
        report(teacher=4.2),
        ["there is no gap to close", "soft (0.150 ± 0.010) and codistill (0.08 ± 0.02) end below scratch."],
        ["of this gap", "Of this gap", "%"],
    ),
    "few seeds": (report(2), ["Over 2 seeds", "rough themselves with so few seeds."], []),
    "one seed": (
        report(1),
        [
            "One seed: differences have no error bars",
            "The teacher ends 0.35 nats",
            "soft closes 43% (0.15) and codistill 23% (0.08).",
            "Whether co-distillation pays, one seed cannot tell.",
        ],
        ["lowest", "winner", "standard error", "±", "pays here"],
    ),
    "one seed, co-distillation behind": (
        report(1, codistill=4.2),
        ["Co-distillation does not pay in this run."],
        ["cannot tell"],
    ),
}


@pytest.mark.parametrize("case", FINDINGS)
def test_sentences_follow_the_numbers(case):
    given, wanted, unwanted = FINDINGS[case]
    text = " ".join(findings(given))
    assert text in table_markdown(given)
    for part in wanted:
        assert part in text
    for part in unwanted:
        assert part not in text


def test_report_into_a_folder_that_refuses(monkeypatch):
    for draw in ("validation_loss_figure", "next_word_figure", "comparison_figure"):  # whoever is locked out reads none
        monkeypatch.setattr(f"minikd.report.{draw}", lambda *what, **how: bytes(100_000))
    with locked_folder() as folder:
        with pytest.raises(UserError, match=r"report\.json: cannot be written: Permission denied"):
            write_report(folder, report(), curves(), next_words())
        assert list(folder.iterdir()) == []


def test_report_into_no_folder(tmp_path, undrawn):
    with pytest.raises(UserError, match=r"report\.json: cannot be written: No such file or directory"):
        write_report(tmp_path / "gone", report(), curves(), next_words())


def test_report_on_a_full_disk_leaves_the_old_one_as_it_was(tmp_path, undrawn):
    (tmp_path / "report.json").write_text("old")
    with small_disk(), pytest.raises(UserError, match=r"validation-loss\.png: cannot be written: File too large"):
        write_report(tmp_path, report(), curves(), next_words())
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"report.json": "old"}
