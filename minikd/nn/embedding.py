"""Rows looked up in a table."""

from collections.abc import Callable

from minikd.backend import Array, add_rows


def embedding(ids: Array, table: Array) -> tuple[Array, Callable]:
    """y = table[ids].

    ids (...) whole numbers in [0, V), not differentiable; table (V, C) -> y (..., C); vjp(dy) -> dtable.
    Ids are checked where text becomes tokens, on the host: on a GPU an id out of range would wrap silently.
    """

    def vjp(dy: Array) -> Array:
        return add_rows(ids.reshape(-1), dy.reshape(-1, table.shape[1]), table.shape[0])

    return table[ids], vjp
