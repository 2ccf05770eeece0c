"""The commands: what they take, what they print, what they leave, and how an interrupted one goes on."""

import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import get_args
from unittest.mock import Mock

import numpy as np
import pytest
from safetensors.numpy import load_file

from minikd import cli, commands
from minikd.__main__ import run
from minikd.atomic import LEFTOVER
from minikd.checkpoint import alone_in
from minikd.distill.methods import DistillConfig, Method
from minikd.job import ModelConfig, RunConfig, TextConfig
from minikd.losses import DIVERGENCES
from minikd.model_folder import load_model, save_model
from minikd.run_folder import RunFolder
from minikd.text import Tokenizer
from minikd.train import TrainConfig
from tests.tiny import CONTEXT, VOCAB_SIZE, command, distill, spelled, start, train, write_model, write_text

COMMANDS = ("compare", "train", "distill", "sample", "eval", "info", "grade", "course", "lessons", "vectors")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, text):
    return write_model(tmp_path_factory.mktemp("models") / "teacher", text)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def weights(folder):
    return (Path(folder) / "model.safetensors").read_bytes()


def error_of(capsys):
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("computing on")]
    return line


# What can be asked


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("course", "lessons")])
def test_every_option_has_a_help_line_and_a_default(name, capsys):
    arguments = [
        a for a in cli.app[name].assemble_argument_collection(parse_docstring=True) if a.parse and not a.children
    ]
    for argument in arguments:
        assert argument.parameter.help, argument.name
        assert name == "sample" or argument.name in ("MODEL", "OUT") or not argument.required, argument.name
    assert command(name, "--help") == 0
    printed = " ".join(capsys.readouterr().out.split())
    for argument in arguments:
        assert argument.name in printed
    defaults = sum(not argument.required for argument in arguments)
    assert len(re.findall(r"\[default:", re.sub("[│ ]+", " ", printed))) == defaults


def test_the_options_are_the_configuration():
    for name, configs in {
        "train": (TextConfig, ModelConfig, TrainConfig, RunConfig),
        "distill": (TextConfig, ModelConfig, TrainConfig, RunConfig, DistillConfig),
    }.items():
        offered = {n for a in cli.app[name].assemble_argument_collection(parse_docstring=True) for n in a.names}
        assert {f"--{field.name.replace('_', '-')}" for config in configs for field in fields(config)} <= offered


def test_the_divergences_offered_are_those_there_are():
    (hint,) = [field.type for field in fields(DistillConfig) if field.name == "divergence"]
    assert set(get_args(hint)) == set(DIVERGENCES)


def test_help_and_version(capsys):
    assert command() == 0
    listed = re.findall(r"^│ (\w+) ", capsys.readouterr().out, flags=re.MULTILINE)
    assert listed == list(COMMANDS)
    assert command("--version") == 0
    assert re.fullmatch(r"\d+\.\d+.*", capsys.readouterr().out.strip())


def test_help_does_not_wait_for_what_it_does_not_need():
    code = "import sys, minikd.cli; print([name for name in ('matplotlib', 'cupy', 'torch') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize("argv", [["info"], ["--help"]])
