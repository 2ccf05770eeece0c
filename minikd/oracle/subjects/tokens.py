"""Cases of a loss over tokens: what every one must do, whatever it computes."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from minikd.oracle.subjects.case import Case, Draw, Inputs, Subject, sixteenths

COUNTED = np.array([[False, True, True, True], [False, False, True, False]])
"""A prompt and padding that do not count: three tokens of one sequence do, and one of the other."""


def pair(rng: np.random.Generator, *tokens: int, classes: int = 7) -> Inputs:
    """Logits of student and teacher."""
    return {
        "student_logits": sixteenths(rng, *tokens, classes),
        "teacher_logits": sixteenths(rng, *tokens, classes),
    }


def labelled_logits(rng: np.random.Generator, *tokens: int, classes: int = 7) -> Inputs:
    """Logits and hard labels."""
    return {"logits": sixteenths(rng, *tokens, classes), "labels": rng.integers(0, classes, size=tokens)}


def labelled_pair(rng: np.random.Generator, *tokens: int, classes: int = 7) -> Inputs:
    """Logits of student and teacher, and hard labels."""
    return {**pair(rng, *tokens, classes=classes), "labels": rng.integers(0, classes, size=tokens)}


def masked(inputs: Inputs) -> Inputs:
    """Inputs for tokens (2, 4), of which `COUNTED` count."""
    return {**inputs, "mask": COUNTED.copy()}


def sizes(rng: np.random.Generator, draw: Draw) -> Iterator[Case]:
    """Tokens along one axis and two, and what counts of them."""
    yield Case("basic", "four tokens", (), draw(rng, 4))
    yield Case("batch-axes", "tokens along two axes: a mean over all of them", (), draw(rng, 2, 3))
    inputs = masked(draw(rng, 2, 4))
    yield Case("mask", "4 of 8 tokens count: 3 of one sequence, 1 of the other", ("mask",), inputs)
    yield Case("sum", "the sum over tokens", ("sum",), draw(rng, 2, 3), {"reduction": "sum"})
    yield Case("one-token", "one token", ("one-token",), draw(rng, 1))
    yield Case("one-class", "one class", ("one-class",), draw(rng, 3, classes=1))
    yield Case("odd", "41 classes", ("odd-size",), draw(rng, 3, 5, classes=41))


def without_reduction(rng: np.random.Generator, draw: Draw) -> Iterator[Case]:
    """A loss for each token."""
    yield Case("none", "a loss for each token", ("none",), draw(rng, 2, 3), {"reduction": "none"})
    inputs = masked(draw(rng, 2, 4))
    comment, flags = "a loss for each token, 0 where it does not count", ("mask", "none")
    yield Case("mask-none", comment, flags, inputs, {"reduction": "none"})


def sizes_and_reductions(rng: np.random.Generator, draw: Draw) -> Iterator[Case]:
    yield from sizes(rng, draw)
    yield from without_reduction(rng, draw)


def hard_logits(rng: np.random.Generator, draw: Draw) -> Iterator[Case]:
    """Logits that only log space survives."""
    inputs = draw(rng, 4)
    for name in logits_of(inputs):
        inputs[name] *= np.array([[64], [64], [512], [512]])
    for name in {"labels", "tokens"} & set(inputs):  # the least likely one is not impossible
        inputs[name] = np.where(np.arange(4) < 2, inputs[name], inputs[logits_of(inputs)[0]].argmin(axis=-1))
    if "teacher_logits" in inputs:
        contradict(inputs["student_logits"], inputs["teacher_logits"])
    yield Case("extreme", "logits hundreds and thousands apart", ("extreme",), inputs)
    inputs = draw(rng, 4)
    for name, shift in zip(logits_of(inputs), (1000, -1000), strict=False):
        inputs[name] += shift
    yield Case("shift", "logits around 1000 and -1000", ("shift", "extreme"), inputs)


def contradict(student: np.ndarray, teacher: np.ndarray) -> None:
    """Let the student think least likely what the teacher thinks most likely, for the last token."""
    row, favourite = student[-1], min(int(teacher[-1].argmax()), student.shape[-1] - 1)
    least = row.argmin()
    row[least], row[favourite] = row[favourite], row[least]


def temperatures(rng: np.random.Generator, draw: Draw) -> Iterator[Case]:
    yield Case("soft", "T = 2", ("temperature",), draw(rng, 4), {"temperature": 2.0})
    yield Case("sharp", "T = 0.5", ("temperature",), draw(rng, 4), {"temperature": 0.5})
    inputs = masked(draw(rng, 2, 4))
    yield Case("soft-mask", "T = 3, and 4 of 8 tokens count", ("temperature", "mask"), inputs, {"temperature": 3.0})


def closeness(rng: np.random.Generator, draw: Draw) -> Iterator[Case]:
    """Student and teacher are the same, or nearly so."""
    inputs = draw(rng, 3)
    inputs["teacher_logits"] = inputs["student_logits"].copy()
    yield Case("equal", "student and teacher are the same", ("equal",), inputs)
    inputs = draw(rng, 3)
    inputs["teacher_logits"] = inputs["student_logits"].copy()
    inputs["teacher_logits"][:, 2] += 1 / 8
    yield Case("near", "one logit differs by 1/8", ("near",), inputs)


def empty_on_both_sides(rng: np.random.Generator, draw: Draw) -> Iterator[Case]:
    inputs = draw(rng, 3)
    for name in logits_of(inputs):
        inputs[name][:, 5:] = -np.inf
    yield Case("both-empty", "two entries are -inf for both", ("minus-infinity",), inputs)


def empty_on_one_side(rng: np.random.Generator, draw: Draw) -> Iterator[Case]:
    """-inf on one side only, where it counts and where it does not."""
    for empty in logits_of(draw(rng, 1)):
        inputs = draw(rng, 3)
        inputs[empty][1, 4] = -np.inf
        who, flags = empty.removesuffix("_logits"), ("minus-infinity", "infinite", "none")
        yield Case(f"{who}-empty", f"an entry of one token is -inf for the {who}", flags, inputs, {"reduction": "none"})
    inputs = masked(draw(rng, 2, 4))
    inputs["student_logits"][0, 0, 1:] = -np.inf
    inputs["teacher_logits"][1, 1, :-1] = -np.inf
    flags = ("minus-infinity", "mask", "garbage")
    yield Case("garbage", "tokens that do not count have nothing in common", flags, inputs)


def ignored_labels(rng: np.random.Generator, draw: Draw, *, name: str = "labels") -> Iterator[Case]:
    inputs = draw(rng, 2, 4)
    inputs[name][~COUNTED] = -100
    comment = f"4 of 8 tokens have {name}: 3 of one sequence, 1 of the other"
    yield Case("ignored", comment, ("ignored-label",), inputs)
    inputs = masked(draw(rng, 2, 4))
    inputs[name][0, 1] = -100
    yield Case("ignored-mask", "a token that the mask leaves is ignored", ("ignored-label", "mask"), inputs)


def own_parameters(rng: np.random.Generator, draw: Draw, own: Iterable[dict[str, Any]]) -> Iterator[Case]:
    """A case for each of some attributes that belong to one loss alone."""
    for attributes in own:
        name = ", ".join(f"{key} = {value}" for key, value in attributes.items())
        id = "-".join(f"{key}-{value}".lower() for key, value in attributes.items())
        yield Case(id, name, ("parameter",), draw(rng, 4), attributes)


def padded_mask() -> np.ndarray:
    """4 sequences of up to 32 tokens, each after a prompt that does not count."""
    starts, ends = np.array([[3], [9], [0], [5]]), np.array([[31], [24], [12], [29]])
    position = np.arange(32)
    return (starts <= position) & (position < ends)


def padded_batch(rng: np.random.Generator, *, draw: Draw, attributes: dict[str, Any]) -> Case:
    """A batch as in training."""
    inputs = {**draw(rng, 4, 32, classes=101), "mask": padded_mask()}
    return Case("batch", "4 sequences of up to 32 tokens, padded", ("mask",), inputs, attributes)


def logits_of(inputs: Inputs) -> list[str]:
    return [name for name in inputs if name.endswith("logits")]


def loss_subject(
    function: Callable,
    wrt: tuple[str, ...],
    convention: str,
    draw: Callable[[np.random.Generator], Iterable[Case]],
    batch: Callable[[np.random.Generator], Case],
) -> Subject:
    """A loss, which its pullback's cotangent scales."""
    return Subject(function.__name__, function, wrt, ("loss",), convention, draw, batch)
