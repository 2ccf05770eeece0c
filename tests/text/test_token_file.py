import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from minikd.errors import UserError
from minikd.text import TokenFile, Tokenizer, open_corpus, python_docs, tokenize

on_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc/self/status")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(python_docs().sample(), 600)


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "texts").mkdir()
    for name, text in (("a.txt", "The first text,\nof two lines.\n"), ("b.txt", "Das zweite: é漢🙂 "), ("c.txt", "\n")):
        (tmp_path / "texts" / name).write_text(text)
    return open_corpus([tmp_path / "texts"])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out" / "tokens.npy"


@pytest.fixture
def encoded(monkeypatch):
    """Grows by one with every text that is encoded."""
    calls = []
    encode_pieces = Tokenizer.encode_pieces

    def counting(self, text):
        calls.append(1)
        return encode_pieces(self, text)

    monkeypatch.setattr(Tokenizer, "encode_pieces", counting)
    return calls


def test_documents_are_encoded_with_an_end_of_text_between_them(corpus, tokenizer, path):
    tokens = tokenize(corpus, tokenizer, path)
    first, second, third = (tokenizer.encode("".join(document.pieces())) for document in corpus.documents)
    np.testing.assert_array_equal(tokens[:], [*first, 0, *second, 0, *third])
    assert len(tokens) == tokens.n_tokens and tokens.dtype == np.uint16
    assert tokens.n_bytes == corpus.n_bytes == tokenizer.byte_lengths[tokens[:]].sum()
    np.testing.assert_array_equal(np.load(path), tokens[:])
    assert sorted(file.name for file in path.parent.iterdir()) == ["tokens.json", "tokens.npy"]


def test_the_parts_of_a_split_hold_all_tokens_of_the_text(tokenizer, path):
    train, validation = python_docs().split()
    parts = [tokenize(part, tokenizer, path.with_name(f"{i}.npy")) for i, part in enumerate((train, validation))]
    text = "".join(tokenizer.decode(part[:]) for part in parts)
    assert text == "".join(python_docs().pieces())
    assert [part.n_bytes for part in parts] == [train.n_bytes, validation.n_bytes]


def test_windows_are_those_of_the_array(corpus, tokenizer, path):
    tokens = tokenize(corpus, tokenizer, path)
    whole = np.load(path)
    for window in (slice(None), slice(3, 9), slice(7, None), slice(-5, -2), slice(4, 4), slice(9, 3), slice(5, 10**9)):
        found = tokens[window]
        assert type(found) is np.ndarray and found.dtype == whole.dtype
        np.testing.assert_array_equal(found, whole[window])
    with pytest.raises(ValueError, match="step 2"):
        tokens[::2]