def test_a_reader_that_stops_reading(argv):
    read, write = os.pipe()
    os.close(read)
    process = start(*argv, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert process.communicate()[1] == b""
    assert process.returncode == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_under_the_output():
    with open("/dev/full", "w") as full:
        process = start("info", stdout=full, stderr=subprocess.PIPE, text=True)
        assert re.fullmatch("error: .*No space left on device\n", process.communicate()[1])
    assert process.returncode == 2


def test_no_output_at_all():
    assert start("info", preexec_fn=lambda: os.close(1)).wait() == 0


def test_no_error_stream(text):
    def closed(*argv):
        process = start(*argv, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: os.close(2))
        return process.communicate()[0], process.returncode

    printed, code = closed(*train(text=text, steps=1))
    assert re.fullmatch(r"model in out/model\nvalidation loss .*\n", printed) and code == 0
    assert closed("eval", "nowhere", "--json") == ("", 2)


def test_memory_that_runs_out_without_a_word(teacher, capsys, monkeypatch):
    monkeypatch.setattr("minikd.commands.generate", Mock(side_effect=MemoryError))
    assert command("sample", teacher) == 2
    assert error_of(capsys) == "error: not enough memory"


def test_ctrl_c_before_all_is_loaded(monkeypatch):
    class HalfLoaded:
        main = property(Mock(side_effect=KeyboardInterrupt))

    monkeypatch.setitem(sys.modules, "minikd.cli", HalfLoaded())
    assert run() == 130


# Train


def test_train(text, capsys):
    assert command(*train(text=text, steps=4, eval_every=2)) == 0
    printed = capsys.readouterr()
    assert "model in out/model\nvalidation loss " in printed.out
    lines = printed.err.splitlines()
    assert lines[0].startswith("computing on cpu") and lines[0].endswith(", 2 threads")
    assert [line.split()[:3] for line in lines[1:]] == [["out:", "step", "2/4"], ["out:", "step", "4/4"]]
    assert sorted(os.listdir("out")) == [
        "config.json", "metrics.jsonl", "model", "result.json", "samples.txt", "state", "text"
    ]  # fmt: skip
    config, _, tokenizer = load_model("out/model")
    assert (config.vocab_size, config.n_positions, config.n_embd) == (VOCAB_SIZE, CONTEXT, 16)
    assert tokenizer.vocab_size == VOCAB_SIZE
    assert [record["step"] for record in RunFolder("out").records()] == [2, 4]


def test_what_is_written_down_is_enough_to_run_it_again(text):
    command(*train(text=text, steps=2, learning_rate=0.01, seed=3, quiet=True))
    run = json.loads(Path("out/config.json").read_text())
    assert run["command"] == "train"
    assert run["options"]["text"] == [str(text)]
    assert (run["options"]["device"], run["options"]["threads"]) == ("cpu", 2)
    assert {"python", "minikd", "numpy", "tokenizers"} == set(run["versions"])
    options = {name: value for name, value in run["options"].items() if value is not None and name != "text"}
    assert command("train", "--text", *run["options"]["text"], *spelled(options | {"out": "again"})) == 0
    assert weights("out/model") == weights("again/model")


def test_the_seed_and_nothing_else_decides(text):
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        command(*train(text=text, steps=2, seed=seed, out=out))
    assert weights("a/model") == weights("b/model") != weights("c/model")


def test_starting_from_a_model(text, teacher):
    sizes = {"n_layer": None, "n_head": None, "n_embd": None, "vocab_size": None}
    assert command(*train(text=text, init=teacher, steps=1, learning_rate=1e-9, weight_decay=0, **sizes)) == 0
    before, after = load_model(teacher)[1].flat, load_model("out/model")[1].flat
    assert 0 < np.abs(after - before).max() < 1e-8
    options = json.loads(Path("out/config.json").read_text())["options"]
    assert options["init"] == str(teacher)
    assert not {"n_layer", "n_embd", "vocab_size"} & set(options), "they would be those of a new model"


def test_an_empty_folder_will_do(text):
    Path("out").mkdir()
    assert command(*train(text=text, steps=1)) == 0


# Options from a file


def test_configuration_file(text):
    Path("options.toml").write_text(
        f"text = ['{text}']\nsteps = 2\nn-layer = 2\nlearning_rate = 1\nquiet = true\n"
        "vocab_size = 280\ncontext = 16\nbatch-size = 4\nn_embd = 16\ndevice = 'cpu'\n"
    )
    assert command("train", "--config", "options.toml", "--out", "out", "--learning-rate", 1e-3) == 0
    options = json.loads(Path("out/config.json").read_text())["options"]
    assert options["n_layer"] == 2, "from the file"
    assert options["learning_rate"] == 1e-3, "the command line wins"
    assert options["weight_decay"] == TrainConfig().weight_decay, "by default"
    assert command("train", "--config", "options.toml", "--out", "out", "--learning-rate", 1e-3, "--resume") == 0


@pytest.mark.parametrize("name", ["[red].txt", '["a", "b"]'])
def test_names_that_look_like_json(text, teacher, name):
    shutil.copy(text, name)
    assert command("eval", teacher, "--text", name) == 0
    Path("options.toml").write_text(f"text = '{name}'")
    assert command("eval", teacher, "--config", "options.toml") == 0


# Distill


@pytest.mark.parametrize("method", get_args(Method))
def test_distill(text, teacher, method, capsys):
    options = {"corpus_tokens": 300} if method == "sequence" else {}
    assert command(*distill(method=method, teacher=teacher, text=text, steps=2, **options)) == 0
    assert "validation loss" in capsys.readouterr().out
    result = json.loads(Path("out/result.json").read_text())["evaluation"]
    assert 0 <= result["agreement"] <= 1 and result["kl_to_teacher"] > 0
    assert load_model("out/model")[2].same_as(load_model(teacher)[2])
    assert Path("out/teacher").exists() == (method == "codistill")
    assert Path("out/corpus.txt").exists() == (method == "sequence")


def test_codistill_with_a_new_teacher(text, capsys):
    sizes = {"teacher_n_layer": 2, "teacher_n_head": 4, "teacher_n_embd": 32}
    assert command(*distill(method="codistill", text=text, vocab_size=VOCAB_SIZE, steps=2, mutual=True, **sizes)) == 0
    assert "model in out/model and teacher in out/teacher" in capsys.readouterr().out
    config = load_model("out/teacher")[0]
    assert (config.n_layer, config.n_head, config.n_embd) == (2, 4, 32)


def test_codistill_goes_on_with_a_trained_teacher(text, teacher):
    command(*distill(method="codistill", teacher=teacher, text=text, steps=1, teacher_learning_rate=1e-9))
    before, after = load_model(teacher)[1].flat, load_model("out/teacher")[1].flat
    assert 0 < np.abs(after - before).max() < 1e-8


def test_compare_is_called_with_what_was_asked(text, monkeypatch, capsys):
    calls = []

    def compare(text, config, run, out, *, resume):
        calls.append((text.text, config.preset, config.seeds, run.seed, out, resume))
        assert json.loads((out / "config.json").read_text())["command"] == "compare"

    monkeypatch.setattr(commands, "compare", compare)
    argv = ("compare", "--text", text, "--preset", "tiny", "--seeds", 2, "--seed", 5)
    assert command(*argv) == 0
    assert "the report is in runs/compare/report.md" in capsys.readouterr().out
    assert command("compare", "--resume") == 0
    wanted = ((Path(text),), "tiny", 2, 5, Path("runs/compare"))
    assert calls == [(*wanted, False), (*wanted, True)]
    assert command("compare", "--resume", "--seeds", 3) == 2
    assert "--seeds is 3, but the run in runs/compare was started with 2" in error_of(capsys)


# Sample, eval, info


def test_sample(teacher, capsys):
    def written(*options):
        assert command("sample", teacher, "--tokens", 5, *options) == 0
        return capsys.readouterr().out

    assert written("--prompt", "ba de") == written("--prompt", "ba de") != written("--prompt", "ba de", "--seed", 1)
    assert written("--prompt", "ba de").startswith("ba de")
    assert written("--prompt", "--x").startswith("--x")
    assert written("--greedy") == written("--temperature", 0) == written("--top-k", 1)
    first, second = written("-n", 2).split("--- 2\n")
    assert first == "--- 1\n" + written()
    assert second != written()


def test_a_model_whose_vocabulary_is_padded(text):
    tokenizer = Tokenizer.train([text.read_text(encoding="utf-8")], VOCAB_SIZE)
    padded = write_model(Path("padded"), text, 2 * VOCAB_SIZE, tokenizer)
    assert command("sample", padded, "--tokens", 200, "-n", 3) == 0
    sizes = dict.fromkeys(("n_layer", "n_head", "n_embd", "vocab_size"))
    assert command(*train(init=padded, text=text, steps=2, out="went-on", **sizes)) == 0
    for method, options in (("soft", {}), ("sequence", {"corpus_tokens": 200})):
        assert command(*distill(method=method, teacher=padded, text=text, steps=2, out=method, **options)) == 0


def test_eval_agrees_with_training(text, teacher, capsys):
    """The validation part is the one of the training, so that a model can be evaluated on the corpus it is from."""
    command(*distill(method="soft", teacher=teacher, text=text, steps=2))
    capsys.readouterr()
    argv = ("eval", "out/model", "--text", text, "--threads", 2)
    assert command(*argv, "--teacher", teacher, "--json") == 0
    values = json.loads(capsys.readouterr().out)
    result = json.loads(Path("out/result.json").read_text())["evaluation"]
    assert {name: values[name] for name in result} == result
    assert values["perplexity"] == pytest.approx(math.exp(values["val_loss"]))
    assert set(values) == {*result, "perplexity"}
    assert command(*argv, "--split", "all", "--json") == 0
    whole = json.loads(capsys.readouterr().out)
    assert set(whole) == {"val_loss", "perplexity", "bits_per_byte", "tokens"}
    assert whole["tokens"] > 5 * values["tokens"]
    assert command(*argv, "--val-fraction", 0.5) == 0
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert values["tokens"] < int(printed["tokens"]) < whole["tokens"]


def test_a_model_is_its_own_equal(text, teacher, capsys):
    command("eval", teacher, "--teacher", teacher, "--text", text, "--json")
    values = json.loads(capsys.readouterr().out)
    assert (values["agreement"], values["kl_to_teacher"]) == (1.0, 0.0)


def test_a_loss_that_is_no_number(text, teacher, capsys):
    config, params, tokenizer = load_model(teacher)
    params["transformer.ln_f.weight"][...] = 1e38
    params["transformer.wte.weight"][...] *= 1e4
    save_model("huge", config, params, tokenizer)
    assert command("eval", "huge", "--text", text, "--json") == 0
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["val_loss"] is None


def test_info(text, teacher, capsys):
    assert command("info") == 0
    assert re.search(r"^numpy +\d.*^device +(cpu|gpu).*^cores +\d", capsys.readouterr().out, re.DOTALL | re.MULTILINE)
    assert command("info", teacher) == 0
    printed = capsys.readouterr().out
    assert f"a GPT-2 of {load_model(teacher)[1].flat.size:,} parameters" in printed
    assert re.search("float32.*280 tokens, end of text 0", printed, re.DOTALL)
    command(*train(text=text, steps=4, save_every=2))
    flip = Path("out/state/step-00000002/state.json")
    flip.write_text(flip.read_text() + " ")
    capsys.readouterr()
    assert command("info", "out") == 0
    printed = capsys.readouterr().out
    assert re.search(r"out: step 4, finished; student loss \d\.\d+, student val_loss \d\.\d+; ", printed)
    assert "states: step-00000002 (broken), step-00000004" in printed


# Go on


def test_resuming_a_finished_run_does_nothing(text, capsys):
    command(*train(text=text, steps=2))
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")}
    capsys.readouterr()
    assert command("train", "--resume", "--out", "out") == 0
    assert capsys.readouterr().out.startswith("finished already: model in out/model")
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")} == before


@pytest.mark.parametrize("damage", ["{}", '{"evaluation": {"val_loss": "low"}}', '{"evaluation": [1]}', "no json"])
def test_a_damaged_result_of_a_finished_run(text, capsys, damage):
    command(*train(text=text, steps=2))
    Path("out/result.json").write_text(damage)
    assert command("train", "--out", "out", "--resume") == 2
    printed = capsys.readouterr().err.strip()
    assert "result.json" in printed.splitlines()[-1]
    assert "Traceback" not in printed
    Path("out/result.json").unlink()
    assert command("train", "--out", "out", "--resume") == 0


def test_a_run_that_another_process_is_at_work_on(text, capsys):
    command(*train(text=text, steps=2))
    Path("out/result.json").unlink()
    capsys.readouterr()
    with alone_in(Path("out")):
        assert command("train", "--resume", "--out", "out") == 2
    assert error_of(capsys) == "error: out: another process is at work there; wanted one at a time"
    assert command("train", "--resume", "--out", "out") == 0


def test_resuming_restores_a_missing_model(text):
    command(*train(text=text, steps=2))
    before = weights("out/model")
    shutil.rmtree("out/model")
    assert command("train", "--resume", "--out", "out") == 0
    assert weights("out/model") == before


@pytest.mark.parametrize(
    "options, message",
    [
        (("--steps", 5), "--steps is 5, but the run in out was started with 2"),
        (("--threads", 1), "--threads is 1, but the run in out was started with 2"),
        (("--dtype", "float64"), "--dtype is 'float64', but the run in out was started with 'float32'"),
        (
            ("--text", "other.txt"),
            r"--text is \['.*/other.txt'\], but the run in out was started with \['.*/text.txt'\]",
        ),
    ],
)
def test_resuming_with_other_options(text, capsys, options, message):
    command(*train(text=text, steps=2))
    capsys.readouterr()
    assert command("train", "--resume", "--out", "out", *options) == 2
    assert re.search(message, error_of(capsys))
    assert command("distill", "--resume", "--out", "out") == 2
    assert "out holds a run of `minikd train`; wanted `minikd train --resume`" in error_of(capsys)


def test_options_that_change_nothing_may_differ(text):
    command(*train(text=text, steps=2))
    shutil.rmtree("out/model")
    options = ("--quiet", "--device", "auto", "--steps", 2, "--text", os.path.relpath(text))
    assert command("train", "--resume", "--out", "out", *options) == 0


def test_resuming_with_another_text_or_teacher(text, teacher, capsys):
    own_text, own_teacher = shutil.copy(text, "own.txt"), shutil.copytree(teacher, "teacher")
    command(*distill(method="soft", teacher=own_teacher, text=own_text, steps=2))
    shutil.rmtree("out/model")
    write_model(Path("teacher"), Path(text), n_embd=32)
    capsys.readouterr()
    assert command("distill", "--resume", "--out", "out") == 2
    assert error_of(capsys) == "error: the teacher has changed since the run in out began; wanted it as it was"
    with open("own.txt", "a") as file:
        file.write("more")
    assert command("distill", "--resume", "--out", "out") == 2
    assert error_of(capsys) == "error: the text has changed since the run in out began; wanted it as it was"


def test_resuming_with_another_version(text, capsys):
    command(*train(text=text, steps=2))
    shutil.rmtree("out/model")
    config = Path("out/config.json")
    run = json.loads(config.read_text())
    config.write_text(json.dumps(run | {"versions": run["versions"] | {"numpy": "1.0"}}))
    capsys.readouterr()
    assert command("train", "--resume", "--out", "out") == 0
    assert error_of(capsys).startswith("note: the run in out began with numpy 1.0; this is ")


@pytest.mark.parametrize("place", ["model", "elsewhere"])
def test_resuming_what_is_no_run(text, teacher, capsys, place):
    shutil.copytree(teacher, "model")
    assert command("train", "--resume", "--out", place) == 2
    assert re.search("there is no run to resume|config.json: not that of a run", error_of(capsys))


def stop_at(monkeypatch, step, times=1):
    """Press Ctrl-C when the loss of a step is written down."""
    log = RunFolder.log

    def log_and_stop(self, record):
        log(self, record)
        if record["step"] == step:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(RunFolder, "log", log_and_stop)


def test_ctrl_c(text, capsys, monkeypatch):
    argv = train(text=text, steps=6, log_every=1, out="my run")
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        assert command(*argv) == 130
    line = capsys.readouterr().err.splitlines()[-1]
    found = re.fullmatch("stopped after step 4 of 6; its state is saved in my run; to go on: minikd (.*)", line)
    assert found, line
    assert not Path("my run/model").exists()
    assert command(*shlex.split(found[1])) == 0
    assert command(*train(text=text, steps=6, log_every=1, out="whole")) == 0
    assert weights("my run/model") == weights("whole/model")
    assert [r["step"] for r in RunFolder("my run").records()] == [1, 2, 3, 4, 5, 6]


def test_ctrl_c_twice_stops_at_once(text, capsys, monkeypatch):
    stop_at(monkeypatch, 3, times=2)
    assert command(*train(text=text, steps=6, log_every=1, save_every=2)) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "stopped; to go on: minikd train --resume --out out"


def test_ctrl_c_while_the_text_is_prepared(text, capsys, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("minikd.job.tokenize", stop)
        assert command(*train(text=text, steps=2)) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "stopped; to go on: minikd train --resume --out out"
    assert command("train", "--resume", "--out", "out") == 0
    assert command(*train(text=text, steps=2, out="whole")) == 0
    assert weights("out/model") == weights("whole/model")


# Kill: the real command, in a process of its own

LONG = {"steps": 400, "log_every": 1, "save_every": 5, "eval_every": 100}


def kill_when(condition, *argv):
    """Start a command, kill it (SIGKILL) as soon as the condition holds; whether it was killed before it ended."""
    process = start(*argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not condition():
        time.sleep(0.0005)
    process.kill()
    return process.wait() == -signal.SIGKILL


def has_come_to(step):
    """The run has written down the loss of this step; its options, for step 0."""

    def condition():
        if step == 0:
            return os.path.exists("out/config.json")
        with suppress(FileNotFoundError), open("out/metrics.jsonl", "rb") as file:
            return file.read().count(b"\n") >= step

    return condition


def half_written(folder, name):
    """What is being written in the folder, or was when the process was killed: temporary names with `name` in them."""

    def names():
        with suppress(FileNotFoundError), os.scandir(folder) as entries:
            return [entry.name for entry in entries if LEFTOVER.fullmatch(entry.name) and name in entry.name]

    return names


def kill_inside_a_save(folder, name, *argv, again=lambda: None):
    """Kill a run in the middle of a write; one that was done before the signal came is tried `again`."""
    for _ in range(20):
        kill_when(half_written(folder, name), *argv)
        if half_written(folder, name)():
            return
        again()
    pytest.fail(f"no kill met a {name} half-written")


def kill_and_resume(text, steps):
    """Kill a run when it has come to each of `steps`, and then inside a save, and resume it each time; how to go on."""
    argv = train(text=text, **LONG)
    for step in steps:
        assert kill_when(has_come_to(step), *argv)
        argv = ["train", "--resume", "--out", "out"]
    kill_inside_a_save("out/state", "step", *argv)
    return argv


def assert_as_if_never_killed(text):
    """Resume the run to its end, and hold it against one that nobody killed."""
    assert command("train", "--resume", "--out", "out") == 0
    assert command(*train(text=text, **LONG, out="whole")) == 0
    assert not [path for path in Path("out").rglob("*") if LEFTOVER.fullmatch(path.name)]
    assert weights("out/model") == weights("whole/model")
    name = f"state/step-{LONG['steps']:08d}/state.safetensors"
    killed, whole = load_file(f"out/{name}"), load_file(f"whole/{name}")
    assert killed.keys() == whole.keys()
    assert all(np.array_equal(killed[name], whole[name]) for name in whole)
    assert [record["step"] for record in RunFolder("out").records()] == list(range(1, LONG["steps"] + 1))


def test_killed_twice(text, rng):
    kill_and_resume(text, [rng.integers(1, 100)])
    assert_as_if_never_killed(text)


@pytest.mark.slow
def test_killed_at_ten_moments_and_more(text, rng):
    """While the text is prepared, at nine random steps, inside the save of a state, and inside that of the model."""
    argv = kill_and_resume(text, [0, *sorted(rng.integers(1, 100, size=9))])
    kill_inside_a_save("out", "model", *argv, again=lambda: shutil.rmtree("out/model"))
    assert_as_if_never_killed(text)


def test_killed_before_it_began(text):
    """There is nothing to resume yet, and the same command starts anew."""
    Path("out").mkdir()
    Path("out/.config.json.tmp-0123abcd").write_text("{")
    assert command(*train(text=text, steps=1)) == 0
    assert not Path("out/.config.json.tmp-0123abcd").exists()


@pytest.mark.slow
def test_ctrl_c_of_the_real_command(text):
    process = start(*train(text=text, **LONG | {"steps": 100_000}), stderr=subprocess.PIPE, text=True)
    while not has_come_to(5)():
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    error = process.communicate()[1]
    assert process.returncode == 130
    assert error.splitlines()[-1].endswith("to go on: python -m minikd train --resume --out out")


@pytest.mark.slow
def test_a_small_comparison(text):
    argv = ("compare", "--preset", "tiny", "--steps", 4, "--vocab-size", 300, "--text", text, "--out", "out")
    assert command(*argv) == 0
    report = json.loads(Path("out/report.json").read_text())
    assert [run["name"] for run in report["runs"]] == ["teacher", *(get_args(Method))]
