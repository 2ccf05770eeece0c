"""Which mistake a function makes: its answers held against those of every known one."""

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minikd.oracle.compare import compare
from minikd.oracle.grade.judge import Answer, told
from minikd.oracle.grade.trials import Trial
from minikd.oracle.mutants import MUTANTS
from minikd.oracle.subjects import SUBJECTS, Case, Subject

SAME = {"float64": 1e-6, "float32": 1e-3}  # relative error up to which two functions give the same
SOME = 0.3  # of the ordinary trials in which a function may differ from all that is known, before it is called unknown


@dataclass(frozen=True)
class Suspect:
    """A function that the graded one may be, and what to say if it is."""

    words: str
    function: Callable


@dataclass(frozen=True)
class Match:
    """A suspect that answers as the graded function does.

    explained: the failed trials that it accounts for; likeness: how many trials agree, those by halves in which both
    answer with some NaN or inf.
    """

    words: str
    explained: frozenset[str]
    likeness: float


def diagnose(subject: Subject, answers: Sequence[Answer]) -> str:
    """What a function that failed in some trials does instead of what is wanted, in a sentence; "" if none failed.

    In this order: a known mistake; one in each wrong output; another exercise's function; a known mistake but for a few
    trials; a factor; or else what is wrong in the first case.
    """
    failed = [answer for answer in answers if not answer.passed]
    if not failed:
        return ""
    seen = [answer for answer in answers if answer.trial.dtype == answers[0].trial.dtype]
    names = [*subject.returns, *(f"d{name}" for name in subject.wrt)]
    wrong = [name for name in names if not all(_right(answer, [name]) for answer in seen)]
    known = known_mistakes(subject)
    for attempt in (
        lambda: [best_match(subject, known, seen, names)],
        lambda: [all_zero(name, seen) or best_match(subject, known, seen, [name]) for name in wrong],
        lambda: [best_match(subject, other_subjects(subject), seen, names)],
        lambda: [best_match(subject, known, seen, names, SOME)],
        lambda: [factor(subject, name, seen) for name in wrong],
    ):
        matches = [match for match in attempt() if match is not None]
        if matches:
            words = "; ".join(dict.fromkeys(match.words for match in matches))
            left = unexplained(failed, frozenset[str]().union(*(match.explained for match in matches)))
            return words + (f"; besides, in case {left[0].trial.name!r}: {first_reason(left)}" if left else "")
    return first_reason(failed)


def unexplained(failed: Sequence[Answer], explained: frozenset[str]) -> list[Answer]:
    """The failures that a mistake does not account for; if it shows in special cases only, it does for all of those."""
    far_only = all(not answer.trial.ordinary for answer in failed if answer.trial.name in explained)
    others = [answer for answer in failed if answer.trial.name not in explained and answer.trial.name != "float32"]
    return [answer for answer in others if answer.trial.ordinary or not far_only]


def known_mistakes(subject: Subject) -> list[Suspect]:
    """The mutants of a subject."""
    return [Suspect(mutant.diagnosis, mutant.function) for mutant in MUTANTS if mutant.subject == subject.name]


def other_subjects(subject: Subject) -> list[Suspect]:
    """Functions that take and return the same, but compute something else."""

    def form(other: Subject) -> tuple[Any, ...]:
        required = [p.name for p in inspect.signature(other.function).parameters.values() if p.default is p.empty]
        return required, other.wrt, other.returns

    others = [other for other in SUBJECTS.values() if form(other) == form(subject) and other is not subject]
    return [Suspect(f"this is {other.name}: {other.convention}", other.function) for other in others]


def best_match(
    subject: Subject, suspects: Iterable[Suspect], answers: Sequence[Answer], names: Sequence[str], doubts: float = 0.0
) -> Match | None:
    """The suspect that gives the outputs `names` as the function does and accounts for most of its failures.

    It has to agree in every ordinary trial, but for a share `doubts` of them; far from there (overflow, -inf) a
    function may fail in ways of its own.
    """
    allowed = int(doubts * sum(answer.trial.ordinary for answer in answers))
    matches = (match for suspect in suspects if (match := _match(subject, suspect, answers, names, allowed)))
    return max(matches, key=lambda match: (len(match.explained), match.likeness), default=None)


def _match(
    subject: Subject, suspect: Suspect, answers: Sequence[Answer], names: Sequence[str], allowed: int
) -> Match | None:
    explained, total, doubts = set(), 0.0, 0
    for answer in answers:
        likeness = _likeness(answer, _outputs(subject, answer.trial.case, suspect.function), names)
        total += likeness
        if likeness and not _right(answer, names):
            explained.add(answer.trial.name)
        doubts += answer.trial.ordinary and not likeness
        if doubts > allowed:
            return None
    return Match(suspect.words, frozenset(explained), total) if explained else None


