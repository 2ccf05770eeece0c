# %% [markdown]
# # 8. The two directions of KL
#
# A student imitates a teacher by making a divergence small, most often a Kullback-Leibler divergence. There are two of
# them, for it is not symmetric. With $p$ the teacher and $q$ the student:
#
# $$\mathrm{KL}(p \,\|\, q) = \sum_i p_i \log\frac{p_i}{q_i} \quad \text{(forward)} \qquad
# \mathrm{KL}(q \,\|\, p) = \sum_i q_i \log\frac{q_i}{p_i} \quad \text{(reverse)}$$
#
# Both are 0 only at $q = p$. So what difference does it make which one we take? None, for a student that can become
# its teacher; but a student is chosen because it is smaller. This lesson asks what a student does that *cannot* be
# right everywhere, first on a curve with two humps, then with text.
#
# You need: lesson 1, the gradient as a pullback (lesson 3), Adam (lesson 7).

# %%
import re
from collections import Counter

import numpy as np

from minikd.lesson import check, figure
from minikd.losses import forward_kl, reverse_kl
from minikd.models.parameters import Parameters
from minikd.optim import AdamW, Moments, cosine_schedule
from minikd.softmax import log_softmax, softmax
from minikd.text.corpus import python_docs

rng = np.random.default_rng(8)
KLS = {"forward": forward_kl, "reverse": reverse_kl}

# %% [markdown]
# ## Who weighs the mistakes
#
# **Which mistake is expensive in which direction?** In the forward direction the teacher's probabilities weigh the log
# ratios: what counts is what the *teacher* says, and leaving out something that it says costs without limit. In the
# reverse direction the student's own probabilities are the weights: what counts is what the *student* says, and saying
# something that the teacher would not say costs without limit. What it leaves out is hardly missed.
#
# By hand, for a teacher with two words at 50% each and a student with 90% and 10%: forward
# $\frac12 \ln\frac{0.5}{0.9} + \frac12 \ln\frac{0.5}{0.1} = 0.5108$; reverse
# $0.9 \ln\frac{0.9}{0.5} + 0.1 \ln\frac{0.1}{0.5} = 0.3681$.

# %%
p, q = np.array([0.5, 0.5]), np.array([0.9, 0.1])
check("forward, worked by hand", forward_kl(np.log(q), np.log(p))[0], 0.5108, within=5e-5)
check("reverse, worked by hand", reverse_kl(np.log(q), np.log(p))[0], 0.3681, within=5e-5)

half, one = np.log([0.5, 0.5]), np.array([0, -np.inf])
check("leaving out a word: forward infinite", forward_kl(one, half)[0] == np.inf)
check("    reverse ln 2 and no more", reverse_kl(one, half)[0], np.log(2), within=1e-15)
check("inventing a word: forward ln 2 and no more", forward_kl(half, one)[0], np.log(2), within=1e-15)
check("    reverse infinite", reverse_kl(half, one)[0] == np.inf)

# %% [markdown]
# ## One hump for two
#
# Our teacher is a curve with two humps, cut into 241 cells so that it is a distribution over a vocabulary. The student
# has one hump, and two numbers to move it with: its place $\mu$ and its width $s$. Its logits are
# $z_i = -(x_i - \mu)^2 / 2 s^2$, so the pullback's $dz$ reaches them by the chain rule: $\partial z_i/\partial \mu =
# (x_i - \mu)/s^2$ and $\partial z_i/\partial \log s = (x_i - \mu)^2/s^2$. **Where does gradient descent put the hump?**
# (The steps in $\mu$ and $\log s$ are scaled by $s^2$ and $1/2$, the curvature of a normal distribution, so that one
# rate is right for narrow and wide humps, and the width changes by at most a tenth at a time.)

# %%
x = np.linspace(-12, 12, 241)


def hump(mu, s):
    return softmax(-((x - mu) ** 2) / (2 * s**2))[0]


def descend(divergence, teacher_logits, mu, s, steps=400, rate=0.1):
    path = []
    for _ in range(steps):
        z = -((x - mu) ** 2) / (2 * s**2)
        loss, vjp = divergence(z, teacher_logits)
        dz = vjp()
        path.append((mu, s, float(loss)))
        wider = -rate * dz @ (x - mu) ** 2 / (2 * s**2)
        mu, s = mu - rate * dz @ (x - mu), s * np.exp(np.clip(wider, -0.1, 0.1))
    return np.array(path)


