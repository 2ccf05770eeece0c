import errno
import json
import os
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from minikd.errors import UserError
from minikd.model_folder import load_config, load_model, save_model
from minikd.models import GPT2, GPT2Config, Parameters
from minikd.reading import SUMS
from minikd.tensor_file import open_tensors, write_tensors
from minikd.text.tokenizer import Tokenizer

TEXT = "How vexingly quick daft zebras jump: 1234567890 times.\n\n\tNaïve café, \U0001f993!  " * 3
CONFIG = GPT2Config(vocab_size=280, n_positions=13, n_embd=12, n_layer=2, n_head=3, resid_pdrop=0.1)
PUBLISHED = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([TEXT], 272)


@pytest.fixture
def params(rng):
    return random_params(CONFIG, rng)


def random_params(config, rng, dtype=np.float32):
    size = Parameters.zeros(config.shapes).flat.size
    return Parameters(config.shapes, rng.normal(scale=0.3, size=size).astype(dtype))


@pytest.fixture
def folder(tmp_path, params, tokenizer):
    """A sound model folder of our own."""
    save_model(tmp_path / "model", CONFIG, params, tokenizer)
    return tmp_path / "model"


@pytest.fixture
def published(folder):
    """The same without checksums, as others publish theirs; `edit` and `rewrite` damage it."""
    (folder / SUMS).unlink()
    return folder


def edit(folder, **fields):
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "absent"}))


def rewrite(folder, change):
    """Write the weights anew after `change(tensors)`."""
    tensors = {name: tensor.read() for name, tensor in open_tensors(folder / "model.safetensors").items()}
    change(tensors)
    write_tensors(folder / "model.safetensors", tensors)


def refusal(folder, **options):
    with pytest.raises(UserError) as caught:
        load_model(folder, **options)
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    return message


def assert_bitwise(found, wanted):
    assert found.flat.dtype == wanted.flat.dtype and found.shapes == wanted.shapes
    assert found.flat.tobytes() == wanted.flat.tobytes()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_model_comes_back_bit_for_bit(tmp_path, rng, tokenizer, dtype):
    params = random_params(CONFIG, rng, dtype)
    save_model(tmp_path / "model", CONFIG, params, tokenizer)
    config, read, read_tokenizer = load_model(tmp_path / "model", dtype=dtype)
    assert config == CONFIG
    assert_bitwise(read, params)
    assert read_tokenizer.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()
    assert sorted(os.listdir(tmp_path / "model")) == sorted((*PUBLISHED, SUMS))
    assert load_model(tmp_path / "model")[1].flat.dtype == np.float32


def test_config_files_have_the_published_fields(folder, tokenizer):
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "gpt2" and config["architectures"] == ["GPT2LMHeadModel"]
    assert config["activation_function"] == "gelu_new" and config["tie_word_embeddings"] is True
    assert config["dtype"] == config["torch_dtype"] == "float32"
    assert {config["n_layer"], config["n_positions"], config["vocab_size"]} == {2, 13, 280}
    generation = json.loads((folder / "generation_config.json").read_text())
    assert config["eos_token_id"] == generation["eos_token_id"] == tokenizer.eos_id


def test_weights_on_another_device_are_fetched(tmp_path, params, tokenizer, folder):
    class OnDevice(np.ndarray):
        def __array_namespace__(self, **_):
            return SimpleNamespace(asnumpy=lambda x: x.view(np.ndarray))

    save_model(tmp_path / "other", CONFIG, params.with_flat(params.flat.view(OnDevice)), tokenizer)
    assert_bitwise(load_model(tmp_path / "other")[1], params)


def test_a_model_folder_is_replaced(folder, rng, tokenizer):
    config = replace(CONFIG, n_layer=1)
    params = random_params(config, rng)
    save_model(folder, config, params, tokenizer)
    assert load_model(folder)[0] == config
    assert_bitwise(load_model(folder)[1], params)
    assert os.listdir(folder.parent) == [folder.name]


