# %% [markdown]
# # 11. Soft labels
#
# Now a student learns from a teacher that has finished learning. Both read the same text; for every token the student
# is told the text's next token, and the teacher's distribution $p$ over all of them (Hinton, Vinyals & Dean 2015):
#
# $$L = \alpha \, T^2 \, \mathrm{KL}(p_T \,\|\, q_T) + (1 - \alpha) \, (-\log q_y)$$
#
# What does $p$ say beyond the best token? How much better is a student that hears it, and at which tokens? Why does it
# help? And which $\alpha$ and $T$ are good ones? What larger experiments answer to the last question we shall not
# find, and look for the reason.
#
# You need: lessons 7 (the teacher), 8 (KL) and 10 (the factor $T^2$).

# %%
from dataclasses import replace

import numpy as np

from minikd.classroom import TEACHER, TRAINING, data, trained
from minikd.distill.methods import DistillConfig
from minikd.distill.scratch import scratch
from minikd.distill.soft import soft
from minikd.figures import COLOURS, visible
from minikd.lesson import check, figure
from minikd.losses import cross_entropy, forward_kl
from minikd.softmax import softmax
from minikd.text import Batches, windows
from minikd.train import Tick

text = data()
teacher = trained(model=TEACHER)
reader = teacher.model
token_texts = [text.tokenizer.decode([i]) for i in range(text.tokenizer.vocab_size)]

# %% [markdown]
# ## What the teacher says besides
#
# Hinton called what a trained model says about the *wrong* answers its dark knowledge. **What is it in a text?** We
# give the teacher three beginnings, in the style of the Python documentation that it has read, and look at its eight
# likeliest tokens. (The vocabulary has 512 tokens, so many are pieces of words; ␣ is a space, ↵ ends a line.)

# %%
beginnings = ("the end of", "Changed in version 3.", "return value")
answers = {start: softmax(reader.predict(text.tokenizer.encode(start)[None])[0, -1])[0] for start in beginnings}

with figure("11-dark-knowledge") as fig:
    for axes, (start, p) in zip(fig.subplots(1, 3), answers.items(), strict=True):
        best = np.argsort(-p)[:8]
        colours = [COLOURS["teacher"]] + 7 * [COLOURS["soft"]]
        axes.barh(range(8), 100 * p[best], color=colours)
        axes.set(yticks=range(8), ylim=(7.6, -0.6), xlabel="probability (%)")
        axes.set_yticklabels([visible(token_texts[i], 0.8) for i in best])
        axes.tick_params(axis="y", length=0)
        axes.set_title(f"“{start} …”", size=12)
        axes.text(0.98, 0.04, f"black: {p[best[0]]:.0%}\nthe others: {1 - p[best[0]]:.0%}", transform=axes.transAxes,
                  ha="right")  # fmt: skip

validation = next(windows(text.validation[: TRAINING.eval_tokens], TRAINING.context, TRAINING.eval_tokens))
counted, y = validation.counted, validation.targets[validation.counted]
digits = np.array([token.strip()[:1].isdigit() for token in token_texts])
share_of_digits = digits[y].mean()
first_eight = {token_texts[i] for i in np.argsort(-answers["the end of"])[:8]}
print(f"digits are {share_of_digits:.1%} of the text's tokens")
check("after 'version 3.' the teacher's mass on digits is 5 times that, at least",
      answers["Changed in version 3."][digits].sum() > 5 * share_of_digits)  # fmt: skip
check("after 'the end of' it expects an article, or a pronoun", len(first_eight & {" the", " a", " an", " it"}) >= 3)

# %% [markdown]
# A version number goes on with a digit, which one is open; "the end of" wants an article. The text shows *one* of
# these tokens, as if all the others were equally wrong. That " a" would have been nearly right, the teacher alone says.
#
# **Can the teacher be believed?** Take its $k$ likeliest tokens at every position of a text that it has not read. It
# says with which probability the next token is among them; we count how often it is.


# %%
def predictions(model):
    """Logits (N, V) at all positions of the validation text that count."""
    return model.predict(validation.inputs)[counted].astype(np.float64)


def of_labels(table):
    return table[np.arange(len(y)), y]


