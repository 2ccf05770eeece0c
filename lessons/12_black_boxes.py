# %% [markdown]
# # 12. Black boxes
#
# The last lesson's student saw its teacher's whole distribution. Often nobody shows it: the teacher stands behind an
# interface that names its best token, or some of the likeliest, or only writes text. And where the teacher is one's
# own, its labels may be too large to keep. What does a student lose with each kind of label, and what does each cost?
#
# You need: lesson 11 (soft labels), and what a mean and an unbiased estimate are.

# %%
import json
from itertools import pairwise

import numpy as np

from minikd.classroom import STUDENT, TEACHER, TRAINING, data, machine, trained
from minikd.distill.methods import DistillConfig
from minikd.distill.sequence import write_pieces
from minikd.distill.soft import soft
from minikd.figures import COLOURS
from minikd.job import look
from minikd.lesson import check, figure
from minikd.losses import forward_kl, sample_teacher, sparse_kl, top_k_teacher
from minikd.softmax import softmax
from minikd.text import Batches, windows
from minikd.train import Learner, Tick, train_step

text = data()
teacher, scratch = trained(model=TEACHER), trained()
student = trained("soft", teacher=teacher)
reader = teacher.model

validation = next(windows(text.validation[: TRAINING.eval_tokens], TRAINING.context, TRAINING.eval_tokens))
counted, y = validation.counted, validation.targets[validation.counted]


def predictions(model):
    """Logits (N, V) at all positions of the validation text that count."""
    return model.predict(validation.inputs)[counted].astype(np.float64)


u = predictions(reader)
p, _ = softmax(u)
V = p.shape[1]

# %% [markdown]
# ## What a label costs
#
# **How many bytes does a teacher's answer take, for one token?** A number as float16 takes 2 bytes, a token's id 2 up
# to a vocabulary of 65,536 and 4 beyond. Besides our vocabulary we reckon with that of Llama 3, 128,256, over a corpus
# of a billion tokens.


# %%
def price(vocabulary, k=8):
    """Bytes a token of each kind of label."""
    token = 2 if vocabulary <= 2**16 else 4
    return {
        "every probability": 2 * vocabulary,
        f"the {k} likeliest": k * (token + 2),
        f"{k} draws": k * token,
        "the best token": token,
    }


ours, large = price(V), price(128_256)
for kind in ours:
    print(f"{kind:18} {ours[kind]:5,} B a token here; V = 128,256: {large[kind]:7,} B, {large[kind]:9,} GB in all")
check("all probabilities of a billion tokens: 257 TB", large["every probability"] / 1000, 256.5, within=0.1)
check("8 draws are 8,000 times smaller", large["every probability"] / large["8 draws"], 8000, within=50)

# %% [markdown]
# ## Only the best token
#
# A *hard* label $e_*$ is the teacher's best token. With weight $\alpha$ the student hears it, with $1 - \alpha$ the
# text (whose tokens are draws from about $p$). **Whom does it then become?** Its target is the mean of its labels,
# $m = \alpha e_* + (1 - \alpha) p$: the best token is puffed up, all others shrink by $1 - \alpha$. A student that
# reaches $m$ pays, with $p_*$ the best token's probability,
#
# $$\mathrm{KL}(p \,\|\, m) = (1 - p_*) \log\frac{1}{1 - \alpha} - p_* \log\frac{\alpha + (1 - \alpha) p_*}{p_*}$$
#
# for it, and as $\alpha \to 1$ that has no end: who is certain pays infinitely for being wrong. The more gently a
# label is mixed in, the less: at small $\alpha$ the two terms cancel up to $\alpha^2 (1 - p_*) / 2 p_*$.

# %%
best, row = p.argmax(axis=1), np.arange(len(p))


def toll(alpha):
    """KL(p || m) for the mixed target, averaged over the text."""
    top = p[row, best]
    return ((1 - top) * -np.log(1 - alpha) - top * np.log((alpha + (1 - alpha) * top) / top)).mean()