def test_params_of_another_config_are_not_saved(tmp_path, params, tokenizer):
    with pytest.raises(ValueError, match="params have other names or shapes than config"):
        save_model(tmp_path / "model", replace(CONFIG, vocab_size=281), params, tokenizer)
    assert os.listdir(tmp_path) == []


def test_a_model_with_nan_is_not_saved_over_a_good_one(folder, params, tokenizer):
    bad = params.with_flat(params.flat.copy())
    bad["transformer.h.1.mlp.c_fc.bias"][[1, 3]] = np.nan, np.inf
    message = rf"{folder}/model\.safetensors: 'transformer\.h\.1\.mlp\.c_fc\.bias' has 2 of 48 numbers that are NaN"
    with pytest.raises(UserError, match=message):
        save_model(folder, CONFIG, bad, tokenizer)
    assert_bitwise(load_model(folder)[1], params)
    assert os.listdir(folder.parent) == [folder.name]


@pytest.mark.parametrize("call", ["fsync", "mkdir"])
def test_a_full_disk_leaves_the_old_model(folder, rng, params, tokenizer, monkeypatch, call):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(UserError, match=rf"^{folder}.*: cannot be written: No space left on device$"):
            save_model(folder, CONFIG, random_params(CONFIG, rng), tokenizer)
    assert_bitwise(load_model(folder)[1], params)
    assert os.listdir(folder.parent) == [folder.name]


# Published folders


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_transformers_gives_equal_logits(tmp_path, rng, tokenizer, dtype):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    params = random_params(CONFIG, rng, dtype)
    save_model(tmp_path / "model", CONFIG, params, tokenizer)
    reference, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(info.values()), info
    weights = dict(reference.named_parameters())
    assert weights.keys() == params.keys()
    for name, weight in weights.items():
        np.testing.assert_array_equal(weight.detach().numpy(), params[name], strict=True)
    tokens = rng.integers(CONFIG.vocab_size, size=(3, CONFIG.n_positions))
    with torch.no_grad():
        expected = reference.eval()(torch.from_numpy(tokens)).logits.numpy()
    logits, _ = GPT2(CONFIG, params)(tokens)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 if dtype == "float32" else 1e-12)
    assert reference.generation_config.eos_token_id == tokenizer.eos_id
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert auto(TEXT)["input_ids"] == tokenizer.encode(TEXT).tolist()


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shards", [False, True])
def test_folders_that_transformers_writes_load(tmp_path, rng, tokenizer, dtype, shards):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    sizes = {"vocab_size": 280, "n_positions": 9, "n_embd": 12, "n_layer": 2, "n_head": 3, "n_inner": 20}
    with torch.random.fork_rng():
        torch.manual_seed(int(rng.integers(2**31)))
        reference = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    reference.to(getattr(torch, dtype)).save_pretrained(tmp_path, max_shard_size="10kB" if shards else "1GB")
    assert (tmp_path / "model.safetensors.index.json").exists() == shards
    tokenizer.save(tmp_path)
    config, params, _ = load_model(tmp_path, dtype=np.float64)
    assert config == GPT2Config(**sizes, embd_pdrop=0.1, attn_pdrop=0.1, resid_pdrop=0.1)
    for name, weight in reference.named_parameters():
        np.testing.assert_array_equal(params[name], weight.detach().double().numpy())


