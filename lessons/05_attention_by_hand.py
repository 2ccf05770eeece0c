# %% [markdown]
# # 5. Attention by hand
#
# All that lesson 4 built treats every token by itself. *Attention* is the one place in a transformer where tokens hear
# of each other, and so the one place where a token might hear of its own future, and have nothing left to predict. This
# lesson builds it up: the look-up, the mask, the scale, the heads, the backward, and padding. And it tests the mask the
# only sure way: change the future, and see whether the past notices.
#
# You need: lessons 1 and 4 (the softmax and its pullback, `linear`).

# %%
import math

import numpy as np

from minikd.lesson import check, figure
from minikd.models import GPT2, GPT2Config, init_gpt2
from minikd.models.generate import Sampling, generate
from minikd.models.gpt2 import causal_bias
from minikd.nn import attend, self_attention
from minikd.oracle import check_vjp
from minikd.softmax import softmax

rng = np.random.default_rng(5)

# %% [markdown]
# ## A soft look-up
#
# A dictionary finds the key that equals the query, and hands out its value. Attention (Vaswani et al., 2017) does this
# softly: query $q_t$ is compared with every key $k_s$ by their dot product, a softmax makes weights of the comparisons,
# and token $t$ gets the weighted mean of the values:
#
# $$y_t = \sum_s w_{ts} v_s \qquad w_t = \mathrm{softmax}\left(\frac{q_t \cdot k_s}{\sqrt D} + m_{ts}\right)$$
#
# where the mask $m_{ts}$ is 0 if $t$ may see $s$, which in a language model means $s \le t$, and $-\infty$ if not.
# **Is that what minikd computes**, for B sequences, H heads and T tokens at once? Four loops will tell.


# %%
def slow_attention(q, k, v):
    B, H, T, D = q.shape
    y = np.zeros_like(v)
    for b, h, t in np.ndindex(B, H, T):
        powers = [math.exp(q[b, h, t] @ k[b, h, s] / math.sqrt(D)) for s in range(t + 1)]
        for s in range(t + 1):
            y[b, h, t] += powers[s] / sum(powers) * v[b, h, s]
    return y


B, H, T, D = 2, 3, 6, 4
q, k, v, dy = rng.normal(size=(4, B, H, T, D))
mask = causal_bias(T, np, q.dtype)
y, vjp = attend(q, k, v, mask)
check("four loops give minikd's y", slow_attention(q, k, v), y, within=1e-14)
check("the first token sees only itself", y[:, :, 0], v[:, :, 0], within=0)
check("a mean is never outside of what it is the mean of", abs(y) <= abs(v).max(axis=2, keepdims=True))

# %% [markdown]
# ## Perturbing the future
#
# In training, all T tokens of a text are predicted at once; the mask alone keeps each from reading the answer. **How
# would one notice that it leaks?** Not by the loss, which is then better than it should be. Instead: change token $s$,
# and record by how much the output at each $t$ changes. Above the diagonal, where $s > t$, there must be nothing: not
# little, but exactly 0.
#
# Here is the right attention, and four that a tired programmer might write.


# %%
def split(qkv, n_head):
    """(T, 3 C), queries, keys and values side by side, head by head -> (3, H, T, D)."""
    return qkv.reshape(len(qkv), 3, n_head, -1).transpose(1, 2, 0, 3)


def attention(x, W, mask, keep=1.0, axis=-1, split=split):
    q, k, v = split(x @ W, 2)
    powers = np.exp(q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1]) + mask)
    weights = keep * powers / powers.sum(axis=axis, keepdims=True)
    return (weights @ v).transpose(1, 0, 2).reshape(x.shape)


def influence(**version):
    """(T, T): by how much the output at t changes if the input at s does."""
    y, changes = attention(x, W, **version), []
    for s in range(T):
        other = x.copy()
        other[s] = rng.normal(size=C)
        changes.append(np.linalg.norm(attention(other, W, **version) - y, axis=1))
    return np.array(changes).T


def split_without_transpose(qkv, n_head):
    return qkv.reshape(len(qkv), 3, -1).transpose(1, 0, 2).reshape(3, n_head, len(qkv), -1)