weights = np.array([0.6, 0.4])
p = weights @ [hump(-3, 0.8), hump(3, 1.2)]
teacher = np.log(p)
starts = [(-5.5, 0.6), (-1.5, 1.5), (1.0, 0.6), (5.5, 2.0)]
paths = {name: [descend(kl, teacher, *start) for start in starts] for name, kl in KLS.items()}
ends = {name: np.array([path[-1] for path in several]) for name, several in paths.items()}

# %% [markdown]
# The forward student ends at the same place from wherever it starts, astride the valley: its gradient is $q - p$, and
# it rests where $\sum (q_i - p_i)\, x_i$ and $\sum (q_i - p_i)\, x_i^2$ are 0: it has the mean and the variance of the
# teacher, *exactly*. It covers both modes and is most certain of what lies between, which its teacher hardly ever says.
#
# The reverse student sits down on one of the humps, which one depends on where it began. Where a hump of weight $w$ is
# all that $q$ sees, $p \approx w q$ there and $\mathrm{KL}(q \,\|\, p) \approx \log\frac{q}{w q} = -\log w$: that is
# what it pays for never speaking of the other.

# %%
covering = hump(*ends["forward"][0, :2])
check("forward: the same end from every start", np.ptp(ends["forward"], axis=0), within=1e-6)
check("    with the teacher's mean", covering @ x, p @ x, within=1e-8)
check("    and its mean square, so its variance", covering @ x**2, p @ x**2, within=1e-7)
valley = np.where(np.abs(x) < 3, p, 1).argmin()
check("    nearly at its top at the bottom of the teacher's valley", covering[valley] > 0.99 * covering.max())
check("    of which the teacher says a twentieth at most", p[valley] < 0.05 * covering[valley])
places = np.array([-3, -3, 3, 3])
check("reverse: the nearer hump's place", ends["reverse"][:, 0], places, within=0.05)
check("    and its width", ends["reverse"][:, 1], np.where(places < 0, 0.8, 1.2), within=0.06)
check("    for a price of -ln w", ends["reverse"][:, 2], -np.log(np.where(places < 0, *weights)), within=0.01)

# %%
with figure("08-humps") as fig:
    left, right = fig.subplots(1, 2, sharey=True)
    for axes in (left, right):
        axes.fill_between(x, 100 * p, color="0.85", label="teacher p")
        axes.set(xlabel="x", xlim=(-8, 8), ylim=(0, 5.6))
        axes.set_title("Reverse KL seeks one" if axes is right else "Forward KL covers both")
    left.plot(x, 100 * covering, label="student q")
    left.set_ylabel("probability of a cell (%)")
    right.plot(x, 100 * hump(*ends["reverse"][0, :2]), "C1", label="student q, begun on the left")
    right.plot(x, 100 * hump(*ends["reverse"][-1, :2]), "C1", linestyle=(0, (2, 1)), label="begun on the right")
    for axes in (left, right):
        axes.legend(loc="upper right")

# %% [markdown]
# **Why one end here and two there?** Draw the divergence itself over all students, and count its valleys. From
# a textbook one would expect one for forward KL and two for reverse KL.

