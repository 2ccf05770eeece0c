"""A stand-in for CuPy on a machine without a GPU: NumPy inside, and outside no more than what CuPy allows.

`xp` is the array module. Its arrays wrap a NumPy array instead of subclassing it: NumPy's C code takes a subclass for
an array wherever no hook is asked (np.asarray, the buffer protocol, isinstance), so a subclass forbids only what it
remembers to forbid, while a wrapper allows only what is written here. The tables below are CuPy 14's own signatures;
where CuPy is installed, a test holds them against it (it needs no GPU for that).

Like CuPy: results are arrays, never NumPy scalars; NumPy arrays and lists are refused as operands; no warnings from
arithmetic; indices out of range wrap around; arrays have no `__index__`. Stricter than CuPy: NumPy's functions are
refused outright, lists and NumPy arrays as indices too, and so is whatever CuPy leaves undefined (assigning different
values to one place) or in an order that changes from run to run (`add.at`). `empty` holds NaN.
"""

import contextlib
import inspect
import operator
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from minikd.models.parameters import Parameters
from tests.host_kernel import HostKernel

# name and parameters of CuPy's function; a first parameter without a default is an array
FUNCTIONS = """
all(a, axis=None, out=None, keepdims=False)
any(a, axis=None, out=None, keepdims=False)
amax(a, axis=None, out=None, keepdims=False)
amin(a, axis=None, out=None, keepdims=False)
argmax(a, axis=None, *, keepdims=False)
argmin(a, axis=None, *, keepdims=False)
argpartition(a, kth, axis=-1)
ascontiguousarray(a, dtype=None)
asfortranarray(a, dtype=None)
broadcast_to(array, shape)
clip(a, a_min, a_max, out=None)
copy(a, order='K')
count_nonzero(a, axis=None)
cumprod(a, axis=None, dtype=None, out=None)
cumsum(a, axis=None, dtype=None, out=None)
diagonal(a, offset=0, axis1=0, axis2=1)
diff(a, n=1, axis=-1)
dot(a, b, out=None)
expand_dims(a, axis)
flip(a, axis=None)
full_like(a, fill_value, dtype=None, order='K')
inner(a, b)
isclose(a, b, rtol=1e-05, atol=1e-08, equal_nan=False)
max(a, axis=None, out=None, keepdims=False)
mean(a, axis=None, dtype=None, out=None, keepdims=False)
min(a, axis=None, out=None, keepdims=False)
moveaxis(a, source, destination)
nan_to_num(x, copy=True, nan=0.0, posinf=None, neginf=None)
ones_like(a, dtype=None, order='K')
outer(a, b, out=None)
partition(a, kth, axis=-1)
prod(a, axis=None, dtype=None, out=None, keepdims=False)
ravel(a, order='C')
reshape(a, newshape, order='C')
roll(a, shift, axis=None)
round(a, decimals=0, out=None)
searchsorted(a, v, side='left', sorter=None)
shares_memory(a, b)
split(ary, indices_or_sections, axis=0)
squeeze(a, axis=None)
std(a, axis=None, dtype=None, out=None, ddof=0, keepdims=False)
sum(a, axis=None, dtype=None, out=None, keepdims=False)
swapaxes(a, axis1, axis2)
tensordot(a, b, axes=2)
tile(A, reps)
trace(a, offset=0, axis1=0, axis2=1, dtype=None, out=None)
transpose(a, axes=None)
tril(m, k=0)
triu(m, k=0)
var(a, axis=None, dtype=None, out=None, ddof=0, keepdims=False)
vdot(a, b)
zeros_like(a, dtype=None, order='K')
"""

# the same, for functions whose first parameter is a sequence of arrays
SEQUENCE_FUNCTIONS = """
concatenate(tup, axis=0, out=None, *, dtype=None, casting='same_kind')
stack(tup, axis=0, out=None, *, dtype=None, casting='same_kind')
vstack(tup, *, dtype=None, casting='same_kind')
hstack(tup, *, dtype=None, casting='same_kind')
"""

