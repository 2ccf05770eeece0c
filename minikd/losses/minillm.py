"""MiniLLM: the reverse KL between whole sequences, by policy gradient, with the three stabilisers of the paper.

KL(q || p) over sequences is E[-R_1] for y drawn from q, where R_t, the sum of log p(y_s) / q(y_s) over s >= t, is the
reward to go: how much better the teacher likes the text than the student does, from y_t on. Its gradient is a mean over
such y too, so with texts at hand it is that of a sum over their tokens in which the rewards stand as constants.
"""

import numpy as np

from minikd.backend import Array, get_array_module, on_host
from minikd.losses.divergences import reverse_kl
from minikd.losses.hard_labels import cross_entropy
from minikd.losses.tokens import Pullback, check_pair, check_reduction, counted_tokens, reduce_tokens
from minikd.softmax import working_dtype


def minillm_loss(
    student_logits: Array,
    teacher_logits: Array,
    tokens: Array,
    *,
    alpha: float = 0.2,
    single_step: bool = True,
    length_normalize: bool = True,
    mask: Array | None = None,
    reduction: str = "mean",
) -> tuple[Array, Pullback]:
    """What has the policy gradient of KL(q || p) over sequences, for sequences that were drawn already.

    Logits (..., T, V) at the sampled tokens (..., T), -100 or mask (..., T) False where one does not count (prompt,
    padding) -> loss; vjp(w) -> dstudent. With r_t = log p(y_t) / q(y_t) and R_t = r_t + r_{t+1} + ..., the loss of a
    token is, and constants (no gradient flows through them) are in brackets,

        [w_t] (KL(q_t || p_t) - [R_{t+1}] log q(y_t))    with single_step: the exact KL of the step, and the long part
        -[w_t (R_t - 1)] log q(y_t)                      without: the same in expectation, with more variance

    alpha: the share of the teacher in what drew the tokens, alpha p + (1 - alpha) q, and the weight for that,
    w_t = q(y_t) / (alpha p(y_t) + (1 - alpha) q(y_t)); 0 if the student drew them alone, then w_t = 1.
    length_normalize: R_t divided by the number of rewards in it, or else short texts pay (the paper's divisor for
    R_{t+1}, T - t - 1, is one less, and 0 for the last but one token).
    The value is that of this surrogate and no distance: it can be negative. The paper's language-modelling loss is a
    `cross_entropy` on other text, to be added. ValueError: alpha not in [0, 1), a token that the student or the teacher
    cannot say, and as in `reverse_kl` and `cross_entropy`. Gu, Dong, Wei & Huang 2024, section 2.2, where w_t is at
    first a product over the text, and then approximated by the ratio of one step.
    """
    check_reduction(reduction)
    check_pair(student_logits, teacher_logits)
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha is {alpha}; wanted a number in [0, 1)")
    if len(student_logits.shape) < 2:
        raise ValueError(f"student_logits are {student_logits.shape}; wanted (..., T, V)")
    xp, dtype = get_array_module(student_logits), working_dtype(student_logits)
    counted = counted_tokens(student_logits.shape, tokens, mask)
    surprise, vjp_surprise = cross_entropy(student_logits, tokens, mask=mask, reduction="none")
    surprise_of_teacher, _ = cross_entropy(teacher_logits, tokens, mask=mask, reduction="none")
    _check_possible(surprise, "student")
    _check_possible(surprise_of_teacher, "teacher")

    counts = xp.ones(tokens.shape, dtype=bool) if counted is None else counted
    log_ratio = surprise.astype(np.float64) - surprise_of_teacher
    weight, reward = (x.astype(dtype) for x in _constants(log_ratio, counts, alpha, single_step, length_normalize))
    terms = [(weight * reward, surprise, vjp_surprise)]
    if single_step:
        terms.append((weight, *reverse_kl(student_logits, teacher_logits, mask=counted, reduction="none")))
    loss, share = reduce_tokens(sum(factor * losses for factor, losses, _ in terms), counted, reduction)

    def vjp(w: Array = 1.0) -> Array:
        w = xp.asarray(w, dtype=dtype) * share
        dlogits, *others = (pull(w * factor) for factor, _, pull in terms)
        for other in others:
            dlogits += other
        return dlogits

    return loss, vjp


def _constants(
    log_ratio: Array, counted: Array, alpha: float, single_step: bool, length_normalize: bool
) -> tuple[Array, Array]:
    """w_t, and what stands in front of -log q(y_t), from r_t = log p/q (..., T), 0 where a token does not count."""
    xp = get_array_module(log_ratio)
    weight = 1 / (1 + alpha * xp.expm1(xp.minimum(log_ratio, 700.0)))
    reward, number = _to_go(log_ratio), _to_go(counted.astype(log_ratio.dtype))
    if single_step:
        reward, number = _next(reward), _next(number)
    if length_normalize:
        reward = reward / xp.maximum(number, 1.0)
    return weight, reward if single_step else reward - 1


def _to_go(x: Array) -> Array:
    """The sum of each entry (..., T) and all that follow."""
    xp = get_array_module(x)
    return xp.flip(xp.cumsum(xp.flip(x, axis=-1), axis=-1), axis=-1)


def _next(x: Array) -> Array:
    """What stands at t + 1 (..., T), 0 after the last."""
    xp = get_array_module(x)
    return xp.concatenate((x[..., 1:], xp.zeros_like(x[..., :1])), axis=-1)


def _check_possible(surprise: Array, who: str) -> None:
    if on_host(surprise) and surprise.size and surprise.max() == np.inf:
        index = ", ".join(str(int(i)) for i in np.argwhere(surprise == np.inf)[0])
        raise ValueError(f"tokens[{index}] has probability 0 for the {who}; wanted tokens that both can say")
