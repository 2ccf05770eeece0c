import shutil
import subprocess

import pytest

from minikd.errors import UserError
from minikd.reading import SUMS, read_json_object, verify_sums, write_sums


def test_read_json_object(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1, "é"]}', encoding="utf-8")
    assert read_json_object(tmp_path / "a.json") == {"a": [1, "é"]}


@pytest.mark.parametrize(
    "data, complaint",
    [
        (b"", r"not JSON \(Expecting value"),
        (b'{"a": 1', "not JSON"),
        (b'{"a": "\xff"}', "not JSON .*utf-8"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[1, 2]", "of type list; wanted an object"),
        (b"null", "of type NoneType; wanted an object"),
    ],
)
def test_json_that_is_none(tmp_path, data, complaint):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(UserError, match=rf"a\.json: .*{complaint}") as caught:
        read_json_object(tmp_path / "a.json")
    assert "\n" not in str(caught.value)


def test_json_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_json_object(tmp_path)
    with pytest.raises(UserError, match=r"none\.json: cannot be read: No such file or directory"):
        read_json_object(tmp_path / "none.json")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.bin").write_bytes(bytes(range(256)))
    (tmp_path / "b c.txt").write_text("two words")
    write_sums(tmp_path)
    verify_sums(tmp_path, required=("a.bin", "b c.txt"))
    return tmp_path


def test_sums_are_those_of_sha256sum(folder):
    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum")
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", SUMS], cwd=folder, check=True)
    with open(folder / SUMS, "w") as file:
        subprocess.run(["sha256sum", "--binary", "a.bin", "b c.txt"], cwd=folder, check=True, stdout=file)
    verify_sums(folder, required=("a.bin", "b c.txt"))


def test_flipped_bits_are_seen(folder):
    data = (folder / "a.bin").read_bytes()
    for bit in range(0, 8 * len(data), 37):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        (folder / "a.bin").write_bytes(flipped)
        with pytest.raises(UserError, match=r"a\.bin: damaged, or changed since it was saved: its SHA-256 is"):
            verify_sums(folder, required=())


def test_flipped_bits_of_the_sums_are_seen(folder):
    data = (folder / SUMS).read_bytes()
    for bit in range(0, 8 * len(data), 5):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        (folder / SUMS).write_bytes(flipped)
        try:
            verify_sums(folder, required=("a.bin", "b c.txt"))
        except UserError:
            continue
        # ' ' and '*' before a name both mean a checksum of all its bytes; the last line may go without its end
        assert chr(data[bit // 8]) in " \n", f"bit {bit} of {data!r}"


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("", "SHA256SUMS: damaged: it does not list a.bin"),
        ("not a sum  a.bin\n", "SHA256SUMS: damaged: line 1 is 'not a sum  a.bin'"),
        ("0" * 64 + "  ../a.bin\n", "SHA256SUMS: damaged: line 1"),
        ("0" * 64 + "  a.bin\n", "its SHA-256 is 40aff2e9d2d8...; SHA256SUMS beside it wants 000000000000"),
    ],
)
def test_sums_that_are_wrong(folder, text, complaint):
    (folder / SUMS).write_text(text)
    with pytest.raises(UserError, match=complaint.replace(".", r"\.")):
        verify_sums(folder, required=("a.bin",))


def test_sums_of_a_file_that_is_gone(folder):
    (folder / "b c.txt").unlink()
    with pytest.raises(UserError, match=r"b c\.txt: cannot be read: No such file or directory"):
        verify_sums(folder, required=())
