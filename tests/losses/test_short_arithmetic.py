"""Float32 logits, for which short arithmetic is enough in most rows: every row is right to the last digits anyway.

What rounding does to a row depends on how many entries share its mass, and on how far teacher and student are apart;
so these are batches of realistic sizes, beside the many small cases of docs/accuracy.md.
"""

import numpy as np
import pytest

from minikd.losses import DIVERGENCES
from minikd.losses.tokens import HOST_BLOCK_BYTES


def off(name, student, teacher, temperature):
    """The largest relative errors of the values and of the gradients, row by row, against float64 logits."""
    (value, vjp), (true_value, true_vjp) = (
        DIVERGENCES[name](z, u, temperature=temperature, reduction="none")
        for z, u in ((student, teacher), (student.astype(np.float64), teacher.astype(np.float64)))
    )
    gradient, true_gradient = vjp(), true_vjp()
    assert value.dtype == gradient.dtype == np.float32
    lost = np.linalg.norm(gradient - true_gradient, axis=-1) / np.linalg.norm(true_gradient, axis=-1)
    return max(np.abs(value / true_value - 1).max(), lost.max())


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "js"])
@pytest.mark.parametrize(
    "n, n_classes, spread", [(100, 401, 2.0), (100, 2048, 8.0), (4, 50_257, 0.3), (4, 128_256, 3.0)]
)
@pytest.mark.parametrize("distance", [1e-3, 0.1, 0.3, 1.0, 3.0])
def test_every_row_is_right_to_the_last_digits_of_float32(name, n, n_classes, spread, distance, rng):
    teacher = spread * rng.normal(size=(n, n_classes))
    student = teacher + distance * rng.normal(size=teacher.shape)
    for level in (-90.0, 0.0, 90.0):  # the logits of published models lie far from 0
        for temperature in (0.7, 2.0):
            rows = (student + level).astype(np.float32), teacher.astype(np.float32)
            assert off(name, *rows, temperature) < 3e-7


def test_rows_of_both_kinds_in_one_call(rng):
    n, n_classes = HOST_BLOCK_BYTES // (8 * 401), 401  # the rows of a block
    teacher = 2 * rng.normal(size=(3 * n, n_classes))
    for distances in ((1e-5, 1.0, 1e-5), (1.0, 1e-5, 1.0)):
        student = teacher + np.repeat(distances, n)[:, None] * rng.normal(size=teacher.shape)
        assert off("forward_kl", student.astype(np.float32), teacher.astype(np.float32), 1.0) < 3e-7
