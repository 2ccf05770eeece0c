"""The process of a graded file: what it finds, and what it does not."""

import os
import shutil
import sys

import numpy as np
import pytest

from minikd.errors import UserError
from minikd.oracle.grade import folder, sandbox
from minikd.oracle.grade.process import Gone
from minikd.oracle.grade.sandbox import BadFile, Limits, Sandbox, Source, bubblewrap_command, clean
from tests.oracle.grade.graded import PROTECTIONS

LIMITS = Limits()
REQUEST = {
    "id": 7,
    "function": "softmax",
    "positional": ["logits"],
    "keyword": [],
    "attributes": {"temperature": 2.0},
    "wrt": ["logits"],
    "cotangents": 1,
    "strided": False,
}
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="protections of Linux")


def printed(text, **options):
    with Sandbox(Source("answers.py", text), LIMITS, [], **options) as box:
        assert box.functions == {}
    return box.printed.splitlines()


def test_the_environment_is_made_from_nothing(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "seldom seen")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    lines = printed(
        "import os, sys\nfor name in sorted(os.environ): print(name, os.environ[name])\n"
        "print(os.listdir(), os.getcwd() == os.environ['HOME'] == os.environ['TMPDIR'])\n"
        "print(sys.argv[1:], sys.path[0] == '', sys.stdin.read())"
    )
    names = {line.split()[0] for line in lines[:-2]}
    assert names - {"LC_CTYPE"} == {*sandbox.ENVIRONMENT, "HOME", "TMPDIR"}
    assert "OPENBLAS_NUM_THREADS 1" in lines
    assert lines[-2] == "[] True"
    assert "seldom seen" not in " ".join(lines)


@LINUX
def test_the_protections_are_in_force():
    with Sandbox(Source("answers.py", ""), LIMITS, []) as box:
        assert box.protections == PROTECTIONS


@LINUX
def test_root_gives_its_privileges_up():
    (line,) = printed("print([l for l in open('/proc/self/status') if l.startswith('CapEff')][0])")[:1]
    assert int(line.split()[1], 16) == 0


@pytest.mark.skipif("no other processes" not in PROTECTIONS, reason="this system limits threads with processes")
def test_threads_are_allowed():
    text = "import threading\nt = threading.Thread(target=print, args=['hello'])\nt.start()\nt.join()"
    assert printed(text) == ["hello"]


def test_minikd_is_not_there_unless_it_is_meant_to_be():
    with (
        pytest.raises(BadFile, match=r"line 1: ModuleNotFoundError: .*minikd"),
        Sandbox(Source("answers.py", "from minikd.softmax import softmax"), LIMITS, ["softmax"]),
    ):
        pass
    source = Source("answers.py", "from minikd.softmax import softmax", with_minikd=True)
    with Sandbox(source, LIMITS, ["softmax", "linear"]) as box:
        assert box.functions == {"softmax": ["logits", "temperature"]}
        head, arrays = box.ask(REQUEST, {"logits": np.arange(3.0)[None], "cotangent 0": np.array([[1.0, 0, 0]])})
        assert head == {"id": 7}
        assert {name: x.shape for name, x in arrays.items()} == dict.fromkeys(
            ("y0", "g0", "h0", "after logits"), (1, 3)
        )
        np.testing.assert_allclose(arrays["y0"].sum(), 1)


def test_what_lies_beside_an_installed_minikd_is_found(tmp_path, monkeypatch):
    packages = tmp_path / "site-packages"
    (packages / "minikd").mkdir(parents=True)
    for path in ("minikd/__init__.py", "other.py"):
        (packages / path).write_text("found = True")
    monkeypatch.setattr(sandbox, "MINIKD", packages / "minikd")
    monkeypatch.setattr(sys, "path", [str(packages), *sys.path])
    assert printed("import other, numpy\nprint(other.found)") == ["True"]
    with pytest.raises(BadFile, match="minikd"), Sandbox(Source("a.py", "import minikd"), LIMITS, []):
        pass
    if "no other files" in PROTECTIONS:
        text = f"print(open({str(packages / 'other.py')!r}).read())\nopen({str(packages / 'minikd/__init__.py')!r})"
        with pytest.raises(BadFile, match="Permission denied"), Sandbox(Source("a.py", text), LIMITS, []):
            pass


