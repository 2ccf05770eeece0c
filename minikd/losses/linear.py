"""The output projection and a loss on its logits in one, block by block: all the logits are never there at once.

A block of tokens is projected, its loss and the gradient of its logits are taken by the very functions of the plain
form, and that gradient goes back through the projection before the next block comes. The pullback only scales.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minikd.backend import Array, at_least_float32, get_array_module, on_host, row_blocks
from minikd.losses.divergences import Divergence, forward_kl
from minikd.losses.hard_labels import cross_entropy
from minikd.losses.objective import Alpha, checked_alpha, distillation_loss, never
from minikd.losses.tokens import Pullback, blocks_of, check_same_vocabulary, counted_tokens, mean_share
from minikd.softmax import check_floating, check_temperature, working_dtype
from minikd.workers import Workers, parts_of

FEWEST_TOKENS = 256
BLOCK_BYTES = 2 * 2**20
DEVICE_BLOCK_BYTES = 256 * 2**20
PRODUCT_BYTES = 4 * 2**20


def linear_cross_entropy(
    hidden: Array,
    weight: Array,
    labels: Array,
    *,
    mask: Array | None = None,
    reduction: str = "mean",
    workers: Workers | None = None,
) -> tuple[Array, Pullback]:
    """`cross_entropy` of the logits hidden weight^T.

    hidden (..., C), weight (V, C), labels and mask (...) -> loss in nats; vjp(w) -> dhidden, dweight. `reduction` is
    mean or sum. `workers` are threads that share the work (on a CPU, and not from within one of them).
    """
    check_floating(hidden=hidden, weight=weight)
    counted = _counted(hidden, weight, labels, mask)

    def block_loss(rows: slice, mask: Array | None, logits: Array) -> tuple[Array, Pullback]:
        return cross_entropy(logits, flat_labels[rows], mask=mask, reduction="sum")

    flat_labels = labels.reshape(-1)
    return _over_blocks(block_loss, [(hidden, weight)], counted, reduction, workers)


def linear_distillation_loss(
    student_hidden: Array,
    student_weight: Array,
    teacher_hidden: Array,
    teacher_weight: Array,
    labels: Array,
    *,
    alpha: Alpha = 0.5,
    temperature: float = 2.0,
    divergence: Divergence = forward_kl,
    mask: Array | None = None,
    reduction: str = "mean",
    workers: Workers | None = None,
) -> tuple[Array, Pullback]:
    """`distillation_loss` of the logits student_hidden student_weight^T and teacher_hidden teacher_weight^T.

    student_hidden (..., C), student_weight (V, C), teacher_hidden (..., D), teacher_weight (V, D), labels and mask
    (...) -> loss in nats; vjp(w) -> dstudent_hidden, dstudent_weight. `alpha` as a function sees blocks of tokens:
    logits (n, V) and labels (n,). `reduction` and `workers` as in `linear_cross_entropy`.
    """
    check_temperature(temperature)
    check_floating(
        student_hidden=student_hidden,
        student_weight=student_weight,
        teacher_hidden=teacher_hidden,
        teacher_weight=teacher_weight,
    )
    check_same_vocabulary(len(student_weight), len(teacher_weight))
    if teacher_hidden.shape[:-1] != student_hidden.shape[:-1]:
        raise ValueError(
            f"student_hidden is {student_hidden.shape}, teacher_hidden {teacher_hidden.shape}; "
            "wanted the same tokens (...) before the channels"
        )
    if not callable(alpha):
        alpha = checked_alpha(alpha, labels.shape, working_dtype(student_hidden))
    if never(alpha):  # the teacher's logits are of no use
        options: dict[str, Any] = {"mask": mask, "reduction": reduction, "workers": workers}
        return linear_cross_entropy(student_hidden, student_weight, labels, **options)
    counted = _counted(student_hidden, student_weight, labels, mask)
    flat_labels = labels.reshape(-1)
    flat_alpha: Any = alpha if callable(alpha) or isinstance(alpha, float) else alpha.reshape(-1)

    def block_loss(
        rows: slice, mask: Array | None, student_logits: Array, teacher_logits: Array
    ) -> tuple[Array, Pullback]:
        return distillation_loss(
            student_logits,
            teacher_logits,
            flat_labels[rows],
            alpha=alpha if alpha is flat_alpha else flat_alpha[rows],
            temperature=temperature,
            divergence=divergence,
            mask=mask,
            reduction="sum",
        )

    models = [(student_hidden, student_weight), (teacher_hidden, teacher_weight)]
    return _over_blocks(block_loss, models, counted, reduction, workers)


def _over_blocks(
    block_loss: Callable[..., tuple[Array, Pullback]],
    models: Sequence[tuple[Array, Array]],
    counted: Array | None,
    reduction: str,
    workers: Workers | None,
) -> tuple[Array, Pullback]:
    """The sum of `block_loss` over blocks of tokens, or its mean over those that count, and its pullback.

    models: hidden states (..., C) and output weight (V, C) of each that gives logits, the student first. Blocks within
    blocks: many tokens for a matrix product, few for what is done with their logits, in the place of which the
    student's gradient is left.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}; wanted 'mean' or 'sum'")
    hidden, weight = models[0]
    xp = get_array_module(hidden)
    flat = [(at_least_float32(x.reshape(-1, x.shape[-1])), at_least_float32(head)) for x, head in models]
    x, head = flat[0]
    share = mean_share(len(x), counted, x) if reduction == "mean" else xp.ones((), dtype=x.dtype)
    counted = None if counted is None else counted.reshape(-1)
    zero, dx, dhead = xp.zeros((), dtype=np.float64), xp.empty_like(x), xp.zeros_like(head)
    blocks = _token_blocks(len(x), head)
    largest = blocks[0].stop if blocks else 0
    buffers = [xp.empty((largest, len(w)), dtype=np.result_type(h.dtype, w.dtype)) for h, w in flat]
    workers = workers or Workers(1)
    vocabulary = parts_of(len(head), workers.count)

    def look(rows: slice) -> Array:
        logits = [buffer[: rows.stop - rows.start] for buffer in buffers]
        dlogits = logits[0]

        def project(entries: slice) -> None:
            for (h, w), z in zip(flat, logits, strict=True):
                xp.matmul(h[rows], w[entries].T, out=z[:, entries])

        def lose(few: slice) -> Array:
            at = slice(rows.start + few.start, rows.start + few.stop)
            loss, vjp = block_loss(at, None if counted is None else counted[at], *(z[few] for z in logits))
            dlogits[few] = vjp()
            return loss

        def pull_to_hidden(few: slice) -> None:
            xp.matmul(dlogits[few], head, out=dx[rows][few])

        def pull_to_weight(entries: slice) -> None:
            dweight, dz = dhead[entries], dlogits[:, entries]
            for few in row_blocks(dweight, block_bytes=PRODUCT_BYTES):
                dweight[few] += dz[:, few].T @ x[rows]

        workers.map(project, vocabulary)
        losses = workers.map(lose, list(blocks_of(dlogits, itemsize=8)))
        workers.map(pull_to_hidden, parts_of(len(dlogits), workers.count))
        workers.map(pull_to_weight, vocabulary)
        return sum(losses, zero)

    loss = (sum(map(look, blocks), zero) * share).astype(x.dtype)

    def pullback(w: Array = 1.0) -> tuple[Array, Array]:
        w = xp.asarray(w, dtype=x.dtype) * share
        dhidden = (dx * w).reshape(hidden.shape)
        return dhidden.astype(hidden.dtype, copy=False), (dhead * w).astype(weight.dtype, copy=False)

    return loss, pullback


def _token_blocks(n_tokens: int, head: Array) -> list[slice]:
    """Slices of tokens: enough for an efficient matrix product, few enough for a CPU's cache or a GPU's memory."""
    block_bytes = BLOCK_BYTES if on_host(head) else DEVICE_BLOCK_BYTES
    step = max(FEWEST_TOKENS, block_bytes // (len(head) * head.itemsize))
    return [slice(start, min(start + step, n_tokens)) for start in range(0, n_tokens, step)]


def _counted(hidden: Array, weight: Array, labels: Array, mask: Array | None) -> Array | None:
    if hidden.shape[-1:] != weight.shape[1:]:
        raise ValueError(f"hidden is {hidden.shape}, weight {weight.shape}; wanted (..., C) and (V, C)")
    return counted_tokens((*hidden.shape[:-1], len(weight)), labels, mask)
