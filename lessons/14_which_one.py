# %% [markdown]
# # 14. Which one?
#
# A teacher can hand on its whole distribution (*soft*, lesson 11), its best token (*hard*) or texts that it writes
# (*sequence*, both lesson 12), or let the student learn beside it (*codistill*, lesson 13). This lesson puts all four
# on equal terms, and then asks what such a comparison is worth: how much of it is chance, whether the loss is all that
# matters, and what "equal terms" leaves out. The last answer is the most uncomfortable one.
#
# You need: lessons 11 to 13; mean, variance and standard error.

# %%
from dataclasses import replace

import numpy as np

from minikd.classroom import TEACHER, TRAINING, data, machine, trained
from minikd.evaluate import evaluate
from minikd.figures import COLOURS, MARKERS, MUTED, Point, draw_curve, ink, spread
from minikd.lesson import check, figure
from minikd.text import windows

# %% [markdown]
# ## Equal terms
#
# **What has to be the same?** The student's size and, within a seed, its initial weights; the number of steps, the
# batch, the learning rate; the text and its order (except for `sequence`, whose text the teacher writes); and the pains
# taken to tune each method: each has the weight $\alpha$ that did best in the README's exploration, with larger models,
# on this text and another. The control is a student that learns from the text alone, *scratch*.
#
# A seed decides the weights at the start, the order of the text and what the teacher writes. One seed is an anecdote,
# so everything, the teacher included, is done three times. The models of seed 0 are those of the earlier lessons,
# except `sequence`, for which the teacher writes 200,000 tokens. With
# the other seeds one teacher does for all four methods: the one of the co-distillation, which is bit by bit what it
# would be without its student (lesson 13), and is finished when the co-distillation is.

# %%
SEEDS = (0, 1, 2)
METHODS = ("soft", "codistill", "hard", "sequence")
pairs = [trained("codistill", seed=seed) for seed in SEEDS]
teachers = [trained(model=TEACHER), *(pair.teacher for pair in pairs[1:])]
runs = {"teacher": teachers, "scratch": [trained(seed=seed) for seed in SEEDS]}
for method in METHODS:
    taught = [trained(method, teacher=teachers[seed], seed=seed) for seed in SEEDS] if method != "codistill" else pairs
    runs[method] = taught
losses = {name: np.array([run.val_loss for run in of_seeds]) for name, of_seeds in runs.items()}
gains = {name: losses["scratch"] - losses[name] for name in ("teacher", *METHODS)}


def standard_error(values):
    return np.std(values, ddof=1) / np.sqrt(len(values))


for name in ("teacher", "scratch", *METHODS):
    gain = "" if name == "scratch" else f"   gain {gains[name].mean():+.3f} ± {standard_error(gains[name]):.3f}"
    print(f"{name:9s} " + "  ".join(f"{loss:.3f}" for loss in losses[name]) + gain)

# %%
sizes = {name: runs[name][0].model.params.flat.size for name in ("teacher", "scratch")}
curves = {}
for name, of_seeds in runs.items():
    looks = np.array([run.curve()[1] for run in of_seeds])
    curves[name] = [Point(s, x.mean(), standard_error(x)) for s, x in zip(of_seeds[0].curve()[0], looks.T, strict=True)]

