import codecs
import json
import subprocess
import sys

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from minikd.errors import UserError
from minikd.text import END_OF_TEXT, SMALLEST_VOCABULARY, Tokenizer, check_ids, python_docs
from minikd.text.tokenizer import safe_pieces

TRICKY = [
    "",
    " ",
    "In 1984, 3.14159 and 0x7f; 1234567890",
    "  two  spaces\t\ttabs \t mixed\n\n\nlines\r\n  \r\n end  ",
    "don't you'll WE'VE it's 's",
    "naïve e\u0301 Straße ﬁ \u202eright-to-left\u202c",
    "漢字かな交じり文。한국어 עברית العربية हिन्दी",
    "👩‍👩‍👧 🇨🇭 👍🏽 \U0001f600",
    "\u0378 \U000e0fff \ufffe \uffff \U0010ffff \ue000",  # unassigned, noncharacters, private
    "\0\x01\x1c\x7f\x85\xa0\u1680\u2003\u2028\u3000\ufeff",
    "Hello , world ! It 's n't",
    END_OF_TEXT,
    f"a{END_OF_TEXT} b {END_OF_TEXT}\n{END_OF_TEXT}{END_OF_TEXT}",
]
# Patterns in the manner of later models: line breaks belong to the punctuation before them, numbers are cut
LATER_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def text_from(alphabet):
    return st.lists(st.sampled_from(alphabet), max_size=60).map("".join)


any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
awkward_text = text_from(
    [" ", "  ", "\n", "\r\n", "\t", "a", "Zeit", "7", "'s", "é", "漢", "_", ".", "\x1c", "\x85", "\u3000"]
)
thorough = settings(derandomize=True, deadline=None, max_examples=150)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(python_docs().sample(), 700)


