# ruff: noqa: F821
"""The mistakes of minikd.oracle.mutants, made in PyTorch. To be read after `answers_torch.py`, as part of one file.

MISTAKES: by subject and name of the mutant, the function. Most change the value and let PyTorch differentiate that;
where only the gradient is wrong, `with_gradient_of` puts another function's in its place.
"""

import functools

RIGHT = dict(globals())
MISTAKES = {}


def mistake(name, *subjects):
    """A decorator for change(f): the mistake made in each of these losses."""

    def keep(change):
        for subject in subjects:
            MISTAKES[subject, name] = change(RIGHT[subject])
        return change

    return keep


WRT = {"linear_cross_entropy": (0, 1), "linear_distillation_loss": (0, 1), "mse_hidden": (0, 2)}


def wrt(f):
    """The positions of the arguments whose gradients are asked for."""
    return WRT.get(f.__name__, (0,))


def plant(subject, name, function):
    MISTAKES[subject, name] = function


def gradients_of(loss, arrays):
    """A pullback in place of PyTorch's."""

    def vjp(w=1.0):
        weight = torch.as_tensor(w, dtype=loss.dtype).expand_as(loss)
        found = torch.autograd.grad(loss, arrays, weight, retain_graph=True, allow_unused=True)
        found = tuple(torch.zeros_like(x) if g is None else g for x, g in zip(arrays, found, strict=True))
        return found[0] if len(found) == 1 else found

    return vjp


def with_gradient_of(value, other, wrt=(0,)):
    """The value of one function with the gradient of another."""

    def mistaken(*arrays, **own):
        arrays = [x.clone().requires_grad_() if i in wrt else x for i, x in enumerate(arrays)]
        wrong = other(*arrays, **own)
        return value(*arrays, **own).detach(), gradients_of(wrong, [arrays[i] for i in wrt])

    return mistaken


def scaled_gradient(f, factor, wrt=(0,)):
    return with_gradient_of(f, lambda *arrays, **own: factor(**own) * f(*arrays, **own), wrt)


LABELLED = ("cross_entropy", "distillation_loss", "decoupled_kd", "minillm_loss")
UNBOUNDED = ("soft_cross_entropy", "forward_kl", "reverse_kl", "symmetric_kl")
WITH_LOGARITHMS = (*UNBOUNDED, "js", "generalized_jsd", "skew_forward_kl", "skew_reverse_kl")
DIVERGENCES = (*WITH_LOGARITHMS, "total_variation", "alpha_divergence", "taid")
ON_LOGITS = ("mse_logits", "cosine_logits")
PAIRS = (*DIVERGENCES, *ON_LOGITS, "universal_logit_distance", "distillation_loss", "decoupled_kd", "minillm_loss")
BY_TOKEN = (*PAIRS, "cross_entropy", "sparse_kl", "cosine_hidden", "relation_kd")
FUSED = ("linear_cross_entropy", "linear_distillation_loss")
WITH_TEMPERATURE = (*DIVERGENCES, "universal_logit_distance", "decoupled_kd")


def counted_by(arrays, mask):
    counted = counted_in(arrays[0], mask)
    for x in arrays:
        if x.dtype == torch.int64 and x.shape == counted.shape:
            counted = counted & (x != -100)
    return counted


def averaged(weights):
    """The mean is a sum with weights(counted, V)."""

    def change(f):
        @functools.wraps(f)
        def mistaken(*arrays, mask=None, reduction="mean", **own):
            if reduction != "mean":
                return f(*arrays, mask=mask, reduction=reduction, **own)
            losses = f(*arrays, mask=mask, reduction="none", **own)
            return (weights(counted_by(arrays, mask), arrays[0].shape[-1]) * losses).sum()

        return mistaken

    return change


def summed(f):
    return averaged(lambda counted, classes: counted * 1.0)(f)


mistake("sum-for-mean", *BY_TOKEN, *FUSED)(summed)
mistake("gradient-of-the-sum", *BY_TOKEN, *FUSED)(lambda f: with_gradient_of(f, summed(f), wrt(f)))
mistake("mean-over-all-positions", *BY_TOKEN, *FUSED)(averaged(lambda counted, classes: counted / counted.numel()))
mistake("mean-over-sequences", *BY_TOKEN)(averaged(lambda counted, classes: counted / len(counted)))
mistake("mean-over-vocabulary", *DIVERGENCES, *ON_LOGITS, "universal_logit_distance", "decoupled_kd", "sparse_kl")(
    averaged(lambda counted, classes: counted / counted.sum() / classes)
)


@mistake("mean-of-means", *BY_TOKEN, *FUSED)
@averaged
def of_means(counted, classes):
    means = counted / counted.sum(-1, keepdim=True).clamp(min=1)
    return means / (means[..., 0].numel() if counted.ndim > 1 else 1)


@mistake("reduction-ignored", *BY_TOKEN, "attention_transfer", "mse_hidden")
def without_reduction(f):
    return lambda *arrays, reduction="mean", **own: f(*arrays, **own)


@mistake("upstream-ignored", *BY_TOKEN, "attention_transfer", "mse_hidden")
def weight_ignored(f):
    right = with_gradient_of(f, f, wrt(f))

    def mistaken(*arrays, **own):
        loss, vjp = right(*arrays, **own)
        return loss, lambda w=1.0: vjp()

    return mistaken


@mistake("sign", *BY_TOKEN, "attention_transfer", "mse_hidden")
def sign_flipped(f):
    return scaled_gradient(f, lambda **own: -1.0, wrt(f))


def masked_by(change_mask):
    def change(f):
        return lambda *arrays, mask=None, **own: f(*arrays, mask=None if mask is None else change_mask(mask), **own)

    return change