def _outputs(subject: Subject, case: Case, function: Callable) -> dict[str, Any] | None:
    """What a suspect gives; None if it raises something."""
    try:
        return subject.outputs(case, function)
    except Exception:  # a mistake may well end in one
        return None


def _likeness(answer: Answer, outputs: dict[str, Any] | None, names: Sequence[str]) -> float:
    """1 if an answer is a suspect's, 1/2 if both are lost in a trial that is not ordinary, else 0."""
    if answer.error or outputs is None:
        return float(bool(answer.error) and outputs is None)
    value = next(iter(outputs))
    lost = not answer.trial.ordinary and value in answer.got and not np.isfinite(answer.got[value]).all()
    if value in names and (lost or answer.compared[value].where.startswith("in shape")):
        names = [value]  # its gradient can be anything
    return min(_alike(answer, name, outputs[name]) for name in names)


def _alike(answer: Answer, name: str, output: Any) -> float:
    got = answer.got.get(name)
    if got is None:
        return 0.0
    if compare(got, output, tol=SAME[answer.trial.dtype]).right:
        return 1.0
    both_lost = not np.isfinite(got).all() and not np.isfinite(output).all()
    return 0.5 if both_lost and not answer.trial.ordinary else 0.0


def _right(answer: Answer, names: Sequence[str]) -> bool:
    return not answer.error and all(answer.compared[name].right for name in names)


def all_zero(name: str, answers: Sequence[Answer]) -> Match | None:
    """An output that is 0 whatever is put in."""
    there = [answer for answer in answers if name in answer.got]
    if not there or any(answer.got[name].any() for answer in there):
        return None
    explained = frozenset(answer.trial.name for answer in there if not _right(answer, [name]))
    return Match(f"your {name} is 0 throughout: is something detached, or taken for a constant?", explained, len(there))


def factor(subject: Subject, name: str, answers: Sequence[Answer]) -> Match | None:
    """By which factor an output is off, if it is the same one in all ordinary trials."""
    ratios, tol = [], SAME[answers[0].trial.dtype]
    for answer in answers:
        if not answer.trial.ordinary or name not in answer.got:
            continue
        ratio = answer.compared[name].median_ratio
        if math.isfinite(ratio):
            if not compare(answer.got[name], ratio * np.asarray(answer.trial.wanted[name]), tol=tol).right:
                return None
            ratios.append((ratio, factors(subject, answer.trial)))
    if all(math.isclose(ratio, 1, rel_tol=tol) for ratio, _ in ratios):
        return None
    first, names = ratios[0][0], ratios[0][1]
    fitting = [n for n in names if all(math.isclose(ratio, own[n], rel_tol=tol) for ratio, own in ratios)]
    if not fitting and not all(math.isclose(ratio, first, rel_tol=tol) for ratio, _ in ratios):
        return None
    explained = frozenset(answer.trial.name for answer in answers if not _right(answer, [name]))
    return Match(f"your {name} is the right one times {[*fitting, f'{first:.6g}'][0]}", explained, len(ratios))


def factors(subject: Subject, trial: Trial) -> dict[str, float]:
    """What people multiply by where they should not, or forget to divide by."""
    default = inspect.signature(subject.function).parameters.get("temperature")
    temperature = trial.case.attributes.get("temperature", default.default if default else 1.0)
    logits = next(iter(trial.sent.values()), np.ones(1))
    tokens, classes = logits[..., 0].size, logits.shape[-1]
    counted = np.ones(logits.shape[:-1], dtype=bool)
    for name in ("mask", "labels"):
        if name in trial.sent and trial.sent[name].shape == counted.shape:
            counted &= trial.sent[name] if name == "mask" else trial.sent[name] != -100
    basic = {
        "T": temperature,
        "T^2": temperature**2,
        "V (the number of classes)": classes,
        "the number of tokens": tokens,
        "the number of tokens that count": int(counted.sum()),
        "all tokens / those that count": tokens / max(1, int(counted.sum())),
        "the number of sequences": len(logits),
    }
    inverse = {f"1 / {words}" if "/" not in words else f"1 / ({words})": 1 / x for words, x in basic.items() if x}
    return {"-1": -1.0} | inverse | basic


def first_reason(answers: Sequence[Answer]) -> str:
    """The reason of the first failure."""
    answer = answers[0]
    wrong = [told(name, comparison) for name, comparison in answer.compared.items() if not comparison.right]
    return answer.error or "; ".join(wrong)