T, C = 8, 8
x, W = rng.normal(size=(T, C)), rng.normal(size=(C, 3 * C)) / math.sqrt(C)
mask = causal_bias(T, np, x.dtype)
params = {"c_attn.weight": W, "c_attn.bias": np.zeros(3 * C), "c_proj.weight": np.eye(C), "c_proj.bias": np.zeros(C)}
versions = {
    "right": {"mask": mask},
    "one too far": {"mask": np.where(np.tri(T, k=1, dtype=bool), 0, -np.inf)},
    "masked late": {"mask": 0, "keep": np.tri(T)},
    "wrong axis": {"mask": mask, "axis": -2},
    "no transpose": {"mask": mask, "split": split_without_transpose},
}
tables = {name: influence(**version) for name, version in versions.items()}
future = np.triu_indices(T, 1)
check("the right one is minikd's", attention(x, W, mask), self_attention(x[None], params, mask, 2)[0][0], within=1e-13)
check("right: the past does not notice, to the last bit", tables["right"][future], within=0)
check("    and the present does", np.diag(tables["right"]) > 0.01)
for name in list(versions)[1:]:
    check(f"{name}: the past notices", (tables[name][future] > 0.01).any())

# %%
with figure("05-future", height=2.6) as fig:
    fig.suptitle("Change a token: orange outputs notice, and should not", x=0.01, ha="left", size=15, weight="bold")
    for axes, (name, table) in zip(fig.subplots(1, 5), tables.items(), strict=True):
        leaks = np.triu(table, 1)
        for part, colours in ((table, "Blues"), (leaks, "Oranges")):
            axes.imshow(np.log10(np.where(part > 0, part, np.nan)), cmap=colours, vmin=-3, vmax=0.5)
        axes.set(xticks=[], yticks=[], xlabel="token changed")
        axes.set_title(name, size=11.5, weight="normal", pad=6)
    fig.axes[0].set_ylabel("output at token")

# %% [markdown]
# Blue is what should be there, orange is the future at work. A mask after the softmax zeroes the weights of the future,
# but has let it into the denominators. A softmax over the queries does the same in the other direction. And whoever
# cuts heads by a reshape alone mixes tokens with channels: the shapes are right, the program runs, and the first token
# already hears of the fifth.
#
# ## The backward
#
# **How does the gradient find its way back?** Forwards: scores, softmax, mean of values. Upwards, with lesson 4's
# rules:
#
# - from $y = wv$: $dv = w^\top dy$ and $dw = dy\,v^\top$;
# - from the softmax, row by row: $ds = w \odot (dw - \sum w \odot dw)$;
# - from $s = q k^\top / \sqrt D$: $dq = ds\,k/\sqrt D$ and $dk = ds^\top q/\sqrt D$.


# %%
def attend_by_hand(q, k, v):
    scale = 1 / math.sqrt(q.shape[-1])
    weights, _ = softmax(q @ k.swapaxes(-1, -2) * scale + causal_bias(q.shape[-2], np, q.dtype))
    y = weights @ v

    def vjp(dy):
        dv = weights.swapaxes(-1, -2) @ dy
        dweights = dy @ v.swapaxes(-1, -2)
        dscores = weights * (dweights - (weights * dweights).sum(axis=-1, keepdims=True))
        dq = dscores @ k * scale
        dk = dscores.swapaxes(-1, -2) @ q * scale
        return dq, dk, dv

    return y, vjp


y_hand, vjp_hand = attend_by_hand(q, k, v)
check("by hand, the same y", y_hand, y, within=1e-14)
for name, mine, fast in zip(("dq", "dk", "dv"), vjp_hand(dy), vjp(dy), strict=True):
    check(f"    and the same {name}", mine, fast, within=1e-13)
check("the judge passes it", check_vjp(attend_by_hand, (q, k, v)).passed)

dq, dk, dv = vjp_hand(dy)
check("the first query has no choice, so no gradient", dq[:, :, 0], within=0)
check("the last value is seen by the last token alone", abs(dv[:, :, -1]) <= abs(dy[:, :, -1]))
check("the keys' gradients cancel: the same vector added to all keys changes nothing", dk.sum(axis=2), within=1e-13)

