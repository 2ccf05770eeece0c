import errno
import os
import shutil
import stat
import threading

import pytest

from minikd import atomic
from minikd.atomic import atomic_folder, atomic_write, remove_folder, remove_leftovers, write_json
from minikd.errors import UserError
from minikd.reading import read_json_object
from tests.disks import locked_folder, small_disk


def fail_with(error):
    def fail(*args, **kwargs):
        raise error

    return fail


def fill(folder, **files):
    for name, text in files.items():
        (folder / name).write_text(text)


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("binary, data", [(False, "naïve\nlines\r\n\U0001f9ea"), (True, b"\x00\xff\r\n")])
def test_atomic_write_writes_exactly(tmp_path, binary, data):
    path = tmp_path / "file"
    path.write_text("old")
    with atomic_write(path, binary=binary) as file:
        file.write(data)
        assert path.read_text() == "old"
    assert path.read_bytes() == (data if binary else data.encode())
    assert os.listdir(tmp_path) == ["file"]


def test_atomic_write_gives_the_rights_any_new_file_has(tmp_path):
    (tmp_path / "plain").write_text("x")
    with atomic_write(tmp_path / "atomic") as file:
        file.write("x")
    assert stat.S_IMODE((tmp_path / "atomic").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt()])
def test_atomic_write_that_fails_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(type(error)), atomic_write(path) as file:
        file.write("half")
        file.flush()
        raise error
    assert contents(tmp_path) == {"file": "old"}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_atomic_write_on_a_full_disk(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, call, fail_with(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(UserError, match=r"file: cannot be written: No space left on device$"):
        write_json(path, {"a": 1})
    assert contents(tmp_path) == {"file": "old"}


@pytest.mark.parametrize("size", [70_000, 10_000_000])
def test_atomic_write_that_the_system_cuts_off(tmp_path, size):
    path = tmp_path / "file"
    path.write_text("old")
    refused = pytest.raises(UserError, match=r"file: cannot be written: File too large")
    with small_disk(), refused, atomic_write(path) as file:
        file.write("x" * size)
    assert contents(tmp_path) == {"file": "old"}


def test_atomic_write_without_permission():
    with locked_folder() as folder:
        with pytest.raises(UserError, match="file: cannot be written: Permission denied"):
            write_json(folder / "file", {})
        assert os.listdir(folder) == []


def test_atomic_write_into_no_folder(tmp_path):
    with pytest.raises(UserError, match="none/file: cannot be written: No such file or directory"):
        write_json(tmp_path / "none" / "file", {})


def test_atomic_write_follows_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_json(tmp_path / "link", {"a": "é"})
    assert (tmp_path / "link").is_symlink()
    assert read_json_object(tmp_path / "file") == {"a": "é"}


def test_atomic_write_through_a_pipe(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    read = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_text()), daemon=True)
    reader.start()
    write_json(fifo, {"a": 1})
    reader.join(timeout=60)
    assert read == ['{\n  "a": 1\n}\n'] and stat.S_ISFIFO(fifo.stat().st_mode)
    assert os.listdir(tmp_path) == ["fifo"]


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="needs descriptors with names")
def test_atomic_write_to_a_descriptor():
    ours, theirs = os.pipe()
    with open(ours, "rb") as reader:
        with open(theirs, "wb"), atomic_write(f"/dev/fd/{theirs}", binary=True) as file:
            file.write(b"\xff")
        assert reader.read() == b"\xff"


def test_atomic_write_in_place_of_a_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="folder: cannot be written: Is a directory"):
        write_json(tmp_path / "folder", {})
    assert os.listdir(tmp_path) == ["folder"]


def test_everything_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    """A power cut keeps only what was synchronised: first the contents, then the name, then the folder's entry."""
    calls = []
    fsync, replace, rename = os.fsync, os.replace, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(("fsync", os.fstat(fd).st_ino)), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *args: (calls.append("name"), replace(*args)))
    monkeypatch.setattr(os, "rename", lambda *args: (calls.append("name"), rename(*args)))
    write_json(tmp_path / "file", {})
    parent = ("fsync", tmp_path.stat().st_ino)
    assert calls == [("fsync", (tmp_path / "file").stat().st_ino), "name", parent]
    calls.clear()
    with atomic_folder(tmp_path / "folder") as folder:
        fill(folder, a="1", b="2")
    inodes = {("fsync", (tmp_path / "folder" / name).stat().st_ino) for name in "ab"}
    assert set(calls[:2]) == inodes
    assert calls[2:] == [("fsync", (tmp_path / "folder").stat().st_ino), "name", parent]


@pytest.fixture(params=["in one step", "in three"])
def exchange(request, monkeypatch):
    """Both ways to replace a folder: the system's own exchange, and where there is none."""
    if request.param == "in three":
        monkeypatch.setattr(atomic.ctypes, "CDLL", lambda name: object())


