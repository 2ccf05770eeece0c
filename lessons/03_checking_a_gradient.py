# %% [markdown]
# # 3. Checking a gradient
#
# From the next lesson on every layer gets a backward pass written by hand, and a wrong one is a quiet thing: the
# program runs, the loss falls, only not as far as it could. So before we write any, we need a judge that we can trust.
#
# The judge knows nothing of calculus. It moves the input a little and looks what the function does:
#
# $$F'(x) \approx \frac{F(x + h) - F(x)}{h} \qquad\text{or better}\qquad F'(x) \approx \frac{F(x + h) - F(x - h)}{2h}$$
#
# How small should $h$ be? What should it be asked about a function with many outputs, or with a million inputs? And
# which mistakes does it never see?
#
# You need: lessons 1 and 2, Taylor's formula.

# %%
import numpy as np

from minikd.lesson import check, figure
from minikd.losses import cross_entropy
from minikd.nn import layer_norm
from minikd.oracle import check_vjp
from minikd.oracle.mutants import MUTANTS
from minikd.softmax import log_softmax, softmax

rng = np.random.default_rng(3)


def rms(x):
    return np.sqrt(np.mean(np.square(x)))


# %% [markdown]
# ## How small a step?
#
# Take a function whose derivatives we know: $F = \log p_0$ as a function of its own logit $z_0$. By lesson 2
# $F' = 1 - p_0$; differentiate on: $F'' = -p_0 (1 - p_0)$ and $F''' = -p_0 (1 - p_0)(1 - 2 p_0)$. **How wrong is a
# difference with step $h$?** Taylor says what is cut off (the *truncation*), the computer adds its *rounding*: each
# value of $F$ is the nearest float, on average $\text{ulp}/\sqrt{12}$ beside the truth, where ulp is the gap between
# neighbouring floats, about $\epsilon |F|$. A difference has two such errors and divides them by $h$ or $2h$:
#
# | | truncation | rounding |
# |--|--|--|
# | forward | $\frac{h}{2} \lvert F'' \rvert$ | $\text{ulp} / (\sqrt{6}\, h)$ |
# | central | $\frac{h^2}{6} \lvert F''' \rvert$ | $\text{ulp} / (2\sqrt{6}\, h)$ |
#
# One falls with $h$ and one rises: a V, with a best step at its bottom. (We take the typical error of 200 points.)

# %%
points = 1.5 * rng.normal(size=(200, 5))
p = softmax(points)[0][:, 0]
second, third = rms(p * (1 - p)), rms(p * (1 - p) * (1 - 2 * p))
ulp = {kind: rms(np.spacing(log_softmax(points.astype(kind))[0][:, 0])) for kind in (np.float64, np.float32)}


def F(h, kind=np.float64):
    moved = points.astype(kind)
    moved[:, 0] += kind(h)
    return log_softmax(moved)[0][:, 0].astype(np.float64)


def central(h, kind=np.float64):
    return (F(h, kind) - F(-h, kind)) / (2 * h)


rules = {
    "forward": lambda h: (F(h) - F(0)) / h,
    "central": central,
    "extrapolated": lambda h: (4 * central(h / 2) - central(h)) / 3,
}
steps = 2.0 ** -np.arange(0, 44)
error = {name: np.array([rms(rule(h) - (1 - p)) for h in steps]) for name, rule in rules.items()}
error["central, float32"] = np.array([rms(central(h, np.float32) - (1 - p)) for h in steps])

cut_off = {"forward": steps / 2 * second, "central": steps**2 / 6 * third}
rounded = {"forward": ulp[np.float64] / steps / np.sqrt(6), "central": ulp[np.float64] / steps / np.sqrt(24)}
for name, coarse, fine in (("forward", steps > 1e-6, steps < 1e-9), ("central", steps > 1e-4, steps < 1e-7)):
    far = coarse & (steps < 0.1)
    check(f"{name}, large steps: error / truncation", error[name][far] / cut_off[name][far], 1, within=0.02)
    check(f"{name}, small steps: error / rounding", error[name][fine] / rounded[name][fine], 1.2, within=0.5)

