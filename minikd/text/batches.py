"""Batches: what a model reads and what it should say next. The shift between the two is here and nowhere else."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from minikd.backend import Array
from minikd.errors import UserError

NOT_COUNTED = -100  # the label of a position that does not count


class Tokens(Protocol):
    """Token ids (N,) in memory or on the disk: an array or a `TokenFile`."""

    def __len__(self) -> int: ...
    def __getitem__(self, window: slice, /) -> Array: ...


@dataclass(frozen=True, eq=False)
class Batch:
    """inputs (B, T) and targets (B, T), int64 on the host: targets[b, t] is the token that follows inputs[b, t].

    A target of -100 does not count.
    """

    inputs: Array
    targets: Array

    @classmethod
    def of(cls, rows: Array, counted: Array | None = None) -> "Batch":
        """The batch over rows of consecutive tokens (B, T + 1); `counted` (B, T + 1) says which are to be predicted."""
        targets = rows[:, 1:].astype(np.int64)
        if counted is not None:
            targets[~counted[:, 1:]] = NOT_COUNTED
        return cls(rows[:, :-1].astype(np.int64), targets)

    @cached_property
    def counted(self) -> Array:
        """Which positions count, (B, T) boolean."""
        return self.targets != NOT_COUNTED

    @cached_property
    def count(self) -> int:
        """Number of positions that count."""
        return int(self.counted.sum())

    def split(self, n: int) -> list["Batch"]:
        """Contiguous parts over B, as equal as can be: `n` of them, or B where that is less."""
        n = min(n, len(self.inputs))
        pairs = zip(np.array_split(self.inputs, n), np.array_split(self.targets, n), strict=True)
        return [Batch(inputs, targets) for inputs, targets in pairs]


class Batches:
    """Batches of windows of `context` tokens at random places of a text: `batches(step)`.

    The places are uniform and depend on (seed, step) alone. Raises UserError when the text is shorter than one window
    and the token after it.
    """

    def __init__(self, tokens: Tokens, batch_size: int, context: int, seed: int) -> None:
        _check_sizes(batch_size, context, seed)
        if len(tokens) < context + 1:
            raise UserError(
                f"the training text has {len(tokens)} tokens, too few for a context of {context}; "
                f"wanted at least {context + 1} tokens, or a shorter context"
            )
        self.tokens, self.batch_size, self.context, self.seed = tokens, batch_size, context, seed

    def __call__(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, step])
        starts = rng.integers(0, len(self.tokens) - self.context, size=self.batch_size)
        return Batch.of(np.stack([self.tokens[start : start + self.context + 1] for start in starts]))


class SequenceBatches:
    """Batches of whole sequences, each a prompt and what was written in answer to it: `batches(step)`.

    sequences: token ids (N,) each, at most context + 1 of them; prompt_lengths: how many at the start of each are not
    to be predicted. Short ones are padded on the right up to `context`; prompt and padding do not count. The choice
    (with replacement) depends on (seed, step) alone. Raises ValueError when a sequence is too long or has nothing to
    predict.
    """

    def __init__(
        self, sequences: Sequence[Array], prompt_lengths: Sequence[int], batch_size: int, context: int, seed: int
    ) -> None:
        _check_sizes(batch_size, context, seed)
        if not len(sequences) or len(sequences) != len(prompt_lengths):
            raise ValueError(
                f"{len(sequences)} sequences and {len(prompt_lengths)} prompt lengths; wanted one for each of them"
            )
        for i, (sequence, prompt) in enumerate(zip(sequences, prompt_lengths, strict=True)):
            if not max(prompt, 1) < len(sequence) <= context + 1 or prompt < 0:
                raise ValueError(
                    f"sequence {i} has {len(sequence)} tokens, {prompt} of them prompt; wanted at least one after the "
                    f"prompt (and after the first), and at most {context + 1} in all"
                )
        self.sequences, self.prompt_lengths = sequences, prompt_lengths
        self.batch_size, self.context, self.seed = batch_size, context, seed

    def __call__(self, step: int) -> Batch:
        chosen = np.random.default_rng([self.seed, step]).integers(0, len(self.sequences), size=self.batch_size)
        rows = np.zeros((self.batch_size, self.context + 1), dtype=np.int64)
        counted = np.zeros(rows.shape, dtype=bool)
        for row, i in enumerate(chosen):
            length = len(self.sequences[i])
            rows[row, :length] = self.sequences[i]
            counted[row, self.prompt_lengths[i] : length] = True
        return Batch.of(rows, counted)


def windows(tokens: Tokens, context: int, batch_size: int) -> Iterator[Batch]:
    """Batches that cover a text once, in order: every token but the first is predicted exactly once.

    Windows of `context` tokens follow one another without overlap; the last one is padded, and its padding does not
    count. Raises UserError when there is no token to predict.
    """
    _check_sizes(batch_size, context, 0)
    n = len(tokens)
    if n < 2:
        raise UserError(f"the text to evaluate on has {n} tokens; wanted at least 2, one to read and one to predict")
    for start in range(0, n - 1, batch_size * context):
        ids = tokens[start : start + batch_size * context + 1]
        n_rows = -(-(len(ids) - 1) // context)
        padding = n_rows * context + 1 - len(ids)
        line = Batch.of(np.pad(ids, (0, padding))[None], np.pad(np.ones((1, len(ids)), bool), ((0, 0), (0, padding))))
        yield Batch(line.inputs.reshape(n_rows, context), line.targets.reshape(n_rows, context))


def _check_sizes(batch_size: int, context: int, seed: int) -> None:
    for name, value, least in (("batch_size", batch_size, 1), ("context", context, 1), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name} is {value}; wanted at least {least}")