def test_atomic_folder(tmp_path, exchange):
    target = tmp_path / "deep" / "folder"
    with atomic_folder(target) as folder:
        fill(folder, a="old", b="old")
        assert not target.exists()
    with atomic_folder(target) as folder:
        fill(folder, a="new", b="new", c="new")
        assert contents(target) == {"a": "old", "b": "old"}
    assert contents(target) == {"a": "new", "b": "new", "c": "new"}
    assert os.listdir(target.parent) == ["folder"]


def test_linux_exchanges_folders_in_one_step(tmp_path, monkeypatch):
    if not os.path.exists("/proc/sys/kernel/ostype"):
        pytest.skip("not Linux")
    with atomic_folder(tmp_path / "folder") as folder:
        fill(folder, a="old")
    monkeypatch.setattr(os, "rename", fail_with(AssertionError("a moment without a folder")))
    with atomic_folder(tmp_path / "folder") as folder:
        fill(folder, a="new")
    assert contents(tmp_path / "folder") == {"a": "new"}


def test_atomic_folder_never_deletes_what_it_does_not_replace(tmp_path, exchange):
    precious = tmp_path / "home"
    precious.mkdir()
    fill(precious, diary="dear", a="mine")
    with pytest.raises(UserError, match="home holds 'diary'"), atomic_folder(precious) as folder:
        fill(folder, a="new")
    assert contents(precious) == {"a": "mine", "diary": "dear"}
    assert os.listdir(tmp_path) == ["home"]


def test_atomic_folder_in_place_of_a_file(tmp_path):
    fill(tmp_path, model="a file")
    with pytest.raises(UserError, match="model is a file; wanted a folder"), atomic_folder(tmp_path / "model"):
        pytest.fail("nothing to fill")
    assert contents(tmp_path) == {"model": "a file"}


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt(), UserError("told")])
def test_atomic_folder_that_fails_leaves_the_old_one(tmp_path, error):
    with atomic_folder(tmp_path / "folder") as folder:
        fill(folder, a="old")
    with pytest.raises(type(error)), atomic_folder(tmp_path / "folder") as folder:
        fill(folder, a="new")
        raise error
    assert contents(tmp_path / "folder") == {"a": "old"}
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("call", ["mkdir", "fsync", "rename"])
def test_atomic_folder_on_a_full_disk(tmp_path, monkeypatch, call):
    monkeypatch.setattr(os, call, fail_with(OSError(errno.ENOSPC, "No space left on device")))
    refused = pytest.raises(UserError, match=r"folder: cannot be written: No space left on device$")
    with refused, atomic_folder(tmp_path / "folder") as folder:
        fill(folder, a="new")
    assert os.listdir(tmp_path) == []


def test_errors_inside_name_the_folder_that_was_asked_for(tmp_path):
    target = tmp_path / "folder"
    with (
        small_disk(),
        pytest.raises(UserError) as caught,
        atomic_folder(target) as new,
        atomic_write(new / "a") as file,
    ):
        file.write("x" * 100_000)
    assert str(caught.value) == f"{tmp_path}/folder/a: cannot be written: File too large"


def test_exchange_that_fails_half_way_brings_the_old_folder_back(tmp_path, monkeypatch):
    with atomic_folder(tmp_path / "folder") as folder:
        fill(folder, a="old")
    monkeypatch.setattr(atomic.ctypes, "CDLL", lambda name: object())
    rename, calls = os.rename, []

    def second_fails(*args):
        calls.append(args)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        rename(*args)

    monkeypatch.setattr(os, "rename", second_fails)
    refused = pytest.raises(UserError, match="folder: cannot be written: Input/output error")
    with refused, atomic_folder(tmp_path / "folder") as folder:
        fill(folder, a="new")
    assert contents(tmp_path / "folder") == {"a": "old"}
    assert os.listdir(tmp_path) == ["folder"]


def test_leftovers_are_cleared_and_nothing_else(tmp_path):
    for name in (".state.json.tmp-0123abcd", "notes.tmp-0123abcd", ".hidden", ".x.tmp-short"):
        fill(tmp_path, **{name: "x"})
    (tmp_path / ".step-00000001.tmp-89abcdef").mkdir()
    fill(tmp_path / ".step-00000001.tmp-89abcdef", a="half")
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".hidden", ".x.tmp-short", "notes.tmp-0123abcd"]


def test_remove_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    fill(tmp_path / "folder", a="1")
    remove_folder(tmp_path / "folder")
    assert os.listdir(tmp_path) == []


def test_what_is_left_of_a_removal_cut_short_is_a_leftover(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(shutil, "rmtree", fail_with(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        remove_folder(tmp_path / "folder")
    monkeypatch.undo()
    assert os.listdir(tmp_path) != ["folder"]
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == []
