# %% [markdown]
# # 9. The family of divergences
#
# Besides the two KL divergences of lesson 8 there are Jensen-Shannon, its generalised and its skewed relatives, total
# variation, the alpha divergences: papers on distillation recommend each of them. Which are really different? How far
# can each be trusted with a student that is far from its teacher, and with one that is close?
#
# This lesson writes all of them in one line each, and looks at them in three places: far away, at the ends of their
# parameters, and so near that a computer's digits run out.
#
# You need: lessons 1, 3 and 8.

# %%
from decimal import Decimal, localcontext

import numpy as np

from minikd.lesson import check, figure
from minikd.losses import (
    alpha_divergence,
    forward_kl,
    generalized_jsd,
    js,
    reverse_kl,
    skew_forward_kl,
    skew_reverse_kl,
    total_variation,
)
from minikd.softmax import log_softmax, softmax

rng = np.random.default_rng(9)

# %% [markdown]
# ## One recipe
#
# **What do they have in common?** Take a function $f$ with $f(1) = 0$ that is convex (curved upwards), and average it
# over the student, at the ratio $r_i = p_i / q_i$ (Csiszár 1967; Ali & Silvey 1966):
#
# $$D_f(p, q) = \sum_i q_i \, f\!\left(\frac{p_i}{q_i}\right) \ge f\Big(\sum_i q_i \frac{p_i}{q_i}\Big) = f(1) = 0$$
#
# That it is never negative is Jensen's inequality, and it holds for all of them at once. So does the gradient: the
# slope $g_i = \partial D/\partial q_i = f(r_i) - r_i f'(r_i)$ reaches the logits through the softmax of lesson 1,
#
# $$T \, \frac{\partial D}{\partial z} = q \odot \Big(g - \sum_i q_i g_i\Big)$$
#
# A divergence is thus one function of one number. Try forward KL: $f = r \log r$ gives $g = r \log r - r(\log r + 1) =
# -r$, so $q g = -p$ and the gradient is $q - p$.

# %%
A, B = 0.1, 0.3  # the skew divergences' alpha, which is also their default; the generalised JSD's beta


def mix(r, share):
    return share * r + 1 - share  # (share p + (1 - share) q) / q


def f_jsd(r, beta):
    return beta * r * np.log(r / mix(r, beta)) - (1 - beta) * np.log(mix(r, beta))


family = {  # minikd's function and its parameters; f(r); f'(r)
    "forward KL": (forward_kl, {}, lambda r: r * np.log(r), lambda r: np.log(r) + 1),
    "reverse KL": (reverse_kl, {}, lambda r: -np.log(r), lambda r: -1 / r),
    "JS": (js, {}, lambda r: f_jsd(r, 0.5), lambda r: np.log(2 * r / (r + 1)) / 2),
    "generalised JSD": (generalized_jsd, {"beta": B}, lambda r: f_jsd(r, B), lambda r: B * np.log(r / mix(r, B))),
    "skew forward KL": (
        skew_forward_kl,
        {},
        lambda r: r * np.log(r / mix(r, A)),
        lambda r: np.log(r / mix(r, A)) + (1 - A) / mix(r, A),
    ),
    "skew reverse KL": (skew_reverse_kl, {}, lambda r: -np.log(mix(r, 1 - A)), lambda r: (A - 1) / mix(r, 1 - A)),
    "total variation": (total_variation, {}, lambda r: abs(r - 1) / 2, lambda r: np.sign(r - 1) / 2),
    "alpha divergence": (alpha_divergence, {}, lambda r: 4 * (1 - np.sqrt(r)), lambda r: -2 / np.sqrt(r)),
}

T = 3.0
z, u = 3 * rng.normal(size=(2, 50))
q, p = softmax(z, T)[0], softmax(u, T)[0]
for name, (divergence, parameters, f, slope) in family.items():
    value, vjp = divergence(z, u, temperature=T, **parameters)
    r = p / q
    g = f(r) - r * slope(r)
    check(f"{name}: minikd's value is the recipe's", value, q @ f(r), within=1e-14)
    check("    and its gradient", vjp(), q * (g - q @ g) / T, within=1e-15)

# %% [markdown]
# Some of them are another one with the roles exchanged, the teacher as student and the student as teacher:

# %%
z, u = z / T, u / T  # from here on at T = 1
check("reverse KL is forward KL exchanged", reverse_kl(z, u)[0], forward_kl(u, z)[0], within=1e-14)
for parameter in (0.1, 0.5, 0.8):
    there = alpha_divergence(z, u, alpha=parameter)[0], generalized_jsd(z, u, beta=parameter)[0]
    back = alpha_divergence(u, z, alpha=1 - parameter)[0], generalized_jsd(u, z, beta=1 - parameter)[0]
    check(f"alpha divergence and generalised JSD at {parameter} are those at the rest of 1", there, back, within=1e-14)
hellinger = ((np.sqrt(softmax(z)[0]) - np.sqrt(softmax(u)[0])) ** 2).sum() / 2
check("alpha = 1/2 is 4 squared Hellinger distances", alpha_divergence(z, u)[0], 4 * hellinger, within=1e-14)

# %% [markdown]
# ## Far away: who still pulls?
#
# Two words; the teacher says the first with 90%. The student's logit for it runs from −12 (it is sure of the other
# word) to 12. **How large are the divergences of a student that is confidently wrong, and how hard do they pull?**
#
# Some are *bounded*: JS never exceeds $\ln 2$, total variation 1, the skew divergences $\ln\frac{1}{\alpha}$, the alpha
# divergence $\frac{1}{\alpha(1-\alpha)}$, the generalised JSD the entropy of a coin,
# $-\beta\ln\beta - (1-\beta)\ln(1-\beta)$. But a curve that is bounded and rises towards its bound must become flat:
# its gradient vanishes. Reverse KL has no bound in general, but it has one here: a teacher that gives every word at
# least 10% lets it rise no higher than $\ln\frac{1}{0.1}$. Forward KL alone rises with the logit.

# %%
line = np.linspace(-12, 12, 481)
student = np.stack([line, np.zeros_like(line)], axis=-1)
teacher = np.broadcast_to(np.log([0.9, 0.1]), student.shape)
values, pulls = {}, {}
for name, (divergence, parameters, _, _) in family.items():
    values[name], vjp = divergence(student, teacher, reduction="none", **parameters)
    pulls[name] = vjp(np.ones(len(line)))[:, 0]

for name, pull in pulls.items():
    check(f"{name}: pulls up below the teacher's logit, down above", np.sign(pull) == np.sign(line - np.log(9)))
check("forward KL pulls at the confidently wrong with all of 0.9", pulls["forward KL"][0], -0.9, within=1e-4)
others = [abs(pull[0]) for name, pull in pulls.items() if name != "forward KL"]
check("no other with more than 0.01", np.max(others) < 0.01)

# %%
shown = {"forward KL": "C0", "reverse KL": "C1", "JS": "C2", "skew forward KL": "C3", "total variation": "C4"}
with figure("09-far") as fig:
    left, axes = fig.subplots(1, 2)
    for name, colour in shown.items():
        left.plot(line, values[name], color=colour, label=name)
        axes.plot(line, -pulls[name], color=colour, label=name)
    left.set(ylabel="divergence (nats)", ylim=(0, 4))
    left.set_title("Most are bounded …")
    axes.set(ylabel="pull on the logit (− gradient)", ylim=(-0.3, 1))
    axes.set_title("… and let go of who is far")
    axes.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.legend(loc="upper right")
    for each in (left, axes):
        each.axvline(np.log(9), color="0.85", zorder=0)
        each.set(xlabel="student's logit for the teacher's word", xlim=(-12, 12))
    left.text(np.log(9) + 0.3, 3.7, "teacher's", color="0.4")

# %% [markdown]
# Of all of them only forward KL still pulls at a student that is confidently wrong; its pull is the error $q - p$
# itself. That is what makes it a safe start, and a bounded divergence a slow one.
#
# **Are the bounds right, and are they reached?** A thousand pairs, from close to hopeless, and a pair that shares no
# word at all ($-\infty$ is a legal logit). The KLs are infinite there, the others at their bounds. And since total
# variation is what one can see with the eye, the shares that differ: how does it bound the others? Pinsker's
# inequality says $\mathrm{TV}^2 \le \frac12 \mathrm{KL}$, and with Hellinger's distance $H$ it is
# $H^2 \le \mathrm{TV} \le \sqrt{2} H$.

