"""What is measured: sizes, tasks, and the weights and tokens that both sides start from."""

from dataclasses import dataclass, replace

import numpy as np

from minikd.models.config import GPT2Config

TASKS = ("train", "soft", "codistill", "generate")
HEAD_TASKS = ("whole", "blocks")
"""The output projection and a loss with its gradients: against PyTorch on all logits at once, or in blocks."""
HEAD_LOSSES = ("forward_kl", "reverse_kl", "js", "skew_forward_kl", "skew_reverse_kl", "cross_entropy", "mix")
"""What they take of the logits: a divergence at T = 1, hard labels, or Hinton's mix of both."""


@dataclass(frozen=True)
class Size:
    """A model and the batch that it trains on, as long as the model can read."""

    model: GPT2Config
    batch: int

    @property
    def student(self) -> GPT2Config:
        """The student of a distillation: half as deep and half as wide, with heads of the same size."""
        m = self.model
        return replace(m, n_layer=m.n_layer // 2, n_embd=m.n_embd // 2, n_head=m.n_head // 2)


SIZES = {
    "tiny": Size(GPT2Config(vocab_size=512, n_positions=64, n_embd=64, n_layer=2, n_head=2), batch=8),
    "lesson": Size(GPT2Config(vocab_size=2048, n_positions=128, n_embd=128, n_layer=4, n_head=4), batch=16),
    "small": Size(GPT2Config(vocab_size=8192, n_positions=256, n_embd=384, n_layer=6, n_head=6), batch=8),
}


@dataclass(frozen=True)
class Head:
    """Hidden states of a student and a teacher, and the vocabulary that they are projected to."""

    vocab_size: int
    tokens: int = 2048
    student_width: int = 256
    teacher_width: int = 512


HEADS = {"32k": Head(32_768), "128k": Head(128_256)}
HEAD_BLOCK = 256  # tokens that PyTorch projects at a time in the task "blocks"

# minikd's time over PyTorch's that is to be reached on a CPU with two cores; generation: 1.2 times the tokens/s.
GOALS = {
    ("lesson", "train"): 1.35,
    ("lesson", "soft"): 1.1,
    ("lesson", "generate"): 1 / 1.2,
    ("128k", "whole"): 0.35,
    ("128k", "blocks"): 1.0,
}


@dataclass(frozen=True)
class Case:
    """One comparison; both sides get the same one."""

    size_name: str
    task: str
    device: str
    threads: int
    loss: str = HEAD_LOSSES[0]
    """of a head's tasks; the others have their own"""

    @property
    def name(self) -> str:
        """The task, and its loss where that is a choice."""
        return f"{self.task} {self.loss}" if self.task in HEAD_TASKS else self.task

    @property
    def size(self) -> Size:
        return SIZES[self.size_name]

    @property
    def head(self) -> Head:
        return HEADS[self.size_name]

    @property
    def new_tokens(self) -> int:
        """Tokens that a generation writes after its prompt, until the model's context is full."""
        return self.size.model.n_positions - PROMPT_LENGTH

    @property
    def tokens_per_step(self) -> int:
        """Tokens read by a training step, or written by a generation."""
        if self.task in HEAD_TASKS:
            return self.head.tokens
        return self.new_tokens if self.task == "generate" else self.size.batch * self.size.model.n_positions


# How both sides train: what a user might take.
STEPS = 10_000
WARMUP_STEPS = 20
LEARNING_RATE = 1e-3
FINAL_LEARNING_RATE = 0.1  # as a share of the highest
WEIGHT_DECAY = 0.1
BETA2 = 0.99
MAX_NORM = 1.0
ALPHA = 0.5
TEMPERATURE = 2.0

LOGIT_SPREAD = 3.0  # standard deviation of the logits of a fixed teacher

HIDDEN_SEED, LABEL_SEED = 13, 14
PROMPT_LENGTH = 16
STREAM_LENGTH = 100_000
STREAM_SEED, BATCH_SEED, PROMPT_SEED = 10, 11, 12


def initial_weights(config: GPT2Config, seed: int) -> dict[str, np.ndarray]:
    """Random float32 weights under the published names and layouts."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in config.shapes.items():
        if len(shape) > 1:
            weights[name] = rng.normal(scale=config.initializer_range, size=shape).astype(np.float32)
        else:
            weights[name] = np.full(shape, float(name.endswith("weight")), dtype=np.float32)
    return weights


def teacher_weights(config: GPT2Config, seed: int) -> dict[str, np.ndarray]:
    """Weights of a teacher that is sure of itself: random, but its logits spread like a trained model's.

    How long a careful divergence takes may depend on how far apart teacher and student are.
    """
    weights = initial_weights(config, seed)
    weights["transformer.ln_f.weight"] *= LOGIT_SPREAD / (config.initializer_range * config.n_embd**0.5)
    return weights


def token_stream(case: Case) -> np.ndarray:
    """Token ids to train on; the n-th is drawn with a probability like 1/n, as uneven as in a text."""
    frequency = 1 / np.arange(1, case.size.model.vocab_size + 1)
    rng = np.random.default_rng(STREAM_SEED)
    return rng.choice(len(frequency), size=STREAM_LENGTH, p=frequency / frequency.sum())


def batch_rows(case: Case, stream: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A batch from random places of the stream: (B, T + 1), inputs and, one further, targets."""
    length = case.size.model.n_positions + 1
    starts = rng.integers(len(stream) - length + 1, size=case.size.batch)
    return np.stack([stream[start : start + length] for start in starts])


def head_arrays(head: Head) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Float32 hidden states and output weight of a student and of a teacher; their logits have variance 1."""
    rng = np.random.default_rng(HIDDEN_SEED)
    arrays = []
    for width in (head.student_width, head.teacher_width):
        arrays.append(rng.standard_normal((head.tokens, width), dtype=np.float32))
        arrays.append(rng.standard_normal((head.vocab_size, width), dtype=np.float32) * np.float32(width**-0.5))
    return arrays[0], arrays[1], arrays[2], arrays[3]


def head_labels(head: Head) -> np.ndarray:
    """A class for each token, any of them as likely."""
    return np.random.default_rng(LABEL_SEED).integers(head.vocab_size, size=head.tokens)


def prompt(case: Case) -> np.ndarray:
    """The token ids (T,) that a generation goes on from."""
    return np.random.default_rng(PROMPT_SEED).integers(case.size.model.vocab_size, size=PROMPT_LENGTH)
