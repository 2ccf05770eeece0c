# %% [markdown]
# # 2. Hard labels: cross-entropy
#
# A text is a teacher, too, the strictest one: after "on the mat there sits a" it says "cat" and nothing else. This is
# a *hard label* $y$, one token out of $V$. The model has logits $z$ and probabilities $p = \text{softmax}(z)$. How
# wrong is it, and which way should its logits go?
#
# $$\ell = -\log p_y \qquad\qquad \frac{\partial \ell}{\partial z_j} = p_j - [j = y]$$
#
# The first formula is the *cross-entropy* of one token, the second its gradient ($[j = y]$ is 1 for the label, else 0).
# This lesson asks why it has to be the
# logarithm, where the gradient comes from, what the loss is before anything has been learned, and what the mean of
# many tokens is when some of them do not count.
#
# You need: lesson 1.

# %%
import numpy as np

from minikd.lesson import check, figure
from minikd.losses import cross_entropy
from minikd.oracle import check_vjp
from minikd.oracle.mutants import MUTANTS
from minikd.softmax import softmax

rng = np.random.default_rng(2)

# %% [markdown]
# ## Why the logarithm
#
# A model says 70% cat. Is that good? One text cannot tell; a score can only be fair on average. **Which score makes it
# best to say what one believes?** Let the truth be 70% cat and 30% something else, and let the model report any
# probability $q$ for cat. We compare three losses by their expectation under the truth:
#
# - the logarithm, $-\log q_y$;
# - the plain distance to certainty, $1 - q_y$;
# - the squared error against the one-hot label, $\sum_i (q_i - [i = y])^2$, named after Brier (1950).

# %%
reported = np.arange(1, 100) / 100
LOSSES = {"−log q": lambda q: -np.log(q), "1 − q": lambda q: 1 - q, "squared error": lambda q: 2 * (1 - q) ** 2}
losses = {name: 0.7 * loss(reported) + 0.3 * loss(1 - reported) for name, loss in LOSSES.items()}
best = {name: reported[loss.argmin()] for name, loss in losses.items()}
check("the logarithm is smallest for who reports 70%", best["−log q"], 0.70, within=1e-12)
check("so is the squared error", best["squared error"], 0.70, within=1e-12)
check("1 - q is smallest for who claims to be sure", best["1 − q"], 0.99, within=1e-12)

p = np.array([0.70, 0.20, 0.10])
entropy = -(p * np.log(p)).sum()
q = rng.dirichlet(np.ones(3), size=10_000)
excess = -(p * np.log(q)).sum(axis=1) - entropy
check("with three words: no report of 10,000 has a lower cross-entropy than the truth", excess >= 0)
check("what it costs more is the sum of p log(p / q)", excess, (p * np.log(p / q)).sum(axis=1), within=1e-13)

# %% [markdown]
# Two of the three are honest. What the honest logarithm cannot go below is the *entropy* of the text; what a model
# pays above it, $\sum_i p_i \log(p_i/q_i)$, is the Kullback-Leibler divergence, of which later lessons speak at length.
#
# The logarithm has a second merit: the probability of a text is a *product* of those of its tokens, each given what
# came before; the logarithm makes a sum of it, to which every token brings its own loss.
#
# ## The gradient: p − y
#
# **Which way do the logits have to go?** By the formula of lesson 1, $\log p_y = z_y - \log \sum_j e^{z_j}$. The
# derivative of the first term is 1 for the label's own logit, that of the second is $e^{z_j} / \sum e^z = p_j$. Or, by
# the chain rule through the softmax: $-1/p_y$ times row $y$ of its Jacobian. The two must agree. The factor $1/p_y$ is
# huge for an unlikely label; the Jacobian's row is as tiny: it is their product that is tame.


# %%
def by_hand(z, y):
    """The loss of one token and its gradient."""
    p, _ = softmax(z)
    return -np.log(p[y]), p - np.eye(len(z))[y]