u = predictions(reader)
p, _ = softmax(u)
rank = (p > of_labels(p)[:, None]).sum(axis=1)  # how many tokens the teacher held to be likelier than the text's
said = np.cumsum(np.sort(p, axis=1)[:, ::-1].mean(axis=0))
for k in (1, 3, 10, 30, 100):
    print(f"the teacher's best {k:3}: {said[k - 1]:6.1%} by its own account, {(rank < k).mean():6.1%} counted")
check("what it says, happens, for k = 1 to 200", [(rank < k).mean() for k in range(1, 201)], said[:200], within=0.04)
check("its best token is right less than half of the time", (rank < 1).mean() < 0.5)

# %% [markdown]
# On average, it can. Its best token is right about one time in four; three quarters of its probability lie on the rest.
#
# ## One draw, or the distribution it was drawn from
#
# **Why should $p$ be a better label than the text's token $y$?** Suppose for a moment that the text were drawn from
# $p$. The gradient at the logits is $q - e_y$ with the text's label ($e_y$ is 1 at $y$, else 0), $q - p$ with the
# teacher's (lesson 2). Since $e_y$ has the mean $p$, the two agree on average. But they do not agree in size:
#
# $$\mathbb{E}_{y \sim p} \|q - e_y\|^2 = \|q - p\|^2 + \underbrace{1 - \textstyle\sum_i p_i^2}_{\text{chance}}$$
#
# The first term is what there is to learn, the second is the draw of the token. The identity is exact; for the text,
# which was not drawn from our teacher, it holds as far as the teacher is right.

# %%
plain = trained()
q, _ = softmax(predictions(plain.model))
to_learn, chance = ((q - p) ** 2).sum(axis=1), 1 - (p**2).sum(axis=1)
drawn = ((q[:300, None] - np.eye(len(token_texts))) ** 2).sum(axis=-1)  # (300, V): one for each possible token
met = (q**2).sum(axis=1) - 2 * of_labels(q) + 1
print(f"at the logits: to learn {to_learn.mean():.3f}, chance {chance.mean():.3f}; met in the text {met.mean():.3f}")

check("the identity, summed over all tokens", (p[:300] * drawn).sum(axis=1), (to_learn + chance)[:300], within=1e-12)
check("it foretells what the text shows, within 3%", met.mean() / (to_learn + chance).mean(), 1, within=0.03)
check("nine tenths of it is chance", chance.mean() / (to_learn + chance).mean() > 0.9)

# %% [markdown]
# A batch has 1,024 tokens, over which chance averages out in part. **What is left of it in the gradient of the
# weights?** We take the student that has learned from the text alone, and its gradient on 32 batches, by either label.
# The mean over the batches is the signal, the variance around it the noise (the squared mean contains 1/32 of the
# noise, which we subtract).

# %%
batches = Batches(text.train, TRAINING.batch_size, TRAINING.context, seed=7)
methods = {"text": scratch(plain.model), "teacher": soft(plain.model, reader, weight=lambda progress: 1.0)}
signal, noise = {}, {}
for label, step in methods.items():
    gradients = [step(batches(i), Tick(i, 32))["student"][1].flat.astype(np.float64) for i in range(32)]
    noise[label] = np.var(gradients, axis=0, ddof=1).sum()
    signal[label] = (np.mean(gradients, axis=0) ** 2).sum() - noise[label] / 32
    print(f"label of the {label}: signal {signal[label]:.3f}, noise {noise[label]:.3f} (squared lengths)")

check("the text's label is noisier, 5 times at least", noise["text"] > 5 * noise["teacher"])
check("with the text, a batch's gradient is mostly noise", noise["text"] > 4 * signal["text"])

# %% [markdown]
# With the text's labels a step goes mostly where the draw of its tokens sends it; the soft labels leave only which
# text came into the batch. If that is what makes soft labels good, two things must follow: the soft student learns
# *faster*, and a student without a teacher, but with *larger batches*, learns as fast. **Does it?** `bigger` takes as
# many steps, on 4 times as much text a step.

