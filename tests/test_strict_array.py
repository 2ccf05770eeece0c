"""The stand-in for CuPy refuses what CuPy refuses, and computes what NumPy computes."""

import inspect

import numpy as np
import pytest

from minikd.backend import get_array_module, on_host, to_host
from minikd.models.parameters import Parameters
from tests import strict_array
from tests.strict_array import StrictArray, Synchronised, assert_runs_on_strict, count_syncs, no_sync, xp


@pytest.fixture
def host(rng):
    return rng.normal(size=(3, 5))


@pytest.fixture
def a(host):
    return xp.asarray(host)


REFUSED = {
    "implicit conversion": lambda a, h: np.asarray(a),
    "copy to NumPy": lambda a, h: np.array(a),
    "buffer protocol": lambda a, h: memoryview(a),
    "NumPy's function": lambda a, h: np.sum(a),
    "NumPy's ufunc": lambda a, h: np.exp(a),
    "NumPy's ufunc, out": lambda a, h: np.exp(h, out=a),
    "NumPy's concatenate": lambda a, h: np.concatenate([h, a]),
    "NumPy's constructor": lambda a, h: np.array([a, a]),
    "NumPy's assignment": lambda a, h: h.__setitem__(slice(None), a),
    "NumPy's index": lambda a, h: h[a[0].astype(int)],
    "operand from NumPy": lambda a, h: a + h,
    "operand from NumPy, 0-d": lambda a, h: a + np.array(1.0),
    "operand from NumPy, left": lambda a, h: h * a,
    "operand from NumPy, matrix": lambda a, h: h.T @ a,
    "operand from NumPy, in place": lambda a, h: a.__iadd__(h),
    "operand from NumPy, into NumPy": lambda a, h: h.__iadd__(a),
    "operand from NumPy, compared": lambda a, h: a < h,
    "operand from NumPy, ufunc": lambda a, h: xp.maximum(a, h),
    "operand from NumPy, matmul": lambda a, h: xp.matmul(a.T, h),
    "operand from NumPy, where": lambda a, h: xp.where(a > 0, a, h),
    "operand from NumPy, einsum": lambda a, h: xp.einsum("ij,ij", a, h),
    "operand from NumPy, assigned": lambda a, h: a.__setitem__(Ellipsis, h),
    "operand from NumPy, out": lambda a, h: xp.exp(a, out=h),
    "operand is a list": lambda a, h: a + [1.0] * 5,
    "operand is a tuple": lambda a, h: xp.multiply(a, (1.0,) * 5),
    "operand is None": lambda a, h: a == None,  # noqa: E711
    "array is from NumPy": lambda a, h: xp.sum(h),
    "array is a list": lambda a, h: xp.mean([1.0, 2.0]),
    "array is a number": lambda a, h: xp.sum(1.0),
    "arrays are mixed": lambda a, h: xp.concatenate((a, h)),
    "shape is on the GPU": lambda a, h: xp.zeros(a[0]),
    "length is on the GPU": lambda a, h: xp.arange(a.sum()),
    "range is on the GPU": lambda a, h: range(xp.asarray(3)),
    "slice is on the GPU": lambda a, h: a[: xp.asarray(2)],
    "index is a list": lambda a, h: a[[0, 1]],
    "index is from NumPy": lambda a, h: a[np.array([0, 1])],
    "index is a NumPy mask": lambda a, h: a[h > 0],
    "index is bool": lambda a, h: a[True],
    "index is floating": lambda a, h: a[a[0]],
    "assigned index is a list": lambda a, h: a.__setitem__([0, 1], 0.0),
    "different values for one place": lambda a, h: a.__setitem__(xp.asarray([0, 3]), a[:2]),
    "sum(where=)": lambda a, h: xp.sum(a, where=a > 0),
    "sum(initial=)": lambda a, h: xp.sum(a, initial=0.0),
    "max(initial=)": lambda a, h: a.max(initial=0.0),
    "max(where=)": lambda a, h: a.max(where=a > 0),
    "exp(where=)": lambda a, h: xp.exp(a, where=a > 0),
    "clip(min=)": lambda a, h: xp.clip(a, min=0),
    "take(mode=)": lambda a, h: xp.take(a, xp.asarray([0]), mode="clip"),
    "einsum(out=)": lambda a, h: xp.einsum("ij->i", a, out=xp.empty(3)),
    "argsort(kind=quicksort)": lambda a, h: xp.argsort(a, kind="quicksort"),
    "item(index)": lambda a, h: a.item(0),
    "errstate": lambda a, h: xp.errstate(all="ignore"),
    "random": lambda a, h: xp.random.default_rng(0),
    "add.at": lambda a, h: xp.add.at(a, xp.asarray([0]), 1.0),
    "add.reduceat": lambda a, h: xp.add.reduceat(a, xp.asarray([0])),
    "maximum.reduce": lambda a, h: xp.maximum.reduce(a),
    "vecdot": lambda a, h: xp.vecdot(a, a),
    "setflags": lambda a, h: a.setflags(write=False),
    "strings": lambda a, h: xp.asarray(["a"]),
    "objects": lambda a, h: xp.asarray([None]),
    "int += float": lambda a, h: a.astype(int).__iadd__(a),
    "hash": lambda a, h: hash(a),
    "len of a 0-d array": lambda a, h: len(a.sum()),
    "iterating a 0-d array": lambda a, h: iter(a.sum()),
    "truth of many": lambda a, h: bool(a),
}


