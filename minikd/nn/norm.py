"""Layer normalisation."""

from collections.abc import Callable

from minikd.backend import Array, get_array_module, sum_rows


def layer_norm(x: Array, gain: Array, bias: Array, *, eps: float = 1e-5) -> tuple[Array, Callable]:
    """Normalise each row to mean 0 and variance 1, then scale and shift.

    x (..., C), gain (C,), bias (C,) -> y (..., C); vjp(dy) -> dx, dgain, dbias.
    Ba, Kiros & Hinton 2016, eq. 4.
    """
    xp = get_array_module(x)
    normed = x - x.mean(axis=-1, keepdims=True)
    rstd = 1 / xp.sqrt(_row_means(xp, normed, normed) + eps)
    normed *= rstd
    y = normed * gain
    y += bias

    def vjp(dy: Array) -> tuple[Array, Array, Array]:
        # rstd depends on every entry of the row: projecting out the mean and the component along `normed` is its share
        dx = dy * gain
        along = _row_means(xp, dx, normed)
        dx -= dx.mean(axis=-1, keepdims=True)
        dx -= normed * along
        dx *= rstd
        return dx, sum_rows(dy * normed), sum_rows(dy)

    return y, vjp


def _row_means(xp: object, a: Array, b: Array) -> Array:
    """Mean of a * b over the last axis, (..., C) -> (..., 1), without the product in memory."""
    return xp.einsum("...c,...c->...", a, b)[..., None] / a.shape[-1]  # type: ignore[attr-defined]
