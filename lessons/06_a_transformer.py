# %% [markdown]
# # 6. A transformer
#
# Linear, GELU, layer norm and attention are on the table, each with its backward. GPT-2 (Radford et al. 2019) is what
# one gets by putting them together, and there is surprisingly little to add: a stream that every part reads and adds
# to, a good size for the first weights, and one table that serves twice. This lesson assembles it, holds it against
# minikd's, looks at it *before* it has learned anything, and then sees whether it can learn at all.
#
# You need: lessons 2 to 5.

# %%
import math
from collections import Counter
from unittest.mock import patch

import numpy as np

from minikd.lesson import check, figure
from minikd.losses import cross_entropy
from minikd.models import GPT2, GPT2Config, Parameters, init_gpt2
from minikd.models.gpt2 import causal_bias, mlp
from minikd.nn import gelu, layer_norm, self_attention
from minikd.optim import AdamW, Moments
from minikd.oracle import check_vjp

rng = np.random.default_rng(6)

# %% [markdown]
# ## One stream, many additions
#
# **How do the parts become a language model?** Each token becomes a vector $x$ of $C$ numbers: its row of a table, plus
# a row for its position. From there on nothing ever replaces $x$; blocks only *add* to it, which is why $x$ is called
# the residual stream (the connection: He et al. 2016; the name: Elhage et al. 2021). Attention adds what other tokens
# have to say, the feed-forward half (two linear maps with a GELU between) what follows from it. Each reads the stream
# through a layer norm of its own ("pre-norm"):
#
# $$x_0 = \text{token} + \text{position} \qquad x \leftarrow x + \text{attention}(\text{norm}(x)) \qquad
# x \leftarrow x + \text{mlp}(\text{norm}(x)) \qquad z = \text{norm}(x) \, E^\top$$
#
# The last norm's output is compared, by a scalar product, with each row of the token table $E$: the *same* table that
# the tokens came from ("tied"; Press & Wolf 2017). Here it is slowly; it keeps the stream after every addition, and the
# head may be given apart from the table. Both will be of use.


# %%
def assembled(params, config, tokens, head=None):
    def norm(name):
        gain, bias = params[f"transformer.{name}.weight"], params[f"transformer.{name}.bias"]
        return layer_norm(stream[-1], gain, bias)[0]

    T, table = tokens.shape[1], params["transformer.wte.weight"]
    sees = causal_bias(T, np, table.dtype)
    stream = [table[tokens] + params["transformer.wpe.weight"][:T]]
    for h in (f"h.{i}" for i in range(config.n_layer)):
        attention, feed_forward = (params.under(f"transformer.{h}.{half}.") for half in ("attn", "mlp"))
        stream.append(stream[-1] + self_attention(norm(f"{h}.ln_1"), attention, sees, config.n_head)[0])
        stream.append(stream[-1] + mlp(norm(f"{h}.ln_2"), feed_forward)[0])
    head = table if head is None else head
    return norm("ln_f") @ head.T, np.stack(stream)


def random_params(config):
    """Nothing is 0 or 1, as gains and biases are at the start, so that nothing can be forgotten unnoticed."""
    params = Parameters.zeros(config.shapes, dtype=np.float64)
    params.flat[...] = 0.5 * rng.normal(size=params.flat.size)
    return params


V, C, L, B, T = 50, 32, 3, 4, 16
config = GPT2Config(vocab_size=V, n_positions=T, n_embd=C, n_layer=L, n_head=4)
params = random_params(config)
tokens = rng.integers(V, size=(B, T))
logits, stream = assembled(params, config, tokens)
check("assembled from its blocks, it is minikd's GPT-2", GPT2(config, params)(tokens)[0], logits, within=1e-10)
check("a logit for every token of the vocabulary, at every position", logits.shape == (B, T, V))
check(
    "parameters: V C + T C + L (12 C² + 13 C) + 2 C", params.flat.size, V * C + T * C + L * (12 * C**2 + 13 * C) + 2 * C
)

# %% [markdown]
# The $12 C^2$ are the block's matrices: $3 C^2$ for queries, keys and values, $C^2$ for attention's way back into the
# stream, $4 C^2$ and $4 C^2$ for the feed-forward half. For GPT-2 as it was published, by this formula:

# %%
published = GPT2Config(vocab_size=50257, n_positions=1024, n_embd=768, n_layer=12, n_head=12)
sizes = {name: math.prod(shape) for name, shape in published.shapes.items()}
check("the smallest GPT-2 has 124 million parameters", sum(sizes.values()), 124_439_808)
check("31% of them are the token table", sizes["transformer.wte.weight"] / sum(sizes.values()), 0.31, within=0.002)

