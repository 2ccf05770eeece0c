"""Workers: parts side by side, in order; outside of their `with` they say so."""

import threading

import numpy as np
import pytest

from minikd.workers import Workers, parts_of


def test_parts_are_computed_side_by_side_and_returned_in_order():
    both = threading.Barrier(2, timeout=60)

    def square(x):
        both.wait()  # only passed by two at once
        return x * x

    with Workers(2) as workers:
        assert workers.map(square, range(4)) == [0, 1, 4, 9]


def test_one_worker_is_the_calling_thread():
    with Workers(1) as workers:
        assert workers.map(lambda _: threading.get_ident(), range(2)) == [threading.get_ident()] * 2


@pytest.mark.parametrize(("n", "count"), [(10, 3), (2, 3), (0, 2), (7, 1)])
def test_parts_cover_everything_once(n, count):
    parts = parts_of(n, count)
    assert len(parts) == count
    assert np.concatenate([np.arange(n)[part] for part in parts]).tolist() == list(range(n))


def test_workers_that_are_not_at_work():
    workers = Workers(2)
    with pytest.raises(RuntimeError, match="2 workers are not at work; wanted: with Workers"):
        workers.map(abs, [1])
    with workers:
        assert workers.map(abs, [-1]) == [1]
    with pytest.raises(RuntimeError, match="not at work"):
        workers.map(abs, [1])
    with pytest.raises(ValueError, match="threads is 0; wanted at least 1"):
        Workers(0)
