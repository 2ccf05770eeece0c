import sys

import numpy as np
import pytest

from minikd.backend import (
    add_rows,
    at_least_float32,
    get_array_module,
    on_host,
    row_blocks,
    row_dot,
    row_sum,
    select_device,
    sum_rows,
    to_host,
    unbuffered_rows,
)


def test_array_module(xp):
    x = xp.asarray(np.zeros(3))
    assert get_array_module(x) is xp
    assert on_host(x) == (xp is np)


def test_numbers_belong_to_numpy():
    assert get_array_module(3.0) is np and get_array_module(np.float32(3)) is np


def test_to_host(xp, rng):
    x = rng.normal(size=(3, 4))
    back = to_host(xp.asarray(x))
    assert type(back) is np.ndarray and np.array_equal(back, x)


def test_to_host_does_not_copy_what_is_there(rng):
    x = rng.normal(size=3)
    assert to_host(x) is x


@pytest.mark.parametrize("n_rows", [0, 1, 7, 64, 65])
@pytest.mark.parametrize("block_bytes", [1, 100, 512, 10**6])
def test_row_blocks_cover_the_rows_in_order(n_rows, block_bytes):
    x = np.zeros((n_rows, 8))
    blocks = list(row_blocks(x, block_bytes=block_bytes))
    assert [i for block in blocks for i in range(n_rows)[block]] == list(range(n_rows))
    assert all(x[block].nbytes <= max(block_bytes, 64) for block in blocks)


def test_row_blocks_fill_their_size():
    assert [block.stop - block.start for block in row_blocks(np.zeros((10, 8)), block_bytes=4 * 64)] == [4, 4, 2]
    assert len(list(row_blocks(np.zeros((10, 8)), row_bytes=1000, block_bytes=2000))) == 5


def test_a_gpu_takes_all_rows_at_once(gpu_xp):
    assert list(row_blocks(gpu_xp.zeros((1000, 8)), block_bytes=64)) == [slice(0, 1000)]


@pytest.mark.parametrize("dtype, expected", [("f2", "f4"), ("f4", "f4"), ("f8", "f8"), ("i4", "f4"), ("?", "f4")])
def test_at_least_float32(xp, dtype, expected):
    x = xp.asarray(np.ones(3), dtype=dtype)
    y = at_least_float32(x)
    assert y.dtype == expected
    assert (y is x) == (dtype == expected)


def test_sum_rows(xp, rng):
    x = rng.normal(size=(2, 5, 3))
    np.testing.assert_allclose(to_host(sum_rows(xp.asarray(x))), x.sum(axis=(0, 1)), rtol=1e-14)


@pytest.mark.parametrize("shape", [(2, 5, 41), (0, 41), (1, 1), (3, 50_257), (700, 401)])
def test_row_dot_and_row_sum(xp, rng, shape):
    x, y = rng.normal(size=shape), rng.normal(size=shape)
    tolerance = {"rtol": 1e-12, "atol": 1e-10}
    np.testing.assert_allclose(to_host(row_dot(xp.asarray(x), xp.asarray(y))), (x * y).sum(axis=-1), **tolerance)
    np.testing.assert_allclose(to_host(row_sum(xp.asarray(x))), x.sum(axis=-1), **tolerance)


def test_row_dot_and_row_sum_of_every_other_column(rng):
    x, y = rng.normal(size=(2, 3, 100_001))[..., ::2]
    np.testing.assert_allclose(row_dot(x, y), (x * y).sum(axis=-1), rtol=1e-12, atol=1e-10)
    np.testing.assert_allclose(row_sum(x), x.sum(axis=-1), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("n_columns", [1, 41, 50_257])
def test_unbuffered_rows_restores_the_buffer(n_columns):
    before = np.getbufsize()
    with pytest.raises(KeyError), unbuffered_rows(n_columns):
        assert np.getbufsize() <= before
        raise KeyError
    assert np.getbufsize() == before


def rows_added_one_by_one(ids, rows, n):
    table = np.zeros((n, rows.shape[1]), rows.dtype)
    for i, row in zip(ids, rows, strict=True):
        table[i] += row
    return table


@pytest.mark.parametrize("n_rows, n_channels, n", [(1, 1, 1), (5, 3, 9), (41, 7, 4), (401, 5, 41)])
@pytest.mark.parametrize("dtype, tol", [("f4", 1e-6), ("f8", 1e-15)])
def test_add_rows(xp, rng, n_rows, n_channels, n, dtype, tol):
    ids, rows = rng.integers(0, n, n_rows), rng.normal(size=(n_rows, n_channels)).astype(dtype)
    table = to_host(add_rows(xp.asarray(ids), xp.asarray(rows), n))
    expected = rows_added_one_by_one(ids, rows.astype("f8"), n)
    assert table.dtype == dtype and table.shape == (n, n_channels)
    assert np.linalg.norm(table - expected) <= tol * np.linalg.norm(expected)


def test_add_rows_of_no_token(xp):
    table = to_host(add_rows(xp.asarray(np.zeros(0, dtype=int)), xp.zeros((0, 3)), 4))
    assert table.shape == (4, 3) and not table.any()


def test_add_rows_of_rows_that_are_not_contiguous(xp, rng):
    ids, rows = rng.integers(0, 4, 9), rng.normal(size=(5, 9))
    table = to_host(add_rows(xp.asarray(ids), xp.asarray(rows).T, 4))
    np.testing.assert_allclose(table, rows_added_one_by_one(ids, rows.T, 4), rtol=1e-13)


def test_add_rows_gives_the_same_bytes_again(xp, rng):
    ids, rows = xp.asarray(rng.integers(0, 3, 1000)), xp.asarray(rng.normal(size=(1000, 5)).astype("f4"))
    first, second = (to_host(add_rows(ids, rows, 3)).tobytes() for _ in range(2))
    assert first == second


def test_cpu_is_numpy():
    assert select_device("cpu") == (np, "cpu")


def test_unknown_device():
    with pytest.raises(ValueError, match=r"device is 'tpu'; wanted auto, cpu or gpu"):
        select_device("tpu")


class BrokenCuda:
    """A CuPy whose compiler is missing: memory can be had, kernels can't."""

    def ones(self, shape, dtype):
        return np.ones(shape, dtype)

    def tanh(self, x):
        raise RuntimeError("libnvrtc.so.12: cannot open shared object file\nsecond line")


class WrongCuda(BrokenCuda):
    def tanh(self, x):
        return x + 1


@pytest.mark.parametrize(
    "module, reason",
    [(None, "CuPy is not installed"), (BrokenCuda(), r"libnvrtc.so.12: .* file$"), (WrongCuda(), "wrong numbers")],
)
def test_without_a_sound_gpu(monkeypatch, module, reason):
    monkeypatch.setitem(sys.modules, "cupy", module)
    with pytest.raises(ValueError, match=reason):
        select_device("gpu")
    xp, line = select_device("auto")
    assert xp is np and line.startswith("cpu (") and "\n" not in line


@pytest.mark.gpu
def test_with_a_gpu(cupy):
    assert select_device("auto")[0] is cupy