# %% [markdown]
# ## Before it has learned anything
#
# Matrices and tables start as normal random numbers of standard deviation $\sigma = 0.02$. **What does such a model
# say?** The last norm makes $C$ numbers of variance 1, so a scalar product with a random row of the table has variance
# $C \sigma^2$: small logits, nearly equal probabilities. For normal logits the mean of $\log \sum_j e^{z_j}$ is about
# $\ln V + C\sigma^2/2$, and a label's own logit is 0 on average. So the loss starts at
#
# $$L_0 \approx \ln V + \frac{C \sigma^2}{2}$$
#
# One token, though, is not like the others: the one just read. Its row went into the stream, and comes back out of the
# tied head: if the stream ends with variance $v$, its logit is about $C \sigma^2 / \sqrt{v}$.

# %%
sigma, V, C = 0.02, 512, 64


def at_the_start(n_layer, seed, scaled=True):
    config = GPT2Config(vocab_size=V, n_positions=64, n_embd=C, n_layer=n_layer, n_head=2)
    params = init_gpt2(config, np.random.default_rng(seed), dtype=np.float64)
    if not scaled:
        for name, value in params.items():
            value *= math.sqrt(2 * n_layer) if name.endswith("c_proj.weight") else 1
    return *assembled(params, config, tokens), params


tokens, labels = rng.integers(V, size=(2, 16, 64))
logits, stream, params = at_the_start(n_layer=2, seed=0)
own = np.take_along_axis(logits, tokens[..., None], axis=-1)
any_label = np.log(np.exp(logits).sum(axis=-1)) - logits.mean(axis=-1)  # the mean loss over all V labels
check("loss at the start - ln V", any_label.mean() - math.log(V), C * sigma**2 / 2, within=0.001)
check("mean logit of the token just read", own.mean(), C * sigma**2 / math.sqrt(stream[-1].var()), within=0.04)
check("the model's favourite is the token just read, 8 times in 10", (logits.argmax(axis=-1) == tokens).mean() > 0.8)
off = cross_entropy(logits, tokens)[0] - math.log(V)
check("so who forgets to shift the labels starts far below ln V", off, C * sigma**2 / 2 - own.mean(), within=0.006)

# %% [markdown]
# So small an untrained model with tied embeddings is no blind guesser: it says "the same again". (At GPT-2's width the
# blocks' share of the stream is far larger, and this token no longer wins, though its logit still stands out.) That
# costs a wrong answer very little, and tells the programmer a lot. The first loss of a run is worth a look: near
# $\ln V$ all is well. Far above, the first weights are too large. Clearly below, when nothing has been learned yet, the
# answer stands in the question.
#
# ## How large the branches start
#
# $2L$ branches add to the stream, each with a matrix `c_proj` at its end. A branch sees the stream through a layer
# norm, always at variance 1, so it always adds about the same variance $c$, and $2L$ of them $2Lc$. GPT-2 therefore
# makes each `c_proj` smaller by $1/\sqrt{2L}$. **What does that do to the stream?** It ends at $v_0 + 2L \cdot c/(2L)$,
# at every depth the same.
#
# The two $c$ can be derived. With $s^2 = C \sigma^2$, the variance of what a matrix makes of a normed row, the
# feed-forward half adds $4C \sigma^2 \, E[\text{gelu}(s\,n)^2]$, $n$ being normal. Attention, which at the start takes
# the plain mean of the $t$ values it sees, adds $s^2 \cdot s^2 / t$: the mean of *unlike* things is small.

# %%
s2, normal = C * sigma**2, np.random.default_rng(0).normal(size=200_000)
c_mlp = 4 * C * sigma**2 * (gelu(math.sqrt(s2) * normal)[0] ** 2).mean()
c_attention = s2 * s2 * (1 / np.arange(1, 65)).mean()

depths, v, first, last = (1, 2, 4, 8, 16, 32), {}, [], []
for n_layer in depths:
    for scaled in (True, False):
        _, stream, _ = at_the_start(n_layer, seed=n_layer, scaled=scaled)
        v[n_layer, scaled] = stream.var(axis=(1, 2, 3))
    branches = np.diff(stream, axis=0).var(axis=(1, 2, 3))
    first.append(branches[:2])
    last.append(branches[-2:])

