"""`python -m benchmarks`: minikd against PyTorch, a table and a JSON file."""

import argparse
import itertools
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.cases import HEAD_LOSSES, HEAD_TASKS, HEADS, SIZES, TASKS, Case
from benchmarks.harness import measure
from minikd.atomic import write_json
from minikd.errors import UserError

MIB = 1024 * 1024
BUSY = 0.1  # cores; more work beside the workers than this distorts a ratio
PASSED_ON = ("OMP_", "KMP_", "MKL_", "OPENBLAS_", "MALLOC_", "LD_PRELOAD")  # what may change a worker's speed
HEADER = (
    f"{'':<32}{'tokens/s':^21}  {'time of minikd / time of PyTorch':^34}  {'peak MiB':^18}\n"
    f"{'size':<8}{'task':<24}{'PyTorch':>10}{'minikd':>11}  "
    f"{'median':>6}{'min':>7}{'max':>7}{'best':>7}{'goal':>7}  {'PyTorch':>9}{'minikd':>9}"
)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure minikd against PyTorch (eager), each in a process of its own, taking turns.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--size", nargs="+", choices=[*SIZES, *HEADS], default=list(SIZES), help="sizes of the models, or vocabularies"
    )
    parser.add_argument(
        "--task",
        nargs="+",
        choices=[*TASKS, *HEAD_TASKS],
        default=[*TASKS, *HEAD_TASKS],
        help="what to measure: of a model, or (whole, blocks) of an output projection with its loss",
    )
    parser.add_argument(
        "--loss", nargs="+", choices=HEAD_LOSSES, default=["forward_kl"], help="what an output projection is for"
    )
    parser.add_argument("--rounds", type=positive, default=9, help="turns of each side")
    parser.add_argument("--seconds", type=float, default=1.0, help="about how long a turn of the slower side lasts")
    parser.add_argument("--threads", type=positive, default=available_cores(), help="threads of each side")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="NumPy or CuPy, each against PyTorch")
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"), help="the JSON file to write")
    options = parser.parse_args(arguments)
    if not options.out.parent.is_dir():
        parser.error(f"argument --out: {options.out.parent} is not a folder; wanted one for {options.out.name}")
    return options


def positive(text: str) -> int:
    """A whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"is {number}; wanted at least 1")
    return number


def available_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """What was asked for: models have their tasks, output projections have theirs, each with every loss."""
    for size, task in itertools.product(options.size, options.task):
        if size in SIZES and task in TASKS:
            yield Case(size, task, options.device, options.threads)
        if size in HEADS and task in HEAD_TASKS:
            for loss in options.loss:
                yield Case(size, task, options.device, options.threads, loss)


def table_row(result: dict[str, Any]) -> str:
    """One line of the table, under `HEADER`."""
    ratio = result["ratio"]
    rate = {side: result["tokens_per_step"] / median(s) for side, s in result["seconds_per_step"].items()}
    mib = {side: (m["device_peak_bytes"] or m["peak_bytes"]) / MIB for side, m in result["memory"].items()}
    goal = f"{result['goal']:.2f}" if result["goal"] else ""
    return (
        f"{result['size']:<8}{result['task']:<24}{rate['torch']:>10,.0f}{rate['minikd']:>11,.0f}  "
        f"{ratio['median']:>6.2f}{ratio['min']:>7.2f}{ratio['max']:>7.2f}{ratio['best']:>7.2f}{goal:>7}  "
        f"{mib['torch']:>9,.0f}{mib['minikd']:>9,.0f}"
    )


def show_progress(label: str, text: str) -> None:
    """Write over the last line of a terminal; elsewhere, nothing."""
    if sys.stderr.isatty():
        print(f"\r{label} {text:<40}\r", end="", file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """Where this was measured."""
    cpu = platform.processor() or platform.machine()
    with suppress(OSError):
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(": ")[2] if names else cpu
    return {
        "cpu": cpu,
        "cores": available_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "environment": {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)},
    }


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    report: dict[str, Any] = {"machine": machine(), "rounds": options.rounds, "threads": options.threads, "cases": []}
    print(HEADER, flush=True)
    for case in cases(options):
        result = measure(
            case,
            rounds=options.rounds,
            turn_seconds=options.seconds,
            progress=partial(show_progress, f"{case.size_name} {case.name}"),
        )
        show_progress(" " * 30, "")
        print(table_row(result), flush=True)
        elsewhere = [cores for cores in result["cores_busy_elsewhere"] if cores is not None]
        if elsewhere and median(elsewhere) > BUSY:
            print(f"{'':<8}(distorted: {median(elsewhere):.1f} cores were busy with other work)", flush=True)
        report["cases"].append(result)
        write_json(options.out, report)
    print(f"\nEvery round is in {options.out}.")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"\n{error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
