# %% [markdown]
# # 15. The perfect teacher
#
# Of a real text nobody knows the true next-token distribution. So a loss of 3.3 nats may be excellent or poor, and
# where teacher and student disagree, nobody can say who errs. Here we make a language whose next-token distribution is
# *known*. With it we have a teacher that is never wrong, can make it wrong in ways of our own choosing, and can ask:
# how far is a student from perfection? What do soft labels spare it? When does a student surpass its teacher, and
# which of its teacher's mistakes does it inherit?
#
# You need: lessons 2 (cross-entropy), 8 (two directions of KL) and 11 (soft-label distillation); conditional
# probabilities.

# %%
import numpy as np

from minikd.figures import COLOURS
from minikd.lesson import check, figure
from minikd.losses import cross_entropy, distillation_loss, forward_kl, reverse_kl
from minikd.models import GPT2, GPT2Config, init_gpt2
from minikd.softmax import log_softmax
from minikd.text import Batch
from minikd.train import Learner, Tick, TrainConfig, train_step
from minikd.workers import Workers

V, STATES, CONTEXT = 32, 8, 16
rng = np.random.default_rng(15)

# %% [markdown]
# ## A language that is known
#
# Our language has 32 tokens and 8 *moods*. At each step the writer is in one mood $s$, writes a token $x$ with
# probability $E_{sx}$, and then changes to mood $r$ with probability $A_{sr}$; four times in five, or more, it stays.
# The reader sees the tokens alone: this is a *hidden Markov model*. A token may occur in several moods, so one does not
# give the mood away, and it pays to remember more.

# %%
A = np.zeros((STATES, STATES))
for s in range(STATES):
    A[s, rng.choice(STATES, 3, replace=False)] = rng.dirichlet([2, 2, 2])
A = 0.8 * np.eye(STATES) + 0.2 * A
E = rng.dirichlet(np.full(V, 0.1), size=STATES)
START = np.linalg.matrix_power(A, 4096)[0]  # where the chain of moods settles: a text begins anywhere


def write(n, rng):
    """n texts, each CONTEXT tokens and the one after them: (n, CONTEXT + 1)."""

    def draw(p):
        return (rng.random(len(p))[:, None] > p.cumsum(axis=1)[:, :-1]).sum(axis=1)

    texts, mood = np.empty((n, CONTEXT + 1), dtype=np.int64), draw(np.tile(START, (n, 1)))
    for t in range(CONTEXT + 1):
        texts[:, t], mood = draw(E[mood]), draw(A[mood])
    return texts


# %% [markdown]
# **What comes next, given the tokens so far?** By definition: add up the probabilities of all the ways the moods could
# have gone, $8^t$ of them for $t$ tokens. The *forward algorithm* (Baum; see Rabiner 1989) does it in $t$ small steps.
# It carries along what the reader believes of the mood, a vector $b$. A token $x$ multiplies it by $E_{\cdot x}$
# (Bayes' rule), the writer's step multiplies it by $A$; then $b E$ is the distribution of the next token.


# %%
def truth(tokens):
    """log p(next token | the tokens so far): tokens (B, T) -> (B, T, V). The perfect teacher."""
    belief, p = np.tile(START, (len(tokens), 1)), np.empty((*tokens.shape, V))
    for t, x in enumerate(tokens.T):
        belief = belief * E[:, x].T
        belief = belief / belief.sum(axis=1, keepdims=True)
        belief = belief @ A
        p[:, t] = belief @ E
    return np.log(p)


def by_brute_force(tokens):
    """p(these tokens): the sum over every path of moods."""
    paths = np.indices((STATES,) * len(tokens)).reshape(len(tokens), -1)
    return (START[paths[0]] * A[paths[:-1], paths[1:]].prod(axis=0) * E[paths, tokens[:, None]].prod(axis=0)).sum()


beginnings = write(5, np.random.default_rng(1))[:, :4]
slow = [[by_brute_force(np.append(tokens, x)) / by_brute_force(tokens) for x in range(V)] for tokens in beginnings]
check("the forward algorithm gives what 8^5 paths give", np.exp(truth(beginnings)[:, -1]) / slow, 1, within=1e-10)

