import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from minikd import tensor_file
from minikd.errors import UserError
from minikd.tensor_file import open_tensors, write_tensors


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.safetensors"


def write_raw(path, header, data=b"", *, n_header=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if n_header is None else n_header).to_bytes(8, "little") + text + data)


def layouts(rng):
    x = rng.normal(size=(7, 5)).astype(np.float32)
    return {
        "plain": x,
        "transposed": x.T,
        "strided": x[::2, 1::3],
        "reversed": x[::-1, ::-1],
        "broadcast": np.broadcast_to(x[0], (3, 5)),
        "scalar": np.array(3.5),
        "empty": np.zeros((0, 3), dtype=np.float16),
        "half": x.astype(np.float16),
        "double": rng.normal(size=(2, 3, 4)),
        "special": np.array([np.nan, -np.inf, -0.0, 5e-324]),
        "ids": np.arange(-3, 3),
        "bytes": np.arange(256, dtype=np.uint8),
        "mask": x > 0,
    }


def assert_same(found, wanted):
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    assert found.tobytes() == wanted.tobytes()


def refusal(path):
    """What is said of a file that cannot be opened, or one of whose tensors cannot be read."""
    with pytest.raises(UserError) as caught:
        for tensor in open_tensors(path).values():
            tensor.read()
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < len(str(path)) + 500
    return message


def test_arrays_of_every_layout_come_back_bit_for_bit(path, rng):
    arrays = layouts(rng)
    write_tensors(path, arrays)
    read = open_tensors(path)
    assert read.keys() == load_file(path).keys() == arrays.keys()
    for name, x in arrays.items():
        assert_same(read[name].read(), x)
        assert_same(load_file(path)[name], x)
        assert read[name].shape == x.shape
        read[name].read()[...] = 0  # an array of its own
    assert (read["half"].dtype, read["plain"].dtype) == ("F16", "F32")


def test_whoever_may_read_the_folder_may_read_the_file(path):
    path.parent.chmod(0o755)
    write_tensors(path, {"x": np.zeros(3)})
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.torch
def test_bfloat16(path):
    torch, library = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).reshape(256, 256)
    library.save_file({"every": every, "half": every[0].half()}, path)
    read = open_tensors(path)
    assert {name: tensor.dtype for name, tensor in read.items()} == {"every": "BF16", "half": "F16"}
    np.testing.assert_array_equal(read["every"].read(), every.float().numpy(), strict=True)
    np.testing.assert_array_equal(read["half"].read(), every[0].half().numpy(), strict=True)


def test_bfloat16_by_hand(path):
    # sign, 8 bits of exponent, 7 of fraction: 0x3FC0 is 1.5, 0xC000 is -2, 0x7F80 is infinity
    write_raw(path, {"x": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}, b"\xc0\x3f\x00\xc0\x80\x7f")
    assert open_tensors(path)["x"].read().tolist() == [1.5, -2.0, np.inf]


@pytest.mark.parametrize("x", [np.zeros(2, dtype=np.complex128), np.array(["text"]), np.array([None])])
def test_dtypes_that_the_format_lacks(path, x):
    with pytest.raises(UserError, match=r"x\.safetensors: cannot be written: .*(complex128|str|object)"):
        write_tensors(path, {"x": x})
    assert os.listdir(path.parent) == []


def test_no_folder_to_write_to(tmp_path):
    with pytest.raises(UserError, match=r"none/x: cannot be written: .*No such file or directory"):
        write_tensors(tmp_path / "none" / "x", {"x": np.zeros(3)})


def test_a_disk_that_forgets_is_noticed(path, monkeypatch):
    def forgetful(arrays, path, **options):
        save_file({name: x + 0.0 for name, x in arrays.items()}, path, **options)  # -0.0 + 0.0 is 0.0

    monkeypatch.setattr(tensor_file, "save_file", forgetful)
    write_tensors(path, {"x": np.array([0.0, np.nan])})
    with pytest.raises(UserError, match="'x' reads back otherwise than it was written"):
        write_tensors(path, {"x": np.array([0.0, -0.0])})


def test_every_truncation_is_seen(path, rng):
    write_tensors(path, {"a": rng.normal(size=(3, 2)), "b": rng.normal(size=4)})
    data = path.read_bytes()
    for n in range(len(data)):
        path.write_bytes(data[:n])
        message = refusal(path)
        assert "truncated, damaged or not safetensors" in message and f": {n} bytes, " in message
    path.write_bytes(data + b"\0")
    assert "truncated, damaged or not safetensors" in refusal(path)


def test_flipped_bits_of_a_header_are_told_or_harmless(path, rng):
    write_tensors(path, {"a": rng.normal(size=(3, 2)), "b": rng.normal(size=4)})
    data = path.read_bytes()
    told = 0
    for bit in range(0, 8 * (len(data) - 80), 5):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            for tensor in open_tensors(path).values():
                tensor.read()
        except UserError as error:
            told += 1
            assert str(path) in str(error) and "\n" not in str(error)
    assert told > 150


@pytest.mark.parametrize(
    "fields",
    [
        3,
        {"dtype": "F32", "shape": [1]},
        {"dtype": "F32", "shape": [1], "data_offsets": 4},
        {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]},
        {"dtype": "F32\n" * 999, "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [0], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]},
        {"dtype": "BF16", "shape": [2**41], "data_offsets": [0, 2**42]},
        {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 2**82]},
        {"dtype": "F32", "shape": [0, 2**40, 2**40], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [1] * 99, "data_offsets": [0, 4]},
        {"dtype": "BF16", "shape": [1] * 98 + [2], "data_offsets": [0, 4]},
    ],
)
def test_headers_that_are_wrong(path, fields):
    empty = isinstance(fields, dict) and fields["shape"] == [0, 2**62]
    write_raw(path, {"x": fields}, bytes(0 if empty else 4))
    message = refusal(path)
    assert "truncated, damaged or not safetensors" in message or "'x' is no array that NumPy can hold" in message


def test_overlapping_tensors(path):
    entry = {"dtype": "F32", "shape": [2]}
    write_raw(path, {"a": entry | {"data_offsets": [0, 8]}, "b": entry | {"data_offsets": [4, 12]}}, bytes(12))
    assert "truncated, damaged or not safetensors" in refusal(path)


@pytest.mark.parametrize(
    "header, n_header",
    [(b"{}", 2**63), (b"{}", 2**42), (b"{}", 3), (b"{]", None), (b"\x80\x02}q\x00.", None), (b"[" * 99_999, None)],
)
def test_headers_that_are_none(path, header, n_header):
    write_raw(path, header, n_header=n_header)
    assert "truncated, damaged or not safetensors" in refusal(path)


def test_no_file(tmp_path):
    assert refusal(tmp_path / "none").endswith("none: cannot be read: No such file or directory")
    assert refusal(tmp_path).endswith("cannot be read: Is a directory")
