"""Losses on hidden states."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from minikd.losses.hidden import attention_transfer, cosine_hidden, mse_hidden, relation_kd
from minikd.oracle.subjects.case import Case, Draw, Inputs, Subject, sixteenths
from minikd.oracle.subjects.tokens import COUNTED, loss_subject, masked, padded_mask


def states(rng: np.random.Generator, *tokens: int, channels: int = 4, teacher_channels: int = 6) -> Inputs:
    """Hidden states of student and teacher, of two widths."""
    return {
        "student": sixteenths(rng, *tokens, channels),
        "teacher": sixteenths(rng, *tokens, teacher_channels),
    }


def states_of_one_width(rng: np.random.Generator, *tokens: int, channels: int = 5) -> Inputs:
    return states(rng, *tokens, channels=channels, teacher_channels=channels)


def projected_states(rng: np.random.Generator, *tokens: int, channels: int = 3, teacher_channels: int = 5) -> Inputs:
    """The student's states, the teacher's, and the projection from the one width to the other."""
    inputs = states(rng, *tokens, channels=channels, teacher_channels=teacher_channels)
    return {**inputs, "projection": sixteenths(rng, channels, teacher_channels)}


def state_cases(rng: np.random.Generator, *, draw: Draw, attributes: dict[str, Any] | None = None) -> Iterator[Case]:
    """Tokens in sequences; `attributes` belong to all cases."""

    def case(id: str, comment: str, inputs: Inputs, *flags: str, **own: str) -> Case:
        return Case(id, comment, flags, inputs, {**(attributes or {}), **own})

    yield case("basic", "one sequence of four tokens", draw(rng, 1, 4))
    yield case("batch-axes", "two sequences of three tokens", draw(rng, 2, 3))
    inputs = masked(draw(rng, 2, 4))
    yield case("mask", "4 of 8 tokens count: 3 of one sequence, 1 of the other", inputs, "mask")
    yield case("sum", "the sum", draw(rng, 2, 3), "sum", reduction="sum")
    yield case("none", "nothing is added up", draw(rng, 2, 3), "none", reduction="none")
    inputs = masked(draw(rng, 2, 4))
    yield case("mask-none", "nothing is added up, and 4 of 8 tokens count", inputs, "mask", "none", reduction="none")
    yield case("one-token", "one token", draw(rng, 1, 1), "one-token")
    yield case("odd", "12 channels", draw(rng, 2, 7, channels=12), "odd-size")
    inputs = masked(draw(rng, 2, 4))
    inputs["student"][~COUNTED] *= 512
    inputs["teacher"][~COUNTED] *= 512
    yield case("garbage", "what does not count is large", inputs, "mask", "garbage")


def cosine_cases(rng: np.random.Generator) -> Iterator[Case]:
    yield from state_cases(rng, draw=states_of_one_width)
    inputs = states_of_one_width(rng, 1, 3)
    inputs["student"][0, 0] = 0
    inputs["teacher"][0, 1] = 0
    yield Case("zero", "a vector of zeros has no direction: its loss is 1", ("limit",), inputs)
    inputs = states_of_one_width(rng, 1, 3)
    inputs["teacher"] = 2 * inputs["student"]
    yield Case("parallel", "vectors that point the same way", ("equal",), inputs)


def state_batch(rng: np.random.Generator, *, draw: Draw, attributes: dict[str, Any]) -> Case:
    inputs = {**draw(rng, 4, 32, channels=48), "mask": padded_mask()}
    return Case("batch", "4 sequences of up to 32 tokens, padded", ("mask",), inputs, attributes)


def _hidden(
    function: Callable,
    wrt: tuple[str, ...],
    convention: str,
    draw: Draw,
    cases: Callable[[np.random.Generator], Iterator[Case]] | None = None,
    **attributes: Any,
) -> Subject:
    cases = cases or partial(state_cases, draw=draw, attributes=attributes)
    return loss_subject(function, wrt, convention, cases, partial(state_batch, draw=draw, attributes=attributes))


HIDDEN = (
    _hidden(
        mse_hidden,
        ("student", "projection"),
        "mean over the channels of (student projection - teacher)^2; mean over the counted tokens",
        projected_states,
    ),
    _hidden(
        cosine_hidden,
        ("student",),
        "1 - cos(student, teacher); mean over the counted tokens",
        states_of_one_width,
        cosine_cases,
    ),
    _hidden(
        attention_transfer,
        ("student",),
        "half the squared distance of the normalised sums of squares by token; one loss a sequence",
        states,
    ),
    _hidden(
        relation_kd,
        ("student",),
        "KL(teacher || student) of softmax(X X^T / sqrt(D)); mean over the heads, then over the counted tokens",
        states,
        n_head=2,
    ),
)
