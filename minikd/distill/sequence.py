"""Sequence level: a black-box teacher writes text, and the student trains on that text. Kim & Rush 2016, section 3.2.

The teacher's text is sampled instead of searched for with a beam: an open-ended text has no best continuation.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import numpy as np

from minikd.atomic import atomic_write
from minikd.distill.scratch import scratch
from minikd.errors import UserError
from minikd.models import GPT2
from minikd.models.generate import Sampling, generate
from minikd.progress import Progress
from minikd.reading import parse_json_object, reading
from minikd.text import SequenceBatches, Tokenizer, Tokens
from minikd.train import Step
from minikd.workers import Workers

PIECES_AT_ONCE = 64


def sequence(student: GPT2) -> Step:
    """The student reads the teacher's text and learns to predict it; only the text is not the one from scratch."""
    return scratch(student)


@dataclass(frozen=True)
class Piece:
    """A prompt from the training text and the teacher's continuation of it.

    `tokens` counts the continuation's; `ended`: the teacher ended the text there.
    """

    prompt: str
    continuation: str
    tokens: int
    ended: bool


def write_pieces(
    teacher: GPT2,
    tokenizer: Tokenizer,
    text: Tokens,
    *,
    n_pieces: int,
    prompt_tokens: int,
    context: int,
    seed: int,
    workers: Workers,
    quiet: bool = False,
) -> Iterator[Piece]:
    """The teacher continues `n_pieces` prompts, each `prompt_tokens` long and from a random place of the training text.

    Sampled at temperature 1: the text then follows the teacher's own distribution. Each group of prompts has random
    numbers of its own, so the pieces do not depend on the number of workers.
    """
    starts = np.random.default_rng([seed, 0]).integers(0, len(text) - prompt_tokens + 1, size=n_pieces)
    prompts = [text[start : start + prompt_tokens].tolist() for start in starts.tolist()]
    groups = [prompts[start : start + PIECES_AT_ONCE] for start in range(0, n_pieces, PIECES_AT_ONCE)]
    n_new = context + 1 - prompt_tokens

    def write(i: int) -> list[list[int]]:
        return generate(
            teacher,
            groups[i],
            n_new,
            sampling=Sampling(),
            seed=[seed, 1, i],
            stop=tokenizer.eos_id,
            vocab_size=tokenizer.vocab_size,
        )

    with Progress(total=n_pieces, description="the teacher writes", unit=" pieces", quiet=quiet) as progress:
        for start in range(0, len(groups), workers.count):
            indices = range(start, min(start + workers.count, len(groups)))
            for i, written in zip(indices, workers.map(write, indices), strict=True):
                for prompt, piece in zip(groups[i], written, strict=True):
                    yield Piece(tokenizer.decode(prompt), tokenizer.decode(piece), len(piece), len(piece) < n_new)
                progress.update(len(written))


def save_pieces(pieces: list[Piece], folder: Path) -> None:
    """Write the corpus as `corpus.txt`, to read, and as `corpus.jsonl`, a piece a line, to train on."""
    with atomic_write(folder / "corpus.txt") as file:
        file.writelines(f"{piece.prompt}{piece.continuation}\n\n" for piece in pieces)
    with atomic_write(folder / "corpus.jsonl") as file:
        file.writelines(json.dumps(asdict(piece), ensure_ascii=False) + "\n" for piece in pieces)


def load_pieces(folder: Path) -> list[Piece] | None:
    """The corpus that `save_pieces` left in `folder`, None if there is none; UserError where it is damaged."""
    path = folder / "corpus.jsonl"
    if not path.exists():
        return None
    with reading(path):
        lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
    return [_piece(line, f"{path}: line {number}") for number, line in enumerate(lines, start=1)]


def _piece(line: bytes, where: str) -> Piece:
    try:
        piece = Piece(**parse_json_object(line, where))
        if [type(value) for value in astuple(piece)] != [str, str, int, bool]:
            raise TypeError("a value of another type")
    except (UserError, TypeError) as error:
        raise UserError(f"{where}: not a piece of text; without the file the teacher writes it again") from error
    return piece


def sequence_batches(
    pieces: list[Piece], tokenizer: Tokenizer, *, batch_size: int, context: int, seed: int
) -> SequenceBatches:
    """Batches over the pieces as the student's tokenizer reads them; the prompts are not to be predicted.

    UserError when the teacher wrote nothing.
    """
    end = [tokenizer.eos_id] if tokenizer.eos_id is not None else []
    sequences, prompt_lengths = [], []
    for piece in pieces:
        prompt, continuation = tokenizer.encode(piece.prompt), tokenizer.encode(piece.continuation)
        whole = np.concatenate((prompt, continuation, end if piece.ended else [])).astype(np.int64)[: context + 1]
        if len(whole) > max(1, len(prompt)):
            sequences.append(whole)
            prompt_lengths.append(len(prompt))
    if not sequences:
        raise UserError(f"the teacher ended all its {len(pieces)} texts at once; wanted one that writes something")
    return SequenceBatches(sequences, prompt_lengths, batch_size, context, seed)
