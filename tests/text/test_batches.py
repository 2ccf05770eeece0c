import dataclasses

import numpy as np
import pytest

from minikd.errors import UserError
from minikd.text import NOT_COUNTED, Batch, Batches, SequenceBatches, TokenFile, windows


@pytest.fixture
def tokens(rng):
    return rng.permutation(1000).astype(np.uint16)  # each token once, so that it tells its place


@pytest.fixture(params=["array", "file"])
def anywhere(request, tokens, tmp_path):
    """The same tokens in memory and on the disk."""
    if request.param == "array":
        return tokens
    tokens.tofile(tmp_path / "tokens")
    return TokenFile(tmp_path / "tokens", tokens.size, 0, tokens.dtype, 0)


def test_targets_are_the_tokens_that_follow(anywhere, tokens):
    batch = Batches(anywhere, batch_size=7, context=41, seed=3)(0)
    assert batch.inputs.shape == batch.targets.shape == (7, 41)
    assert batch.inputs.dtype == batch.targets.dtype == np.int64
    place = np.argsort(tokens)
    np.testing.assert_array_equal(np.diff(place[batch.inputs], axis=1), 1)
    np.testing.assert_array_equal(place[batch.targets], place[batch.inputs] + 1)
    assert batch.count == 7 * 41 and batch.counted.all()


def test_a_batch_is_a_function_of_seed_and_step(anywhere, tokens):
    batches = Batches(anywhere, 4, 16, seed=1)
    forwards = [batches(step).inputs for step in range(5)]
    again = Batches(tokens, 4, 16, seed=1)
    for step in (4, 0, 2, 0):
        np.testing.assert_array_equal(again(step).inputs, forwards[step])
    others = [*forwards[1:], Batches(tokens, 4, 16, seed=2)(0).inputs, Batches(tokens, 4, 16, seed=0)(1).inputs]
    assert all((forwards[0] != other).any() for other in others)


def test_places_are_uniform_and_reach_both_ends(tokens):
    context = 990
    starts = np.concatenate([Batches(tokens, 16, context, 0)(step).inputs[:, 0] for step in range(200)])
    counts = np.bincount(np.argsort(tokens)[starts], minlength=10)
    assert counts.size == 10  # 1000 tokens have ten windows of 990 and the token after
    expected = starts.size / 10
    assert ((counts - expected) ** 2 / expected).sum() < 27.9  # chi-squared, 9 degrees of freedom, p = 0.001


def test_the_shortest_text_and_one_that_is_shorter(tokens):
    batch = Batches(tokens[:17], 3, 16, 0)(5)
    np.testing.assert_array_equal(batch.inputs, np.tile(tokens[:16], (3, 1)))
    np.testing.assert_array_equal(batch.targets, np.tile(tokens[1:17], (3, 1)))
    with pytest.raises(UserError, match="16 tokens, too few for a context of 16; wanted at least 17 tokens"):
        Batches(tokens[:16], 3, 16, 0)


@pytest.mark.parametrize("sizes, name", [((0, 8, 0), "batch_size"), ((2, 0, 0), "context"), ((2, 8, -1), "seed")])
def test_sizes_that_cannot_be(tokens, sizes, name):
    with pytest.raises(ValueError, match=f"{name} is"):
        Batches(tokens, *sizes)


@pytest.mark.parametrize("n, rows", [(1, [5]), (2, [3, 2]), (3, [2, 2, 1]), (5, [1] * 5), (9, [1] * 5)])
def test_split_keeps_rows_in_order(rng, n, rows):
    targets = rng.integers(0, 9, size=(5, 4))
    targets[1:3] = NOT_COUNTED
    batch = Batch(rng.integers(0, 9, size=(5, 4)), targets)
    parts = batch.split(n)
    assert [len(part.inputs) for part in parts] == rows
    for name in ("inputs", "targets", "counted"):
        np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(batch, name))
    assert sum(part.count for part in parts) == batch.count == 12


