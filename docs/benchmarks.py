"""Write the page about speed and memory from what `python -m benchmarks` measured; `python -m docs` calls this."""

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from minikd.atomic import atomic_write

PAGE = Path(__file__).with_name("benchmarks.md")
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
MEASURED = (RESULTS / "cpu.json", RESULTS / "cpu-losses.json")

MIB = 1024 * 1024
BUSY = 0.1  # cores; more work beside the two sides than this distorts a ratio

INTRODUCTION = """\
# How fast minikd is

`python -m benchmarks` measures minikd against PyTorch (eager): each in a process of its own, taking turns, with the
same weights and the same batches, in float32. [What is measured, and why](index.md#speed), says the README.

- **tokens/s**: read by a step of training, or written by a generation; the median of the rounds.
- **ratio**: the time of minikd over the time of PyTorch; above 1, minikd is slower. The median of the rounds, and their
  range. **aim**: what was meant to be reached, where something was.
- **peak**: the most memory that the process held, its libraries included, in MiB (1,048,576 bytes).
- **difference**: how far the losses of the two sides, or the tokens they write, are apart at most, relative to their
  size.

Sizes: tiny is 2 layers of 64 channels, vocabulary 512, 8 sequences of 64 tokens; lesson 4 of 128, 2,048, 16 of 128;
small 6 of 384, 8,192, 8 of 256. 32k and 128k are vocabularies of 32,768 and 128,256: the output projection with a loss
and all gradients, 2,048 tokens, a student of 256 channels and a teacher of 512, against PyTorch with all logits at once
(whole) and in blocks of 256 tokens (blocks). The loss is a divergence at T = 1, hard labels, or Hinton's mix of both.
"""

SECTION = """
## {sizes}: {threads} {unit}

{cpu}, {cores} cores, {system}; Python {python}, {versions}. {rounds} rounds.

{table}"""

HEADINGS = [
    "size",
    "task",
    "tokens/s: PyTorch",
    "minikd",
    "ratio",
    "range",
    "aim",
    "peak MiB: PyTorch",
    "minikd",
    "difference",
]


def page(reports: Iterable[dict[str, Any]]) -> str:
    """The page about these reports."""
    return INTRODUCTION + "".join(map(section, reports))


def section(report: dict[str, Any]) -> str:
    """Where and with what a report was measured, and its table."""
    threads = report["threads"]
    rows = [HEADINGS, ["---"] * 2 + ["---:"] * (len(HEADINGS) - 2), *map(row, report["cases"])]
    text = SECTION.format(
        sizes=", ".join(dict.fromkeys(case["size"] for case in report["cases"])),
        threads=threads,
        unit="thread" if threads == 1 else "threads each",
        rounds=report["rounds"],
        versions=versions(report["cases"][0]["info"]),
        table="".join("| " + " | ".join(cells) + " |\n" for cells in rows),
        **report["machine"],
    )
    busy = [f"{case['size']} {case['task']}" for case in report["cases"] if distorted(case)]
    return text + (f"\nOther work kept more than {BUSY} cores busy during: {', '.join(busy)}.\n" if busy else "")


def row(case: dict[str, Any]) -> list[str]:
    """One line of the table."""
    ratio, goal = case["ratio"], case["goal"]
    rate = {side: case["tokens_per_step"] / median(seconds) for side, seconds in case["seconds_per_step"].items()}
    peak = {side: (held["device_peak_bytes"] or held["peak_bytes"]) / MIB for side, held in case["memory"].items()}
    return [
        case["size"],
        case["task"],
        *(f"{rate[side]:,.0f}" for side in ("torch", "minikd")),
        f"**{ratio['median']:.2f}**",
        f"{ratio['min']:.2f}–{ratio['max']:.2f}",
        f"{goal:.2f}" if goal else "",
        *(f"{peak[side]:,.0f}" for side in ("torch", "minikd")),
        f"{case['largest_difference']:.0e}".replace("e-0", "e-") if case["largest_difference"] else "0",
    ]


def versions(info: dict[str, Any]) -> str:
    """What both sides computed with."""
    blas = info["minikd"]["blas"]
    return f"PyTorch {info['torch']['torch']}, NumPy {info['minikd']['numpy']} with {blas['name']} {blas['version']}"


def distorted(case: dict[str, Any]) -> bool:
    """Whether others computed too."""
    elsewhere = [cores for cores in case["cores_busy_elsewhere"] if cores is not None]
    return bool(elsewhere) and median(elsewhere) > BUSY


def main() -> None:
    """Write the page."""
    with atomic_write(PAGE) as file:
        file.write(page(json.loads(path.read_text(encoding="utf-8")) for path in MEASURED))


if __name__ == "__main__":
    main()
