"""The process of a graded file: confine itself, import the file, answer the judge's requests one by one.

It is given inputs and cotangents and gives back numbers. It holds no right answer, so nothing that a file does in here
can make a wrong one pass.
"""

import importlib
import inspect
import json
import os
import sys
import traceback
import types
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import confine

MAX_WORDS = 1000
MAX_PARAMETERS = 50


def main() -> None:
    requests, replies = int(sys.argv[1]), int(sys.argv[2])
    setup = json.loads(read(requests, int.from_bytes(read(requests, 8), "little")))
    done = confine.confine(setup["readable"], setup["hidden"], setup["folder"])
    sys.path[1:] = [*sys.path[1:], *setup["path"]]
    import frameworks  # only now can NumPy be found
    import wire

    del sys.path[0]
    if setup["hidden"]:
        sys.modules["minikd"] = None  # type: ignore[assignment]
    for library in setup["libraries"]:
        with suppress(ImportError):  # the file will say so
            importlib.import_module(library)
    confine.set_limits(setup["limits"], no_processes="no other processes" not in done)
    warnings.simplefilter("ignore")
    write(replies, wire.pack({"protections": done}, {}))

    read(requests, 1)  # the judge has seen that all is ready: now its clock runs
    module = types.ModuleType("graded")
    sys.modules["graded"] = module
    file = setup["file"]
    write(replies, guarded(lambda: wire.pack(imported(module, setup["source"], file, setup["names"]), {}), file))
    framework = frameworks.framework_of(vars(module))
    while True:
        text, block = wire.lengths(read(requests, wire.LENGTHS.size))
        request, arrays = wire.unpack(read(requests, text), read(requests, block))

        write(replies, guarded(partial(replied, module, framework, request, arrays), file, id=request["id"]))


def replied(module: types.ModuleType, framework: Any, request: dict[str, Any], arrays: dict[str, Any]) -> bytes:
    """The answer to a request as a message."""
    import frameworks
    import wire

    function = getattr(module, request["function"])
    return wire.pack({"id": request["id"]}, frameworks.answer(function, framework, request, arrays))


def imported(module: types.ModuleType, source: str, file: str, names: Iterable[str]) -> dict[str, Any]:
    """Run a file's source; which of the names are its functions, each with the names of its parameters."""
    import frameworks

    module.__file__ = file
    exec(compile(source, file, "exec"), vars(module))
    functions = {name: f for name in names if callable(f := vars(module).get(name)) and not borrowed(f)}
    return {
        "framework": frameworks.framework_of(vars(module)).name,
        "precision": frameworks.precision_of(vars(module)),
        "functions": {name: parameters(function) for name, function in functions.items()},
    }


def borrowed(function: Callable) -> bool:
    """Whether a function is a framework's own, imported to be used: `from torch.nn.functional import softmax`."""
    import frameworks

    return str(getattr(function, "__module__", "")).split(".")[0] in frameworks.FRAMEWORKS


def parameters(function: Callable) -> list[str] | None:
    """The names of what can be given by keyword; None where all can, or nobody knows."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    return None if any(p.kind is p.VAR_KEYWORD for p in found) else [p.name for p in found][:MAX_PARAMETERS]


def guarded(reply: Callable[[], bytes], file: str, **head: Any) -> bytes:
    """What `reply` makes, or what was raised instead."""
    import wire

    try:
        return reply()
    except NotImplementedError:
        return wire.pack(head | {"missing": True}, {})
    except BaseException as error:
        ended = isinstance(error, SystemExit)
        return wire.pack(head | {"error": "it called sys.exit" if ended else words(error, file), "ended": ended}, {})


def words(error: BaseException, file: str) -> str:
    """What was raised, and at which line of the file."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f"line {error.lineno}: {type(error).__name__}: {error.msg}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    try:
        message = str(error)
    except BaseException:
        message = "(its message cannot be read)"
    where = f"line {lines[-1]}: " if lines else ""
    name = "" if type(error).__name__ == "Misfit" else f"{type(error).__name__}: "
    return f"{where}{name}{message}"[:MAX_WORDS]


def read(descriptor: int, size: int) -> bytes:
    """So many bytes; ends the process where there are no more."""
    data = bytearray()
    while len(data) < size:
        piece = os.read(descriptor, size - len(data))
        if not piece:
            os._exit(0)
        data += piece
    return bytes(data)


def write(descriptor: int, data: bytes) -> None:
    """All of the bytes."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


if __name__ == "__main__":
    main()
