"""The command line on a text and models so small that a run takes a fraction of a second."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from minikd.cli import main
from minikd.model_folder import save_model
from minikd.models import GPT2Config, init_gpt2
from minikd.text import Tokenizer

VOCAB_SIZE, CONTEXT = 280, 16
TRAINING = {"context": CONTEXT, "batch_size": 4, "warmup_steps": 2, "threads": 2}
SIZES = {"n_layer": 1, "n_head": 2, "n_embd": 16}


def train(**options: object) -> list[str]:
    """The command line of a tiny training in the folder `out`, with these options changed, added or (None) left out."""
    return ["train", *spelled({"out": "out", "vocab_size": VOCAB_SIZE} | SIZES | TRAINING | options)]


def distill(**options: object) -> list[str]:
    """The command line of a tiny distillation in the folder `out`."""
    return ["distill", *spelled({"out": "out"} | SIZES | TRAINING | options)]


def spelled(options: dict[str, object]) -> list[str]:
    """Options as on a command line."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value is not None]


def command(*argv: object) -> int:
    """Run a command in this process; its exit code."""
    return main([str(argument) for argument in argv])


def start(*argv: object, **options) -> subprocess.Popen:
    """Start a command in a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "minikd", *map(str, argv)], **options)


def write_text(path: Path, n_words: int = 1200) -> Path:
    """A few kilobytes of made-up words in lines, always the same."""
    rng = np.random.default_rng(7)
    syllables = ["ba", "de", "fi", "go", "lu", "ma", "né", "ro", "su", "ti"]
    lexicon = ["".join(rng.choice(syllables, size=rng.integers(1, 4))) for _ in range(60)]
    words = rng.choice(lexicon, size=n_words)
    lines = [" ".join(words[i : i + 8]) + ".\n" for i in range(0, n_words, 8)]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def write_model(
    folder: Path, text: Path, vocab_size: int = VOCAB_SIZE, tokenizer: Tokenizer | None = None, **sizes: int
) -> Path:
    """A model folder with initial weights, whose tokenizer is of the text unless another is given."""
    tokenizer = tokenizer or Tokenizer.train([text.read_text(encoding="utf-8")], vocab_size)
    sizes = {"n_positions": CONTEXT, "n_layer": 1, "n_head": 2, "n_embd": 16, "vocab_size": vocab_size} | sizes
    config = GPT2Config(**sizes)
    save_model(folder, config, init_gpt2(config, np.random.default_rng(3)), tokenizer)
    return folder
