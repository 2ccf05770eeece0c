"""PyTorch's side: the steps as a practised user writes them, eager mode."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cases import (
    ALPHA,
    BATCH_SEED,
    BETA2,
    FINAL_LEARNING_RATE,
    HEAD_BLOCK,
    LEARNING_RATE,
    MAX_NORM,
    PROMPT_LENGTH,
    STEPS,
    TEMPERATURE,
    WARMUP_STEPS,
    WEIGHT_DECAY,
    Case,
    batch_rows,
    head_arrays,
    head_labels,
    initial_weights,
    prompt,
    teacher_weights,
    token_stream,
)
from benchmarks.rivals import ON_LOG_PROBABILITIES
from benchmarks.side import Side, wall_clock
from benchmarks.torch_gpt2 import TorchGPT2
from minikd.models.config import GPT2Config
from minikd.optim import cosine_schedule


def load(config: GPT2Config, weights: Mapping[str, np.ndarray], device: torch.device) -> TorchGPT2:
    """A model with weights of the published names."""
    model = TorchGPT2(config)
    model.load_published(weights)
    return model.to(device)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over tokens; logits (B, T, V), targets (B, T)."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def distillation_loss(student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
    """Hinton's mix of soft and hard labels, mean over tokens; logits (B, T, V), targets (B, T)."""
    soft = F.kl_div(
        F.log_softmax(student.flatten(0, 1) / TEMPERATURE, dim=-1),
        F.log_softmax(teacher.flatten(0, 1) / TEMPERATURE, dim=-1),
        reduction="batchmean",
        log_target=True,  # quicker than probabilities, whose logarithm kl_div would take
    )
    return ALPHA * TEMPERATURE**2 * soft + (1 - ALPHA) * cross_entropy(student, targets)


def learning_rate(step: int) -> float:
    """A linear rise, then a cosine."""
    final = FINAL_LEARNING_RATE * LEARNING_RATE
    return cosine_schedule(step, peak=LEARNING_RATE, warmup_steps=WARMUP_STEPS, steps=STEPS, final=final)


class Learner:
    """A model and its optimizer."""

    def __init__(self, model: TorchGPT2):
        self.model = model.train()
        decayed = [p for p in model.parameters() if p.dim() == 2]
        others = [p for p in model.parameters() if p.dim() != 2]
        groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, BETA2), fused=True)
        self.updates = 0

    def update(self, loss: Tensor) -> Tensor:
        """One step down the loss; the loss, detached."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_NORM)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.updates)
        self.optimizer.step()
        self.updates += 1
        return loss.detach()


def batch_reader(case: Case, device: torch.device) -> Callable[[], tuple[Tensor, Tensor]]:
    """What gives the next inputs and targets (B, T)."""
    stream, rng = token_stream(case), np.random.default_rng(BATCH_SEED)

    def next_batch() -> tuple[Tensor, Tensor]:
        rows = torch.from_numpy(batch_rows(case, stream, rng)).to(device)
        return rows[:, :-1], rows[:, 1:]

    return next_batch


def train(case: Case, device: torch.device) -> Callable[[], list[Tensor]]:
    """Cross-entropy on the text."""
    learner = Learner(load(case.size.model, initial_weights(case.size.model, 0), device))
    next_batch = batch_reader(case, device)

    def step() -> list[Tensor]:
        inputs, targets = next_batch()
        return [learner.update(cross_entropy(learner.model(inputs), targets))]

    return step


def soft(case: Case, device: torch.device) -> Callable[[], list[Tensor]]:
    """A student on the soft labels of a fixed teacher and on the text."""
    teacher = load(case.size.model, teacher_weights(case.size.model, 0), device).eval()
    student = Learner(load(case.size.student, initial_weights(case.size.student, 1), device))
    next_batch = batch_reader(case, device)

    def step() -> list[Tensor]:
        inputs, targets = next_batch()
        with torch.no_grad():
            teacher_logits = teacher(inputs)
        return [student.update(distillation_loss(student.model(inputs), teacher_logits, targets))]

    return step


def codistill(case: Case, device: torch.device) -> Callable[[], list[Tensor]]:
    """A teacher on the text; a student on the teacher's live soft labels and on the text."""
    teacher = Learner(load(case.size.model, initial_weights(case.size.model, 0), device))
    student = Learner(load(case.size.student, initial_weights(case.size.student, 1), device))
    next_batch = batch_reader(case, device)

    def step() -> list[Tensor]:
        inputs, targets = next_batch()
        teacher_logits = teacher.model(inputs)
        mixed = distillation_loss(student.model(inputs), teacher_logits.detach(), targets)
        return [teacher.update(cross_entropy(teacher_logits, targets)), student.update(mixed)]

    return step