@pytest.mark.parametrize("use", REFUSED.values(), ids=REFUSED.keys())
def test_refuses(use, a, host):
    with pytest.raises((TypeError, ValueError, AttributeError, IndexError)):
        use(a, host)


WAITS = {
    "float()": lambda a: float(a[0, 0]),
    "int()": lambda a: int(a[0, 0]),
    "bool()": lambda a: bool(a[0, 0] > 0),
    "if": lambda a: 1 if a.sum() > 0 else 0,
    "item()": lambda a: a[0, 0].item(),
    "tolist()": lambda a: a.tolist(),
    "get()": lambda a: a.get(),
    "asnumpy": lambda a: xp.asnumpy(a),
    "str()": lambda a: str(a),
    "formatting": lambda a: f"{a[0, 0]:.3f}",
    "max of Python": lambda a: max(a[0, 0], a[0, 1]),
    "mask as an index": lambda a: a[a > 0],
    "mask assigned to": lambda a: a.__setitem__(a > 0, 0.0),
    "nonzero": lambda a: a.nonzero(),
    "where of one": lambda a: xp.where(a > 0),
    "flatnonzero": lambda a: xp.flatnonzero(a),
    "unique": lambda a: xp.unique(a),
    "bincount": lambda a: xp.bincount(xp.asarray([0, 1])),
    "repeat by an array": lambda a: xp.repeat(a, xp.asarray([1, 2, 1]), 0),
    "allclose": lambda a: bool(xp.allclose(a, a)),
}


@pytest.mark.parametrize("use", WAITS.values(), ids=WAITS.keys())
def test_counts_and_forbids_waiting(use, a):
    with count_syncs() as waited:
        use(a)
    assert waited() == 1
    with no_sync(), pytest.raises(Synchronised):
        use(a)


def test_a_step_without_waiting(a):
    with count_syncs() as waited, no_sync():
        b = xp.where(a > 0, a, 0.0)
        b[:, 1] = a.max(axis=1)
        b += xp.exp(a, out=xp.empty_like(a)) / 2
        norm = xp.sqrt((b * b).sum())
        b *= xp.minimum(1.0, 1.0 / norm)
        rows = [row for row in b]
        repr(b)
    assert waited() == 0 and isinstance(norm, StrictArray) and len(rows) == 3


def test_no_sync_ends_with_its_block(a):
    with pytest.raises(Synchronised), no_sync():
        float(a[0, 0])
    assert float(a[0, 0]) == a.get()[0, 0]