with figure("14-which-one", height=4.9) as fig:
    left, right = fig.subplots(1, 2, width_ratios=(1, 1))
    for name, curve in curves.items():
        draw_curve(left, name, curve)
    low, high = losses["teacher"].mean() - 0.12, 4.75
    ends = [curve[-1].val_loss for curve in curves.values()]
    for name, end, y in zip(curves, ends, spread(ends, 0.072, low, high), strict=True):
        left.plot([400, 410], [end, y], color=COLOURS[name], linewidth=1, clip_on=False)
        left.text(413, y, name, color=ink(name), weight="bold", va="center_baseline")
    left.set(xlim=(80, TRAINING.steps), ylim=(low, high), xlabel="training steps", xticks=[100, 200, 300, 400])
    left.set_ylabel("validation loss (nats a token)")
    left.set_title("While they learn", size=12)
    for y, name in enumerate(METHODS):
        mean, error = gains[name].mean(), standard_error(gains[name])
        right.barh(y, mean, 0.62, color=COLOURS[name])
        right.errorbar(mean, y, xerr=error, color="black", capsize=4, linewidth=1.4)
        beside = max(mean, 0) + error + 0.01
        right.text(beside, y - 0.03, name, color=ink(name), weight="bold", va="bottom")
        right.text(beside, y + 0.03, f"{mean:+.3f} ± {error:.3f}".replace("-", "−"), va="top")
    right.axvline(0, color="0.3", linewidth=0.8)
    lowest = min(gains[name].mean() - standard_error(gains[name]) for name in METHODS)
    right.set(xlim=(lowest - 0.02, 0.37), ylim=(len(METHODS) - 0.5, -0.5), yticks=[], xticks=[-0.1, 0, 0.1, 0.2])
    right.spines["left"].set_visible(False)
    right.set_xlabel("gain over scratch, the text alone (nats a token)")
    right.set_title("What a teacher adds to the text alone", size=12)
    fig.suptitle("Four ways to learn from a teacher", x=0.012, ha="left", size=16, weight="bold")
    settings = f"Python's documentation; teacher {sizes['teacher'] / 1000:.0f},000 parameters, students "
    settings += f"{sizes['scratch'] / 1000:.0f},000; mean of {len(SEEDS)} seeds ± one standard error"
    fig.supxlabel(settings, x=0.012, ha="left", size=10, color=MUTED)

# %%
closed = gains["soft"] / gains["teacher"]
check("soft gains more than 0.1 nats with every seed", gains["soft"] > 0.1)
check("it is the best of the students with every seed", gains["soft"] > np.max([gains[m] for m in METHODS[1:]], axis=0))
check("and closes between 20% and 65% of the gap to the teacher", closed, 0.425, within=0.225)
for name in ("hard", "codistill"):
    check(f"{name} gains at most a third of that, if anything", abs(gains[name]) < gains["soft"] / 3)
check("sequence loses with every seed", gains["sequence"] < -0.02)

# %% [markdown]
# A whole distribution at every place gives by far the most. A best token gives little, a teacher that is itself still
# learning gives little, and text that this teacher writes is worse than the real text, which is there to be read. The
# order, soft first and sequence below scratch, is that of the README's tables, where the models are larger and the
# seeds are five.
#
# ## How much of this is chance?
#
# Losses scatter from seed to seed, but a lucky order of the text is lucky for all students. So one takes the
# difference to scratch within each seed first, and then the mean: *paired* gains. **What does the pairing do to the
# standard error?** For two lists $a$ and $b$ over $n$ seeds
#
# $$\mathrm{se}^2(a - b) = \mathrm{se}^2(a) + \mathrm{se}^2(b) - \frac{2}{n}\,\mathrm{cov}(a, b)$$
#
# It helps to the extent that both scatter together, and hurts if one is high where the other is low.

# %%
for name in METHODS:
    a, b = losses["scratch"], losses[name]
    paired, unpaired = standard_error(a - b), np.hypot(standard_error(a), standard_error(b))
    covariance = np.cov(a, b, ddof=1)[0, 1]
    check(f"{name}: the formula", paired**2, unpaired**2 - 2 * covariance / len(SEEDS), within=1e-12)
    print(f"    paired ± {paired:.4f}, unpaired ± {unpaired:.4f}")
    check("    pairing helps", paired < unpaired)

# %% [markdown]
# **And does a gain of two standard errors "count"?** With many seeds, chance alone exceeds $\pm 2$ standard errors
# in 5 of 100 cases. But the standard error is itself estimated, from $n$ seeds. The ratio follows Student's $t$ with
# $n - 1$ degrees of freedom, for $n = 3$ in closed form: $P(|t| > x) = 1 - x / \sqrt{2 + x^2}$. Let us draw results of
# methods that do *nothing*: losses of scratch and four others, all from the same normal distribution.

