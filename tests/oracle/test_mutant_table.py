"""The page about the planted mistakes says what the code measures."""

import pytest

from docs.mutants import CHECKS, MARKS, PAGE, measure, page, table
from minikd.oracle.mutants import MUTANTS
from minikd.oracle.subjects import SUBJECTS


@pytest.fixture(scope="module")
def committed():
    return PAGE.read_text(encoding="utf-8")


def test_every_mutant_is_on_the_page(committed):
    assert f"{len(MUTANTS)} functions" in committed and f"in {len(SUBJECTS)} functions" in committed
    rows = set(committed.splitlines())
    for mutant in MUTANTS:
        cells = f"| {mutant.name} | {mutant.diagnosis.replace('|', chr(92) + '|')} | "
        assert any(row.startswith(cells) for row in rows), mutant
    assert all(f"\n## {name}\n" in committed for name in SUBJECTS)


@pytest.mark.parametrize("subject, name", [("layer_norm", "detached-variance"), ("forward_kl", "terms-clamped")])
def test_a_row_is_what_is_measured(committed, subject, name):
    (mutant,) = [mutant for mutant in MUTANTS if (mutant.subject, mutant.name) == (subject, name)]
    (passed,) = measure([mutant]).values()
    row = [mutant.name, mutant.diagnosis, *(MARKS[passed[check]] for check in CHECKS)]
    assert table([], [row]).splitlines()[-1] in committed
    assert passed["minikd"] is False


def test_checks_can_fail_and_can_pass():
    some = [m for m in MUTANTS if m.subject in ("softmax", "linear", "cosine_schedule")]
    measured = measure(some)
    for check in set(CHECKS) - {"minikd"}:
        assert len({passed[check] for passed in measured.values()} - {None}) == 2, check


@pytest.mark.slow
def test_the_page_is_what_is_measured(committed):
    assert committed == page(measure(MUTANTS))
