"""CuPy's ElementwiseKernel on the host: the same C++ source, in a loop instead of on a grid of threads."""

import ctypes
import functools
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

C_TYPES = {"bool": "bool", "int32": "int", "int64": "long long", "float32": "float", "float64": "double"}


@dataclass(frozen=True)
class _Parameter:
    raw: bool
    kind: str
    name: str


class HostKernel:
    """`ElementwiseKernel` for arrays whose outputs are given; a raw array is indexed in C order, as CuPy's is.

    A test that comes to call one is skipped where there is no C++ compiler.
    """

    def __init__(self, in_params: str, out_params: str, operation: str, name: str = "kernel"):
        self._inputs, self._outputs = _parse(in_params), _parse(out_params)
        self._operation, self._name = operation, name

    def __call__(self, *args: Any) -> Any:
        parameters = [*self._inputs, *self._outputs]
        if len(args) != len(parameters):
            raise NotImplementedError(f"{self._name} got {len(args)} arguments; wanted {len(parameters)}, outputs too")
        outputs = args[len(self._inputs) :]
        dtypes = _resolve(parameters, args)
        run = _compile(_source(self._name, parameters, dtypes, self._operation), self._name)
        shape = outputs[0].shape
        buffers = [_buffer(*each, shape) for each in zip(parameters, args, dtypes, strict=True)]
        run(ctypes.c_longlong(outputs[0].size), *[buffer.ctypes.data_as(ctypes.c_void_p) for buffer in buffers])
        for output, buffer in zip(outputs, buffers[len(self._inputs) :], strict=True):
            output._inside[...] = buffer
        return outputs[0] if len(outputs) == 1 else outputs


def _parse(params: str) -> list[_Parameter]:
    words = [param.split() for param in params.split(",")]
    return [_Parameter(word[0] == "raw", word[-2], word[-1]) for word in words]


def _is_letter(kind: str) -> bool:
    return re.fullmatch("[A-Z]", kind) is not None


def _resolve(parameters: list[_Parameter], args: tuple[Any, ...]) -> list[str]:
    """The dtype's name of each parameter; a letter stands for one dtype throughout."""
    letters: dict[str, str] = {}
    for parameter, arg in zip(parameters, args, strict=True):
        if isinstance(arg, np.ndarray | list | tuple):
            raise TypeError(f"Unsupported type {type(arg)}: upload it with xp.asarray")
        if hasattr(arg, "_inside"):
            found, kind = arg.dtype.name, parameter.kind
            wanted = letters.setdefault(kind, found) if _is_letter(kind) else kind
            if found != wanted:
                raise TypeError(f"{parameter.name} is {found}; wanted {wanted}")
    return [letters[parameter.kind] if _is_letter(parameter.kind) else parameter.kind for parameter in parameters]


def _source(name: str, parameters: list[_Parameter], dtypes: list[str], operation: str) -> str:
    for parameter, dtype in zip(parameters, dtypes, strict=True):
        if dtype not in C_TYPES:
            raise NotImplementedError(f"{parameter.name} is {dtype}, which a kernel on the host has not")
    types = [C_TYPES[dtype] for dtype in dtypes]
    pairs = list(zip(parameters, types, strict=True))
    letters = {p.kind: f"typedef {c_type} {p.kind};" for p, c_type in pairs if _is_letter(p.kind)}
    arrays = [f"{c_type}* {p.name}{'' if p.raw else '_'}" for p, c_type in pairs]
    entries = [f"{c_type}& {p.name} = {p.name}_[i];" for p, c_type in pairs if not p.raw]
    return "\n".join(
        [
            *letters.values(),
            f'extern "C" void {name}(long long n_, {", ".join(arrays)}) {{',
            "for (long long i = 0; i < n_; ++i) {",
            *entries,
            f"{operation};",
            "}",
            "}",
        ]
    )


@functools.cache
def _compile(source: str, name: str) -> Any:
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip(f"the kernel {name} needs a C++ compiler to run on the host")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cpp"
        path.write_text(source)
        library = path.with_suffix(".so")
        command = [compiler, "-O1", "-ffp-contract=off", "-shared", "-fPIC", str(path), "-o", str(library)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        return getattr(ctypes.CDLL(str(library)), name)  # stays loaded when the file is gone


def _buffer(parameter: _Parameter, x: Any, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    inside = np.asarray(x._inside if hasattr(x, "_inside") else x, dtype=dtype)
    return np.ascontiguousarray(inside if parameter.raw else np.broadcast_to(inside, shape))