def mixed(alpha):
    return alpha * np.eye(V)[best] + (1 - alpha) * p


for alpha in (0.1, 0.5, 0.9):
    check(f"the formula is the KL, alpha = {alpha}", toll(alpha), forward_kl(np.log(mixed(alpha)), u)[0], within=1e-9)
small = 1e-3 * (1 - p[row, best]) / (2 * p[row, best])
check("for small alpha it goes as alpha squared", toll(1e-3) / (1e-3 * small.mean()), 1, within=0.05)

hard = {alpha: trained("hard", teacher=teacher, distill=DistillConfig(alpha=alpha)) for alpha in (0.5, 1.0)}
hard = {0.0: scratch, 0.1: trained("hard", teacher=teacher)} | hard

# %% [markdown]
# **Is the real student such a one?** Besides its loss we look at its *confidence*, the probability of its own first
# choice, and at how often that choice is right. Whoever is honest about its doubts is as often right as it is
# confident.

# %%
table = {}
for alpha, run in hard.items():
    q, _ = softmax(predictions(run.model))
    sure, right = q.max(axis=1), q.argmax(axis=1) == y
    agrees = (q.argmax(axis=1) == best).mean()
    table[alpha] = {"loss": run.val_loss, "sure": sure, "right": right, "agrees": agrees}
    print(f"alpha {alpha}: loss {run.val_loss:.2f}, agrees with the teacher {agrees:.0%}, "
          f"confidence {sure.mean():.0%}, right {right.mean():.0%}")  # fmt: skip

off = {alpha: found["sure"].mean() - found["right"].mean() for alpha, found in table.items()}
check("the text alone makes a student that is honest within 8 points", off[0.0], 0, within=0.08)
check("argmax alone a boastful one: 25 points too confident, or more", off[1.0] > 0.25)
check("which pays more than a nat a token for it", table[1.0]["loss"] - table[0.0]["loss"] > 1)
check("though it agrees with the teacher more often", table[1.0]["agrees"] - table[0.0]["agrees"] > 0.03)
check("a weight of 0.1 costs next to nothing and gains little", table[0.1]["loss"] - table[0.0]["loss"], within=0.04)
check("half the weight is already too much", table[0.5]["loss"] - table[0.0]["loss"] > 0.05)

# %%
with figure("12-hard-labels") as fig:
    left, right = fig.subplots(1, 2)
    alphas = np.linspace(0, 0.99, 100)
    left.plot(alphas, scratch.val_loss + np.array([toll(alpha) for alpha in alphas]), color="0.6",
              label="text alone + the formula's toll")  # fmt: skip
    left.plot(list(table), [found["loss"] for found in table.values()], "^", color=COLOURS["hard"], markersize=9,
              label="students")  # fmt: skip
    left.set(xlabel="α, weight of the teacher's best token", ylabel="validation loss (nats a token)")
    left.set_title("Certainty is expensive")
    left.legend()
    edges = np.array([0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0])
    for alpha, colour in ((0.0, COLOURS["scratch"]), (0.5, "#E69F00"), (1.0, COLOURS["hard"])):
        sure, hit = table[alpha]["sure"], table[alpha]["right"]
        groups = [(sure >= low) & (sure < high) for low, high in pairwise(edges)]
        dots = np.array([(sure[g].mean(), hit[g].mean()) for g in groups if g.sum() >= 100])
        right.plot(*(100 * dots.T), "o-", color=colour, label="text alone" if alpha == 0 else f"α = {alpha:g}")
    right.plot([0, 100], [0, 100], color="0.7", linewidth=1, linestyle=":")
    right.text(84, 88, "honest", rotation=39, color="0.45", ha="center", va="center")
    right.set(xlabel="confidence of the first choice (%)", ylabel="how often it is right (%)", xlim=(0, 100),
              ylim=(0, 100))  # fmt: skip
    right.set_title("And undeserved")
    right.legend(loc="upper left")

