"""What the lessons share: claims that are checked in sight, and figures that are kept."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minikd.atomic import atomic_write
from minikd.figures import STYLE, WIDTH, png

if TYPE_CHECKING:  # whoever draws nothing does not wait for matplotlib
    from matplotlib.figure import Figure

FOLDER = Path("runs/lessons")
CHECKS = "MINIKD_LESSON_CHECKS"  # the environment variable with the file that all checks are recorded in, if any
LOOK = {"text.parse_math": True, "figure.constrained_layout.w_pad": 0.1, "figure.constrained_layout.h_pad": 0.1}


def check(claim: str, value: Any, wanted: Any = 0.0, *, within: float = 0.0) -> None:
    """Print a claim beside what was measured; AssertionError, which ends the lesson, if the claim is false.

    True is a truth value that is true (of an array: every entry), or a number or array that is nowhere further than
    `within` from `wanted`, which is a number or an array of the same shape; NaN is never true. ValueError: `wanted`
    has another shape.
    """
    value, wanted = np.asarray(value), np.asarray(wanted)
    if wanted.shape not in ((), value.shape):
        raise ValueError(f"wanted has shape {wanted.shape}, value {value.shape}; wanted the same, or one number")
    if value.dtype == bool:
        holds, measured = bool(value.all()), ""
    else:
        with np.errstate(invalid="ignore"):
            off = float(np.abs(value - wanted).max())
        holds = bool(off <= within)
        found = f"{value:.6g}, " if value.ndim == 0 else ""
        measured = f"   [{found}off by {off:.1e}; claimed: at most {within:g}]"
    line = f"{'holds' if holds else 'FALSE'}: {claim}{measured}"
    print(line)
    if CHECKS in os.environ:
        with open(os.environ[CHECKS], "a", encoding="utf-8") as file:
            file.write(json.dumps({"claim": claim, "holds": holds, "measured": measured}) + "\n")
    if not holds:
        raise AssertionError(line)


@contextmanager
def figure(name: str, height: float = 4.0) -> Iterator["Figure"]:
    """A figure in the project's look, `height` inches high, that becomes runs/lessons/NAME.png when the block ends.

    It is also shown where somebody looks on: in a notebook, and in a window if the lesson runs in a terminal with a
    screen, where the lesson goes on once the window is closed.
    """
    import matplotlib.pyplot as plt
    import matplotlib.style

    with matplotlib.style.context([STYLE, LOOK], after_reset=True):
        drawn = plt.figure(figsize=(WIDTH, height), layout="constrained")
        yield drawn
        picture = png(drawn)
        FOLDER.mkdir(parents=True, exist_ok=True)
        with atomic_write(FOLDER / f"{name}.png", binary=True) as file:
            file.write(picture)
        print(f"figure: {FOLDER / name}.png")
        if "ipykernel" in sys.modules:
            from IPython.display import Image, display

            display(Image(picture, width=900))
        elif sys.stdout.isatty() and drawn.canvas.required_interactive_framework:
            plt.show()
        plt.close(drawn)
