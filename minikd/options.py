"""Where the value of an option comes from: the command line, then `--config FILE`, then its default.

With `--resume` the defaults are the options of the run in the folder; what is given besides has to equal them.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from cyclopts import App, ArgumentCollection, Token
from cyclopts.argument import Argument

from minikd.errors import UserError
from minikd.reading import read_json_object, reading

RUN = "config.json"
NOT_OF_THE_RUN = ("config", "out", "quiet", "resume")
"""Options that say nothing about what a run computes."""

MOOT = {
    "init": ("n_layer", "n_head", "n_embd", "dropout", "vocab_size"),
    "teacher": ("teacher_n_layer", "teacher_n_head", "teacher_n_embd", "vocab_size"),
    "tokenizer": ("vocab_size",),
}
"""What a folder brings with it, and what can therefore not be chosen beside it."""

LARGEST = 2**31 - 1
"""The largest whole number that an option takes."""

KINDS: dict[type, tuple[type | tuple[type, ...], str]] = {
    bool: (bool, "true or false"),
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
    str: (str, "a string"),
    Path: (str, "a path"),
}


def flat(*configs: Any, **others: Any) -> dict[str, Any]:
    """The options of a run by name, as JSON has them: the fields of all `configs`, and `others`."""
    options = {name: value for config in configs for name, value in asdict(config).items()} | others
    moot = {other for name, others in MOOT.items() if options.get(name) is not None for other in others}
    return {name: _plain(value) for name, value in options.items() if name not in {*NOT_OF_THE_RUN, *moot}}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return os.path.abspath(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def fill_in(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Give the arguments of a command what is not on the command line; a UserError says what cannot be."""
    for argument in arguments:
        _check_values(argument)
    by_name = {name: argument for argument in arguments for name in argument.names if name.startswith("--")}
    if (file := _value(by_name, "--config")) is not None:
        _add(by_name, read_options(file), str(file))
    _refuse_moot(by_name)
    if _value(by_name, "--resume"):
        folder = _value(by_name, "--out")
        run = read_run(folder)
        if run["command"] != " ".join(commands):
            raise UserError(
                f"{folder} holds a run of `minikd {run['command']}`; wanted `minikd {run['command']} --resume`"
            )
        _add(by_name, run["options"], str(folder / RUN))


def read_options(path: Path) -> dict[str, Any]:
    """The options in a TOML file."""
    with reading(path):
        data = path.read_bytes()
    try:
        options = tomllib.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: not TOML ({' '.join(str(error).split())}); wanted lines like `steps = 600`"
        ) from error
    for key in options:
        if key in ("config", "help", "version"):
            raise UserError(f"{path}: {key} is an option of the command line only")
    return options


def read_run(folder: Path) -> dict[str, Any]:
    """What a command wrote into the config.json of its run; UserError when there is none."""
    path = folder / RUN
    if not path.exists():
        raise UserError(f"{folder}: there is no run to resume; wanted a folder with the {RUN} of an unfinished one")
    run = read_json_object(path)
    parts = [run.get(name) for name in ("options", "inputs", "versions")]
    if not isinstance(run.get("command"), str) or not all(isinstance(part, dict) for part in parts):
        raise UserError(f"{path}: not that of a run; wanted the folder that a run left its results in")
    return run


def refuse_changes(folder: Path, options: Mapping[str, Any], started_with: Mapping[str, Any]) -> None:
    """UserError for the first of a run's options that differs from those it was started with."""
    for name, before in started_with.items():
        if name in options and options[name] != before:
            raise UserError(
                f"--{_dashed(name)} is {_shown(options[name])}, but the run in {folder} was started with "
                f"{_shown(before)}; wanted the same, or another --out"
            )


def nearest(name: str, names: Iterable[str]) -> str:
    """A suggestion, to go at the end of a message: the name with these initials, else the one written most alike."""
    names = list(names)
    letters = name.strip("-")
    close = [long for long in names if "".join(word[:1] for word in long.strip("-").split("-")) == letters]
    close = close or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def wanted(argument: Argument) -> str:
    """What an option takes, to go at the end of a message."""
    choices = argument.get_choices(force=True)
    return f"one of {', '.join(choices)}" if choices else KINDS[_kind(argument.resolved_hint)][1]


def _value(by_name: Mapping[str, Argument], name: str) -> Any:
    """What an option has been given so far, else its default; None if the command has no such option."""
    argument = by_name.get(name)
    if argument is None:
        return None
    return argument.convert() if argument.tokens else argument.field_info.default


def _add(by_name: Mapping[str, Argument], options: Mapping[str, Any], source: str) -> None:
    names = [name for name in by_name if not name.startswith(("--no-", "--config", "--help"))]
    for key, value in options.items():
        name = f"--{_dashed(key)}"
        if name not in names:
            raise UserError(f"{source}: unknown option {key}{nearest(name, names).replace('--', '')}")
        argument = by_name[name]
        if argument.tokens or value is None:
            continue
        many = get_origin(argument.resolved_hint) is tuple
        values = value if many and isinstance(value, list) else [value]
        accepted, _ = KINDS[_kind(argument.resolved_hint)]
        for i, item in enumerate(values):
            if not isinstance(item, accepted) or isinstance(item, bool) != (accepted is bool):
                raise UserError(f"{source}: {key} is {_shown(item)}; wanted {wanted(argument)}")
            argument.append(Token(keyword=key, value=str(item), source=source, index=i))
        _check_values(argument)


def _kind(hint: Any) -> type:
    """The type of a single value of an option."""
    if get_origin(hint) is tuple:
        return _kind(get_args(hint)[0])
    return str if get_origin(hint) is Literal else hint


def _check_values(argument: Argument) -> None:
    """What the command line library lets pass: it would round 1.5 to 2, and take '' for the current folder."""
    kind = _kind(argument.resolved_hint)
    for token in argument.tokens:
        name, is_flag = token.keyword or argument.name, argument.parameter.count and not token.value
        if kind is Path and not token.value:
            raise UserError(f"{name} is empty; wanted {wanted(argument)}")
        if kind is int and not is_flag:
            if not re.fullmatch(r"[+-]?\d+", token.value):
                raise UserError(f"{name} is {token.value!r}; wanted {wanted(argument)}")
            if abs(float(token.value)) > LARGEST:
                raise UserError(f"{name} is {token.value}; wanted at most {LARGEST}")


def _refuse_moot(by_name: Mapping[str, Argument]) -> None:
    for name, others in MOOT.items():
        if f"--{name}" not in by_name or not by_name[f"--{name}"].tokens:
            continue
        for other in (f"--{_dashed(other)}" for other in others):
            if other in by_name and by_name[other].tokens:
                raise UserError(f"{other} cannot be chosen beside --{name}, which brings its own; wanted one of them")


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else "not set" if value is None else repr(value)
