"""Teachers too large to store: a few entries a token instead of the whole vocabulary, and the loss on these.

A sparse teacher is `ids` (..., k), different entries of the vocabulary, and `logprobs` (..., k), what it says of them.
`top_k_teacher` keeps the largest probabilities of the full softmax, so what they leave over is known, and a tail of
`sparse_kl` decides what becomes of it. `sample_teacher` draws entries at random and gives a target that stands for the
whole distribution by itself: it goes with tail="zero".
"""

import math

import numpy as np

from minikd.backend import Array, get_array_module, on_host, row_blocks, row_dot, to_host
from minikd.losses.divergences import forward_kl
from minikd.losses.tokens import Pullback, counted_tokens, is_integer, token_loss
from minikd.softmax import (
    TEMPERATURES,
    check_floating,
    check_temperature,
    form,
    largest_entries,
    log_softmax,
    shift_and_scale,
    sum_of_others,
    working_dtype,
)

LARGEST_SUM = 1.05  # that probabilities may have, their logarithms rounded to 8 bits


def top_k_teacher(logits: Array, k: int, *, temperature: float = 1.0) -> tuple[Array, Array]:
    """The k most likely entries of each token, and their logarithms in the full softmax(logits / T).

    logits (..., V) -> ids (..., k) integers, logprobs (..., k) in nats, the largest first; which of several equal ones
    comes in last is left open. float16 and bfloat16 give float32. ValueError: k is not in 1 to V, and as in `softmax`.
    """
    check_floating(logits=logits)
    _check_number("k", k, logits.shape[-1])
    xp = get_array_module(logits)
    z = logits.reshape(-1, logits.shape[-1])
    ids = xp.empty((len(z), k), dtype=np.int64)
    logprobs = xp.empty((len(z), k), dtype=working_dtype(logits))
    for block in row_blocks(z):
        logp, _ = log_softmax(z[block], temperature)
        ids[block] = _largest(logp, k)
        logprobs[block] = xp.take_along_axis(logp, ids[block], axis=-1)
    return ids.reshape(*logits.shape[:-1], k), logprobs.reshape(*logits.shape[:-1], k)


def sample_teacher(
    logits: Array,
    n: int,
    rng: np.random.Generator,
    *,
    temperature: float = 1.0,
    variant: str = "counts",
    beta: float = 1.0,
) -> tuple[Array, Array]:
    """A random sparse target t for each token's p = softmax(logits / T), for `sparse_kl` with tail="zero".

    logits (..., V) -> ids (..., k) integers, log t (..., k), k = min(n, V); drawn on the host. The variants:
    counts: draw n entries, with replacement, from a proposal p^beta / sum(p^beta); t = counts / n times p / proposal.
    t has the mean p, and so the gradient that of the full KL; t sums to 1 if beta is 1. Fewer than k different entries
    are filled up with others of t = 0. RS-KD: Anshumann et al. 2025.
    distinct: draw n different entries, one after the other with probabilities as p; t = p / their sum, which favours
    the likely. Gemma 3 (Gemma Team 2025, section 2.2), which does not say how its entries are drawn.
    ValueError: n below 1, a variant not among these, beta not in 1e-15 to 1e15 or not 1 for `distinct`, and as in
    `softmax`.
    """
    check_floating(logits=logits)
    _check_number("n", n, math.inf)
    if variant not in ("counts", "distinct"):
        raise ValueError(f"variant is {variant!r}; wanted 'counts' or 'distinct'")
    lowest, highest = TEMPERATURES  # of which beta is the inverse
    if not lowest <= beta <= highest or (variant == "distinct" and beta != 1):
        raise ValueError(f"beta is {beta}; wanted a number from {lowest:g} to {highest:g}, 1 for variant 'distinct'")
    xp, dtype = get_array_module(logits), working_dtype(logits)
    z = logits.reshape(-1, logits.shape[-1])
    k = min(n, z.shape[-1])
    ids, targets = np.empty((len(z), k), dtype=np.int64), np.empty((len(z), k), dtype=dtype)
    for block in row_blocks(z):
        logp, _ = log_softmax(to_host(z[block]).astype(np.float64), temperature)
        draw = _draw_distinct(logp, k, rng) if variant == "distinct" else _draw_counts(logp, n, k, rng, beta)
        ids[block], targets[block] = draw
    shape = (*logits.shape[:-1], k)
    return xp.asarray(ids).reshape(shape), xp.asarray(targets).reshape(shape)