# the same, for functions that take no array
CREATIONS = """
arange(start, stop=None, step=1, dtype=None)
eye(N, M=None, k=0, dtype=float, order='C')
linspace(start, stop, num=50, endpoint=True)
ones(shape, dtype=float, order='C')
tri(N, M=None, k=0, dtype=float)
zeros(shape, dtype=float, order='C')
"""

# the same, for functions that wait for the GPU, because the shape of what they return depends on the values
WAITING_FUNCTIONS = """
argwhere(a)
bincount(x, weights=None, minlength=None)
flatnonzero(a)
nonzero(a)
unique(ar, return_index=False, return_inverse=False, return_counts=False)
"""

# elementwise functions (and matmul): operands, then out=, dtype= and casting=, but no where=
UFUNCS = """
abs absolute add arctan arctan2 ceil copysign cos cosh divide equal exp exp2 expm1 fabs floor floor_divide fmax fmin
fmod greater greater_equal hypot invert isfinite isinf isnan ldexp less less_equal log log10 log1p log2 logaddexp
logaddexp2 logical_and logical_not logical_or logical_xor matmul maximum minimum mod multiply negative nextafter
not_equal positive power reciprocal remainder rint sign signbit sin sinh sqrt square subtract tan tanh true_divide trunc
"""

# methods of an array, without self
METHODS = """
all(axis=None, out=None, keepdims=False)
any(axis=None, out=None, keepdims=False)
argmax(axis=None, *, keepdims=False)
argmin(axis=None, *, keepdims=False)
astype(dtype, order='K', casting=None, subok=None, copy=True)
clip(min=None, max=None, out=None)
copy(order='C')
cumprod(axis=None, dtype=None, out=None)
cumsum(axis=None, dtype=None, out=None)
diagonal(offset=0, axis1=0, axis2=1)
dot(b, out=None)
fill(value)
flatten(order='C')
max(axis=None, out=None, keepdims=False)
mean(axis=None, dtype=None, out=None, keepdims=False)
min(axis=None, out=None, keepdims=False)
prod(axis=None, dtype=None, out=None, keepdims=False)
ravel(order='C')
reshape(*shape, order='C')
round(decimals=0, out=None)
searchsorted(v, side='left', sorter=None)
squeeze(axis=None)
std(axis=None, dtype=None, out=None, ddof=0, keepdims=False)
sum(axis=None, dtype=None, out=None, keepdims=False)
swapaxes(axis1, axis2)
trace(offset=0, axis1=0, axis2=1, dtype=None, out=None)
transpose(*axes)
var(axis=None, dtype=None, out=None, ddof=0, keepdims=False)
view(dtype=None)
"""

BINARY_OPERATORS = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift"
COMPARISONS = "lt le eq ne gt ge"
UNARY_OPERATORS = "neg pos abs invert"

# types and constants that CuPy shares with NumPy
SHARED = """
bool_ broadcast_shapes can_cast dtype e finfo float16 float32 float64 floating generic iinfo inexact inf int8 int16
int32 int64 integer isscalar issubdtype nan newaxis number pi promote_types signedinteger uint8 uint16 uint32 uint64
"""

ABSENT = {
    "errstate": "CuPy has none; arithmetic on a GPU does not warn",
    "random": "draw on the host with numpy.random.Generator and upload",
}


class Synchronised(AssertionError):
    """The host waited for the GPU where it must not."""


class _Ledger:
    syncs = 0
    forbidden = False

    def wait(self, why: str) -> None:
        """Note that the host waits for the GPU."""
        self.syncs += 1
        if self.forbidden:
            raise Synchronised(f"{why} makes the host wait for the GPU")


_ledger = _Ledger()


@contextlib.contextmanager
def no_sync() -> Iterator[None]:
    """Within it, `Synchronised` is raised where the host would wait for the GPU."""
    before, _ledger.forbidden = _ledger.forbidden, True
    try:
        yield
    finally:
        _ledger.forbidden = before


@contextlib.contextmanager
def count_syncs() -> Iterator[Callable[[], int]]:
    """Gives a function that returns how often the host has waited since."""
    start = _ledger.syncs
    yield lambda: _ledger.syncs - start


def _operand(x: Any) -> Any:
    """What NumPy gets for an operand: a strict array's inside, or a number."""
    if isinstance(x, StrictArray):
        return x._inside
    if isinstance(x, bool | int | float | complex | np.generic):
        return x
    raise TypeError(f"Unsupported type {type(x)}: upload it with xp.asarray")


def _argument(x: Any) -> Any:
    """What NumPy gets for an argument that may also be a shape, axes, a type, a name or nothing."""
    if isinstance(x, tuple):
        return tuple(map(_argument, x))
    return x if x is None or isinstance(x, str | type | np.dtype) else _operand(x)


def _lift(result: Any, given: Sequence[Any]) -> Any:
    """NumPy's result as CuPy would return it; an array that was handed in comes back as the same object."""
    if isinstance(result, tuple | list):
        return type(result)(_lift(part, given) for part in result)
    for x in given:
        if isinstance(x, StrictArray) and x._inside is result:
            return x
    return _wrap(np.asarray(result)) if isinstance(result, np.ndarray | np.generic) else result


def _call(function: Callable, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None, *, of: Any = None) -> Any:
    kwargs = kwargs or {}
    given = [of, *args, *kwargs.values()]
    given += [x for xs in given if isinstance(xs, tuple) for x in xs]
    with np.errstate(all="ignore"):
        result = function(*map(_argument, args), **{name: _argument(x) for name, x in kwargs.items()})
    return _lift(result, given)


def _signatures(table: str) -> dict[str, inspect.Signature]:
    lines = [line.removesuffix(")").split("(", 1) for line in table.split("\n") if line]
    return {name: inspect.signature(eval(f"lambda {parameters}: None")) for name, parameters in lines}


def _bind(name: str, signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    try:
        return signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"CuPy's {name}: {error}") from None


def _method(name: str, signature: inspect.Signature) -> Callable:
    def method(self: StrictArray, *args: Any, **kwargs: Any) -> Any:
        bound = _bind(name, signature, args, kwargs)
        return _call(getattr(self._inside, name), bound.args, bound.kwargs, of=self)

    return method


def _operator(function: Callable, *, reflected: bool = False) -> Callable:
    def operate(self: StrictArray, other: Any) -> Any:
        _operand(other)
        return _call(function, (other, self) if reflected else (self, other))

    return operate


def _unary(function: Callable) -> Callable:
    return lambda self: _call(function, (self,))