# %% [markdown]
# (The students stay below the curve: it is for one that reaches its target, and these have few parameters and steps.
# The one from the text is rather too modest.) The argmax teaches *what* to say first and unlearns *how sure* to be. For
# a classifier whose teacher is right 99 times in 100 the two are nearly the same; in a text, whose next token is open,
# they are not.
#
# ## Only text
#
# A black box that writes can be asked for a corpus, and the student trains on that (sequence-level distillation: Kim &
# Rush 2016, who searched for the likeliest translation; the likeliest continuation of an open text is a dull one, so
# ours *samples*). Here is what our
# teacher writes when it is given eight tokens:

# %%
written = {n: trained("sequence", teacher=teacher, distill=DistillConfig(corpus_tokens=n)) for n in (20_000, 100_000)}
corpus = (written[100_000].folder / "corpus.jsonl").read_text(encoding="utf-8")
pieces = [json.loads(line) for line in corpus.split("\n")[:-1]]
for piece in pieces[:3]:
    print(repr(piece["prompt"]), "->", repr(piece["continuation"][:110]))

# %% [markdown]
# **What does the student learn from it?** A sampled token is one draw from $p$: its gradient has the mean of the soft
# label's, with all the chance of lesson 11 around it. So much it has in common with the text. But the text is drawn
# from the language, and this from the teacher, mistakes included; the student's ceiling is now the teacher. We let the
# students predict both texts: the real one and new text of the teacher, which nobody has read.

# %%
sequence = written[100_000]
fresh = write_pieces(reader, text.tokenizer, text.train, n_pieces=800, prompt_tokens=8,
                     context=TRAINING.context, seed=777, workers=machine().workers, quiet=True)  # fmt: skip


def as_tokens(written_texts):
    """The beginnings of texts that are long enough, as rows of tokens."""
    rows = [np.array(text.tokenizer.encode(written)) for written in written_texts]
    return np.stack([ids[: TRAINING.context - 8] for ids in rows if len(ids) >= TRAINING.context - 8])


own = as_tokens(piece.prompt + piece.continuation for piece in fresh)
read = as_tokens(piece["prompt"] + piece["continuation"] for piece in pieces[-400:])  # by the student in its training


def loss_on_written(run, rows=own):
    """On what the teacher wrote, without the prompts."""
    q, _ = softmax(run.model.predict(rows[:, :-1]).astype(np.float64))
    said = np.take_along_axis(q, rows[:, 1:, None], axis=-1)[..., 0]
    return -np.log(said[:, 8:]).mean()


for name, run in (("scratch", scratch), ("sequence", sequence), ("soft", student), ("teacher", teacher)):
    print(f"{name:8} on the text {run.val_loss:.3f}, on the teacher's {loss_on_written(run):.3f}")
bytes_written = sequence.result["label_bytes_per_token"]
print({n: round(run.val_loss, 3) for n, run in written.items()}, f"{bytes_written:.2f} B a token")

check("a token of written text takes 1.5 to 3.5 bytes", bytes_written, 2.5, within=1)
check("the student of the written text is worse on the text than scratch", sequence.val_loss > scratch.val_loss + 0.03)
check("five times as much written text is better", written[20_000].val_loss > sequence.val_loss)
check("on new text of the teacher it is level with scratch",
      loss_on_written(sequence) - loss_on_written(scratch), within=0.03)  # fmt: skip
check("what it has read it knows better than that", loss_on_written(sequence, read) < loss_on_written(sequence) - 0.04)
check("soft labels are better by far", loss_on_written(student) < loss_on_written(sequence) - 0.1)

