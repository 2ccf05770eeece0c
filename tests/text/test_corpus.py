import os
from itertools import pairwise
from pathlib import Path

import pytest

from minikd.errors import UserError
from minikd.text import corpus as corpus_module
from minikd.text import open_corpus, python_docs


def text_of(corpus):
    return "".join(corpus.pieces())


@pytest.fixture
def blocks_of(monkeypatch):
    return lambda n_bytes: monkeypatch.setattr(corpus_module, "BLOCK_BYTES", n_bytes)


def test_python_docs_are_the_sorted_topics():
    from pydoc_data.topics import topics

    corpus = python_docs()
    assert text_of(corpus) == "\n\n".join(text for _, text in sorted(topics.items()))
    assert corpus.n_bytes == len(text_of(corpus).encode()) > 100_000
    assert open_corpus().fingerprint == corpus.fingerprint


def test_files_are_read_in_the_order_given(tmp_path):
    for name in "ba":
        (tmp_path / name).write_text(name)
    corpus = open_corpus([tmp_path / "b", str(tmp_path / "a")])
    assert [text_of(document) for document in corpus.documents] == ["b", "a"]


def test_a_folder_stands_for_its_text_files_in_order(tmp_path):
    names = ["b.txt", "a/z.md", "a/C.TXT", "a.rst", ".hidden.txt", ".git/x.txt", "a/.x/y.txt", "empty.txt", "x.py", "y"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("" if name == "empty.txt" else name)
    assert text_of(open_corpus([tmp_path])) == "a/C.TXT" + "a/z.md" + "a.rst" + "b.txt"


def test_bytes_come_through_unchanged(tmp_path, blocks_of):
    text = "\ufeffline\r\nline\rline\n\n tab\té漢🙂\u0085\u2028\0x"
    (tmp_path / "t.txt").write_bytes(("x" * 9000 + text).encode())
    for n_bytes in (1, 2, 3, 5, 64):
        blocks_of(n_bytes)
        assert text_of(open_corpus([tmp_path])) == "x" * 9000 + text


def test_a_byte_order_mark_is_dropped(tmp_path):
    path = tmp_path / "t"
    path.write_bytes(b"\xef\xbb\xbfhi\n\xff")
    with pytest.raises(UserError, match=r"t: not UTF-8: byte 0xff at offset 6;"):
        open_corpus([path])
    path.write_bytes(b"\xef\xbb\xbfhi\n")
    corpus = open_corpus([path])
    assert (text_of(corpus), corpus.n_bytes) == ("hi\n", 3)


@pytest.mark.parametrize(
    "bad, at", [(b"\xff", 0), (b"\xe6\xbcA", 0), (b"\xc3", 0), (b"\xed\xa0\x80", 0), (b"\xc3\xa9\x80", 2)]
)
@pytest.mark.parametrize("n_before", range(7))
def test_bytes_that_are_no_utf8_are_named_wherever_blocks_end(tmp_path, blocks_of, bad, at, n_before):
    path = tmp_path / "bad.txt"
    for before in (b"a" * n_before, "é".encode() * n_before):
        path.write_bytes(before + bad)
        with pytest.raises(UserError) as caught:
            blocks_of(4)
            open_corpus([path])
        wanted = f"{path}: not UTF-8: byte 0x{bad[at]:02x} at offset {len(before) + at}; wanted UTF-8 text"
        assert str(caught.value) == wanted


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "no such file"),
        (b"", "empty"),
        (b"\xef\xbb\xbf", "empty but for a byte order mark"),
        ("words".encode("utf-16"), "not UTF-8: byte 0xff at offset 0|zero byte at offset"),
        (b"\x7fELF\x01\x00\x02", "binary, or UTF-16 .a zero byte at offset 5"),
    ],
)
def test_what_is_no_text_gets_one_line(tmp_path, content, message):
    path = tmp_path / "it.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        open_corpus([path])
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_folders_without_text_and_special_files(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"a folder without text \(1 other or empty files\); wanted .*\.md"):
        open_corpus([tmp_path])
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="neither a file nor a folder"):
        open_corpus([tmp_path / "pipe"])


def test_unreadable_files(tmp_path, monkeypatch):
    path = tmp_path / "t.txt"
    path.write_text("text")

    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"t\.txt: cannot be read: Permission denied"):
        open_corpus([path])


