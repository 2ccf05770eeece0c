# %% [markdown]
# # 10. Why T²
#
# What a student minimises in distillation, Hinton, Vinyals & Dean wrote down in 2015, and minikd calls it
# `distillation_loss`:
#
# $$L = \alpha \, T^2 \, D_T(p, q) + (1 - \alpha) \, \mathrm{CE}(z, \text{label})$$
#
# $D_T$ compares teacher and student at temperature $T$, the cross-entropy of the text's own word is taken at
# temperature 1. Two things in it look arbitrary: where does the $T^2$ come from, and what does $\alpha$ weigh? This
# lesson measures both. It also follows the temperature to infinity, where distillation turns into something simpler.
#
# You need: lesson 1 (temperature), lesson 2 (cross-entropy), lesson 9 (divergences nearby).

# %%
import numpy as np

from minikd.lesson import check, figure
from minikd.losses import (
    cross_entropy,
    distillation_loss,
    forward_kl,
    js,
    mse_logits,
    reverse_kl,
    total_variation,
)
from minikd.models.parameters import Parameters
from minikd.optim import AdamW, Moments
from minikd.softmax import softmax

rng = np.random.default_rng(10)

# %% [markdown]
# ## Small twice over
#
# The gradient of forward KL at temperature $T$ is $(q - p)/T$. **How does its size depend on $T$?** There is the factor
# $1/T$ in sight. There is another one in $q - p$: at a high temperature both distributions are nearly uniform, and
# nearly equal. With $V$ words and a large $T$, $e^{z/T} \approx 1 + z/T$ and
#
# $$q_i - p_i \approx \frac{1 + z_i/T}{V + \sum_j z_j/T} - \frac{1 + u_i/T}{V + \sum_j u_j/T}
# \approx \frac{(z_i - \bar z) - (u_i - \bar u)}{V \, T}$$
#
# which is of size $1/T$ itself. Together $1/T^2$. By hand: a student that knows nothing, $z = (0, 0, 0)$, and a teacher
# $u = (3, 0, -3)$ at $T = 100$: the gradient should be $-u/(3 \cdot 100^2) = (-0.0001, 0, 0.0001)$.

# %%
_, vjp = forward_kl(np.zeros(3), np.array([3.0, 0.0, -3.0]), temperature=100.0)
check("worked by hand", vjp(), [-1e-4, 0, 1e-4], within=2e-6)

V, tokens = 1000, 64
u = 3 * rng.normal(size=(tokens, V))  # a teacher's logits, and those of a student that knows something of them
z = u + 1.5 * rng.normal(size=(tokens, V))
labels = np.array([rng.choice(V, p=row) for row in softmax(u)[0]])
ones = np.ones(tokens)


def gradient(divergence, temperature):
    return divergence(z, u, temperature=temperature, reduction="none")[1](ones)


def size(gradients):
    return np.linalg.norm(gradients, axis=1).mean()


temperatures = 2.0 ** np.arange(-1, 9)
soft = np.array([size(gradient(forward_kl, t)) for t in temperatures])
gaps = np.array([size(softmax(z, t)[0] - softmax(u, t)[0]) for t in temperatures])
hard = size(cross_entropy(z, labels, reduction="none")[1](ones))


def slope(sizes):
    """The power of T with which sizes change between the two highest temperatures."""
    return np.log2(sizes[-1] / sizes[-2])


check("q - p falls like 1/T", slope(gaps), -1, within=0.01)
check("the gradient like 1/T^2", slope(soft), -2, within=0.01)
check("the cross-entropy's gradient, at T = 1", hard, 0.97, within=0.1)
for name, t in (("T = 1", 1), ("T = 4", 4), ("T = 16", 16), ("T = 256", 256)):
    here = soft[temperatures == t][0]
    print(f"{name}: gradient {here:.2e}, times T^2 {here * t**2:.3f}; the cross-entropy's {hard:.3f}")
kept = (soft * temperatures**2)[temperatures >= 16]
check("from T = 16 on T^2 keeps its size to a few percent", kept / kept[-1], 1, within=0.04)
early = (soft * temperatures**2)[(temperatures >= 1) & (temperatures <= 16)]
check("from T = 1 to 16 it still falls", np.diff(early) < 0)
check("    to a sixth", early[0] / early[-1], 6.07, within=0.3)

# %%
with figure("10-size") as fig:
    axes = fig.subplots()
    axes.loglog(temperatures, soft, "o-", label="as it is")
    axes.loglog(temperatures, soft * temperatures, "o-", label="times T")
    axes.loglog(temperatures, soft * temperatures**2, "o-", label="times T²")
    axes.axhline(hard, color="black", linewidth=1.4, linestyle=(0, (4, 2)))
    axes.text(300, hard * 1.5, "the hard loss", ha="right")
    axes.set(xlabel="temperature T", ylabel="length of a token's gradient", xlim=(0.45, 330), ylim=(3e-7, 4))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_title("T² holds the gradient where 1 and T let it vanish")
    axes.legend(loc="lower left")