COMPUTED = {
    "arithmetic": lambda m, x, y: (-x + 2) * y / 3 - np.float64(1) * x**2 + 1 / (1 + abs(y)),
    "comparison": lambda m, x, y: [(x < y) & (x != 0), ~(x >= 0) | (y == x)],
    "in place": lambda m, x, y: m.add(x, y, out=m.empty_like(x)),
    "reduction": lambda m, x, y: [x.sum(axis=-1, keepdims=True), x.mean(0), m.max(y, axis=1), y.argmax(-1), x.var()],
    "scan": lambda m, x, y: [m.cumsum(x, axis=1), x.cumsum()],
    "elementwise": lambda m, x, y: [m.exp(x), m.expm1(x), m.log1p(abs(x)), m.tanh(y), m.logaddexp(x, y), m.exp2(x)],
    "products": lambda m, x, y: [x.T @ y, m.matmul(x, y.T), m.einsum("ij,kj->ik", x, y), m.tensordot(x, y), x @ y[0]],
    "shapes": lambda m, x, y: [x.reshape(-1), x.T, m.stack((x, y)), m.concatenate([x, y], axis=1), x[None, :, 1:-1]],
    "one entry": lambda m, x, y: [x[1, 2], x.sum(), x[0][1], m.asarray(2.0)],
    "rows": lambda m, x, y: [x[m.asarray([2, 0, 2])], m.take(x, m.asarray([1, 1]), axis=1)],
    "columns and rows": lambda m, x, y: x[m.arange(3), m.asarray([4, 0, 1])],
    "along an axis": lambda m, x, y: m.take_along_axis(x, m.argsort(y, axis=1), axis=1),
    "where": lambda m, x, y: [m.where(x > 0, x, y), m.where(x > y, 1.0, 0.0), x[x > 0]],
    "sorting": lambda m, x, y: [m.sort(x, axis=0), m.argsort(x, kind="stable"), m.searchsorted(m.sort(x[0]), y[0])],
    "types": lambda m, x, y: [x.astype(m.float32) * 2, x.astype("f2") + np.float64(1), (x > 0).sum(), m.asarray(3) / 2],
    "creation": lambda m, x, y: [m.zeros((2, 3)), m.arange(5), m.full((2,), 7.0), m.ones_like(x), m.tri(4, k=1)],
    "triangles": lambda m, x, y: [m.tril(x), m.triu(y, 1), m.clip(x, -1, 1), m.round(x, 1)],
    "infinities": lambda m, x, y: [m.log(x * 0), (x * 0) / 0, m.exp(1e4 * abs(x)), x.astype(m.float32) * 1e300],
}  # fmt: skip


@pytest.mark.parametrize("compute", COMPUTED.values(), ids=COMPUTED.keys())
def test_computes_what_numpy_computes(compute, rng, host):
    other = rng.normal(size=host.shape)
    with np.errstate(all="ignore"):
        expected = compute(np, host, other)
    got = compute(xp, xp.asarray(host), xp.asarray(other))
    strict_array.assert_same(got, expected)


def test_no_warning_from_arithmetic(a):
    assert not np.isfinite(xp.asnumpy(xp.log(a * 0))).any()


def test_every_result_is_an_array(a):
    for result in (a.sum(), a[0, 0], 2 * a.max(), a.mean() > 0, xp.allclose(a, a), xp.dot(a[0], a[1])):
        assert isinstance(result, StrictArray) and result.shape == ()


def test_views_share_memory_and_uploads_do_not(host):
    a = xp.asarray(host)
    host[0, 0] = 100.0
    assert a.get()[0, 0] != 100.0
    a[1].reshape(-1)[2] = 7.0
    a[2, 3][...] = 8.0
    a.T[4, 0] = 9.0
    assert (a.get()[[1, 2, 0], [2, 3, 4]] == [7.0, 8.0, 9.0]).all()
    assert xp.asarray(a) is a and a.astype(a.dtype, copy=False) is a


def test_in_place_returns_the_same_object(a):
    b = a
    b += 1
    out = xp.empty_like(a)
    assert b is a and xp.exp(a, out=out) is out and xp.add(a, 1.0, out=a) is a


def test_uninitialised_memory_is_not_zero():
    assert np.isnan(xp.empty((2, 2)).get()).all() and (xp.empty(3, dtype=int).get() != 0).all()


def test_indices_wrap_around(a):
    got = a[xp.asarray([4, -1])].get()
    assert (got == a.get()[[1, 2]]).all()
    assert (xp.take(a, xp.asarray([7]), axis=1).get() == a.get()[:, [2]]).all()
    a[xp.asarray([4])] = 0.0
    assert (a.get()[1] == 0).all()


def test_one_value_may_go_to_one_place_twice(a):
    a[xp.asarray([0, 0])] = 5.0
    assert (a.get()[0] == 5).all()


def test_backend_takes_it_for_a_gpu(a):
    assert get_array_module(a) is xp and not on_host(a)
    assert type(to_host(a)) is np.ndarray


