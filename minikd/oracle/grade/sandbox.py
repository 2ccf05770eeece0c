"""A graded file in a process of its own, with a folder of its own, few rights and no more than the limits allow.

This keeps a file from meddling with its judge and with what belongs to others. It is no security sandbox: whoever
grades strangers' files puts all of it into a container.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from minikd.errors import UserError
from minikd.oracle.grade.child import wire
from minikd.oracle.grade.folder import working_folder
from minikd.oracle.grade.process import Gone, Process

CHILD = Path(wire.__file__).resolve().parent
MINIKD = Path(__file__).resolve().parents[2]
LIBRARIES = ("torch", "jax")
SYSTEM = (
    "/usr", "/bin", "/lib", "/lib64", "/nix/store", "/etc/ld.so.cache", "/etc/localtime",
    "/dev/urandom", "/dev/zero", "/proc/cpuinfo", "/proc/meminfo", "/proc/self", "/sys/devices/system/cpu",
)  # fmt: skip
ENVIRONMENT = {
    "PATH": os.defpath,
    "LANG": "C.UTF-8",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "JAX_PLATFORMS": "cpu",
}


@dataclass(frozen=True)
class Limits:
    """What a graded file may take: seconds to start, to be imported and for an answer, processor time in all, bytes.

    memory: of address space, beyond what the libraries take; jax_memory: the same with JAX, which reserves far more
    than it uses.
    """

    start_seconds: float = 120.0
    import_seconds: float = 60.0
    seconds: float = 10.0
    cpu_seconds: int = 120
    memory: int = 2 * 2**30
    jax_memory: int = 48 * 2**30
    file_bytes: int = 16 * 2**20
    open_files: int = 128


@dataclass(frozen=True)
class Source:
    """A graded file: its name for messages, its text, and what it may import beside the installed libraries.

    folder: where modules of its own lie, if the file is one's own. with_minikd: it may use what it is judged by.
    """

    name: str
    text: str
    folder: Path | None = None
    with_minikd: bool = False

    def imports(self, library: str) -> bool:
        """Whether it begins a line with the import of a library."""
        return re.search(rf"^\s*(?:import|from)\s+{library}\b", self.text, re.MULTILINE) is not None

    def mentions(self, name: str) -> bool:
        """Whether it seems to define a name."""
        return (
            re.search(rf"^(?:def\s+{name}\b|{name}\s*=|.*\bimport\b.*\b{name}\b)", self.text, re.MULTILINE) is not None
        )


class BadFile(Exception):
    """The file cannot be imported; the message says what it raised."""


class Sandbox:
    """One process of a graded file, for the length of a `with` block.

    functions: those of `names` that the file has, each with its parameters' names (None: it takes any). framework: what
    they are written in. precision: the type of number they compute in. protections: what keeps the process in, as far
    as this system has it.
    """

    functions: dict[str, list[str] | None]
    framework: str
    precision: str
    protections: list[str]

    def __init__(self, source: Source, limits: Limits, names: Sequence[str], *, bubblewrap: bool = False):
        self._source, self._limits, self._names, self._bubblewrap = source, limits, names, bubblewrap

    def __enter__(self) -> "Sandbox":
        """Start the process and import the file there.

        Gone: the process ended; BadFile: the file raised something; UserError: there can be no such process here.
        """
        self._exits = ExitStack()
        self._folder = self._exits.enter_context(working_folder())
        setup = self._setup()
        command = [os.path.realpath(sys.executable), "-I", "-S", "-u", str(CHILD)]
        if self._bubblewrap:
            command = [*bubblewrap_command(self._folder, setup["readable"], setup["hidden"]), *command]
        environment = ENVIRONMENT | {"HOME": self._folder, "TMPDIR": self._folder}
        try:
            self._process = Process(command, folder=self._folder, environment=environment)
            self._exits.callback(self._process.end)
            self.protections = self._start(json.dumps(setup).encode())
            self._read_import(self._process.exchange(b"!", self._limits.import_seconds)[0])
        except BaseException:
            self._exits.close()
            raise
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._exits.close()

    @property
    def printed(self) -> str:
        """The beginning of what the process has printed."""
        return self._process.printed.decode("utf-8", "replace")

    def ask(
        self, head: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The answer to one request, which has an id. Gone: there is none, and there will be no other."""
        reply = self._process.exchange(wire.pack(head, arrays), self._limits.seconds)
        if reply[0].get("id") != head["id"]:
            raise Gone("it wrote to the judge's pipe")
        return reply

    def _start(self, setup: bytes) -> list[str]:
        """Have the process confine itself, before it has seen anything of the file; its protections."""
        try:
            ready, _ = self._process.exchange(len(setup).to_bytes(8, "little") + setup, self._limits.start_seconds)
        except Gone as error:
            self._process.end()
            last = self.printed.strip().rpartition("\n")[2]
            raise UserError(f"the process for a graded file does not start: {error}; {clean(last)}") from error
        return ready["protections"]

    def _setup(self) -> dict[str, Any]:
        source = self._source
        packages = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
        own = [str(source.folder)] if source.folder else []
        own += [str(MINIKD.parent)] if source.with_minikd else []
        libraries = [name for name in LIBRARIES if source.imports(name)]
        limits = asdict(self._limits) | ({"memory": self._limits.jax_memory} if "jax" in libraries else {})
        return {
            "path": [*packages, *own],
            "readable": [*SYSTEM, sys.base_prefix, *packages, *own, str(CHILD)],
            "hidden": "" if source.with_minikd else str(MINIKD),
            "folder": self._folder,
            "libraries": libraries,
            "limits": limits,
            "source": source.text,
            "file": source.name,
            "names": list(self._names),
        }

    def _read_import(self, head: dict[str, Any]) -> None:
        functions = head.get("functions")
        if head.get("ended"):
            raise Gone("it ended its process while it was imported")
        if not isinstance(functions, dict):
            raise BadFile(clean(head.get("error") or "NotImplementedError"))
        self.framework = clean(head.get("framework"))
        self.precision = "float32" if head.get("precision") == "float32" else "float64"
        self.functions = {name: functions[name] for name in self._names if name in functions}
        for parameters in self.functions.values():
            if not (parameters is None or isinstance(parameters, list)):
                raise Gone("it wrote to the judge's pipe")


def bubblewrap_command(folder: str, readable: Sequence[str], hidden: str) -> list[str]:
    """The beginning of a command line that lets a command see `readable` but for `hidden`, and write to `folder`.

    UserError: bubblewrap is not installed.
    """
    program = shutil.which("bwrap")
    if program is None:
        raise UserError("--bubblewrap needs the program bwrap, which is not installed; see the package bubblewrap")
    command = [program, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    seen = [path for path in readable if not path.startswith(("/proc", "/dev"))]
    for path in seen:
        command += ["--ro-bind-try", path, path]
    if any(Path(hidden).is_relative_to(Path(path).resolve()) for path in seen if hidden):
        command += ["--tmpfs", hidden]
    command += ["--ro-bind", str(CHILD), str(CHILD), "--proc", "/proc", "--dev", "/dev"]
    return [*command, "--bind", folder, folder, "--chdir", folder, "--"]


def clean(said: Any, limit: int = 300) -> str:
    """A stranger's words as one line of printable characters."""
    words = "".join(c if c.isprintable() else " " for c in str(said)[: 4 * limit])
    words = " ".join(words.split())
    return words if len(words) <= limit else f"{words[: limit - 3]}..."
