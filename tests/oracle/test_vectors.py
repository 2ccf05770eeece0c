"""The reference vectors: their form, their numbers, the files, and the readers that docs/vectors.md shows."""

import copy
import hashlib
import json
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import jsonschema
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from minikd.oracle.exact import FORMULAS
from minikd.oracle.mutants import MUTANTS
from minikd.oracle.subjects import SUBJECTS
from minikd.oracle.vectors import is_loss, schema, vectors, write_vectors
from tests.committed_vectors import FOLDER, NAMES
from tests.disks import locked_folder, small_disk
from tests.tiny import command

PAGE = Path(__file__).parents[2] / "docs" / "vectors.md"
KEYS = ["schema", "generator", "function", "convention", "notes", "file", "sha256", "tests"]
TEST_KEYS = ["tcId", "comment", "flags", "attrs", "in", "out", "tol"]

made = cache(lambda name: vectors(SUBJECTS[name]))


def manifest_of(name):
    return json.loads(json.dumps(made(name).manifest("0" * 64)))


def outputs(function, name, test, tensors, dtype):
    """What a function gives for a test, its arrays in a type, read from the manifest alone."""
    arrays = {
        key: x.astype(dtype) if x.dtype == np.float64 else x
        for key, x in ((key, tensors[place]) for key, place in test["in"].items())
    }
    cotangent = [] if is_loss(SUBJECTS[name]) or not SUBJECTS[name].wrt else [arrays.popitem()[1]]
    mask = {"mask": arrays.pop("mask")} if "mask" in arrays else {}
    with np.errstate(all="ignore"):
        result = function(*arrays.values(), **mask, **test["attrs"])
        if not SUBJECTS[name].wrt:
            return result if len(test["out"]) > 1 else (result,)
        value, vjp = result
        answer = vjp(*cotangent)
    return value, *(answer if isinstance(answer, tuple) else (answer,))


def agrees(got, wanted, tolerance):
    got, wanted = np.asarray(got, dtype=np.float64), np.asarray(wanted, dtype=np.float64)
    if got.shape != wanted.shape:
        return False
    with np.errstate(all="ignore"):
        return np.linalg.norm(got - wanted) <= tolerance * max(1, np.linalg.norm(wanted))


# The manifest


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_manifest_has_the_form_of_its_schema(name):
    manifest = manifest_of(name)
    jsonschema.validate(manifest, schema(), cls=jsonschema.Draft202012Validator)
    assert list(manifest) == KEYS
    assert [test["tcId"] for test in manifest["tests"]] == list(range(1, len(manifest["tests"]) + 1))
    assert all(list(test) == TEST_KEYS for test in manifest["tests"])
    assert set(manifest["notes"]) == {flag for test in manifest["tests"] for flag in test["flags"]}


@pytest.mark.parametrize("name", [name for name, subject in SUBJECTS.items() if is_loss(subject)])
def test_what_goes_into_a_loss_and_comes_out(name):
    for test in made(name).tests:
        *arrays, last = test["in"]
        assert "mask" not in arrays and (last == "mask") == ("mask" in test["flags"])
        assert list(test["out"])[:2] in (["loss", "dstudent"], ["loss", "dhidden"], ["loss", "dstudent_hidden"])
        if name in ("forward_kl", "cross_entropy"):
            assert arrays + [last] * (last != "mask") == ["student", "teacher" if name == "forward_kl" else "labels"]


def broken(change):
    manifest = copy.deepcopy(manifest_of("softmax"))
    change(manifest)
    return manifest


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("convention"),
        lambda m: m.update(numberOfTests=3),
        lambda m: m.update(schema="minikd_vectors_v2.json"),
        lambda m: m.update(sha256="0" * 63),
        lambda m: m.update(file="../softmax.safetensors"),
        lambda m: m.update(tests=[]),
        lambda m: m["notes"].update(mask="a string"),
        lambda m: m["tests"][0].pop("tol"),
        lambda m: m["tests"][0].update(tcId=0),
        lambda m: m["tests"][0].update(result="valid"),
        lambda m: m["tests"][0]["tol"].update(float64=0),
        lambda m: m["tests"][0]["tol"].update(float8=0.1),
        lambda m: m["tests"][0]["attrs"].update(temperature={}),
        lambda m: m["tests"][0]["out"].update(p="p"),
    ],
)
def test_the_schema_refuses(change):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken(change), schema(), cls=jsonschema.Draft202012Validator)


