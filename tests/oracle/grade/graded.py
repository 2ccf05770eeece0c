"""Files to grade, and grading them quickly."""

import ctypes
import sys
from pathlib import Path

from minikd.oracle.grade.grader import Exercise, Report, grade
from minikd.oracle.grade.sandbox import Source

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent


def protections() -> list[str]:
    """What this system has to keep a process in."""
    if sys.platform != "linux":
        return []
    landlock = ctypes.CDLL(None).syscall(444, None, 0, 1) >= 1  # its version
    seccomp = Path("/proc/sys/kernel/seccomp/actions_avail").exists()
    return ["no privileges"] + ["no other files"] * landlock + ["no other processes"] * seccomp


PROTECTIONS = protections()

LINEAR = """
def linear(x, weight, bias):
    rows = x.reshape(-1, x.shape[-1])
    y = (rows @ weight + bias).reshape(*x.shape[:-1], -1)

    def vjp(dy):
        dy = dy.reshape(-1, dy.shape[-1])
        return (dy @ weight.T).reshape(x.shape), rows.T @ dy, dy.sum(axis=0)

    return y, vjp
"""


def graded(text: str, *only: str, seed: int = 0, **options) -> Report:
    """The report on a file with this text."""
    source = Source("answers.py", text, with_minikd=options.pop("with_minikd", False))
    return grade(source, only=only, seed=seed, **options)


def one(text: str, *only: str, **options) -> Exercise:
    """What became of the only exercise in a file."""
    (exercise,) = graded(text, *only, **options).exercises
    return exercise