class StrictArray:
    """An array on a GPU that isn't there."""

    __slots__ = ("_inside",)
    __array_ufunc__ = None  # NumPy's arrays and scalars leave operators to this class
    __hash__ = None  # type: ignore[assignment]

    _inside: np.ndarray

    def __array_namespace__(self) -> "StrictModule":
        return xp

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed: download it with xp.asnumpy")

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise TypeError(f"numpy.{function.__name__} got an array that is on the GPU")

    dtype = property(lambda self: self._inside.dtype)
    shape = property(lambda self: self._inside.shape)
    ndim = property(lambda self: self._inside.ndim)
    size = property(lambda self: self._inside.size)
    nbytes = property(lambda self: self._inside.nbytes)
    itemsize = property(lambda self: self._inside.itemsize)
    strides = property(lambda self: self._inside.strides)
    T = property(lambda self: _wrap(self._inside.T))
    mT = property(lambda self: _wrap(self._inside.mT))

    @property
    def flags(self) -> types.SimpleNamespace:
        flags = self._inside.flags
        return types.SimpleNamespace(
            c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous, owndata=flags.owndata
        )

    def __len__(self) -> int:
        return len(self._inside)

    def __iter__(self) -> Iterator["StrictArray"]:
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"strict {self._inside!r}"  # for whoever reads a failed test, so it doesn't count as waiting

    def __getitem__(self, key: Any) -> "StrictArray":
        inside_key = self._key(key)
        if not any(isinstance(part, np.ndarray) or part is Ellipsis for part in inside_key):
            inside_key += (Ellipsis,)  # a view, also of a single entry
        return _lift(self._inside[inside_key], ())

    def __setitem__(self, key: Any, value: Any) -> None:
        inside_key, inside_value = self._key(key), _operand(value)
        if isinstance(value, StrictArray) and value.size > 1:
            places = np.arange(self.size).reshape(self.shape)[inside_key]
            if np.unique(places).size < places.size:
                raise ValueError("different values for one place: which of them stays is undefined in CuPy")
        with np.errstate(all="ignore"):
            self._inside[inside_key] = inside_value

    def _key(self, key: Any) -> tuple[Any, ...]:
        """NumPy's index for CuPy's: integer arrays wrap around, a mask costs a wait for the number of its entries."""
        parts = key if isinstance(key, tuple) else (key,)
        used = sum(_axes_used(part) for part in parts)
        inside, axis = [], 0
        for part in parts:
            if isinstance(part, StrictArray) and part.dtype.kind in "iu":
                length = self.shape[axis]
                inside.append(part._inside % length if length else part._inside)
            elif isinstance(part, StrictArray):
                if part.dtype != bool:
                    raise IndexError(f"arrays used as indices must be of integer or boolean type, not {part.dtype}")
                _ledger.wait("an index that is a mask")
                inside.append(part._inside)
            else:
                inside.append(part)
            axis += self.ndim - used if part is Ellipsis else _axes_used(part)
        return tuple(inside)

    def take(self, indices: Any, axis: int | None = None, out: Any = None) -> "StrictArray":
        return _call(np.take, (self, indices, axis, out), {"mode": "wrap"})

    def repeat(self, repeats: Any, axis: int | None = None) -> "StrictArray":
        if isinstance(repeats, StrictArray):
            _ledger.wait("repeat with an array of counts")
        return _call(np.repeat, (self, repeats, axis))

    def argsort(self, axis: int | None = -1, kind: str | None = None) -> "StrictArray":
        return _call(np.argsort, (self, axis), {"kind": _stable(kind)})

    def sort(self, axis: int = -1, kind: str | None = None) -> None:
        self._inside.sort(axis, kind=_stable(kind))

    def nonzero(self) -> tuple["StrictArray", ...]:
        return xp.nonzero(self)

    def get(self, stream: Any = None, order: str = "C", out: np.ndarray | None = None) -> np.ndarray:
        _ledger.wait("a download")
        if out is None:
            return np.array(self._inside, order=order)  # type: ignore[call-overload]
        out[...] = self._inside
        return out

    def item(self) -> Any:
        _ledger.wait("item()")
        return self._inside.item()

    def tolist(self) -> Any:
        _ledger.wait("tolist()")
        return self._inside.tolist()

    def __float__(self) -> float:
        _ledger.wait("float()")
        return float(self._inside)

    def __int__(self) -> int:
        _ledger.wait("int()")
        return int(self._inside)

    def __bool__(self) -> bool:
        _ledger.wait("bool(), as in `if` or `and`,")
        return bool(self._inside)

    def __str__(self) -> str:
        _ledger.wait("str()")
        return str(self._inside)

    def __format__(self, spec: str) -> str:
        _ledger.wait("formatting")
        return format(self._inside if spec == "" else self._inside.item(), spec)


for _name in BINARY_OPERATORS.split():
    _function = getattr(operator, _name + "_" * (_name in ("and", "or")))
    setattr(StrictArray, f"__{_name}__", _operator(_function))
    setattr(StrictArray, f"__r{_name}__", _operator(_function, reflected=True))
    if _name != "matmul":
        setattr(StrictArray, f"__i{_name}__", _operator(getattr(operator, f"i{_name}")))