def generate(case: Case, device: torch.device) -> Callable[[], Tensor]:
    """Greedy tokens after one prompt, through a cache."""
    model = load(case.size.model, initial_weights(case.size.model, 0), device).eval()
    prompts = torch.from_numpy(prompt(case)).to(device)[None]
    return lambda: model.generate(prompts, case.new_tokens)[0, PROMPT_LENGTH:]


def head_loss(name: str) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The sum over tokens of a loss on the logits x w^T and teacher_x teacher_w^T, given these and labels."""
    if name == "cross_entropy":
        return lambda x, w, teacher_x, teacher_w, labels: F.cross_entropy(x @ w.T, labels, reduction="sum")

    def mix(x: Tensor, w: Tensor, teacher_x: Tensor, teacher_w: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            teacher = teacher_x @ teacher_w.T
        return len(x) * distillation_loss((x @ w.T)[None], teacher[None], labels[None])

    def divergence(x: Tensor, w: Tensor, teacher_x: Tensor, teacher_w: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            teacher = F.log_softmax(teacher_x @ teacher_w.T, dim=-1)
        return ON_LOG_PROBABILITIES[name](teacher, F.log_softmax(x @ w.T, dim=-1))

    return mix if name == "mix" else divergence


def head(case: Case, device: torch.device) -> Callable[[], list[Tensor]]:
    """A loss of the projections of given hidden states, and its gradients for the student's two tensors."""
    x, w, teacher_x, teacher_w = (torch.from_numpy(array).to(device) for array in head_arrays(case.head))
    labels = torch.from_numpy(head_labels(case.head)).to(device)
    x.requires_grad_()
    w.requires_grad_()
    loss_of = head_loss(case.loss)
    block = len(x) if case.task == "whole" else HEAD_BLOCK

    def step() -> list[Tensor]:
        x.grad = w.grad = None
        total = torch.zeros((), device=device)
        for start in range(0, len(x), block):
            rows = slice(start, start + block)
            loss = loss_of(x[rows], w, teacher_x[rows], teacher_w, labels[rows]) / len(x)
            loss.backward()
            total += loss.detach()
        return [total]

    return step


BUILDERS = {"whole": head, "blocks": head, "train": train, "soft": soft, "codistill": codistill, "generate": generate}


def build_torch(case: Case) -> Side:
    """PyTorch's side of a case; RuntimeError if a GPU is wanted and PyTorch has none."""
    torch.set_num_threads(case.threads)
    on_gpu = case.device == "gpu"
    if on_gpu and not torch.cuda.is_available():
        raise RuntimeError("PyTorch sees no GPU; wanted one for --device gpu")
    device = torch.device("cuda" if on_gpu else "cpu")
    info = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "cuda": torch.version.cuda,
    }
    step = BUILDERS[case.task](case, device)

    def numbers(result: Any) -> list[float]:
        return [float(number) for number in result]

    if on_gpu:
        return Side(step, numbers, info, gpu_clock, torch.cuda.max_memory_reserved)
    return Side(step, numbers, info, wall_clock, lambda: None)


def gpu_clock(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds between two events on the GPU, before and after `work`, and its result."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    result = work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000, result