# %% [markdown]
# The last line has a consequence that few expect. The bias of the keys in a transformer *is* such a vector, added to
# all keys: it adds the same number to all scores of a query, and lesson 1 says what a softmax makes of that. It has no
# effect, and no gradient.
#
# **Does the gradient keep the mask, too?** Ask for the gradient of the output at one token $t$ alone: no input after
# $t$ may get any. This is the forward's test read backwards, and where both hold, a forward and a backward cannot have
# masks that differ.

# %%
params["c_attn.bias"] = rng.normal(size=3 * C)
_, vjp = self_attention(x[None], params, mask, 2)
reach = np.zeros((T, T))
for t in range(T):
    only_t = np.zeros((1, T, C))
    only_t[0, t] = rng.normal(size=C)
    reach[t] = np.linalg.norm(vjp(only_t)[0][0], axis=1)
check("no gradient reaches the future, to the last bit", reach[future], within=0)
check("    and it does reach all of the past", reach[np.tril_indices(T)] > 1e-4)

dbias = vjp(rng.normal(size=(1, T, C)))[1]["c_attn.bias"].reshape(3, C)
check("the bias of the keys has no gradient", dbias[1], within=1e-13)
check("    those of the queries and the values have", abs(dbias[[0, 2]]).max(axis=1) > 0.1)

# %% [markdown]
# ## Why divide by the root of D?
#
# If the entries of $q$ and $k$ are independent with mean 0 and variance 1, each of the $D$ terms of $q \cdot k$ has
# variance 1, and the sum has $D$. **What happens to a softmax over such scores?** We measure how many of 64 keys a
# query looks at ($e^H$, with the entropy $H$ of its weights), and how large a gradient reaches it when $dy$ has length
# 1. For normal scores of variance 1 one can say it beforehand: $H$ is about $\ln 64 - \tfrac12$, so 39 keys.


# %%
def look(D, scale, keys=64, queries=1000):
    q, k, v = rng.normal(size=(queries, D)), rng.normal(size=(keys, D)), rng.normal(size=(keys, D))
    dy = rng.normal(size=q.shape) / math.sqrt(D)
    scores = q @ k.T
    weights, vjp = softmax(scores * scale)
    entropy = -(weights * np.log(np.maximum(weights, 1e-300))).sum(axis=1)
    dq = vjp(dy @ v.T) @ k * scale
    return scores.std(), np.exp(entropy.mean()), np.linalg.norm(dq, axis=1)


sizes = np.array([4, 16, 64, 256, 1024])
with_scale, without = ([look(D, 1 / math.sqrt(D) if on else 1.0) for D in sizes] for on in (True, False))
spread, seen, gradients = (np.array(part) for part in zip(*with_scale, strict=True))
_, seen_without, gradients_without = (np.array(part) for part in zip(*without, strict=True))
mean, median = gradients.mean(axis=1), np.median(gradients, axis=1)
mean_without, median_without = gradients_without.mean(axis=1), np.median(gradients_without, axis=1)

check("the scores spread like the root of D", spread / np.sqrt(sizes), 1, within=0.07)
check("with the scale a query looks at 39 keys, whatever D", seen, 64 * math.exp(-0.5), within=4)
check("without it, at D = 64, at two of 64", seen_without[2], 1.8, within=0.3)
check("with the scale the gradient does not depend on D", median / median.mean(), 1, within=0.2)
check("without it, at D = 1024, most queries get less than a tenth", median_without[-1] < 0.1 * median[-1])
check("    but on average they get over five times as much", mean_without[-1] > 5 * mean[-1])
check("and at D = 64 the median query gets more than with the scale", median_without[2] > 2 * median[2])

