"""Mistakes in the MLP and in the block that is built of all layers."""

from collections.abc import Callable

from minikd.backend import Array
from minikd.nn import gelu, layer_norm, linear
from minikd.oracle.mutants.layers import exact_gelu, relu
from minikd.oracle.mutants.planting import Bed, with_gradients, with_value
from minikd.oracle.subjects.pure import mlp, self_attention

MUTANTS = Bed()
plant = MUTANTS.plant


# MLP


def activated(activation: Callable[[Array], tuple[Array, Callable]]) -> Callable:
    """The MLP with another activation."""

    def mutated(
        x: Array, fc_weight: Array, fc_bias: Array, proj_weight: Array, proj_bias: Array
    ) -> tuple[Array, Callable]:
        h, vjp_fc = linear(x, fc_weight, fc_bias)
        h, vjp_activation = activation(h)
        y, vjp_proj = linear(h, proj_weight, proj_bias)

        def vjp(dy: Array) -> tuple[Array, ...]:
            dh, *dproj = vjp_proj(dy)
            return *vjp_fc(vjp_activation(dh)), *dproj

        return y, vjp

    return mutated


def identity(x: Array) -> tuple[Array, Callable]:
    return x, lambda dy: dy


plant("mlp", "no-activation", "the activation is missing")(activated(identity))
plant("mlp", "exact-gelu", "your GELU is the exact one (with erf); GPT-2's is the tanh form")(activated(exact_gelu))
plant("mlp", "relu", "your activation is max(x, 0) (ReLU); it is GELU")(activated(relu))
plant("mlp", "activation-missing-in-backward", "your backward pass leaves out the activation")(
    activated(with_value(gelu, identity))
)


@plant("mlp", "activation-after-projection", "you activate the output, not the inner layer")
def _(x: Array, fc_weight: Array, fc_bias: Array, proj_weight: Array, proj_bias: Array) -> tuple[Array, Callable]:
    y, vjp_linear = activated(identity)(x, fc_weight, fc_bias, proj_weight, proj_bias)
    y, vjp_gelu = gelu(y)
    return y, lambda dy: vjp_linear(vjp_gelu(dy))


plant("mlp", "inner-bias-gradient-forgotten", "the gradient of the inner bias is missing (0)")(
    with_gradients(mlp, lambda dx, dw, db, dwp, dbp: (dx, dw, 0 * db, dwp, dbp))
)
plant("mlp", "outer-bias-gradient-forgotten", "the gradient of the outer bias is missing (0)")(
    with_gradients(mlp, lambda dx, dw, db, dwp, dbp: (dx, dw, db, dwp, 0 * dbp))
)


# Block

Part = Callable[[Array], tuple[Array, Callable]]
"""h -> y, vjp with vjp(dy) -> dh and the gradients of the part's parameters."""


def assembled(assemble: Callable[[Part, Part, Part, Part], Part]) -> Callable:
    """A block that `assemble` makes of norm, attention, norm and MLP."""

    def mutated(x: Array, *p: Array, n_head: int) -> tuple[Array, Callable]:
        ln_1: Part = lambda h: flattened(layer_norm(h, *p[:2]))  # noqa: E731
        attn: Part = lambda h: flattened(self_attention(h, *p[2:6], n_head=n_head))  # noqa: E731
        ln_2: Part = lambda h: flattened(layer_norm(h, *p[6:8]))  # noqa: E731
        feed: Part = lambda h: flattened(mlp(h, *p[8:]))  # noqa: E731
        y, vjp = assemble(ln_1, attn, ln_2, feed)(x)

        def pullback(dy: Array) -> tuple[Array, ...]:
            dx, gradients = vjp(dy)
            return dx, *gradients

        return y, pullback

    return mutated


def flattened(result: tuple[Array, Callable]) -> tuple[Array, Callable]:
    y, vjp = result

    def pullback(dy: Array) -> tuple[Array, tuple[Array, ...]]:
        dx, *gradients = vjp(dy)
        return dx, tuple(gradients)

    return y, pullback