# %%
coin = -B * np.log(B) - (1 - B) * np.log(1 - B)
bounds = {"JS": np.log(2), "generalised JSD": coin, "skew forward KL": np.log(1 / A)}
bounds |= {"skew reverse KL": np.log(1 / A), "total variation": 1, "alpha divergence": 4}
sizes = np.geomspace(0.01, 60, 1000)[:, None]
zs, us = sizes * rng.normal(size=(2, 1000, 20))
nothing_shared = np.array([0, 1, -np.inf, -np.inf]), np.array([-np.inf, -np.inf, 2, 0])
pairs = {}
for name, (divergence, parameters, _, _) in family.items():
    pairs[name] = divergence(zs, us, reduction="none", **parameters)[0]
    check(f"{name}: never negative", pairs[name] >= 0)
    farthest, bound = divergence(*nothing_shared, **parameters)[0], bounds.get(name, np.inf)
    check("    its bound is reached where nothing is shared", farthest == bound or abs(farthest - bound) < 1e-14)
    check("    and nowhere exceeded", pairs[name] <= bound * (1 + 1e-15))
variation = pairs["total variation"]
check("Pinsker, forward", variation**2 <= pairs["forward KL"] / 2)
check("Pinsker, reverse", variation**2 <= pairs["reverse KL"] / 2)
check("H^2 <= TV", pairs["alpha divergence"] / 4 <= variation)
check("TV <= sqrt(2) H", variation <= np.sqrt(pairs["alpha divergence"] / 2))

# %% [markdown]
# ## At the ends
#
# The generalised JSD is often said to lead from forward KL to reverse KL as $\beta$ goes from 0 to 1. **Does it?** At
# small $\beta$ the mixture $m$ is almost $q$, so $\mathrm{KL}(q \,\|\, m)$ vanishes with $\beta^2$, and
# $\beta \, \mathrm{KL}(p \,\|\, m) \approx \beta \, \mathrm{KL}(p \,\|\, q)$: forward KL it is, but *times* $\beta$. At
# the other end it is $(1 - \beta) \, \mathrm{KL}(q \,\|\, p)$. The value collapses to 0 at both ends, and the gradient
# with it; libraries that put in the KLs at $\beta = 0$ and $1$ by hand have a jump there. minikd's `scaled=True`
# divides by $\beta (1 - \beta)$: then the road does lead from the one to the other (for $\beta \to 0$, Agarwal et al.
# 2024, GKD, section 2, say so of the JSD over $\beta$).

# %%
ends = {0: forward_kl(z, u), 1: reverse_kl(z, u)}
for tiny in (1e-3, 1e-6):
    for end, beta in ((0, tiny), (1, 1 - tiny)):
        value, vjp = generalized_jsd(z, u, beta=beta)
        whole, _ = generalized_jsd(z, u, beta=beta, scaled=True)
        kl, kl_vjp = ends[end]
        check(f"beta = {beta:g}: {tiny:g} times the KL", value / tiny / kl, 1, within=20 * tiny)
        check("    so is the gradient", vjp() / tiny, kl_vjp(), within=20 * tiny)
        check("    scaled: the KL", whole / kl, 1, within=20 * tiny)
check("scaled, at beta = 0 it is forward KL", generalized_jsd(z, u, beta=0, scaled=True)[0], ends[0][0], within=0)
check("    at beta = 1 reverse KL", generalized_jsd(z, u, beta=1, scaled=True)[0], ends[1][0], within=0)
check("alpha at 1 is forward KL", alpha_divergence(z, u, alpha=1 - 1e-6)[0], ends[0][0], within=1e-4)
check("    at 0 reverse KL", alpha_divergence(z, u, alpha=1e-6)[0], ends[1][0], within=1e-4)