def test_batches_cannot_be_changed(tokens):
    with pytest.raises(dataclasses.FrozenInstanceError):
        Batches(tokens, 2, 8, 0)(0).inputs = None


@pytest.mark.parametrize("n_tokens", [2, 3, 8, 9, 10, 16, 17, 18, 41, 401, 1000])
@pytest.mark.parametrize("context, batch_size", [(1, 1), (8, 1), (8, 3), (16, 4)])
def test_windows_predict_every_token_but_the_first_once(tokens, n_tokens, context, batch_size):
    text = tokens[:n_tokens]
    batches = list(windows(text, context, batch_size))
    assert all(batch.inputs.shape[1] == context and len(batch.inputs) <= batch_size for batch in batches)
    assert all(len(batch.inputs) == batch_size for batch in batches[:-1])
    counted = [batch.counted for batch in batches]
    read = np.concatenate([batch.inputs[where] for batch, where in zip(batches, counted, strict=True)])
    predicted = np.concatenate([batch.targets[where] for batch, where in zip(batches, counted, strict=True)])
    np.testing.assert_array_equal(read, text[:-1])
    np.testing.assert_array_equal(predicted, text[1:])
    assert sum(batch.count for batch in batches) == n_tokens - 1
    rows = np.concatenate(counted)
    assert rows[:-1].all() and rows[-1].any()  # only the last row is padded, and never all of it
    assert (np.diff(rows[-1].astype(int)) <= 0).all()


def test_windows_are_the_same_from_a_file(anywhere, tokens):
    for found, wanted in zip(windows(anywhere, 64, 3), windows(tokens, 64, 3), strict=True):
        np.testing.assert_array_equal(found.inputs, wanted.inputs)
        np.testing.assert_array_equal(found.targets, wanted.targets)


def test_windows_of_next_to_nothing(tokens):
    for n_tokens in (0, 1):
        with pytest.raises(UserError, match=f"has {n_tokens} tokens; wanted at least 2"):
            next(windows(tokens[:n_tokens], 8, 2))


def test_sequences_are_padded_and_their_prompts_not_counted():
    sequences, prompts = [np.array([5, 6, 7, 8]), np.array([1, 2])], [2, 0]
    batches = SequenceBatches(sequences, prompts, batch_size=6, context=4, seed=0)
    rows = {
        tuple(inputs): tuple(targets)
        for step in range(4)
        for batch in [batches(step)]
        for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True)
    }
    assert rows == {(5, 6, 7, 8): (-100, 7, 8, -100), (1, 2, 0, 0): (2, -100, -100, -100)}


def test_sequence_batches_are_a_function_of_seed_and_step(rng):
    sequences = [rng.integers(0, 50, size=n) for n in rng.integers(3, 18, size=40)]
    prompts = [int(rng.integers(0, len(sequence) - 1)) for sequence in sequences]
    batches = SequenceBatches(sequences, prompts, 8, 16, seed=4)
    last, first, last_again = batches(9), batches(0), SequenceBatches(sequences, prompts, 8, 16, seed=4)(9)
    np.testing.assert_array_equal(last.inputs, last_again.inputs)
    np.testing.assert_array_equal(last.targets, last_again.targets)
    assert (first.inputs != last.inputs).any()
    assert first.inputs.shape == (8, 16) and first.counted.any(axis=1).all()


@pytest.mark.parametrize(
    "sequences, prompts, message",
    [
        ([], [], "0 sequences"),
        ([[1, 2]], [0, 1], "1 sequences and 2 prompt lengths"),
        ([[1, 2, 3], [1, 2]], [1, 2], "sequence 1 has 2 tokens, 2 of them prompt"),
        ([[1]], [0], "sequence 0 has 1 tokens"),
        ([[1, 2]], [-1], "-1 of them prompt"),
        ([range(6)], [0], "at most 5 in all"),
    ],
)
def test_sequences_with_nothing_to_predict_or_too_long(sequences, prompts, message):
    with pytest.raises(ValueError, match=message):
        SequenceBatches([np.array(sequence) for sequence in sequences], prompts, 2, 4, 0)
