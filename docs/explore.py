"""Write the logits that the page "Explore" computes with; `python -m docs` calls this.

The models are the lessons', from runs/lessons in the current folder; what is missing there is trained first.
"""

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from minikd.atomic import atomic_write
from minikd.classroom import TEACHER, data, trained
from minikd.figures import COLOURS
from minikd.models import GPT2
from minikd.text.tokenizer import Tokenizer

FILE = Path(__file__).parent / "_static" / "explore-data.js"
SENTENCE = re.compile(rb"(?<=\s\s)[A-Z][a-z]+(?:,?\s+[a-z]+){5,}\.")
LENGTHS = range(16, 25)  # in tokens


def models() -> dict[str, tuple[GPT2, float]]:
    """The teacher and the students, each with its loss on the validation text."""
    teacher = trained(model=TEACHER)
    runs = {
        "teacher": teacher,
        "scratch": trained(),
        "soft": trained("soft", teacher=teacher),
        "hard": trained("hard", teacher=teacher),
        "codistill": trained("codistill"),
    }
    return {name: (run.model, run.val_loss) for name, run in runs.items()}


def sentence(tokens: np.ndarray, token_bytes: list[bytes]) -> slice:
    """Where the first sentence of fitting length lies among `tokens` (N,); if there is none, the first tokens."""
    spelled = [token_bytes[i] for i in tokens]
    starts = np.cumsum([0, *map(len, spelled)])
    for found in SENTENCE.finditer(b"".join(spelled)):
        first, last = (np.searchsorted(starts, place, side="right") - 1 for place in (found.start(), found.end() - 1))
        if last + 1 - first in LENGTHS:
            return slice(int(first), int(last) + 1)
    return slice(0, LENGTHS[0])


def spelling(tokenizer: Tokenizer) -> list[str]:
    """Each token as text; bytes that are no character by themselves as <E2>."""
    spelled = [token.decode(errors="surrogateescape") for token in tokenizer.token_bytes]
    spelled = [re.sub("[\udc80-\udcff]", lambda byte: f"<{ord(byte[0]) - 0xDC00:02X}>", token) for token in spelled]
    return [token or tokenizer.decode([i]) for i, token in enumerate(spelled)]


def exported() -> dict[str, Any]:
    """What the page needs: the sentence with what stands before it, the vocabulary, each model's logits (N, V)."""
    tokenizer, validation = data().tokenizer, data().validation
    found = models()
    room = found["teacher"][0].config.n_positions
    where = sentence(validation[:], tokenizer.token_bytes)
    first = max(0, where.stop - room)
    read, following = validation[first : where.stop], int(validation[where.stop : where.stop + 1][0])
    n = where.stop - where.start
    return {
        "before": tokenizer.decode(read[:-n]),
        "tokens": read[-n:].tolist(),
        "following": following,
        "vocabulary": spelling(tokenizer),
        "models": [
            {"name": name, "colour": COLOURS[name], "loss": loss, "logits": packed(model.predict(read[None])[0, -n:])}
            for name, (model, loss) in found.items()
        ],
    }


def packed(logits: np.ndarray) -> str:
    """Float32, little-endian, row by row, in base64."""
    return base64.b64encode(logits.astype("<f4").tobytes()).decode()


def main() -> None:
    """Write the file."""
    print("explore: the lessons' models, from runs/lessons; those that are missing are trained now, in minutes")
    content = json.dumps(exported(), ensure_ascii=True, separators=(",", ":"))
    with atomic_write(FILE) as file:
        file.write(f"const EXPLORE = {content};\n")


if __name__ == "__main__":
    main()