def test_an_adapter_finds_the_modules_beside_it(tmp_path):
    (tmp_path / "mine.py").write_text("def softmax(logits, temperature=1.0): raise KeyError('mine')")
    text = "from mine import softmax"
    with pytest.raises(BadFile, match="No module named 'mine'"), Sandbox(Source("a.py", text), LIMITS, ["softmax"]):
        pass
    with Sandbox(Source("a.py", text, folder=tmp_path), LIMITS, ["softmax"]) as box:
        head, _ = box.ask(REQUEST, {"logits": np.zeros((1, 3)), "cotangent 0": np.ones((1, 3))})
        assert head == {"id": 7, "error": "KeyError: 'mine'", "ended": False}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def softmax(:", "line 1: SyntaxError: invalid syntax"),
        ("x = 1\ny = 1 / 0", "line 2: ZeroDivisionError: division by zero"),
        ("import no_such_library", "line 1: ModuleNotFoundError: No module named 'no_such_library'"),
        ("x = '\0'", "null bytes"),
        ("FRAMEWORK = 'tensorflow'", "FRAMEWORK is 'tensorflow'; wanted one of numpy, torch, jax"),
        ("raise NotImplementedError", "NotImplementedError"),
    ],
)
def test_a_file_that_cannot_be_imported(text, message):
    with pytest.raises(BadFile, match=message), Sandbox(Source("answers.py", text), LIMITS, []):
        pass


def test_an_end_of_the_process_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(folder.tempfile, "tempdir", str(tmp_path))
    with (
        pytest.raises(Gone, match="while it was imported"),
        Sandbox(Source("a.py", "import sys; sys.exit()"), LIMITS, []),
    ):
        pass
    with pytest.raises(Gone, match=r"exit code 3"), Sandbox(Source("a.py", "import os; os._exit(3)"), LIMITS, []):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_cannot_start_is_nobody_s_mistake(tmp_path, monkeypatch):
    (tmp_path / "__main__.py").write_text("raise ImportError('no NumPy here')")
    monkeypatch.setattr(sandbox, "CHILD", tmp_path)
    with (
        pytest.raises(UserError, match=r"does not start: .*exit code 1.*; ImportError: no NumPy here"),
        Sandbox(Source("answers.py", ""), LIMITS, []),
    ):
        pass


@pytest.mark.slow
@LINUX
def test_processor_time():
    text = "def softmax(logits, temperature=1.0):\n    while True: pass"
    with (
        Sandbox(Source("a.py", text), Limits(seconds=30.0, cpu_seconds=1), ["softmax"]) as box,
        pytest.raises(Gone, match="more processor time"),
    ):
        box.ask(REQUEST, {"logits": np.zeros((1, 3)), "cotangent 0": np.ones((1, 3))})


def test_whatever_was_made_of_the_folder_is_removed(tmp_path):
    place = tmp_path / "place"
    deepest = place / "a" / "b" / "c"
    deepest.mkdir(parents=True)
    (deepest / "file").write_text("x")
    (tmp_path / "outside").write_text("stays")
    (deepest / "link").symlink_to(tmp_path / "outside")
    (place / "folder-link").symlink_to(tmp_path)
    os.mkfifo(place / "pipe")
    deepest.chmod(0)
    (place / "a").chmod(0o500)
    folder.remove(str(place))
    assert not place.exists()
    assert (tmp_path / "outside").read_text() == "stays"


def test_a_stranger_s_words_are_one_line_of_text():
    assert clean("a\x1b[31m\nb\x00c\u202e") == "a [31m b c"
    assert clean("x" * 1000) == "x" * 297 + "..."
    assert clean(None) == "None"


def test_bubblewrap_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="--bubblewrap needs the program bwrap"):
        bubblewrap_command("/tmp/x", ["/usr"], "")


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_bubblewrap():
    lines = printed(
        f"import os\nprint(os.getpid(), os.listdir(), os.path.exists('/home'), os.path.exists({__file__!r}))",
        bubblewrap=True,
    )
    assert lines == ["2 [] False False"]
