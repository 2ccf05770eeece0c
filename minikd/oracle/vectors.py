"""Reference vectors: what every function gives on small inputs, to the last digit, for anybody's implementation.

A function has a safetensors file with the numbers and a manifest, in the manner of Wycheproof, that says what they are;
docs/vectors.md describes both. What goes in is exact in every floating type down to bfloat16; what comes out is rounded
once, from 150 digits. The outputs of the planted mistakes travel along.
"""

import hashlib
import inspect
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from minikd.atomic import atomic_folder, write_json
from minikd.errors import UserError
from minikd.oracle.mutants import MUTANTS
from minikd.oracle.subjects import FLAGS, SUBJECTS, Case, Subject
from minikd.tensor_file import write_tensors
from minikd.versions import package_version

SCHEMA = "minikd_vectors_v1.json"

TOLERANCES = {"float64": 1e-12, "float32": 1e-5}
IN_LOG_SPACE = {"float64": 1e-12, "float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}
"""The L2 error that an output of norm 1 or less may have. A softmax is computed in float32 at least."""

LARGEST = 16 - 1 / 16  # number that goes in
MOST_NUMBERS = 600  # that go in
SEEN = 1e-4  # a mistake shows if the L2 error is above: more than any tolerance of float32
MUTANT_BITS = 24
SMALLEST_SCALE = 2.0**-10


@dataclass
class Vectors:
    """The tests of one function, and their arrays by key."""

    subject: Subject
    tests: list[dict[str, Any]] = field(default_factory=list)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)

    def manifest(self, sha256: str) -> dict[str, Any]:
        """What the file of arrays holds."""
        used = {flag for test in self.tests for flag in test["flags"]}
        mistakes = {f"mutant/{m.name}": m.diagnosis for m in MUTANTS if m.subject == self.subject.name}
        return {
            "schema": SCHEMA,
            "generator": f"minikd {package_version('minikd')}",
            "function": self.subject.name,
            "convention": self.subject.convention,
            "notes": {flag: {"description": note} for flag, note in (FLAGS | mistakes).items() if flag in used},
            "file": f"{self.subject.name}.safetensors",
            "sha256": sha256,
            "tests": self.tests,
        }


def schema() -> dict[str, Any]:
    """The JSON Schema of a manifest."""
    return json.loads((files("minikd.oracle") / SCHEMA).read_text(encoding="utf-8"))


def write_vectors(folder: Path, names: Iterable[str] = SUBJECTS) -> int:
    """Write the vectors of the functions `names` into a folder, new or empty, whole or not at all; the number of tests.

    The same bytes on every run and every machine. UserError where mpmath is missing or the folder cannot be written.
    """
    written = [vectors(SUBJECTS[name]) for name in names]
    with atomic_folder(folder) as new:
        for one in written:
            path = new / f"{one.subject.name}.safetensors"
            write_tensors(path, one.tensors)
            write_json(path.with_suffix(".json"), one.manifest(hashlib.sha256(path.read_bytes()).hexdigest()))
    return sum(len(one.tests) for one in written)


def vectors(subject: Subject) -> Vectors:
    """The tests of a function; its cases are drawn from a seed of its own."""
    found = Vectors(subject)
    for case in subject.cases(np.random.default_rng(crc32(subject.name.encode()))):
        case = cooled(subject, replace(case, cotangent=None) if is_loss(subject) else case)
        if belongs(subject, case):
            add_test(found, case)
    return found


def add_test(found: Vectors, case: Case) -> None:
    """Add a case with the right outputs, and what each mistake gives that shows in it."""
    subject, number = found.subject, len(found.tests) + 1
    inputs, right = named_inputs(subject, case), right_outputs(subject, case)
    goes_in = {name: f"{number}/in/{name}" for name in inputs}
    comes_out = {name: f"{number}/out/{name}" for name in right}
    found.tensors |= dict(
        zip((*goes_in.values(), *comes_out.values()), (*inputs.values(), *right.values()), strict=True)
    )
    flags = list(case.flags)
    for mutant in MUTANTS:
        if mutant.subject == subject.name and (wrong := wrong_outputs(subject, case, mutant.function, right)):
            flags.append(f"mutant/{mutant.name}")
            found.tensors |= {f"mutant/{mutant.name}/{comes_out[name]}": x for name, x in wrong.items()}
    found.tests.append(
        {
            "tcId": number,
            "comment": case.comment,
            "flags": flags,
            "attrs": attributes(subject, case),
            "in": goes_in,
            "out": comes_out,
            "tol": IN_LOG_SPACE if is_loss(subject) or "softmax" in subject.name else TOLERANCES,
        }
    )