# %%
betas = 1 / (1 + np.exp(-np.linspace(-9, 9, 181)))
plain = np.array([generalized_jsd(z, u, beta=beta)[0] for beta in betas])
scaled = np.array([generalized_jsd(z, u, beta=beta, scaled=True)[0] for beta in betas])
alphas = np.array([alpha_divergence(z, u, alpha=1 - beta)[0] for beta in betas])
with figure("09-ends") as fig:
    axes = fig.subplots()
    axes.plot(betas, plain, label="generalised JSD")
    axes.plot(betas, scaled, label="scaled: divided by β(1 − β)")
    axes.plot(betas, alphas, label="alpha divergence at α = 1 − β")
    for end, name, side in ((0, "forward KL", "left"), (1, "reverse KL", "right")):
        axes.plot(end, ends[end][0], "o", color="black", markersize=8, clip_on=False, zorder=5)
        where = ((8, 12), (-8, 12))[end]
        axes.annotate(name, (end, ends[end][0]), where, textcoords="offset points", ha=side)
    axes.set(xlabel="β", ylabel="divergence of one pair (nats)", xlim=(0, 1), ylim=(0, 0.8))
    axes.set_title("Unscaled, the road ends at 0")
    axes.legend(loc="center", bbox_to_anchor=(0.5, 0.42))

# %% [markdown]
# Whoever sweeps $\beta$ without the scale sweeps the learning rate too: at $\beta = 0.1$ a good part of "what beta
# does" is a gradient a fraction as long. (Adam forgives a constant factor; a mixture with another loss does not.)
#
# ## So near that digits run out
#
# A well-trained student is close to its teacher. **What do the divergences look like there?** With $z = u + \epsilon d$
# the ratio is $r \approx 1 - \epsilon (d - \bar d)$, $\bar d$ the mean under $p$, and a smooth $f$ is a parabola:
#
# $$D_f \approx \frac{f''(1)}{2} \, \epsilon^2 \, \mathrm{Var}_p(d)$$
#
# So all smooth divergences are *the same* nearby, but for a factor: 1 for both KLs and every alpha, $\frac14$ for JS,
# $\beta(1 - \beta)$ for the generalised JSD, $(1 - \alpha)^2$ for the skew ones. Total variation has a kink, and
# shrinks with $\epsilon$ only; its gradient does not shrink at all.

# %%
d = rng.normal(size=50)
p, near = softmax(u)[0], u + 1e-6 * d
step = near - u  # exactly, since the two are close
deviation = step - p @ step
factor = {"forward KL": 1, "reverse KL": 1, "JS": 1 / 4, "generalised JSD": B * (1 - B)}
factor |= {"skew forward KL": (1 - A) ** 2, "skew reverse KL": (1 - A) ** 2, "alpha divergence": 1}
for name, share in factor.items():
    divergence, parameters, _, _ = family[name]
    value, vjp = divergence(near, u, **parameters)
    check(f"{name}: the parabola", value / (share / 2 * (p @ deviation**2)), 1, within=1e-5)
    check("    its gradient shrinks with the step", vjp(1e6), 1e6 * share * p * deviation, within=1e-5)
value, vjp = total_variation(near, u)
check("total variation is of the step's size", value / (p @ abs(deviation) / 2), 1, within=1e-5)
half_way = total_variation(u + 0.5e-6 * d, u)[1]()
check("    and at half the step its gradient is still the same", half_way, vjp(), within=1e-6)

# %% [markdown]
# A loss of $\epsilon^2$ is the sum of terms of size $\epsilon$ that cancel: the textbook's $\sum p\,(\log p - \log q)$
# is off by about $10^{-16}$ whatever its value, and at $\epsilon = 10^{-8}$ nothing of the value is left, at times not
# even its sign. **Does that matter, and must it be so?** As a rule, training survives it, since the gradient $q - p$
# loses only $10^{-16}/\epsilon$. But a negative divergence ends in somebody's `clamp` or square root; and it need not
# be. With $\delta = \log q - \log p$ and $\sum p\,(e^\delta - 1) = 0$,
#
# $$\mathrm{KL}(p \,\|\, q) = -\sum_i p_i \delta_i = \sum_i p_i \, (e^{\delta_i} - 1 - \delta_i)$$
#
# has no negative term, and $\delta$ comes from the *differences* of the logits, which subtraction gives exactly. minikd
# computes all its divergences in this manner. The judge is Python's `decimal`, which takes the textbook's formula and
# 80 digits.


