"""The cases are what they say: exact, complete, the same for the same seed; and the subjects answer right to them."""

import inspect
import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from minikd.oracle import check_vjp
from minikd.oracle.compare import TOLERANCES, compare_outputs
from minikd.oracle.subjects import FLAGS, SUBJECTS, Case

EXACT_ANYWAY = {"extreme", "shift", "minus-infinity", "garbage"}
each_subject = pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS.keys())


@cache
def cases_of(subject, seed=0):
    rng = np.random.default_rng(seed)
    return [*subject.cases(rng), subject.large_case(rng)]


@each_subject
def test_subjects_describe_themselves(subject):
    parameters = inspect.signature(subject.function).parameters
    assert subject.function.__name__ == subject.name and subject.function.__doc__
    assert set(subject.wrt) <= set(parameters) and subject.returns
    assert subject.convention and len(subject.convention) < 160 and not subject.convention.endswith(".")


@each_subject
def test_cases_are_complete(subject):
    parameters = list(inspect.signature(subject.function).parameters)
    cases = cases_of(subject)
    assert len(cases) > 4 and len({case.id for case in cases}) == len(cases)
    for case in cases:
        assert set(case.flags) <= set(FLAGS) and case.comment
        assert case.id == case.id.lower() and " " not in case.id
        assert list(case.inputs) == sorted(case.inputs, key=parameters.index)
        assert "mask" not in case.inputs or (list(case.inputs)[-1] == "mask" and case.inputs["mask"].dtype == bool)
        assert set(case.attributes) <= set(parameters) - set(case.inputs)
        assert json.loads(json.dumps(case.attributes)) == case.attributes
        if case.id != "batch" and "float64" in {str(x.dtype) for x in case.inputs.values()}:
            assert sum(x.size for x in case.inputs.values()) < 3000


@each_subject
def test_inputs_are_exact_in_short_types(subject):
    for case in cases_of(subject):
        for name, x in case.inputs.items():
            assert x.flags.c_contiguous and x.flags.writeable and x.dtype in ("float64", "int64", "bool")
            if x.dtype != "float64":
                continue
            finite = x[np.isfinite(x)]
            assert (x == x.astype("float32")).all() and not np.isnan(x).any()
            if not EXACT_ANYWAY & set(case.flags) and case.id != "batch":
                assert (16 * finite == np.round(16 * finite)).all() and (abs(finite) < 16).all(), (case.id, name)
            assert np.isfinite(x).all() or "minus-infinity" in case.flags


@each_subject
def test_the_same_seed_gives_the_same_cases(subject):
    one, same, other = cases_of(subject), cases_of.__wrapped__(subject), cases_of(subject, 1)
    assert [case.id for case in one] == [case.id for case in other]
    for a, b in zip(one, same, strict=True):
        assert (a.id, a.flags, a.attributes) == (b.id, b.flags, b.attributes)
        for name in a.inputs:
            np.testing.assert_array_equal(a.inputs[name], b.inputs[name])
        np.testing.assert_array_equal(a.cotangent, b.cotangent)
    assert not any(case.inputs for case in one) or any(
        not np.array_equal(a.inputs[name], b.inputs[name]) for a, b in zip(one, other, strict=True) for name in a.inputs
    )


@each_subject
def test_outputs_have_names_and_shapes(subject):
    for case in cases_of(subject):
        before = {name: x.copy() for name, x in case.inputs.items()}
        outputs = subject.outputs(case)
        assert list(outputs) == [*subject.returns, *("d" + name for name in subject.wrt)]
        assert not any(np.isnan(y).any() for y in outputs.values())
        for name in subject.wrt:
            assert outputs["d" + name].shape == case.inputs[name].shape
        if not {"infinite", "minus-infinity"} & set(case.flags):
            assert all(np.isfinite(y).all() for y in outputs.values()), case.id
        for name, x in before.items():
            np.testing.assert_array_equal(case.inputs[name], x)
        value = outputs[subject.returns[0]]
        assert (case.cotangent is not None) == (bool(subject.wrt) and np.ndim(value) > 0)
        assert case.cotangent is None or (case.cotangent.shape == value.shape and (case.cotangent != 0).all())


@each_subject
def test_a_flag_says_what_is_there(subject):
    for case in cases_of(subject):
        flags, attributes = set(case.flags), case.attributes
        assert ("mask" in flags) == ("mask" in case.inputs)
        for reduction in ("sum", "none"):
            assert (reduction in flags) == (attributes.get("reduction") == reduction)
        labels = [x for name, x in case.inputs.items() if name in ("labels", "tokens")]
        assert ("ignored-label" in flags) == any((x == -100).any() for x in labels)


def test_every_flag_is_used():
    used = {flag for subject in SUBJECTS.values() for case in cases_of(subject) for flag in case.flags}
    assert used == set(FLAGS)


def test_a_call_puts_every_input_where_it_belongs(rng):
    seen = []

    def like_distillation_loss(student_logits, teacher_logits, labels, *, alpha, temperature, mask):
        seen.append((student_logits, teacher_logits, labels, alpha, temperature, mask))

    inputs = {name: rng.random(3) for name in ("student_logits", "teacher_logits", "labels", "alpha", "mask")}
    case = Case("all", "", (), inputs, {"temperature": 2.0})
    SUBJECTS["distillation_loss"].call(case, like_distillation_loss)
    (arguments,) = seen
    assert arguments[4] == 2.0
    assert all(got is wanted for got, wanted in zip((*arguments[:4], arguments[5]), inputs.values(), strict=True))


PRECISE = [subject for subject in SUBJECTS.values() if subject.name != "sample_token"]  # a token is picked or not
STOPPED = {"taid", "minillm_loss"}  # a part of the value is a constant in the gradient
DIFFERENTIABLE = [subject for subject in SUBJECTS.values() if subject.wrt and subject.name not in STOPPED]


@pytest.mark.parametrize("id", ["basic", *(pytest.param(id, marks=pytest.mark.slow) for id in ("soft", "mask-none"))])
@pytest.mark.parametrize("subject", DIFFERENTIABLE, ids=lambda subject: subject.name)
def test_values_and_gradients_agree(subject, id):
    for case in cases_of(subject):
        if case.id == id:
            report = check(subject, case)
            assert report.passed, report


def check(subject, case, function=None):
    """check_vjp on one case, along two random directions for each input."""

    def f(*arrays):
        return subject.call(replace(case, inputs=dict(zip(case.inputs, arrays, strict=True))), function)

    names = list(case.inputs)
    wrt = [names.index(name) for name in subject.wrt]
    return check_vjp(f, list(case.inputs.values()), wrt=wrt, max_entries=0, directions=2)


@pytest.mark.parametrize("subject", PRECISE, ids=lambda subject: subject.name)
def test_float32_is_within_its_tolerance(subject):
    """The tolerances leave room for a right function in a short type, on all cases but those that say otherwise."""
    for case in cases_of(subject)[:-1]:
        if "near" in case.flags:
            continue
        inputs = {name: x.astype("float32") if x.dtype == "float64" else x for name, x in case.inputs.items()}
        cotangent = None if case.cotangent is None else case.cotangent.astype("float32")
        got = subject.outputs(replace(case, inputs=inputs, cotangent=cotangent))
        compared = compare_outputs(got, subject.outputs(case), tol=TOLERANCES["float32"])
        assert all(comparison.right for comparison in compared.values()), f"{case.id}: {compared}"