# %%
student = trained("soft", teacher=teacher)  # alpha = 0.9, T = 1
bigger = trained(training=replace(TRAINING, batch_size=64))
again = {"scratch": trained(seed=1), "soft": trained("soft", teacher=teacher, seed=1)}
# %%
z = {name: predictions(run.model) for name, run in (("scratch", plain), ("soft", student), ("bigger", bigger))}
loss = {name: cross_entropy(logits, y)[0] for name, logits in z.items()}
agreement = {name: (logits.argmax(axis=1) == u.argmax(axis=1)).mean() for name, logits in z.items()}
kl = {name: forward_kl(logits, u)[0] for name, logits in z.items()}
for name in z:
    print(f"{name:8} loss {loss[name]:.3f}, agreement {agreement[name]:.1%}, KL {kl[name]:.3f}")
gains = loss["scratch"] - loss["soft"], again["scratch"].val_loss - again["soft"].val_loss
steps, losses = (np.array(line) for line in student.curve())
overtaken = steps[losses < plain.val_loss][0]

check("soft labels gain 0.1 nats a token or more, with either seed", np.array(gains) > 0.1)
check("agreement rises by 8 points or more", agreement["soft"] - agreement["scratch"] > 0.08)
check("KL to the teacher falls by a third or more", kl["soft"] < 2 / 3 * kl["scratch"])
check("the soft student is past scratch's end after 70% of the steps", overtaken <= 0.7 * TRAINING.steps)
check("batches 4 times as large gain three quarters as much, or more",
      (loss["scratch"] - loss["bigger"]) > 0.75 * gains[0])  # fmt: skip
check("but bring the student no nearer to the teacher than soft labels do", kl["bigger"] > kl["soft"])

# %%
with figure("11-noise") as fig:
    left, right = fig.subplots(1, 2, width_ratios=(3, 4))
    for row, (label, colour) in enumerate((("text", COLOURS["scratch"]), ("teacher", COLOURS["soft"]))):
        left.barh([row - 0.18, row + 0.18], [signal[label], noise[label]], 0.32, color=colour)
        left.text(signal[label] + 0.01, row - 0.18, "signal", va="center")
        left.text(noise[label] + 0.01, row + 0.18, "noise", va="center")
    left.set(yticks=(0, 1), yticklabels=("the text's\nlabels", "the teacher's\nlabels"), ylim=(1.6, -0.6))
    left.set(xlabel="squared length of a batch's gradient", xlim=(0, 1.25 * max(noise.values())))
    left.tick_params(axis="y", length=0)
    left.set_title("One label is noise")
    lines = (plain, "scratch", "text alone", "-"), (bigger, "scratch", "text, 4 times the batch", "--")
    for run, name, label, style in (*lines, (student, "soft", "soft labels", "-")):
        right.plot(*run.curve(), linestyle=style, color=COLOURS[name], label=label)
    right.axhline(teacher.val_loss, color="black", linewidth=1, linestyle=":")
    right.text(TRAINING.steps, teacher.val_loss + 0.03, "the teacher at its end", ha="right")
    right.set(xlabel="steps", ylabel="validation loss (nats a token)", ylim=(teacher.val_loss - 0.1, 5.5))
    right.set_title("Less noise, faster learning")
    right.legend()

# %% [markdown]
# So this gain is one of *speed*. A soft label does for the student what a batch four times as large does. Where text is
# cheap and patience long, less of it remains; where a student can no longer learn from more text, this part is gone.
#
# ## Who gains
#
# **At which tokens is the soft student better?** A rare token comes seldom as the text's label, but has its share in
# thousands of soft ones. We sort the tokens of the validation text by how often their kind occurs in the training
# text, and compare fifths; and we sort them by the place that the teacher had given them.

# %%
each = {name: cross_entropy(logits, y, reduction="none")[0] for name, logits in z.items()}
gain, gap = each["scratch"] - each["soft"], each["scratch"] - cross_entropy(u, y, reduction="none")[0]
frequency = np.bincount(text.train[:], minlength=len(token_texts))[y]
fifths = np.array_split(np.argsort(-frequency, kind="stable"), 5)
by_rarity = np.array([gain[part].mean() for part in fifths])
closed = np.array([gain[part].mean() / gap[part].mean() for part in fifths])
places = {
    "1st": (0, 1),
    "2nd, 3rd": (1, 3),
    "4th–10th": (3, 10),
    "11th–30th": (10, 30),
    "later": (30, len(token_texts)),
}
by_place = np.array([gain[(rank >= low) & (rank < high)].mean() for low, high in places.values()])
print("gain by rarity", by_rarity.round(2), "; share of the gap to the teacher", closed.round(2))

