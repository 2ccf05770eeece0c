"""Write the page about the losses' accuracy from what `benchmarks.accuracy` measured: `python -m docs.accuracy`."""

import json
from pathlib import Path
from typing import Any

from minikd.atomic import atomic_write
from tests.losses.reference import DEMANDS, SMALLEST

PAGE = Path(__file__).with_name("accuracy.md")
MEASURED = Path(__file__).parents[1] / "benchmarks" / "results" / "accuracy.json"

INTRODUCTION = """\
# How accurate the losses are

Each loss was held against mpmath on {difficult:,} cases, in up to 450 digits: 1 to 50,257 classes, logits from 1e-6
(and less) to 1e4 apart, temperatures from 0.05 to 100; near-equal, one-hot, disjoint and tied distributions, nearly all
mass on one entry, a quarter of the cases with -inf on either side or both. `python -m benchmarks.accuracy` measures it.

Beside minikd stand PyTorch's functions put together in the usual way (`kl_div` of `log_softmax`, mixtures by
`logaddexp`), and the losses of other libraries
(torchtune's compute in float32 only). Their gradients are those that PyTorch takes. The cases are chosen to
be difficult, so this says where a loss can be relied on, and not what happens in ordinary training: for that see the
last table.

- **median**, **worst**: relative error of the value, and of the gradient (L2), where the true one is above
  {smallest64} (float32: {smallest32}).
- **too large**: errors above what is asked of minikd, {demand64} in float64 and {demand32} in float32.
- **negative**: values below 0, which no divergence is.
- **no number**: NaN, or an infinity in the wrong place, in the value or in a gradient that exists.

Measured with {versions}.

"""

HEADINGS = (
    ("loss", "", "value: median", "worst", "too large"),
    ("gradient: median", "worst", "too large", "negative", "no number"),
)

ORDINARY = """\
## Ordinary logits

The worst errors on {n} cases of 1,000 classes, logits of 3 times a normal distribution, T = 2.

"""

LOST = """\
## Where minikd loses digits

{misses}

Two things are known to come out worse, and are not among the cases above. Where each side lacks an entry that the other
has and all others agree up to 1e-13, float64 knows the differences of these others to three digits. No divergence as a
whole depends on that, but the slope of `total_variation` does there, if the difference is below 1e-15 (it counts as 0),
and the first part of `decoupled_kd` alone (beta = 0) with such an entry as the label. The gradients of
`total_variation` and `universal_logit_distance` are judged where float64 can tell which of two probabilities is larger.
"""


def page(report: dict[str, Any]) -> str:
    """The page about a report."""
    difficult, ordinary = (report["losses"][which] for which in ("difficult", "ordinary"))
    text = INTRODUCTION.format(
        difficult=report["cases"]["difficult"],
        smallest64=power(SMALLEST["float64"]),
        smallest32=power(SMALLEST["float32"]),
        demand64=power(DEMANDS["float64"]),
        demand32=power(DEMANDS["float32"]),
        versions=", ".join(f"{name} {number}" for name, number in report["versions"].items()),
    )
    for dtype in difficult:
        text += f"## {dtype}\n\n{table([*HEADINGS[0], *HEADINGS[1]], rows(difficult[dtype]))}\n"
    text += ORDINARY.format(n=report["cases"]["ordinary"])
    text += table(
        ["loss", "", *(f"{d}: {w}" for d in ordinary for w in ("value", "gradient"))], ordinary_rows(ordinary)
    )
    return f"{text}\n{LOST.format(misses=misses(difficult))}"


def rows(losses: dict[str, Any]) -> list[list[str]]:
    """One for each loss and library."""
    return [
        [
            f"`{loss}`",
            library,
            *(cell for what in ("value", "gradient") for cell in errors(summary[what])),
            str(summary["negative"]),
            str(summary["not_a_number"]),
        ]
        for loss, of_loss in losses.items()
        for library, summary in of_loss.items()
    ]


def errors(found: dict[str, Any]) -> list[str]:
    """Median, worst, and how many are too large."""
    return [power(found["median"]), power(found["worst"]), f"{found['too_large']} of {found['cases']:,}"]


def ordinary_rows(losses: dict[str, Any]) -> list[list[str]]:
    """One for each loss and library: the worst errors of value and gradient, by type of number."""
    first, *_ = losses.values()
    return [
        [f"`{loss}`", library]
        + [
            power(of_dtype[loss][library][what]["worst"])
            for of_dtype in losses.values()
            for what in ("value", "gradient")
        ]
        for loss, of_loss in first.items()
        for library in of_loss
    ]


def misses(losses: dict[str, Any]) -> str:
    """Whether minikd keeps what is asked of it in all cases."""
    missed = [
        f"- `{loss}`, {dtype}, {what}: {own['too_large']} of {own['cases']:,} cases, the worst {power(own['worst'])}"
        for dtype, of_dtype in losses.items()
        for loss, of_loss in of_dtype.items()
        for what in ("value", "gradient")
        if (own := of_loss["minikd"][what])["too_large"]
    ]
    return "\n".join(missed) if missed else "In none of these cases."


def table(headings: list[str], cells: list[list[str]]) -> str:
    """As Markdown."""
    lines = [headings, ["---"] * len(headings), *cells]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def power(x: Any) -> str:
    """A number as people write it here: 1e-12; errors from 1 on are only that."""
    return f"{float(x):.0e}".replace("e-0", "e-") if 0 < x < 0.95 else "≥ 1" if x else "0"


def main() -> None:
    """Write the page."""
    with atomic_write(PAGE) as file:
        file.write(page(json.loads(MEASURED.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
