"""What a comparison gave: numbers for programs, a table with what it says in plain words, and the figures."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minikd.atomic import atomic_write
from minikd.errors import UserError
from minikd.figures import (
    NextWords,
    Point,
    comparison_figure,
    next_word_figure,
    percent,
    plus_minus,
    shared_places,
    validation_loss_figure,
)
from minikd.reading import read_json_object

FILES = ("report.json", "validation-loss.png", "next-word.png", "comparison.png", "report.md")

Run = Mapping[str, Any]

COLUMNS = {
    "run": "who was trained, and how",
    "parameters": "trained parameters",
    "loss": "mean cross-entropy on the validation text, in nats a token; less is better",
    "perplexity": "exp(loss): as uncertain as a choice between so many equally likely tokens",
    "bits/byte": "the loss in bits a byte of the text, which does not depend on the tokenizer",
    "agreement": "share of the validation tokens for which student and teacher have the same first choice",
    "KL": "KL(teacher ‖ student) on the validation text at temperature 1, in nats a token",
    "gap closed": "(scratch − student) / (scratch − teacher), in losses: 0% is scratch, 100% the teacher",
    "tokens/s": "tokens trained on in a second, with everything that the method does at a step",
    "label bytes": "bytes a token that storing the teacher's labels would take",
}


def write_report(out: Path, report: Mapping[str, Any], curves: Mapping[str, Sequence[Point]], words: NextWords) -> None:
    """Write report.json, report.md and three figures into the folder `out`, all of them or none.

    `report` is what report.json shall hold; a number that is not finite becomes null. Each run's `val_losses`, one for
    each of the `seeds`, are what differences are taken from. `curves` are the runs' validation losses during training.
    UserError: `out` cannot be written to.
    """
    report = plain(report)
    subtitle = describe(report)
    chance = math.log(report["vocab_size"])
    contents = (
        (json.dumps(report, indent=2, allow_nan=False) + "\n").encode(),
        validation_loss_figure(curves, subtitle=subtitle, chance=chance),
        next_word_figure(words, vocab_size=report["vocab_size"]),
        comparison_figure(report["runs"], subtitle=subtitle),
        report_markdown(report).encode(),
    )
    with ExitStack() as all_or_none:  # the first takes its name last: where there is a report.json, there is all of it
        for name, data in zip(FILES, contents, strict=True):
            file = all_or_none.enter_context(atomic_write(out / name, binary=True))
            file.write(data)
            file.flush()


def has_report(out: Path) -> bool:
    """Whether a comparison's whole report lies in `out`."""
    try:
        return "runs" in read_json_object(out / FILES[0]) and all((out / name).exists() for name in FILES)
    except UserError:
        return False


def report_markdown(report: Mapping[str, Any]) -> str:
    """The whole report as a page: table, what it says, figures, settings."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return "\n".join(
        [
            f"# What distillation gave on {report['corpus']}",
            "",
            f"Vocabulary {report['vocab_size']:,} tokens; {seeds_text(report)}; {report['device']}; {versions}.",
            "",
            table_markdown(report),
            "![Validation loss against training steps for each method](validation-loss.png)",
            "",
            "![Final validation loss and agreement with the teacher for each method](comparison.png)",
            "",
            "![The next-word distributions of the teacher and of each student at three temperatures](next-word.png)",
            "",
            "## Settings",
            "",
            "```json",
            json.dumps(report["settings"], indent=2, ensure_ascii=False),
            "```",
            "",
        ]
    )


def table_markdown(report: Mapping[str, Any]) -> str:
    """The runs as a Markdown table, what it says in plain words, and what each column means."""
    places = shared_places(run["val_loss_se"] for run in report["runs"])
    rows = [list(COLUMNS), ["---"] + ["---:"] * (len(COLUMNS) - 1), *(cells(run, places) for run in report["runs"])]
    table = ["| " + " | ".join(row) + " |" for row in rows]
    meanings = [f"- **{name}**: {meaning}." for name, meaning in COLUMNS.items()]
    error = [] if report["seeds"] == 1 else ["- **±**: one standard error of the mean over the seeds."]
    return "\n".join([*table, "", " ".join(findings(report)), "", *meanings, *error, ""])


def cells(run: Run, places: int) -> list[str]:
    """One run's row of the table."""
    agreement = run["agreement"]
    return [
        run["name"],
        f"{run['parameters']:,}",
        plus_minus(run["val_loss"], run["val_loss_se"], places),
        digits(run["perplexity"]),
        number(run["bits_per_byte"], ".3f"),
        "–" if agreement is None else f"{agreement:.1%}",
        number(run["kl_to_teacher"], ".3f"),
        percent(run["gap_closed"]),
        digits(run["tokens_per_second"]),
        digits(run["label_bytes_per_token"]),
    ]