# %% [markdown]
# So $T^2$ is no convention, but what the limit asks for; $T$ alone, which takes care of the factor in sight, is not
# enough. And it is no more than that: between $T = 1$ and $16$, where one distils, the compensated gradient of these
# logits still shrinks to a sixth. Hinton et al. say that the relative contributions "remain roughly unchanged"; with
# these logits roughly means a factor of 6, where it would be one of 1500 without $T^2$. (The hard loss's gradient is
# so long because the label of a single token is mostly chance; over many tokens that averages out.)
#
# ## The limit: matching logits
#
# **What does a student learn at $T \to \infty$?** The approximation above, times $T^2$, is equation 4 of Hinton et al.
# for one token ($v$ is their name for our $u$, and they assume logits of mean 0):
#
# $$T^2 \, \frac{\partial D}{\partial z_i} \approx \frac{1}{V} \big((z_i - \bar z) - (u_i - \bar u)\big)$$
#
# It is half the gradient of the mean squared difference of the centred logits: no exponential is left. The value goes
# the same way, and what is neglected is of the order of $1/T$: twice the temperature, half the error.

# %%
centred_z, centred_u = (x - x.mean(axis=1, keepdims=True) for x in (z, u))
limit = (centred_z - centred_u) / V
mse, mse_vjp = mse_logits(centred_z, centred_u, reduction="none")
check("the limit's gradient is half of that of mse_logits", mse_vjp(ones) / 2, limit, within=1e-15)


def distance(temperature):
    return size(temperature**2 * gradient(forward_kl, temperature) - limit) / size(limit)


far = [distance(t) for t in (128.0, 256.0, 1e4)]
check("twice the temperature, half the error", far[0] / far[1], 2, within=0.05)
check("at T = 10,000 the limit is reached", far[2], within=5e-4)
value = 1e8 * forward_kl(z, u, temperature=1e4, reduction="none")[0]
check("    in the value, too", value / (mse / 2), 1, within=2e-3)
shifted = 1e8 * forward_kl(z + 5, u, temperature=1e4, reduction="none")[0]
check("a shift of all logits does not matter to it", shifted / value, 1, within=1e-9)
check("    but it would to the logits' own distance: 5^2 more", mse_logits(z + 5, u)[0] - mse_logits(z, u)[0] > 24)

# %% [markdown]
# By lesson 9, nearby all smooth divergences are the same but for a factor, and a high temperature brings everything
# near. **So does $T^2$ serve them all?** The smooth ones. Total variation has a kink: it shrinks like $1/T$ (and so
# does its gradient, whose sign does not shrink), so $T^2$ makes it grow without end.

# %%
for name, divergence, factor in (("forward KL", forward_kl, 1), ("reverse KL", reverse_kl, 1), ("JS", js, 1 / 4)):
    reached = 1e8 * gradient(divergence, 1e4)
    check(f"{name}: the limit, times {factor:g}", size(reached - factor * limit) / size(limit), within=2e-3)
kinked = [size(gradient(total_variation, t)) for t in (128.0, 256.0)]
check("total variation's gradient falls like 1/T only", slope(np.array(kinked)), -1, within=0.02)

# %% [markdown]
# **How hot is hot?** At $T = 1$ a student looks at what the teacher holds to be likely, in the limit at all $V$ logits
# alike, also at those that the teacher never says and was hardly trained on. We measure how far the gradient points
# in the limit's direction, and which part of its squared length goes to the teacher's ten best words of 1000.

# %%
best = np.argsort(u, axis=1)[:, -10:]
fine = np.geomspace(0.5, 256, 37)
towards, on_best = np.empty((2, len(fine)))
for i, t in enumerate(fine):
    g = gradient(forward_kl, t)
    towards[i] = ((g * limit).sum(axis=1) / np.linalg.norm(g, axis=1) / np.linalg.norm(limit, axis=1)).mean()
    squares = g**2 / (g**2).sum(axis=1, keepdims=True)
    on_best[i] = np.take_along_axis(squares, best, axis=1).sum(axis=1).mean()
check("at T = 1 the gradient has little to do with the limit", np.interp(1, fine, towards) < 0.25)
check("at T = 256 it points there", towards[-1] > 0.999)
check("at T = 1 the ten best get more than half of it", np.interp(1, fine, on_best) > 0.5)
check("in the limit a hundredth, their share of the words", on_best[-1], 0.01, within=0.003)

