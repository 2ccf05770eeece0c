"""The figures of a comparison, and the look that all figures of this project share.

A lesson takes the same look with `matplotlib.style.use(STYLE)` and its colours from `COLOURS`.
"""

import math
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minikd.backend import Array

if TYPE_CHECKING:  # whoever draws nothing does not wait for matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLE = Path(__file__).with_name("minikd.mplstyle")
FONT = "DejaVu Sans"

COLOURS = {
    "teacher": "#000000",
    "scratch": "#5F5F5F",
    "soft": "#0072B2",
    "hard": "#D55E00",
    "sequence": "#CC79A7",
    "codistill": "#009E73",
}
MARKERS = {"teacher": "P", "scratch": "s", "soft": "o", "hard": "^", "sequence": "v", "codistill": "D"}
MUTED, FAINT = "#5A5A5A", "#F1F1F1"
DASHES = (0, (4.5, 2))

WIDTH = 9.0  # inches: 1800 pixels, shown on 900
FARTHEST = 1.5  # nats above the best; what ends beyond is named at the edge, so that it does not flatten the rest

INVISIBLE = str.maketrans({"\n": "↵", "\r": "␍", "\t": "⇥"})


class Point(NamedTuple):
    """Validation loss, in nats a token, at a step: the mean over seeds and its standard error, None for one seed."""

    step: int
    val_loss: float
    standard_error: float | None = None


@dataclass(frozen=True)
class NextWords:
    """What each model thinks comes next in a sentence."""

    text: str
    """the sentence so far"""
    next_word: str
    """the token that follows in the corpus"""
    words: Sequence[str]
    """the teacher's K most likely next tokens, most likely first, as text"""
    probabilities: Mapping[str, Mapping[float, Sequence[float]]]
    """by model and temperature: the probabilities (K,) of `words` among all tokens of the vocabulary"""


def validation_loss_figure(curves: Mapping[str, Sequence[Point]], *, subtitle: str, chance: float) -> bytes:
    """A PNG of loss against steps, close to where they end, and of the whole course from `chance`, ln V."""
    finite = {name: [point for point in curve if math.isfinite(point.val_loss)] for name, curve in curves.items()}
    curves = {name: curve for name, curve in finite.items() if curve}
    with new_figure(5.4) as figure:
        title(figure, "Validation loss during training", subtitle)
        axes = place(figure, 0.85, 0.95, 5.5, 3.8)
        axes.set(xlabel="training steps", ylabel="validation loss (nats a token)")
        axes.grid(axis="y")
        axes.locator_params(axis="x", integer=True)
        for name, curve in curves.items():
            draw_curve(axes, name, curve)
        axes.set_xlim(0, max(curve[-1].step for curve in curves.values()))
        axes.set_ylim(loss_range(curves.values()))
        label_ends(axes, {name: curve[-1] for name, curve in curves.items()})
        if any(len(curve) > 1 for curve in curves.values()):
            draw_whole_course(place(figure, 6.7, 1.0, 2.1, 1.0), curves, chance, close_up=axes)
        return png(figure)


def loss_range(curves: Collection[Sequence[Point]]) -> tuple[float, float]:
    """Limits of a loss axis that leave the ends of the curves, but those far from the best, most of the height."""
    lowest = [min(point.val_loss - (point.standard_error or 0.0) for point in curve) for curve in curves]
    low, high = reach([(curve[-1].val_loss, curve[-1].standard_error) for curve in curves])
    low = min(low, *lowest)
    room = max(high - low, 0.02)
    return low - 0.12 * room, high + 0.7 * room


def reach(losses: Sequence[tuple[float, float | None]]) -> tuple[float, float]:
    """From the least to the largest of losses with their standard errors, without those far from the best."""
    best = min(loss for loss, _ in losses)
    near = [(loss, error or 0.0) for loss, error in losses if loss <= best + FARTHEST]
    return min(loss - error for loss, error in near), max(loss + error for loss, error in near)


def draw_curve(axes: "Axes", name: str, curve: Sequence[Point], *, width: float = 2.2) -> None:
    """A method's line, and where there are seeds a band of one standard error either side."""
    steps, losses = [point.step for point in curve], np.array([point.val_loss for point in curve])
    errors = np.array([point.standard_error or 0.0 for point in curve])
    linestyle, zorder = (DASHES, 4) if name == "teacher" else ("-", 3)
    axes.plot(steps, losses, color=COLOURS[name], linestyle=linestyle, linewidth=width, zorder=zorder)
    axes.fill_between(steps, losses - errors, losses + errors, color=COLOURS[name], alpha=0.2, linewidth=0)