z, y = rng.normal(size=5), 3
p5, vjp_softmax = softmax(z)
loss, gradient = by_hand(z, y)
minikd_loss, vjp = cross_entropy(z[None], np.array([y]))
check("minikd's loss", minikd_loss, loss, within=1e-14)
check("minikd's gradient is p - y", vjp()[0], gradient, within=1e-15)
check("it is -1/p_y times the softmax's Jacobian, too", vjp_softmax(-np.eye(5)[y] / p5[y]), gradient, within=1e-14)
check("it sums to 0: what is pushed up is taken from the others", gradient.sum(), within=1e-15)
check("the judge agrees", check_vjp(cross_entropy, [z[None], np.array([y])]).passed)

# %% [markdown]
# The squared error was honest, too. **Why does hardly anybody train with it?** Suppose that all $V = 1000$ tokens but
# the label have equal logits, and look at the push that the label's logit gets, $-\partial\ell/\partial z_y$, from
# either loss, for a label that the model holds to be likely, or not at all.

# %%
label_logit = np.linspace(-7, 16, 231)
z = np.zeros((231, 1000))
z[:, 0] = label_logit
onehot = np.zeros_like(z)
onehot[:, 0] = 1
p_many, vjp_softmax = softmax(z)
push = {
    "−log q": -cross_entropy(z, np.zeros(231, dtype=int), reduction="none")[1](np.ones(231))[:, 0],
    "squared error": -vjp_softmax(2 * (p_many - onehot))[:, 0],
}
label_probability = p_many[:, 0]
ratio = push["squared error"] / push["−log q"]
early = label_probability < 0.01
check("the logarithm pushes with 1 - p", push["−log q"], 1 - label_probability, within=1e-13)
check("the squared error with 2 p of that, for small p", ratio[early] / label_probability[early], 2, within=0.05)

# %%
with figure("02-logarithm") as fig:
    left, right = fig.subplots(1, 2)
    for name, colour in zip(losses, ("C0", "C2", "C1"), strict=True):
        left.plot(100 * reported, losses[name], color=colour, label=name)
        left.plot(100 * best[name], losses[name].min(), "o", color=colour, markersize=8, clip_on=False)
    left.axvline(70, color="0.85", zorder=0)
    left.text(71, 0.05, "the truth", color="0.4")
    left.set(xlabel="reported probability of “cat” (%)", ylabel="expected loss", xlim=(0, 100), ylim=(0, 2.2))
    left.set_title("Two of three are honest")
    left.legend(title="loss, lowest at the dot", loc="upper center", bbox_to_anchor=(0.43, 1))
    for name, colour in zip(push, ("C0", "C1"), strict=True):
        right.semilogx(label_probability, push[name], color=colour, label=name)
    right.axvline(1 / 1000, color="0.85", zorder=0)
    right.text(1.3e-3, 0.55, "an untrained\nmodel", color="0.4")
    right.set(xlabel="probability of the label", ylabel="push on the label's logit", xlim=(1e-6, 1), ylim=(0, 1.08))
    right.set_title("One of them gives up")
    right.legend(loc="center left", bbox_to_anchor=(0, 0.6))

# %% [markdown]
# Both are honest, but the squared error lets go of whoever is wrong and sure: among 1000 tokens it pushes an untrained
# model 500 times more weakly. Cross-entropy never pushes harder than 1, and never gives up. (Solla, Levin & Fleisher
# 1988 compared the two in the networks of their day.)
#
# ## One token is noise, many are a teacher
#
# **What do hard labels teach if the text goes on now with cat, now with dog?** Every single one pulls towards 100% for
# itself. Average over a text in which the next word follows $p$: since $E[\,[j = y]\,] = p_j$, the mean gradient of a
# student with probabilities $q$ is $q - p$. That is the gradient of the whole distribution $p$ as one *soft* label.
# A hard label is a soft one plus noise, and lesson 1 told how much: $1 - \sum_i p_i^2$, which is 0.46 here.