def sparse_kl(
    student_logits: Array,
    ids: Array,
    logprobs: Array,
    *,
    tail: str = "bucket",
    temperature: float = 1.0,
    mask: Array | None = None,
    reduction: str = "mean",
) -> tuple[Array, Pullback]:
    """KL(p || q) from a teacher p known at a few entries: one `forward_kl` over these, and what `tail` adds to them.

    student_logits (..., V), ids (..., k) integers, logprobs (..., k) at the same temperature, mask (...) -> loss in
    nats; vjp(w) -> dstudent. By `tail`:
    bucket: one more class with the mass that is left over, on both sides. A lower bound of the full KL(p || q), by the
    log-sum inequality. What is left within the rounding of `logprobs` is nothing; 0 log 0 = 0.
    renormalize: p and q both restricted to the ids and renormalised.
    zero: the sum over the ids alone, T dD/dz = sum(p) q - p. With a `top_k_teacher` no divergence: it can be negative.
    With a target of `sample_teacher` the mean over its draws has the gradient of the full KL(p || q).
    inf where the teacher has mass and the student none. ValueError: ids that are not in [0, V) or come twice for a
    token, logprobs that are NaN, inf or -inf throughout or, for bucket, have a sum of probabilities above 1, a student
    without mass on the ids (renormalize), a tail not among these, and as in `forward_kl` (values on a GPU: unseen).
    """
    check_floating(student_logits=student_logits)
    check_temperature(temperature)
    if tail not in ("bucket", "renormalize", "zero"):
        raise ValueError(f"tail is {tail!r}; wanted 'bucket', 'renormalize' or 'zero'")
    counted = counted_tokens(student_logits.shape, None, mask)
    _check_teacher(student_logits.shape, ids, logprobs, tail, counted)
    xp, dtype = get_array_module(student_logits), working_dtype(student_logits)
    unit = float(np.spacing(logprobs.dtype.type(1)))
    first = xp.arange(ids.shape[-1])

    def rows(z: Array, offsets: Array, log_p: Array) -> tuple[Array, Array, Array]:
        with np.errstate(all="ignore"):  # -inf on both sides comes by way of inf - inf
            at, log_p = offsets + first, log_p.astype(np.float64)
            x = shift_and_scale(z, largest_entries(z)[0], temperature, out=xp.empty(z.shape, dtype=np.float64))
            student, dx = _student_classes(x, at, tail)
            values, vjp = forward_kl(student, _teacher_classes(log_p, z.shape[-1], tail, unit), reduction="none")
            dstudent = vjp()
            dx *= dstudent[:, -1:]
            xp.put_along_axis(dx, at, dstudent[:, :-1], axis=-1)
            scale = xp.full(len(z), 1 / float(temperature))
            if tail == "zero":  # sum(p log p/q) = s KL(p/s || q) + s log s, s = sum(p)
                total = xp.exp(log_p).sum(axis=-1)
                values, scale = total * values + total * xp.log(total), total * scale
            return values.astype(dtype), dx.astype(dtype), scale.astype(dtype)

    # tokens that do not count may come as zeros: as distances from 0, 1, 2, ... these still name different entries
    arrays = (student_logits, ids.astype(np.int64) - first, logprobs)
    return token_loss(rows, arrays, counted, reduction, itemsize=8)


def _student_classes(x: Array, ids: Array, tail: str) -> tuple[Array, Array]:
    """Logits x at the ids and log sum exp x over the others (n, k + 1), and each one's share of that sum (n, V).

    x is used up. To renormalise, the others count for nothing.
    """
    xp = get_array_module(x)
    kept = xp.take_along_axis(x, ids, axis=-1)
    if tail == "renormalize":
        return _with_last(kept, xp.full(len(x), -np.inf)), xp.zeros_like(x)
    xp.put_along_axis(x, ids, -np.inf, axis=-1)
    largest = x.max(axis=-1)
    x -= xp.where(largest > -np.inf, largest, 0.0)[:, None]
    powers = xp.exp(x, out=x)
    total = powers.sum(axis=-1)
    powers /= xp.where(total > 0, total, 1.0)[:, None]
    return _with_last(kept, largest + xp.log(total)), powers


def _teacher_classes(log_p: Array, n_classes: int, tail: str, unit: float) -> Array:
    """log p and, for a bucket, log(1 - sum p) (n, k + 1); log_p has relative errors of about `unit`."""
    xp = get_array_module(log_p)
    if tail != "bucket" or log_p.shape[-1] == n_classes:
        return _with_last(log_p, xp.full(len(log_p), -np.inf))
    largest, index = largest_entries(log_p)
    others = sum_of_others(xp.exp(log_p - largest[:, None]), index)
    log_sum = largest + xp.log1p(others)  # where one p is nearly 1, both are nearly 0 and nothing cancels
    known = log_sum < 2 * unit * row_dot(xp.exp(log_p), xp.where(xp.isinf(log_p), 0.0, log_p))
    tiny = log_sum > -math.log(2)
    log_rest = xp.where(tiny, xp.log(-xp.expm1(log_sum)), xp.log1p(-xp.exp(log_sum)))
    return _with_last(log_p, xp.where(known, log_rest, -np.inf))


