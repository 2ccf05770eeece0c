"""What a person can get wrong: one clear line, exit code 2, no traceback, and nothing half-written."""

import json
import os
import re
import shutil
import struct
import sys
import tempfile

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from minikd.model_folder import load_model
from minikd.reading import SUMS
from minikd.text import Tokenizer
from tests.disks import locked_folder, small_disk
from tests.tiny import CONTEXT, VOCAB_SIZE, command, distill, spelled, train, write_model, write_text


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, text):
    return write_model(tmp_path_factory.mktemp("models") / "teacher", text)


@pytest.fixture
def model(tmp_path, teacher):
    """A model folder of the test's own, to break."""
    return shutil.copytree(teacher, tmp_path / "model")


@pytest.fixture
def refused(tmp_path, capsys, monkeypatch):
    """`refused(argv, message)`: the command prints one line that matches, exits with 2, and leaves nothing."""
    monkeypatch.chdir(tmp_path)

    def check(argv, message):
        before = sorted(tmp_path.rglob("*"))
        assert command(*argv) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        *notes, error = printed.err.splitlines()
        assert all(note.startswith("computing on ") for note in notes)
        assert re.search(f"^error: .*{message}", error), error
        assert sorted(tmp_path.rglob("*")) == before

    return check


# The text


def test_missing_text(refused):
    refused(train(text="nope.txt"), "nope.txt: no such file or folder; wanted UTF-8 text")


def test_empty_text(refused, tmp_path):
    (tmp_path / "empty.txt").touch()
    refused(train(text="empty.txt"), "empty.txt: empty; wanted UTF-8 text")


def test_text_shorter_than_one_context(refused, tmp_path):
    (tmp_path / "short.txt").write_text("a b\n" * 20)
    message = "the training part of short.txt has 72 tokens; wanted at least 101"
    refused(train(text="short.txt", vocab_size=257, context=100), message)


def test_text_without_a_validation_part(refused, tmp_path):
    (tmp_path / "short.txt").write_text("0123456789" * 5)
    message = "the validation part of short.txt has 1 tokens; wanted at least 2"
    refused(train(text="short.txt", vocab_size=257, val_fraction=0.01, context=8), message)


def test_text_of_one_character(refused, tmp_path):
    (tmp_path / "short.txt").write_text("x")
    refused(train(text="short.txt"), "short.txt: too short to have a training and a validation part")


def test_text_that_is_not_utf8(refused, tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"plain " * 20_000 + "caf\u00e9".encode("latin-1"))
    refused(train(text="latin.txt"), "latin.txt: not UTF-8: byte 0xe9 at offset 120003")


def test_binary_text(refused, tmp_path):
    (tmp_path / "binary").write_bytes(b"ab\0cd")
    refused(train(text="binary"), r"binary: not UTF-8 text: binary, or UTF-16 \(a zero byte at offset 2\)")


def test_folder_without_text(refused, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "picture.png").write_bytes(b"x")
    refused(train(text="folder"), "folder: a folder without text")


def test_results_that_would_become_text(refused, tmp_path):
    write_text(tmp_path / "text.txt")
    message = "lies in .*, so the results would become part of the text; wanted another --out"
    refused(train(text=".", out="runs/a"), message)
    refused(("compare", "--text", tmp_path, "--out", tmp_path), message)


def test_the_text_of_a_comparison(refused, text):
    refused(("compare", "--text", "nope.txt"), "nope.txt: no such file or folder")
    refused(("compare", "--text", text, "--val-fraction", 1), "val_fraction is 1.0; wanted a number between 0 and 1")


def test_text_to_evaluate_on(refused, tmp_path, teacher):
    (tmp_path / "x.txt").write_text("x")
    refused(("eval", teacher, "--text", "x.txt", "--split", "all"), "has 1 tokens; wanted at least 2")
    refused(("eval", teacher, "--text", "nope"), "nope: no such file or folder")


# Vocabulary, sizes, tokens


