# %% [markdown]
# # 1. Softmax and temperature
#
# A language model reads a text and answers with $V$ numbers, one for each token of its vocabulary: the *logits* $z$.
# The softmax makes probabilities of them, the *temperature* $T > 0$ decides how sharp these are:
#
# $$p_i = \frac{e^{z_i/T}}{\sum_j e^{z_j/T}}$$
#
# Everything that a teacher hands on to its student goes through this one formula. This lesson looks at it closely:
# where it breaks in a computer, what temperature does to it, what there is to learn from the tokens that a teacher
# holds to be *less* likely, and how the probabilities answer when a logit moves.
#
# You need: the exponential function, derivatives, a little NumPy.

# %%
import numpy as np

from minikd.lesson import check, figure
from minikd.oracle import check_vjp
from minikd.softmax import log_softmax, softmax

rng = np.random.default_rng(1)

# %% [markdown]
# ## From scores to probabilities
#
# The textbook's formula is one line. **Is it what minikd computes?** Logits may be any numbers; $e^z$ makes them
# positive, the division makes them sum to 1. (`softmax` returns the probabilities and its *pullback*, of which more at
# the end.)


# %%
def textbook(z, temperature=1.0):
    powers = np.exp(z / temperature)
    return powers / powers.sum()


z = 3 * rng.normal(size=50)
p, _ = softmax(z)
check("probabilities sum to 1", p.sum(), 1, within=1e-15)
check("minikd's softmax is the textbook's", p, textbook(z), within=1e-15)
check("and at T = 2.5", softmax(z, 2.5)[0], textbook(z, 2.5), within=1e-15)

# %% [markdown]
# ## Where the formula breaks
#
# Add the same number $c$ to all logits: $e^{z_i + c} = e^c e^{z_i}$, the factor $e^c$ stands above and below the
# fraction bar and cancels. **Is that so in a computer, too?** Its float32 numbers end at $3.4 \cdot 10^{38}$, which
# $e^{89}$ exceeds, and lose their digits, then vanish, below $1.2 \cdot 10^{-38}$, which is about $e^{-87}$.
#
# The cure is the invariance itself: subtract the largest logit first. No power is then above 1 and the sum is at least
# 1: nothing overflows and nothing is divided by 0. (The logits here are multiples of 1/16 and $c$ is whole, so that
# float32 holds $z + c$ exactly: what we see is the softmax's error alone.)


# %%
def shifted(z, temperature=1.0):
    return textbook(z - z.max(), temperature)


z = np.array([2.0, 0.75, 0.0625, -1.5, -3.0], dtype=np.float32)
truth = textbook(z.astype(np.float64))
shifts = np.arange(-120, 121).astype(np.float32)
with np.errstate(over="ignore", invalid="ignore"):
    forms = {"textbook": textbook, "largest logit subtracted": shifted, "minikd": lambda z: softmax(z)[0]}
    errors = {name: np.array([np.abs(f(z + c) - truth).max() for c in shifts]) for name, f in forms.items()}

check("the textbook's form overflows: inf / inf from c = 87 on", np.isnan(errors["textbook"][shifts >= 87]))
check("and underflows: 0 / 0 down from c = -107", np.isnan(errors["textbook"][shifts <= -107]))
check("with the largest logit subtracted c does not matter", errors["largest logit subtracted"], within=1e-7)
check("nor in minikd", errors["minikd"], within=1e-7)
same = [np.array_equal(softmax(z + c)[0], softmax(z)[0]) for c in shifts]
check("where not even the last bit changes", np.array(same))

# %%
with figure("01-shift") as fig:
    axes = fig.subplots()
    axes.semilogy(shifts, errors["textbook"], label="the textbook's formula")
    axes.semilogy(shifts, errors["minikd"], label="minikd: the largest logit subtracted first")
    for side, what in ((shifts <= 0, "0 / 0"), (shifts >= 0, "inf / inf")):
        broken = shifts[side & np.isnan(errors["textbook"])]
        axes.axvspan(broken.min(), broken.max(), color="0.93", zorder=0)
        axes.text(broken.mean(), 1e-4, f"{what}\nNaN", ha="center")
    axes.set(xlabel="c, added to every logit", ylabel="a probability's largest error", xlim=(-120, 120), ylim=(1e-9, 1))
    axes.set_title("The same probabilities, computed in float32")
    axes.legend(loc="upper center")