# %%
rng = np.random.default_rng(14)
nothing = rng.normal(size=(20_000, 5, len(SEEDS)))
fake = nothing[:, :1] - nothing[:, 1:]  # the gains of four methods over scratch, paired: (20 000, 4, seeds)
counts = np.abs(fake.mean(axis=-1)) > 2 * fake.std(axis=-1, ddof=1) / np.sqrt(len(SEEDS))
print(
    f"one method that does nothing 'counts' in {counts.mean():.0%}, at least one of four in {counts.any(1).mean():.0%}"
)
check("three seeds, two standard errors: 18% false alarms", counts.mean(), 1 - 2 / np.sqrt(6), within=0.01)
check("and some method out of four 'counts' in more than a third", counts.any(axis=1).mean() > 0.35)
check("it takes 4.3 standard errors for 5%", 1 - 4.303 / np.sqrt(2 + 4.303**2), 0.05, within=1e-4)
check("which soft has", gains["soft"].mean() > 4.303 * standard_error(gains["soft"]))

# %% [markdown]
# What makes three seeds enough here is the pairing: without it the small gains of `hard` and `codistill` would drown,
# with it they stand out, for students of one seed have nearly everything in common. Which of these two is the better
# one is another matter. And seeds say nothing about other texts or sizes: on these same docs, with larger models and
# five seeds, the README cannot tell either of them from scratch, nor on Tiny Shakespeare.
#
# ## Is the loss all that matters?
#
# A student may be wanted that predicts *text* well, or one that stands in for *this teacher*: the same first choice
# (agreement), the same distribution (KL). **Do the three measures rank the methods alike?** The co-distilled student is
# compared with the teacher beside it, the others with the finished one of their seed.

# %%
text = data()
validation = text.validation[: TRAINING.eval_tokens]


def beside_teacher(name, seed):
    """Agreement and KL, as the training measured them; scratch has met no teacher, so it is measured here."""
    if name != "scratch":
        found = runs[name][seed].result["evaluation"]
        return found["agreement"], found["kl_to_teacher"]
    seen = windows(validation, TRAINING.context, 32)
    model, teacher = runs[name][seed].model, teachers[seed].model
    found = evaluate(model, seen, text.tokenizer.byte_lengths, machine().workers, teacher=teacher)
    return found.agreement, found.kl_to_teacher


near = {name: np.array([beside_teacher(name, seed) for seed in SEEDS]).T for name in ("scratch", *METHODS)}
agreement, kl = ({name: pair[i].mean() for name, pair in near.items()} for i in (0, 1))
for name in near:
    print(f"{name:9s} loss {losses[name].mean():.3f}, agreement {agreement[name]:.1%}, KL {kl[name]:.3f} nats")

check(
    "soft is nearest to its teacher by both measures", agreement["soft"] > agreement["hard"] and kl["soft"] < kl["hard"]
)
check("its KL is at least a quarter below that of scratch", kl["soft"] < 0.75 * kl["scratch"])
check("hard agrees more often than scratch", agreement["hard"] > agreement["scratch"] + 0.01)
check("but its distribution is hardly nearer", kl["hard"] > 0.85 * kl["scratch"])

# %%
with figure("14-loss-is-not-all") as fig:
    left, right = fig.subplots(1, 2, sharey=True)
    for name, (agreements, kls) in near.items():
        look = {"color": COLOURS[name], "markersize": 8, "alpha": 0.85}
        left.plot(kls, losses[name], MARKERS[name], **look, label=name)
        right.plot(100 * agreements, losses[name], MARKERS[name], **look)
    left.set(xlabel="KL(teacher ‖ student) (nats a token)", ylabel="validation loss (nats a token)")
    left.legend()
    left.set_title("Distribution and loss go together")
    right.set(xlabel="agreement with the teacher (% of tokens)")
    right.set_title("First choices tell less")

