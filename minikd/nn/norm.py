"""Layer normalisation."""

from collections.abc import Callable

from minikd.backend import Array, get_array_module, row_dot, row_sum, sum_rows


def layer_norm(x: Array, gain: Array, bias: Array, *, eps: float = 1e-5) -> tuple[Array, Callable]:
    """Normalise each row to mean 0 and variance 1, then scale and shift.

    x (..., C), gain (C,), bias (C,) -> y (..., C); vjp(dy) -> dx, dgain, dbias.
    Ba, Kiros & Hinton 2016, eq. 4.
    """
    xp, c = get_array_module(x), x.shape[-1]
    normed = x - (row_sum(x) / c)[..., None]
    rstd = xp.sqrt(c / (row_dot(normed, normed) + c * eps))[..., None]
    normed *= rstd
    y = normed * gain
    y += bias

    def vjp(dy: Array) -> tuple[Array, Array, Array]:
        # rstd depends on every entry of the row: projecting out the mean and the component along `normed` is its share
        dx = dy * gain
        along = (row_dot(dx, normed) / c)[..., None]
        dx -= (row_sum(dx) / c)[..., None]
        dx -= normed * along
        dx *= rstd
        return dx, sum_rows(dy * normed), sum_rows(dy)

    return y, vjp
