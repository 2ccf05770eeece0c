# %% [markdown]
# # 7. Training a teacher
#
# A student needs somebody to learn from. This lesson makes the teacher of the course: a small GPT-2 that reads real
# text, Python's own documentation, for a few seconds. On the way: how text becomes tokens, what AdamW does with a
# gradient, how to read the curves of a training. At the end the teacher is examined, and not only by itself: a table of
# counts sits the same examination.
#
# You need: lessons 2 and 6.

# %%
import lzma
import math
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np

from minikd.classroom import TEACHER, TRAINING, data, machine, trained
from minikd.distill.scratch import scratch
from minikd.figures import COLOURS
from minikd.job import look
from minikd.lesson import check, figure
from minikd.losses import cross_entropy
from minikd.models import Parameters
from minikd.models.generate import Sampling, generate
from minikd.optim import AdamW, Moments, cosine_schedule
from minikd.run_folder import RunFolder
from minikd.text import Batches, open_corpus
from minikd.train import Learner, Tick, train_step

rng = np.random.default_rng(7)

# %% [markdown]
# ## From text to tokens
#
# A model reads numbers of a fixed vocabulary. Letters would make texts long, words would make the vocabulary endless.
# *Byte-level BPE* starts from the 256 bytes, in which every text can be written, and merges again and again the pair of
# neighbours that occurs most often into a new token (Sennrich, Haddow & Birch 2016; Radford et al. 2019). Merges stay
# within words; a word brings the space before it along. **Is that all?** Slowly, on the text that is read in training:


# %%
def learn_merges(text, n_merges, rank):
    """The first merges; `rank` says which of two equally frequent pairs is first."""
    pattern = r"'(?:s|t|re|ve|m|ll|d)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+"
    words = Counter(tuple(bytes([byte]) for byte in word.encode()) for word in re.findall(pattern, text))
    merges = []
    for _ in range(n_merges):
        pairs = Counter()
        for word, times in words.items():
            for pair in pairwise(word):
                pairs[pair] += times
        best = max(pairs, key=lambda pair: (pairs[pair], -rank[pair[0]], -rank[pair[1]]))
        merges.append(best[0] + best[1])
        words = Counter({merged(word, best): times for word, times in words.items()})
    return merges


def merged(word, pair):
    out = []
    for token in word:
        together = out and (out[-1], token) == pair
        out[-1:] = [out[-1] + token] if together else [*out[-1:], token]
    return tuple(out)


text, tokenizer = data(), data().tokenizer
reading = "".join(open_corpus().split(0.1)[0].pieces())
rank = {token: i for i, token in enumerate(tokenizer.token_bytes)}
merges = learn_merges(reading, 25, rank)
print(*(repr(merge.decode()) for merge in merges))
check("the same first merges as minikd's tokenizer", merges == tokenizer.token_bytes[257 : 257 + len(merges)])
strange = "naïve 🙂 \x00 <|endoftext|>"
check("every text comes back, also what was never seen", tokenizer.decode(tokenizer.encode(strange)) == strange)
bytes_a_token = text.train.n_bytes / len(text.train)
check("with 512 tokens: about 2 bytes a token", bytes_a_token, 2.1, within=0.3)

# %% [markdown]
# Since another tokenizer cuts the same text into other pieces, "nats a token" compares only models with one tokenizer.
# *Bits a byte* compare all: the loss of the whole text in bits, divided by its length in bytes.
#
# ## AdamW
#
# A gradient says which way is down, not how far to go. Adam (Kingma & Ba 2015) keeps for each parameter a running mean
# $m$ of its gradients and a running mean $v$ of their squares, and moves it by the learning rate $\eta$ times
# $m / \sqrt v$: by about $\eta$ where the gradients agree, by less where they contradict each other, *whatever their
# size*. Both means start at 0 and are too small at first; $m_t$ holds only a share $1 - \beta_1^t$ of its weight. So
#
# $$\hat m = \frac{m}{1 - \beta_1^t} \qquad \hat v = \frac{v}{1 - \beta_2^t} \qquad
# \theta \leftarrow \theta - \eta \lambda \theta - \eta \frac{\hat m}{\sqrt{\hat v} + \epsilon}$$
#
# The term $\eta\lambda\theta$, weight decay, pulls weights to 0; minikd does that to matrices only. That it stands
# *beside* the fraction, not inside the gradient, is the W (Loshchilov & Hutter 2019).


