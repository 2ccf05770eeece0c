"""Model folders: what `transformers` reads and writes, so that a model trained here runs there and the reverse.

A folder holds `config.json`, `generation_config.json`, `model.safetensors` and the tokenizer's two files; those
written here also hold `SHA256SUMS`. Published GPT-2 folders, of today or of 2019, load as they are.
"""

import json
import math
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minikd.atomic import atomic_folder
from minikd.errors import UserError
from minikd.models.config import GPT2Config
from minikd.models.parameters import Parameters
from minikd.reading import SUMS, read_json_object, reading, verify_sums, write_sums
from minikd.tensor_file import StoredTensor, open_tensors, write_tensors
from minikd.text.tokenizer import Tokenizer

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = ("F64", "F32", "F16", "BF16")
SIZES = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
# what a published config.json means when it does not say
DEFAULTS: dict[str, Any] = {
    "n_inner": None,
    "embd_pdrop": 0.1,
    "attn_pdrop": 0.1,
    "resid_pdrop": 0.1,
    "layer_norm_epsilon": 1e-5,
    "initializer_range": 0.02,
}
# fields that change the arithmetic, and the values under which it is the one written here
ARITHMETIC: dict[str, tuple[Any, ...]] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}
CAUSAL_MASK = re.compile(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)")  # buffers of old checkpoints


def save_model(folder: str | os.PathLike[str], config: GPT2Config, params: Parameters, tokenizer: Tokenizer) -> None:
    """Write a model folder that `load_model` and `transformers.AutoModelForCausalLM` read, whole or not at all.

    The weights keep their dtype. A folder already there is replaced if it is a model folder. Raises ValueError when
    `params` are not those of `config`, UserError when the folder cannot be written or does not read back.
    """
    if params.shapes != config.shapes:
        raise ValueError("params have other names or shapes than config.shapes")
    with atomic_folder(folder) as new:
        for name, fields in _config_files(config, params.flat.dtype, tokenizer).items():
            (new / name).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
        write_tensors(new / WEIGHTS, params)
        tokenizer.save(new)
        write_sums(new)
        _load_parameters(new, load_config(new), params.flat.dtype)  # what would not load is not saved


def load_model(folder: str | os.PathLike[str], *, dtype: Any = np.float32) -> tuple[GPT2Config, Parameters, Tokenizer]:
    """Read a GPT-2 folder, written here or published; the weights become `dtype`, in the host's memory.

    Raises UserError, which names the file, what was found and what is wanted, when any of it is missing, damaged,
    or of another architecture.
    """
    folder = Path(folder)
    with reading(folder):
        if not folder.is_dir():
            found = "a file" if folder.exists() else "no such folder"
            raise UserError(f"{folder}: {found}; wanted a model folder (config.json, {WEIGHTS}, tokenizer.json)")
        if (folder / "model" / "config.json").exists():
            raise UserError(f"{folder}: the folder of a run; wanted its model, {folder / 'model'}")
        if (folder / SUMS).exists():
            verify_sums(folder, required=("config.json", WEIGHTS, "tokenizer.json"))
    config = load_config(folder)
    params = _load_parameters(folder, config, dtype)
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{folder}: tokenizer.json has {tokenizer.vocab_size} tokens, but config.json says vocab_size "
            f"{config.vocab_size}; wanted a row of the embedding for every token"
        )
    return config, params, tokenizer


def load_config(folder: str | os.PathLike[str]) -> GPT2Config:
    """Read the config.json of a GPT-2 folder; UserError when it is none, or one of another architecture."""
    path = Path(folder) / "config.json"
    fields = read_json_object(path)
    if fields.get("model_type") != "gpt2":
        raise UserError(f"{path}: another architecture: model_type is {fields.get('model_type')!r}; wanted 'gpt2'")
    for name, legal in ARITHMETIC.items():
        if name in fields and fields[name] not in legal:
            raise UserError(f"{path}: another architecture: {name} is {fields[name]!r}; wanted {legal[0]!r}")
    missing = [name for name in SIZES if name not in fields]
    if missing:
        raise UserError(f"{path}: {missing[0]} is missing; wanted a whole number of at least 1")
    rates = {name: fields.get(name, default) for name, default in DEFAULTS.items()}
    for name, value in rates.items():
        if name != "n_inner" and not (type(value) in (int, float) and abs(value) <= sys.float_info.max):
            raise UserError(f"{path}: {name} is {value!r}; wanted a number")
    try:
        return GPT2Config(**{name: fields[name] for name in SIZES}, **rates)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _config_files(config: GPT2Config, dtype: Any, tokenizer: Tokenizer) -> dict[str, dict[str, Any]]:
    end_of_text = tokenizer.eos_id
    ids = {"bos_token_id": end_of_text, "eos_token_id": end_of_text}
    sizes = {name: getattr(config, name) for name in (*SIZES, *DEFAULTS)}
    arithmetic = {name: legal[0] for name, legal in ARITHMETIC.items()}
    dtypes = {"dtype": str(dtype), "torch_dtype": str(dtype)}  # `transformers` called it torch_dtype until 4.56
    kind = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
    return {
        "config.json": kind | sizes | arithmetic | ids | dtypes,
        "generation_config.json": ids | {"pad_token_id": end_of_text},
    }