# %% [markdown]
# Only *differences* of logits mean anything; their common level is free, and a program uses that freedom.
#
# The logarithm of a probability has the same trouble at the other end: a token may be so unlikely that its probability
# is 0 in float32, and $\log 0 = -\infty$. So one never takes the logarithm of a softmax, but a `log_softmax`:
# $\log p_i = z_i - \log\sum_j e^{z_j}$, the largest logit subtracted here, too.

# %%
z = np.array([200.0, 0.0], dtype=np.float32)
with np.errstate(divide="ignore"):
    check("the logarithm of the softmax is -inf", np.log(softmax(z)[0])[1] == -np.inf)
check("log_softmax knows that it is -200", log_softmax(z)[0][1], -200, within=0)

# %% [markdown]
# ## Temperature
#
# **What does $T$ do to a distribution, and between which limits?** Our teacher has read "on the mat there sits a" and
# says: cat 70%, dog 20%, animal 10%. Logits that give these probabilities are their logarithms (plus any constant).
#
# At temperature $T$ the odds of two tokens are $p_i/p_j = e^{(z_i - z_j)/T}$: the odds at $T = 1$ to the power $1/T$.
# By hand, at $T = 2$: the roots of 0.7, 0.2, 0.1 are 0.8367, 0.4472, 0.3162, together 1.6001, so the probabilities
# are 52.29%, 27.95%, 19.76%.
#
# How undecided the teacher is, its *entropy* $H = -\sum_i p_i \log p_i$ tells (with natural logarithms, in *nats*). It
# can only rise with the temperature: with $\beta = 1/T$ one finds $dH/d\beta = -\beta \, \mathrm{Var}(z)$, and from
# that
#
# $$\frac{dH}{dT} = \frac{\mathrm{Var}(z)}{T^3} \ge 0$$
#
# where the variance of the logits is taken under $p$ at this temperature.

# %%
words = ["cat", "dog", "animal"]
teacher = np.array([0.70, 0.20, 0.10])
z = np.log(teacher) + 5


def entropy(temperature):
    p, _ = softmax(z, temperature)
    return -(p * log_softmax(z, temperature)[0]).sum()


temperatures = np.geomspace(0.05, 100, 200)
table = np.array([softmax(z, temperature)[0] for temperature in temperatures])
variance = [p @ z**2 - (p @ z) ** 2 for p in table]
slopes = [(entropy(1.0001 * t) - entropy(0.9999 * t)) / (0.0002 * t) for t in temperatures]

check("at T = 1 the teacher says 70, 20, 10", softmax(z)[0], teacher, within=1e-15)
check("at T = 2, worked by hand, 52.29, 27.95, 19.76", softmax(z, 2.0)[0], [0.5229, 0.2795, 0.1976], within=5e-5)
check("T to 0: only the best is left", softmax(z, 0.02)[0], [1, 0, 0], within=1e-12)
check("T to infinity: all are equal", softmax(z, 1e6)[0], [1 / 3] * 3, within=1e-6)
check("their order never changes", np.diff(table, axis=1) <= 0)
check("dH/dT = Var(z) / T^3", slopes, variance / temperatures**3, within=1e-6)

# %%
with figure("01-temperature") as fig:
    left, right = fig.subplots(1, 2)
    for word, curve in zip(words, 100 * table.T, strict=True):
        left.semilogx(temperatures, curve, label=word)
    left.axhline(100 / 3, color="0.6", linewidth=1, linestyle=":")
    left.set(ylabel="probability (%)", ylim=(0, 103))
    left.set_title("From the best alone to all alike")
    left.legend()
    right.semilogx(temperatures, [entropy(t) for t in temperatures], color="black")
    right.axhline(np.log(3), color="0.6", linewidth=1, linestyle=":")
    right.text(0.06, np.log(3) + 0.02, "ln 3: a blind guess")
    right.set(ylabel="entropy (nats)", ylim=(0, 1.2))
    right.set_title("Ever less decided")
    for axes in (left, right):
        axes.axvline(1, color="0.9", zorder=0)
        axes.set(xlabel="temperature T", xlim=(0.05, 100))
        axes.xaxis.set_major_formatter("{x:g}")