# %%
n = 100_000
student = np.array([0.5, 0.5, -0.5])
q, _ = softmax(student)
read = rng.choice(3, size=n, p=p)
_, vjp = cross_entropy(np.tile(student, (n, 1)), read, reduction="none")
gradients = vjp(np.ones(n))
check("the mean of all gradients is q - p", gradients.mean(axis=0), q - p, within=0.01)
check("one gradient's squared distance from it", ((gradients - (q - p)) ** 2).sum(axis=1).mean(), 0.46, within=0.01)

_, vjp = cross_entropy(np.log(p) + np.zeros((3, 1)), np.arange(3), reduction="none")
pulls = vjp(np.ones(3))
check("at q = p the mean gradient is 0", p @ pulls, within=1e-15)
check("but no token's own: the shortest has length 0.37", np.linalg.norm(pulls, axis=1).min(), 0.374, within=0.001)

# %% [markdown]
# Training on text does not end when the gradients are 0, they never are; it ends when they cancel. A soft label
# $p$ would give $q - p$ at once, without the noise: this is what distillation is for.
#
# ## The loss before anything is learned
#
# **What should the first line of a training log say?** A model that knows nothing gives every token $1/V$, and its
# loss is $\ln V$. A fresh network is not quite that blank: its logits are small random numbers, of standard deviation
# $s$ say. The label's logit is 0 on average, and for a large vocabulary $\frac1V \sum_j e^{z_j}$ is close to its
# expectation $e^{s^2/2}$, so the loss is about
#
# $$\ln V + \frac{s^2}{2}$$

# %%
V = 1000
labels = rng.integers(V, size=3000)
shape = rng.normal(size=(3000, V))
spreads = np.linspace(0, 2, 9)
start = np.array([cross_entropy(s * shape, labels)[0] for s in spreads])
blank, _ = cross_entropy(np.zeros((1, 50257)), np.array([7]))

check("GPT-2's vocabulary of 50,257, all logits 0: 10.825", blank, 10.825, within=5e-4)
check("with a spread s: ln V + s^2 / 2, but for the luck of the labels", start, np.log(V) + spreads**2 / 2, within=0.15)

# %%
with figure("02-start", height=3.8) as fig:
    axes = fig.subplots()
    smooth = np.linspace(0, 2)
    axes.plot(smooth, np.log(V) + smooth**2 / 2, color="0.6", label="ln V + s² / 2")
    axes.plot(spreads, start, "o", markersize=7, label="cross-entropy of 3,000 tokens, V = 1000")
    axes.axhline(np.log(V), color="0.6", linewidth=1, linestyle=":")
    axes.text(2, np.log(V) + 0.06, "ln 1000 = 6.91: a blind guess", ha="right")
    axes.set(xlabel="s, standard deviation of the random logits", ylabel="loss (nats a token)", xlim=(-0.05, 2.05))
    axes.set(xticks=np.arange(0, 2.1, 0.5), yticks=np.arange(7, 9.1, 0.5))
    axes.set_title("A fresh model should be as good as a blind guess")
    axes.legend(loc="upper left")

# %% [markdown]
# This is the first check of any new model: its first loss should be a little above $\ln V$. GPT-2's logits start with
# $s = 0.02 \sqrt{768} = 0.55$, so its loss at about $10.82 + 0.15 = 10.98$. A first loss of 14 says that the model is
# already sure of something, and wrong; one of 9 that it sees the answer.
#
# ## Perplexity
#
# **How many nats are many?** $e^{\text{mean loss}}$ is the *perplexity*: the number of equally likely tokens that would
# be as hard to guess. It is the *geometric* mean of the $1/p_y$. Two mistakes are common: to average perplexities, and
# to compare those of two tokenizers. A fair coin's perplexity is 2; write two throws as one token, and it is 4, for
# the same text and the same knowledge. Bits per throw (for text: bits per byte) do not change.

# %%
limited = np.where(np.arange(V) < 20, 0.0, -np.inf) + np.zeros((8, 1))
perplexity = np.exp(cross_entropy(limited, np.arange(8))[0])
check("undecided among 20 of 1000 tokens: perplexity 20", perplexity, 20, within=1e-12)