def _with_last(columns: Array, last: Array) -> Array:
    return get_array_module(columns).concatenate((columns, last[:, None]), axis=-1)


def _largest(x: Array, k: int) -> Array:
    """The indices of the k largest entries of each row of x (n, V), the largest first."""
    xp, first = get_array_module(x), x.shape[-1] - k
    ids = xp.argpartition(x, first, axis=-1)[:, first:]
    order = xp.argsort(-xp.take_along_axis(x, ids, axis=-1), axis=-1)
    return xp.take_along_axis(ids, order, axis=-1)


def _draw_counts(
    logp: np.ndarray, n: int, k: int, rng: np.random.Generator, beta: float
) -> tuple[np.ndarray, np.ndarray]:
    log_proposal, _ = log_softmax(logp, 1 / beta)
    ids, targets = np.empty((len(logp), k), dtype=np.int64), np.full((len(logp), k), -np.inf)
    for row, log_q in enumerate(log_proposal):
        cumulative = np.exp(log_q).cumsum()
        at = rng.random(n) * cumulative[-1]  # below the end, also as rounded, since random() is at most 1 - 2^-53
        drawn, counts = np.unique(np.searchsorted(cumulative, at, side="right"), return_counts=True)
        others = np.setdiff1d(np.arange(k), drawn)
        ids[row] = np.concatenate((drawn, others[: k - drawn.size]))
        targets[row, : drawn.size] = np.log(counts / n) + logp[row, drawn] - log_q[drawn]
    return ids, targets


def _draw_distinct(logp: np.ndarray, k: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    # the order of log p + Gumbel noise is that of drawing without replacement: Kool et al. 2019
    ids = _largest(logp + rng.gumbel(size=logp.shape), k)
    targets, _ = log_softmax(np.take_along_axis(logp, ids, axis=-1))
    return ids, targets


def _check_number(name: str, number: int, most: float) -> None:
    if not (isinstance(number, (int, np.integer)) and 1 <= number <= most):
        wanted = "an integer above 0" if most == math.inf else f"an integer from 1 to the vocabulary's {most}"
        raise ValueError(f"{name} is {number!r}; wanted {wanted}")


def _check_teacher(shape: tuple[int, ...], ids: Array, logprobs: Array, tail: str, counted: Array | None) -> None:
    """ValueError unless ids and logprobs (..., k) are a sparse teacher for logits of `shape` (..., V)."""
    tokens, n_classes = shape[:-1], shape[-1]
    if not is_integer(ids) or ids.shape[:-1] != tokens or len(ids.shape) != len(shape) or ids.shape[-1] == 0:
        raise ValueError(f"ids are {form(ids)}; wanted integers (..., k) for logits {shape}")
    check_floating(logprobs=logprobs)
    if logprobs.shape != ids.shape:
        raise ValueError(f"logprobs are {form(logprobs)}; wanted floats {ids.shape}, one for each id")
    if not on_host(ids):
        return
    counts = np.ones(tokens, dtype=bool) if counted is None else counted
    _refuse("ids", ids, ((ids < 0) | (ids >= n_classes)) & counts[..., None], f"0 to {n_classes - 1}")
    ordered = np.sort(ids.astype(np.int64), axis=-1)
    repeated = np.where(np.diff(ordered) == 0, ordered[..., 1:], -1).max(axis=-1, initial=-1)
    _refuse("ids", repeated, (repeated >= 0) & counts, "every entry once", verb="repeats")
    log_p = logprobs.astype(np.float64)
    _refuse("logprobs", log_p, ~(log_p < np.inf) & counts[..., None], "numbers below inf")
    largest = log_p.max(axis=-1)
    _refuse("max(logprobs)", largest, (largest == -np.inf) & counts, "an entry above -inf for every token")
    if tail == "bucket":
        with np.errstate(over="ignore"):
            total = np.exp(log_p).sum(axis=-1)
        _refuse("sum(exp(logprobs))", total, (total > LARGEST_SUM) & counts, "at most 1")


def _refuse(name: str, values: np.ndarray, wrong: np.ndarray, wanted: str, *, verb: str = "is") -> None:
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(f"{name}[{', '.join(map(str, index))}] {verb} {values[index]}; wanted {wanted}")