# %% [markdown]
# Temperature moves a distribution between "only the best" and "all alike" without ever changing the order; $T = 1$ is
# what the model was trained to say.
#
# ## What the other 30% says
#
# The text goes on with *one* word, "cat" say: a *hard label*, which says nothing of dog and animal. The teacher's
# whole distribution is a *soft label*. **How much text would a student have to read to find out for itself what one
# soft label says?** It would have to meet this very beginning $n$ times and count how often each word follows. The
# count of word $i$, divided by $n$, has the variance $p_i (1 - p_i) / n$, so on average
#
# $$\sum_i \left(\frac{\text{count}_i}{n} - p_i\right)^2 = \frac{1 - \sum_i p_i^2}{n} = \frac{0.46}{n}$$

# %%
n = np.array([1, 3, 10, 30, 100, 300, 1000, 3000, 10000])
shares = [rng.multinomial(times, teacher, size=4000) / times for times in n]
counted = np.array([np.sqrt(((share - teacher) ** 2).sum(axis=1).mean()) for share in shares])
derived = np.sqrt((1 - (teacher**2).sum()) / n)

check("counted error / derived error", counted / derived, 1, within=0.05)
check(
    "for an error of one percentage point it takes 4,600 readings",
    (1 - (teacher**2).sum()) / 0.01**2,
    4600,
    within=1e-6,
)
check("at T = 2 the other two words weigh 48%, not 30%", softmax(z, 2.0)[0][1:].sum(), 0.48, within=0.005)

# %%
with figure("01-other-30-percent") as fig:
    left, right = fig.subplots(1, 2, width_ratios=(4, 3))
    labels = {"the text: cat": np.array([1, 0, 0])}
    labels |= {f"the teacher, T = {t}": softmax(z, t)[0] for t in (1, 2, 4)}
    for place, colour, (name, label) in zip(np.arange(4), ("0.75", "C0", "C1", "C2"), labels.items(), strict=True):
        bars = left.bar(np.arange(3) + 0.21 * (place - 1.5), 100 * label, 0.19, label=name, color=colour)
        left.bar_label(bars, fmt="%.0f", size=9)
    left.set(xticks=range(3), xticklabels=words, ylabel="probability (%)", ylim=(0, 112))
    left.set_title("One hard label, three soft ones")
    left.legend()
    right.loglog(n, 100 * derived, color="0.6", label="√(0.46 / n)")
    right.loglog(n, 100 * counted, "o", label="counted")
    right.set(xlabel="n, readings of this beginning", ylabel="error (percentage points)")
    right.xaxis.set_major_formatter("{x:,.0f}")
    right.yaxis.set_major_formatter("{x:g}")
    right.set_title("Or read and count")
    right.legend()

# %% [markdown]
# The other 30% says which mistakes are nearly right: a dog might well sit there, twice as likely as "animal", and
# nothing else will. To read that off the text takes thousands of meetings with the same beginning, and real text
# hardly ever repeats itself; the teacher says it every time. (It says what *it* believes: a soft label is worth as
# much as the teacher is.) A temperature above 1 lets the student look longer at this part.
#
# ## How the probabilities answer
#
# A student learns by moving its logits. **If logit $j$ moves a little, what do the probabilities do?** Differentiate
# the formula: $p_i$ depends on $z_j$ through its own power, if $i = j$, and through the sum, always. All answers
# together are the *Jacobian* ($\delta_{ij}$ is 1 if $i = j$, else 0):
#
# $$J_{ij} = \frac{\partial p_i}{\partial z_j} = \frac{p_i \, (\delta_{ij} - p_j)}{T}$$
#
# In minikd a function returns its value and its pullback: `p, vjp = softmax(z, T)`. Handed a gradient with respect to
# $p$, the pullback gives the gradient with respect to $z$: $\texttt{vjp}(d)_j = \sum_i d_i J_{ij}$. Handed the $i$-th
# unit vector, it gives row $i$ of the Jacobian.