v0 = 2 * sigma**2
ends = {scaled: np.array([v[n_layer, scaled][-1] for n_layer in depths]) for scaled in (True, False)}
at_full_size = v0 + np.array(depths) * (c_attention + c_mlp)
check("the first attention branch adds what was derived", np.mean(first, axis=0)[0] / c_attention, 1, within=0.1)
check("the first feed-forward branch, too", np.mean(first, axis=0)[1] / c_mlp, 1, within=0.1)
check("and the last one, whatever the depth", np.mean(last, axis=0)[1] / c_mlp, 1, within=0.2)
scaled_end = v0 + (c_attention + c_mlp) / 2
check("scaled: the end is v0 + (sum of both c) / 2 at all depths", ends[True] / scaled_end, 1, within=0.08)
s2 = 768 * sigma**2  # GPT-2's width
wide = 4 * s2 * (gelu(math.sqrt(s2) * normal)[0] ** 2).mean() + s2 * s2 * (1 / np.arange(1, 65)).mean()
check("of that, two thirds are the token and its position", v0 / scaled_end, 0.685, within=0.02)
check("with 768 channels it would be about a hundredth", v0 / (v0 + wide / 2), 0.0115, within=0.001)
check("full size: it grows with the depth, as derived up to L = 4", (ends[False] / at_full_size)[:3], 1, within=0.1)
check("but faster still at L = 32", ends[False][-1] / at_full_size[-1] > 1.1)
check("where attention's last branch is several times its first", last[-1][0] / first[-1][0] > 4)

# %%
with figure("06-stream") as fig:
    left, right = fig.subplots(1, 2)
    for n_layer, colour in zip((4, 16, 32), ("C0", "C1", "C2"), strict=True):
        left.plot(v[n_layer, False] / v0, color=colour, linestyle="--")
        left.plot(v[n_layer, True] / v0, color=colour, label=f"L = {n_layer}")
    left.set(yscale="log", xlabel="branches added", ylabel="variance of the stream / at its start", xlim=(0, 64))
    left.set_title("Every branch adds its share")
    left.legend(title="dashed: not scaled", loc="center right", bbox_to_anchor=(1, 0.42))
    right.loglog(depths, at_full_size / v0, color="0.7", label="derived")
    right.axhline(scaled_end / v0, color="0.7")
    right.loglog(depths, ends[False] / v0, "o", color="C1", label="all matrices of one size")
    right.loglog(depths, ends[True] / v0, "o", color="C0", label="c_proj smaller by √(2L)")
    right.set(xlabel="blocks L", xticks=depths)
    for axes in (left, right):
        axes.set(ylim=(0.8, 60), yticks=(1, 2, 5, 10, 20, 40))
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:g}")
    right.xaxis.set_major_formatter("{x:g}")
    right.set_title("Scaled, depth does not matter")
    right.legend()

# %% [markdown]
# Scaled, the stream ends alike at every depth: at this width two thirds of it are still the token and its position (at
# GPT-2's 768 channels, where $s^2 = 0.31$, only about a hundredth). At full size 32 blocks bury these under nearly
# forty times their variance. (Attention adds more there than was derived: it has added so much to all tokens alike that
# they are no longer unlike, and a mean of like things is not small.) Nothing explodes even so, since a layer norm
# stands before every branch; what the scale buys is a start where no block is drowned out.
#
# ## One table, two gradients
#
# Whoever turns a token table's gradient into code meets $E$ twice: at the bottom, where rows are looked up, and at the
# top, where every row is compared with the hidden state. **Which of the two does the learning?** Both uses are uses of
# one variable, so its gradient is the *sum* of two parts. `model.trunk` stops before the head, so its pullback takes
# the two apart, and a numerical derivative that moves only one of the uses judges each. The text, from now on, is a
# small one: letters are the tokens.

# %%
alice = (
    "alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do: once or "
    "twice she had peeped into the book her sister was reading, but it had no pictures or conversations in it, 'and "
    "what is the use of a book,' thought alice 'without pictures or conversation?'"
)
alphabet = " ',:?abcdefghijklmnopqrstuvwxyz"
V, B, T = len(alphabet), 32, 8
text = np.array([alphabet.index(letter) for letter in alice[: B * T + 1]])
inputs, targets = text[:-1].reshape(B, T), text[1:].reshape(B, T)
config = GPT2Config(vocab_size=V, n_positions=T, n_embd=32, n_layer=2, n_head=2)
start = init_gpt2(config, rng, dtype=np.float64)