# %% [markdown]
# Both sides of both V's come out as derived, the rounding side up to a factor of 1.2 or so (`log_softmax` rounds more
# than once). **Where is the bottom?** Where the derivative of $\frac{h^2}{6}\lvert F''' \rvert + r/h$ vanishes, $r/h$
# being the rounding side: $h^3 = 3 r / \lvert F''' \rvert$. So $h \sim \epsilon^{1/3}$, and
# the error is about $\epsilon^{2/3}$; for the forward difference both are $\epsilon^{1/2}$. Of the 16 digits of float64
# the forward difference gets half, the central one two thirds; of the 7 of float32 four or five are left.
#
# Two central differences can be combined so that $h^2$ cancels and $h^4$ remains (Richardson's extrapolation).
# `check_vjp` does so again and again, and judges its own error as it goes (Ridders 1982).

# %%
best = {name: (steps[e.argmin()], e.min()) for name, e in error.items()}
for name, kind in (("central", np.float64), ("central, float32", np.float32)):
    r = ulp[kind] / np.sqrt(24)
    bottom = np.cbrt(3 * r / third)
    least = bottom**2 / 6 * third + r / bottom
    doublings = np.log2(np.divide(best[name], (bottom, least)))
    check(f"{name}: best step and least error are the derived ones, but for doublings", doublings, within=1.6)
gain = error["extrapolated"][2:6] / error["extrapolated"][3:7]
check("extrapolated: half the step, a 16th of the error", gain, 16, within=0.5)

# %%
with figure("03-step", height=4.6) as fig:
    axes = fig.subplots()
    for name, colour in zip(error, ("C1", "C0", "C2", "C3"), strict=True):
        axes.loglog(steps, error[name], color=colour, label=name)
        axes.plot(*best[name], "o", color=colour, markersize=8)
    for name in cut_off:
        axes.loglog(steps, cut_off[name] + rounded[name], color="black", linewidth=1, linestyle=":")
    axes.plot([], [], color="black", linewidth=1, linestyle=":", label="derived")
    axes.set(xlabel="step h", ylabel="error of the derivative", xlim=(steps[-1], 1), ylim=(1e-14, 10))
    axes.set_title("Too large a step cuts off, too small a step rounds")
    axes.legend(loc="lower left")

# %% [markdown]
# "As small as possible" is the worst answer: at $h = 10^{-12}$ central differences are no better than at $h = 0.1$.
#
# ## What to ask a function with many outputs
#
# A pullback is asked with a *cotangent* $d$, one number for each output, and answers with the gradient of
# $F(x) = \sum_i d_i f_i(x)$. A check must choose one. **Does it matter which?** Popular are ones, as in
# `f(x).sum().backward()`, and a one-hot row, as a label asks. We let them judge known mistakes: minikd keeps hundreds
# of *mutants*, functions with one fault planted in each. Here are those of softmax, log-softmax and layer norm whose
# value is right and whose gradient is not. The layer norm is as on its first day of training, with a gain of 1 and a
# bias of 0; a last trial makes these random, too.

# %%
RIGHT = {"softmax": softmax, "log_softmax": log_softmax, "layer_norm": layer_norm}
first_day = {name: (rng.normal(size=(3, 5)), 4.0) for name in ("softmax", "log_softmax")}
first_day["layer_norm"] = (rng.normal(size=(3, 5)), np.ones(5), np.zeros(5))
any_day = first_day | {"layer_norm": (rng.normal(size=(3, 5)), *rng.normal(size=(2, 5)))}


def caught(f, args, d, h=1e-5):
    """Whether central differences of sum(d * f), entry by entry, contradict the pullback of f."""
    answer = f(*args)[1](d)
    for position, gradient in enumerate(answer if isinstance(answer, tuple) else (answer,)):
        for index in np.ndindex(gradient.shape):
            ends = []
            for move in (h, -h):
                moved = [np.copy(a) if isinstance(a, np.ndarray) else a for a in args]
                moved[position][index] += move
                ends.append((d * f(*moved)[0]).sum())
            if abs((ends[0] - ends[1]) / (2 * h) - gradient[index]) > 1e-6:
                return True
    return False