for _name in COMPARISONS.split():
    setattr(StrictArray, f"__{_name}__", _operator(getattr(operator, _name)))
for _name in UNARY_OPERATORS.split():
    setattr(StrictArray, f"__{_name}__", _unary(getattr(operator, _name)))
for _name, _signature in _signatures(METHODS).items():
    setattr(StrictArray, _name, _method(_name, _signature))


def _wrap(inside: np.ndarray) -> StrictArray:
    array = object.__new__(StrictArray)
    array._inside = inside
    return array


def _axes_used(part: Any) -> int:
    """How many axes a part of an index takes up."""
    if part is None or part is Ellipsis:
        return 0
    if isinstance(part, StrictArray):
        return part.ndim if part.dtype == bool else 1
    if isinstance(part, slice | int | np.integer) and not isinstance(part, bool):
        return 1
    raise TypeError(f"an index is a {type(part).__name__}: upload it with xp.asarray")


def _stable(kind: str | None) -> Any:
    if kind not in (None, "stable"):
        raise ValueError("kind can only be None or 'stable'")
    return "stable"


class StrictModule:
    """The module `cupy`, as far as it is here."""

    ndarray = StrictArray
    ElementwiseKernel = HostKernel
    __name__ = "strict"

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"strict has no {name}: {ABSENT.get(name, 'if CuPy has it, add it to strict_array.py')}")

    def array(self, obj: Any, dtype: Any = None, copy: bool = True, order: str = "K", ndmin: int = 0) -> StrictArray:
        inside = np.array(obj._inside if isinstance(obj, StrictArray) else obj, dtype=dtype, order=order, ndmin=ndmin)  # type: ignore[call-overload]
        if inside.dtype.kind not in "biufcV":
            raise ValueError(f"Unsupported dtype {inside.dtype}")
        return _wrap(inside)

    def asarray(self, a: Any, dtype: Any = None, order: str | None = None) -> StrictArray:
        if isinstance(a, StrictArray) and order is None and dtype in (None, a.dtype):
            return a
        return self.array(a, dtype, order=order or "K")

    def asnumpy(self, a: Any, stream: Any = None, order: str = "C", out: Any = None) -> np.ndarray:
        return a.get(stream, order, out) if isinstance(a, StrictArray) else np.asarray(a)

    def empty(self, shape: Any, dtype: Any = float, order: str = "C") -> StrictArray:
        inside = np.empty(shape, dtype, order)  # type: ignore[call-overload]
        inside.fill(np.nan if inside.dtype.kind == "f" else 93)
        return _wrap(inside)

    def empty_like(self, prototype: StrictArray, dtype: Any = None) -> StrictArray:
        return self.empty(prototype.shape, dtype or prototype.dtype)

    def full(self, shape: Any, fill_value: Any, dtype: Any = None, order: str = "C") -> StrictArray:
        return _wrap(np.full(shape, _operand(fill_value), dtype, order))  # type: ignore[call-overload]

    def where(self, condition: Any, x: Any = None, y: Any = None) -> Any:
        return self.nonzero(condition) if x is None else _call(np.where, (condition, x, y))

    def take(self, a: StrictArray, indices: Any, axis: int | None = None, out: Any = None) -> StrictArray:
        return a.take(indices, axis, out)

    def repeat(self, a: StrictArray, repeats: Any, axis: int | None = None) -> StrictArray:
        return a.repeat(repeats, axis)

    def argsort(self, a: StrictArray, axis: int | None = -1, kind: str | None = None) -> StrictArray:
        return a.argsort(axis, kind)

    def sort(self, a: StrictArray, axis: int | None = -1, kind: str | None = None) -> StrictArray:
        return _call(np.sort, (a, axis), {"kind": _stable(kind)})

    def take_along_axis(self, a: StrictArray, indices: StrictArray, axis: int) -> StrictArray:
        return a[_along(a.shape, indices, axis)]

    def put_along_axis(self, arr: StrictArray, indices: StrictArray, values: Any, axis: int) -> None:
        arr[_along(arr.shape, indices, axis)] = values

    def copyto(self, dst: StrictArray, src: Any, casting: str = "same_kind", where: Any = None) -> None:
        _call(np.copyto, (dst, src), {"casting": casting, "where": True if where is None else where})

    def einsum(self, subscripts: str, *operands: StrictArray, dtype: Any = None, optimize: Any = False) -> StrictArray:
        return _call(np.einsum, (subscripts, *operands), {"dtype": dtype, "optimize": optimize})

    def allclose(self, a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> StrictArray:
        return self.isclose(a, b, rtol, atol, equal_nan).all()

    def array_equal(self, a1: StrictArray, a2: StrictArray, equal_nan: bool = False) -> StrictArray:
        return _wrap(np.asarray(np.array_equal(_operand(a1), _operand(a2), equal_nan)))

    def result_type(self, *arrays_and_dtypes: Any) -> np.dtype:
        return np.result_type(*map(_argument, arrays_and_dtypes))

    def broadcast_arrays(self, *args: StrictArray) -> list[StrictArray]:
        return list(_call(np.broadcast_arrays, args))


def _along(shape: tuple[int, ...], indices: StrictArray, axis: int) -> tuple[Any, ...]:
    """The index that reaches along `axis` by `indices` and straight on along the others."""
    key: list[Any] = [xp.arange(n).reshape(n, *[1] * (len(shape) - i - 1)) for i, n in enumerate(shape)]
    key[axis] = indices
    return tuple(key)


def _function_of(name: str, signature: inspect.Signature, first: str) -> Callable:
    """NumPy's function of that name with CuPy's parameters, whose first one is an array, a sequence of them or none."""

    def function(*args: Any, **kwargs: Any) -> Any:
        bound = _bind(name, signature, args, kwargs)
        if first == "none" and any(isinstance(x, StrictArray) for x in (*args, *kwargs.values())):
            raise TypeError(f"CuPy's {name} needs its arguments on the host")
        args = bound.args
        arrays = args[:1] if first == "array" else args[0] if first == "sequence" else ()
        for array in arrays:
            if not isinstance(array, StrictArray):
                raise TypeError(f"CuPy's {name} got a {type(array).__name__} for an array")
        if first == "sequence":
            args = (tuple(args[0]), *args[1:])
        return _call(getattr(np, name), args, bound.kwargs)

    return function


def _waiting(name: str, function: Callable) -> Callable:
    def wait_and_call(*args: Any, **kwargs: Any) -> Any:
        _ledger.wait(f"{name}()")
        return function(*args, **kwargs)

    return wait_and_call


class StrictUfunc:
    """An elementwise function without `where=`, `at`, `reduce` and the like."""

    def __init__(self, name: str):
        self.__name__ = name
        self._ufunc = getattr(np, name)

    def __call__(self, *args: Any, out: Any = None, dtype: Any = None, casting: str = "same_kind") -> Any:
        for operand in args:
            _operand(operand)
        return _call(self._ufunc, args, {"out": out, "dtype": dtype, "casting": casting})

    def __getattr__(self, name: str) -> Any:
        reasons = {
            "at": "its order changes from run to run",
            "reduceat": "CuPy's takes differences of a running sum, which lose their digits",
            "reduce": "CuPy's knows only sums and products: use those",
        }
        raise AttributeError(f"strict's {self.__name__} has no {name}: {reasons.get(name, 'CuPy has none')}")


xp: Any = StrictModule()
for _table, _first in (FUNCTIONS, "array"), (SEQUENCE_FUNCTIONS, "sequence"), (CREATIONS, "none"):
    for _name, _signature in _signatures(_table).items():
        setattr(xp, _name, _function_of(_name, _signature, _first))
for _name, _signature in _signatures(WAITING_FUNCTIONS).items():
    setattr(xp, _name, _waiting(_name, _function_of(_name, _signature, "array")))
for _name in UFUNCS.split():
    setattr(xp, _name, StrictUfunc(_name))
for _name in SHARED.split():
    setattr(xp, _name, getattr(np, _name))


def upload(tree: Any) -> Any:
    """The same arrays as strict ones; anything else in the mappings, tuples and lists stays."""
    return _map_arrays(tree, np.ndarray, xp.asarray)


def download(tree: Any) -> Any:
    """The same arrays as NumPy's. It doesn't count as waiting: it is the test that looks."""
    return _map_arrays(tree, StrictArray, lambda x: x._inside.copy())


def _map_arrays(tree: Any, kind: type, convert: Callable) -> Any:
    if isinstance(tree, Parameters):
        return tree.with_flat(_map_arrays(tree.flat, kind, convert))
    if isinstance(tree, Mapping):
        return {key: _map_arrays(value, kind, convert) for key, value in tree.items()}
    if isinstance(tree, tuple | list):
        return type(tree)(_map_arrays(value, kind, convert) for value in tree)
    return convert(tree) if isinstance(tree, kind) else tree


def assert_runs_on_strict(f: Callable, *args: Any, tol: float = 0.0, syncs: int = 0, seed: int = 0) -> None:
    """f(*args) gives the same on strict arrays as on NumPy's, and waits for the GPU `syncs` times.

    If f returns a pair of a value and its pullback, then so does the pullback for a random cotangent. Values are
    equal bit for bit, or within `tol` in relative L2 error; shapes and dtypes are equal.
    """
    with count_syncs() as waited:
        on_host, on_strict = f(*args), f(*upload(args))
        if isinstance(on_host, tuple) and len(on_host) == 2 and callable(on_host[1]):
            cotangent = _random_like(on_host[0], np.random.default_rng(seed))
            parts = cotangent if isinstance(cotangent, tuple) else (cotangent,)
            on_host = on_host[0], on_host[1](*parts)
            on_strict = on_strict[0], on_strict[1](*upload(parts))
        assert waited() == syncs, f"waited for the GPU {waited()} times; wanted {syncs}"
    assert_same(on_strict, on_host, tol=tol)


def _random_like(value: Any, rng: np.random.Generator) -> Any:
    if isinstance(value, tuple):
        return tuple(_random_like(part, rng) for part in value)
    if np.ndim(value) == 0:
        return float(rng.uniform(0.5, 2))
    return rng.standard_normal(value.shape).astype(value.dtype)


def assert_same(on_strict: Any, on_host: Any, *, tol: float = 0.0, where: str = "result") -> None:
    """Two trees of arrays, the one strict, the other NumPy's, hold the same; a 0-d array stands for a number."""
    if isinstance(on_host, Mapping):
        assert list(on_strict) == list(on_host), f"{where} has other names"
        for key, value in on_host.items():
            assert_same(on_strict[key], value, tol=tol, where=f"{where}[{key!r}]")
    elif isinstance(on_host, tuple | list):
        assert len(on_strict) == len(on_host), f"{where} has another length"
        for i, value in enumerate(on_host):
            assert_same(on_strict[i], value, tol=tol, where=f"{where}[{i}]")
    elif isinstance(on_host, np.ndarray | np.generic):
        assert isinstance(on_strict, StrictArray), f"{where} is a {type(on_strict).__name__}"
        got = on_strict._inside
        assert (got.dtype, got.shape) == (on_host.dtype, on_host.shape), f"{where} is {got.dtype} {got.shape}"
        if not np.array_equal(got, on_host, equal_nan=got.dtype.kind == "f"):
            error = np.linalg.norm(got - on_host) / np.linalg.norm(on_host)
            assert error <= tol, f"{where} differs by {error:.1e} (relative L2); wanted {tol:g}"
    else:
        assert on_strict == on_host, f"{where} is {on_strict!r}; wanted {on_host!r}"
