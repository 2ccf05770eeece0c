"""GPT-2: a pre-norm decoder-only transformer with tied embeddings."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from minikd.backend import Array, get_array_module
from minikd.models.config import GPT2Config
from minikd.models.parameters import Parameters
from minikd.nn import KeyValueCache, dropout, embedding, gelu, layer_norm, linear, self_attention


def init_gpt2(config: GPT2Config, rng: np.random.Generator, *, dtype: Any = np.float32, xp: Any = np) -> Parameters:
    """GPT-2's initial weights, drawn on the host: the same on every device.

    Matrices and embeddings are normal with standard deviation `initializer_range`, those that end a residual branch
    (`c_proj`) smaller by sqrt(2 n_layer), the number of branches that add up; gains 1, biases 0. Radford et al. 2019.
    """
    params = Parameters.zeros(config.shapes, dtype=dtype)
    for name, value in params.items():
        if value.ndim == 2:
            std = config.initializer_range
            if name.endswith("c_proj.weight"):
                std /= math.sqrt(2 * config.n_layer)
            value[...] = rng.normal(scale=std, size=value.shape)
        elif name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight")):
            value[...] = 1
    return params.with_flat(xp.asarray(params.flat))


def mlp(x: Array, p: Mapping[str, Array]) -> tuple[Array, Callable]:
    """The feed-forward half of a block: C -> inner -> C.

    x (B, T, C) -> y (B, T, C); vjp(dy) -> dx, dp.
    """
    h, vjp_fc = linear(x, p["c_fc.weight"], p["c_fc.bias"])
    h, vjp_gelu = gelu(h)
    y, vjp_proj = linear(h, p["c_proj.weight"], p["c_proj.bias"])

    def vjp(dy: Array) -> tuple[Array, dict[str, Array]]:
        dh, dw_proj, db_proj = vjp_proj(dy)
        dx, dw_fc, db_fc = vjp_fc(vjp_gelu(dh))
        return dx, {"c_fc.weight": dw_fc, "c_fc.bias": db_fc, "c_proj.weight": dw_proj, "c_proj.bias": db_proj}

    return y, vjp


def block(
    x: Array,
    p: Mapping[str, Mapping[str, Array]],
    bias: Array | None,
    config: GPT2Config,
    *,
    cache: KeyValueCache | None = None,
    rng: np.random.Generator | None = None,
) -> tuple[Array, Callable]:
    """x + attention(norm(x)), then the same with the feed-forward half.

    x (B, T, C) -> y (B, T, C); vjp(dy) -> dx, dp with dp nested like `p` (`ln_1`, `attn`, `ln_2`, `mlp`).
    """
    eps, pdrop = config.layer_norm_epsilon, config.resid_pdrop
    a, vjp_ln1 = layer_norm(x, p["ln_1"]["weight"], p["ln_1"]["bias"], eps=eps)
    a, vjp_attn = self_attention(a, p["attn"], bias, config.n_head, cache=cache, pdrop=config.attn_pdrop, rng=rng)
    a, vjp_drop1 = dropout(a, pdrop, rng)
    mid = x + a
    m, vjp_ln2 = layer_norm(mid, p["ln_2"]["weight"], p["ln_2"]["bias"], eps=eps)
    m, vjp_mlp = mlp(m, p["mlp"])
    m, vjp_drop2 = dropout(m, pdrop, rng)

    def vjp(dy: Array) -> tuple[Array, dict[str, dict[str, Array]]]:
        dm, dp_mlp = vjp_mlp(vjp_drop2(dy))
        dmid, dw_ln2, db_ln2 = vjp_ln2(dm)
        dmid += dy
        da, dp_attn = vjp_attn(vjp_drop1(dmid))
        dx, dw_ln1, db_ln1 = vjp_ln1(da)
        dx += dmid
        return dx, {
            "ln_1": {"weight": dw_ln1, "bias": db_ln1},
            "attn": dp_attn,
            "ln_2": {"weight": dw_ln2, "bias": db_ln2},
            "mlp": dp_mlp,
        }

    return mid + m, vjp


@dataclass(frozen=True)
class GPT2:
    """A GPT-2 and its weights: `logits, vjp = model(tokens)`."""

    config: GPT2Config
    params: Parameters

    def __call__(self, tokens: Array, *, rng: np.random.Generator | None = None) -> tuple[Array, Callable]:
        """Logits of the next token at every position.

        tokens (B, T) -> logits (B, T, V); vjp(dlogits) -> gradient of every parameter, a `Parameters`.
        With `rng`, dropout is on.
        """
        (hidden, head), vjp_trunk = self.trunk(tokens, rng=rng)
        rows = hidden.reshape(-1, hidden.shape[-1])
        logits = rows @ head.T

        def vjp(dlogits: Array) -> Parameters:
            dlogits_rows = dlogits.reshape(logits.shape)
            return vjp_trunk((dlogits_rows @ head).reshape(hidden.shape), dlogits_rows.T @ rows)

        return logits.reshape(*tokens.shape, head.shape[0]), vjp

    def predict(self, tokens: Array) -> Array:
        """The logits alone, without a pullback: tokens (B, T) -> logits (B, T, V)."""
        hidden, head = self.read(tokens)
        return (hidden.reshape(-1, hidden.shape[-1]) @ head.T).reshape(*tokens.shape, head.shape[0])

    def trunk(self, tokens: Array, *, rng: np.random.Generator | None = None) -> tuple[tuple[Array, Array], Callable]:
        """All but the output projection: the last hidden states and the projection's weight.

        tokens (B, T) -> (hidden (B, T, C), head (V, C)); vjp(dhidden, dhead) -> gradient of every parameter. The
        logits are hidden head^T, which `minikd.losses.linear` never holds all at once. The head is the embedding
        (tied), so both their gradients meet there.
        """
        config, params = self.config, self.params
        xp = get_array_module(params.flat)
        positions, bias = self._positions(tokens)
        x, vjp_embed = self._embed(tokens, positions)
        x, vjp_drop = dropout(x, config.embd_pdrop, rng)
        vjps = []
        for p in self._blocks:
            x, vjp_block = block(x, p, bias, config, rng=rng)
            vjps.append(vjp_block)
        hidden, vjp_ln_f = self._last_norm(x)

        def vjp(dhidden: Array, dhead: Array) -> Parameters:
            grads = params.empty_like()
            dx, dgain, dbias = vjp_ln_f(dhidden)
            grads["transformer.ln_f.weight"][...] = dgain
            grads["transformer.ln_f.bias"][...] = dbias
            for i in reversed(range(config.n_layer)):
                dx, dp = vjps[i](dx)
                for part, dparts in dp.items():
                    for name, value in dparts.items():
                        grads[f"transformer.h.{i}.{part}.{name}"][...] = value
            dwte, dwpe = vjp_embed(vjp_drop(dx))
            xp.add(dwte, dhead, out=grads["transformer.wte.weight"])
            grads["transformer.wpe.weight"][...] = dwpe
            return grads

        return (hidden, params["transformer.wte.weight"]), vjp

    def read(
        self,
        tokens: Array,
        *,
        caches: Sequence[KeyValueCache] | None = None,
        positions: Array | None = None,
        bias: Array | None = None,
    ) -> tuple[Array, Array]:
        """`trunk` without a pullback: nothing is kept, so the memory of one block of layers serves the next.

        tokens (B, T) -> hidden (B, T, C), head (V, C). For generation: one cache a layer, the tokens' positions (T,)
        or (B, T), and what each may see as `bias` (see `attend`).
        """
        if positions is None:
            positions, bias = self._positions(tokens)
        x, _ = self._embed(tokens, positions)
        for i, p in enumerate(self._blocks):
            x, _ = block(x, p, bias, self.config, cache=caches[i] if caches else None)
        return self._last_norm(x)[0], self.params["transformer.wte.weight"]

    def _positions(self, tokens: Array) -> tuple[Array, Array]:
        """The positions (T,) of whole sequences of tokens (B, T), and their causal bias."""
        t, n_positions, flat = tokens.shape[1], self.config.n_positions, self.params.flat
        if t > n_positions:
            raise ValueError(f"tokens are {t} long, but the model reads at most n_positions = {n_positions}")
        xp = get_array_module(flat)
        return xp.arange(t), causal_bias(t, xp, flat.dtype)

    def _embed(self, tokens: Array, positions: Array) -> tuple[Array, Callable]:
        """tokens (B, T) at positions (T,) -> x (B, T, C); vjp(dx) -> dwte, dwpe."""
        x, vjp_wte = embedding(tokens, self.params["transformer.wte.weight"])
        position, vjp_wpe = embedding(positions, self.params["transformer.wpe.weight"])
        x += position
        return x, lambda dx: (vjp_wte(dx), vjp_wpe(dx.sum(axis=0)))

    def _last_norm(self, x: Array) -> tuple[Array, Callable]:
        gain, shift = self.params["transformer.ln_f.weight"], self.params["transformer.ln_f.bias"]
        return layer_norm(x, gain, shift, eps=self.config.layer_norm_epsilon)

    @cached_property
    def _blocks(self) -> list[dict[str, dict[str, Array]]]:
        parts = ("ln_1", "attn", "ln_2", "mlp")
        n_layer = range(self.config.n_layer)
        return [{part: self.params.under(f"transformer.h.{i}.{part}.") for part in parts} for i in n_layer]


def causal_bias(t: int, xp: Any, dtype: Any) -> Array:
    """(T, T): 0 where a token looks back (or at itself), -inf where it would look ahead."""
    return xp.where(xp.tri(t, dtype=bool), dtype.type(0), dtype.type(-np.inf))
