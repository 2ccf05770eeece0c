"""The loss on hard labels: one class a token."""

from minikd.backend import Array, get_array_module
from minikd.losses.tokens import Pullback, counted_tokens, token_loss
from minikd.softmax import check_floating, largest_entries, shift_and_scale, sum_of_others, working_dtype


def cross_entropy(
    logits: Array, labels: Array, *, mask: Array | None = None, reduction: str = "mean"
) -> tuple[Array, Pullback]:
    """-log softmax(logits)[label], at temperature 1.

    logits (..., V), labels (...) integers, -100 where a token does not count; mask (...) bool, True where one does
    -> loss in nats; vjp(w) -> dlogits, T = 1. `reduction`: mean over the counted tokens, sum, or none (w and loss are
    then (...)). ValueError: shapes or types that do not match, a label outside the vocabulary, a mean over no token.
    """
    check_floating(logits=logits)
    counted = counted_tokens(logits.shape, labels, mask)
    itemsize = working_dtype(logits).itemsize
    return token_loss(_cross_entropy_rows, (logits, labels), counted, reduction, itemsize=itemsize)


def _cross_entropy_rows(z: Array, labels: Array) -> tuple[Array, Array, Array]:
    xp = get_array_module(z)
    rows, (largest, index) = xp.arange(len(z)), largest_entries(z)
    powers = shift_and_scale(z, largest, 1.0, out=xp.empty(z.shape, dtype=working_dtype(z)))
    label_logit = powers[rows, labels]
    xp.exp(powers, out=powers)
    rest = sum_of_others(powers, index)
    losses = xp.log1p(rest) - label_logit
    # dz = softmax(z) - onehot: at the label, minus the sum of all the others
    powers[rows, labels] = -xp.where(labels == index, rest, 1 + rest - powers[rows, labels])
    return losses, powers, 1 / (1 + rest)