check("the rarest fifth gains twice as much as the commonest, or more", by_rarity[-1] > 2 * by_rarity[0])
check("where the teacher's first choice is right, the gain is above average", by_place[0] > gain.mean())
check("where the text surprised the teacher, the student loses", by_place[-1] < 0)

# %%
with figure("11-who-gains") as fig:
    left, right = fig.subplots(1, 2, sharey=True)
    left.bar(range(5), by_rarity, color=COLOURS["soft"])
    left.set(xticks=range(5), xticklabels=["commonest\nfifth", "2nd", "3rd", "4th", "rarest\nfifth"])
    left.set(xlabel="tokens, by how often they occur", ylabel="gain by soft labels (nats a token)")
    left.set_title("Most at the rare tokens")
    right.bar(range(5), by_place, color=np.where(by_place > 0, COLOURS["soft"], COLOURS["hard"]))
    right.set(xticks=range(5), xticklabels=places, xlabel="place that the teacher gave to the text's token")
    right.set_title("Where the teacher is right")
    for axes in (left, right):
        axes.axhline(0, color="0.5", linewidth=0.8)
        axes.tick_params(axis="x", length=0, labelsize=9.5)

# %% [markdown]
# Rare tokens gain most; they also have most to gain: of its distance to the teacher each fifth closes a similar share.
# And where the teacher was far off, so is the student now. (Part of that is selection: we picked the tokens at which
# the teacher was unlucky. But the text alone would have left the student better off there.)
#
# ## Which weight, which temperature
#
# **How much should the teacher count, and at which temperature?** Hinton and others use $T$ = 2 to 20, and a large
# $\alpha$. We try $\alpha$ at $T = 1$, then $T$ at $\alpha = 0.9$.


# %%
def at(seed=0, **options):
    return trained("soft", teacher=teacher, seed=seed, distill=DistillConfig(**options))


weights = {0.0: plain, 0.5: at(alpha=0.5), 0.9: student, 1.0: at(alpha=1.0)}
heats = {1.0: student, 2.0: at(temperature=2.0), 4.0: at(temperature=4.0)}
colder = again["soft"].val_loss, at(temperature=2.0, seed=1).val_loss
for name, runs in (("alpha", weights), ("T", heats)):
    print(name, {value: round(run.val_loss, 3) for value, run in runs.items()})

check("half of the weight is already better than none", weights[0.5].val_loss < weights[0.0].val_loss - 0.05)
check("nine tenths is better than half", weights[0.9].val_loss < weights[0.5].val_loss - 0.02)
check("T = 1 beats T = 2, by more than 0.1", heats[2.0].val_loss - heats[1.0].val_loss > 0.1)
check("and with another seed", colder[1] - colder[0] > 0.1)
check("T = 2 beats T = 4", heats[4.0].val_loss - heats[2.0].val_loss > 0.1)

# %% [markdown]
# The teacher's labels alone are as good as any mixture here (one seed; $\alpha = 0.9$ and 1 differ by less than seeds
# do): what the text knows beyond this teacher, so small and early a student cannot yet use. And $T = 1$ does best by
# far; at $T = 2$ the student ends above the one that never had a teacher! **Why, when larger experiments like $T$ = 2
# and more?** One explanation: a student at $T = 2$ learns what it is asked, the teacher at $T = 2$, and the loss is
# measured at $T = 1$. If so, it should be the nearer one at $T = 2$.

# %%
span = np.array([0.7, 1, 2, 4, 8])
some = slice(0, 4000)
distance = {}
for heat, run in heats.items():
    logits = predictions(run.model)[some]
    distance[heat] = np.array([forward_kl(logits, u[some], temperature=t)[0] for t in span])
check("the student of T = 1 is nearer to the teacher at T = 1", distance[1.0][1] < 0.8 * distance[2.0][1])
check("and, after these few steps, at T = 2, too", distance[1.0][2] < 0.95 * distance[2.0][2])

# %% [markdown]
# It is not: the explanation fails. The student of $T = 2$ does not go elsewhere, it is *behind*. Look at what it is
# told at its first step, when $q$ is uniform: $T^2$ times the gradient of the KL, $T (1/V - p_T)$. Part of it is the
# same at every token (which tokens are rare in general); the rest depends on the *context*. **What does the temperature
# do to the two?**