@pytest.mark.parametrize(
    "options, message",
    [
        ({"vocab_size": 256}, "vocabulary size 256 is too small; wanted at least 257"),
        ({"vocab_size": -5}, "vocabulary size -5 is too small"),
        ({"vocab_size": 100_000}, "vocabulary size 100000 is larger than the training text supports: it yields"),
        ({"n_head": 3}, "n_head is 3, which does not divide n_embd, 16"),
        ({"n_layer": 0}, "n_layer is 0; wanted a whole number of at least 1"),
        ({"n_embd": -16}, "n_embd is -16; wanted a whole number of at least 1"),
        ({"dropout": 1}, r"dropout is 1.0; wanted a rate in \[0, 1\)"),
        ({"dropout": "nan"}, r"dropout is nan; wanted a rate in \[0, 1\)"),
        ({"context": 0}, "context is 0; wanted at least 1"),
        ({"eval_tokens": 1}, "eval_tokens is 1; wanted at least 2"),
        ({"val_fraction": 0}, "val_fraction is 0.0; wanted a number between 0 and 1"),
        ({"val_fraction": 1.5}, "val_fraction is 1.5; wanted a number between 0 and 1"),
        ({"n_embd": 2**28}, "not enough memory"),
        ({"vocab_size": 2**31 - 1}, "vocabulary size 2147483647 is larger than the training text supports"),
        ({"vocab_size": 2**31}, "--vocab-size is 2147483648; wanted at most 2147483647"),
        ({"batch_size": 10**23}, "--batch-size is 1000.*; wanted at most 2147483647"),
        ({"threads": "9" * 5000}, "--threads is 9999.*; wanted at most 2147483647"),
    ],
)
def test_sizes(refused, text, options, message):
    refused(train(text=text, **options), message)


@pytest.mark.parametrize("role", ["teacher", "init"])
def test_context_longer_than_a_model_reads(refused, text, tmp_path, role):
    write_model(tmp_path / "small", text, n_positions=CONTEXT - 1)
    sizes = {"n_layer": None, "n_head": None, "n_embd": None} if role == "init" else {}
    argv = distill(method="scratch", text=text, **{role: "small"}, **sizes)
    refused(argv, "context is 16, but the (student|teacher) reads at most 15 tokens")


def test_context_longer_than_a_model_evaluates(refused, text, teacher):
    argv = ("eval", teacher, "--text", text, "--context", CONTEXT + 1)
    refused(argv, r"context is 17; wanted 1 to 16, which is what can be read \(n_positions\)")


def test_token_ids_out_of_range(refused, text, tmp_path):
    tokenizer = Tokenizer.train([text.read_text()], 300)
    write_model(tmp_path / "small", text, vocab_size=300, tokenizer=tokenizer)
    change_json(tmp_path / "small" / "config.json", vocab_size=290)
    (tmp_path / "small" / SUMS).unlink()
    file = tmp_path / "small" / "model.safetensors"
    tensors = load_file(file)
    tensors["transformer.wte.weight"] = tensors["transformer.wte.weight"][:290].copy()
    save_file(tensors, file)
    refused(("eval", "small", "--text", text), "tokenizer.json has 300 tokens, but config.json says vocab_size 290")


def test_a_prompt_that_is_too_long(refused, teacher):
    refused(("sample", teacher, "--prompt", "ba " * 50), "prompt 0 has .* tokens; wanted 1 to n_positions = 16")


def test_a_prompt_that_is_no_text(refused, teacher):
    refused(("sample", teacher, "--prompt", "\udcff"), r"lone surrogate U\+DCFF")


# Teacher and student


def test_vocabularies_that_differ(refused, text, teacher, tmp_path):
    write_model(tmp_path / "other", text, vocab_size=270)
    message = f"{teacher} has a vocabulary of 280 tokens, other one of 270; wanted the same"
    refused(("distill", "--text", text, "--teacher", teacher, "--init", "other"), message)
    refused(("eval", "other", "--teacher", teacher, "--text", text), message)


def test_tokenizers_that_differ(refused, text, teacher, tmp_path):
    tokenizer = Tokenizer.train(["quite another text, of other words, words, words and words " * 9], VOCAB_SIZE)
    write_model(tmp_path / "other", text, tokenizer=tokenizer)
    message = rf"the tokenizer in {teacher} \(280 tokens\) and the one in other \(280 tokens\) give a text different"
    refused(("distill", "--text", text, "--teacher", teacher, "--init", "other"), message)
    refused(("eval", "other", "--teacher", teacher, "--text", text), message)
    message = "other has 280 tokens and differs from the teacher's tokenizer of 280"
    refused(distill(teacher=teacher, tokenizer="other", text=text), message)