def running(mask):
    return mask.long().cummax(-1).values.bool()


MASKED = (*BY_TOKEN, *FUSED, "attention_transfer", "mse_hidden")
mistake("mask-ignored", *MASKED)(masked_by(lambda mask: None))
mistake("mask-inverted", *MASKED)(masked_by(torch.logical_not))
mistake("padding-counted", *MASKED)(masked_by(running))
mistake("prompt-counted", *MASKED)(masked_by(lambda mask: running(mask.flip(-1)).flip(-1)))
mistake("mask-missing-in-gradient", *MASKED)(lambda f: with_gradient_of(f, masked_by(lambda mask: None)(f), wrt(f)))


@mistake("mask-multiplied", *UNBOUNDED, "cross_entropy")
def mask_multiplied(f):
    def mistaken(*arrays, mask=None, reduction="mean", **own):
        if mask is None:
            return f(*arrays, reduction=reduction, **own)
        losses = f(*arrays, reduction="none", **own) * mask
        counted = counted_by(arrays, mask)
        return losses if reduction == "none" else losses.sum() / (counted.sum() if reduction == "mean" else 1)

    return mistaken


@mistake("temperature-ignored", *WITH_TEMPERATURE)
def temperature_ignored(f):
    return lambda *arrays, temperature=1.0, **own: f(*arrays, **own)


@mistake("temperature-multiplied", *WITH_TEMPERATURE, "sparse_kl")
def temperature_multiplied(f):
    return lambda *arrays, temperature=1.0, **own: f(*arrays, temperature=1 / temperature, **own)


@mistake("temperature-on-the-student-only", *WITH_TEMPERATURE)
def teacher_without_temperature(f):
    return lambda z, u, *labels, temperature=1.0, **own: f(z, temperature * u, *labels, temperature=temperature, **own)


@mistake("temperature-on-the-teacher-only", *WITH_TEMPERATURE)
def student_without_temperature(f):
    return lambda z, u, *others, temperature=1.0, **own: f(temperature * z, u, *others, temperature=temperature, **own)


MISTAKES["sparse_kl", "temperature-ignored"] = student_without_temperature(sparse_kl)


@mistake("temperature-squared", *WITH_TEMPERATURE, "sparse_kl")
def times_squared_temperature(f):
    return lambda *arrays, temperature=1.0, **own: temperature**2 * f(*arrays, temperature=temperature, **own)


@mistake("no-temperature-in-gradient", *WITH_TEMPERATURE, "sparse_kl")
def gradient_without_temperature(f):
    return scaled_gradient(f, lambda temperature=1.0, **own: temperature)


def unstable(logits, temperature=1.0):
    """The logarithm of a softmax without the largest entry subtracted."""
    powers = torch.exp(logits / temperature)
    return torch.log(powers / powers.sum(-1, keepdim=True))


def of_probabilities(logits, temperature=1.0):
    """The logarithm of a softmax."""
    return torch.log(torch.softmax(logits / temperature, -1))


def on_changed(logarithm):
    """The loss of logits that are such logarithms."""

    def change(f):
        def mistaken(*arrays, temperature=1.0, **own):
            arrays = [logarithm(x, temperature) if x.is_floating_point() and x.ndim > 1 else x for x in arrays]
            return f(*arrays, **({"temperature": 1.0} if "temperature" in own or temperature != 1 else {}), **own)

        return mistaken

    return change


mistake("no-max-subtraction", *DIVERGENCES, "universal_logit_distance", "decoupled_kd", "cross_entropy")(
    on_changed(unstable)
)
mistake("log-of-softmax", *UNBOUNDED, "cross_entropy")(on_changed(of_probabilities))
for name, logarithm in (("no-max-subtraction", unstable), ("log-of-softmax", of_probabilities)):
    plant(
        "sparse_kl",
        name,
        lambda z, *teacher, temperature=1.0, logarithm=logarithm, **own: sparse_kl(
            logarithm(z, temperature), *teacher, **own
        ),
    )
plant(
    "minillm_loss",
    "no-max-subtraction",
    lambda z, u, *others, **own: minillm_loss(unstable(z), unstable(u), *others, **own),
)


def unstable_objective(logarithm):
    def mistaken(z, u, labels, *, alpha=0.5, temperature=2.0, mask=None, reduction="mean"):
        counted = counted_in(z, mask, labels)
        alpha = alpha[counted] if torch.is_tensor(alpha) else alpha
        z, u, labels = z[counted], u[counted], labels[counted]
        soft = temperature**2 * kl(logarithm(u, temperature), logarithm(z, temperature))
        hard = -logarithm(z).gather(-1, labels[:, None])[:, 0]
        return reduced(alpha * soft + (1 - alpha) * hard, counted, reduction)

    return mistaken


plant("distillation_loss", "no-max-subtraction", unstable_objective(unstable))
plant("distillation_loss", "log-of-softmax", unstable_objective(of_probabilities))


@mistake("teacher-shifted", *(name for name in PAIRS if name != "universal_logit_distance"))
def next_teacher(f):
    return lambda z, u, *others, **own: f(z, u.roll(-1, -2), *others, **own)


@mistake("teacher-for-student", *(name for name in PAIRS if name != "universal_logit_distance"))
def teacher_for_student(f):
    return lambda z, u, *others, **own: f(u + 0 * torch.where(torch.isfinite(z), z, 0), u, *others, **own)


def at_the_other(f):
    """f with student and teacher exchanged; the gradient is for the second argument."""

    def mistaken(z, u, *others, **own):
        u = u.clone().requires_grad_()
        loss = f(u, z, *others, **own)
        return loss, gradients_of(loss, [u])

    return mistaken