def label_ends(axes: "Axes", ends: Mapping[str, Point]) -> None:
    """Name and value at the end of each line, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    line, room = 0.06 * (high - low), 0.6 * (high - low)  # above is the whole course
    where = spread([min(end.val_loss, high) for end in ends.values()], line, low, low + room)
    places = shared_places(end.standard_error for end in ends.values())
    beside = axes.get_yaxis_transform()  # x as a share of the axes, y in nats
    for (name, end), y in zip(ends.items(), where, strict=True):
        look: dict[str, Any] = {"transform": beside, "color": COLOURS[name], "clip_on": False}
        value = plus_minus(end.val_loss, end.standard_error, places)
        if end.val_loss <= high:
            axes.plot([1, 1.035], [end.val_loss, y], linewidth=1.2, **look)
            axes.plot(1, end.val_loss, MARKERS[name], zorder=5, **look)
        else:
            value = f"{value} ↑"
        axes.text(1.045, y, name, transform=beside, va="center_baseline", color=ink(name), weight="bold")
        axes.text(1.22, y, value, transform=beside, va="center_baseline")


def draw_whole_course(axes: "Axes", curves: Mapping[str, Sequence[Point]], chance: float, *, close_up: "Axes") -> None:
    """All of the curves from the start, what the close-up shows shaded."""
    for name, curve in curves.items():
        draw_curve(axes, name, curve, width=1.2)
    low, high = close_up.get_ylim()
    left, right = close_up.get_xlim()
    top = max(chance, *(point.val_loss for curve in curves.values() for point in curve))
    axes.axhspan(low, high, color=FAINT, zorder=0)
    axes.axhline(chance, color=MUTED, linewidth=1, linestyle=":")
    axes.text(right, chance, f"a blind guess: {chance:.2f}", color=MUTED, size=10, ha="right", va="top")
    axes.set(xlim=(left, right), ylim=(low, top + 0.05 * (top - low)), xticks=[])
    axes.locator_params(axis="y", nbins=3, integer=True)
    axes.set_title("the whole course", size=11, pad=4)
    axes.set_xlabel("shaded: enlarged at the left", size=10, color=MUTED, labelpad=4)


def next_word_figure(words: NextWords, *, vocab_size: int) -> bytes:
    """A PNG of next-token distributions: a row for each temperature, a column for each model."""
    n, models, temperatures = len(words.words), list(words.probabilities), list(words.probabilities["teacher"])
    left, right, top, bottom, gap = 1.3, 0.1, 1.75, 0.3, 0.62  # inches
    width, height = (WIDTH - left - right) / len(models), 0.2 * n
    with new_figure(top + len(temperatures) * (height + gap) - gap + bottom) as figure:
        title(
            figure,
            "What comes next, at temperature " + ", ".join(f"{t:g}" for t in temperatures),
            f"“{fitting(drawable(words.text), 5.9, 11, keep_end=True)}” goes on with {visible(words.next_word, 1.6)}",
            f"Probability of the teacher's {n} likeliest of {vocab_size:,} tokens; each row has a scale of its own.",
            f"Σ: the {n} together.  Black marks: the teacher's.  "
            + ("Bold: what the text goes on with." if words.next_word in words.words else ""),
        )
        for row, temperature in enumerate(temperatures):
            y = top + row * (height + gap)
            figure.text(0.02, 1 - (y - 0.08) / figure.get_figheight(), f"T = {temperature:g}", size=13, weight="bold")
            tables = {model: np.asarray(words.probabilities[model][temperature]) for model in models}
            highest = max(float(table.max()) for table in tables.values())
            for column, (name, table) in enumerate(tables.items()):
                axes = place(figure, left + column * width, y, width - 0.2, height)
                draw_bars(axes, name, table, tables["teacher"])
                axes.set(xlim=(0, 1.08 * highest), xticks=[0, round_below(0.9 * highest)])
                axes.set(ylim=(n - 0.4, -0.6), yticks=[])
                if column == 0:
                    name_words(axes, words)
                if row == 0:
                    axes.text(0, 1 + 0.36 / height, name, transform=axes.transAxes, color=ink(name), weight="bold")
        return png(figure)


def draw_bars(axes: "Axes", name: str, probabilities: Array, teacher: Array) -> None:
    """One model's probabilities (K,), their sum, and a mark at each of the teacher's."""
    where = np.arange(len(probabilities))
    axes.barh(where, probabilities, height=0.68, color=COLOURS[name])
    if name != "teacher":
        axes.vlines(teacher, where - 0.44, where + 0.44, color="black", linewidth=1.6)
    total = f"{probabilities.sum():.{0 if probabilities.sum() >= 0.095 else 1}%}"
    axes.text(0, 1.02, f"Σ {total}", transform=axes.transAxes, size=10, color=MUTED, va="bottom")
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g}" + ("%" if share else ""))
    axes.tick_params(axis="x", labelsize=10)


def name_words(axes: "Axes", words: NextWords) -> None:
    """The tokens at the left of their bars, the one that follows in bold."""
    axes.set_yticks(range(len(words.words)), [visible(word, 1.05) for word in words.words])
    axes.tick_params(axis="y", length=0)
    for label, word in zip(axes.get_yticklabels(), words.words, strict=True):
        label.set_fontweight("bold" if word == words.next_word else "normal")


def comparison_figure(runs: Sequence[Mapping[str, Any]], *, subtitle: str) -> bytes:
    """A PNG of the final losses between teacher and scratch, and of how often each student agrees with the teacher."""
    top, height = 1.1, 0.44 * len(runs)
    with new_figure(top + height + 0.72) as figure:
        title(figure, "What each method gave", subtitle)
        losses = place(figure, 1.15, top, 3.3, height)
        agreement = place(figure, 6.75, top, 1.75, height)
        draw_losses(losses, runs)
        draw_agreement(agreement, runs)
        for axes in (losses, agreement):
            axes.set(ylim=(len(runs) - 0.45, -0.55), yticks=[])
            axes.spines["left"].set_visible(False)
        for y, run in enumerate(runs):
            beside = losses.get_yaxis_transform()
            losses.text(-0.03, y, run["name"], transform=beside, ha="right", va="center", weight="bold",
                        color=ink(run["name"]))  # fmt: skip
        return png(figure)


def draw_losses(axes: "Axes", runs: Sequence[Mapping[str, Any]]) -> None:
    """A dot for each run with its standard error, a stem from scratch's loss to it, and the numbers beside them."""
    low, high = reach([(run["val_loss"], run["val_loss_se"]) for run in runs])
    room = 0.07 * max(high - low, 0.02)
    axes.set(xlim=(low - room, high + 1.5 * room), xlabel="validation loss (nats a token)\n← less is better")
    axes.locator_params(axis="x", nbins=5)
    teacher, scratch = (next(run["val_loss"] for run in runs if run["name"] == name) for name in ("teacher", "scratch"))
    axes.axvspan(teacher, scratch, color=FAINT, linewidth=0, zorder=0)
    axes.axvline(teacher, color=COLOURS["teacher"], linestyle=DASHES, linewidth=1.2)
    axes.axvline(scratch, color=COLOURS["scratch"], linewidth=1.2)
    places = shared_places(run["val_loss_se"] for run in runs)
    row, heading = axes.get_yaxis_transform(), {"size": 10, "color": MUTED}
    if teacher < scratch:
        axes.text((teacher + scratch) / 2, 1.02, "the gap", heading, transform=axes.get_xaxis_transform(), ha="center")
    axes.text(1.04, 1.02, "loss", heading, transform=axes.transAxes)
    axes.text(1.62, 1.02, "gap closed", heading, transform=axes.transAxes, ha="right")
    for y, run in enumerate(runs):
        name, loss, error = run["name"], run["val_loss"], run["val_loss_se"]
        beyond = loss > high
        shown = high + room if beyond else loss
        if name != "teacher":
            axes.plot([scratch, shown], [y, y], color=COLOURS[name], linewidth=5, alpha=0.35)
        axes.errorbar(shown, y, xerr=None if beyond else error, color=COLOURS[name], capsize=4, linewidth=1.6)
        axes.plot(shown, y, ">" if beyond else MARKERS[name], color=COLOURS[name], markersize=9, zorder=4)
        axes.text(1.04, y, plus_minus(loss, error, places), transform=row, va="center")
        axes.text(1.62, y, percent(run["gap_closed"]), transform=row, va="center", ha="right")