def flat(gradients):
    return [np.ravel(gradient) for gradient in (gradients if isinstance(gradients, tuple) else (gradients,))]


d = rng.normal(size=(3, 5))
trials = {
    "ones": (np.ones((3, 5)), first_day),
    "one-hot rows": (np.eye(5)[[2, 0, 4]], first_day),
    "random": (d, first_day),
    "random, and\nrandom gains": (d, any_day),
}
verdicts = {}
for mutant in MUTANTS:
    if mutant.subject in RIGHT:
        f, args = mutant.function, any_day[mutant.subject]
        (value, vjp), (right_value, right_vjp) = f(*args), RIGHT[mutant.subject](*args)
        right_gradient = np.allclose(np.hstack(flat(vjp(d))), np.hstack(flat(right_vjp(d))), rtol=1e-9)
        if np.allclose(value, right_value, rtol=1e-9) and not right_gradient:
            found = [caught(f, arguments[mutant.subject], d) for d, arguments in trials.values()]
            verdicts[mutant.subject, mutant.name] = found

escaped = [{name for (_, name), found in verdicts.items() if not found[i]} for i in range(4)]
check("ones miss a forgotten 1/T, and more", {"no-temperature-in-gradient", "detached-variance"} <= escaped[0])
check("one-hot rows miss d - p", "gradient-for-one-label" in escaped[1])
check("random ones miss what needs gains", escaped[2] == {"gain-missing-in-dx", "gain-gradient-from-y"})
check("random numbers in every place miss nothing", not escaped[3])
check("and nothing right is found wrong", not any(caught(RIGHT[name], args, d) for name, args in any_day.items()))

# %%
with figure("03-cotangent", height=5.2) as fig:
    axes = fig.subplots()
    for row, found in enumerate(verdicts.values()):
        for column, seen in enumerate(found):
            look = {"marker": "o", "color": "C0"} if seen else {"marker": "x", "color": "C1", "markeredgewidth": 3}
            axes.plot(column, row, markersize=9, **look)
    axes.set(xticks=range(4), xticklabels=trials, yticks=range(len(verdicts)), xlim=(-0.5, 3.5))
    axes.set_yticklabels([f"{subject}: {name}" for subject, name in verdicts])
    axes.tick_params(length=0)
    axes.set_title("What a cotangent sees (●) and misses (×)")
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)

# %% [markdown]
# For ones the reason is a symmetry. The softmax's probabilities sum to 1 and layer norm's outputs to 0, whatever the
# input: their sum does not *depend* on the input, its gradient is 0, and 0 times a wrong factor is 0. A one-hot row
# sums to 1, which is all that $d - p$ needs to be right. For each mistake the cotangents that miss it are a subspace,
# and random numbers are in none. Inputs should be random for the same reason: a gain of 1 hides that it was forgotten.
#
# ## A million inputs
#
# Entry by entry, a million inputs take two million evaluations. **What can be done with forty?** The custom is to look
# at twenty random entries. Another way is to move all entries at once, along a direction $v$ of independent random
# numbers of variance 1, and to compare the slope with $g \cdot v$. If the gradient $g$ has an error $e$, itself a
# vector, the two differ by $e \cdot v$, and
#
# $$E\left[(e \cdot v)^2\right] = \sum_{i,j} e_i \, e_j \, E[v_i v_j] = \lVert e \rVert^2$$
#
# Every direction measures the length of the *whole* error. Let both ways judge the cross-entropy of a fresh model. The
# entries get the step and the tolerances that PyTorch's `gradcheck` has by default: $h = 10^{-6}$, and "equal" is what
# differs by less than $10^{-5} + 10^{-3} \lvert \text{slope} \rvert$.

# %%
z, y = 0.3 * rng.normal(size=(4, 128, 2000)), rng.integers(2000, size=(4, 128))  # a million logits
mask = rng.random((4, 128)) < 0.7
entries = [(*token, rng.integers(2000)) for token in rng.permutation(np.argwhere(mask))[:20]]


