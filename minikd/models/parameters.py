"""Named arrays that share one contiguous buffer."""

import math
from collections.abc import Iterator, Mapping

import numpy as np

from minikd.backend import Array, get_array_module

Shapes = Mapping[str, tuple[int, ...]]


class Parameters(Mapping[str, Array]):
    """A mapping from name to array; every array is a view into `flat`, in the order of `shapes`.

    Whatever acts on all parameters alike (clipping, AdamW, saving) is one pass over `flat` (N,).
    """

    def __init__(self, shapes: Shapes, flat: Array):
        sizes = [math.prod(shape) for shape in shapes.values()]
        if flat.shape != (sum(sizes),):
            raise ValueError(f"flat has shape {flat.shape}, but the parameters need ({sum(sizes)},)")
        self.shapes = dict(shapes)
        self.flat = flat
        ends = np.cumsum(sizes).tolist()
        self._views = {
            name: flat[end - size : end].reshape(shape)
            for (name, shape), size, end in zip(shapes.items(), sizes, ends, strict=True)
        }

    @classmethod
    def zeros(cls, shapes: Shapes, *, dtype: object = np.float32, xp: object = np) -> "Parameters":
        """Parameters of the given shapes, all zero, in the array module `xp`."""
        size = sum(math.prod(shape) for shape in shapes.values())
        return cls(shapes, xp.zeros(size, dtype=dtype))  # type: ignore[attr-defined]

    def with_flat(self, flat: Array) -> "Parameters":
        """The same names and shapes over another buffer (a gradient, a moment, a copy on another device)."""
        return Parameters(self.shapes, flat)

    def empty_like(self) -> "Parameters":
        """The same names and shapes over a new, uninitialised buffer."""
        return self.with_flat(get_array_module(self.flat).empty_like(self.flat))

    def under(self, prefix: str) -> dict[str, Array]:
        """The views whose name starts with `prefix`, by the rest of their name."""
        return {name[len(prefix) :]: view for name, view in self._views.items() if name.startswith(prefix)}

    def __getitem__(self, name: str) -> Array:
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)
