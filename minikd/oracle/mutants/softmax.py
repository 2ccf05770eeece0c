"""Mistakes in softmax and its logarithm."""

import math
from collections.abc import Callable

import numpy as np

from minikd.backend import Array
from minikd.oracle.mutants.planting import Bed, scaled, through_exp, through_probabilities, with_value
from minikd.softmax import log_softmax, softmax

MUTANTS = Bed()
plant = MUTANTS.plant


def overflowing(f: Callable) -> Callable:
    return lambda logits, temperature=1.0: f(through_exp(logits, temperature), temperature)


def one_largest_for_all_rows(f: Callable) -> Callable:
    return lambda logits, temperature=1.0: f(through_exp(logits - logits.max(), temperature), temperature)


def multiplied_by_temperature(f: Callable) -> Callable:
    return lambda logits, temperature=1.0: f(logits, 1 / temperature)


def without_temperature(f: Callable) -> Callable:
    return lambda logits, temperature=1.0: f(logits)


def gradient_without_temperature(f: Callable) -> Callable:
    return lambda logits, temperature=1.0: scaled(f(logits, temperature), temperature, value=False)


def over_rows(f: Callable) -> Callable:
    def mutated(logits: Array, temperature: float = 1.0) -> tuple[Array, Callable]:
        y, vjp = f(np.ascontiguousarray(logits.swapaxes(-1, -2)), temperature)
        return y.swapaxes(-1, -2), lambda dy: vjp(dy.swapaxes(-1, -2)).swapaxes(-1, -2)

    return mutated


for name, f in (("softmax", softmax), ("log_softmax", log_softmax)):
    plant(name, "no-max-subtraction", "exp overflows: subtract the largest logit of each row first")(overflowing(f))
    plant(name, "one-max-for-all", "you subtract the largest logit of the whole array: rows far below it become 0 / 0")(
        one_largest_for_all_rows(f)
    )
    plant(name, "temperature-multiplied", "you multiply the logits by T; they are divided by T")(
        multiplied_by_temperature(f)
    )
    plant(name, "temperature-ignored", "the temperature is not used")(without_temperature(f))
    plant(name, "no-temperature-in-gradient", "your gradient lacks the factor 1/T")(gradient_without_temperature(f))
    plant(name, "wrong-axis", "you normalise over the rows; the classes are the last axis")(over_rows(f))


@plant("softmax", "diagonal-gradient", "your gradient is p (1 - p): each probability depends on all logits of its row")
def _(logits: Array, temperature: float = 1.0) -> tuple[Array, Callable]:
    p, _ = softmax(logits, temperature)
    return p, lambda dp: p * (1 - p) * dp / temperature


@plant("softmax", "no-sum-in-gradient", "your gradient is p dp / T: it lacks the share of the sum, p (dp - sum(p dp))")
def _(logits: Array, temperature: float = 1.0) -> tuple[Array, Callable]:
    p, _ = softmax(logits, temperature)
    return p, lambda dp: p * dp / temperature


@plant("log_softmax", "log-of-softmax", "you take the logarithm of a softmax: where it underflows to 0 you get -inf")
def _(logits: Array, temperature: float = 1.0) -> tuple[Array, Callable]:
    return log_softmax(through_probabilities(logits, temperature), temperature)


@plant("log_softmax", "gradient-for-one-label", "your gradient is dlogp - p, right only where dlogp sums to 1")
def _(logits: Array, temperature: float = 1.0) -> tuple[Array, Callable]:
    logp, _ = log_softmax(logits, temperature)
    return logp, lambda dlogp: np.where(np.isinf(logp), 0, dlogp - np.exp(logp)) / temperature


plant("log_softmax", "gradient-of-softmax", "your gradient is that of softmax, not of its logarithm")(
    with_value(log_softmax, softmax)
)


@plant("log_softmax", "base-2", "your logarithms are to the base 2 (bits); wanted natural ones (nats)")
def _(logits: Array, temperature: float = 1.0) -> tuple[Array, Callable]:
    return scaled(log_softmax(logits, temperature), 1 / math.log(2))