mistake(
    "arguments-exchanged",
    *(name for name in PAIRS if name not in ("universal_logit_distance", "mse_logits")),
    "cosine_hidden",
)(at_the_other)
plant("cosine_hidden", "arguments-exchanged", at_the_other(cosine_hidden))


def of_labels(change_labels):
    def change(f):
        return lambda *arrays, **own: f(*(change_labels(x) if x.dtype == torch.int64 else x for x in arrays), **own)

    return change


mistake("labels-shifted", *LABELLED, *FUSED)(of_labels(lambda labels: labels.roll(-1, -1)))
mistake("ignored-label-counted", *LABELLED, *FUSED)(of_labels(lambda labels: labels.clamp(min=0)))


@mistake("shifted-inside", *LABELLED, *FUSED)
def shifted_inside(f):
    def mistaken(*arrays, mask=None, **own):
        labels = next(x for x in arrays if x.dtype == torch.int64)
        if labels.shape[-1] == 1:
            return f(*arrays, mask=mask, **own)
        later = labels.roll(-1, -1)
        later[..., -1] = -100
        mask = mask if mask is None else mask.roll(-1, -1)
        return f(*(later if x is labels else x for x in arrays), mask=mask, **own)

    return mistaken


@mistake("base-2", *WITH_LOGARITHMS, "cross_entropy")
def in_bits(f):
    return lambda *arrays, **own: f(*arrays, **own) / math.log(2)


def taken_for(f, **parameters):
    """f in another's place, without that one's own parameters."""

    def mistaken(*arrays, temperature=1.0, mask=None, reduction="mean", **own):
        return f(*arrays, temperature=temperature, mask=mask, reduction=reduction, **parameters)

    return mistaken


# The divergences, each in its own way


def naive_kl(log_p, log_q):
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def logs(z, u, temperature):
    return log_softmax(u, temperature), log_softmax(z, temperature)


def naive_jsd(z, u, temperature, beta=0.5, scaled=False):
    log_p, log_q = logs(z, u, temperature)
    if beta in (0, 1):
        return naive_kl(log_q, log_p) if beta else naive_kl(log_p, log_q)
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log(1 - beta))
    loss = beta * naive_kl(log_p, log_m) + (1 - beta) * naive_kl(log_q, log_m)
    return loss / (beta * (1 - beta)) if scaled else loss


def mixed_probabilities(z, u, temperature, beta=0.5, scaled=False):
    p, q = softmax(u, temperature), softmax(z, temperature)
    if beta in (0, 1):
        return (q * (q / p).log()).sum(-1) if beta else (p * (p / q).log()).sum(-1)
    m = beta * p + (1 - beta) * q
    loss = beta * (p * (p / m).log()).sum(-1) + (1 - beta) * (q * (q / m).log()).sum(-1)
    return loss / (beta * (1 - beta)) if scaled else loss


def skewed(pure, naively=False, probabilities=False):
    def rows(z, u, temperature, alpha=0.1):
        log_p, log_q = logs(z, u, temperature)
        share = alpha if pure == "p" else 1 - alpha
        if probabilities:
            p, q = log_p.exp(), log_q.exp()
            log_m, (log_p, log_q) = (share * p + (1 - share) * q).log(), (p.log(), q.log())
        else:
            log_m = torch.logaddexp(log_p + math.log(share or 1e-300), log_q + math.log(1 - share or 1e-300))
        return naive_kl(log_p if pure == "p" else log_q, log_m)

    return rows


for name, rows in {
    "soft_cross_entropy": lambda z, u, t: -(softmax(u, t) * log_softmax(z, t)).sum(-1),
    "forward_kl": lambda z, u, t: naive_kl(*logs(z, u, t)),
    "reverse_kl": lambda z, u, t: naive_kl(*logs(u, z, t)),
    "js": naive_jsd,
    "generalized_jsd": naive_jsd,
    "skew_forward_kl": skewed("p"),
    "skew_reverse_kl": skewed("q"),
}.items():
    plant(name, "zero-times-log-zero", over_tokens(rows))
plant(
    "symmetric_kl",
    "zero-times-log-zero",
    lambda *arrays, weight=0.5, **own: sum(
        w * MISTAKES[f, "zero-times-log-zero"](*arrays, **own)
        for w, f in ((weight, "forward_kl"), (1 - weight, "reverse_kl"))
        if w
    ),
)
plant("js", "mixture-in-probability-space", over_tokens(mixed_probabilities))
plant("generalized_jsd", "mixture-in-probability-space", over_tokens(mixed_probabilities))
plant("skew_forward_kl", "mixture-in-probability-space", over_tokens(skewed("p", probabilities=True)))
plant("skew_reverse_kl", "mixture-in-probability-space", over_tokens(skewed("q", probabilities=True)))


def hard_labels(z, u, *, temperature=1.0, **own):
    return cross_entropy(z, u.argmax(-1), **own)


def top_k(tail, renormalized=False):
    def mistaken(z, u, *, temperature=1.0, **own):
        ids = u.sort(dim=-1, descending=True, stable=True).indices[..., :3]
        logprobs = log_softmax(u, temperature).gather(-1, ids)
        return sparse_kl(
            z, ids, log_softmax(logprobs) if renormalized else logprobs, tail=tail, temperature=temperature, **own
        )

    return mistaken


@over_tokens
def minus_p(z, u, temperature):
    return -(softmax(u, temperature) * z.clamp(min=-1e300)).sum(-1)


@over_tokens
def minus_p_over_q(z, u, temperature):
    log_p, log_q = logs(z, u, temperature)
    return -((log_p - log_q).exp().detach() * z.clamp(min=-1e300)).sum(-1)


def gradient_at_the_teacher(f):
    def mistaken(z, u, **own):
        u = u.clone().requires_grad_()
        loss = f(z, u, **own)
        return loss, gradients_of(loss, [u])

    return mistaken