two = np.array([2.0, 6.0])  # the mean losses of two batches of equal size
check("the perplexity of both together is e^4 = 54.6", np.exp(two.mean()), 54.6, within=0.05)
check("the mean of their perplexities is 205", np.exp(two).mean(), 205, within=0.5)

throw, _ = cross_entropy(np.zeros((1, 2)), np.array([0]))
pair, _ = cross_entropy(np.zeros((1, 4)), np.array([0]))
check("two throws in one token: the perplexity is squared", np.exp(pair), np.exp(throw) ** 2, within=1e-14)
check("but 1 bit a throw it is either way", np.array([throw, pair / 2]) / np.log(2), 1, within=1e-14)

# %% [markdown]
# ## Tokens that do not count
#
# A batch is a rectangle, $B$ sequences of $T$ positions, and texts are not. Short ones are filled up with *padding*.
# And where a model learns to answer, the question is read but not scored. So a loss takes a *mask* $(B, T)$, True where
# a token counts; the label $-100$ says the same. **What is the mean loss of such a batch?** minikd's answer:
#
# $$L = \frac{\sum_{t \text{ counted}} \ell_t}{\text{number of counted tokens}}$$
#
# Each token's loss has a weight $w_t$, here $1/N$ or 0, and its gradient is $w_t\,(p - y)$. Every other convention is
# another $w$. Two are found in the wild: divide by *all* positions, as a plain `mean()` over an array with zeros in it
# does; or take the mean of each sequence (or each micro-batch) first and then average these.

# %%
answers, V = np.array([4, 9, 16, 30, 55, 100]), 50  # lengths of six answers, each after a question of 10 tokens
position = np.arange(660)
mask = (position >= 10) & (position < 10 + answers[:, None])
logits, labels = rng.normal(size=(6, 660, V)), rng.integers(V, size=(6, 660))
logits += (labels[..., None] == np.arange(V)) * np.linspace(0, 4, 6)[:, None, None]  # longer ones are known better

by = {
    "counted tokens": lambda mask: mask / mask.sum(),
    "all positions": lambda mask: mask / mask.size,
    "mean of means": lambda mask: mask / mask.sum(axis=1, keepdims=True) / len(mask),
}
each, vjp = cross_entropy(logits, labels, reduction="none")
loss, vjp_mean = cross_entropy(logits, labels, mask=mask)
slowly = np.mean([by_hand(logits[b, t], labels[b, t])[0] for b, t in np.argwhere(mask)])
spoilt = np.where(mask[..., None], logits, np.nan)

check("minikd's mean, against a loop over the 214 tokens that count", loss, slowly, within=1e-14)
check("as a sum of weighted losses", (by["counted tokens"](mask) * each).sum(), loss, within=1e-14)
check("its gradient, too", vjp_mean(), vjp(by["counted tokens"](mask)), within=1e-15)
check("the label -100 says the same", cross_entropy(logits, np.where(mask, labels, -100))[0], loss, within=1e-14)
check("no gradient where nothing counts", vjp_mean()[~mask] == 0)
check("where nothing counts nobody looks: NaN does no harm", cross_entropy(spoilt, labels, mask=mask)[0] == loss)

# %% [markdown]
# The conventions differ only in a factor, or so it seems. **Does it matter?** Pad the same six answers to rows of 110
# to 660 positions. Then look at the weight of one token in the gradient, by the length of the answer it stands in.

# %%
widths = np.array([110, 150, 200, 300, 440, 660])
padded = {name: np.array([(w(mask[:, :n]) * each[:, :n]).sum() for n in widths]) for name, w in by.items()}
unweighted = vjp(np.ones(mask.shape))[:, 10, 0]  # of the first token of each answer, any class
weight = {name: vjp(w(mask))[:, 10, 0] / unweighted * mask.sum() for name, w in by.items()}
shares = mask.sum() / (6 * widths)