def test_uploads_trees():
    params = Parameters({"w": (2,), "b": (1,)}, np.arange(3.0))
    up = strict_array.upload({"p": params, "n": 3, "ids": (np.arange(2),)})
    assert isinstance(up["p"], Parameters) and isinstance(up["p"]["b"], StrictArray) and up["n"] == 3
    down = strict_array.download(up)
    assert down["p"]["w"].tolist() == [0.0, 1.0] and type(down["ids"][0]) is np.ndarray


def square(x):
    return x * x, lambda dy: 2 * x * dy


def test_assert_runs_on_strict_accepts(host):
    assert_runs_on_strict(square, host)
    assert_runs_on_strict(lambda x: {"n": x.sum(), "y": (x + 1, 3)}, host)
    assert_runs_on_strict(lambda x: float(x.sum()), host, syncs=1)


DIFFERENT = {
    "value": lambda x: x * (1.0 if on_host(x) else 1 + 1e-6),
    "pullback": lambda x: (x, lambda dy: dy * (1.0 if on_host(x) else 1 + 1e-6)),
    "dtype": lambda x: x if on_host(x) else x.astype(np.float32),
    "shape": lambda x: x if on_host(x) else x.reshape(-1),
    "host": lambda x: x if on_host(x) else x.get(),
    "synchronisation": lambda x: x * float(x.sum()),
}


@pytest.mark.parametrize("f", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_assert_runs_on_strict_rejects(f, host):
    with pytest.raises(AssertionError):
        assert_runs_on_strict(f, host)


def test_kernel_runs_its_source():
    kernel = xp.ElementwiseKernel("T x, raw T w, float64 c", "T y", "y = c * x + w[i % 2]", "scale_and_shift")
    x, y = xp.asarray(np.arange(6.0).reshape(3, 2)), xp.empty((3, 2))
    assert kernel(x, xp.asarray([10.0, 20.0]), 0.5, y) is y
    assert (y.get() == [[10.0, 20.5], [11.0, 21.5], [12.0, 22.5]]).all()


def test_kernel_refuses_other_types():
    kernel = xp.ElementwiseKernel("T x, raw T w", "T y", "y = x + w[0]", "add_first")
    x = xp.asarray([1.0])
    with pytest.raises(TypeError, match="w is float32; wanted float64"):
        kernel(x, x.astype(np.float32), x)
    with pytest.raises(TypeError, match="upload"):
        kernel(x, np.ones(1), x)


def parameters(signature):
    return {p.name: (place, p.default) for place, p in enumerate(signature.parameters.values())}


@pytest.mark.parametrize("table", ["FUNCTIONS", "SEQUENCE_FUNCTIONS", "CREATIONS", "WAITING_FUNCTIONS"])
def test_functions_are_cupys(table):
    cupy = pytest.importorskip("cupy", exc_type=ImportError)
    for name, signature in strict_array._signatures(getattr(strict_array, table)).items():
        theirs = parameters(inspect.signature(getattr(cupy, name)))
        for parameter, (place, default) in parameters(signature).items():
            assert parameter in theirs, f"{name} has no {parameter}"
            if signature.parameters[parameter].kind is not inspect.Parameter.KEYWORD_ONLY:
                assert theirs[parameter] == (place, default), f"{name}: {parameter} is another one"


def test_methods_are_cupys():
    cupy = pytest.importorskip("cupy", exc_type=ImportError)
    for name in vars(StrictArray):
        assert name.startswith("_") or hasattr(cupy.ndarray, name), f"CuPy's arrays have no {name}"
    for name, signature in strict_array._signatures(strict_array.METHODS).items():
        described = (getattr(cupy.ndarray, name).__doc__ or "").split("\n")[0]
        for parameter in signature.parameters:
            assert "(" not in described or parameter in described, f"{name} has no {parameter}"


def test_names_are_cupys():
    cupy = pytest.importorskip("cupy", exc_type=ImportError)
    for name in strict_array.UFUNCS.split():
        assert isinstance(getattr(cupy, name), cupy.ufunc) or name == "matmul", f"{name} is no elementwise function"
    for name in [*strict_array.SHARED.split(), *vars(strict_array.StrictModule)]:
        assert name.startswith("_") or hasattr(cupy, name), f"CuPy has no {name}"
    assert not hasattr(cupy, "errstate")
