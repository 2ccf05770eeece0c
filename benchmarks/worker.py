"""The process that runs one side of one case: it reads `go K` and answers with the seconds that K steps took.

A line in is a request, a line out its answer in JSON. Each side has a process of its own because in one process the
threads of PyTorch and those of NumPy's BLAS disturb each other.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.cases import Case
from benchmarks.side import Side


def peak_bytes() -> int:
    """The most resident memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def build(name: str, case: Case) -> Side:
    """The side named, with only its own libraries imported."""
    if name == "torch":
        from benchmarks.torch_side import build_torch as build_side
    else:
        from benchmarks.minikd_side import build_minikd as build_side
    return build_side(case)


def repeat(step: Callable[[], Any], n: int) -> list[Any]:
    """The results of `n` steps."""
    return [step() for _ in range(n)]


def serve(side: Side, answer: Callable[[dict[str, Any]], None]) -> None:
    """Answer requests until there are no more."""
    for line in sys.stdin:
        match line.split():
            case ["go", n]:
                cpu = time.process_time()
                seconds, results = side.timed(partial(repeat, side.step, int(n)))
                cpu = time.process_time() - cpu
                numbers = [side.numbers(result) for result in results]
                answer({"seconds": seconds, "cpu_seconds": cpu, "numbers": numbers})
            case ["memory"]:
                answer({"peak_bytes": peak_bytes(), "device_peak_bytes": side.device_peak_bytes()})


def main() -> None:
    # The real output is for answers alone; whatever a library prints goes to stderr.
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")

    name, size, task, device, threads, loss = sys.argv[1:]
    try:
        side = build(name, Case(size, task, device, int(threads), loss))
    except (ImportError, RuntimeError, ValueError) as error:
        answer({"error": str(error)})
        return
    answer(side.info)
    serve(side, answer)


if __name__ == "__main__":
    main()