check("the mean over counted tokens does not see the padding", padded["counted tokens"], loss, within=1e-14)
check("that over all positions shrinks with it", padded["all positions"], loss * shares, within=1e-14)
check("    to 5.4% of the loss in the end", padded["all positions"][-1] / loss, 0.054, within=0.0005)
check("counted tokens: all weigh the same", weight["counted tokens"], 1, within=1e-12)
ends = weight["mean of means"][[0, -1]]
check("mean of means: the shortest answer's tokens weigh 25 times the longest's", ends[0] / ends[1], 25, within=1e-9)

parts = [cross_entropy(logits[part], labels[part], mask=mask[part])[0] for part in (slice(0, 3), slice(3, 6))]
counts = np.array([mask[:3].sum(), mask[3:].sum()])
check("two micro-batches, weighted by what counts, are the batch", parts @ counts / counts.sum(), loss, within=1e-14)
check("averaged plainly they are 0.8 nats off", np.mean(parts) - loss, 0.8, within=0.2)

# %%
with figure("02-mean") as fig:
    left, right = fig.subplots(1, 2)
    for name, colour in zip(("counted tokens", "all positions"), ("C0", "C1"), strict=True):
        left.plot(widths, padded[name], "o-", color=colour, label=f"÷ {name}")
    left.set(xlabel="positions in a row", ylabel="“mean” loss (nats a token)", xlim=(0, 700), ylim=(0, None))
    left.set_title("Padding is no progress")
    left.legend(loc="center right")
    for name, colour in zip(("counted tokens", "mean of means"), ("C0", "C2"), strict=True):
        right.loglog(answers, weight[name], "o-", color=colour, label=name)
    right.set(xlabel="length of the answer (tokens)", ylabel="weight of one of its tokens", ylim=(0.3, 11))
    right.set(xticks=answers, xticklabels=answers, yticks=(0.5, 1, 2, 5, 10), yticklabels=("0.5", 1, 2, 5, 10))
    right.minorticks_off()
    right.set_title("Short answers shout")
    right.legend()

# %% [markdown]
# Dividing by all positions makes the loss look better the emptier the batch is, and it scales the gradient
# by how long the longest text in the batch happens to be. The mean of means gives one token in a short answer
# the say of many in a long one. That was how a widely used trainer accumulated gradients over micro-batches for years
# (Hugging Face, "Fixing gradient accumulation", October 2024). minikd's number does not depend on how a batch is cut
# or filled. A mean over no token is an error: there is no right answer to give.
#
# Such a mistake is not one of calculus: the wrong mean has a perfectly right gradient, its own. minikd keeps many such
# mistakes, each with a sentence for the person who made it.

# %%
mutant = next(m for m in MUTANTS if (m.subject, m.name) == ("cross_entropy", "mean-over-all-positions"))
args, short = (logits[:, 8:16], labels[:, 8:16]), mask[:, 8:16]
wrong, right = mutant.function(*args, mask=short)[0], cross_entropy(*args, mask=short)[0]
print(mutant.diagnosis)
check("its gradient passes the judge", check_vjp(lambda z, y: mutant.function(z, y, mask=short), args).passed)
check("only a known value tells", wrong, right * short.mean(), within=1e-14)

# %% [markdown]
# ## What you should be able to explain now
#
# - why the expected log loss is smallest for who says what they believe, and what is left of it then;
# - where $p - y$ comes from, and why it neither explodes nor vanishes when the model is wrong and sure;
# - why training on hard labels learns a distribution although every single label pulls towards certainty;
# - what the first loss of a fresh model should be, and what it means if it is higher or lower;
# - what a mean over counted tokens is, and what the two other conventions do to a batch.
#
# ## Exercises
#
# 1. Model A gives every right token 50%. Model B gives 99% to nine of ten and $10^{-6}$ to the tenth. Who has the
#    lower loss, who the lower perplexity, who would you rather read? Predict first, then compute.
# 2. *Label smoothing* trains on $(1 - \varepsilon) y + \varepsilon / V$ instead of $y$. Derive its gradient, and the
#    probability that the label gets at the optimum. Let `check_vjp` judge it.
# 3. Write `cross_entropy(logits, labels, *, mask=None, reduction="mean")` returning value and pullback in a file
#    `mine.py`, and have it graded: `minikd grade mine.py --only cross_entropy`.