plant("forward_kl", "reverse-kl", reverse_kl)
plant("forward_kl", "cross-entropy", soft_cross_entropy)
plant("forward_kl", "js", js)
plant("forward_kl", "hard-labels", hard_labels)
plant("forward_kl", "truncated", top_k("zero"))
plant("forward_kl", "teacher-renormalized", top_k("zero", renormalized=True))
plant("forward_kl", "top-k-renormalized", top_k("renormalize"))
plant("forward_kl", "top-k-bucket", top_k("bucket"))
plant(
    "forward_kl",
    "terms-clamped",
    over_tokens(lambda z, u, t: times(softmax(u, t), log_softmax(u, t) - log_softmax(z, t)).clamp(min=0).sum(-1)),
)
plant(
    "forward_kl",
    "epsilon-in-logarithm",
    over_tokens(lambda z, u, t: times(softmax(u, t), log_softmax(u, t) - torch.log(softmax(z, t) + 1e-8)).sum(-1)),
)
plant("forward_kl", "gradient-at-log-probabilities", with_gradient_of(forward_kl, minus_p))
plant("forward_kl", "gradient-at-probabilities", with_gradient_of(forward_kl, minus_p_over_q))
plant("forward_kl", "gradient-at-the-teacher", gradient_at_the_teacher(forward_kl))

plant("soft_cross_entropy", "kl", forward_kl)
plant("soft_cross_entropy", "hard-labels", hard_labels)
reverse_cross_entropy = over_tokens(lambda z, u, t: -times(softmax(z, t), log_softmax(u, t)).sum(-1))
plant("soft_cross_entropy", "reverse", reverse_cross_entropy)

plant("reverse_kl", "forward-kl", forward_kl)
plant("reverse_kl", "js", js)
plant("reverse_kl", "gradient-of-forward-kl", with_gradient_of(reverse_kl, forward_kl))
plant("reverse_kl", "student-detached", scaled_gradient(reverse_kl, lambda **own: 0.0))
plant("reverse_kl", "gradient-at-the-teacher", gradient_at_the_teacher(reverse_kl))
plant("reverse_kl", "cross-entropy", reverse_cross_entropy)
plant(
    "reverse_kl",
    "gradient-not-centred",
    with_gradient_of(
        reverse_kl,
        over_tokens(
            lambda z, u, t: (
                (times(softmax(z, t), log_softmax(z, t) - log_softmax(u, t)).detach() * z.clamp(min=-1e300)).sum(-1) / t
            )
        ),
    ),
)

plant("symmetric_kl", "weights-exchanged", lambda *a, weight=0.5, **own: symmetric_kl(*a, weight=1 - weight, **own))
plant("symmetric_kl", "weight-ignored", taken_for(symmetric_kl))
plant("symmetric_kl", "sum-of-both", lambda *a, weight=0.5, **own: 2 * symmetric_kl(*a, **own))
plant("symmetric_kl", "js", taken_for(js))
plant("symmetric_kl", "forward-kl", taken_for(forward_kl))
plant("symmetric_kl", "reverse-kl", taken_for(reverse_kl))

plant("total_variation", "not-halved", lambda *a, **own: 2 * total_variation(*a, **own))
plant("total_variation", "squared", over_tokens(lambda z, u, t: ((softmax(z, t) - softmax(u, t)) ** 2).sum(-1) / 2))
plant(
    "total_variation",
    "gradient-not-centred",
    with_gradient_of(
        total_variation,
        over_tokens(
            lambda z, u, t: (
                (softmax(z, t) * (softmax(z, t) - softmax(u, t)).sign() / 2 * z.new_ones(1) / t)
                .detach()
                .mul(z.clamp(min=-1e300))
                .sum(-1)
            )
        ),
    ),
)

plant("js", "not-halved", lambda *a, **own: 2 * js(*a, **own))
plant("js", "symmetric-kl", symmetric_kl)
plant("js", "teacher-half", lambda *a, **own: skew_forward_kl(*a, alpha=0.5, **own))
plant("js", "student-half", lambda *a, **own: skew_reverse_kl(*a, alpha=0.5, **own))


@over_tokens
def mixed_logits(z, u, temperature):
    log_m = log_softmax(between(0.5, z, u), temperature)
    log_p, log_q = logs(z, u, temperature)
    return (kl(log_p, log_m) + kl(log_q, log_m)) / 2


plant("js", "mixture-of-logits", mixed_logits)


def own_weights(first, mixture):
    def rows(z, u, temperature, beta=0.5, scaled=False):
        log_p, log_q = logs(z, u, temperature)
        if beta in (0, 1):
            return kl(log_q, log_p) if beta else kl(log_p, log_q)
        log_m = log_mixture(mixture(beta), log_p, log_q)
        loss = first(beta) * kl(log_p, log_m) + (1 - first(beta)) * kl(log_q, log_m)
        return loss / (beta * (1 - beta)) if scaled else loss

    return over_tokens(rows)


def ends(at_end):
    def mistaken(*arrays, beta=0.5, **own):
        return at_end(*arrays, beta=beta, **own) if beta in (0, 1) else generalized_jsd(*arrays, beta=beta, **own)

    return mistaken


plant("generalized_jsd", "mixture-exchanged", own_weights(lambda beta: beta, lambda beta: 1 - beta))
plant("generalized_jsd", "kls-exchanged", own_weights(lambda beta: 1 - beta, lambda beta: beta))
plant("generalized_jsd", "beta-for-the-student", lambda *a, beta=0.5, **own: generalized_jsd(*a, beta=1 - beta, **own))
plant("generalized_jsd", "ends-exchanged", ends(lambda *a, beta, **own: generalized_jsd(*a, beta=1 - beta, **own)))
plant("generalized_jsd", "undefined-ends", ends(lambda *a, beta, scaled, **own: js(*a, **own) * (0.0 * torch.inf)))
plant("generalized_jsd", "js", taken_for(js))