def draw_agreement(axes: "Axes", runs: Sequence[Mapping[str, Any]]) -> None:
    """A bar for each student: the share of tokens whose most likely successor is the teacher's too."""
    for y, run in enumerate(runs):
        share = run["agreement"]
        axes.barh(y, 100 * (share or 0.0), height=0.55, color=COLOURS[run["name"]])
        axes.text(100 * (share or 0.0) + 3, y, percent(share), va="center")
    axes.set(xlim=(0, 100), xticks=[0, 50, 100], xlabel="agreement with the teacher\n(same first choice, % of tokens)")


@contextmanager
def new_figure(height: float) -> Iterator["Figure"]:
    """A figure `height` inches high in the project's look, whatever the user's own settings of matplotlib are."""
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.style.context(STYLE, after_reset=True):
        figure = Figure(figsize=(WIDTH, height))
        FigureCanvasAgg(figure)
        yield figure


def png(figure: "Figure") -> bytes:
    """The figure as a PNG, whose bytes depend on the figure alone."""
    file = BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def title(figure: "Figure", text: str, *lines: str) -> None:
    """A title at the upper left, and lines below it."""
    top, inch = 0.12, 1 / figure.get_figheight()
    figure.text(0.02, 1 - top * inch, text, size=15, weight="bold", va="top")
    for i, line in enumerate(lines):
        y = 1 - (top + 0.32 + 0.22 * i) * inch
        figure.text(0.02, y, fitting(drawable(line), 0.96 * WIDTH, 11), color=MUTED, va="top")