# The numbers


@pytest.mark.parametrize("name", SUBJECTS)
def test_the_inputs_are_exact_in_every_type(name):
    tensors = made(name).tensors
    for test in made(name).tests:
        for x in (tensors[key] for key in test["in"].values()):
            if x.dtype == np.float64:
                assert np.array_equal(x, np.clip(np.round(16 * x) / 16, -15.9375, 15.9375))
                assert all(np.array_equal(x, x.astype(t)) for t in (np.float32, np.float16, ml_dtypes.bfloat16))


@pytest.mark.parametrize("name", SUBJECTS)
def test_minikd_gives_what_the_vectors_say(name):
    dtypes = {"float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
    for test in made(name).tests:
        for dtype, tolerance in test["tol"].items():
            got = outputs(SUBJECTS[name].function, name, test, made(name).tensors, dtypes[dtype])
            for (key, place), x in zip(test["out"].items(), got, strict=True):
                wanted = made(name).tensors[place]
                assert agrees(x, wanted, tolerance), (dtype, test, key, x, wanted)


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_mistake_fails_where_its_flag_says_so(name):
    tensors = made(name).tensors
    for test in made(name).tests:
        for flag in (flag for flag in test["flags"] if flag.startswith("mutant/")):
            pairs = [(tensors[f"{flag}/{key}"], tensors[key]) for key in test["out"].values()]
            for dtype in ("float64", "float32"):
                assert not all(agrees(wrong, right, test["tol"][dtype]) for wrong, right in pairs)
    flagged = {f"{flag}/{key}" for test in made(name).tests for flag in test["flags"] for key in test["out"].values()}
    assert {key for key in tensors if key.startswith("mutant/")} <= flagged


def test_what_a_mistake_gives():
    (mutant,) = [mutant for mutant in MUTANTS if (mutant.subject, mutant.name) == ("softmax", "temperature-ignored")]
    tests = {test["tcId"] for test in made("softmax").tests if f"mutant/{mutant.name}" in test["flags"]}
    assert tests == {test["tcId"] for test in made("softmax").tests if test["attrs"]["temperature"] != 1}
    for test in (test for test in made("softmax").tests if test["tcId"] in tests):
        got = outputs(mutant.function, "softmax", test, made("softmax").tensors, np.float64)
        for x, key in zip(got, test["out"].values(), strict=True):
            np.testing.assert_allclose(x, made("softmax").tensors[f"mutant/{mutant.name}/{key}"], atol=1e-6)


NEVER_SEEN = {
    "upstream-ignored": "shows only where the pullback of a loss is asked for another weight than 1",
    "mask-multiplied": "shows only where a token that does not count has an infinite loss",
    "zero-times-log-zero": "shows only at -inf",
    "no-max-subtraction": "shows only above 709, which takes a temperature if logits are to be below 16",
    "log-of-softmax": "likewise",
    "small-mask": "shows only where scores are thousands apart",
    "mean-of-blocks": "shows only with more tokens",
    "alpha-averaged": "shows only where alpha is an array",
    "epsilon-in-norm": "shows only in the seventh digit",
}


def test_which_mistakes_show():
    unseen = set()
    for mutant in MUTANTS:
        if not any(f"mutant/{mutant.name}" in test["flags"] for test in made(mutant.subject).tests):
            unseen.add(mutant.name)
    assert unseen == set(NEVER_SEEN)


def test_every_function_has_a_formula():
    assert set(SUBJECTS) <= set(FORMULAS)


# The files


SOME = ("softmax", "forward_kl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("vectors") / "out"
    write_vectors(path, SOME)
    return path


def test_the_files(folder, tmp_path):
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{name}.{end}" for name in SOME for end in ("json", "safetensors")
    )
    for name in SOME:
        manifest = json.loads((folder / f"{name}.json").read_text())
        data = (folder / manifest["file"]).read_bytes()
        assert manifest["sha256"] == hashlib.sha256(data).hexdigest()
        tensors = load_file(folder / manifest["file"])
        named = {key for test in manifest["tests"] for part in ("in", "out") for key in test[part].values()}
        assert named == {key for key in tensors if not key.startswith("mutant/")}
        assert {key: x.dtype for key, x in tensors.items()} == {key: x.dtype for key, x in made(name).tensors.items()}
    write_vectors(tmp_path / "again", SOME)
    assert contents(folder) == contents(tmp_path / "again")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def without_version(folder):
    found = contents(folder)
    return {name: re.sub(rb'"generator": "minikd [^"]*"', b"", data) for name, data in found.items()}


def test_the_committed_vectors_are_what_minikd_writes(tmp_path):
    """Where they are meant to change: write them anew with `python -m tests.committed_vectors`."""
    write_vectors(tmp_path / "now", NAMES)
    now, committed = without_version(tmp_path / "now"), without_version(FOLDER)
    assert now.keys() == committed.keys()
    assert [name for name in now if now[name] != committed[name]] == []
    assert sum(map(len, committed.values())) < 500_000


@pytest.mark.slow
def test_all_of_them_twice(tmp_path):
    for name in ("one", "other"):
        argv = [sys.executable, "-m", "minikd", "vectors", str(tmp_path / name)]
        assert subprocess.run(argv, capture_output=True).returncode == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "other")
    assert {path.stem for path in (tmp_path / "one").iterdir()} == set(SUBJECTS)