# %%
with figure("10-limit") as fig:
    left, right = fig.subplots(1, 2)
    left.semilogx(fine, towards)
    left.set(ylabel="cosine between gradient and limit", ylim=(0, 1.03))
    left.set_title("Towards matching logits")
    right.semilogx(fine, 100 * on_best, "C1")
    right.axhline(1, color="0.6", linewidth=1, linestyle=":")
    right.text(240, 6, "10 of 1000 words: 1%", ha="right", color="0.4")
    right.set(ylabel="share of the ten best words (%)", ylim=(0, 103))
    right.set_title("Away from the likely words")
    for axes in (left, right):
        axes.set(xlabel="temperature T", xlim=(0.5, 256))
        axes.set_xticks([1, 2, 4, 8, 16, 64, 256])
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()

# %% [markdown]
# The temperature decides *which* words the student hears about; $T^2$ sees to it that this does not also decide *how
# loudly* the teacher speaks.
#
# ## What is forgotten without it
#
# Somebody leaves out the $T^2$. **What do they minimise?** $\alpha D_T + (1 - \alpha)\,\mathrm{CE}$ is, but for a
# factor $k$, the right loss with another alpha:
#
# $$k = \frac{\alpha}{T^2} + 1 - \alpha, \qquad \alpha' = \frac{\alpha / T^2}{k}$$
#
# By hand, for $\alpha = 0.5$ and $T = 4$: $k = \frac{1}{32} + \frac{1}{2} = \frac{17}{32}$ and
# $\alpha' = \frac{1}{17} = 0.0588$. They wrote one half and gave the teacher a seventeenth.


# %%
def without(z, u, labels, *, alpha, temperature):
    """The distillation loss with its T^2 left out."""
    kl, kl_vjp = forward_kl(z, u, temperature=temperature)
    ce, ce_vjp = cross_entropy(z, labels)
    return alpha * kl + (1 - alpha) * ce, lambda: alpha * kl_vjp() + (1 - alpha) * ce_vjp()


def alpha_without(alpha, temperature):
    return alpha / temperature**2 / (alpha / temperature**2 + 1 - alpha)


check("worked by hand: 1/17", alpha_without(0.5, 4.0), 1 / 17, within=1e-15)
for alpha, t in ((0.5, 4.0), (0.9, 2.0), (0.9, 10.0)):
    k, other = alpha / t**2 + 1 - alpha, alpha_without(alpha, t)
    value, vjp = without(z, u, labels, alpha=alpha, temperature=t)
    right, right_vjp = distillation_loss(z, u, labels, alpha=other, temperature=t)
    check(f"alpha = {alpha}, T = {t:g}: the right loss at alpha = {other:.4f}", value, k * right, within=1e-13)
    check("    and so the gradient", vjp(), k * right_vjp(), within=1e-15)

whole, vjp = distillation_loss(z, u, labels, alpha=0.3, temperature=2.0)
parts = 0.3 * 4 * forward_kl(z, u, temperature=2.0)[0] + 0.7 * cross_entropy(z, labels)[0]
check("distillation_loss is the formula", whole, parts, within=1e-13)
pulled = 0.3 * 4 * forward_kl(z, u, temperature=2.0)[1]() + 0.7 * cross_entropy(z, labels)[1]()
check("    and its gradient the formula's", vjp(), pulled, within=1e-15)

# %% [markdown]
# With $\alpha = 1$ there is no mix, and all that is lost is the factor $1/T^2$: for plain gradient descent a smaller
# learning rate, for Adam, which divides by the gradient's size, nothing at all (but for its $\epsilon$).

# %%
moves = []
for factor in (1.0, 1 / 16):
    params, g = Parameters.zeros({"z": (tokens, V)}, dtype=np.float64), gradient(forward_kl, 1.0)
    params.flat[:] = z.ravel()
    AdamW(weight_decay=0, eps=0).update(params, factor * g.ravel(), Moments.zeros(params), learning_rate=0.01)
    moves.append(params["z"] - z)
check("Adam makes the same step of a gradient 16 times shorter", moves[0], moves[1], within=1e-12)
check("    which is no small one", abs(moves[0]).max(), 0.01, within=1e-6)

# %% [markdown]
# **What becomes of the student?** Lesson 1's teacher says of "on the mat there sits a": cat 70%, dog 20%, animal 10%.
# The student has a logit for each, and has read the beginning 20 times: cat followed 18 times, the others once each.
# Half of its loss is to come from the teacher, $\alpha = 0.5$. At $T = 1$ the two halves make $q = \frac12 p + \frac12
# y$, exactly: the gradient is $\frac12 (q - p) + \frac12 (q - y)$. Then the temperature rises.