def test_large_vocabularies_need_wider_ids(corpus, path):
    # 256 bytes, enough unused tokens, and one above 2**16 that is used
    vocab = {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocab |= {f"unused{i}": i for i in range(256, 2**16 + 9)} | {"Th": 2**16 + 9}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[("T", "h")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokens = tokenize(corpus, Tokenizer(backend), path)
    assert tokens.dtype == np.uint32 and tokens[:1].tolist() == [2**16 + 9]


def test_a_sound_file_is_used_again(corpus, tokenizer, path, encoded):
    first = tokenize(corpus, tokenizer, path)
    n_encoded = len(encoded)
    assert tokenize(corpus, tokenizer, path) == first
    assert n_encoded == 3 and len(encoded) == n_encoded


def damage_by_truncation(path):
    path.write_bytes(path.read_bytes()[:-1])


def damage_by_a_flipped_bit(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def damage_of_the_header(path):
    data = path.read_bytes()
    path.write_bytes(data[:60] + b"\xff" + data[61:])


def damage_by_emptying(path):
    path.write_bytes(b"")


def damage_of_the_manifest(path):
    path.with_suffix(".json").write_text('{"corpus": ')


def loss_of_the_manifest(path):
    path.with_suffix(".json").unlink()


def loss_of_the_file(path):
    path.unlink()


@pytest.mark.parametrize(
    "damage",
    [
        damage_by_truncation,
        damage_by_a_flipped_bit,
        damage_of_the_header,
        damage_by_emptying,
        damage_of_the_manifest,
        loss_of_the_manifest,
        loss_of_the_file,
    ],
)
def test_a_damaged_file_is_made_anew(corpus, tokenizer, path, encoded, damage):
    first = tokenize(corpus, tokenizer, path)
    sound = path.read_bytes()
    damage(path)
    assert tokenize(corpus, tokenizer, path) == first
    assert path.read_bytes() == sound and len(encoded) == 6


def test_another_text_or_tokenizer_makes_another_file(corpus, tokenizer, path, tmp_path, encoded):
    tokenize(corpus, tokenizer, path)
    other = Tokenizer.train(python_docs().sample(), 601)
    tokenize(corpus, other, path)
    (tmp_path / "texts" / "c.txt").write_text("!")
    tokens = tokenize(open_corpus([tmp_path / "texts"]), other, path)
    assert len(encoded) == 9 and tokens[:][-1] == other.encode("!")[0]


def test_nothing_is_left_of_a_file_that_cannot_be_finished(corpus, tokenizer, path, tmp_path):
    (tmp_path / "texts" / "b.txt").write_bytes(b"\xff" * 22)
    with pytest.raises(UserError, match=r"b\.txt: not UTF-8: byte 0xff at offset 0"):
        tokenize(corpus, tokenizer, path)
    assert list(path.parent.iterdir()) == []


def test_what_a_killed_process_left_is_cleared_away(corpus, tokenizer, path):
    path.parent.mkdir()
    (path.parent / ".tokens.npy.tmp-0123abcd").write_bytes(b"half")
    tokenize(corpus, tokenizer, path)
    assert sorted(file.name for file in path.parent.iterdir()) == ["tokens.json", "tokens.npy"]


def test_a_place_that_cannot_be_written(corpus, tokenizer, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        tokenize(corpus, tokenizer, tmp_path / "file" / "tokens.npy")


def test_a_tokenizer_without_tokens_for_some_bytes(corpus, path):
    vocab = {symbol: i for i, symbol in enumerate("abcdefghijklmnopqrstuvwxyzTDĠĊ,.:")}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    with pytest.raises(UserError, match=r"b\.txt: the tokenizer has no tokens for 9 of its 22 bytes"):
        tokenize(corpus, Tokenizer(backend, None), path)
    assert list(path.parent.iterdir()) == []


def test_progress_is_shown_on_stderr_and_only_when_wanted(corpus, tokenizer, path, capsys):
    tokenize(corpus, tokenizer, path)
    assert capsys.readouterr() == ("", "")
    path.unlink()
    tokenize(corpus, tokenizer, path, progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "tokenizing" in err and "100%" in err


def resident_mb(field):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


@on_linux
def test_reading_windows_all_over_a_file_keeps_none_of_it_in_memory(tmp_path):
    n_tokens = 64 * 2**20
    path = tmp_path / "zeros"
    with path.open("wb") as file:
        file.truncate(2 * n_tokens)
    tokens = TokenFile(path, n_tokens, 0, np.dtype(np.uint16), 0)
    before = resident_mb("RssFile")
    for start in range(0, n_tokens, 16 * 1024):
        assert not tokens[start : start + 129].any()
    assert resident_mb("RssFile") - before < 16


MEMORY_PROGRAM = """
import sys
from pathlib import Path
from minikd.text import Batches, Tokenizer, open_corpus, tokenize, windows

text, folder = sys.argv[1:]
train, validation = open_corpus([text]).split()
tokenizer = Tokenizer.train(train.sample(), 1024)
tokens = [tokenize(part, tokenizer, Path(folder, f"{i}.npy")) for i, part in enumerate((train, validation))]
batches = Batches(tokens[0], 16, 128, 0)
for step in range(4000):
    batches(step)
assert sum(batch.count for batch in windows(tokens[1], 128, 16)) == len(tokens[1]) - 1
status = Path("/proc/self/status").read_text().splitlines()
print(int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024)
"""


@on_linux
@pytest.mark.slow
def test_peak_memory_does_not_grow_with_the_text(tmp_path, shared_data):
    words = np.array((shared_data / "tinyshakespeare.txt").read_text().split())
    rng = np.random.default_rng(0)
    peaks = []
    for n_copies in (5, 50):
        text = tmp_path / f"{n_copies}.txt"
        with text.open("w") as file:
            for _ in range(n_copies):
                file.write("\n".join(map(" ".join, np.array_split(rng.permutation(words), 20_000))) + "\n")
        program = [sys.executable, "-c", MEMORY_PROGRAM, text, tmp_path / f"{n_copies}"]
        peaks.append(float(subprocess.run(program, capture_output=True, text=True, check=True).stdout))
    # the longer text has 50 MB more, its token files 30 MB more: less than half of either may show
    assert peaks[1] - peaks[0] < 15, peaks
