"""A run's folder: metrics as they come, samples, and the state to resume from."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minikd.atomic import atomic_write, writing
from minikd.errors import UserError
from minikd.reading import parse_json_object, read_json_object, reading

RESULT = "result.json"


class RunFolder:
    """Where a run leaves what it measures: `metrics.jsonl`, one JSON object a line, and `samples.txt`.

    The folder is made if it is not there. UserError wherever it cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)
        self.metrics = self.folder / "metrics.jsonl"
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)

    def log(self, record: dict[str, Any]) -> None:
        """Append a record, which has at least its `step`; samples in it are written to `samples.txt` too."""
        with writing(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if "sample" in record:
            self._write_samples()

    def records(self) -> list[dict[str, Any]]:
        """All records, oldest first; a last line that a killed run left unfinished is not one.

        UserError, which names the line, where one is damaged.
        """
        if not self.metrics.exists():
            return []
        with reading(self.metrics):
            lines = self.metrics.read_bytes().split(b"\n")[:-1]
        return [self._record(line, number) for number, line in enumerate(lines, start=1)]

    def rewind(self, step: int) -> None:
        """Forget the records of steps after `step`: they will come again."""
        self.write([record for record in self.records() if record["step"] <= step])

    def write(self, records: list[dict[str, Any]]) -> None:
        """Write these records in place of those that are there."""
        with atomic_write(self.metrics) as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
        self._write_samples()

    def _record(self, line: bytes, number: int) -> dict[str, Any]:
        record = parse_json_object(line, f"{self.metrics}: line {number}")
        learners = [value for value in record.values() if isinstance(value, dict)]
        numbers = [number for learner in learners for number in learner.values()]
        if not (type(record.get("step")) is int and numbers and all(isinstance(x, int | float) for x in numbers)):
            raise UserError(f"{self.metrics}: line {number}: not a record; wanted a step, and a loss of every learner")
        return record

    def _write_samples(self) -> None:
        samples = [record for record in self.records() if "sample" in record]
        with atomic_write(self.folder / "samples.txt") as file:
            file.writelines(f"--- step {record['step']}\n{record['sample']}\n\n" for record in samples)


def is_finished(run: Path, models: tuple[str, ...]) -> bool:
    """Whether a run has left its result and its models."""
    return (run / RESULT).exists() and all((run / name).exists() for name in models)


@contextmanager
def reading_result(run: Path) -> Iterator[dict[str, Any]]:
    """The result.json of a finished run, for a block that looks into it; UserError when it is damaged."""
    path = run / RESULT
    try:
        yield read_json_object(path)
    except (UserError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not what a run leaves; without it --resume evaluates again") from error