def collapsing(*arrays, beta=0.5, scaled=False, **own):
    return 0 * js(*arrays, **own) if beta in (0, 1) else generalized_jsd(*arrays, beta=beta, **own)


plant("generalized_jsd", "collapsing", collapsing)


def other_alpha(f):
    return lambda *a, alpha=0.1, **own: f(*a, alpha=1 - alpha, **own) if alpha else 0 * f(*a, alpha=0.5, **own)


for name, f, pure in (
    ("skew_forward_kl", skew_forward_kl, "forward_kl"),
    ("skew_reverse_kl", skew_reverse_kl, "reverse_kl"),
):
    plant(name, "weights-exchanged", other_alpha(f))
    plant(name, "alpha-ignored", taken_for(f))
    plant(name, pure.replace("_", "-"), taken_for(RIGHT[pure]))
plant("skew_forward_kl", "skew-reverse-kl", skew_reverse_kl)
plant("skew_reverse_kl", "skew-forward-kl", skew_forward_kl)
plant(
    "skew_forward_kl", "mixture-in-gradient", scaled_gradient(skew_forward_kl, lambda alpha=0.1, **own: 1 / (1 - alpha))
)
plant(
    "skew_forward_kl",
    "mixture-of-logits",
    over_tokens(lambda z, u, t, alpha=0.1: kl(log_softmax(u, t), log_softmax(between(alpha, z, u) if alpha else z, t))),
)
plant(
    "skew_reverse_kl",
    "mixture-detached",
    over_tokens(lambda z, u, t, alpha=0.1: kl(log_softmax(z, t), log_mixture(1 - alpha, *logs(z, u, t)).detach())),
)

plant("alpha_divergence", "alpha-exchanged", lambda *a, alpha=0.5, **own: alpha_divergence(*a, alpha=1 - alpha, **own))
plant("alpha_divergence", "alpha-ignored", taken_for(alpha_divergence))
plant(
    "alpha_divergence",
    "not-scaled",
    lambda *a, alpha=0.5, **own: alpha * (1 - alpha) * alpha_divergence(*a, alpha=alpha, **own),
)


@over_tokens
def renyi(z, u, temperature, alpha=0.5):
    log_p, log_q = logs(z, u, temperature)
    if alpha in (0, 1):
        return kl(log_p, log_q) if alpha else kl(log_q, log_p)
    return -(alpha * log_p + (1 - alpha) * log_q).exp().sum(-1).log() / (alpha * (1 - alpha))


plant("alpha_divergence", "renyi", renyi)

plant("taid", "t-exchanged", lambda *a, t=0.5, **own: taid(*a, t=1 - t, **own))
plant("taid", "t-ignored", taken_for(taid))
plant("taid", "forward-kl", taken_for(forward_kl))
plant(
    "taid",
    "probabilities-mixed",
    over_tokens(
        lambda z, u, temperature, t=0.5: kl(
            log_mixture(t, *logs(z, u, temperature)).detach(), log_softmax(z, temperature)
        )
    ),
)
plant(
    "taid",
    "target-not-detached",
    over_tokens(
        lambda z, u, temperature, t=0.5: kl(
            log_softmax(between(t, z, u) if 0 < t < 1 else u if t else z, temperature), log_softmax(z, temperature)
        )
    ),
)


# The logits themselves, and two vocabularies


def on_probabilities(f):
    return lambda z, u, **own: f(torch.softmax(z, -1), torch.softmax(u, -1), **own)


def centred(f):
    def without_mean(x):
        there = torch.isfinite(x)
        mean = torch.where(there, x, 0).sum(-1, keepdim=True) / there.sum(-1, keepdim=True)
        return torch.where(there, x - mean, x)

    return lambda z, u, **own: f(without_mean(z), without_mean(u), **own)


for name in ON_LOGITS:
    plant(name, "of-probabilities", on_probabilities(RIGHT[name]))
    plant(name, "centred", centred(RIGHT[name]))
plant("mse_logits", "sum-over-vocabulary", lambda z, *others, **own: z.shape[-1] * mse_logits(z, *others, **own))
plant("mse_logits", "halved", lambda *a, **own: mse_logits(*a, **own) / 2)
plant("mse_logits", "factor-2-missing-in-gradient", scaled_gradient(mse_logits, lambda **own: 0.5))
plant("mse_logits", "absolute", over_tokens(lambda z, u, t: finite_gap(z, u).abs().mean(-1)))


def similarity(f):
    def mistaken(*arrays, mask=None, reduction="mean"):
        counted = counted_in(arrays[0], mask)
        one = {"mean": 1.0, "sum": counted.sum(), "none": counted * 1.0}[reduction]
        return one - f(*arrays, mask=mask, reduction=reduction)

    return mistaken


plant("cosine_logits", "similarity", similarity(cosine_logits))
plant("cosine_hidden", "similarity", similarity(cosine_hidden))


@over_tokens
def norm_detached(z, u, temperature):
    neither = torch.isneginf(z) & torch.isneginf(u)
    z, u = (torch.where(neither, 0, x) for x in (z, u))
    return 1 - (z * u).sum(-1) / (z.norm(dim=-1).detach() * u.norm(dim=-1))


plant("cosine_logits", "norm-detached", norm_detached)


