"""Softmax and the layers."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from minikd.nn import embedding, gelu, layer_norm, linear
from minikd.oracle.subjects.case import Case, Draw, Inputs, Subject, sixteenths
from minikd.oracle.subjects.pure import attention, block, mlp, self_attention
from minikd.softmax import log_softmax, softmax

WEIGHT_SCALE = 0.5  # keeps a block's hidden states of the size of its inputs


def softmax_cases(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("basic", "three rows at T = 1", (), {"logits": sixteenths(rng, 3, 5)})
    yield Case("soft", "T = 2", ("temperature",), {"logits": sixteenths(rng, 2, 3, 5)}, {"temperature": 2.0})
    yield Case("sharp", "T = 0.25", ("temperature",), {"logits": sixteenths(rng, 4, 5)}, {"temperature": 0.25})
    extreme = sixteenths(rng, 4, 5) * 64
    extreme[:, 0] = 1000, -1000, 0, 0
    yield Case("extreme", "logits up to 1000 apart", ("extreme",), {"logits": extreme})
    shifts = np.array([[1000.0], [-1000.0]])
    yield Case("shift", "around 1000 and -1000", ("shift", "extreme"), {"logits": sixteenths(rng, 2, 5) + shifts})
    masked = sixteenths(rng, 3, 5)
    masked[0, 1] = masked[1, :4] = -np.inf
    yield Case("minus-infinity", "no entry, one or all but one are -inf", ("minus-infinity",), {"logits": masked})
    yield Case("one-class", "rows of one entry", ("one-class",), {"logits": sixteenths(rng, 3, 1)})
    yield Case("odd", "41 classes", ("odd-size",), {"logits": sixteenths(rng, 3, 41)})


def softmax_batch(rng: np.random.Generator) -> Case:
    inputs = {"logits": sixteenths(rng, 4, 32, 101)}
    return Case("batch", "4 x 32 tokens, 101 classes", ("temperature",), inputs, {"temperature": 2.0})


def linear_inputs(rng: np.random.Generator, *rows: int, channels: int = 3, n_out: int = 4) -> Inputs:
    return {
        "x": sixteenths(rng, *rows, channels),
        "weight": sixteenths(rng, channels, n_out),
        "bias": sixteenths(rng, n_out),
    }


def linear_cases(rng: np.random.Generator) -> Iterator[Case]:
    yield from sizes(rng, linear_inputs)
    yield Case(
        "square", "a square weight, which fits when it is transposed, too", (), linear_inputs(rng, 2, channels=4)
    )


def embedding_inputs(rng: np.random.Generator, *rows: int, channels: int = 3) -> Inputs:
    return {"ids": rng.integers(0, 5, size=rows), "table": sixteenths(rng, 5, channels)}


def embedding_cases(rng: np.random.Generator) -> Iterator[Case]:
    yield from sizes(rng, embedding_inputs)
    inputs = {"ids": np.array([3, 0, 3, 3, 1]), "table": sixteenths(rng, 5, 3)}
    yield Case("repeated", "one id three times, two ids never", ("repeated",), inputs)


def embedding_batch(rng: np.random.Generator) -> Case:
    inputs = {"ids": rng.integers(0, 97, size=(4, 32)), "table": sixteenths(rng, 97, 48)}
    return Case("batch", "4 x 32 tokens, 97 ids", ("repeated",), inputs)


def gelu_inputs(rng: np.random.Generator, *rows: int, channels: int = 3) -> Inputs:
    return {"x": sixteenths(rng, *rows, channels)}


def gelu_cases(rng: np.random.Generator) -> Iterator[Case]:
    yield from sizes(rng, gelu_inputs)
    far = {"x": np.array([[-1000.0, -15.0, 0.0, 15.0, 1000.0]])}
    yield Case("extreme", "where the gate is 0 or 1", ("extreme",), far)


def norm_inputs(rng: np.random.Generator, *rows: int, channels: int = 5) -> Inputs:
    return {
        "x": sixteenths(rng, *rows, channels),
        "gain": sixteenths(rng, channels),
        "bias": sixteenths(rng, channels),
    }


def layer_norm_cases(rng: np.random.Generator) -> Iterator[Case]:
    yield from sizes(rng, norm_inputs)
    yield Case("eps", "a large eps", ("parameter",), norm_inputs(rng, 3), {"eps": 0.5})
    inputs = norm_inputs(rng, 3)
    inputs["x"][1] = 2
    yield Case("constant", "a row of equal entries", ("constant",), inputs)
    inputs = norm_inputs(rng, 3)
    inputs["x"] += 1024
    yield Case("shift", "a mean of 1024, which the normalisation removes", ("shift",), inputs)


def attention_inputs(rng: np.random.Generator, b: int, h: int, t: int, d: int) -> Inputs:
    return {name: sixteenths(rng, b, h, t, d, scale=1.0) for name in ("q", "k", "v")}


def attention_cases(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("basic", "one head, four tokens", (), attention_inputs(rng, 1, 1, 4, 3))
    yield Case("heads", "two sequences of three heads", (), attention_inputs(rng, 2, 3, 4, 2))
    yield Case("square", "as many tokens as channels", (), attention_inputs(rng, 1, 2, 4, 4))
    yield Case("one-token", "a token that sees only itself", ("one-token",), attention_inputs(rng, 2, 2, 1, 3))
    extreme = {name: 128 * x for name, x in attention_inputs(rng, 1, 1, 4, 3).items()}
    extreme["q"][..., 0, :] = 128
    extreme["k"][..., 0, :], extreme["k"][..., -1, :] = -extreme["q"][..., 0, :], extreme["q"][..., 0, :]
    yield Case("extreme", "the first token's score of the hidden last one is by far the largest", ("extreme",), extreme)
    yield Case("odd", "7 tokens, 5 channels", ("odd-size",), attention_inputs(rng, 1, 3, 7, 5))


def attention_batch(rng: np.random.Generator) -> Case:
    return Case("batch", "4 sequences of 32 tokens, 4 heads", (), attention_inputs(rng, 4, 4, 32, 16))


def self_attention_inputs(rng: np.random.Generator, b: int, t: int, *, channels: int = 6) -> Inputs:
    c = channels
    return {
        "x": sixteenths(rng, b, t, c),
        "attn_weight": sixteenths(rng, c, 3 * c, scale=WEIGHT_SCALE),
        "attn_bias": sixteenths(rng, 3 * c, scale=WEIGHT_SCALE),
        "proj_weight": sixteenths(rng, c, c, scale=WEIGHT_SCALE),
        "proj_bias": sixteenths(rng, c, scale=WEIGHT_SCALE),
    }


def mlp_inputs(rng: np.random.Generator, *rows: int, channels: int = 3) -> Inputs:
    c, inner = channels, 4 * channels
    return {
        "x": sixteenths(rng, *rows, c),
        "fc_weight": sixteenths(rng, c, inner, scale=WEIGHT_SCALE),
        "fc_bias": sixteenths(rng, inner, scale=WEIGHT_SCALE),
        "proj_weight": sixteenths(rng, inner, c, scale=WEIGHT_SCALE),
        "proj_bias": sixteenths(rng, c, scale=WEIGHT_SCALE),
    }


def block_inputs(rng: np.random.Generator, b: int, t: int, *, channels: int = 6) -> Inputs:
    attn = self_attention_inputs(rng, b, t, channels=channels)
    feed = mlp_inputs(rng, b, t, channels=channels)
    ln_1, ln_2 = (norm_inputs(rng, b, t, channels=channels) for _ in range(2))
    return {
        "x": attn["x"],
        "ln_1_weight": ln_1["gain"],
        "ln_1_bias": ln_1["bias"],
        "attn_weight": attn["attn_weight"],
        "attn_bias": attn["attn_bias"],
        "attn_proj_weight": attn["proj_weight"],
        "attn_proj_bias": attn["proj_bias"],
        "ln_2_weight": ln_2["gain"],
        "ln_2_bias": ln_2["bias"],
        "fc_weight": feed["fc_weight"],
        "fc_bias": feed["fc_bias"],
        "mlp_proj_weight": feed["proj_weight"],
        "mlp_proj_bias": feed["proj_bias"],
    }


def sequence_cases(rng: np.random.Generator, *, draw: Draw) -> Iterator[Case]:
    """Cases of a layer in which tokens see each other."""
    yield Case("basic", "two sequences of four tokens, two heads", (), draw(rng, 2, 4), {"n_head": 2})
    yield Case("one-head", "one head", ("parameter",), draw(rng, 1, 5), {"n_head": 1})
    yield Case("one-token", "a token that sees only itself", ("one-token",), draw(rng, 2, 1), {"n_head": 3})
    yield Case("odd", "5 tokens, 3 heads of 3 channels", ("odd-size",), draw(rng, 1, 5, channels=9), {"n_head": 3})


def sequence_batch(rng: np.random.Generator, *, draw: Draw) -> Case:
    return Case("batch", "4 sequences of 32 tokens, 48 channels", (), draw(rng, 4, 32, channels=48), {"n_head": 4})


def sizes(rng: np.random.Generator, draw: Draw, *, odd: int = 41) -> Iterator[Case]:
    """Cases of a layer that looks at one row at a time."""
    yield Case("basic", "five rows", (), draw(rng, 5))
    yield Case("batch-axes", "rows along two axes", (), draw(rng, 2, 3))
    yield Case("one-token", "one row", ("one-token",), draw(rng, 1))
    yield Case("odd", f"{odd} channels", ("odd-size",), draw(rng, 3, channels=odd))


def rows_batch(rng: np.random.Generator, *, draw: Draw) -> Case:
    return Case("batch", "4 x 32 tokens of 48 channels", (), draw(rng, 4, 32, channels=48))


def _layer(
    function: Callable,
    wrt: tuple[str, ...],
    convention: str,
    draw: Callable[[np.random.Generator], Iterator[Case]],
    batch: Callable[[np.random.Generator], Case],
    returns: str = "y",
) -> Subject:
    return Subject(function.__name__, function, wrt, (returns,), convention, draw, batch)


def _parameters(draw: Draw) -> tuple[str, ...]:
    """The names of a layer's inputs, all of them differentiable."""
    return tuple(draw(np.random.default_rng(0), 1, 1))