# Cases


def is_loss(subject: Subject) -> bool:
    """Whether a function gives one loss."""
    return subject.returns == ("loss",)


def cooled(subject: Subject, case: Case) -> Case:
    """Logits that are far apart come as ordinary ones at a low temperature, which divides them."""
    temperature = attributes(subject, case).get("temperature")
    if "extreme" not in case.flags or temperature is None:
        return case
    logits = {name: x for name, x in case.inputs.items() if name.endswith("logits")}
    inputs = case.inputs | {name: np.clip(x / 64, -LARGEST, LARGEST) for name, x in logits.items()}
    comment = "logits up to thousands apart after a division by T = 1/256"
    return replace(case, comment=comment, inputs=inputs, attributes=case.attributes | {"temperature": 1 / 256})


def belongs(subject: Subject, case: Case) -> bool:
    """Whether what goes in is small, and sixteenths below 16, exact in every type; by position, but for a mask."""
    parameters = inspect.signature(subject.function).parameters
    by_keyword = {name for name in case.inputs if parameters[name].kind is inspect.Parameter.KEYWORD_ONLY}
    floating = [x for x in case.inputs.values() if x.dtype.kind == "f"]
    exact = all(np.all(np.abs(x) <= LARGEST) and np.array_equal(16 * x, np.round(16 * x)) for x in floating)
    return exact and by_keyword <= {"mask"} and sum(x.size for x in case.inputs.values()) <= MOST_NUMBERS


def attributes(subject: Subject, case: Case) -> dict[str, Any]:
    """The arguments that are no arrays, also those left at a default, which another language does not know."""
    parameters = inspect.signature(subject.function).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    return {name: value for name, value in defaults.items() if isinstance(value, int | float | str)} | case.attributes


def named_inputs(subject: Subject, case: Case) -> dict[str, np.ndarray]:
    """What goes in, a cotangent included, by the name it has in a manifest."""
    inputs = {short(subject, name): array for name, array in case.inputs.items()}
    return inputs if case.cotangent is None else inputs | {f"d{subject.returns[0]}": case.cotangent}


def short(subject: Subject, name: str) -> str:
    """The logits that a loss compares are its student and its teacher."""
    if not is_loss(subject):
        return name
    return "student" if name == "logits" else name.removesuffix("_logits")


# What comes out


def right_outputs(subject: Subject, case: Case) -> dict[str, np.ndarray]:
    """Values and gradients, rounded once."""
    try:
        from minikd.oracle import exact
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error.name} is not installed, which computes the reference values; wanted minikd[vectors]"
        ) from error
    names = [*subject.returns, *(f"d{short(subject, name)}" for name in subject.wrt)]
    outputs = exact.right_outputs(subject.name, case.inputs, attributes(subject, case), subject.wrt, case.cotangent)
    return dict(zip(names, outputs, strict=True))


def wrong_outputs(
    subject: Subject, case: Case, mutant: Callable, right: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """What a mutant gives, if it is another result than the right one; nothing if it is not, or gives no numbers."""
    try:
        outputs = [np.asarray(x, dtype=np.float64) for x in subject.outputs(case, mutant).values()]
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return {}
    wrong = dict(zip(right, outputs, strict=True))
    if not any(differs(wrong[name], right[name]) for name in right):
        return {}
    return {name: coarse(x) for name, x in wrong.items()}


def differs(got: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether somebody would see that these are not the same."""
    if got.shape != wanted.shape or not np.isfinite(got).all():
        return True
    return float(np.linalg.norm(got - wanted)) > SEEN * max(1.0, float(np.linalg.norm(wanted)))


def coarse(x: np.ndarray) -> np.ndarray:
    """Float32 with so few digits that the last bits of another machine's float64 do not show."""
    largest = float(np.max(np.abs(x), initial=SMALLEST_SCALE, where=np.isfinite(x)))
    unit = 2.0 ** (math.ceil(math.log2(largest)) - MUTANT_BITS)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.where(np.isnan(x), np.nan, np.round(x / unit) * unit + 0.0).astype(np.float32)
