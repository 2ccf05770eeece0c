"""The affine map, the only place where a matrix product meets a parameter."""

from collections.abc import Callable

from minikd.backend import Array, sum_rows


def linear(x: Array, weight: Array, bias: Array) -> tuple[Array, Callable]:
    """y = x W + b, with W stored (in, out) as in GPT-2's checkpoints.

    x (..., I), weight (I, O), bias (O,) -> y (..., O); vjp(dy) -> dx, dweight, dbias.
    """
    n_in, n_out = weight.shape
    rows = x.reshape(-1, n_in)  # one flat product: CuPy's batched matmul takes a slow path
    y = rows.dot(weight)
    y += bias

    def vjp(dy: Array) -> tuple[Array, Array, Array]:
        dy_rows = dy.reshape(-1, n_out)
        return (dy_rows @ weight.T).reshape(x.shape), rows.T @ dy_rows, sum_rows(dy_rows)

    return y.reshape(*x.shape[:-1], n_out), vjp