def loss(z):
    return float(cross_entropy(z, y, mask=mask)[0])


def slope_at(entry, h, kind=np.float64):
    ahead, behind = z.astype(kind), z.astype(kind)
    ahead[entry] += kind(h)
    behind[entry] -= kind(h)
    return (loss(ahead) - loss(behind)) / (2 * h)


wrong = ("sign", "mask-missing-in-gradient", "label-missing-in-gradient")
pullbacks = {m.name: m.function for m in MUTANTS if m.subject == "cross_entropy" and m.name in wrong}
gradients = {name: f(z, y, mask=mask)[1]() for name, f in (pullbacks | {"right": cross_entropy}).items()}
off, along = {name: [] for name in gradients}, []
for _ in range(20):
    v = rng.standard_normal(z.shape)
    along.append((loss(z + 1e-3 * v) - loss(z - 1e-3 * v)) / 2e-3)
    for name, g in gradients.items():
        off[name].append((g * v).sum() - along[-1])
measured = {name: rms(off[name]) / rms(along) for name in gradients}

slopes, careful = (np.array([slope_at(entry, h) for entry in entries]) for h in (1e-6, 1e-3))
at_entries = {name: np.array([g[entry] for entry in entries]) for name, g in gradients.items()}
check("20 directions: the right gradient is right", measured["right"], within=1e-6)
for name in wrong:
    true = np.linalg.norm(gradients[name] - gradients["right"]) / np.linalg.norm(gradients["right"])
    check(f"{name}: passes at 20 entries", np.allclose(at_entries[name], slopes, rtol=1e-3, atol=1e-5))
    check("    20 directions measure its relative error", measured[name], true, within=0.6 * true)
check("the reason: at these entries even 0 passes", np.allclose(0, slopes, rtol=1e-3, atol=1e-5))
relative = [np.allclose(at_entries[name], careful, rtol=1e-3, atol=0) for name in ("right", *wrong)]
check("a relative tolerance, and a better step, leave only the missing label", relative == [True, False, False, True])

# %%
with figure("03-directions", height=3.6) as fig:
    axes = fig.subplots()
    for row, name in enumerate(("right", *wrong)):
        axes.semilogx(np.abs(off[name]) / rms(along), np.full(20, row), "o", color="C0", alpha=0.35, markeredgewidth=0)
        axes.semilogx(measured[name], row, "d", color="black", markersize=9)
        axes.text(60, row, "pass", va="center", ha="center", color="C1", weight="bold")
    axes.text(60, -0.6, "20 entries", ha="center", color="C1")
    axes.set(xlabel="relative error: along each of 20 directions (●), together (◆)", xlim=(1e-11, 300))
    axes.set(yticks=range(4), yticklabels=("right", *wrong), ylim=(3.5, -0.5))
    axes.tick_params(axis="y", length=0)
    axes.set_title("Twenty directions see what twenty entries let pass", pad=24)

# %% [markdown]
# A pullback with the wrong *sign* passes! A mean over many tokens has tiny gradients, $p/N \approx 10^{-6}$ here, and a
# tolerance of $10^{-5}$ swallows them whole: tolerances must be relative, and the step larger, or rounding eats into
# slopes so small. A missing label passes even so: one entry in 2000 is a label's, and a small sample hardly ever
# contains one. To directions all this is plain. A single one may happen to lie across the error; eight, which is what
# `check_vjp` takes for more than 400 entries, are within a factor of 2 of its length 98 times in 100.

# %%
e = rng.normal(size=300)
lengths = np.sqrt(np.mean((rng.standard_normal((4000, 8, 300)) @ e) ** 2, axis=1)) / np.linalg.norm(e)
check("8 directions: within a factor of 2", np.mean(np.abs(np.log2(lengths)) < 1), 0.98, within=0.01)

# %% [markdown]
# ## float32
#
# Training runs in float32. **Can it check itself?** The loss is about 7.6, where neighbouring float32 numbers are
# $4.8 \cdot 10^{-7}$ apart. A step of 0.001 in one logit changes the loss by $10^{-9}$: nothing moves. So the judge's
# differences are always taken in float64, even where the arguments and the pullback are float32; what is then left to
# forgive are the roundings of the pullback itself.

