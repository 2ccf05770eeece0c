import json
import struct

import numpy as np
import pytest

from minikd.oracle.grade.child import wire

ARRAYS = {
    "number": np.array(2.5),
    "empty": np.zeros((0, 3)),
    "transposed": np.arange(6.0).reshape(2, 3).T,
    "gaps": np.arange(10.0)[::3],
    "big-endian": np.arange(3, dtype=">f8"),
    "bool": np.array([[True], [False]]),
    "half": np.ones(2, dtype=np.float16),
    "whole": np.arange(3, dtype=np.int32),
    "special": np.array([np.nan, np.inf, -0.0]),
}


def parts(message):
    text, block = wire.lengths(message)
    start = wire.LENGTHS.size
    assert len(message) == start + text + block
    return message[start : start + text], message[start + text :]


def test_what_is_packed_comes_out():
    head, arrays = wire.unpack(*parts(wire.pack({"id": 3, "words": "é"}, ARRAYS)))
    assert head == {"id": 3, "words": "é"}
    assert arrays.keys() == ARRAYS.keys()
    for name, x in ARRAYS.items():
        assert arrays[name].shape == x.shape and arrays[name].dtype == x.dtype.newbyteorder("=")
        np.testing.assert_array_equal(arrays[name], x)


def test_no_arrays():
    assert wire.unpack(*parts(wire.pack({}, {}))) == ({}, {})


@pytest.mark.parametrize(
    "x", [np.array([object()]), np.array(["text"]), np.ones(2, dtype=complex), np.ones(2, np.longdouble)]
)
def test_only_plain_numbers_are_packed(x):
    with pytest.raises(ValueError, match=r"x holds .* entries; wanted numbers of at most 64 bits"):
        wire.pack({}, {"x": x})


def test_too_much_is_not_packed():
    with pytest.raises(ValueError, match="wanted at most"):
        wire.pack({}, {"x": np.broadcast_to(np.zeros(1), (2**28,))[: 2**23]})


@pytest.mark.parametrize("lengths", [(2**60, 0), (0, 2**60), (2**63 + 1, 2**63 + 1)])
def test_a_length_is_not_believed(lengths):
    with pytest.raises(ValueError, match="a message of"):
        wire.lengths(struct.pack("<QQ", *lengths))


TEXT, BLOCK = parts(wire.pack({}, {"x": np.arange(6.0).reshape(2, 3)}))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"shapes": {"x": [2, 3]}, "y": NaN}',
        b'{"shapes": {"x": [2, 4]}}',
        b'{"shapes": {"x": [-2, -3]}}',
        b'{"shapes": {"x": [6.0]}}',
        b'{"shapes": {"x": [1e400]}}',
        b'{"shapes": {"x": null}}',
        b'{"shapes": {"y": [6]}}',
        b'{"shapes": [6]}',
        b'{"shapes": ' + b"[" * 100_000,
        b'{"shapes": {"x": [' + b"9" * 10_000 + b"]}}",
    ],
)
def test_a_damaged_head(text):
    with pytest.raises(ValueError, match="damaged"):
        wire.unpack(text, BLOCK)


def test_damaged_arrays(rng):
    for _ in range(300):
        data = bytearray(BLOCK)
        data[rng.integers(len(data))] = rng.integers(256)
        data = data[: rng.integers(1, len(data) + 1)] if rng.random() < 0.5 else data
        try:
            _, arrays = wire.unpack(TEXT, bytes(data))
        except ValueError:
            continue
        assert arrays["x"].shape == (2, 3)


def test_pickles_are_not_read():
    huge = json.dumps({"__metadata__": {}, "x": {"dtype": "F64", "shape": [2**40], "data_offsets": [0, 48]}}).encode()
    with pytest.raises(ValueError, match="damaged"):
        wire.unpack(TEXT, struct.pack("<Q", len(huge)) + huge + bytes(48))