# %% [markdown]
# `hard` trains the first choice, so it does better at agreement than its distribution deserves. A measure that is close
# to what one method minimises favours that method. Where the student shall be *used* as a distribution (to sample, to
# rank, to speculate for its teacher), look at the KL.
#
# ## What does it cost?
#
# **What has to be computed, and what stored?** A common estimate (Kaplan et al. 2020): a model of $N$ parameters takes
# $2N$ operations a token to predict and $4N$ more to learn, attention aside. The student learns from
# $400 \cdot 16 \cdot 64$ tokens by each method; what the teacher does besides differs.

# %%
tokens = TRAINING.steps * TRAINING.batch_size * TRAINING.context
n_student, n_teacher = sizes["scratch"], sizes["teacher"]
stored = {name: runs[name][0].result["label_bytes_per_token"] for name in METHODS}
written = 200_000  # tokens that the teacher writes for `sequence`
compute = {
    "scratch": 6 * n_student * tokens,
    "soft": (6 * n_student + 2 * n_teacher) * tokens,
    "hard": (6 * n_student + 2 * n_teacher) * tokens,
    "sequence": 6 * n_student * tokens + 2 * n_teacher * written,
    "codistill": (6 * n_student + 6 * n_teacher) * tokens,  # and then there is a teacher
}
megabytes = {"soft": stored["soft"], "hard": stored["hard"], "sequence": stored["sequence"] * written / tokens}
megabytes = {name: count * tokens / 1e6 for name, count in megabytes.items()} | {"codistill": 0.0}
for name in ("scratch", *METHODS):
    labels = f", {megabytes[name]:7.2f} MB of labels" if name in megabytes else ""
    print(f"{name:9s} {compute[name] / 1e12:.2f} teraoperations{labels}")
print(f"training the teacher, if there is none yet: {6 * n_teacher * tokens / 1e12:.2f}")

check("soft labels: 2 bytes for each of the 512 tokens, at every place", stored["soft"] == 1024)
check("hard ones: 2 bytes, 512 times less", stored["soft"] / stored["hard"], 512, within=0)
check("a written token takes 1 to 4 bytes", 1 < stored["sequence"] < 4)

# %% [markdown]
# Soft labels cost a pass of the teacher at every step, or a gigabyte on the disk for each million tokens. With a
# vocabulary of 100,000 it would be 200 kB a token, which is why of a large teacher's labels only the largest entries
# are kept (exercise 3). A teacher that can only be asked over a network may offer nothing but text.
#
# **Now take compute for the equal term, not steps.** A step with soft labels costs four steps of scratch here. What if
# the student without a teacher is allowed four times the steps?

# %%
more = round(compute["soft"] / compute["scratch"])
longer = trained(training=replace(TRAINING, steps=more * TRAINING.steps, eval_every=160))
print(f"scratch, {more} times the steps: {longer.val_loss:.3f}; soft {losses['soft'][0]:.3f}")
check(
    "the pass of the teacher makes a step of soft cost about four of scratch",
    compute["soft"] / compute["scratch"],
    4,
    within=0.5,
)
check(
    "for that compute, the text alone does better than any of the four",
    longer.val_loss < min(losses[m][0] for m in METHODS) - 0.1,
)
check("it even comes within 0.15 of the teacher", longer.val_loss < losses["teacher"][0] + 0.15)