# %%
def slow_adamw(theta, gradients, rate, decay, beta1=0.9, beta2=0.99, eps=1e-8, corrected=True):
    m, v, path = np.zeros_like(theta), np.zeros_like(theta), [theta]
    for t, g in enumerate(gradients, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        c1, c2 = (1 - beta1**t, 1 - beta2**t) if corrected else (1, 1)
        path.append(path[-1] - rate * decay * path[-1] - rate * (m / c1) / (np.sqrt(v / c2) + eps))
    return np.array(path)


shapes = {"matrix": (3, 4), "gain": (5,)}
params = Parameters(shapes, rng.normal(size=17))
begin, moments, gradients = params.flat.copy(), Moments.zeros(params), rng.normal(size=(30, 17))
for gradient in gradients:
    AdamW().update(params, gradient, moments, learning_rate=0.01)
check("matrices", params.flat[:12], slow_adamw(begin[:12], gradients[:, :12], 0.01, 0.1)[-1], within=1e-14)
check(
    "a gain, which does not decay",
    params.flat[12:],
    slow_adamw(begin[12:], gradients[:, 12:], 0.01, 0.0)[-1],
    within=1e-14,
)

# %% [markdown]
# **Why the corrections, and why beside?** Two experiments. A gradient that is always 1 should move a parameter by
# $\eta$ each step. And two weights that start at 1, whose gradients say nothing, $+s, -s, +s, \ldots$, should decay at
# one pace, though $s$ is a hundred times as large for one of them.

# %%
ones, t = np.ones((1500, 1)), np.arange(1, 1501)
moves = {
    (beta2, corrected): -np.diff(slow_adamw(np.zeros(1), ones, 1.0, 0.0, beta2=beta2, corrected=corrected)[:, 0])
    for beta2 in (0.99, 0.999)
    for corrected in (True, False)
}
for beta2 in (0.99, 0.999):
    check(f"β2 = {beta2}: corrected, every step is the learning rate", moves[beta2, True], 1, within=1e-6)
    factor = (1 - 0.9**t) / np.sqrt(1 - beta2**t)
    check("    uncorrected, it is this many times that", moves[beta2, False], factor, within=1e-5)
check("at worst 6.6 times as large, with the usual β2 = 0.999", moves[0.999, False].max(), 6.6, within=0.2)

sizes, paths = np.array([0.1, 10.0]), {}
for way in ("beside", "inside"):
    params = Parameters({"weights": (1, 2)}, np.ones(2))
    moments, path = Moments.zeros(params), []
    optimizer = AdamW(weight_decay=0.1 if way == "beside" else 0.0)
    for step in range(2000):
        gradient = sizes * (-1) ** step + (0.1 * params.flat if way == "inside" else 0)
        optimizer.update(params, gradient, moments, learning_rate=0.01)
        path.append(params.flat.copy())
    paths[way] = np.array(path)
check("beside: both weights decay as (1 - ηλ)^t", paths["beside"][-1], (1 - 0.001) ** 2000, within=0.02)
check("inside: the one with the small gradients is gone", paths["inside"][-1, 0], within=0.01)
check("    the other one keeps four fifths", paths["inside"][-1, 1], 0.8, within=0.02)

# %%
with figure("07-adamw") as fig:
    left, right = fig.subplots(1, 2)
    left.loglog(t, moves[0.99, True], color="black", label="corrected")
    left.loglog(t, moves[0.99, False], color="C0", label="uncorrected, β2 = 0.99")
    left.loglog(t, moves[0.999, False], color="C1", label="uncorrected, β2 = 0.999")
    left.set(xlabel="step", ylabel="step length / learning rate", ylim=(0.7, 20), yticks=(1, 2, 5, 10))
    left.minorticks_off()
    left.xaxis.set_major_formatter("{x:g}")
    left.yaxis.set_major_formatter("{x:g}")
    left.set_title("Uncorrected: steps too long")
    left.legend(loc="upper right")
    right.plot(paths["beside"][:, 1], color="black", label="decay beside: both weights")
    right.plot(paths["inside"][:, 1], color="C0", linestyle="--", label="inside: gradients of size 10")
    right.plot(paths["inside"][:, 0], color="C1", linestyle="--", label="inside: gradients of size 0.1")
    right.set(
        xlabel="step",
        ylabel="weight",
        xlim=(0, 2000),
        ylim=(0, 1.38),
        xticks=(0, 500, 1000, 1500, 2000),
        yticks=(0, 0.5, 1),
    )
    right.set_title("Inside, decay is unfair")
    right.legend(loc="upper right")

# %% [markdown]
# Inside the gradient, the decay is divided by $\sqrt{\hat v}$ like everything else: weights whose gradients are small
# feel all of it, weights whose gradients are large little.
#
# ## The schedule
#
# The learning rate rises linearly over the first 40 steps (*warm-up*: at first $v$ is a mean of very few squares) and
# falls along half a cosine to a tenth (short steps average out the noise of the batches). Both are standard (Goyal et
# al. 2017; Loshchilov & Hutter 2017). **Do they pay in a training as short as ours?** Three small models, the course's
# *student* of one block and 32 channels in three trainings each, know it by their *validation loss*, that on text which
# is kept aside.

# %%
rates = np.array([cosine_schedule(step, peak=1, warmup_steps=40, steps=400, final=0.1) for step in range(400)])
check("first rate, peak, middle and end", rates[[0, 39, 220, 399]], [1 / 40, 1, 0.55, 0.1], within=1e-4)
check("all steps together go 55% as far as at a constant peak", rates.mean(), 0.55, within=0.01)

recipes = {
    "both": TRAINING,
    "no warm-up": replace(TRAINING, warmup_steps=1),
    "a constant rate": replace(TRAINING, final_learning_rate=1.0),
}
ends = {
    name: np.array([trained(training=recipe, seed=seed).val_loss for seed in range(3)])
    for name, recipe in recipes.items()
}
usual = ends["both"][0]
for name, end in ends.items():
    print(f"{name:16s} validation loss {end.round(3)}, gains {(ends['both'] - end).round(3)}")
gain = {name: ends["both"] - end for name, end in ends.items()}
check("without warm-up: no gain or loss that could be told from chance",
      gain["no warm-up"].mean(), within=2 * gain["no warm-up"].std(ddof=1) / np.sqrt(3))  # fmt: skip
check("a constant rate is better than the cosine, by a tenth of a nat or more, each time",
      gain["a constant rate"] > 0.1)  # fmt: skip

# %% [markdown]
# They do not. Three seeds of one recipe scatter by a few hundredths of a nat here, and so does what the warm-up gives
# or takes; the cosine *costs* more than a tenth of a nat with every seed. Nothing is wrong with either: after 400 steps
# these models are still walking downhill and would rather go further than more carefully; the noise that short steps
# average out is not yet what keeps them from going down. Recipes are made for a length of training. All our methods
# will get the same one, which is what a comparison needs.
#
# ## The teacher, and its curves
#
# Now the teacher itself: 2 blocks, 96 channels, 400 steps of 16 windows of 64 tokens. The *training* loss is taken on
# the batch about to be learned from, the *validation* loss on text that nobody ever learns from. **What do the two
# curves tell, and how would overfitting look?** To see that, a second teacher gets only the first 10,000 tokens to
# read, again and again. Its training is written out; there is no more to it than this.

# %%
teacher = trained(model=TEACHER)
training_curve = [(entry["step"], entry["student"]["loss"]) for entry in RunFolder(teacher.folder).records()]
steps, validation_curve = teacher.curve()


def loss_on(model, tokens):
    return look(model, tokens, tokenizer.byte_lengths, TRAINING.context, machine()).val_loss


few, validation = text.train[:10_000], text.validation[: TRAINING.eval_tokens]
config = replace(TRAINING, steps=240)
model = machine().new_model(TEACHER.gpt2(tokenizer.vocab_size, config.context), 0)
learners = {"student": Learner.of(model, config)}
batches, step = Batches(few, config.batch_size, config.context, seed=0), scratch(model)
overfit = []
for i in range(config.steps):
    seen = train_step(learners, step, batches(i), Tick(i, config.steps), config, machine().workers)
    if (i + 1) % 30 == 0:
        overfit.append((i + 1, float(seen["student"][0]), loss_on(model, validation[:8000])))
overfit = np.array(overfit)

at_the_end = loss_on(teacher.model, text.train[:20_000])
untrained = machine().new_model(TEACHER.gpt2(tokenizer.vocab_size, config.context), 0)
check("an untrained one starts from ln V = 6.24", loss_on(untrained, validation[:8000]), math.log(512), within=0.05)
check("and still gets better at the end", np.diff(validation_curve)[-3:] < 0)
check("what it was taught from it knows a little better", teacher.val_loss - at_the_end, 0.2, within=0.1)
check("with 10,000 tokens validation is best early", 30 < overfit[overfit[:, 2].argmin(), 0] < 210)
check("    and then gets worse", overfit[-1, 2] > overfit[:, 2].min() + 0.1)
turn = overfit[:, 2].argmin()
check("    while the loss in training goes on falling", overfit[-1, 1] < overfit[turn, 1] - 0.3)

# %%
with figure("07-curves") as fig:
    left, right = fig.subplots(1, 2, sharey=True)
    left.plot(*zip(*training_curve, strict=True), color="0.7", label="training")
    left.plot(steps, validation_curve, color="black", label="validation")
    right.plot(overfit[:, 0], overfit[:, 1], color="0.7", label="training")
    right.plot(overfit[:, 0], overfit[:, 2], color="black", label="validation")
    left.set(xlabel="step", ylabel="loss (nats a token)", xlim=(0, 400), ylim=(1.5, 6.4))
    right.set(xlabel="step", xlim=(0, 240))
    left.set_title(f"{len(text.train):,} tokens: it learns")
    right.set_title("10,000 tokens: by heart")
    left.legend()

# %% [markdown]
# On the left the curves go down together, and validation has not stopped: the teacher could do with more steps. On the
# right they part. From where the black one turns, the model gets better at *this* text and worse at every other. A
# training loss alone would have looked splendid.
#
# ## The examination
#
# **Is the teacher any good?** A loss alone means little; one has to know what little knowledge would get. So three
# tables of counts sit the same examination: how often each token occurs (unigram), which follows which (bigram), which
# follows which two (trigram). A pair that was never seen must not get probability 0, so each table falls back on the
# shorter one, with a weight $k$ (MacKay & Peto 1995):
#
# $$p(b \mid a) = \frac{n(a, b) + k \, p(b)}{n(a) + k}$$
#
# The tables may even choose their $k$ on the validation text, which the teacher may not.

# %%
read, asked = (np.asarray(part, dtype=np.int64) for part in (text.train[:], validation))
V, K = tokenizer.vocab_size, (1, 3, 10, 30, 100, 300)
unigram = (np.bincount(read, minlength=V) + 1) / (len(read) + V)
n = np.zeros((V, V))
np.add.at(n, (read[:-1], read[1:]), 1)
bigrams = {k: (n + k * unigram) / (n.sum(axis=1, keepdims=True) + k) for k in K}
bigram_losses = {k: -np.log(p[asked[:-1], asked[1:]]).mean() for k, p in bigrams.items()}
bigram = bigrams[min(K, key=bigram_losses.get)]

threes, twos = Counter(zip(read, read[1:], read[2:], strict=False)), Counter(pairwise(read))
triples = list(zip(asked, asked[1:], asked[2:], strict=False))


def trigram_loss(k):
    return -np.mean([math.log((threes[a, b, c] + k * bigram[b, c]) / (twos[a, b] + k)) for a, b, c in triples])


losses = {"unigram": -np.log(unigram[asked[1:]]).mean(), "bigram": min(bigram_losses.values())}
losses |= {"trigram": min(map(trigram_loss, K)), "student": usual, "teacher": teacher.val_loss}
n_bytes = tokenizer.byte_lengths[asked[1:]].sum()
bits = {name: loss * (len(asked) - 1) / math.log(2) / n_bytes for name, loss in losses.items()}

examined = b"".join(tokenizer.token_bytes[token] for token in asked)
known, longer = (len(lzma.compress(part)) for part in (reading.encode(), reading.encode() + examined))
bits["xz"] = 8 * (longer - known) / len(examined)
for name, value in bits.items():
    print(f"{name:8} {losses.get(name, math.nan):6.3f} nats a token {value:6.3f} bits a byte")

check(
    "bits a byte, as minikd reports them", bits["teacher"], teacher.result["evaluation"]["bits_per_byte"], within=1e-6
)
check("rows of the bigram sum to 1", bigram.sum(axis=1), 1, within=1e-9)
check("the teacher beats the unigram by far", losses["teacher"] < losses["unigram"] - 1.5)
check("and the bigram, even with the k that suits it best", losses["teacher"] < losses["bigram"] - 0.05)
check("the student does not", losses["student"] > losses["bigram"] + 0.1)
check("and the teacher does not beat the trigram", losses["trigram"] < losses["teacher"] - 0.2)
check("nor the packer xz, which has packed the training text just before", bits["xz"] < bits["teacher"] - 0.2)

# %% [markdown]
# The teacher beats the pairs, the student not even those, and the triples beat both: on this text two tokens of
# context, remembered exactly, are worth more than 64 read by a network that has had 400 steps. `xz`, which copies whole
# passages from what it has read, is better still. A look at the text tells why: documentation repeats its phrases,
# tables and examples to the letter, and an exact memory has to see a phrase only once. Gradient descent needs many
# meetings, and ours has read the text twice. With four times as many steps the teacher gets below the trigram (2.84
# nats with one seed; exercise 3). For the course this one will do: it knows a good deal more than the student that was
# trained on the same text for as long, and *that* is what there is to distil.
#
# ## Listening to it
#
# **What does it write, and at which temperature?** Each of 32 beginnings is continued by 48 tokens, and the teacher
# says (at $T = 1$) how surprising its own text is to it. If it knows its limits, what it samples at $T = 1$ is as
# surprising to it as real text: it expects no fewer surprises than there are.

# %%
starts = np.linspace(0, len(asked) - 64, 32).astype(int)
prompts, surprise = [asked[start : start + 8].tolist() for start in starts], {}
model = teacher.model


def surprise_at(rows):
    return float(cross_entropy(model.predict(rows[:, :-1])[:, 7:], rows[:, 8:])[0])


for temperature in (0.0, 0.4, 0.7, 1.0, 1.3, 1.6):
    written = generate(model, prompts, 48, sampling=Sampling(temperature), seed=1)
    rows = np.array([prompt + continuation for prompt, continuation in zip(prompts, written, strict=True)])
    surprise[temperature] = surprise_at(rows)
    print(f"--- T = {temperature}: {surprise[temperature]:.2f} nats a token\n{tokenizer.decode(rows[9])}")
real = surprise_at(np.array([asked[start : start + 56] for start in starts]))

check("the hotter, the more surprising", np.diff(list(surprise.values())) > 0)
check("at T = 1 about as surprising as the real text", surprise[1.0], real, within=0.4)
check("at T = 0 far less: it repeats itself", surprise[0.0] < real - 1)

# %%
with figure("07-examination", height=4.4) as fig:
    left, right = fig.subplots(1, 2)
    names = sorted(bits, key=bits.get, reverse=True)
    colours = [{"teacher": "black", "student": COLOURS["scratch"]}.get(name, "0.8") for name in names]
    left.bar_label(left.barh(names, [bits[name] for name in names], color=colours), fmt=" %.2f")
    left.set(xlabel="validation text, bits a byte", xlim=(0, 4))
    left.tick_params(axis="y", length=0)
    left.set_title("It beats pairs, not triples")
    right.plot(surprise.keys(), surprise.values(), "o-", color="black", label="its own text")
    right.axhline(real, color="C1", label="the real text")
    right.set(xlabel="temperature of the sampling", ylabel="nats a token, to the teacher", ylim=(0, None))
    right.set_title("Surprising as real text: T = 1")
    right.legend()

# %% [markdown]
# Cold, it says what it is sure of, again and again; hot, it babbles; at $T = 1$ its text is as surprising as what it
# was taught on, though no reader is fooled. A teacher that is honest about how much it does not know is what the next
# lessons need: they hand on whole distributions.
#
# ## What you should be able to explain now
#
# - how byte-level BPE makes its vocabulary, and why losses are compared in bits a byte;
# - what AdamW divides by what, why both means are corrected, and why the decay stands beside the fraction;
# - what training and validation loss each say, and where one would stop the run on the right;
# - why a table of counts is the first opponent of every language model, and why one of them won here.
#
# ## Exercises
#
# 1. Write `adamw_step` in a file `mine.py` and have it graded: `minikd grade mine.py --only adamw_step`. Then
#    `cosine_schedule` and `sample_token`; `minikd course make DIR` writes the signatures.
# 2. With `AdamW(beta1=0.0, beta2=0.0)`, what is each step? Write it in one line of NumPy, and `check` it.
# 3. Train the teacher with `replace(TRAINING, steps=1600)`. Where does its curve pass the trigram's line? Then make the
#    table of fours, and see which of the two gains more.