# %%
shared, context = {}, {}
for t in (1.0, 2.0, 4.0, 8.0):
    told = t * (softmax(u, t)[0] - 1 / len(token_texts))
    shared[t] = (told.mean(axis=0) ** 2).sum()
    context[t] = (told**2).sum(axis=1).mean() - shared[t]
    print(f"T = {t:g}: shared by all {shared[t]:.4f}, by context {context[t]:.4f}: {context[t] / shared[t]:.1f} to 1")
check("what is shared keeps its size", np.array(list(shared.values())) / shared[1.0], 1.15, within=0.4)
check("what the context says shrinks to less than half at T = 2", context[2.0] < 0.5 * context[1.0])
check("and to less than a quarter at T = 4", context[4.0] < 0.25 * context[1.0])
check("at T = 1 the context is 16 times as loud as what is shared", context[1.0] / shared[1.0], 16, within=2)

# %%
with figure("11-alpha-temperature") as fig:
    left, right = fig.subplots(1, 2)
    left.plot(weights.keys(), [run.val_loss for run in weights.values()], "o-", color=COLOURS["soft"])
    left.axhline(teacher.val_loss, color="black", linewidth=1, linestyle=":")
    left.text(0, teacher.val_loss + 0.01, "the teacher")
    left.set(xlabel="α, weight of the soft labels (T = 1)", ylabel="validation loss (nats a token)")
    left.set_title("The more teacher, the better")
    for (heat, line), colour in zip(distance.items(), ("C0", "C1", "C2"), strict=True):
        right.loglog(span, line, "o-", color=colour, label=f"trained at T = {heat:g}")
    right.set(xlabel="temperature at which it is measured", ylabel="KL to the teacher (nats a token)")
    right.set_xticks([1, 2, 4, 8], labels=["1", "2", "4", "8"])
    right.minorticks_off()
    right.yaxis.set_major_formatter("{x:g}")
    right.set_title("Hot students are behind")
    right.legend()

# %% [markdown]
# Lesson 10's $T^2$ keeps the size of the part that small logits make. What a sure teacher says of *this* context is a
# large probability, and heat flattens it faster than $T^2$ makes up for: at $T = 1$ the context speaks 16 times as
# loudly (in squared length) as what is the same everywhere, at $T = 4$ hardly louder. We take this to be why a hot
# student is behind: in its few steps it learns mostly which tokens are rare.
#
# Trained three times as long (exercise 2; two seeds), it all but catches up, with 3.54 nats against 3.51 and 3.52, and
# *then* the first explanation holds: it is the nearer one at $T = 2$ (KL 0.039 and 0.037 against 0.050 and 0.054), and
# further off at $T = 1$. A temperature
# above 1 asks for more and takes more time; where time is scarce, as here, $T = 1$ is best. And the classifiers of the
# older experiments were far surer of their answers than a language model is of its next token: at $T = 1$ they had
# hardly anything else to say.
#
# ## What you should be able to explain now
#
# - what a teacher says of a text's next token beyond its best guess, and how one finds out whether it is true;
# - why the gradients of the text's and the teacher's labels agree on average, and what the text's has in addition;
# - why a soft student learns faster, and what in this lesson says that less noise is the reason;
# - which tokens gain most, and where a student does worse for having had a teacher;
# - what a temperature above 1 does to a student that has few steps, although $T^2$ stands before its loss.
#
# ## Exercises
#
# 1. Write `distill_step(hidden, labels, student_weight, teacher_weight, *, alpha=0.5, temperature=2.0,
#    learning_rate=0.5)` in a file `mine.py`: one step of gradient descent for a student that is a single matrix, which
#    returns its new weight and the loss. Have it graded: `minikd grade mine.py --only distill_step`.
# 2. Train the students of $T = 1$ and $T = 2$ for 1,200 steps (`training=replace(TRAINING, steps=1200)`) and measure
#    their KL at $T$ = 1, 2 and 4. Predict first which is nearer at which temperature.
# 3. Let the text be drawn from the teacher for good: replace the text's labels by tokens drawn from $p$, and check that
#    the mean of $\|q - e_y\|^2$ comes to $\|q - p\|^2 + 1 - \sum_i p_i^2$ within three standard errors.