@pytest.mark.parametrize("method", ["soft", "hard", "sequence"])
def test_no_teacher(refused, text, method):
    message = f"method '{method}' learns from a trained teacher; wanted --teacher MODEL_FOLDER"
    refused(distill(method=method, text=text), message)


# Checkpoints


def change_json(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-1000] ^= 4
    path.write_bytes(data)


def claim_terabytes(path):
    path.write_bytes(struct.pack("<Q", 1 << 42) + b"{" * 100)


def claim_a_huge_tensor(path):
    header = {"transformer.wte.weight": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    data = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(data)) + data)


def rewrite(change):
    def broken(path):
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return broken


def with_nan(tensors):
    tensors["transformer.h.0.mlp.c_fc.weight"][2, 3] = np.nan


WEIGHTS = {
    "truncated": (cut, "model.safetensors.*truncated"),
    "a header of terabytes": (claim_terabytes, "model.safetensors: .*header too large"),
    "a tensor of terabytes": (claim_a_huge_tensor, "model.safetensors: .*truncated"),
    "NaN": (rewrite(with_nan), "'transformer.h.0.mlp.c_fc.weight' has 1 of 1024 numbers that are NaN"),
    "missing": (
        rewrite(lambda tensors: tensors.pop("transformer.ln_f.bias")),
        "the weights have missing tensors: 'transformer.ln_f.bias'",
    ),
    "extra": (
        rewrite(lambda tensors: tensors.update(extra=np.zeros(3))),
        "the weights have extra tensors: '(transformer.)?extra'",
    ),
    "wrong shape": (
        rewrite(lambda tensors: tensors.update({"transformer.ln_f.bias": np.zeros(17, np.float32)})),
        r"'transformer.ln_f.bias' has shape \(17,\); config.json wants \(16,\)",
    ),
    "no safetensors": (
        lambda path: path.write_text("hello"),
        "model.safetensors: truncated, damaged or not safetensors",
    ),
    "gone": (lambda path: path.unlink(), "there is no model.safetensors"),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_broken_weights(refused, text, model, case):
    """Of a folder without checksums, as published ones are."""
    (model / SUMS).unlink()
    change, message = WEIGHTS[case]
    change(model / "model.safetensors")
    refused(("eval", model, "--text", text), message)
    refused(distill(teacher=model, text=text), message)


@pytest.mark.parametrize("change", [cut, flip_a_bit])
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_checksums(refused, model, name, change):
    change(model / name)
    refused(("sample", model), f"{name}: damaged, or changed since it was saved")


CONFIGS = {
    "another architecture": (
        lambda path: change_json(path, model_type="llama"),
        "another architecture: model_type is 'llama'; wanted 'gpt2'",
    ),
    "another activation": (
        lambda path: change_json(path, activation_function="relu"),
        "another architecture: activation_function is 'relu'",
    ),
    "more blocks": (lambda path: change_json(path, n_layer=2), "config.json says n_layer 2; its weights have 1 blocks"),
    "heads": (lambda path: change_json(path, n_head=3), "n_head is 3, which does not divide n_embd, 16"),
    "no JSON": (lambda path: path.write_text("{"), "config.json: not JSON"),
    "a list": (lambda path: path.write_text("[1]"), "config.json: JSON, but of type list"),
    "gone": (lambda path: path.unlink(), "config.json: cannot be read: No such file"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_broken_configurations(refused, model, case):
    (model / SUMS).unlink()
    change, message = CONFIGS[case]
    change(model / "config.json")
    refused(("sample", model), message)


@pytest.mark.parametrize("content", ["{}", '{"model": 3}', "no JSON", "[]"])
def test_a_tokenizer_that_is_none(refused, text, model, tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    argv = train(text=text, tokenizer="tokenizer.json", vocab_size=None)
    refused(argv, r"tokenizer.json: (not a tokenizer|not JSON|JSON, but)")
    (model / SUMS).unlink()
    shutil.copy("tokenizer.json", model)
    refused(("sample", model), r"tokenizer.json: (not a tokenizer|not JSON|JSON, but)")


def test_a_tokenizer_that_does_not_know_all_of_the_text(refused, text, model, tmp_path):
    words = {"model": {"type": "WordLevel", "vocab": {"ba": 0}, "unk_token": "[UNK]"}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(words))
    message = r"the tokenizer has no tokens for some of the text \(WordLevel error: .*\); wanted one"
    refused(train(text=text, tokenizer="tokenizer.json", vocab_size=None), message)
    (model / SUMS).unlink()
    shutil.copy("tokenizer.json", model)
    refused(("sample", model, "--prompt", "de"), message)


def test_the_folder_of_a_run_in_place_of_its_model(refused, text, teacher, tmp_path):
    shutil.copytree(teacher, tmp_path / "run" / "model")
    (tmp_path / "run" / "config.json").write_text('{"command": "train"}')
    message = "run: the folder of a run; wanted its model, run/model$"
    refused(("sample", "run"), message)
    refused(distill(text=text, teacher="run"), message)
    refused(("train", "--text", text, "--init", "run"), message)


@pytest.mark.parametrize("argv", [("eval",), ("sample",), ("info",), ("distill", "--out", "out", "--teacher")])
def test_no_model_folder(refused, argv):
    refused((*argv, "nowhere"), "nowhere: no such folder; wanted a model folder")


# The output folder


def test_a_folder_that_is_not_empty(refused, text, tmp_path):
    (tmp_path / "out" / "text").mkdir(parents=True)
    (tmp_path / "out" / "config.json").write_text("mine")
    refused(train(text=text), "out is not empty; wanted a new or empty folder")
    refused(("compare", "--out", "out", "--text", text), "out is not empty; wanted a new or empty folder")
    assert (tmp_path / "out" / "config.json").read_text() == "mine"


def test_a_file_in_place_of_the_folder(refused, text, tmp_path):
    (tmp_path / "out").write_text("mine")
    refused(train(text=text), "out is a file; wanted a folder for the results")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_folder_that_cannot_be_written(capsys, text):
    readable = text.read_text()
    with locked_folder() as folder, tempfile.NamedTemporaryFile("w") as own_text:
        own_text.write(readable)
        own_text.flush()
        assert command(*train(text=own_text.name, out=folder / "new" / "out")) == 2
        assert os.listdir(folder) == []
    error = capsys.readouterr().err.strip()
    assert re.fullmatch("error: .*/locked/new/out: cannot be written: Permission denied.*", error), error


def test_a_refused_command_leaves_an_empty_folder_empty(refused, text, tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("train", "compare"):
        for out in ("out", "a/b/c"):
            argv = (name, "--text", text, "--vocab-size", 100_000, "--out", out)
            refused(argv, "vocabulary size 100000 is larger than the training text supports")


def test_whatever_fails_before_the_first_step_leaves_nothing(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minikd.job.tokenize", None)
    with pytest.raises(TypeError):
        command(*train(text=text))
    assert os.listdir() == []


@pytest.mark.parametrize("n_bytes", [200, 1200, 4000])
def test_a_disk_that_is_full_before_the_first_step(refused, text, n_bytes):
    """The run's options, the tokenizer and the tokens do not fit, one after the other."""
    with small_disk(n_bytes):
        refused(train(text=text), "cannot be written: .*File too large")


def test_a_disk_that_fills_in_training(text, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with small_disk(15_000):
        assert command(*train(text=text, steps=4, save_every=2)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"error: .*out/state/step-00000002.*: cannot be written: .*File too large.*", error), error
    assert not list(tmp_path.rglob("*.tmp-*")), "half a file is left"
    assert command("train", "--resume", "--out", "out") == 0, "there is room again"
    assert load_model("out/model")


def test_a_training_that_diverges(text, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command(*train(text=text, steps=4, save_every=1, learning_rate=1e30)) == 2
    _, error = capsys.readouterr().err.splitlines()
    assert re.match("error: the student's loss is .*: training diverged; states saved before are in out; ", error)
    assert command("info", "out") == 0
    assert "step 1, not finished" in capsys.readouterr().out


# Numbers


@pytest.mark.parametrize(
    "options, message",
    [
        ({"temperature": 0}, r"temperature is 0.0; wanted a number from 1e-15 to 1e\+15"),
        ({"temperature": -1}, r"temperature is -1.0; wanted a number from 1e-15 to 1e\+15"),
        ({"temperature": "nan"}, r"temperature is nan; wanted a number from 1e-15 to 1e\+15"),
        ({"alpha": 1.5}, r"alpha is 1.5; wanted a number in \[0, 1\]"),
        ({"alpha": -0.1}, r"alpha is -0.1; wanted a number in \[0, 1\]"),
        ({"start": 2}, r"start is 2.0; wanted a number in \[0, 1\]"),
        ({"steps": 0}, "steps is 0; wanted at least 1"),
        ({"seed": -1}, "seed is -1; wanted at least 0"),
        ({"threads": 0}, "threads is 0; wanted at least 1"),
        ({"temperature": 1e300}, r"temperature is 1e\+300; wanted a number from 1e-15 to 1e\+15"),
        ({"learning_rate": 0}, "learning_rate is 0.0; wanted a finite number above 0"),
        ({"learning_rate": "inf"}, "learning_rate is inf; wanted a finite number above 0"),
        ({"weight_decay": "inf"}, "weight_decay is inf; wanted a finite number of at least 0"),
        ({"beta2": 1}, r"beta2 is 1.0; wanted a number in \[0, 1\)"),
        ({"corpus_tokens": 0}, "corpus_tokens is 0; wanted at least 1"),
        ({"teacher_n_head": 3}, "n_head is 3, which does not divide n_embd, 128"),
        ({"teacher_learning_rate": 0}, "teacher_learning_rate is 0.0; wanted a finite number above 0"),
        ({"method": "sequence", "prompt_tokens": 17}, "prompt_tokens is 17; wanted at most the context, 16"),
        ({"divergence": "renyi"}, "--divergence is 'renyi'; wanted one of forward_kl, reverse_kl, symmetric_kl"),
        ({"divergence": "taid", "taid_t": 2}, r"taid_t is 2.0; wanted a number in \[0, 1\]"),
        ({"divergence": "js", "alpha_skew": 0.1}, "alpha_skew is 0.1, but divergence is 'js'; wanted skew_"),
        ({"schedule": "never"}, "--schedule is 'never'; wanted one of constant, linear, cosine, late, gate"),
        ({"dtype": "float16"}, "--dtype is 'float16'; wanted one of float32, float64"),
    ],
)
def test_numbers(refused, text, teacher, options, message):
    needs_new_teacher = any(name.startswith("teacher_") for name in options)
    role = {"method": "codistill"} if needs_new_teacher else {"teacher": teacher}
    refused(distill(text=text, **role, **options), message)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"temperature": -1}, "temperature is -1.0; wanted a number of at least 0"),
        ({"top_k": 0}, "top_k is 0; wanted at least 1"),
        ({"top_p": 0}, r"top_p is 0.0; wanted a share in \(0, 1\]"),
        ({"tokens": 0}, "tokens is 0; wanted at least 1"),
        ({"texts": 0}, "texts is 0; wanted at least 1"),
        ({"texts": 10**12}, "--texts is 1000000000000; wanted at most 2147483647"),
        ({"seed": -1}, "seed is -1; wanted at least 0"),
    ],
)
def test_numbers_of_sample(refused, teacher, options, message):
    refused(("sample", teacher, *spelled(options)), message)


@pytest.mark.parametrize("command", ["compare", "train", "distill", "sample", "eval"])
def test_no_gpu(refused, monkeypatch, text, teacher, command):
    monkeypatch.setitem(sys.modules, "cupy", None)
    options = (teacher,) if command in ("sample", "eval") else ("--out", "out")
    method = ("--method", "scratch") if command == "distill" else ()
    refused((command, *options, *method, "--device", "gpu"), "device is 'gpu', but CuPy is not installed")


# The command line and the configuration file


@pytest.mark.parametrize(
    "argv, message",
    [
        (("train", "--n-layers", 3), "unknown option --n-layers; did you mean --n-layer?"),
        (("train", "--lr", 0.1), "unknown option --lr; did you mean --learning-rate?"),
        (("trian",), "unknown command trian; did you mean train?"),
        (("lessons", "runn", "3"), "'runn' belongs to no option; did you mean run?"),
        (("course", "mak"), "unknown command mak; did you mean make?"),
        (("train", "--steps"), "--steps has no value"),
        (("train", "--steps", "many"), "--steps is 'many'; wanted a whole number"),
        (("train", "--steps", 1.5), "--steps is '1.5'; wanted a whole number"),
        (("train", "--steps", "+-5"), "--steps is '+-5'; wanted a whole number"),
        (("train", "--learning-rate", "fast"), "--learning-rate is 'fast'; wanted a number"),
        (("train", "--seed", 1, "--seed", 2), "--seed is given twice"),
        (("train", "--device", "tpu"), "--device is 'tpu'; wanted one of auto, cpu, gpu"),
        (("train", "--quiet=maybe"), "--quiet is 'maybe'; wanted true or false"),
        (("train", "text.txt"), "'text.txt' belongs to no option; see --help"),
        (("distill", "--method", "magic"), "--method is 'magic'; wanted one of scratch, soft, hard, sequence"),
        (("eval",), "MODEL is missing; wanted a folder of the model"),
        (("sample", ""), "MODEL is empty; wanted a path"),
        (("train", "--text", ""), "--text is empty; wanted a path"),
        (("train", "--config", ""), "--config is empty; wanted a path"),
        (("distill", "--teacher="), "--teacher is empty; wanted a path"),
        (("compare", "--preset", "huge"), "--preset is 'huge'; wanted one of tiny, lesson, small"),
        (("compare", "--seeds", 0), "seeds is 0; wanted at least 1"),
        (("train", "--init", "m", "--n-layer", 2), "--n-layer cannot be chosen beside --init, which brings its own"),
        (("distill", "--teacher", "m", "--vocab-size", 300), "--vocab-size cannot be chosen beside --teacher"),
        (("train", "--resume", "--out", "nowhere"), "nowhere: there is no run to resume"),
    ],
)
def test_command_line(refused, argv, message):
    refused(argv, re.escape(message))


@pytest.mark.parametrize(
    "toml, message",
    [
        ("n_layr = 3", "options.toml: unknown option n_layr; did you mean n-layer?"),
        ("n-layr = 3", "options.toml: unknown option n-layr; did you mean n-layer?"),
        ("[training]\nsteps = 3", "options.toml: unknown option training"),
        ("steps = 'many'", "options.toml: steps is 'many'; wanted a whole number"),
        ("steps = 2.5", "options.toml: steps is 2.5; wanted a whole number"),
        ("steps = true", "options.toml: steps is true; wanted a whole number"),
        ("steps = [1, 2]", "options.toml: steps is [1, 2]; wanted a whole number"),
        ("quiet = 1", "options.toml: quiet is 1; wanted true or false"),
        ("text = 7", "options.toml: text is 7; wanted a path"),
        ("text = ['a', 7]", "options.toml: text is 7; wanted a path"),
        ("text = ['a', '']", "text is empty; wanted a path"),
        ("device = 'tpu'", "device is 'tpu'; wanted one of auto, cpu, gpu"),
        ("steps = 0", "steps is 0; wanted at least 1"),
        ("\u00ef\u00bb\u00bfsteps = 0", "steps is 0; wanted at least 1"),  # after a byte order mark
        ("steps = 3000000000", "steps is 3000000000; wanted at most 2147483647"),
        ("config = 'other.toml'", "options.toml: config is an option of the command line only"),
        ("steps = = 3", "options.toml: not TOML"),
        ("caf\u00e9", "options.toml: not TOML"),
    ],
)
def test_configuration_file(refused, tmp_path, toml, message):
    (tmp_path / "options.toml").write_text(toml, encoding="latin-1")
    refused(("train", "--config", "options.toml"), re.escape(message))


def test_no_configuration_file(refused):
    refused(("train", "--config", "nope.toml"), "nope.toml: cannot be read: No such file")
