"""What a GPT-2 is made of: the configuration, with the field names of the published config.json."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GPT2Config:
    """Sizes and rates of a GPT-2 (Radford et al. 2019); lengths in tokens, widths in channels.

    A ValueError names the field that cannot be.
    """

    vocab_size: int
    n_positions: int = 128
    """longest sequence the model can read, in tokens"""
    n_embd: int = 128
    """width of the residual stream"""
    n_layer: int = 4
    """number of blocks"""
    n_head: int = 4
    """attention heads a block; must divide n_embd"""
    n_inner: int | None = None
    """width of the feed-forward layer; 4 * n_embd if not given"""
    embd_pdrop: float = 0.0
    """dropout on the embeddings"""
    attn_pdrop: float = 0.0
    """dropout on the attention weights"""
    resid_pdrop: float = 0.0
    """dropout on what each half of a block adds to the residual stream"""
    layer_norm_epsilon: float = 1e-5
    """added to the variance under the root"""
    initializer_range: float = 0.02
    """standard deviation of the initial weights"""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner"):
            value = getattr(self, name)
            if value is None and name == "n_inner":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}; wanted a whole number of at least 1")
        for name in ("embd_pdrop", "attn_pdrop", "resid_pdrop"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; wanted a rate in [0, 1)")
        for name in ("layer_norm_epsilon", "initializer_range"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; wanted a number above 0")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_head is {self.n_head}, which does not divide n_embd, {self.n_embd}")

    @property
    def inner(self) -> int:
        """Width of the feed-forward layer."""
        return self.n_inner or 4 * self.n_embd

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor names and shapes of the published checkpoints; matrices are stored (in, out)."""
        c = self.n_embd
        shapes: dict[str, tuple[int, ...]] = {
            "transformer.wte.weight": (self.vocab_size, c),
            "transformer.wpe.weight": (self.n_positions, c),
        }
        for i in range(self.n_layer):
            block = f"transformer.h.{i}."
            shapes |= {
                block + "ln_1.weight": (c,),
                block + "ln_1.bias": (c,),
                block + "attn.c_attn.weight": (c, 3 * c),
                block + "attn.c_attn.bias": (3 * c,),
                block + "attn.c_proj.weight": (c, c),
                block + "attn.c_proj.bias": (c,),
                block + "ln_2.weight": (c,),
                block + "ln_2.bias": (c,),
                block + "mlp.c_fc.weight": (c, self.inner),
                block + "mlp.c_fc.bias": (self.inner,),
                block + "mlp.c_proj.weight": (self.inner, c),
                block + "mlp.c_proj.bias": (c,),
            }
        return shapes | {"transformer.ln_f.weight": (c,), "transformer.ln_f.bias": (c,)}