# %%
with figure("05-scale") as fig:
    left, right = fig.subplots(1, 2)
    left.semilogx(sizes, seen, "o-", label="divided by √D")
    left.semilogx(sizes, seen_without, "o-", label="not divided")
    left.set(ylabel="keys looked at, of 64", ylim=(0, 64), yticks=range(0, 65, 16))
    left.set_title("Undivided, one key wins")
    left.legend(loc="upper right")
    right.loglog(sizes, median, "o-", label="divided by √D, median")
    right.loglog(sizes, median_without, "o-", label="not divided, median")
    right.loglog(sizes, mean_without, "o:", color="C1", label="not divided, mean")
    right.set(ylabel="gradient of a query (length)", ylim=(0.003, 30))
    right.yaxis.set_major_formatter("{x:g}")
    right.set_title("Mean up, median down")
    right.legend(loc="upper left")
    for axes in (left, right):
        axes.set(xlabel="D, size of a head", xticks=sizes, xticklabels=sizes)
        axes.minorticks_off()

# %% [markdown]
# The paper suspects "extremely small gradients", and for large D that is what most queries get. It is not the whole
# story: the mean *grows*. At D = 64, the usual size of a head, the median is still larger than with the scale. What
# sank is the share of queries with two keys nearly in a tie; these few get a gradient with a factor $\sqrt D$ more in
# it. So attention without the scale is not so much asleep as it is torn: nothing for most, jerks for a few. And it has
# decided on one key for each query before it has learned anything.
#
# ## Heads: several look-ups at once
#
# One softmax makes one mean. **What if a token needs two things?** Then it takes two *heads*: the $C$ channels are cut
# into $H$ parts of $D = C/H$, each with its own queries, keys and values, and the results are laid side by side. Here
# is one with weights set by hand, for a text of nine words. Each word brings what it is (one of 6) and where it stands
# (one of 9). Head 1 asks for the position before its own and fetches the word there. Head 2 asks for its own word and
# fetches the positions where it has been seen.

# %%
text = ["the", "cat", "sat", "on", "the", "mat", "and", "the", "cat"]
words, T, D = list(dict.fromkeys(text)), len(text), len(text)
word = np.eye(D)[[words.index(w) for w in text]]  # (T, D), of which 6 columns are used
place = np.eye(D)
x = np.concatenate((word, place), axis=1)

sharp, nothing = 60.0, np.zeros((D, D))
before = np.eye(D, k=-1)  # row t asks for t - 1
query = np.block([[nothing, sharp * np.eye(D)], [sharp * before, nothing]])
key = np.block([[nothing, np.eye(D)], [np.eye(D), nothing]])
value = np.eye(2 * D)
W = np.concatenate((query, key, value), axis=1)
params = {"c_attn.weight": W, "c_attn.bias": np.zeros(6 * D), "c_proj.weight": value, "c_proj.bias": np.zeros(2 * D)}
mask = causal_bias(T, np, x.dtype)
found = self_attention(x[None], params, mask, 2)[0][0]
check("head 1 fetches the word before", found[1:, :D], word[:-1], within=1e-6)
same = np.tril(word @ word.T)
check("head 2 where this word was seen", found[:, D:], same / same.sum(axis=1, keepdims=True), within=1e-6)
check("by hand: the third 'the' in thirds, at 0, 4 and 7", found[7, D:][[0, 4, 7]], 1 / 3, within=1e-6)

swapped = W.reshape(2 * D, 3, 2, D)[:, :, ::-1].reshape(W.shape)
output = params | {"c_attn.weight": swapped, "c_proj.weight": np.roll(np.eye(2 * D), D, axis=0)}
check("heads have no order", self_attention(x[None], output, mask, 2)[0][0], found, within=1e-12)
one_head = self_attention(x[None], params, mask, 1)[0][0]
check("a single head with the same weights does neither", np.abs(one_head - found).max(axis=1)[2:] > 0.3)

# %%
with figure("05-heads", height=4.6) as fig:
    q, k, _ = split(x @ W, 2)
    weights = softmax(q @ k.swapaxes(-1, -2) / math.sqrt(D) + mask)[0]
    titles = ("Head 1: the word before", "Head 2: the same word")
    for axes, title, table in zip(fig.subplots(1, 2), titles, weights, strict=True):
        axes.imshow(table, cmap="Blues", vmin=0, vmax=1.1)
        for (t, s), weight in np.ndenumerate(table):
            if weight > 0.01:
                colour = "white" if weight > 0.6 else "0.15"
                axes.text(s, t, f"{weight:.2g}", ha="center", va="center", size=9, color=colour)
        axes.set(xticks=range(T), yticks=range(T), yticklabels=text, xlabel="key")
        axes.set_xticks(range(T), text, rotation=90)
        axes.tick_params(length=0)
        axes.set_title(title)
    fig.axes[0].set_ylabel("query")