# %%
def jacobian(z, temperature):
    p = shifted(z, temperature)
    return (np.diag(p) - np.outer(p, p)) / temperature


for temperature in (0.5, 1.0, 4.0):
    _, vjp = softmax(z, temperature)
    rows = np.stack([vjp(unit) for unit in np.eye(3)])
    check(f"T = {temperature}: the pullback's rows are the formula's", rows, jacobian(z, temperature), within=1e-15)
    check("    each sums to 0: a shift of all logits changes no probability", rows.sum(axis=1), within=1e-15)
    check("    so does each column: what one gains, the others lose", rows.sum(axis=0), within=1e-15)

hot, vjp_hot = softmax(z, 4.0)
cool, vjp_cool = softmax(z / 4.0)
d = rng.normal(size=3)
check("the temperature divides the logits", hot, cool, within=1e-15)
check("and once more the gradient", vjp_hot(d), vjp_cool(d) / 4.0, within=1e-15)

# %% [markdown]
# Formula and program agree; both could be wrong in the same way. An independent judge differentiates the function
# numerically and asks the pullback for a *random* direction: `check_vjp`. Random, because with ones, the favourite of
# many a test, this pullback answers 0 whatever its factor is, and a forgotten $1/T$ goes unnoticed.

# %%
report = check_vjp(lambda z: softmax(z, 4.0), [z])
print(report)
check("the pullback is the derivative", report.passed)
check("with ones it is 0, so ones check nothing", vjp_hot(np.ones(3)), within=1e-16)


def without_factor(z):
    p, vjp = softmax(z, 4.0)
    return p, lambda d: 4.0 * vjp(d)


check("the judge notices a missing 1/T", not check_vjp(without_factor, [z]).passed)

# %%
with figure("01-jacobian", height=3.6) as fig:
    for axes, temperature in zip(fig.subplots(1, 3), (0.5, 1.0, 4.0), strict=True):
        rows = jacobian(z, temperature)
        axes.imshow(rows, cmap="PuOr", vmin=-0.45, vmax=0.45)
        for (i, j), entry in np.ndenumerate(rows):
            axes.text(j, i, f"{entry:+.3f}".replace("-", "−"), ha="center", va="center")
        axes.set(xticks=range(3), xticklabels=words, yticks=range(3), yticklabels=words, xlabel="if this logit rises")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_title(f"T = {temperature:g}")
    fig.axes[0].set_ylabel("this probability gains")

# %% [markdown]
# Raising one logit takes from all the others what it gives to its own probability, most where the model is undecided
# and nothing where it is sure. At a high temperature the answer is small because of the factor $1/T$ alone: the bracket
# $p_i (\delta_{ij} - p_j)$ even grows a little as the distribution evens out. The gradient of distillation will be
# small *twice*, since there teacher and student also come nearer to each other (lesson 10).
#
# ## What you should be able to explain now
#
# - why the largest logit is subtracted before the exponential, and why that changes nothing;
# - what becomes of a distribution as $T \to 0$ and as $T \to \infty$, and what stays the same on the way;
# - what a soft label says that a hard one does not, and when that is worth something;
# - why every row and every column of the softmax's Jacobian sums to zero;
# - why a gradient should be checked with random numbers rather than ones.
#
# ## Exercises
#
# 1. Two logits tie for the largest. What is the limit for $T \to 0$? Predict it, then ask `softmax`.
# 2. With two tokens the softmax is the logistic function of $(z_1 - z_2)/T$. Derive that, and write the `check`.
# 3. Write `log_softmax(logits, temperature=1.0)` that returns value and pullback, in a file `mine.py`, and have it
#    graded: `minikd grade mine.py --only log_softmax`. Then forget the $1/T$, or the sum, on purpose, and read what
#    the grader says.
