"""The KLs of float32 logits: quick arithmetic where it is enough, longer where it is not, and the same answer."""

import numpy as np
import pytest

from minikd.losses import forward_kl, reverse_kl, symmetric_kl
from minikd.losses.pair import plain, single
from minikd.losses.tokens import HOST_BLOCK_BYTES

V = 401


def rows_apart(rng, n, distance):
    """n rows of teacher's and student's logits, float32, `distance` apart."""
    teacher = 2 * rng.normal(size=(n, V))
    return (teacher + distance * rng.normal(size=(n, V))).astype(np.float32), teacher.astype(np.float32)


def off(kl, student, teacher, temperature):
    """The relative errors of the values and of the gradients, row by row, against float64 logits."""
    (value, vjp), (true_value, true_vjp) = (
        kl(z, u, temperature=temperature, reduction="none")
        for z, u in ((student, teacher), (student.astype(np.float64), teacher.astype(np.float64)))
    )
    gradient, true_gradient = vjp(), true_vjp()
    assert value.dtype == gradient.dtype == np.float32
    lost = np.linalg.norm(gradient - true_gradient, axis=-1) / np.linalg.norm(true_gradient, axis=-1)
    return np.abs(value / true_value - 1), lost


@pytest.mark.parametrize("kl", [forward_kl, reverse_kl, symmetric_kl])
@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
@pytest.mark.parametrize("distance", [1e-3, 0.03, 0.1, 0.3, 1.0, 3.0])
def test_every_row_is_right_to_the_millionth(kl, temperature, distance, rng):
    student, teacher = rows_apart(rng, 100, distance)
    offset = np.float32(rng.choice([-90, 0, 90]))  # published models' logits have a level far from 0
    values, gradients = off(kl, student + offset, teacher, temperature)
    assert max(values.max(), gradients.max()) < 2e-6


def test_blocks_of_both_kinds_in_one_call(rng):
    n = HOST_BLOCK_BYTES // (4 * V)  # rows of a block
    near, far = rows_apart(rng, n, 1e-3), rows_apart(rng, n, 1.0)
    for order in ((near, far, near), (far, near, far)):
        student, teacher = (np.concatenate(arrays) for arrays in zip(*order, strict=True))
        values, gradients = off(forward_kl, student, teacher, 1.0)
        assert max(values.max(), gradients.max()) < 2e-6


def test_the_quick_arithmetic_is_used_where_it_is_enough(rng, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "minikd.losses.divergences.KL_PAIRINGS", (single, lambda *a: seen.append(len(a[0])) or plain(*a))
    )
    forward_kl(*rows_apart(rng, 100, 1.0))
    assert not seen
    forward_kl(*rows_apart(rng, 100, 0.01))
    assert seen == [100]
