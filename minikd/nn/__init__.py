"""The layers, one idea a file, each with its handwritten backward: `y, vjp = f(...)`."""

from minikd.nn.activation import gelu
from minikd.nn.attention import KeyValueCache, attend, merge_heads, self_attention, split_heads
from minikd.nn.dropout import dropout
from minikd.nn.embedding import embedding
from minikd.nn.linear import linear
from minikd.nn.norm import layer_norm

__all__ = [
    "KeyValueCache",
    "attend",
    "dropout",
    "embedding",
    "gelu",
    "layer_norm",
    "linear",
    "merge_heads",
    "self_attention",
    "split_heads",
]