def chain(first: Part, second: Part) -> Part:
    """second(first(h)); the gradients of the first come first."""

    def both(h: Array) -> tuple[Array, Callable]:
        h, vjp_first = first(h)
        y, vjp_second = second(h)

        def vjp(dy: Array) -> tuple[Array, tuple[Array, ...]]:
            dh, of_second = vjp_second(dy)
            dx, of_first = vjp_first(dh)
            return dx, (*of_first, *of_second)

        return y, vjp

    return both


def swapped(first: Part, second: Part) -> Part:
    """second(first(h)); the gradients of the second come first."""

    def both(h: Array) -> tuple[Array, Callable]:
        y, vjp = chain(lambda h: listed(first(h)), lambda h: listed(second(h)))(h)

        def pullback(dy: Array) -> tuple[Array, tuple[Array, ...]]:
            dx, (of_first, of_second) = vjp(dy)
            return dx, (*of_second, *of_first)

        return y, pullback

    return both


def listed(result: tuple[Array, Callable]) -> tuple[Array, Callable]:
    """A part's result with its gradients as one."""
    y, vjp = result

    def pullback(dy: Array) -> tuple[Array, tuple[Array, ...]]:
        dx, gradients = vjp(dy)
        return dx, (gradients,)

    return y, pullback


def side_by_side(first: Part, second: Part) -> Part:
    """h + first(h) + second(h)."""

    def both(h: Array) -> tuple[Array, Callable]:
        (y1, vjp1), (y2, vjp2) = first(h), second(h)

        def vjp(dy: Array) -> tuple[Array, tuple[Array, ...]]:
            (dx1, of_first), (dx2, of_second) = vjp1(dy), vjp2(dy)
            return dy + dx1 + dx2, (*of_first, *of_second)

        return h + y1 + y2, vjp

    return both


def residual(branch: Part, *, forward: bool = True, backward: bool = True) -> Part:
    """h + branch(h); the residual may be missing in one of the passes, or both."""

    def added(h: Array) -> tuple[Array, Callable]:
        y, vjp_branch = branch(h)

        def vjp(dy: Array) -> tuple[Array, tuple[Array, ...]]:
            dh, gradients = vjp_branch(dy)
            return dh + backward * dy, gradients

        return y + forward * h, vjp

    return added


def halves(first: Callable[[Part], Part], second: Callable[[Part], Part]) -> Callable:
    """A block of two halves: first(attention(norm)), then second(mlp(norm))."""
    return assembled(lambda ln_1, attn, ln_2, feed: chain(first(chain(ln_1, attn)), second(chain(ln_2, feed))))


def nothing_added(branch: Part) -> Part:
    return residual(branch, forward=False, backward=False)


def backward_forgotten(branch: Part) -> Part:
    return residual(branch, backward=False)


plant("block", "no-attention-residual", "x is not added to the output of the attention")(
    halves(nothing_added, residual)
)
plant("block", "no-mlp-residual", "the residual stream is not added to the output of the MLP")(
    halves(residual, nothing_added)
)
plant("block", "no-attention-residual-in-backward", "your dx lacks the gradient that passes the attention by")(
    halves(backward_forgotten, residual)
)
plant("block", "no-mlp-residual-in-backward", "the gradient that passes the MLP by is missing in your backward pass")(
    halves(residual, backward_forgotten)
)
plant("block", "post-norm", "you normalise after adding (post-norm); GPT-2 normalises what enters each half")(
    assembled(lambda ln_1, attn, ln_2, feed: chain(swapped(residual(attn), ln_1), swapped(residual(feed), ln_2)))
)
plant("block", "residual-after-norm", "you add the normalised stream; the residual is the stream itself")(
    assembled(lambda ln_1, attn, ln_2, feed: chain(chain(ln_1, residual(attn)), chain(ln_2, residual(feed))))
)
plant("block", "mlp-first", "the MLP comes before the attention")(
    assembled(lambda ln_1, attn, ln_2, feed: swapped(residual(chain(ln_2, feed)), residual(chain(ln_1, attn))))
)
plant("block", "side-by-side", "attention and MLP look at the same stream; the MLP sees what the attention added")(
    assembled(lambda ln_1, attn, ln_2, feed: side_by_side(chain(ln_1, attn), chain(ln_2, feed)))
)
