"""What `minikd info` tells: about this installation, a model folder, or a run's folder."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minikd.backend import select_device
from minikd.checkpoint import STEP, load_state
from minikd.errors import UserError
from minikd.model_folder import load_model
from minikd.options import RUN, read_run
from minikd.reading import read_json_object
from minikd.run_folder import RESULT, RunFolder
from minikd.versions import versions
from minikd.workers import available_cores


def about(folder: Path | None) -> Iterator[str]:
    """`minikd info`: lines about this installation, or about a model folder or a run's folder."""
    if folder is None:
        yield from (f"{name:10s} {value}" for name, value in versions().items())
        yield f"{'device':10s} {select_device('auto')[1]}"
        yield f"{'cores':10s} {available_cores()}"
    elif (folder / RUN).exists() and "command" in read_json_object(folder / RUN):
        yield from about_run(folder)
    else:
        yield from about_model(folder)


def about_model(folder: Path) -> Iterator[str]:
    """What a model folder holds; UserError if it holds no sound model."""
    config, params, tokenizer = load_model(folder)
    yield f"{folder}: a GPT-2 of {params.flat.size:,} parameters"
    yield f"{'sizes':10s} " + ", ".join(f"{name} {value}" for name, value in asdict(config).items() if value)
    fields = read_json_object(folder / "config.json")
    yield f"{'dtype':10s} {fields.get('dtype') or fields.get('torch_dtype') or 'not said'}"
    end = "no end of text" if tokenizer.eos_id is None else f"end of text {tokenizer.eos_id}"
    yield f"{'tokenizer':10s} {tokenizer.vocab_size} tokens, {end}, {tokenizer.fingerprint[:12]}"


def about_run(folder: Path) -> Iterator[str]:
    """How far the run in a folder is, and those in its subfolders."""
    started = read_run(folder)
    yield f"{folder}: minikd {started['command']}"
    options = {name: value for name, value in started["options"].items() if value not in (None, [])}
    yield f"{'options':10s} " + ", ".join(f"{name} {value}" for name, value in options.items())
    yield f"{'versions':10s} " + ", ".join(f"{name} {value}" for name, value in started["versions"].items())
    for place in (folder, *sorted(path.parent for path in folder.glob("**/metrics.jsonl") if path.parent != folder)):
        if records := RunFolder(place).records():
            state = "finished" if (place / RESULT).exists() else "not finished"
            yield f"{place.name}: step {records[-1]['step']}, {state}; {last_losses(records)}; states: {states(place)}"


def last_losses(records: list[dict[str, Any]]) -> str:
    """The newest training and validation loss of every learner of a run."""
    newest: dict[str, float] = {}
    for record in records:
        for name, value in record.items():
            if isinstance(value, dict):
                newest |= {f"{name} {key}": value[key] for key in ("loss", "val_loss") if key in value}
    return ", ".join(f"{name} {value:.4f}" for name, value in newest.items())


def states(folder: Path) -> str:
    """The states that a run could be resumed from."""
    found = sorted(path for path in (folder / "state").glob("step-*") if STEP.fullmatch(path.name))
    return ", ".join(path.name + ("" if is_sound(path) else " (broken)") for path in found) or "none"


def is_sound(state: Path) -> bool:
    """Whether a state is, byte for byte, what was saved."""
    try:
        load_state(state)
    except UserError:
        return False
    return True
