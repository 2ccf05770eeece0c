"""The Gaussian error linear unit, in the tanh form that GPT-2 uses."""

import math
from collections.abc import Callable

from minikd.backend import Array, get_array_module, row_blocks

_SCALE = math.sqrt(2 / math.pi)
_CUBIC = 0.044715


def gelu(x: Array) -> tuple[Array, Callable]:
    """y = x w with the gate w = (1 + tanh u) / 2 and u = sqrt(2/pi) (x + 0.044715 x^3).

    x (...) -> y (...); vjp(dy) -> dx. Hendrycks & Gimpel 2016, section 2.
    Kept for the pullback: x and w.
    """
    xp = get_array_module(x)
    x_flat = x.reshape(-1)
    y, gate = xp.empty_like(x_flat), xp.empty_like(x_flat)
    for block in row_blocks(x_flat):
        xb, w = x_flat[block], gate[block]
        xp.multiply(xb, xb, out=w)  # x^3 as a power costs twenty times its product
        w *= _SCALE * _CUBIC
        w += _SCALE
        w *= xb
        xp.tanh(w, out=w)
        w *= 0.5
        w += 0.5
        xp.multiply(xb, w, out=y[block])

    def vjp(dy: Array) -> Array:
        # w is the logistic function of 2u, so w' = w (1 - w) 2u' and y' = w (1 + x (1 - w) 2u')
        dx = xp.empty_like(x_flat)
        dy_flat = dy.reshape(-1)
        for block in row_blocks(x_flat):
            xb, w, slope = x_flat[block], gate[block], dx[block]
            xp.multiply(xb, xb, out=slope)
            slope *= 6 * _SCALE * _CUBIC
            slope += 2 * _SCALE
            slope *= xb
            slope *= 1 - w
            slope += 1
            slope *= w
            slope *= dy_flat[block]
        return dx.reshape(x.shape)

    return y.reshape(x.shape), vjp
