"""Two workers take turns at the same work; what comes of it are ratios."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cases import GOALS, Case
from minikd.errors import UserError

SIDES = ("torch", "minikd")
WARMUP_TURNS = 3
TOLERANCE = 1e-4  # float32 and two orders of summation, over some hundred steps
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Worker:
    """A process that runs one side of a case."""

    def __init__(self, side: str, case: Case):
        self.name = f"{side} ({case.size_name} {case.name})"
        arguments = [side, case.size_name, case.task, case.device, str(case.threads), case.loss]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the parent, which then ends its workers
            cwd=Path(__file__).parent.parent,
            env=os.environ | dict.fromkeys(THREAD_VARIABLES, str(case.threads)),
        )

    def ask(self, request: str) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # a worker that has died gives no answer
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The worker's next line; a UserError if it cannot run or has died."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise UserError(f"{self.name}: the process ended with exit code {self.process.wait()} before it answered")
        message = json.loads(line)
        if "error" in message:
            raise UserError(f"{self.name}: {message['error']}")
        return message

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


@contextmanager
def workers(case: Case) -> Iterator[dict[str, Worker]]:
    """Both sides' workers, which end with the block."""
    started: dict[str, Worker] = {}
    try:
        for side in SIDES:
            started[side] = Worker(side, case)
        yield started
    finally:
        for worker in started.values():
            worker.close()


def measure(case: Case, *, rounds: int, turn_seconds: float, progress: Callable[[str], None]) -> dict[str, Any]:
    """Run both sides of a case in turns.

    Returns what the JSON holds of a case: seconds a step of every round, ratios (minikd / PyTorch), peak memory in
    bytes. A turn is as many steps as the slower side does in about `turn_seconds`. UserError: a side cannot run, or
    the two do not compute the same.
    """
    with workers(case) as both:
        info = {side: worker.answer() for side, worker in both.items()}
        for i in range(WARMUP_TURNS):
            progress(f"warm-up {i + 1}/{WARMUP_TURNS}")
            warm = play_round(both, 1)
        n_steps = max(1, round(turn_seconds / max(warm.seconds.values())))
        played = []
        for i in range(rounds):
            progress(f"round {i + 1}/{rounds}")
            played.append(play_round(both, n_steps))
        memory = {side: worker.ask("memory") for side, worker in both.items()}
    seconds = [each.seconds for each in played]
    return {
        "size": case.size_name,
        "task": case.name,
        "device": case.device,
        "threads": case.threads,
        "steps_per_round": n_steps,
        "tokens_per_step": case.tokens_per_step,
        "seconds_per_step": {side: [each[side] for each in seconds] for side in SIDES},
        "ratio": ratios(seconds),
        "goal": GOALS.get((case.size_name, case.task)) if case.device == "cpu" else None,
        "largest_difference": max(each.difference for each in played),
        "cores_busy_elsewhere": [each.busy_elsewhere for each in played],
        "memory": memory,
        "info": info,
    }


@dataclass(frozen=True)
class Round:
    """A turn of each side."""

    seconds: dict[str, float]
    """a step, by side"""
    difference: float
    """largest relative difference of what the sides computed"""
    busy_elsewhere: float | None
    """cores that did other work meanwhile, on average; None where the system does not say"""


def play_round(both: dict[str, Worker], n_steps: int) -> Round:
    """Let each side do `n_steps`, one after the other. UserError: they do not compute the same."""
    start, busy = time.perf_counter(), busy_seconds()
    answers = {side: worker.ask(f"go {n_steps}") for side, worker in both.items()}
    wall, now = time.perf_counter() - start, busy_seconds()
    own = sum(answer["cpu_seconds"] for answer in answers.values())
    difference = largest_difference(answers["torch"]["numbers"], answers["minikd"]["numbers"])
    if difference > TOLERANCE:
        raise UserError(f"the two sides do not compute the same: their results differ by {difference:.1e}, relatively")
    return Round(
        seconds={side: answer["seconds"] / n_steps for side, answer in answers.items()},
        difference=difference,
        busy_elsewhere=max(0.0, (now - busy - own) / wall) if now is not None and busy is not None else None,
    )


def busy_seconds() -> float | None:
    """Seconds that all cores of this machine together have been busy so far; None where the system does not say."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, fields[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def ratios(seconds: list[dict[str, float]]) -> dict[str, float]:
    """Time of minikd over time of PyTorch: over the rounds, and each side's best round against the other's."""
    by_round = [one["minikd"] / one["torch"] for one in seconds]
    return {
        "median": statistics.median(by_round),
        "min": min(by_round),
        "max": max(by_round),
        "best": min(one["minikd"] for one in seconds) / min(one["torch"] for one in seconds),
    }


def largest_difference(a: list[list[float]], b: list[list[float]]) -> float:
    """The largest relative difference between what the two sides computed: losses, or tokens."""
    pairs = [(x, y) for xs, ys in zip(a, b, strict=True) for x, y in zip(xs, ys, strict=True)]
    return max(abs(x - y) / max(abs(x), abs(y), 1e-300) for x, y in pairs)