# %%
p, y = np.array([0.7, 0.2, 0.1]), np.array([0.9, 0.05, 0.05])
read = np.repeat([0, 1, 2], [18, 1, 1])
teacher = np.tile(np.log(p), (20, 1))


def student(loss, temperature):
    z = np.zeros(3)
    for _ in range(300):
        _, vjp = loss(np.tile(z, (20, 1)), teacher, read, alpha=0.5, temperature=temperature)
        z = z - 3 * vjp().sum(axis=0)
    assert abs(vjp().sum(axis=0)).max() < 1e-6, "not at rest yet"
    return z


hotter = np.array([1, 1.5, 2, 3, 4, 6, 8, 12, 16, 32], dtype=float)
ends = {
    name: np.array([student(f, t) for t in hotter]) for name, f in (("with", distillation_loss), ("without", without))
}
said = {name: softmax(z)[0] for name, z in ends.items()}
check("at T = 1 both are half way", said["with"][0], (p + y) / 2, within=1e-5)
check("    T^2 or not", said["without"][0], (p + y) / 2, within=1e-5)
print(f"cat (%), with T^2: {(100 * said['with'][:, 0]).round(1)}, without: {(100 * said['without'][:, 0]).round(1)}")
check("with T^2 the student stays half way as it gets hotter", said["with"][:, 0], 0.8, within=0.015)
check("without it cat rises with T", np.diff(said["without"][:, 0]) > 0)
check("    to what was read: at T = 16 the teacher is forgotten", said["without"][hotter == 16][0], y, within=0.005)
same = student(lambda *a, alpha, temperature: distillation_loss(*a, alpha=1 / 17, temperature=temperature), 4.0)
check("at T = 4 it is the student of alpha = 1/17", ends["without"][hotter == 4][0] - same, within=1e-4)

# %%
finest = np.linspace(1, 16, 301)
with figure("10-forgotten") as fig:
    left, right = fig.subplots(1, 2)
    for alpha, colour in ((0.9, "C2"), (0.5, "C1")):
        left.plot(finest, alpha_without(alpha, finest), color=colour, label=f"α = {alpha} is written")
        left.axhline(alpha, color=colour, linewidth=1, linestyle=":")
    left.set(xlim=(1, 16), ylim=(0, 1), xlabel="temperature T", ylabel="what α amounts to without T²")
    left.set_title("α drifts away")
    left.legend(loc="upper right", bbox_to_anchor=(1, 0.88))
    for value, name in ((90, "the text: 90%"), (70, "the teacher: 70%")):
        right.axhline(value, color="0.6", linewidth=1, linestyle=":")
        right.text(32, value + 0.5, name, ha="right", color="0.4")
    right.semilogx(hotter, 100 * said["without"][:, 0], "o-", color="C1", label="without T²")
    right.semilogx(hotter, 100 * said["with"][:, 0], "o-", color="C0", label="with T²")
    right.set(xlabel="temperature T", ylabel="student: cat (%)", ylim=(68, 94), xlim=(0.95, 33))
    right.set_xticks([1, 2, 4, 8, 16, 32])
    right.xaxis.set_major_formatter("{x:g}")
    right.minorticks_off()
    right.set_title("and the teacher is forgotten")
    right.legend(loc="center right", bbox_to_anchor=(1, 0.27))

# %% [markdown]
# With $T^2$ one can turn the temperature and leave $\alpha$ alone; without it every change of $T$ is a change of
# $\alpha$, too. A sweep over $T$ then finds that the teacher is of no use at high temperatures, for the reason that it
# was not heard.
#
# ## What you should be able to explain now
#
# - where the two factors $1/T$ come from, and which of them one sees in the formula;
# - what distillation becomes as $T \to \infty$, and what a student is then asked to match;
# - why a loss with a kink does not want $T^2$;
# - which $\alpha$ somebody has really used who forgot $T^2$, and when that does no harm;
# - why $T^2$ belongs to the objective and not to the divergence.
#
# ## Exercises
#
# 1. Write `distillation_loss(student_logits, teacher_logits, labels, *, alpha=0.5, temperature=2.0,
#    divergence=forward_kl, mask=None, reduction="mean")`, value and pullback, in a file `mine.py`, and have it graded:
#    `minikd grade mine.py --only distillation_loss`. Forget the $T^2$ first, or apply it twice, and read the verdict.
# 2. Why does the cross-entropy not get a temperature? Give it one, without further factor, and see what becomes of the
#    student who is to say 80% cat.
# 3. `distillation_loss` also takes an alpha for each token. Make it 1 where the teacher's best word is the label and 0
#    elsewhere. What does the last experiment's student say then, and what has it not learned?