# %% [markdown]
# ## The floor
#
# **How well can this language be predicted at all?** Cross-entropy splits into two parts (lesson 2):
#
# $$-\sum_x p(x) \log q(x) = H(p) + \mathrm{KL}(p \| q)$$
#
# Nothing can go below the first, the *entropy floor*; the second, the *excess* in nats above the floor, is the model's
# own. For beginnings of 0, 1, 2 and 3 tokens the floor is a finite sum over all of them; for longer ones we average
# the entropy of $p$ over texts that the language wrote.

# %%
tokens = write(4000, np.random.default_rng(2))
log_p = truth(tokens[:, :-1])
floor = -(np.exp(log_p) * log_p).sum(axis=-1).mean(axis=0)  # after 1, 2, ... tokens

unigram = START @ E
exact = [-(unigram * np.log(unigram)).sum()]
for t in (1, 2, 3):
    every = np.indices((V,) * t).reshape(t, -1).T
    log_next = truth(every)
    weight = unigram[every[:, 0]]
    for k in range(t - 1):
        weight = weight * np.exp(log_next[np.arange(len(every)), k, every[:, k + 1]])
    check(f"the {len(every):,} beginnings of {t}: probabilities add up to 1", weight.sum(), 1, within=1e-12)
    exact.append(-(weight[:, None] * np.exp(log_next[:, -1]) * log_next[:, -1]).sum())

check("every token read lowers the floor", np.diff(exact) < 0)
check("the average over texts is the exact sum", floor[:3], exact[1:], within=0.02)
check("4 to 16 tokens know more than 3", exact[3] - floor[3:] > 0)

# %% [markdown]
# A student is a GPT-2 of one block. Its training is lesson 11's with one difference: the teacher is not a network, but
# *any function from tokens to logits*. With `alpha=1` the student hears the teacher only, with `alpha=0` the text only.
# The temperature is 1 throughout: here we want the teacher's distribution itself.
#
# Its excess is measured with the exact $p$ on texts nobody was trained on. Every student gets the same 400 steps of 32
# texts and eight looks; of these we count the *best*, as if training had been stopped there: small texts get learned by
# heart, and we grant every student that we would have noticed.

# %%
STEPS, LOOK = 400, 50
held_out = write(500, np.random.default_rng(3))
READ, P = held_out[:, :-1], truth(held_out[:, :-1])
TEXTS = {seed: write(STEPS * 32, np.random.default_rng([4, seed])) for seed in (0, 1)}


def excess(logits):
    """Nats a token above the floor, on the held-out texts."""
    return float(forward_kl(logits, P)[0])