# %%
with figure("14-cost") as fig:
    axes = fig.subplots()
    points = {name: (compute[name] / 1e12, losses[name].mean()) for name in ("scratch", *METHODS)}
    points["scratch, 4 × the steps"] = (more * compute["scratch"] / 1e12, longer.val_loss)
    for name, (x, y) in points.items():
        method = name.split(",")[0]
        axes.plot(x, y, MARKERS[method], color=COLOURS[method], markersize=10)
        axes.annotate(name, (x, y), (11, -4), textcoords="offset points", color=ink(method), weight="bold",
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 2})  # fmt: skip
        if name in ("soft", "hard", "sequence"):  # if their teacher has to be trained first
            first = x + 6 * n_teacher * tokens / 1e12
            axes.plot([x, first], [y, y], ":", color=COLOURS[name], linewidth=1, zorder=1)
            axes.plot(first, y, MARKERS[name], color=COLOURS[name], markersize=10, markerfacecolor="white")
    xs, ys = zip(points["scratch"], points["scratch, 4 × the steps"], strict=True)
    axes.plot(xs, ys, ":", color=COLOURS["scratch"], linewidth=1.4)
    axes.plot(6 * n_teacher * tokens / 1e12, losses["teacher"].mean(), MARKERS["teacher"], color="black", markersize=10)
    axes.annotate("teacher", (6 * n_teacher * tokens / 1e12, losses["teacher"].mean()), (9, -4), weight="bold",
                  textcoords="offset points")  # fmt: skip
    axes.text(1.2, 3.62, "hollow: with a teacher\nthat is trained first", ha="right", color=MUTED)
    axes.set(
        xlabel="operations of the training, teacher's passes included (10¹²)", ylabel="validation loss (nats a token)"
    )
    axes.set(xlim=(0, 1.2))
    axes.set_title("Equal in steps is not equal in compute")

# %% [markdown]
# The students of this lesson are not too small for more, they are stopped early; the same is true of most comparisons
# that run in minutes. A teacher makes each *token of text* and each *step* of the student worth more. It does not make
# computing cheaper as long as its own passes count. So:
#
# - **Can you train longer on more text?** Do that first. It is the control that is missing from many tables.
# - **soft**, if steps or text are what is scarce, the teacher's logits are at hand and the vocabulary is shared: labels
#   that are computed once and used often, a large teacher that exists anyway, a student that has to resemble it.
# - **hard**, if a byte or two a token is all you can have. Expect little.
# - **sequence**, if the teacher is a black box, or there is no text of the kind you need. Where good real text exists,
#   as here, the teacher's is worse. Kim & Rush (2016) found it strong in *translation*, where a single clear answer to
#   each source is easier to learn than the many that people write.
# - **codistill**, if teacher and student are both still to be trained and the run is long. Let the weight grow.
#
# And of a table like this one ask: how many seeds, and is the error that of the difference? Was each method tuned
# with equal pains, scratch too? Equal in what: steps, text, compute? Is the measure close to what one method minimises?
# How good is the teacher, and would the ranking survive another text?
#
# ## What you should be able to explain now
#
# - what is held equal in this comparison, and what is not;
# - when pairing by seed makes an error smaller, and why two standard errors of three seeds are not much;
# - how a student can agree more with its teacher and be hardly nearer in distribution;
# - what each method costs in passes of the teacher and in stored labels;
# - why a student without a teacher may beat all of them, and what a teacher is good for then.
#
# ## Exercises
#
# 1. Take a better teacher: 1,600 steps instead of 400 (`training=replace(TRAINING, steps=1600)` for the teacher alone).
#    Does soft now beat scratch at equal compute? And with 1,600 steps for the student, too?
# 2. How many seeds does it take to tell a gain of 0.01 from 0, if the paired gains scatter by 0.02 from seed to seed,
#    so that their mean exceeds the threshold of the t distribution for 5% in at least 80 of 100 repetitions? Answer
#    with a formula, then by drawing random numbers.
# 3. Soft labels in 20 bytes instead of 1,024, the five best tokens and their logarithms: write
#    `top_k_teacher(logits, k, *, temperature=1.0)`, which returns ids and log-probabilities, the largest first, in a
#    file `mine.py`, and have it graded: `minikd grade mine.py --only top_k_teacher`. How much of soft's gain do you
#    expect to remain?