# %%
places, widths = np.linspace(-7, 7, 85), np.geomspace(0.4, 6, 64)
students = -((x - places[:, None]) ** 2) / (2 * widths[:, None, None] ** 2)
maps = {name: kl(students, np.broadcast_to(teacher, students.shape), reduction="none")[0] for name, kl in KLS.items()}
for (name, height), number in zip(maps.items(), (1, 3), strict=True):
    centre = height[1:-1, 1:-1]
    around = [height[1 + i : 63 + i, 1 + j : 84 + j] for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
    check(f"{name} KL: number of valleys", (centre < np.min(around, axis=0)).sum(), number)
third = {name: descend(kl, teacher, 0, 4.5) for name, kl in KLS.items()}
check("a reverse student that begins wide stays wide", third["reverse"][-1, 1] > 2.5)
check("    at a higher price than either hump's", third["reverse"][-1, 2] > ends["reverse"][:, 2].max() + 0.005)

# %%
with figure("08-landscapes") as fig:
    titles = "Forward: one valley", "Reverse: three valleys"
    levels = [0, 0.52, 0.54, 0.6, 0.7, 0.85, 0.92, 0.95, 1.1, 1.5, 3, 6, 15, 1e4]
    greys = [f"{grey:.3f}" for grey in np.linspace(0.45, 1, len(levels) - 1)]
    for axes, (name, height), title in zip(fig.subplots(1, 2, sharey=True), maps.items(), titles, strict=True):
        axes.contourf(places, widths, height, levels, colors=greys)
        for path in (*paths[name], third[name]):
            axes.plot(path[:, 0], path[:, 1], "C0" if name == "forward" else "C1")
            axes.plot(*path[0, :2], "o", color="white", markeredgecolor="0.2")
            axes.plot(*path[-1, :2], "*", color="black", markersize=12)
        axes.set(xlabel="place μ of the student's hump", yscale="log", yticks=[0.5, 1, 2, 4], ylim=(0.4, 6))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(axes.yaxis.get_major_locator())
        axes.set_title(title)
    fig.axes[0].set_ylabel("its width s")

# %% [markdown]
# The third valley of reverse KL is shallow and wide: between the humps a student can be caught that seeks no mode at
# all. It is the worst of the three, and still gradient descent ends there, if it begins there.
#
# "Mode covering" and "mode seeking" are thus no laws of nature (the picture is known from Minka 2005 and Bishop 2006,
# section 10.1). **What must be so for the two to differ?** Bring the humps closer until they overlap, and straddling is
# the reverse student's only choice. And give a student a free logit for every word: then both directions lead to
# $q = p$ (Wu et al. 2024 recall this for language models). The direction matters as far as the student is too small.

# %%
for apart, kinds in ((3, ["both"]), (6, ["left", "both", "right"])):
    close = np.log(weights @ [hump(-apart / 2, 1), hump(apart / 2, 1)])
    found = [descend(reverse_kl, close, mu, s)[-1] for mu, s in ((-apart / 2, 1), (0, apart / 2), (apart / 2, 1))]
    kind = ["both" if s > 1.2 else "left" if mu < 0 else "right" for mu, s, _ in found]
    check(f"humps of width 1, {apart} apart: reverse KL finds {', '.join(kinds)}", sorted(set(kind)) == sorted(kinds))

words = np.log([0.7, 0.2, 0.1])
for name, kl in KLS.items():
    z = np.zeros(3)
    for _ in range(300):
        z -= kl(z, words)[1]()
    check(f"a student with a logit for each word, {name}: q = p", log_softmax(z)[0], words, within=1e-9)

# %% [markdown]
# ## The same with words
#
# Now text: Python's documentation, its 300 most frequent words and marks. The teacher is a *bigram* model, the share
# of each word among the followers of another (the counts mixed with the words' own frequencies, so that nothing is
# impossible). It is a table of 300 distributions; the share $\pi_c$ of the text that it writes is how often word $c$
# stands there, and the student's loss is $\sum_c \pi_c D(p_c, q_c)$.
#
# The smallest student has no memory: one distribution $q$ for every context. **What does it say?** Forward,
# $\sum_c \pi_c (q - p_c) = 0$ gives the *arithmetic* mean of the teacher's distributions. Reverse, setting
# $\log q - \sum_c \pi_c \log p_c$ constant gives their *geometric* mean, normalised: a word must be acceptable in every
# context, one veto is enough.

# %%
V = 300
text = re.findall(r"[a-z]{2,}|[.,]", "".join(python_docs().pieces()).lower())
vocabulary = [word for word, _ in Counter(text).most_common(V)]
index = {word: i for i, word in enumerate(vocabulary)}
ids = np.array([index.get(word, V) for word in text])  # V: any rarer word
counts = np.zeros((V + 1, V + 1))
np.add.at(counts, (ids[:-1], ids[1:]), 1)
bigram = counts[:V, :V] + 5 * counts[:V, :V].sum(axis=0) / counts[:V, :V].sum()
bigram /= bigram.sum(axis=1, keepdims=True)
teacher = np.log(bigram)


def share_of_words(table):
    """How often each word stands in the text that a bigram table writes: the solution of share = share @ table."""
    return np.linalg.solve(np.vstack([(np.eye(V) - table.T)[1:], np.ones(V)]), np.eye(V)[-1])


share = share_of_words(bigram)
means = {"forward": np.log(share @ bigram), "reverse": share @ teacher}
for name, kl in KLS.items():
    _, vjp = kl(np.tile(means[name], (V, 1)), teacher, reduction="none")
    check(f"{name}: at its mean the gradient of the loss is 0", vjp(share).sum(axis=0), within=1e-14)

# %% [markdown]
# A student with a little memory: its 300 × 300 logits are a product of rank 4 plus a bias, 2,700 numbers for the
# teacher's 90,000. We fit it twice, everything equal but the direction.


# %%
def fit(kl, rank=4, steps=400):
    params = Parameters.zeros({"context": (V, rank), "word": (rank, V), "bias": (V,)}, dtype=np.float64)
    params.flat[:] = 0.1 * np.random.default_rng(0).normal(size=params.flat.size)
    params["bias"][:] = np.log(share)
    gradient, moments, adam = params.empty_like(), Moments.zeros(params), AdamW(weight_decay=0)
    for step in range(steps):
        _, vjp = kl(params["context"] @ params["word"] + params["bias"], teacher, reduction="none")
        dz = vjp(share)
        gradient["context"][:], gradient["word"][:] = dz @ params["word"].T, params["context"].T @ dz
        gradient["bias"][:] = dz.sum(axis=0)
        rate = cosine_schedule(step, peak=0.05, warmup_steps=5, steps=steps)
        adam.update(params, gradient.flat, moments, learning_rate=rate)
    return params["context"] @ params["word"] + params["bias"]


students = {name: fit(kl) for name, kl in KLS.items()}
score = {(s, d): float(share @ KLS[d](students[s], teacher, reduction="none")[0]) for s in KLS for d in KLS}
print({f"student {s}, measured {d}": round(value, 3) for (s, d), value in score.items()})
check("each wins in its own direction", score["forward", "forward"] < 0.6 * score["reverse", "forward"])
check("    and loses in the other", score["reverse", "reverse"] < 0.75 * score["forward", "reverse"])

# %% [markdown]
# **What do they write?** We let both write, and ask two things. *Likelihood*: how surprised is the teacher, in nats a
# word, to read this? *Diversity*: how many nats a word does the writer itself leave open, and how many words does it
# use? Both can be had exactly, since the writers are tables; a sample of 40,000 words shows that sampling agrees.


# %%
def judged(z, temperature=1.0):
    """The teacher's surprise at the text that logits z write at a temperature, and the writer's own, nats a word."""
    table, log_table = softmax(z, temperature)[0], log_softmax(z, temperature)[0]
    own = share_of_words(table)
    return -own @ (table * teacher).sum(axis=1), -own @ (table * log_table).sum(axis=1)


def write(z, length=400, texts=100):
    """Word ids (length, texts) sampled from a bigram table, beginning after a full stop."""
    steps = softmax(z)[0].cumsum(axis=1)
    lines = np.full((length + 1, texts), index["."])
    for i in range(length):
        lines[i + 1] = (rng.random((texts, 1)) > steps[lines[i], :-1]).sum(axis=1)
    return lines


writers = {"teacher": teacher} | students
surprise, own = {}, {}
for name, z in writers.items():
    surprise[name], own[name] = judged(z)
    lines = write(z)
    sampled = -teacher[lines[:-1], lines[1:]].mean()
    check(f"{name}'s text surprises the teacher, sampled as computed", sampled, surprise[name], within=0.08)
    pairs = len({*zip(lines[:-1].flat, lines[1:].flat, strict=True)})
    print(f"    {surprise[name]:.2f} nats a word; leaves open {own[name]:.2f}; {pairs:,} different pairs of words")
    print("    “" + " ".join(vocabulary[i] for i in lines[1:31, 0]) + " …”")

use = {name: share_of_words(softmax(z)[0]) / share for name, z in students.items()}
check("forward: less likely text than the teacher's, by more than a nat", surprise["forward"] > own["teacher"] + 1)
check("    and less decided than the teacher", own["forward"] > own["teacher"] + 0.4)
check("reverse: nearly as likely as the teacher's", surprise["reverse"] < own["teacher"] + 0.4)
check("    and more decided than the teacher", own["reverse"] < own["teacher"] - 0.2)
check("forward uses each word as often as the teacher", use["forward"], 1, within=0.05)
neglected = (use["reverse"] < 0.5).mean()
check("reverse uses about a third of all words less than half as often", neglected, 0.32, within=0.05)
order = [f"{vocabulary[i]} {use['reverse'][i]:.2f}" for i in use["reverse"].argsort()]
print("reverse, use of a word beside the teacher's:", *order[:5], "...", *order[-5:])

# %% [markdown]
# The forward student is *bland*: it hedges, knows every word and uses each exactly as often as its teacher does (its
# bias sees $\sum_c \pi_c (q_c - p_c) = 0$, the mean of the humps again), and so often puts it where no teacher would.
# The reverse student is *committed*: it says what is likely, keeps to fewer turns of phrase, and neglects a third of
# the words in favour of those that fit everywhere. (In that sense it is the blander one.)
#
# **But could the bland student not simply be sampled at a lower temperature?** That makes any text likelier and less
# diverse, without any other training. So a fair comparison lets each write at all temperatures (Caccia et al. 2020).

# %%
temperatures = np.geomspace(0.4, 1.3, 40)
curves = {name: np.array([judged(z, t) for t in temperatures]) for name, z in writers.items()}
as_diverse = np.interp(own["reverse"], curves["forward"][:, 1], curves["forward"][:, 0])
cooled = np.interp(own["reverse"], curves["forward"][:, 1], temperatures)
print(f"forward at T = {cooled:.2f} is as undecided as reverse at T = 1: {as_diverse:.2f} nats a word")
check(
    "cooling does most of what the reverse direction did",
    surprise["forward"] - as_diverse > 4 * (as_diverse - surprise["reverse"]),
)
check("but not all", as_diverse - surprise["reverse"] > 0.05)

# %%
with figure("08-text", height=4.4) as fig:
    axes = fig.subplots()
    for name, colour, label in zip(writers, ("black", "C0", "C1"), ("", ": bland", ": committed"), strict=True):
        axes.plot(curves[name][:, 1], curves[name][:, 0], color=colour, label=name + label)
        axes.plot(own[name], surprise[name], "o", color=colour, markersize=9)
    axes.set(xlabel="diversity: what the writer leaves open (nats a word)", xlim=(1, 4.8), ylim=(2, 6.2))
    axes.set_ylabel("teacher's surprise (nats a word)")
    axes.text(4.75, 2.15, "dots: T = 1; to their left cooler, to their right hotter", ha="right", color="0.4")
    axes.set_title("Likely or diverse: most of the choice is temperature")
    axes.legend(loc="upper left")

# %% [markdown]
# Most of what the reverse direction gained in likelihood, cooling gives too; some of it, only the direction. Whoever
# wants to *predict* text (or to be cooled later) takes forward KL; whoever wants a small model to *write* may prefer
# reverse (Gu et al. 2024, MiniLLM). Our students met the teacher's contexts only, not those that they lead themselves
# into.
#
# ## What you should be able to explain now
#
# - who weighs the mistakes in either direction, and which mistake is infinitely expensive;
# - why the forward student has the teacher's mean and variance, and why that may put it where the teacher never is;
# - when the two directions lead to the same student;
# - why two writers should be compared at all temperatures rather than at one.
#
# ## Exercises
#
# 1. Write `reverse_kl(student_logits, teacher_logits, *, temperature=1.0, mask=None, reduction="mean")`, value and
#    pullback, in a file `mine.py`, and have it graded: `minikd grade mine.py --only reverse_kl`. The gradient is
#    $q \odot (\log\frac{q}{p} - \mathrm{KL}(q \,\|\, p)) / T$. Where does the KL in it come from?
# 2. Fit the hump with `symmetric_kl` and with `js`. How many valleys has each? Predict it, then draw the landscape.
# 3. Give the student of words the rank 1, then 16. What becomes of the distance between the two curves, and why?