LAYERS = (
    _layer(
        softmax, ("logits",), "p = exp(z / T) / sum(exp(z / T)) over the last axis", softmax_cases, softmax_batch, "p"
    ),
    _layer(
        log_softmax, ("logits",), "log softmax(z / T) in nats, over the last axis", softmax_cases, softmax_batch, "logp"
    ),
    _layer(
        linear,
        _parameters(linear_inputs),
        "y = x W + b with W stored (in, out)",
        linear_cases,
        partial(rows_batch, draw=linear_inputs),
    ),
    _layer(embedding, ("table",), "y = table[ids]; gradients of repeated ids add up", embedding_cases, embedding_batch),
    _layer(gelu, ("x",), "the tanh form, as in GPT-2", gelu_cases, partial(rows_batch, draw=gelu_inputs)),
    _layer(
        layer_norm,
        _parameters(norm_inputs),
        "the variance divides by C; eps is added to it under the root; y = normed * gain + bias",
        layer_norm_cases,
        partial(rows_batch, draw=norm_inputs),
    ),
    _layer(
        attention,
        ("q", "k", "v"),
        "scores divided by sqrt(D); token t sees the tokens 0 to t",
        attention_cases,
        attention_batch,
    ),
    _layer(
        self_attention,
        _parameters(self_attention_inputs),
        "queries, keys and values in this order, each head by head; scores divided by sqrt(C / n_head); causal",
        partial(sequence_cases, draw=self_attention_inputs),
        partial(sequence_batch, draw=self_attention_inputs),
    ),
    _layer(
        mlp,
        _parameters(mlp_inputs),
        "linear, gelu in the tanh form, linear",
        partial(sizes, draw=mlp_inputs, odd=13),
        partial(rows_batch, draw=mlp_inputs),
    ),
    _layer(
        block,
        _parameters(block_inputs),
        "pre-norm; eps of the norms is 1e-5; causal; gelu in the tanh form; no dropout",
        partial(sequence_cases, draw=block_inputs),
        partial(sequence_batch, draw=block_inputs),
    ),
)