# %% [markdown]
# On new text of its teacher the student of 100,000 written tokens is level with one that read twice as much real text.
# On the very pieces that it was trained on it looks better than it is, which is why one never measures there.
#
# The written text is a copy of the real one, noise and all. With the original at hand nothing is gained by it, and Kim
# & Rush's large gain does not show: theirs came from the search, which replaces many possible translations by one and
# so makes the task easier for the student. Text from a teacher pays where there is none to read: a new task, another
# register, answers to questions nobody has answered.
#
# ## A few entries
#
# Many interfaces name the $k$ likeliest tokens with their probabilities. **What should a loss do about the rest, the
# *tail*?** `sparse_kl` can: put it into one *bucket* on both sides; restrict both sides to the $k$ and *renormalise*;
# count it as *zero*. The third way is to leave the $k$ likeliest alone and *draw* tokens from $p$, as often as they
# come (RS-KD: Anshumann et al. 2025). We compare value and gradient with those of the full KL, for the student from the
# text.

# %%
z, some = predictions(scratch.model)[:2000], u[:2000]
full, pull = forward_kl(z, some)
gradient = pull()
ks = np.array([1, 2, 4, 8, 16, 32, 64, 128, 256, V])
tails = {
    tail: [sparse_kl(z, *top_k_teacher(some, k), tail=tail) for k in ks] for tail in ("bucket", "renormalize", "zero")
}
values = {tail: np.array([value for value, _ in found]) for tail, found in tails.items()}


def error(estimate):
    """Distance from the full gradient, as a share of its length."""
    return np.sqrt(((estimate - gradient) ** 2).sum() / (gradient**2).sum())


errors = {tail: np.array([error(vjp()) for _, vjp in found]) for tail, found in tails.items()}
kept = p[:2000].max(axis=1).mean(), np.sort(p[:2000], axis=1)[:, -8:].sum(axis=1).mean()
print(f"the likeliest token has {kept[0]:.0%} of the teacher's mass, the 8 likeliest {kept[1]:.0%}")
for tail in tails:
    print(f"{tail:11} k = 8: {values[tail][3]:+.3f} instead of {full:.3f}; gradient off by {errors[tail][3]:.0%}")

check("with all entries, each tail is the full KL", [found[-1] for found in values.values()], full, within=1e-9)
check("the bucket is a lower bound", values["bucket"] <= full + 1e-12)
check("that rises with k", np.diff(values["bucket"]) >= -1e-12)
negative = [(sparse_kl(z, *top_k_teacher(some, k), tail="zero", reduction="none")[0] < 0).any() for k in (1, 2, 4)]
check("counted as zero, the tail makes a 'divergence' that is negative for some tokens", np.array(negative))
check("at k = 8 the bucket's gradient is the best of the three",
      errors["bucket"][3] < min(errors["renormalize"][3], errors["zero"][3]))  # fmt: skip

# %% [markdown]
# A gradient that is off by a *bias* stays off, however many tokens are read. One that is off by *chance* averages out:
# the mean of $M$ draws should approach the truth as $1/\sqrt M$. **Does it?** For one draw of `n` tokens the error is
# known from lesson 11: its square is $\sum (1 - \sum_i p_i^2) / n$.

# %%
rng, n = np.random.default_rng(12), 8
z, some, q_minus_p = z[:200], some[:200], gradient[:200] * 2000
total, averaged = np.zeros_like(z), {}
for times in range(1, 257):
    _, vjp = sparse_kl(z, *sample_teacher(some, n, rng), tail="zero", reduction="none")
    total += vjp(np.ones(len(z)))
    averaged[times] = np.sqrt(((total / times - q_minus_p) ** 2).sum())
derived = np.sqrt((1 - (p[:200] ** 2).sum(axis=1)).sum() / n)
drawn = np.array([averaged[2**i] for i in range(9)])
_, vjp = sparse_kl(z, *top_k_teacher(some, n), tail="bucket", reduction="none")
length = np.sqrt((q_minus_p**2).sum())
bias = np.sqrt(((vjp(np.ones(len(z))) - q_minus_p) ** 2).sum())

