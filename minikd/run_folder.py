"""A run's folder: metrics as they come, samples, and the state to resume from."""

import json
import os
from pathlib import Path
from typing import Any

from minikd.atomic import atomic_write, writing


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
        """All records, oldest first; a last line that a killed run left unfinished is not one."""
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_text(encoding="utf-8").split("\n")[:-1]
        return [json.loads(line) for line in lines]

    def rewind(self, step: int) -> None:
        """Forget the records of steps after `step`: they will come again."""
        kept = [record for record in self.records() if record["step"] <= step]
        with atomic_write(self.metrics) as file:
            file.writelines(json.dumps(record) + "\n" for record in kept)
        self._write_samples()

    def _write_samples(self) -> None:
        samples = [record for record in self.records() if "sample" in record]
        with atomic_write(self.folder / "samples.txt") as file:
            file.writelines(f"--- step {record['step']}\n{record['sample']}\n\n" for record in samples)