def place(figure: "Figure", left: float, top: float, width: float, height: float) -> "Axes":
    """Axes at a place given in inches from the upper left corner."""
    inch = 1 / figure.get_figheight()
    return figure.add_axes((left / WIDTH, 1 - (top + height) * inch, width / WIDTH, height * inch))


def ink(name: str) -> tuple[float, ...]:
    """A method's colour, dark enough for text on white."""
    from matplotlib.colors import to_rgb

    return tuple(0.8 * channel for channel in to_rgb(COLOURS[name]))


def spread(values: Sequence[float], gap: float, low: float, high: float) -> Array:
    """Places at least `gap` apart, in the order of `values` and as near to them as least squares goes, inside limits.

    With y_i = place_i - i * gap the places are apart when y rises: an isotonic regression, by pooling neighbours.
    """
    order = np.argsort(values, kind="stable")
    pools: list[tuple[float, int]] = []  # mean and size
    for rank, value in enumerate(np.asarray(values)[order]):
        mean, size = float(value) - rank * gap, 1
        while pools and pools[-1][0] > mean:
            other, n = pools.pop()
            mean, size = (mean * size + other * n) / (size + n), size + n
        pools.append((mean, size))
    rising = np.concatenate([np.full(size, mean) for mean, size in pools])
    places = np.empty(len(order))
    places[order] = np.clip(rising, low, high - (len(order) - 1) * gap) + gap * np.arange(len(order))
    return places


def percent(share: float | None) -> str:
    """A share in whole percent; a dash for none."""
    return "–" if share is None else f"{share:.0%}".replace("-", "−").replace("−0%", "0%")


def plus_minus(value: float, standard_error: float | None, places: int) -> str:
    """A number with its standard error, if there is one."""
    return f"{value:.{places}f}" + ("" if standard_error is None else f" ± {standard_error:.{places}f}")


def shared_places(standard_errors: Iterable[float | None]) -> int:
    """Decimal places for a column of losses: one digit of the least error, two where the first is a 1; from 2 to 4."""
    least = min((error for error in standard_errors if error), default=1.0)
    return min(max(math.ceil(-math.log10(least / 2) - 1e-9), 2), 4)


def round_below(value: float) -> float:
    """The largest of 1, 2, 5, 10, 20 ... times a power of ten that is not above a positive value."""
    power = 10.0 ** math.floor(math.log10(value))
    return max(digit * power for digit in (1, 2, 5) if digit * power <= value)


def visible(token: str, inches: float) -> str:
    """A token that can be told from its neighbours: white space shown, and cut to a width."""
    return fitting(drawable(token.replace(" ", "␣")), inches, 11)


def drawable(text: str) -> str:
    """The text with a sign for each line break or tab, and a box for each character that the font cannot show."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont(FONT))
    text = text.translate(INVISIBLE)
    return "".join(c if c.isprintable() and font.get_char_index(ord(c)) else "□" for c in text)


def fitting(text: str, inches: float, size: float, *, keep_end: bool = False) -> str:
    """As much of the text, from its start or its end, as fits into `inches` at a font size; an ellipsis where cut."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont(FONT))
    font.set_size(size, 72)

    def cut(n: int) -> str:
        return text if n >= len(text) else "…" + text[-n:] if keep_end else text[:n] + "…"

    def too_wide(n: int) -> bool:
        font.set_text(cut(n))
        return font.get_width_height()[0] / 64 > 72 * inches  # FreeType counts in 64ths of a pixel

    lengths = range(1, min(len(text), int(40 * inches)) + 1)
    return cut(max(bisect_left(lengths, True, key=too_wide), 1))