# %%
slopes32 = np.array([slope_at(entry, 1e-3, np.float32) for entry in entries])
check("in float32 every one of the 20 slopes is 0", slopes32 == 0)
check("in float64 they have 5 digits", careful / at_entries["right"], 1, within=1e-5)

z32 = rng.normal(size=(3, 5)).astype(np.float32)
strict, fair = (check_vjp(lambda z: softmax(z, 4.0), [z32], tol=tol) for tol in (1e-7, 1e-5))
print(strict)
check("a float32 pullback cannot be held to 1e-7: not wrong, but unclear", strict.arguments[0].verdict == "unclear")
check("it is right to 1e-5", fair.passed)

# %% [markdown]
# ## Kinks
#
# $\max(x, 0)$ has no derivative at 0. **What do differences say there?** As long as the kink lies between $x - h$ and
# $x + h$ they mix both sides: $(1 + x/h)/2$, a number that is the slope of nothing. At 0 any answer from 0 to 1 is as
# good as another, so the judge must say that it cannot tell.


# %%
def relu(x):
    return np.maximum(x, 0), lambda d: d * (x > 0)


x, h = np.arange(-20, 21) / 2000, 0.01
mixed = (relu(x + h)[0] - relu(x - h)[0]) / (2 * h)
check("near a kink differences mix both sides", mixed, (1 + x / h) / 2, within=1e-13)
check("the judge takes smaller steps until the kink is out of reach", check_vjp(relu, [x[x != 0]]).passed)
at_kink = check_vjp(relu, [x])
print(at_kink)
check("unless it stands on it: unclear", at_kink.arguments[0].verdict == "unclear")

# %% [markdown]
# ## What no gradient check sees
#
# **Is a function right if its pullback is?** Lesson 2 met a mean that divides by all positions, and had a perfect
# gradient. Let the judge see all mutants of our three functions, on random numbers in every place.

# %%
ours = [m for m in MUTANTS if m.subject in RIGHT]
unseen = [f"{m.subject}: {m.name}" for m in ours if check_vjp(m.function, any_day[m.subject]).passed]
print(f"{len(unseen)} of {len(ours)} pass:", *unseen, sep="\n  ")
agree = [caught(m.function, any_day[m.subject], d) == (f"{m.subject}: {m.name}" not in unseen) for m in ours]
check("our slow judge of above and check_vjp agree on all of them", np.array(agree))
check("base 2 and a wrong axis pass", {"log_softmax: base-2", "softmax: wrong-axis"} <= set(unseen))
check("so do more than half of all", len(unseen) > len(ours) / 2)

# %% [markdown]
# More than half of the mutants have a flawless gradient: that of another function, with base 2, along the wrong axis,
# or of one that fails only where the exponential overflows. A gradient check says that forward and backward belong
# *together*. Whether the forward is what was meant, known values must tell, on extreme inputs as well; `minikd grade`
# brings both.
#
# ## What you should be able to explain now
#
# - why the error of a difference is a V over its step, and where the bottom lies for forward and central ones;
# - why a cotangent of ones checks nothing after a softmax or a layer norm, and why random numbers see everything;
# - how forty evaluations can judge a million entries, and why twenty entries cannot;
# - why an absolute tolerance lets a wrong sign pass, and why float32 cannot check itself;
# - what a gradient check does not tell, however exact it is.
#
# ## Exercises
#
# 1. Complex steps: $F'(x) \approx \text{Im} F(x + ih) / h$ subtracts nothing. Try it on the textbook's log-softmax with
#    $h = 10^{-30}$, and draw its error into the first figure. Why can `abs` or `max` not be checked this way?
# 2. For each × in the second figure say why this cotangent cannot see this mistake.
# 3. Write `log_softmax(logits, temperature=1.0)` returning value and pullback in a file `mine.py`, check it with
#    `check_vjp`, and only then have it graded: `minikd grade mine.py --only log_softmax`. Which complaint could your
#    own check not have raised?