# %% [markdown]
# Trained models do have such heads; a head like the first, feeding one like the second in the next layer, lets a model
# continue a pattern it has seen once (Olsson et al., 2022).
#
# ## Padding on the left
#
# Texts that are to be continued together have different lengths. They are padded on the *left*, so that all of them
# end, and go on, in the same column. **Does a text notice its padding?** The mask must hide that as well as the future;
# one more thing is needed, as a softmax over nothing at all has no answer: padding sees itself.

# %%
B, T, pad, C, H = 2, 6, np.array([0, 3]), 8, 2
params = {name: rng.normal(size=shape) for name, shape in (("c_attn.weight", (C, 3 * C)), ("c_attn.bias", 3 * C))}
params |= {name: rng.normal(size=shape) for name, shape in (("c_proj.weight", (C, C)), ("c_proj.bias", C))}
x = rng.normal(size=(B, T, C))
columns = np.arange(T)
real = columns >= pad[:, None]  # (B, T)
visible = (np.tri(T, dtype=bool) & real[:, None, :]) | np.eye(T, dtype=bool)
bias = np.where(visible, 0, -np.inf)[:, None]  # (B, 1, T, T)

y, vjp = self_attention(x, params, bias, H)
alone = [self_attention(x[[b], pad[b] :], params, causal_bias(T - pad[b], np, x.dtype), H)[0][0] for b in range(B)]
for b in range(B):
    check(f"{pad[b]} tokens of padding: the text does not notice", y[b, pad[b] :], alone[b], within=1e-13)
causal_only = self_attention(x, params, causal_bias(T, np, x.dtype), H)[0]
check("with the causal mask alone it does", np.abs(causal_only[1, 3:] - alone[1]).max(axis=1) > 0.01)
dx = vjp(rng.normal(size=y.shape) * real[:, :, None])[0]
check("and padding gets no gradient, to the last bit", dx[~real], within=0)

config = GPT2Config(vocab_size=20, n_positions=24, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5)
model = GPT2(config, init_gpt2(config, rng, dtype=np.float64))
prompts = [[3, 1, 4, 1, 5, 9], [2, 6], [5]]
together = generate(model, prompts, 12, sampling=Sampling(temperature=0))
apart = [generate(model, [prompt], 12, sampling=Sampling(temperature=0))[0] for prompt in prompts]
check("minikd writes the same texts together and one by one", together == apart)
check("    though they differ, and do not stand still", len({tuple(text) for text in apart}) == 3)

# %% [markdown]
# The same trick serves both ends: $-\infty$ in the scores is a weight of exactly 0, and a weight of 0 carries nothing,
# neither a value forwards nor a gradient backwards.
#
# ## What you should be able to explain now
#
# - why the mask stands inside the softmax, and what leaks if it stands behind it;
# - how to test causality without trusting any formula, forwards and backwards;
# - what the scores' spread has to do with $\sqrt D$, and who gets a gradient without the scale;
# - why the bias of the keys learns nothing;
# - what a second head can do that a wider one cannot.
#
# ## Exercises
#
# 1. Write `attention(q, k, v)`, causal, returning value and pullback, in a file `mine.py`, and have it graded: `minikd
#    grade mine.py --only attention`. Then forget the scale in `dk` alone, and read what the grader says.
# 2. Take away the mask and shuffle the tokens. What becomes of the output? Predict it, write the `check`, and say why a
#    transformer needs to be told the positions; and why a causal one might find them out by itself.
# 3. Write `linear` of lesson 4 into `mine.py`, too, and `self_attention(x, attn_weight, attn_bias, proj_weight,
#    proj_bias, *, n_head)` out of both: `minikd grade mine.py --only self_attention`.
