"""The text that the teacher writes, on the disk."""

import pytest

from minikd.distill.sequence import Piece, load_pieces, save_pieces
from minikd.errors import UserError

PIECES = [Piece("Once ", "upon\u2028a\ntime", 5, False), Piece("é", "", 0, True)]


def test_pieces_come_back(tmp_path):
    assert load_pieces(tmp_path) is None
    save_pieces(PIECES, tmp_path)
    assert load_pieces(tmp_path) == PIECES
    assert (tmp_path / "corpus.txt").read_text(encoding="utf-8") == "Once upon\u2028a\ntime\n\né\n\n"


@pytest.mark.parametrize(
    "second",
    [b"", b"garbage", b"\xff", b"{}", b"[1]", b'{"prompt": 1, "continuation": "a", "tokens": 1, "ended": true}', None],
)
def test_damaged_pieces_are_named(tmp_path, second):
    save_pieces(PIECES, tmp_path)
    path = tmp_path / "corpus.jsonl"
    first, old, _ = path.read_bytes().split(b"\n")
    path.write_bytes(first + b"\n" + (old[:-5] if second is None else second + b"\n"))
    message = r"corpus\.jsonl: line 2: not a piece of text; without the file the teacher writes it again"
    with pytest.raises(UserError, match=message):
        load_pieces(tmp_path)


def test_an_empty_file_is_damaged_too(tmp_path):
    (tmp_path / "corpus.jsonl").touch()
    with pytest.raises(UserError, match="line 1: not a piece of text"):
        load_pieces(tmp_path)
