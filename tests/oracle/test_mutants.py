"""The oracle rejects every planted mistake, tells one from another, and accepts what is right in another form."""

import itertools
from collections import defaultdict
from functools import cache

import numpy as np
import pytest

from minikd.oracle.compare import TOLERANCES, compare_outputs
from minikd.oracle.mutants import MUTANTS
from minikd.oracle.subjects import SUBJECTS
from tests.oracle.alternates import ALTERNATES
from tests.oracle.test_subjects import STOPPED, check

TOL = TOLERANCES["float64"]
BY_SUBJECT = defaultdict(list)
for mutant in MUTANTS:
    BY_SUBJECT[mutant.subject].append(mutant)

each_subject = pytest.mark.parametrize("name", SUBJECTS)


@cache
def cases_of(name, seed=0):
    return SUBJECTS[name].cases(np.random.default_rng(seed))


@cache
def wanted_of(name, seed=0):
    return [SUBJECTS[name].outputs(case) for case in cases_of(name, seed)]


@cache
def got_of(mutant, seed=0):
    return [SUBJECTS[mutant.subject].outputs(case, mutant.function) for case in cases_of(mutant.subject, seed)]


def wrong_names(got, wanted):
    return [name for name, comparison in compare_outputs(got, wanted, tol=TOL).items() if not comparison.right]


def same(some, others):
    return not any(wrong_names(got, wanted) for got, wanted in zip(some, others, strict=True))


@each_subject
def test_mutants_describe_themselves(name):
    mutants = BY_SUBJECT[name]
    assert len(mutants) >= 4 and len({mutant.name for mutant in mutants}) == len(mutants)
    for mutant in mutants:
        assert mutant.name == mutant.name.lower() and " " not in mutant.name
        assert 10 < len(mutant.diagnosis) < 120 and not mutant.diagnosis.endswith(".")
        assert mutant.function.__name__ == name and mutant.function.__doc__ == SUBJECTS[name].function.__doc__


@each_subject
def test_every_mutant_is_rejected(name):
    for mutant in BY_SUBJECT[name]:
        assert not same(got_of(mutant), wanted_of(name)), f"{mutant.name} survives"


@each_subject
def test_no_two_mutants_look_alike(name):
    """Or the diagnosis would be a guess."""
    for one, other in itertools.combinations(BY_SUBJECT[name], 2):
        assert not same(got_of(one), got_of(other)), f"{one.name} is {other.name}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
@each_subject
def test_fresh_cases_do_as_well(name, seed):
    for mutant in BY_SUBJECT[name]:
        assert not same(got_of(mutant, seed), wanted_of(name, seed)), f"{mutant.name} survives"
    for one, other in itertools.combinations(BY_SUBJECT[name], 2):
        assert not same(got_of(one, seed), got_of(other, seed)), f"{one.name} is {other.name}"


PLAIN = {
    "basic",
    "batch-axes",
    "soft",
    "mask",
    "mask-none",
    "none",
    "heads",
    "square",
    "repeated",
    "eps",
    "bucket",
    "sum",
}


def first_wrong_gradient(mutant):
    """A plain case where the value is right and a gradient of the right shape is not; None if there is none."""
    name = mutant.subject
    value = SUBJECTS[name].returns[0]
    for case, got, wanted in zip(cases_of(name), got_of(mutant), wanted_of(name), strict=True):
        wrong = wrong_names(got, wanted)
        if wrong and value not in wrong and case.id in PLAIN:
            return case
    return None


SOON = {"softmax", "linear", "layer_norm", "attention", "cross_entropy"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in SOON else pytest.mark.slow)
        for name in SUBJECTS
        if SUBJECTS[name].wrt and name not in STOPPED
    ],
)
def test_check_vjp_rejects_a_gradient_that_is_not_that_of_the_value(name):
    for mutant in BY_SUBJECT[name]:
        case = first_wrong_gradient(mutant)
        if case is not None:
            assert not check(SUBJECTS[name], case, mutant.function).passed, f"{mutant.name}, {case.id}"


@pytest.mark.parametrize(
    "subject, function, without", ALTERNATES, ids=lambda x: getattr(x, "__name__", str(x) if x else "all")
)
def test_other_forms_are_accepted(subject, function, without):
    seen = 0
    for case, wanted in zip(cases_of(subject), wanted_of(subject), strict=True):
        if set(without) & set(case.flags):
            continue
        seen += 1
        got = SUBJECTS[subject].outputs(case, function)
        compared = compare_outputs(got, wanted, tol=TOL)
        assert all(comparison.right for comparison in compared.values()), f"{case.id}: {compared}"
    assert seen > 2


def test_alternates_are_many():
    assert len({subject for subject, _, _ in ALTERNATES}) >= 34


KNOWN = {
    "KL direction exchanged": ("forward_kl", "reverse-kl"),
    "no T^2": ("distillation_loss", "no-squared-temperature"),
    "T^2 twice": ("distillation_loss", "temperature-squared-twice"),
    "gradient without 1/T": ("forward_kl", "no-temperature-in-gradient"),
    "T on one side only": ("forward_kl", "temperature-on-the-student-only"),
    "torch's mean": ("forward_kl", "mean-over-vocabulary"),
    "padding counted": ("cross_entropy", "padding-counted"),
    "prompt counted": ("cross_entropy", "prompt-counted"),
    "off by one between logits and labels": ("cross_entropy", "labels-shifted"),
    "mixture weights exchanged": ("generalized_jsd", "mixture-exchanged"),
    "mixture logged in probability space": ("js", "mixture-in-probability-space"),
    "JSD collapsing": ("generalized_jsd", "collapsing"),
    "truncated top-k called a KL": ("forward_kl", "truncated"),
    "teacher-only renormalisation": ("forward_kl", "teacher-renormalized"),
    "cross-entropy called KL": ("forward_kl", "cross-entropy"),
    "teacher's logits used for the student's": ("distillation_loss", "teacher-on-the-labels"),
    "CE term without gradient": ("distillation_loss", "hard-term-without-gradient"),
    "clamp at 0 that kills gradients": ("sparse_kl", "clamped"),
    "sums over chunks averaged with equal weight": ("cross_entropy", "mean-of-means"),
    "teacher not in eval": ("distill_step", "teacher-with-dropout"),
    "no stop-gradient": ("codistill_step", "teacher-not-detached"),
    "transposed weight gradient": ("linear", "transposed-weight-gradient"),
    "missing residual branch": ("block", "no-mlp-residual"),
    "mean over the wrong axis": ("layer_norm", "over-rows"),
    "forgotten bias gradient": ("linear", "bias-gradient-forgotten"),
    "missing causal mask in the backward": ("attention", "no-causal-mask-in-backward"),
    "detached variance": ("layer_norm", "detached-variance"),
    "softmax without max subtraction": ("softmax", "no-max-subtraction"),
    "exact GELU": ("gelu", "exact-form"),
    "L2 instead of decoupled decay": ("adamw_step", "l2"),
    "missing bias correction": ("adamw_step", "no-bias-correction"),
    "clip by value": ("clip_by_global_norm", "by-value"),
    "teacher's post-update logits": ("codistill_step", "teacher-moves-first"),
}


def test_the_mistakes_of_real_libraries_are_planted():
    planted = {(mutant.subject, mutant.name) for mutant in MUTANTS}
    assert not set(KNOWN.values()) - planted