def _load_parameters(folder: Path, config: GPT2Config, dtype: Any) -> Parameters:
    tensors = _find_tensors(folder)
    _check_blocks(folder, tensors, config)
    shapes = config.shapes
    _check_names(folder, tensors, shapes)
    for name, shape in shapes.items():
        _check_tensor(tensors[name], shape)
    head, embedding = tensors.get("lm_head.weight"), tensors["transformer.wte.weight"]
    if head is not None and not np.array_equal(head.read(), embedding.read()):
        raise UserError(
            f"{head.path}: another architecture: {head.name!r} differs from {embedding.name!r}; "
            "wanted an output weight tied to the embedding"
        )
    params = Parameters(shapes, np.empty(sum(map(math.prod, shapes.values())), dtype=dtype))
    for name, value in params.items():
        with np.errstate(over="ignore"):
            value[...] = tensors[name].read()
        bad = value.size - np.count_nonzero(np.isfinite(value))
        if bad:
            raise UserError(
                f"{tensors[name].path}: {tensors[name].name!r} has {bad} of {value.size} numbers that are NaN or "
                f"infinite as {value.dtype}; wanted finite weights"
            )
    return params


def _find_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor by its full name: published files leave out `transformer.`, old ones carry causal masks."""
    tensors: dict[str, StoredTensor] = {}
    for path in _weight_files(folder):
        for name, tensor in open_tensors(path).items():
            if CAUSAL_MASK.fullmatch(name):
                continue
            full_name = name if name.startswith(("transformer.", "lm_head.")) else "transformer." + name
            if full_name in tensors:
                raise UserError(f"{path}: {name!r} is in {folder} twice; wanted every tensor once")
            tensors[full_name] = tensor
    return tensors


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if not (folder / INDEX).exists():
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        hint = f"; {pickled[0]} is a pickle, which could run anything: convert it first" if pickled else ""
        raise UserError(f"{folder}: there is no {WEIGHTS}{hint}")
    shards = read_json_object(folder / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise UserError(f"{folder / INDEX}: weight_map is not a mapping from tensors to files")
    outside = [name for name in shards.values() if not name or re.search(r"[/\\\0]", name)]
    if outside:
        raise UserError(f"{folder / INDEX}: names the file {outside[0]!r}; wanted files of this folder")
    return [folder / name for name in sorted(set(shards.values()))]


def _check_blocks(folder: Path, tensors: Mapping[str, StoredTensor], config: GPT2Config) -> None:
    blocks = {match[1] for name in tensors if (match := re.match(r"transformer\.h\.(\d+)\.", name))}
    if len(blocks) != config.n_layer:
        raise UserError(f"{folder}: config.json says n_layer {config.n_layer}; its weights have {len(blocks)} blocks")


def _check_names(folder: Path, tensors: Mapping[str, StoredTensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    missing = [name for name in shapes if name not in tensors]
    extra = [tensor.name for name, tensor in tensors.items() if name not in shapes and name != "lm_head.weight"]
    for state, names in (("missing", missing), ("extra", extra)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(f"{folder}: the weights have {state} tensors: {names[0]!r}{more}; wanted those of a GPT-2")


def _check_tensor(tensor: StoredTensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise UserError(f"{tensor.path}: {tensor.name!r} has shape {tensor.shape}; config.json wants {shape}")
    if tensor.dtype not in FLOATS:
        raise UserError(f"{tensor.path}: {tensor.name!r} has dtype {tensor.dtype}; wanted {', '.join(FLOATS)}")
