"""Teachers of a few entries a token."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from minikd.losses.sparse import sparse_kl, top_k_teacher
from minikd.oracle.subjects.case import Case, Inputs, Subject, distinct, sixteenths
from minikd.oracle.subjects.tokens import hard_logits, loss_subject, padded_batch, sizes_and_reductions, temperatures

TAILS = ("bucket", "renormalize", "zero")


def top_k_cases(rng: np.random.Generator) -> Iterator[Case]:
    def case(id: str, comment: str, k: int, *flags: str, classes: int = 7, temperature: float = 1.0) -> Case:
        attributes = {"k": k} if temperature == 1 else {"k": k, "temperature": temperature}
        return Case(id, comment, flags, {"logits": distinct(rng, 2, 3, classes)}, attributes)

    yield case("basic", "3 of 7", 3)
    yield case("soft", "T = 2: probabilities at T, of all entries", 3, "temperature", temperature=2.0)
    yield case("one", "the most likely one", 1, "limit")
    yield case("all", "all of them, sorted", 7, "limit")
    yield case("odd", "5 of 41", 5, "odd-size", classes=41)
    inputs = {"logits": distinct(rng, 4, 7) * 64}
    yield Case("extreme", "logits hundreds apart", ("extreme",), inputs, {"k": 3})


def top_k_batch(rng: np.random.Generator) -> Case:
    attributes = {"k": 8, "temperature": 2.0}
    return Case("batch", "8 of 101", ("temperature",), {"logits": distinct(rng, 4, 32, 101)}, attributes)


def sparse(rng: np.random.Generator, *tokens: int, classes: int = 7, k: int = 3) -> Inputs:
    """The student's logits, and k entries of a teacher that leaves some of its mass to the others."""
    k = min(k, classes)
    order = rng.permuted(np.broadcast_to(np.arange(classes), (*tokens, classes)), axis=-1)
    floor = np.ceil(16 * np.log(k + 1)) / 16  # k exp(-floor) is below 1
    return {
        "student_logits": sixteenths(rng, *tokens, classes),
        "ids": np.ascontiguousarray(order[..., :k]),
        "logprobs": -floor - abs(sixteenths(rng, *tokens, k, scale=0.5)),
    }


def sparse_cases(rng: np.random.Generator) -> Iterator[Case]:
    yield from sizes_and_reductions(rng, sparse)
    yield from temperatures(rng, sparse)
    yield from hard_logits(rng, sparse)
    for tail in TAILS[1:]:
        for temperature in (1.0, 2.0):
            id, comment = f"{tail}-{temperature:g}", f"tail = {tail!r}, T = {temperature:g}"
            yield Case(
                id, comment, ("parameter", "temperature"), sparse(rng, 4), {"tail": tail, "temperature": temperature}
            )
    inputs = sparse(rng, 4)
    np.put_along_axis(inputs["student_logits"], inputs["ids"], 8.0, axis=-1)
    yield Case("negative", "the truncated sum is negative: no divergence", ("parameter",), inputs, {"tail": "zero"})
    inputs = sparse(rng, 3)
    np.put_along_axis(inputs["student_logits"], inputs["ids"][:, :1], -1000.0, axis=-1)
    yield Case("unlikely", "the student hardly ever says what the teacher does", ("extreme",), inputs)
    inputs = sparse(rng, 3)
    np.put_along_axis(inputs["student_logits"], inputs["ids"][:, :1], -np.inf, axis=-1)
    inputs["logprobs"][:, 0] = -np.inf
    yield Case("both-empty", "one of the ids is -inf for both", ("minus-infinity",), inputs)
    inputs = sparse(rng, 3)
    inputs["student_logits"][1, inputs["ids"][1, 0]] = -np.inf
    comment, infinite = "an id of one token is -inf for the student", ("minus-infinity", "infinite", "none")
    yield Case("student-empty", comment, infinite, inputs, {"reduction": "none"})


SPARSE = (
    Subject(
        "top_k_teacher",
        top_k_teacher,
        (),
        ("ids", "logprobs"),
        "log-probabilities in the full softmax, not renormalised; the largest first",
        top_k_cases,
        top_k_batch,
    ),
    loss_subject(
        sparse_kl,
        ("student_logits",),
        "KL(p || q) on the ids; what the teacher leaves over is one more class (bucket), or nothing; no T^2",
        sparse_cases,
        partial(padded_batch, draw=partial(sparse, k=8), attributes={"temperature": 2.0}),
    ),
)