check("one draw is off by what was derived", drawn[0] / derived, 1, within=0.1)
check("256 draws by a 16th of that: unbiased", drawn[-1] / (derived / 16), 1, within=0.1)
check("one draw is further off than the bucket, 256 are nearer", [drawn[0] > bias, drawn[-1] < bias])

# %%
with figure("12-few-entries") as fig:
    left, right = fig.subplots(1, 2)
    names = {"bucket": "one bucket", "renormalize": "renormalised", "zero": "counted as zero"}
    for tail, name in names.items():
        left.semilogx(ks, values[tail], "o-", base=2, label=name)
    left.axhline(full, color="black", linewidth=1, linestyle=":")
    left.text(1, full, "the full KL", va="bottom")
    left.set(xlabel="k, entries that are named", ylabel="value (nats a token)")
    left.xaxis.set_major_formatter("{x:.0f}")
    left.set_title("What the tail is worth")
    left.legend()
    right.loglog(
        2 ** np.arange(9), 100 * drawn / length, "o-", color=COLOURS["codistill"], label=f"{n} draws, unbiased"
    )
    right.loglog(
        [1, 256],
        100 * np.array([derived, derived / 16]) / length,
        color="0.6",
        linewidth=1,
        linestyle=":",
        label="derived",
    )
    right.loglog([1, 256], 100 * np.array([bias, bias]) / length, color="C0", label=f"the {n} likeliest, bucket")
    right.set(xlabel="M, times that a token is labelled", ylabel="error of their mean gradient (%)")
    right.set_xticks([1, 4, 16, 64, 256], labels=["1", "4", "16", "64", "256"])
    right.set_yticks([10, 20, 50, 100, 200], labels=["10", "20", "50", "100", "200"])
    right.minorticks_off()
    right.set_title("Chance fades, bias stays")
    right.legend()

# %% [markdown]
# ## What it is worth
#
# **Does the student notice?** We train it on each kind of label, $\alpha = 0.9$, from the same start on the same
# batches as the others. In minikd a label is a function with the signature of a divergence, so we only write three
# functions. For the draws we take a shortcut: counts of draws are a distribution once they are divided by $n$, so the
# softmax of their logarithms, and `forward_kl` does the rest.


# %%
def likeliest(k, tail):
    def labels(student_logits, teacher_logits, *, temperature=1.0, mask=None, reduction="mean"):
        named = top_k_teacher(teacher_logits, k, temperature=temperature)
        return sparse_kl(student_logits, *named, tail=tail, temperature=temperature, mask=mask, reduction=reduction)

    return labels


def draws(n):
    def labels(student_logits, teacher_logits, **options):
        p, _ = softmax(teacher_logits.astype(np.float64))
        rng = np.random.default_rng(p[0, ..., :8].view(np.uint32).ravel())  # whichever thread labels them
        with np.errstate(divide="ignore"):
            return forward_kl(student_logits, np.log(rng.multinomial(n, p)).astype(np.float32), **options)

    return labels


def learn(labels):
    new = machine().new_model(STUDENT.gpt2(V, TRAINING.context), (0, 0))
    learners = {"student": Learner.of(new, TRAINING)}
    step = soft(new, reader, weight=lambda progress: 0.9, divergence=labels)
    batches = Batches(text.train, TRAINING.batch_size, TRAINING.context, seed=0)
    for i in range(TRAINING.steps):
        train_step(learners, step, batches(i), Tick(i, TRAINING.steps), TRAINING, machine().workers)
    seen = text.validation[: TRAINING.eval_tokens]
    return look(new, seen, text.tokenizer.byte_lengths, TRAINING.context, machine()).val_loss


ids, log_target = sample_teacher(some, n, rng)
dense = np.full_like(z, -np.inf)
np.put_along_axis(dense, ids, log_target, axis=1)
_, vjp = sparse_kl(z, ids, log_target, tail="zero")
check("the shortcut has the gradient of sparse_kl", forward_kl(z, dense)[1](), vjp(), within=1e-12)