def two_sorted(z, u, temperature, *, order=True, factor=1.0):
    p, q = softmax(u, temperature), softmax(z, temperature)
    width = max(p.shape[-1], q.shape[-1])
    if order is not None:
        p, q = (x.sort(dim=-1, descending=order).values for x in (p, q))
    p, q = (F.pad(x, (0, width - x.shape[-1])) for x in (p, q))
    return factor * (p - q).abs().sum(-1)


plant("universal_logit_distance", "halved", over_tokens(lambda *a: two_sorted(*a, factor=0.5)))
plant("universal_logit_distance", "not-sorted", over_tokens(lambda *a: two_sorted(*a, order=None)))
plant("universal_logit_distance", "sorted-upwards", over_tokens(lambda *a: two_sorted(*a, order=False)))


def still_sorted(z, *others, **own):
    loss, vjp = with_gradient_of(universal_logit_distance, universal_logit_distance)(z, *others, **own)
    order = z.sort(dim=-1, descending=True, stable=True).indices
    return loss, lambda w=1.0: vjp(w).gather(-1, order)


plant("universal_logit_distance", "gradient-not-sorted-back", still_sorted)


# Hard labels and the objective

plant(
    "cross_entropy",
    "softmax-twice",
    lambda logits, *others, **own: cross_entropy(torch.softmax(logits, -1), *others, **own),
)
plant(
    "cross_entropy",
    "label-missing-in-gradient",
    with_gradient_of(
        cross_entropy,
        lambda logits, labels, *, mask=None, reduction="mean": reduced(
            torch.logsumexp(logits, -1)[counted_in(logits, mask, labels)], counted_in(logits, mask, labels), reduction
        ),
    ),
)


def smoothed(logits, labels, *, mask=None, reduction="mean"):
    counted = counted_in(logits, mask, labels)
    z, labels = logits[counted], labels[counted]
    there = torch.isfinite(z)
    p = 0.9 * F.one_hot(labels, z.shape[-1]) + 0.1 * there / there.sum(-1, keepdim=True)
    return reduced(-times(p, log_softmax(z)).sum(-1), counted, reduction)


plant("cross_entropy", "smoothed", smoothed)


def objective(soft=None, hard=None, *, power=2, weights=lambda alpha: (alpha, 1 - alpha), alpha_of=lambda alpha: alpha):
    """weights[0] T^power soft(z, u, T) + weights[1] hard(z, u, labels, T), token by token."""
    soft = soft or forward_rows
    hard = hard or (lambda z, u, labels, t: F.cross_entropy(z, labels, reduction="none"))

    def mistaken(z, u, labels, *, alpha=0.5, temperature=2.0, mask=None, reduction="mean"):
        counted = counted_in(z, mask, labels)
        alpha = alpha_of(alpha)
        alpha = alpha[counted] if torch.is_tensor(alpha) and alpha.ndim else alpha
        z, u, labels = z[counted], u[counted], labels[counted]
        of_soft, of_hard = weights(alpha)
        losses = of_soft * temperature**power * soft(z, u, temperature) + of_hard * hard(z, u, labels, temperature)
        return reduced(losses, counted, reduction)

    return mistaken


def rows_of(f):
    return lambda z, u, t: f(z, u, temperature=t, reduction="none")


def forward_rows(z, u, t):
    return kl(log_softmax(u, t), log_softmax(z, t))


def detached(f):
    return lambda *arguments: f(*arguments).detach()


def ce(z, labels):
    return F.cross_entropy(z, labels, reduction="none")


OBJECTIVES = {
    "no-squared-temperature": objective(power=0),
    "temperature-not-squared": objective(power=1),
    "temperature-squared-twice": objective(power=4),
    "weights-exchanged": objective(weights=lambda alpha: (1 - alpha, alpha)),
    "hard-weight-missing": objective(weights=lambda alpha: (alpha, 1.0)),
    "soft-weight-missing": objective(weights=lambda alpha: (1.0, 1 - alpha)),
    "weights-missing": objective(weights=lambda alpha: (1.0, 1.0)),
    "alpha-ignored": objective(weights=lambda alpha: (0.5, 0.5)),
    "alpha-averaged": objective(alpha_of=lambda alpha: alpha.mean() if torch.is_tensor(alpha) else alpha),
    "reverse-kl": objective(rows_of(reverse_kl)),
    "cross-entropy": objective(rows_of(soft_cross_entropy)),
    "js": objective(rows_of(js)),
    "mean-over-vocabulary": objective(lambda z, u, t: forward_rows(z, u, t) / z.shape[-1]),
    "hard-labels-at-temperature": objective(hard=lambda z, u, labels, t: ce(z / t, labels)),
    "hard-labels-times-squared-temperature": objective(hard=lambda z, u, labels, t: t**2 * ce(z, labels)),
    "teacher-on-the-labels": objective(hard=lambda z, u, labels, t: ce(u, labels)),
    "hard-term-without-gradient": objective(hard=lambda z, u, labels, t: ce(z, labels).detach()),
    "soft-term-without-gradient": objective(detached(forward_rows)),
    **{
        name: objective(rows_of(MISTAKES["forward_kl", name]))
        for name in (
            "temperature-ignored",
            "temperature-multiplied",
            "temperature-on-the-student-only",
            "temperature-on-the-teacher-only",
        )
    },
    "no-temperature-in-gradient": objective(
        lambda z, u, t: (1 - t) * forward_rows(z, u, t).detach() + t * forward_rows(z, u, t)
    ),
}
for name, f in OBJECTIVES.items():
    plant("distillation_loss", name, f)


def apart(z, u, labels, soft_mask, hard_mask, *, alpha=0.5, temperature=2.0, reduction="mean"):
    alpha = alpha.mean() if torch.is_tensor(alpha) else alpha
    soft = forward_kl(z, u, temperature=temperature, mask=soft_mask, reduction=reduction)
    return alpha * temperature**2 * soft + (1 - alpha) * cross_entropy(z, labels, mask=hard_mask, reduction=reduction)