def test_no_text_is_read_twice(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("text")
    (tmp_path / "link.txt").symlink_to(path)
    (tmp_path / "hard").hardlink_to(path)
    for paths in ([path, path], [tmp_path], [path, tmp_path / "link.txt"], [path, tmp_path / "hard"]):
        with pytest.raises(UserError, match="the same file as"):
            open_corpus(paths)


def test_a_file_that_changes_under_the_reader(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("one two three")
    corpus = open_corpus([path])
    path.write_text("one")
    with pytest.raises(UserError, match="10 bytes shorter than when it was opened"):
        text_of(corpus)


@pytest.mark.parametrize("val_fraction", [0.01, 0.1, 0.5, 0.9])
def test_the_split_loses_and_repeats_nothing(tmp_path, val_fraction):
    (tmp_path / "a.txt").write_text("".join(f"line {i} é漢🙂\n" for i in range(50)))
    (tmp_path / "b.txt").write_text("".join(f"Zeile {i}\n" for i in range(70)))
    corpus = open_corpus([tmp_path])
    train, validation = corpus.split(val_fraction)
    assert text_of(train) + text_of(validation) == text_of(corpus)
    assert train.n_bytes + validation.n_bytes == corpus.n_bytes
    assert abs(validation.n_bytes / corpus.n_bytes - val_fraction) < 0.01
    assert text_of(train).endswith("\n")
    assert all(document.n_bytes for document in train.documents + validation.documents)


def test_the_split_prefers_the_border_of_two_documents(tmp_path):
    (tmp_path / "a.txt").write_text("no line break " * 90)
    (tmp_path / "b.txt").write_text("nor here " * 10)
    train, validation = open_corpus([tmp_path]).split(0.1)
    assert [len(train.documents), len(validation.documents)] == [1, 1]
    assert text_of(validation) == "nor here " * 10


@pytest.mark.parametrize(
    "text, training",
    [
        ("word " * 20 + "end", "word " * 18 + "word"),  # one line: before a space
        ("漢" * 100, "漢" * 90),  # one word: between characters
        ("🙂🙂", "🙂"),
        ("a\n" + "x" * 98, "a\n" + "x" * 88),  # the only line break would take all text away from training
        ("x" * 98 + "\n", "x" * 89),  # the end of the text is no border
        ("ab", "a"),
    ],
)
def test_the_split_of_awkward_text(tmp_path, text, training):
    (tmp_path / "t.txt").write_text(text)
    train, validation = open_corpus([tmp_path]).split(0.1)
    assert (text_of(train), text_of(validation)) == (training, text[len(training) :])


def test_the_split_leaves_a_far_border_of_documents_alone(tmp_path):
    (tmp_path / "a.txt").write_text("short")
    (tmp_path / "b.txt").write_text("x" * 95)
    train, validation = open_corpus([tmp_path]).split(0.1)
    assert (train.n_bytes, validation.n_bytes) == (90, 10)


def test_offsets_are_those_in_the_file_also_in_a_part_of_it(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("line\n" * 20)
    _, validation = open_corpus([path]).split(0.2)
    path.write_bytes(b"line\n" * 19 + b"lin\xe9\n")
    with pytest.raises(UserError, match="byte 0xe9 at offset 98"):
        text_of(validation)


def test_what_cannot_be_split(tmp_path):
    (tmp_path / "t.txt").write_text("漢")
    corpus = open_corpus([tmp_path])
    with pytest.raises(UserError, match="too short to have a training and a validation part"):
        corpus.split()
    for val_fraction in (0, 1, -0.1, float("nan")):
        with pytest.raises(ValueError, match="val_fraction is"):
            corpus.split(val_fraction)


@pytest.mark.parametrize("path", ["a.txt", "."])
def test_a_text_has_one_name_wherever_it_is_called_from(tmp_path, monkeypatch, path):
    (tmp_path / "a.txt").write_text("one\n" * 50)
    monkeypatch.chdir(tmp_path)
    assert open_corpus([path]).name == open_corpus([os.path.abspath(path)]).name in ("a.txt", tmp_path.name)


def test_the_parts_have_fingerprints_of_their_own(tmp_path):
    for name, text in (("a.txt", "one\n" * 50), ("b.txt", "one\n" * 50), ("c.txt", "one\n" * 49 + "two\n")):
        (tmp_path / name).write_text(text)
    a, b, c = (open_corpus([tmp_path / name]) for name in ("a.txt", "b.txt", "c.txt"))
    assert a.fingerprint == b.fingerprint != c.fingerprint
    train, validation = a.split()
    assert len({a.fingerprint, train.fingerprint, validation.fingerprint, a.split(0.2)[0].fingerprint}) == 4


def test_a_sample_is_spread_evenly(tmp_path, blocks_of):
    blocks_of(100)
    text = "".join(f"{i:9d}\n" for i in range(10_000))
    (tmp_path / "t.txt").write_text(text)
    corpus = open_corpus([tmp_path])
    assert "".join(corpus.sample(len(text))) == text
    numbers = [int(piece.split()[0]) for piece in corpus.sample(len(text) // 10)]
    assert len(numbers) == 100 and {b - a for a, b in pairwise(numbers)} == {100}
