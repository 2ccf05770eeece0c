"""Grade a file: every exercise in it, trial by trial, whatever the file does to its process meanwhile."""

from collections.abc import Sequence
from dataclasses import dataclass

from minikd.oracle.grade.diagnosis import diagnose
from minikd.oracle.grade.judge import Answer, Verdict, judge, verdict
from minikd.oracle.grade.process import Gone
from minikd.oracle.grade.sandbox import BadFile, Limits, Sandbox, Source, clean
from minikd.oracle.grade.trials import Trial, seeded, trials
from minikd.oracle.subjects import SUBJECTS, Subject

MAX_PRINTED = 2000
NOT_CALLED = "not called any more"
NOT_WRITTEN = "not written yet: it raises NotImplementedError"


@dataclass(frozen=True)
class Exercise:
    """What became of one function. attempted: it is there, and not just raises NotImplementedError."""

    name: str
    attempted: bool
    cases: tuple[Verdict, ...] = ()
    diagnosis: str = ""

    @property
    def passed(self) -> bool:
        """Whether every case of it is right."""
        return self.attempted and bool(self.cases) and all(case.passed for case in self.cases)


@dataclass(frozen=True)
class Report:
    """What became of a file. seed: gives the same cases again. protections: what kept the file in its process."""

    file: str
    seed: int
    exercises: tuple[Exercise, ...]
    protections: tuple[str, ...] = ()
    printed: str = ""

    @property
    def attempted(self) -> list[Exercise]:
        """Without the stubs."""
        return [exercise for exercise in self.exercises if exercise.attempted]

    @property
    def passed(self) -> bool:
        """Whether something was attempted, and all of that is right."""
        return bool(self.attempted) and all(exercise.passed for exercise in self.attempted)


def grade(
    source: Source, *, only: Sequence[str] = (), seed: int, limits: Limits = Limits(), bubblewrap: bool = False
) -> Report:
    """Grade the exercises `only`, or all that the file has, in as many processes as the file ends.

    BadFile: it cannot be imported, or has no exercise.
    """
    waiting = list(dict.fromkeys(only)) or list(SUBJECTS)
    found: dict[str, Exercise] = {}
    protections: list[str] = []
    printed, first = "", True
    while waiting:
        sandbox = Sandbox(source, limits, waiting, bubblewrap=bubblewrap)
        try:
            with sandbox:
                protections = sandbox.protections
                if only or not first:
                    missing = [name for name in waiting if name not in sandbox.functions]
                    found |= {name: lost(name, "the file has no function of this name") for name in missing}
                waiting = [name for name in waiting if name in sandbox.functions]
                alive = True
                while waiting and alive:
                    name = waiting.pop(0)
                    exercise, alive = grade_one(sandbox, SUBJECTS[name], seed, asked_for=bool(only))
                    found[name] = exercise
        except (Gone, BadFile) as error:
            there = waiting if only or not first else [name for name in waiting if source.mentions(name)]
            if not there or (isinstance(error, BadFile) and first):
                raise BadFile(str(error)) from error
            found |= {name: lost(name, str(error)) for name in there}
            waiting = []
        printed, first = (printed + sandbox.printed)[:MAX_PRINTED], False
    if not found:
        raise BadFile("it has none of the exercises' functions")
    in_order = tuple(found[name] for name in dict.fromkeys(only or SUBJECTS) if name in found)
    return Report(source.name, seed, in_order, tuple(protections), printed)


def lost(name: str, reason: str) -> Exercise:
    """An exercise that could not even be called."""
    return Exercise(name, True, (Verdict("import", "basic", False, reason=reason),), reason)


def grade_one(sandbox: Sandbox, subject: Subject, seed: int, *, asked_for: bool) -> tuple[Exercise, bool]:
    """One exercise, and whether the process is still there after it."""
    parameters = sandbox.functions[subject.name]
    answers: list[Answer] = []
    lines: list[Verdict] = []
    reason = ""
    for i, trial in enumerate(trials(subject, seeded(seed, subject.name), sandbox.precision)):
        if trial.left_out(parameters):
            continue
        if reason:
            lines.append(Verdict(trial.name, trial.column, False, reason=NOT_CALLED))
            continue
        try:
            answer = ask(sandbox, subject, trial, i)
        except Gone as error:
            reason = str(error)
            lines.append(Verdict(trial.name, trial.column, False, reason=reason))
            continue
        if answer.error == NOT_WRITTEN and not answers and not asked_for:
            return Exercise(subject.name, attempted=False), True
        answers.append(answer)
        lines.append(verdict(subject, answer))
    lines += habits(subject, answers)
    diagnosis = reason or diagnose(subject, answers) or next((line.reason for line in lines if not line.passed), "")
    return Exercise(subject.name, True, tuple(lines), diagnosis), not reason


def ask(sandbox: Sandbox, subject: Subject, trial: Trial, number: int) -> Answer:
    """One trial. Gone: the process has not survived it."""
    head, arrays = trial.request(subject)
    reply, returned = sandbox.ask({**head, "id": number}, arrays)
    if reply.get("ended"):
        return Answer(trial, {}, {}, error="it called sys.exit")
    if reply.get("missing"):
        return Answer(trial, {}, {}, error=NOT_WRITTEN)
    if "error" in reply:
        return Answer(trial, {}, {}, error=clean(reply["error"]) or "it raised something")
    return judge(subject, trial, returned)


def habits(subject: Subject, answers: Sequence[Answer]) -> list[Verdict]:
    """What holds in every trial or does not: inputs stay as they were, and a pullback gives the same twice."""
    answered = [answer for answer in answers if not answer.error]
    lines = []
    if any(answer.trial.sent for answer in answers):
        changed = [
            f"it changed {answer.changed[0]} (case {answer.trial.name!r})" for answer in answered if answer.changed
        ]
        lines.append(_habit("inputs unchanged", changed, answered))
    if subject.wrt:
        differs = [
            f"its second call gives another gradient (case {a.trial.name!r})" for a in answered if a.second_differs
        ]
        lines.append(_habit("pullback twice", differs, answered))
    return lines


def _habit(name: str, reasons: list[str], answered: Sequence[Answer]) -> Verdict:
    reason = reasons[0] if reasons else "" if answered else "nothing was answered"
    return Verdict(name, "again", not reason, reason=reason)