def findings(report: Mapping[str, Any]) -> list[str]:
    """What the losses say, in sentences; a difference counts when it exceeds two standard errors."""
    runs = {run["name"]: run for run in report["runs"]}
    teacher, scratch = runs.pop("teacher"), runs.pop("scratch")
    students = sorted(runs.values(), key=lambda run: run["val_loss"])
    gap = Gain.of(teacher, scratch)
    if report["seeds"] == 1:
        weight = "One seed: differences have no error bars, and another seed may order the methods differently."
        ranking = []
    else:
        weight = f"Over {report['seeds']} seeds, a difference (seed by seed) counts when it exceeds two standard errors"
        weight += "." if report["seeds"] > 3 else ", which are rough themselves with so few seeds."
        ranking = [ranking_sentence(students)] if Gain.of(students[0], scratch).sign > 0 else []
    if gap.sign > 0:
        the_gap = f"The teacher ends {gap} nats a token below the student that learned from the text alone (scratch)."
    else:
        the_gap = (
            "The teacher does not end clearly below scratch: there is no gap to close, and its column says nothing."
        )
    return [
        weight,
        the_gap,
        *student_sentences(students, scratch, with_share=gap.sign > 0),
        *ranking,
        codistillation_sentence(runs, scratch, one_seed=report["seeds"] == 1),
    ]


class Gain(NamedTuple):
    """By how much one loss is below another, in nats, and the standard error of that; None with one seed."""

    value: float
    standard_error: float | None

    @classmethod
    def of(cls, run: Run, other: Run) -> "Gain":
        """How far `run` is below `other`, seed by seed: what a seed does to both of them is no error."""
        gains = np.subtract(other["val_losses"], run["val_losses"])
        return cls(float(gains.mean()), float(gains.std(ddof=1) / math.sqrt(gains.size)) if gains.size > 1 else None)

    @property
    def sign(self) -> int:
        """1: below, -1: above, 0: within two standard errors, which nobody should call either."""
        return 0 if abs(self.value) <= 2 * (self.standard_error or 0.0) else int(math.copysign(1, self.value))

    def __str__(self) -> str:
        if self.standard_error is None:
            return f"{abs(self.value):.2g}"
        return plus_minus(abs(self.value), self.standard_error, shared_places([self.standard_error]))


def student_sentences(students: Sequence[Run], scratch: Run, *, with_share: bool) -> list[str]:
    """Who ended below scratch, who cannot be told from it, who ended above."""
    gains = {run["name"]: Gain.of(run, scratch) for run in students}
    below, same, above = ([name for name, gain in gains.items() if gain.sign == sign] for sign in (1, 0, -1))
    closed = {run["name"]: percent(run["gap_closed"]) for run in students}
    sentences = []
    if below and with_share:
        shares = [f"{name}{'' if i else ' closes'} {closed[name]} ({gains[name]})" for i, name in enumerate(below)]
        sentences.append(f"Of this gap, {listed(shares)}")
    elif below:
        sentences.append(f"{listed(f'{name} ({gains[name]})' for name in below)} {end(below)} below scratch")
    if same:
        sentences.append(f"{listed(same)} cannot be told from scratch")
    if above:
        sentences.append(f"{listed(f'{name} ({gains[name]})' for name in above)} {end(above)} above scratch")
    return [f"{sentence}." for sentence in sentences]


def ranking_sentence(students: Sequence[Run]) -> str:
    """Which student is best, or that this cannot be said."""
    best, *others = students
    tied = [run["name"] for run in others if Gain.of(best, run).sign == 0]
    if tied:
        return f"Among {listed([best['name'], *tied])} the numbers name no winner."
    return f"{best['name']} ends lowest of the students, {Gain.of(best, others[0])} below {others[0]['name']}."


def codistillation_sentence(runs: Mapping[str, Run], scratch: Run, *, one_seed: bool) -> str:
    """Whether it paid to distil from a teacher that was still learning."""
    gain = Gain.of(runs["codistill"], scratch)
    if gain.sign <= 0:
        measurably = "" if one_seed or gain.sign else "measurably "
        return f"Co-distillation does not {measurably}pay {'in this run' if one_seed else 'here'}."
    if one_seed:
        return "Whether co-distillation pays, one seed cannot tell."
    against_soft = {1: "more than", 0: "not measurably more or less than", -1: "but less than"}
    comparison = against_soft[Gain.of(runs["codistill"], runs["soft"]).sign]
    return f"Co-distillation pays here, {comparison} soft labels of a finished teacher."


def listed(items: Iterable[str]) -> str:
    """a, b and c."""
    *most, last = items
    return f"{', '.join(most)} and {last}" if most else last


def end(names: Sequence[str]) -> str:
    """The verb for so many."""
    return "ends" if len(names) == 1 else "end"


def describe(report: Mapping[str, Any]) -> str:
    """The figures' second line: which text, how many seeds, how large the models."""
    sizes = {run["name"]: f"{run['parameters'] / 1e6:.2f} M" for run in report["runs"]}
    spread = "" if report["seeds"] == 1 else " (mean ± one standard error)"
    return (
        f"{report['corpus']}, {seeds_text(report)}{spread}; "
        f"teacher {sizes['teacher']} parameters, students {sizes['scratch']}"
    )


def seeds_text(report: Mapping[str, Any]) -> str:
    """The number of seeds in words."""
    return "one seed" if report["seeds"] == 1 else f"{report['seeds']} seeds"


def number(value: float | None, form: str) -> str:
    """A formatted number, a dash for none."""
    return "–" if value is None else format(value, form)


def digits(value: float | None) -> str:
    """Three significant digits, whole numbers in full; a dash for none."""
    if value is None:
        return "–"
    if value >= 1e9:
        return f"{value:.2e}"
    if value == int(value):
        return f"{int(value):,}"
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"


def plain(value: Any) -> Any:
    """What JSON can hold: Python's numbers for NumPy's, text for paths, None for a number that is not finite."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