def taught(n=STEPS * 32, teacher=truth, *, alpha=1.0, width=32, seed=0):
    """A student of the seed's first n texts, each read before any comes again; and its excess at every look."""
    sizes = GPT2Config(vocab_size=V, n_positions=CONTEXT, n_embd=width, n_layer=1, n_head=2, initializer_range=0.1)
    student = GPT2(sizes, init_gpt2(sizes, np.random.default_rng(seed)))
    config = TrainConfig(steps=STEPS, warmup_steps=40, learning_rate=1e-2)
    learners = {"student": Learner.of(student, config)}

    def step(batch, tick):
        logits, student_vjp = student(batch.inputs)
        says = teacher(batch.inputs).astype(logits.dtype)
        loss, loss_vjp = distillation_loss(logits, says, batch.targets, alpha=alpha, temperature=1.0)
        return {"student": (loss, student_vjp(loss_vjp()))}

    rng, curve = np.random.default_rng([5, seed]), []
    order = np.concatenate([rng.permutation(n) for _ in range(-(-STEPS * 32 // n))])[: STEPS * 32].reshape(STEPS, 32)
    with Workers(1) as workers:
        for i, rows in enumerate(order):
            batch = Batch.of(TEXTS[seed][rows])
            train_step(learners, step, batch, Tick(i, STEPS, seed), config, workers)
            if (i + 1) % LOOK == 0:
                curve.append(excess(student.predict(READ)))
    return student, curve


student, curve = taught()
z = student.predict(READ).astype(float)
of_text, _ = cross_entropy(z, held_out[:, 1:], reduction="none")
of_truth, _ = cross_entropy(P, held_out[:, 1:], reduction="none")
kl, _ = forward_kl(z, P, reduction="none")


def standard_error(per_token):
    return per_token.mean(axis=1).std(ddof=1) / np.sqrt(len(per_token))


apart, chance = of_text - of_truth, standard_error(of_text - of_truth)
check("the text's loss minus the truth's is the excess", apart.mean(), kl.mean(), within=4 * chance)
print(f"loss on the text {of_text.mean():.3f} ± {standard_error(of_text):.3f} nats")
print(f"excess          {kl.mean():.4f} ± {standard_error(kl):.4f} nats")
saved = (chance / standard_error(kl)) ** 2
check("the excess is surer from whole distributions than from drawn tokens: worth twice the text, or more", saved > 2)

# %%
with figure("15-floor") as fig:
    axes = fig.subplots()
    read = np.arange(CONTEXT + 1)
    by_length = kl.mean(axis=0)
    axes.axhline(np.log(V), color="0.6", linewidth=1, linestyle=":")
    axes.text(CONTEXT, np.log(V) - 0.03, "ln 32: a blind guess", ha="right", va="top")
    axes.axhline(exact[1], color="0.6", linewidth=1, linestyle=":")
    axes.text(CONTEXT, exact[1] + 0.03, "whoever sees one token only: the bigram", ha="right")
    axes.plot(read, [exact[0], *floor], color="black", marker="o", label="the floor: the truth's entropy")
    axes.plot(read[1:], floor + by_length, color=COLOURS["soft"], marker="o", label="a student of the truth")
    axes.set(xlabel="tokens read so far", ylabel="loss (nats a token)", xlim=(-0.3, CONTEXT + 0.3), ylim=(2.15, 3.6))
    axes.set_title("The floor sinks with every token read")
    axes.legend(loc="center right", bbox_to_anchor=(1, 0.66))

# %% [markdown]
# A loss says "2.3"; the excess says "0.03 above what is possible". That is the scale for the rest of this lesson.
#
# ## What soft labels spare the student
#
# The text says at each place *one* token, drawn from $p$. **What does that cost the student?** The gradient at the
# logits is $q - \text{onehot}(x)$ from the text, $q - p$ from the truth. Averaged over $x$ they are the same: the text
# teaches the same lesson. But each single time it shouts:
#
# $$\mathbb{E}_x |q - \text{onehot}(x)|^2 = |q - p|^2 + 1 - \sum_i p_i^2$$
#
# The first term is what is left to learn, and vanishes; the second is noise, and does not. We put in *every* label,
# weighted with its probability, and ask minikd's pullbacks.

# %%
some = (slice(0, 20), 7)  # 20 of the student's contexts
every = np.tile(np.arange(V), (20, 1))
_, vjp = cross_entropy(np.repeat(z[some][:, None], V, axis=1), every, reduction="none")
from_text = vjp(np.ones((20, V)))  # (context, label, logit)
from_truth = forward_kl(z[some], P[some], reduction="none")[1](np.ones(20))
p = np.exp(P[some])
on_average = np.einsum("cx,cxi->ci", p, from_text)
check("on average the text teaches what the truth teaches", on_average, from_truth, within=1e-12)
squared = np.einsum("cx,cxi->c", p, from_text**2)
signal, noise = (from_truth**2).sum(axis=1), 1 - (p**2).sum(axis=1)
check("its mean square: signal + noise", squared, signal + noise, within=1e-12)
print(f"at the end of this training: signal {signal.mean():.4f}, noise {noise.mean():.2f}")
check("at the end the noise is more than 30 times the signal", noise.mean() / signal.mean() > 30)

# %% [markdown]
# Noise averages out if there is text enough, and turns into false knowledge if the same few texts come again and
# again. So: the same student, taught by the text or by the truth about it, with more and more text.

# %%
SIZES = (100, 400, 1600, STEPS * 32)
ALPHA = {"hard": 0.0, "soft": 1.0}
curves = {(way, n, s): taught(n, alpha=ALPHA[way], seed=s)[1] for way in ALPHA for n in SIZES for s in (0, 1)}
best = {way: np.array([[min(curves[way, n, s]) for n in SIZES] for s in (0, 1)]) for way in ALPHA}
widths = {8: min(taught(width=8)[1]), 16: min(taught(width=16)[1]), 32: best["soft"][0, -1]}
for way, table in best.items():
    print(f"{way}: " + ", ".join(f"{n} texts {v:.3f}" for n, v in zip(SIZES, table.mean(axis=0), strict=True)))
print("the truth, all the text: " + ", ".join(f"width {width} {value:.3f}" for width, value in widths.items()))

gap = best["hard"] - best["soft"]
check("the truth teaches better than the text, whatever its amount", gap > 0.01)
check("and the more text there is, the smaller is its advantage", np.diff(gap, axis=1) < 0)
check("the truth about 1,600 texts is worth more than 12,800 texts", best["soft"][:, 2] < best["hard"][:, 3])
by_heart = np.array([curves["hard", 100, s][-1] for s in (0, 1)])
check("100 texts, learned by heart, are worse than a blind guess", by_heart > excess(np.zeros_like(P)))
check("the narrower the student, the more it leaves above the floor",
      [widths[8] > 1.5 * widths[16], widths[16] > 1.2 * widths[32]])  # fmt: skip

# %%
with figure("15-noise-spared") as fig:
    left, right = fig.subplots(1, 2, width_ratios=(3, 4))
    steps = LOOK * np.arange(1, 9)
    for way in ALPHA:
        left.semilogy(steps, curves[way, SIZES[0], 0], color=COLOURS[way])
        left.semilogy(steps, curves[way, SIZES[-1], 0], color=COLOURS[way], linestyle=(0, (2, 1)))
    for x, y, way, words in (
        (395, 2.9, "hard", "text, 100"),
        (395, 0.077, "hard", "text, 12,800"),
        (395, 0.122, "soft", "truth, 100"),
        (215, 0.027, "soft", "truth, 12,800"),
    ):
        left.text(x, y, words, color=COLOURS[way], ha="right", weight="bold")
    left.set(xlabel="training steps", ylabel="excess (nats a token above the floor)", xlim=(0, 400), ylim=(0.018, 6))
    left.set_title("Few texts mislead")
    for way, table in best.items():
        right.loglog(SIZES, table.mean(axis=0), color=COLOURS[way])
        right.loglog(SIZES, table.T, "o", color=COLOURS[way])
    right.text(135, 0.6, "taught by the text", color=COLOURS["hard"], weight="bold")
    right.text(14500, 0.022, "taught by the truth", color=COLOURS["soft"], weight="bold", ha="right")
    for width, y in ((8, 1.05), (16, 0.86)):
        right.axhline(widths[width], color="0.6", linewidth=1, linestyle=":")
        right.text(14500, y * widths[width], f"ceiling of width {width}", ha="right")
    right.set(xlabel="texts to learn from (of 17 tokens)", ylim=(0.018, 1), xlim=(85, 15500))
    right.set_xticks(SIZES, [f"{n:,}" for n in SIZES])
    right.minorticks_off()
    right.set_title("The truth saves text")
    for axes in (left, right):
        axes.yaxis.set_major_formatter("{x:g}")

# %% [markdown]
# Soft labels remove the noise of sampling, nothing else. They cannot say what happens after beginnings that the
# student never reads: on few texts it stays above its ceiling even with the truth. And they do not lift the ceiling
# itself: it is the student's width, and how long it trains, that decide what is left with all the text. That the
# benefit of distillation is this drop in variance, and that it therefore shrinks with the data, was shown by Menon et
# al. (2021).
#
# ## Two teachers, equally wrong
#
# Real teachers err. We let ours err in two ways. A mistake is a vector $e$ of 32 independent normal numbers, added to
# the logits $\log p$.
#
# - The *biased* teacher makes the same mistake in every context: it always over-estimates the same tokens.
# - The *noisy* teacher makes another mistake in every context, but in the same context always the same: it is a
#   function, not a die. (A hash of all the tokens so far picks one of 65,536 mistakes.)
#
# In any one context nobody could tell which of the two is talking.

# %%
MISTAKES = np.random.default_rng(6).normal(size=(2**16, V))


def noisy(tokens):
    key, picked = np.zeros(len(tokens), dtype=np.uint64), []
    for x in tokens.T.astype(np.uint64):
        key = (key + x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)  # the golden ratio's bits mix well
        key ^= key >> np.uint64(32)
        picked.append(key % np.uint64(len(MISTAKES)))
    return truth(tokens) + MISTAKES[np.stack(picked, axis=1)]


def biased(which):
    return lambda tokens: truth(tokens) + MISTAKES[which]


LEVEL = {"noisy": excess(noisy(READ)), "biased": excess(biased(0)(READ)), "another bias": excess(biased(1)(READ))}
many = np.mean([forward_kl(P[:, 7] + e, P[:, 7])[0] for e in MISTAKES[:400]])
check("averaged over 400 biases, biased teachers are as wrong as the noisy one", many, LEVEL["noisy"], within=0.05)
retold = np.concatenate([READ[:40, :8], READ[40:80, 8:]], axis=1)  # the same beginnings, told to another end
moved = np.abs((noisy(retold) - truth(retold)) - (noisy(READ[:40]) - P[:40])).max(axis=-1)
check("the noisy one repeats its mistake in the same context", moved[:, :8], within=1e-12)
check("and makes another in any other", moved[:, 8:][(retold != READ[:40])[:, 8:].cumsum(axis=1) > 0] > 0.1)

# %% [markdown]
# **What should a student of the noisy teacher come to believe?** It cannot tell the contexts apart by their hash, so
# to it the teacher gives many answers $\tilde p_k$ to one question. One answer $q$ to them all costs
#
# $$\frac1K \sum_k \mathrm{KL}(\tilde p_k \| q) = \frac1K \sum_k \mathrm{KL}(\tilde p_k \| \bar p)
# + \mathrm{KL}(\bar p \| q), \qquad \bar p = \frac1K \sum_k \tilde p_k$$
#
# (insert $\log\bar p - \log\bar p$). The first sum does not depend on $q$: the student is drawn to the *mean* of the
# answers, as if $\bar p$ were its teacher. Is that the truth? Not quite: our noise has mean 0 in the logits, and the
# mean of the powers is not the power of the mean. $\bar p$ is a little flatter than $p$. (Under *reverse* KL the best
# $q$ is the normalised *geometric* mean of the answers, which here tends to $p$ itself.)

# %%
answers = P[0, 7] + MISTAKES[:64]
mean_answer = np.log(np.exp(log_softmax(answers)[0]).mean(axis=0))
geometric_mean = log_softmax(answers)[0].mean(axis=0)
q = rng.normal(size=V)


def to_all(divergence, q):
    loss, vjp = divergence(np.tile(q, (64, 1)), answers)
    return loss, vjp().sum(axis=0)


one, vjp_one = forward_kl(q, mean_answer)
apart = to_all(forward_kl, mean_answer)[0]
check("the cost of one answer to all splits", to_all(forward_kl, q)[0], apart + one, within=1e-12)
spread_out = [-(np.exp(log_p) * log_p).sum() for log_p in (mean_answer, log_softmax(P[0, 7])[0])]
check("the mean answer is a little flatter than the truth: its entropy is larger", spread_out[0] > spread_out[1])
check("its gradient is that of the mean answer alone", to_all(forward_kl, q)[1], vjp_one(), within=1e-12)
check("at the mean answer forward KL is at rest", to_all(forward_kl, mean_answer)[1], within=1e-12)
check("at the geometric mean reverse KL is", to_all(reverse_kl, geometric_mean)[1], within=1e-12)
check("which forward KL leaves", np.abs(to_all(forward_kl, geometric_mean)[1]).max() > 1e-3)

p_bar = np.log(sum(np.exp(log_softmax(P[:100] + e)[0]) for e in MISTAKES[:400]) / 400)
flatter = float(forward_kl(p_bar, P[:100])[0])
print(f"the noisy teacher's excess is {LEVEL['noisy']:.3f} nats, its mean answer's {flatter:.4f}")
check("in the mean answer less than 1/20 of the excess is left", flatter < LEVEL["noisy"] / 20)

# %% [markdown]
# So the biased teacher's student should inherit all, the noisy one's next to nothing. A third student reads the text
# and hears the biased teacher in equal parts (`alpha=0.5`): its target is on average $(p + \tilde p)/2$.
#
# How faithfully a mistake is inherited we measure by a slope. In every context the teacher errs by $e$, the student by
# $d = \log q - \log p$. Only differences of logits mean anything, so both are centred; then
#
# $$\text{inherited share} = \frac{\sum p \, e \, d}{\sum p \, e^2}$$
#
# over tokens and contexts: 1 for whoever repeats each mistake, 0 for whoever makes none, or other ones.


# %%
def inherited(logits, teacher, tokens):
    """The share of the teacher's mistakes that these logits repeat, by tokens read: (CONTEXT,)."""
    log_p = truth(tokens)
    p = np.exp(log_p)
    e, d = teacher(tokens) - log_p, logits - log_p
    e, d = (error - (p * error).sum(axis=-1, keepdims=True) for error in (e, d))
    return (p * e * d).sum(axis=(0, 2)) / (p * e * e).sum(axis=(0, 2))


check("the teacher repeats all of its mistakes", inherited(noisy(READ) + 5, noisy, READ), 1, within=1e-12)
check("whoever makes them by half, half", inherited((noisy(READ) + P) / 2, noisy, READ), 0.5, within=1e-12)
check("the truth none", inherited(P, noisy, READ), within=1e-12)

half = np.logaddexp(P, log_softmax(biased(0)(READ))[0]) - np.log(2)
lessons = {  # teacher, how its student learns, and the excess of the best answer to what it hears
    "noisy": (noisy, {}, flatter),
    "noisy, another student": (noisy, {"seed": 1}, flatter),
    "biased": (biased(0), {}, LEVEL["biased"]),
    "another bias": (biased(1), {"seed": 1}, LEVEL["another bias"]),
    "biased, and the text": (biased(0), {"alpha": 0.5}, excess(half)),
}
after, aim, share = {"the truth": widths[32]}, {"the truth": 0.0}, {}
for name, (teacher, how, aim[name]) in lessons.items():
    student, curve = taught(teacher=teacher, **how)
    after[name], share[name] = min(curve), inherited(student.predict(READ), teacher, READ)
    print(f"{name}: best answer {aim[name]:.3f}, student {after[name]:.3f} nats above the floor; inherited:")
    print(f"    {share[name][0]:.2f} after one token, {share[name][4:].mean():.3f} after five or more")

for name in ("noisy", "noisy, another student"):
    check(f"{name}: it surpasses its teacher by far", after[name] < LEVEL["noisy"] / 5)
    check("    after one token, much of the mistakes is inherited", share[name][0] > 0.3)
    check("    after three or more, nothing", share[name][2:], within=0.05)
for name in ("biased", "another bias"):
    check(f"{name}: the student is worse than its teacher", after[name] > LEVEL[name])
    check("    its mistakes are inherited, all and everywhere", share[name], 1, within=0.1)
for name in ("biased", "another bias", "biased, and the text"):
    check(f"{name}: student = best answer + ceiling", after[name], aim[name] + widths[32], within=0.012)
of_half = inherited(half, biased(0), READ)
check("with the text beside it: the share that (p + p~)/2 has", share["biased, and the text"], of_half, within=0.06)

student, _ = taught(100, noisy)  # at the end of its training: it has read each text 128 times
own = TEXTS[0][:100, :-1]
known = inherited(student.predict(own), noisy, own)
check("on 100 texts the student learns its noisy teacher's mistakes by heart", known[4:].mean() > 0.25)
check("    but makes none of them elsewhere", inherited(student.predict(READ), noisy, READ)[4:].mean(), within=0.05)

# %%
with figure("15-inheritance") as fig:
    left, right = fig.subplots(1, 2, width_ratios=(4, 3))
    shown = {"the truth": "0.4", "noisy": "C0", "biased": "C1", "biased, and the text": "C2"}
    level = {"the truth": 0.0, "biased, and the text": LEVEL["biased"]} | LEVEL
    for y, (name, colour) in enumerate(shown.items()):
        left.plot([level[name], after[name]], [y, y], color=colour, linewidth=1.2)
        left.plot(level[name], y, "P", color="black", markersize=9, label="teacher" if y == 0 else None)
        left.plot(aim[name], y, "|", color="black", markersize=20, label="best answer to it" if y == 0 else None)
        left.plot(after[name], y, "o", color=colour, markersize=9, label="student" if y == 0 else None)
    left.set(yticks=range(4), yticklabels=["the truth", "noisy", "biased", "biased,\nand the text"], ylim=(3.5, -0.9))
    left.set(xlabel="excess (nats a token above the floor)", xlim=(-0.02, 0.5))
    left.legend(loc="upper center", ncols=3, columnspacing=1, handletextpad=0.3)
    left.set_title("Noise averages out …")
    read = np.arange(1, CONTEXT + 1)
    for y, name in ((1.07, "biased"), (0.43, "biased, and the text"), (0.05, "noisy")):
        right.plot(read, share[name], color=shown[name], marker="o")
        right.text(CONTEXT, y, name, color=shown[name], ha="right", weight="bold")
    right.plot(read, known, color="C0", linestyle=(0, (2, 1)))
    right.text(CONTEXT, 0.6, "noisy, known by heart", color="C0", ha="right", weight="bold")
    right.set(xlabel="tokens read so far", ylabel="inherited share of the mistakes", ylim=(-0.05, 1.2))
    right.set_title("… bias is inherited")

# %% [markdown]
# The noisy teacher is 0.4 nats above the floor; its student, who never heard the truth, comes to about 0.05. The
# biased teacher is hardly worse, yet its student does not even reach it: it has all of the bias, and its own lack of
# capacity on top. Only another voice helps: with the text in equal parts most of the excess is gone, and the share of
# the mistakes that stays is that of $(p + \tilde p)/2$. The black bars are the best answers to what each student
# hears. Biased teachers' students end about one ceiling, 0.03 nats, further up: an observation, since KLs need not add.
#
# And noise is noise only as long as the student cannot tell the contexts apart. After one token there are 32 different
# contexts, each of which comes 400 times on average: the student learns half of what is wrong with them. After five
# tokens most contexts are new, and it learns nothing of it. Few texts, often read, are like short contexts: of *their*
# noise the student knows half by heart (the dashed line), though elsewhere it shows none of it.
#
# Of real students Stanton et al. (2021) found that they often match their teachers poorly, even where they could, and
# that this need not hurt. Our biased teacher's students match it very well; but a bias that is one and the same vector
# everywhere is the easiest there is to learn. Between this and noise lie the mistakes of real teachers: what counts is
# whether they are *simple enough for the student*.
#
# ## What you should be able to explain now
#
# - what the entropy floor is, and why an excess above it can be measured so much more exactly than a loss;
# - which part of the gradient's mean square soft labels remove, and why that matters less the more text there is;
# - what soft labels cannot do: tell of contexts that are never read, or lift the student's ceiling;
# - why a student can surpass a noisy teacher and not a biased one, and when noise is as bad as bias;
# - to which mean of many answers forward KL draws a student, and to which reverse KL.
#
# ## Exercises
#
# 1. Train a student of the noisy teacher with `divergence=reverse_kl`. Its best answer tends to $p$ itself; predict the
#    excess from that, then look: it comes out no better than with forward KL. At which lengths, and why?
# 2. Give the mistakes a memory of the last two tokens only, instead of all: hash `tokens[:, t - 1]` and `tokens[:, t]`.
#    Is that noise or bias to a student of width 32, and to one of width 8? Measure the inherited share.
# 3. The loss that hears $p$ and no label is the soft cross-entropy. Write
#    `soft_cross_entropy(student_logits, teacher_logits, *, temperature=1.0, mask=None, reduction="mean")` with its
#    pullback in a file `mine.py`, and have it graded: `minikd grade mine.py --only soft_cross_entropy`. Whose entropy
#    is its least value?