@pytest.fixture(scope="module")
def later(tmp_path_factory):
    """A user's tokenizer: another pre-tokenizer, a post-processor that adds a token, truncation, padding, dropout."""
    backend = tokenizers.Tokenizer(models.BPE(dropout=0.5))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(LATER_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<|begin|>", "<|stop|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([*python_docs().pieces(), "_\n .\n\n" * 1000], trainer)
    backend.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    backend.enable_truncation(8)
    backend.enable_padding(length=32)
    folder = tmp_path_factory.mktemp("later")
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": {"content": "<|stop|>"}}')
    return Tokenizer.load(folder)


def test_vocabulary(tokenizer):
    assert tokenizer.vocab_size == 700 and tokenizer.eos_id == 0
    assert tokenizer.decode([0]) == END_OF_TEXT
    assert len(tokenizer.encode("the language reference")) < len("the language reference") / 2


@thorough
@given(text=any_text | awkward_text | st.sampled_from(TRICKY))
def test_round_trip_of_any_text_is_exact(tokenizer, later, text):
    for each in (tokenizer, later):
        ids = each.encode(text)
        assert ids.dtype == np.int64 and ids.ndim == 1
        assert each.decode(ids) == text
        assert each.eos_id not in ids
        assert b"".join(each.token_bytes[i] for i in ids) == text.encode()
        assert each.byte_lengths[ids].sum() == len(text.encode())


@pytest.mark.parametrize("text", TRICKY)
def test_round_trip_of_tricky_text_is_exact(tokenizer, later, text):
    for each in (tokenizer, later):
        assert each.decode(each.encode(text)) == text


@thorough
@given(text=awkward_text | any_text, size=st.integers(1, 9), arrival=st.integers(1, 30))
@example(text="a_\nb. c.\n\nd  e\n", size=1, arrival=1)
def test_cutting_text_does_not_change_its_tokens(tokenizer, later, text, size, arrival):
    arriving = [text[i : i + arrival] for i in range(0, len(text), arrival)]
    pieces = list(safe_pieces(arriving, size))
    assert pieces == list(safe_pieces([text], size)) and "".join(pieces) == text
    for each in (tokenizer, later):
        ids = [each.encode(piece) for piece in pieces]
        np.testing.assert_array_equal(np.concatenate([*ids, each.encode("")]), each.encode(text))


def test_prose_is_cut_at_once_and_encoded_as_a_whole(tokenizer):
    text = "".join(python_docs().pieces())
    pieces = list(safe_pieces(python_docs().pieces(), size=100))
    assert max(map(len, pieces)) < 300
    whole = tokenizer.encode(text)
    np.testing.assert_array_equal(np.concatenate([tokenizer.encode(piece) for piece in pieces]), whole)
    np.testing.assert_array_equal(np.concatenate(list(tokenizer.encode_pieces(python_docs().pieces()))), whole)


def test_text_without_a_place_to_cut_is_cut_all_the_same(tokenizer):
    text = "漢" * 1000
    pieces = list(safe_pieces([text[:777], text[777:]], size=10, longest=100))
    assert [len(piece) for piece in pieces] == [100] * 10
    pieces = list(safe_pieces(["。\n漢" * 100], size=10, longest=20))
    assert "".join(pieces) == "。\n漢" * 100
    assert all(piece.startswith("\n") for piece in pieces[1:])


def test_encoding_is_the_same_every_time_and_everywhere(tokenizer, later):
    text = "".join(python_docs().pieces())[:20_000]
    for each in (tokenizer, later):
        np.testing.assert_array_equal(each.encode(text), each.encode(text))
    program = (
        "from minikd.text import Tokenizer, python_docs\n"
        "print(Tokenizer.train(python_docs().sample(), 700).fingerprint)"
    )
    elsewhere = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert elsewhere.stdout.strip() == tokenizer.fingerprint


def test_training_does_not_depend_on_the_pieces_in_which_text_arrives(tokenizer):
    text = "".join(python_docs().pieces())
    assert Tokenizer.train([text], 700).same_as(tokenizer)


def test_training_copes_with_text_without_white_space():
    rng = np.random.default_rng(0)
    text = "".join(rng.choice(list("ACGT"), size=100_000))
    assert Tokenizer.train([text], 300).decode(range(257, 262)) != ""


@pytest.mark.parametrize("vocab_size", [-1, 0, 1, 256])
def test_a_vocabulary_too_small_for_all_bytes(vocab_size):
    with pytest.raises(UserError, match=rf"vocabulary size {vocab_size} is too small; wanted at least 257 "):
        Tokenizer.train(["text"], vocab_size)


def test_the_smallest_vocabulary_is_bytes():
    tokenizer = Tokenizer.train(["text"], SMALLEST_VOCABULARY)
    assert len(tokenizer.encode("é漢")) == 5 and tokenizer.decode(tokenizer.encode("é漢")) == "é漢"


def test_a_vocabulary_larger_than_the_text_supports():
    message = r"vocabulary size 2000 is larger than the training text supports: it yields 2\d\d "
    with pytest.raises(UserError, match=message):
        Tokenizer.train(["one two one two"], 2000)


def test_half_a_surrogate_pair_is_no_text(tokenizer):
    with pytest.raises(ValueError, match=r"lone surrogate U\+D83D at character 3"):
        tokenizer.encode("abc\ud83d")


def test_bytes_that_are_no_character_become_replacement_characters(tokenizer):
    emoji = tokenizer.encode("🙂")
    assert len(emoji) == 4 and tokenizer.decode(emoji[:3]) == "\ufffd"


@pytest.mark.parametrize("ids, wrong, at", [([1, 2, 700], 700, 2), ([-1], -1, 0), ([5, 10**9, -7], 10**9, 1)])
def test_ids_outside_the_vocabulary(tokenizer, ids, wrong, at):
    message = f"token id {wrong} at position {at} is outside the vocabulary; wanted ids from 0 to 699"
    with pytest.raises(UserError, match=message):
        tokenizer.decode(ids)
    with pytest.raises(UserError, match=f"the file: {message}"):
        check_ids(np.array(ids), 700, "the file")


def test_check_ids_looks_at_unsigned_and_long_arrays():
    ids = np.zeros(2**20 + 5, dtype=np.uint16)
    check_ids(ids, 1, "ids")
    ids[-1] = 65535
    with pytest.raises(UserError, match=f"token id 65535 at position {2**20 + 4}"):
        check_ids(ids, 1, "ids")


@pytest.mark.parametrize("which", ["tokenizer", "later"])
def test_save_and_load(which, request, tmp_path):
    tokenizer = request.getfixturevalue(which)
    tokenizer.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["clean_up_tokenization_spaces"] is False  # versions before 5 would take spaces away in decoding
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = Tokenizer.load(path)
        assert loaded.same_as(tokenizer) and loaded.eos_id == tokenizer.eos_id
        for text in TRICKY:
            np.testing.assert_array_equal(loaded.encode(text), tokenizer.encode(text))


def test_a_byte_order_mark_is_dropped(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    for file in tmp_path.iterdir():
        file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())
    assert Tokenizer.load(tmp_path).same_as(tokenizer)


def test_the_end_of_text_is_found_without_a_configuration(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    assert Tokenizer.load(tmp_path).eos_id == 0
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": null}')
    assert Tokenizer.load(tmp_path).eos_id == 0


def test_other_tokenizers_are_told_apart(tokenizer, later):
    docs = "".join(python_docs().pieces())
    others = [later, Tokenizer.train([docs], 701), Tokenizer.train([docs[: len(docs) // 2]], 700)]
    assert not any(tokenizer.same_as(other) for other in others)


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "cannot be read: No such file"),
        ("", "not JSON"),
        ("[1]", "of type list; wanted an object"),
        ("{}", "not a tokenizer"),
        ('{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}', "not a tokenizer"),
        ('{"model": {"type": "BPE", "vocab": {}, "merges": []}, "added_tokens": []}', "0 tokens|not a tokenizer"),
        ('{"model": {"type": "WordLevel", "vocab": {"a": 4000000000}, "unk_token": "a"}}', "without such gaps"),
        (
            '{"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 0}, "unk_token": "a"}}',
            "2 tokens share 1 ids",
        ),
    ],
)
def test_what_is_no_tokenizer_gets_one_line(tmp_path, content, message):
    file = tmp_path / "tokenizer.json"
    if content is not None:
        file.write_text(content)
    for path in (file, tmp_path):
        with pytest.raises(UserError, match=message) as caught:
            Tokenizer.load(path)
        assert str(caught.value).startswith(f"{file}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "model",
    [
        models.WordLevel({"a": 0}, unk_token="?"),
        models.WordPiece({"a": 0}, unk_token="?"),
        models.Unigram([("a", -1.0)]),
    ],
)
def test_a_tokenizer_without_its_token_for_the_unknown(tmp_path, model):
    tokenizers.Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode("a").tolist() == [0]
    with pytest.raises(UserError, match="has no tokens for some of the text"):
        tokenizer.encode("b")


def test_truncated_and_altered_tokenizers_get_one_line_or_load(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    file = tmp_path / "tokenizer.json"
    data = file.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for stop in rng.integers(0, len(data) - 2, size=20):
        file.write_bytes(data[:stop])
        with pytest.raises(UserError):
            Tokenizer.load(file)
    for place in rng.integers(0, len(data), size=60):
        file.write_bytes(data[:place] + bytes([data[place] ^ 1 << int(rng.integers(8))]) + data[place + 1 :])
        try:
            Tokenizer.load(file).encode("some text")
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 10


def test_a_tokenizer_of_words_has_approximate_byte_lengths(tmp_path):
    vocab = {"▁": 0, "a": 1, "▁a": 2, "<0x0A>": 3, "</s>": 4}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[("▁", "a")]))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(["</s>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.byte_lengths.tolist() == [1, 1, 2, 1, 0]
    assert tokenizer.eos_id == 4 and not tokenizer.keeps_bytes
    assert tokenizer.decode(tokenizer.encode("a a")) == "a a"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("which", ["tokenizer", "later"])
def test_transformers_gives_equal_ids(which, request, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = request.getfixturevalue(which)
    tokenizer.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == tokenizer.vocab_size and theirs.eos_token_id == tokenizer.eos_id
    prose = "".join(python_docs().pieces())[:30_000]
    for text in [*TRICKY, prose]:
        ids = tokenizer.encode(text).tolist()
        assert theirs(text)["input_ids"] == theirs.encode(text) == theirs([text])["input_ids"][0] == ids
        assert theirs.decode(ids) == text
    theirs.save_pretrained(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").same_as(tokenizer)