(hidden, head), vjp_trunk = GPT2(config, start).trunk(inputs)
loss, vjp_loss = cross_entropy(hidden @ head.T, targets)
dlogits = vjp_loss()
dhidden, dhead = dlogits @ head, dlogits.reshape(-1, V).T @ hidden.reshape(B * T, -1)
both = vjp_trunk(dhidden, dhead)
as_input = vjp_trunk(dhidden, np.zeros_like(dhead))["transformer.wte.weight"]
as_output = vjp_trunk(np.zeros_like(dhidden), dhead)["transformer.wte.weight"]


def slope(move_table, move_head, h=1e-6):
    def loss_at(way):
        moved = start.with_flat(start.flat.copy())
        moved["transformer.wte.weight"][...] += way * move_table
        return cross_entropy(assembled(moved, config, inputs, head=head + way * move_head)[0], targets)[0]

    return (loss_at(h) - loss_at(-h)) / (2 * h)


check("the two parts add up", as_input + as_output, both["transformer.wte.weight"], within=1e-15)
for move in rng.normal(size=(3, *head.shape)):
    check("a random move of the inputs alone: its slope", slope(move, 0 * move), (as_input * move).sum(), within=1e-8)
    check("    of the outputs alone", slope(0 * move, move), (as_output * move).sum(), within=1e-8)
read, norms = np.bincount(inputs.ravel(), minlength=V), {"in": as_input, "out": as_output}
norms = {use: np.linalg.norm(part, axis=1) for use, part in norms.items()}
check("letters that were not read: no gradient as an input", norms["in"][read == 0], within=0)
check("    but every letter has one as an output", norms["out"] > 1e-4)
check("    and over all letters these sum to 0, as p - y does", as_output.sum(axis=0), within=1e-15)

# %%
with figure("06-two-gradients") as fig:
    axes = fig.subplots()
    order, place = np.argsort(-read, kind="stable"), np.arange(V)
    axes.bar(place - 0.2, norms["in"][order], 0.4, label="as an input: where the letter was read")
    axes.bar(place + 0.2, norms["out"][order], 0.4, label="as an output: at every position")
    axes.set(xticks=place, xlabel="letter, and how often it is read", ylabel="length of its row's gradient")
    axes.set_xticklabels([f"{alphabet[i].replace(' ', '␣')}\n{read[i]}" for i in order])
    axes.set_xlim(-0.7, V - 0.3)
    axes.set_title("Two uses of one table, two gradients")
    axes.legend()

# %% [markdown]
# Both do: a row is taught as an input only when its letter is read, and as an output always, if only to be told that it
# should not have been expected. (Tables are tied for thrift: in a small model the head would be the largest array of
# all.)
#
# ## Is the whole gradient right?
#
# The parts have been judged one by one. Strung together there is still room for mistakes: a norm's gradient that goes
# past its residual, a position's that is not summed over the batch. **Is the gradient right for every single
# parameter?** Of a model small enough, the judge of lesson 3 looks at each; of a larger one, at random directions.


# %%
def forgetful(params, tokens, config, *, of_input=1.0, of_output=1.0):
    """`GPT2(config, params)(tokens)`, but the table may be forgotten in one of its uses."""
    (hidden, head), vjp_trunk = GPT2(config, params).trunk(tokens)

    def vjp(dlogits):
        dhead = np.tensordot(dlogits, hidden, axes=([0, 1], [0, 1]))
        grads = vjp_trunk(dlogits @ head, of_output * dhead)
        if not of_input:
            grads["transformer.wte.weight"][...] = dhead
        return grads

    return hidden @ head.T, vjp


def judged(config, length, **forgotten):
    tokens = rng.integers(config.vocab_size, size=(2, length))

    def model(params):
        return forgetful(params, tokens, config, **forgotten) if forgotten else GPT2(config, params)(tokens)

    report = check_vjp(model, [random_params(config)])
    worst = max(argument.relative_error for argument in report.arguments)
    print(f"largest relative error of an array's gradient, over {report.arguments[0].compared}: {worst:.1e}")
    return report.passed


tiny = GPT2Config(vocab_size=6, n_positions=4, n_embd=4, n_layer=1, n_head=2)
larger = GPT2Config(vocab_size=11, n_positions=6, n_embd=12, n_layer=2, n_head=3)
check("right in each of the 292 parameters of a tiny model", judged(tiny, 4))
check("and of a larger one along random directions", judged(larger, 6))
check("the judge sees a forgotten output", not judged(tiny, 4, of_output=0.0))
check("the judge sees a forgotten input", not judged(tiny, 4, of_input=0.0))