plant(
    "distillation_loss",
    "unlabelled-in-soft-term",
    lambda z, u, labels, mask=None, **own: apart(z, u, labels, mask, mask, **own),
)
plant(
    "distillation_loss",
    "mask-missing-in-soft-term",
    lambda z, u, labels, mask=None, **own: apart(z, u, labels, labels != -100, mask, **own),
)
plant(
    "distillation_loss",
    "mask-missing-in-hard-term",
    lambda z, u, labels, mask=None, **own: apart(z, u, labels, counted_in(z, mask, labels), None, **own),
)


def fused_objective(f):
    return lambda h, w, v, x, labels, **own: f(h @ w.T, v @ x.T, labels, **own)


for name in (
    "no-squared-temperature",
    "temperature-squared-twice",
    "weights-exchanged",
    "reverse-kl",
    "cross-entropy",
    "no-temperature-in-gradient",
):
    plant("linear_distillation_loss", name, fused_objective(OBJECTIVES[name]))
for name, right in (
    ("linear_cross_entropy", linear_cross_entropy),
    ("linear_distillation_loss", linear_distillation_loss),
):
    plant(name, "weight-gradient-forgotten", lambda h, w, *others, f=right, **own: f(h, w.detach(), *others, **own))
    plant(name, "hidden-gradient-forgotten", lambda h, w, *others, f=right, **own: f(h.detach(), w, *others, **own))


def weight_transposed(f):
    right = with_gradient_of(f, f, (0, 1))

    def mistaken(*arrays, **own):
        loss, vjp = right(*arrays, **own)
        return loss, lambda w=1.0: (vjp(w)[0], vjp(w)[1].T)

    return mistaken


mistake("weight-gradient-transposed", *FUSED)(weight_transposed)
plant(
    "linear_cross_entropy",
    "mean-of-blocks",
    averaged(
        lambda counted, classes: torch.cat(
            [
                block / block.sum().clamp(min=1) / math.ceil(counted.numel() / 128)
                for block in counted.reshape(-1).split(128)
            ]
        ).reshape(counted.shape)
    )(linear_cross_entropy),
)

# Decoupled KD and MiniLLM

plant(
    "decoupled_kd",
    "weights-exchanged",
    lambda *a, alpha=1.0, beta=8.0, **own: decoupled_kd(*a, alpha=beta, beta=alpha, **own),
)
plant("decoupled_kd", "alpha-ignored", lambda *a, alpha=1.0, **own: decoupled_kd(*a, **own))
plant("decoupled_kd", "beta-ignored", lambda *a, beta=8.0, **own: decoupled_kd(*a, **own))


def whole_kl(z, u, labels, *, mask=None, **own):
    return forward_kl(z, u, mask=counted_in(z, mask, labels), **own)


plant("decoupled_kd", "not-decoupled", lambda *a, alpha=1.0, beta=8.0, **own: whole_kl(*a, **own))
plant(
    "decoupled_kd",
    "still-coupled",
    lambda *a, alpha=1.0, beta=8.0, **own: (
        decoupled_kd(*a, alpha=alpha - beta, beta=0.0, **own) + beta * whole_kl(*a, **own)
    ),
)
plant(
    "decoupled_kd",
    "label-among-the-rest",
    lambda *a, alpha=1.0, beta=8.0, **own: decoupled_kd(*a, alpha=alpha, beta=0.0, **own) + beta * whole_kl(*a, **own),
)


def label_is_0(z, u, labels, *, alpha=1.0, beta=8.0, **own):
    at_label = F.one_hot(labels.clamp(min=0), z.shape[-1]).bool() & (labels >= 0)[..., None]
    rest = whole_kl(*(torch.where(at_label, 0, x) for x in (z, u)), labels, **own)
    return decoupled_kd(z, u, labels, alpha=alpha, beta=0.0, **own) + beta * rest


plant("decoupled_kd", "label-set-to-0", label_is_0)

for name, dropped in (
    ("alpha-ignored", "alpha"),
    ("single-step-ignored", "single_step"),
    ("length-normalize-ignored", "length_normalize"),
):
    plant(
        "minillm_loss",
        name,
        lambda *a, dropped=dropped, **own: minillm_loss(
            *a, **{key: value for key, value in own.items() if key != dropped}
        ),
    )
plant("minillm_loss", "no-importance-weight", lambda *a, alpha=0.2, **own: minillm_loss(*a, alpha=0.0, **own))
plant(
    "minillm_loss",
    "alpha-exchanged",
    lambda *a, alpha=0.2, **own: minillm_loss(*a, alpha=1 - alpha if alpha else 0, **own),
)


def of_tokens(f):
    return lambda z, u, tokens, *, mask=None, reduction="mean", **own: f(
        z, u, tokens, {"mask": counted_in(z, mask, tokens), "reduction": reduction}
    )


steps_alone = of_tokens(lambda z, u, tokens, common: reverse_kl(z, u, **common))
plant("minillm_loss", "steps-alone", steps_alone)
plant("minillm_loss", "cross-entropy", of_tokens(lambda z, u, tokens, common: cross_entropy(z, tokens, **common)))
plant("minillm_loss", "gradient-of-steps-alone", with_gradient_of(minillm_loss, steps_alone))

# Sparse teachers and hidden states


def always(tail):
    return lambda *a, tail="bucket", always=tail, **own: sparse_kl(*a, tail=always, **own)


for name, tail in (("always-bucket", "bucket"), ("always-truncated", "zero"), ("always-renormalized", "renormalize")):
    plant("sparse_kl", name, always(tail))