# The readers of the page


def program(language, path):
    """The one program in this language that the page shows."""
    (code,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    path.write_text(code, encoding="utf-8")
    return path


@pytest.fixture(params=["python", "c"])
def reader(request, tmp_path):
    """The beginning of a command line that reads a folder of vectors."""
    if request.param == "python":
        return [sys.executable, program("python", tmp_path / "check.py")]
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: there is no cc")
    source = program("c", tmp_path / "check.c")
    argv = [compiler, "-std=c99", "-Wall", "-Werror", source, "-lm", "-o", tmp_path / "check"]
    assert subprocess.run(argv, capture_output=True, text=True).stderr == ""
    return [tmp_path / "check"]


def read(reader, folder):
    done = subprocess.run([*reader, folder], capture_output=True, text=True)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_the_readers_of_the_page_agree(reader, folder):
    code, printed = read(reader, folder)
    assert re.fullmatch(r"1\d tests, 0 wrong.*\n", printed)
    assert code == 0


@pytest.mark.parametrize("change", ["out/loss", "in/student"])
def test_the_readers_of_the_page_see_a_change(reader, folder, tmp_path, change):
    shutil.copytree(folder, tmp_path / "changed")
    path = tmp_path / "changed" / "forward_kl.safetensors"
    tensors = load_file(path)
    tensors[f"3/{change}"] = np.asarray(tensors[f"3/{change}"] * (1 + 1e-9))
    save_file(tensors, path)
    code, printed = read(reader, tmp_path / "changed")
    assert code == 1
    assert re.match("test 3", printed) and re.search(r"tests, [12] wrong", printed)


# The command


def test_the_command(tmp_path, capsys):
    assert command("vectors", tmp_path / "new" / "out", "--only", "gelu", "--only", "linear") == 0
    assert re.fullmatch(r"\d+ tests of 2 functions in .*out\n", capsys.readouterr().out)
    assert len(contents(tmp_path / "new" / "out")) == 4


def refused(capsys, *argv):
    assert command("vectors", *argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_the_command_refuses(tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert refused(capsys, tmp_path / "full").endswith("full is not empty; wanted a new or empty folder")
    assert refused(capsys, tmp_path / "full" / "file").endswith("file is a file; wanted a folder for the results")
    message = "--only is 'forward_lk'; wanted the name of a function; did you mean forward_kl?"
    assert message in refused(capsys, tmp_path / "out", "--only", "forward_lk")
    assert "OUT is missing" in refused(capsys)
    with locked_folder() as locked:
        assert "cannot be written: Permission denied" in refused(capsys, locked / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_a_full_disk_leaves_nothing(tmp_path, capsys):
    with small_disk(20_000):
        assert "cannot be written" in refused(capsys, tmp_path / "out", "--only", "forward_kl")
    assert list(tmp_path.iterdir()) == []


def test_without_mpmath(tmp_path):
    code = "import sys; sys.modules['mpmath'] = None; from minikd.cli import main; sys.exit(main(sys.argv[1:]))"
    argv = [sys.executable, "-c", code, "vectors", str(tmp_path / "out")]
    done = subprocess.run(argv, capture_output=True, text=True)
    message = "error: mpmath is not installed, which computes the reference values; wanted minikd[vectors]\n"
    assert (done.returncode, done.stderr) == (2, message)
    assert not (tmp_path / "out").exists()