def test_the_names_of_2019(published, params):
    """Without `transformer.`, with causal masks as buffers, and with the tied output weight written out."""

    def as_of_2019(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        for block in range(CONFIG.n_layer):
            tensors[f"h.{block}.attn.bias"] = np.tri(13, dtype=np.uint8 if block else np.float32)[None, None]
            tensors[f"h.{block}.attn.masked_bias"] = np.array(-1e4)
        tensors["lm_head.weight"] = tensors["wte.weight"]

    rewrite(published, as_of_2019)
    edit(published, n_ctx=13, n_inner="absent", resid_pdrop="absent", tie_word_embeddings="absent", dtype="absent")
    (published / "generation_config.json").unlink()
    config, read, _ = load_model(published)
    assert config == CONFIG
    assert_bitwise(read, params)


def test_an_embedding_larger_than_the_tokenizer_is_no_mistake(folder, tokenizer):
    assert tokenizer.vocab_size == 272
    assert load_model(folder)[0].vocab_size == 280


# Broken folders


def test_no_folder(tmp_path):
    assert "none: no such folder; wanted a model folder" in refusal(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    assert "file: a file; wanted a model folder" in refusal(tmp_path / "file")
    assert "cannot be read: File name too long" in refusal(tmp_path / ("x" * 5000))


@pytest.mark.parametrize("checksums", [True, False])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_file_is_missing(folder, name, checksums):
    (folder / name).unlink()
    if not checksums:
        (folder / SUMS).unlink()
    assert name in refusal(folder)


def test_a_pickle_is_not_touched(published):
    (published / "model.safetensors").rename(published / "pytorch_model.bin")
    assert "there is no model.safetensors; pytorch_model.bin is a pickle" in refusal(published)


def test_flipped_bits_are_seen(folder, rng):
    for name in os.listdir(folder):
        data = (folder / name).read_bytes()
        for bit in rng.integers(8 * len(data), size=5):
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            (folder / name).write_bytes(flipped)
            refusal(folder)
        (folder / name).write_bytes(data)
    load_model(folder)


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("checksums", [True, False])
def test_truncated_weights(folder, share, checksums):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    if not checksums:
        (folder / SUMS).unlink()
    assert f"{path}: {'damaged' if checksums else 'truncated'}" in refusal(folder)


@pytest.mark.parametrize(
    "fields, complaint",
    [
        ({"model_type": "llama"}, "another architecture: model_type is 'llama'; wanted 'gpt2'"),
        ({"model_type": "absent"}, "another architecture: model_type is None; wanted 'gpt2'"),
        ({"activation_function": "relu"}, "another architecture: activation_function is 'relu'; wanted 'gelu_new'"),
        ({"tie_word_embeddings": False}, "another architecture: tie_word_embeddings is False; wanted True"),
        ({"scale_attn_weights": False}, "another architecture: scale_attn_weights is False; wanted True"),
        ({"scale_attn_by_inverse_layer_idx": True}, "another architecture: scale_attn_by_inverse_layer_idx is True"),
        ({"add_cross_attention": True}, "another architecture: add_cross_attention is True; wanted False"),
        ({"n_embd": "absent"}, "n_embd is missing; wanted a whole number of at least 1"),
        ({"n_layer": "2"}, "n_layer is '2'; wanted a whole number"),
        ({"n_layer": 2.0}, "n_layer is 2.0; wanted a whole number"),
        ({"n_head": True}, "n_head is True; wanted a whole number"),
        ({"n_head": 5}, "n_head is 5, which does not divide n_embd, 12"),
        ({"n_inner": []}, "n_inner is []; wanted a whole number"),
        ({"vocab_size": -1}, "vocab_size is -1; wanted a whole number"),
        ({"resid_pdrop": "0.1"}, "resid_pdrop is '0.1'; wanted a number"),
        ({"resid_pdrop": 1.5}, "resid_pdrop is 1.5; wanted a rate"),
        ({"layer_norm_epsilon": None}, "layer_norm_epsilon is None; wanted a number"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon is nan; wanted a number"),
        ({"layer_norm_epsilon": 10**400}, "layer_norm_epsilon is 1000"),
        ({"embd_pdrop": -(10**400)}, "embd_pdrop is -1000"),
    ],
)
def test_config_that_cannot_be(published, fields, complaint):
    edit(published, **fields)
    message = refusal(published)
    assert message.startswith(f"{published}/config.json: ") and complaint in message
    with pytest.raises(UserError):
        load_config(published)


def test_settings_that_change_only_how_it_is_computed(published):
    edit(published, reorder_and_upcast_attn=True, activation_function="gelu_pytorch_tanh", use_cache=False)
    assert load_model(published)[0] == CONFIG


@pytest.mark.parametrize(
    "fields, complaint",
    [
        ({"n_layer": 3}, "config.json says n_layer 3; its weights have 2 blocks"),
        ({"n_layer": 10**12}, "config.json says n_layer 1000000000000; its weights have 2 blocks"),
        ({"n_embd": 24}, "'transformer.wte.weight' has shape (280, 12); config.json wants (280, 24)"),
        ({"vocab_size": 10**15}, "has shape (280, 12); config.json wants (1000000000000000, 12)"),
        ({"n_inner": 47}, "c_fc.weight' has shape (12, 48); config.json wants (12, 47)"),
    ],
)
def test_config_of_other_weights(published, fields, complaint):
    edit(published, **fields)
    assert complaint in refusal(published)


def test_config_that_is_no_json(published):
    (published / "config.json").write_text("{'model_type': 'gpt2'}")
    assert "config.json: not JSON" in refusal(published)


def put(name, value):
    def change(tensors):
        tensors[name] = value(tensors.get(name)) if callable(value) else value

    return change


@pytest.mark.parametrize(
    "change, complaint",
    [
        (lambda t: t.pop("transformer.ln_f.bias"), "missing tensors: 'transformer.ln_f.bias'; wanted those of a GPT-2"),
        (lambda t: [t.pop(name) for name in list(t) if ".h.1.mlp." in name], "c_fc.weight' and 3 more; wanted those"),
        (put("score.weight", np.zeros(3)), "extra tensors: 'score.weight'; wanted those of a GPT-2"),
        (put("transformer.wte.weight", lambda x: x.T), "'transformer.wte.weight' has shape (12, 280)"),
        (put("transformer.ln_f.bias", lambda x: x.astype(np.int32)), "has dtype I32; wanted F64, F32, F16, BF16"),
        (put("ln_f.bias", np.zeros(12)), "ln_f.bias' is in "),
        (put("lm_head.weight", np.zeros((280, 12))), "another architecture: 'lm_head.weight' differs from"),
        (put("transformer.ln_f.bias", lambda x: x * np.nan), "has 12 of 12 numbers that are NaN or infinite"),
        (put("transformer.ln_f.bias", lambda x: np.full(12, 1e39)), "NaN or infinite as float32"),
    ],
)
def test_weights_that_cannot_be(published, change, complaint):
    rewrite(published, change)
    assert complaint in refusal(published)


def test_a_header_that_claims_terabytes(published):
    entry = {"dtype": "F64", "shape": [2**40], "data_offsets": [0, 2**43]}
    header = json.dumps({"transformer.wte.weight": entry}).encode()
    (published / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    assert "model.safetensors: truncated, damaged or not safetensors" in refusal(published)


@pytest.mark.parametrize(
    "index, complaint",
    [
        ({}, "weight_map is not a mapping from tensors to files"),
        ({"weight_map": {"a": 3}}, "weight_map is not a mapping from tensors to files"),
        ({"weight_map": {"a": "../model.safetensors"}}, "names the file '../model.safetensors'; wanted files of this"),
        ({"weight_map": {"a": "model-2.safetensors"}}, "model-2.safetensors: cannot be read: No such file"),
        ({"weight_map": {"a": ".."}}, "cannot be read: Is a directory"),
        ({"weight_map": {}}, "config.json says n_layer 2; its weights have 0 blocks"),
    ],
)
def test_an_index_that_cannot_be(published, index, complaint):
    (published / "model.safetensors").unlink()
    (published / "model.safetensors.index.json").write_text(json.dumps(index))
    assert complaint in refusal(published)


def test_a_tokenizer_larger_than_the_embedding(published):
    Tokenizer.train([TEXT], 281).save(published)
    assert "tokenizer.json has 281 tokens, but config.json says vocab_size 280" in refusal(published)


def test_a_tokenizer_that_is_none(published):
    (published / "tokenizer.json").write_text('{"version": "1.0"}')
    assert "tokenizer.json" in refusal(published)


def test_files_beside_the_model_do_no_harm(folder):
    (folder / "README.md").write_text("mine")
    load_model(folder)
    shutil.copytree(folder, folder.parent / "copy")
    load_model(folder.parent / "copy")