bucket, renormalised, drawn8 = learn(likeliest(8, "bucket")), learn(likeliest(8, "renormalize")), learn(draws(8))
# %%
spent = {
    "text alone": (0, scratch.val_loss, "scratch"),
    "best token, α = 0.1": (ours["the best token"], table[0.1]["loss"], "hard"),
    "written text": (bytes_written, sequence.val_loss, "sequence"),
    "8 draws": (ours["8 draws"], drawn8, "codistill"),
    "8 likeliest, bucket": (ours["the 8 likeliest"], bucket, "soft"),
    "8 likeliest, renormalised": (ours["the 8 likeliest"], renormalised, "soft"),
    "everything": (ours["every probability"], student.val_loss, "soft"),
}
for name, (cost, loss, _) in spent.items():
    print(f"{name:26} {cost:7.1f} B a token: loss {loss:.3f}")

gained = {name: scratch.val_loss - loss for name, (_, loss, _) in spent.items()}
check(
    "8 draws give three quarters of what everything gives", gained["8 draws"] / gained["everything"], 0.76, within=0.1
)
check("for a 64th of the bytes", ours["every probability"] / ours["8 draws"], 64)
check(
    "the draws do better than the 8 likeliest, at half their price", gained["8 draws"] > gained["8 likeliest, bucket"]
)
check("and renormalising does harm", gained["8 likeliest, renormalised"] < 0)

# %%
with figure("12-bytes") as fig:
    axes = fig.subplots()
    for name, (cost, loss, method) in spent.items():
        axes.semilogx(max(cost, 0.5), loss, "o", color=COLOURS[method], markersize=10)
        axes.annotate(name, (max(cost, 0.5), loss), (9, 9 if cost == 0 else 0), textcoords="offset points", va="center")
    axes.axhline(scratch.val_loss, color=COLOURS["scratch"], linewidth=1, linestyle=":")
    axes.set(xlabel="bytes a token for the teacher's labels", ylabel="validation loss (nats a token)", xlim=(0.4, 6000))
    axes.set_xticks([0.5, 2, 16, 32, 1024], labels=["0", "2", "16", "32", "1,024"])
    axes.minorticks_off()
    axes.set_title("Sixteen bytes do most of the work, if they are drawn fairly")

# %% [markdown]
# Eight draws a token are 64 times smaller than all probabilities and keep three quarters of their gain; a bucket keeps
# the student honest about the tail; renormalising teaches that there is none. What an interface hides cannot be had
# back, but what one stores of one's own teacher should be *fair* rather than *likely*. (One seed. Two others give the
# same order, and draws keep 81 and 75% there.)
#
# ## What you should be able to explain now
#
# - what a student becomes whose labels are a mixture of argmax and text, and why $\alpha = 1$ costs without end;
# - why a student can agree with its teacher more often and yet predict worse;
# - when a text that the teacher wrote is worth reading, and why it is not where the original lies beside it;
# - bucket, renormalise, zero: what each takes the tail for, and which of them is a divergence;
# - why 8 fair draws can be a better label than the 8 likeliest tokens, and what they cost in bytes.
#
# ## Exercises
#
# 1. Write `sparse_kl(student_logits, ids, logprobs, *, tail="bucket", temperature=1.0, mask=None, reduction="mean")` in
#    a file `mine.py`, and have it graded: `minikd grade mine.py --only sparse_kl`. Then `top_k_teacher`, in the same
#    way.
# 2. Divide the logits of the student of $\alpha = 1$ by a temperature, and find the one at which its loss is lowest.
#    How much of what it lost comes back? What does that say about where the damage is?
# 3. What becomes of the gradient if the draws are *different* tokens, their probabilities renormalised
#    (`variant="distinct"`, as in Gemma 3)? Repeat the experiment with $M$ labels, and find what is left as $M$ grows.