# %% [markdown]
# ## Overfit one batch
#
# The oldest test of a training loop: give it one small batch again and again. A model with more parameters than there
# are letters must learn it by heart. **How far must the loss go down?** Not to 0! Our batch is 32 rows of 8 letters;
# where two rows begin alike and go on differently, nothing that does not see the future can know which is meant. What
# follows a beginning has an entropy, which can be counted: no honest model gets below it, and a good one gets there.

# %%
beginnings, continuations = Counter(), Counter()
for row, answer in zip(inputs.tolist(), targets.tolist(), strict=True):
    for t in range(T):
        beginnings[tuple(row[: t + 1])] += 1
        continuations[tuple(row[: t + 1]), answer[t]] += 1
floor = -sum(n * math.log(n / beginnings[begin]) for (begin, _), n in continuations.items()) / (B * T)


def learn(**forgotten):
    """Losses of AdamW on the one batch (of AdamW, lesson 7 says more)."""
    params, losses = start.with_flat(start.flat.copy()), []
    moments = Moments.zeros(params)
    for _ in range(250):
        logits, vjp_model = forgetful(params, inputs, config, **forgotten)
        loss, vjp_loss = cross_entropy(logits, targets)
        AdamW(weight_decay=0.0).update(params, vjp_model(vjp_loss()).flat, moments, learning_rate=1e-2)
        losses.append(loss)
    return np.array(losses)


curves = {"right": learn()}
curves |= {f"the {use}'s gradient forgotten": learn(**{f"of_{use}": 0.0}) for use in ("output", "input")}
with patch("minikd.models.gpt2.causal_bias", lambda t, xp, dtype: None):
    curves["right, but without the causal mask"] = learn()
last = {name: curve[-1] for name, curve in curves.items()}
check("the loss starts near ln V", curves["right"][0], math.log(V), within=0.05)
check("it goes down to the floor", last["right"], floor, within=0.01)
check("    never below it", curves["right"] > floor)
check("a model that sees the future gets below", last["right, but without the causal mask"] < floor / 10)
for forgotten in ("output", "input"):
    check(
        f"without the {forgotten}'s gradient it learns, too", last[f"the {forgotten}'s gradient forgotten"] < 2 * floor
    )
check("without the input's, as well as the right one", last["the input's gradient forgotten"], floor, within=0.02)

# %%
with figure("06-overfit") as fig:
    axes = fig.subplots()
    for (name, curve), style in zip(curves.items(), ("-", "--", ":", "-"), strict=True):
        axes.semilogy(curve, style, label=name)
    axes.axhline(floor, color="0.7", linewidth=1, zorder=0)
    axes.text(248, floor * 0.87, "what can be known without seeing the future", va="top", ha="right", color="0.4")
    axes.axhline(math.log(V), color="0.7", linewidth=1, zorder=0)
    axes.text(246, math.log(V) * 0.9, "ln V", va="top", ha="right", color="0.4")
    axes.set(xlabel="step", ylabel="loss on the one batch (nats a letter)", xlim=(0, 250), ylim=(5e-4, 5))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_title("A wrong gradient learns as well; a wrong mask learns too much")
    axes.legend(loc="lower left")

# %% [markdown]
# Read this picture twice. A loss that reaches the floor says that the parts are connected and the labels where they
# belong; a loss *below* the floor says that something leaks. But two curves belong to gradients that are wrong, and one
# of them is as good as the right one: a falling loss proves no gradient. Only the judge could tell them apart, and it
# is on real text, where nobody knows the floor, that the missing part may be felt.
#
# ## What you should be able to explain now
#
# - how a token becomes logits, what the residual stream is, and who reads from it and adds to it;
# - why the loss starts near $\ln V$, and what it means if it starts far above or far below;
# - why the matrices that end a branch start smaller, and what the stream would otherwise do;
# - why tied embeddings get two gradients, and which rows each of them reaches;
# - what overfitting one batch shows, and what it cannot show.
#
# ## Exercises
#
# 1. Write `block(x, ...)`, one block with its pullback, in a file `mine.py`, and have it graded:
#    `minikd grade mine.py --only block`. (Twice `--hint` tells more; `minikd course make DIR` writes the signature.)
# 2. Where do the 124 million parameters of GPT-2 go? Make a table by kind, and find the width $C$ from which on the
#    blocks have more than the tables (12 blocks, $V = 50257$).
# 3. Predict the first loss of a model whose weights all start at $\sigma = 1$, the default of many a library. Then
#    change `initializer_range` and look. Why is the formula of this lesson no longer of use?