# %%
def textbook(z, u):
    """Forward KL, JS, and the forward KL's gradient, as one writes them down."""
    log_p, log_q = log_softmax(u)[0], log_softmax(z)[0]
    p, q = np.exp(log_p), np.exp(log_q)
    m = np.log((p + q) / 2)
    return p @ (log_p - log_q), (p @ (log_p - m) + q @ (log_q - m)) / 2, q - p


def eighty_digits(z, u):
    """The same."""
    with localcontext() as context:
        context.prec = 80
        powers = [[Decimal(float(x)).exp() for x in logits] for logits in (u, z)]
        p, q = ([x / sum(side) for x in side] for side in powers)
        m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        to_q, to_m, from_q = (
            sum(a * (a / b).ln() for a, b in zip(*two, strict=True)) for two in ((p, q), (p, m), (q, m))
        )
        return float(to_q), float((to_m + from_q) / 2), np.array([float(b - a) for a, b in zip(p, q, strict=True)])


def minikd(z, u):
    return forward_kl(z, u)[0], js(z, u)[0], forward_kl(z, u)[1]()


epsilons = np.geomspace(1e-13, 1, 40)
errors, negative = {"textbook": [], "minikd": []}, 0
for epsilon in epsilons:
    near = u + epsilon * d
    truth = eighty_digits(near, u)
    negative += textbook(near, u)[0] < 0
    for name, formula in (("textbook", textbook), ("minikd", minikd)):
        found = zip(formula(near, u), truth, strict=True)
        errors[name].append([np.linalg.norm(value - true) / np.linalg.norm(true) for value, true in found])
errors = {name: np.maximum(rows, 1e-17) for name, rows in errors.items()}
close = epsilons < 1e-9
check("the textbook's KL is wrong throughout below a step of 1e-9", errors["textbook"][close, 0] > 0.9)
check("    and so is its JS", errors["textbook"][close, 1] > 0.9)
check(f"    at least once it is negative (here {negative} times)", negative >= 1)
check("minikd's values and gradient keep 13 digits at any step", errors["minikd"], within=1e-13)

# %%
with figure("09-near") as fig:
    both, titles = fig.subplots(1, 2, sharey=True), ("The value's digits run out", "… the gradient's, later")
    for axes, column, title in zip(both, (0, 2), titles, strict=True):
        axes.loglog(epsilons, errors["textbook"][:, column], "C1", label="the textbook's formula")
        axes.loglog(epsilons, errors["minikd"][:, column], "C0", label="minikd")
        axes.axhline(1, color="0.8", linewidth=1, zorder=0)
        axes.set(xlabel="ε, size of the step away from the teacher", ylim=(1e-18, 1e12), xlim=(1e-13, 1))
        axes.set_title(title)
    both[0].set_ylabel("relative error of forward KL")
    both[0].text(2e-7, 3, "nothing is right any more", color="0.4")
    both[1].legend(loc="upper right")

# %% [markdown]
# Nearby, the choice among the smooth divergences is a choice of the learning rate: who compares them with a student
# that is nearly there compares factors. What distinguishes them is how they treat a student that is far, or too small.
#
# ## What you should be able to explain now
#
# - how one convex function makes a divergence and its gradient, and why it is never negative;
# - why a bounded divergence lets go of a confidently wrong student, and forward KL does not;
# - what happens to the generalised JSD at the ends of $\beta$, and what that does to a sweep;
# - why all smooth divergences agree nearby up to a factor, and why total variation does not;
# - where the textbook's formula loses its digits, and which form keeps them.
#
# ## Exercises
#
# 1. Write `generalized_jsd(student_logits, teacher_logits, *, beta=0.5, scaled=False, temperature=1.0, mask=None,
#    reduction="mean")`, value and pullback, in a file `mine.py`, and have it graded:
#    `minikd grade mine.py --only generalized_jsd`. (`js` alone is a good start.)
# 2. Add Pearson's $\chi^2$ to the family: $f = (r - 1)^2$. What is its factor nearby, and how hard does it pull from
#    far? Would you train with it?
# 3. A library's generalised JSD is forward KL at `beta=0`, reverse KL at `beta=1`. Somebody sweeps beta over 0, 0.1,
#    0.5, 0.9, 1 with the mix $\frac12 D + \frac12 \mathrm{CE}$. What does the sweep compare?