def teacher_renormalized(for_tail):
    def mistaken(z, ids, logprobs, *, tail="bucket", **own):
        if tail != for_tail:
            return sparse_kl(z, ids, logprobs, tail=tail, **own)
        return sparse_kl(z, ids, log_softmax(logprobs), tail="zero", **own)

    return mistaken


plant("sparse_kl", "teacher-renormalized", teacher_renormalized("renormalize"))
plant("sparse_kl", "renormalized-for-bucket", teacher_renormalized("bucket"))


def clamped(z, *teacher, mask=None, reduction="mean", **own):
    losses = sparse_kl(z, *teacher, mask=mask, reduction="none", **own).clamp(min=0)
    return losses if reduction == "none" else losses.sum() / (counted_in(z, mask).sum() if reduction == "mean" else 1)


plant("sparse_kl", "clamped", clamped)
plant(
    "sparse_kl",
    "first-entries",
    lambda z, ids, *a, **own: sparse_kl(z, torch.arange(ids.shape[-1]).expand_as(ids), *a, **own),
)
plant("sparse_kl", "mean-over-ids", lambda z, ids, *a, **own: sparse_kl(z, ids, *a, **own) / ids.shape[-1])


def with_all_of_q(z, ids, logprobs, *, tail="bucket", temperature=1.0, **own):
    loss = sparse_kl(z, ids, logprobs, tail=tail, temperature=temperature, **own)
    if tail == "zero":
        left = 1 - logprobs.exp().sum(-1)
        loss = loss + (left * torch.logsumexp(z / temperature, -1)).mean()
    return loss


plant("sparse_kl", "gradient-of-full-mass", with_gradient_of(sparse_kl, with_all_of_q))


def times_factor(f, factor):
    return lambda *a, **own: factor(*a) * f(*a, **own)


plant("mse_hidden", "sum-over-channels", times_factor(mse_hidden, lambda s, t, p: t.shape[-1]))
plant("mse_hidden", "mean-over-student-channels", times_factor(mse_hidden, lambda s, t, p: t.shape[-1] / s.shape[-1]))
plant("mse_hidden", "halved", times_factor(mse_hidden, lambda *a: 0.5))
plant("mse_hidden", "factor-2-missing-in-gradient", scaled_gradient(mse_hidden, lambda **own: 0.5, (0, 2)))
plant("mse_hidden", "projection-gradient-forgotten", lambda s, t, p, **own: mse_hidden(s, t, p.detach(), **own))
plant("mse_hidden", "student-gradient-forgotten", lambda s, t, p, **own: mse_hidden(s.detach(), t, p, **own))
plant(
    "mse_hidden",
    "unit-vectors",
    lambda s, t, p, **own: mse_hidden(F.normalize(s @ p, dim=-1), F.normalize(t, dim=-1), **own),
)

plant(
    "cosine_hidden",
    "unit-length-missing",
    with_gradient_of(
        cosine_hidden, lambda s, t, **own: cosine_hidden(F.normalize(s.detach(), dim=-1) + s - s.detach(), t, **own)
    ),
)
plant(
    "cosine_hidden",
    "centred",
    lambda s, t, **own: cosine_hidden(s - s.mean(-1, keepdim=True), t - t.mean(-1, keepdim=True), **own),
)


@over_tokens
def undefined_at_zero(s, t, temperature):
    return 1 - (s * t).sum(-1) / (s.pow(2).sum(-1) * t.pow(2).sum(-1)).sqrt()


plant("cosine_hidden", "zero-is-nan", undefined_at_zero)


def of_maps(summed_map, normalised=True):
    def mistaken(student, teacher, *, mask=None, reduction="mean"):
        counted = counted_in(student, mask)
        maps = [torch.where(counted, summed_map(x), 0) for x in (student, teacher)]
        sequences = counted.any(-1)
        q_s, q_t = (F.normalize(x[sequences], dim=-1) if normalised else x[sequences] for x in maps)
        return reduced(((q_s - q_t) ** 2).sum(-1) / 2, sequences, reduction)

    return mistaken


def squares(x):
    return (x**2).sum(-1)


plant("attention_transfer", "not-halved", lambda *a, **own: 2 * attention_transfer(*a, **own))
plant("attention_transfer", "factor-2-missing-in-gradient", scaled_gradient(attention_transfer, lambda **own: 0.5))
plant("attention_transfer", "absolute-values", of_maps(lambda x: x.abs().sum(-1)))
plant("attention_transfer", "not-normalized", of_maps(squares, normalised=False))
plant("attention_transfer", "arguments-exchanged", at_the_other(attention_transfer))

plant("relation_kd", "heads-summed", lambda *a, n_head, **own: n_head * relation_kd(*a, n_head=n_head, **own))
plant("relation_kd", "one-head", lambda *a, n_head, **own: relation_kd(*a, n_head=1, **own))
plant("relation_kd", "half-of-the-gradient", scaled_gradient(relation_kd, lambda **own: 0.5))
plant(
    "relation_kd",
    "gradient-at-the-teacher",
    lambda *a, **own: (relation_kd(*a, **own), at_the_other(relation_kd)(*a, **own)[1]),
)


def lengthened(power):
    def mistaken(s, t, *, n_head, **own):
        s, t = (x * (x.shape[-1] // n_head) ** power for x in (s, t))
        return relation_kd(s, t, n_head=n_head, **own)

    return mistaken


plant("relation_kd", "not-scaled", lengthened(0.25))
plant("relation_kd", "scaled-by-size", lengthened(-0.25))


def keys_not_masked(s, t, *, n_head, mask=None, reduction="mean"):
    counted = counted_in(s, mask)
    return reduced(relation_kd(s, t, n_head=n_head, reduction="none")[counted], counted, reduction)


plant("relation_kd", "keys-not-masked", keys_not_masked)
