# %% [markdown]
# # 4. Backward by hand
#
# Training asks how one number, the loss $L$, answers to every single parameter. Nobody derives that for a whole
# transformer at once: each of its functions brings a small backward of its own, and these are strung together. This
# lesson writes three of them, *linear*, *GELU* and *layer norm*, holds them against minikd's and against the judge of
# lesson 3, and ends with a wrong one that nearly gets away with it.
#
# You need: lessons 1 and 3, the chain rule, matrix products.

# %%
import math

import numpy as np

from minikd.lesson import check, figure
from minikd.models.gpt2 import mlp
from minikd.nn import gelu, layer_norm, linear
from minikd.oracle import check_vjp

rng = np.random.default_rng(4)

# %% [markdown]
# ## A value and its pullback
#
# Write $dy$ for $\partial L / \partial y$: an array of $y$'s shape that says how the loss answers to each entry of $y$.
# In minikd a function returns its value and its *pullback*, `y, vjp = f(x)`, and `dx = vjp(dy)`. What the pullback
# needs of the forward is at hand, since it is defined inside it. It knows nothing of the loss, and it never builds the
# Jacobian $J_{ij} = \partial y_i / \partial x_j$: it computes $dx = dy \, J$, a vector-Jacobian product.
#
# **In which order do the pullbacks of a chain run?** For three functions, $f_1$ first, the chain rule says
# $dx = dy \, J_3 J_2 J_1$. Only $dy$ is known at the start, and it stands beside the *last* Jacobian. Let us see that
# with real functions, whose Jacobians we make row by row, from unit vectors.

# %%
C = 6
x, W, b, gain, bias, dy = (rng.normal(size=shape) for shape in (C, (C, C), C, C, C, C))
h1, vjp_norm = layer_norm(x, gain, bias)
h2, vjp_linear = linear(h1, W, b)
y, vjp_gelu = gelu(h2)
dx, _, _ = vjp_norm(vjp_linear(vjp_gelu(dy))[0])

J1 = np.stack([vjp_norm(unit)[0] for unit in np.eye(C)])
J2 = np.stack([vjp_linear(unit)[0] for unit in np.eye(C)])
J3 = np.stack([vjp_gelu(unit) for unit in np.eye(C)])
check("the pullbacks, last first, are dy J3 J2 J1", dx, dy @ J3 @ J2 @ J1, within=1e-13)
check("first first, they are something else", np.abs(dx - dy @ J1 @ J2 @ J3).max() > 0.1)
check("linear's Jacobian is its weight, transposed", J2, W.T, within=1e-15)
check("GELU's is diagonal: each entry answers for itself", J3, np.diag(np.diag(J3)), within=0)

# %% [markdown]
# Where one puts the brackets changes the work, not the result. From the left it is three times a vector by a matrix,
# $3 C^2$ multiplications; from the right it is matrices by matrices, $2 C^3 + C^2$: with $C = 768$, 500 times as
# many. So the backward of a loss is the forward's story told upwards. It costs about two forwards, however many
# parameters there are; why two, we see next.
#
# ## Linear: shapes decide the transposes
#
# **What is the pullback of $y = xW + b$, with $x$ of shape $(N, I)$ and $W$ of shape $(I, O)$?** Go down to single
# multiplications. The forward adds $x_{ni} W_{io}$ to $y_{no}$. If $x_{ni}$ moves, $y_{no}$ moves $W_{io}$ times as
# much; if $W_{io}$ moves, $y_{no}$ moves $x_{ni}$ times as much. So each multiplication forwards makes two backwards:


# %%
def slow_linear(x, weight, bias):
    entries = list(np.ndindex(len(x), *weight.shape))
    y = np.tile(bias, (len(x), 1))
    for n, i, o in entries:
        y[n, o] += x[n, i] * weight[i, o]

    def vjp(dy):
        dx, dweight, dbias = np.zeros_like(x), np.zeros_like(weight), np.zeros_like(bias)
        for n, i, o in entries:
            dx[n, i] += dy[n, o] * weight[i, o]
            dweight[i, o] += dy[n, o] * x[n, i]
        for n, o in np.ndindex(dy.shape):
            dbias[o] += dy[n, o]
        return dx, dweight, dbias

    return y, vjp


x, W, b, dy = (rng.normal(size=shape) for shape in ((3, 4), (4, 5), 5, (3, 5)))
(y, vjp), (y_slow, vjp_slow) = linear(x, W, b), slow_linear(x, W, b)
check("three loops give minikd's y", y_slow, y, within=1e-14)
for name, slow, fast in zip(("dx", "dW", "db"), vjp_slow(dy), vjp(dy), strict=True):
    check(f"    and its {name}", slow, fast, within=1e-14)

# %% [markdown]
# The sum over $o$ in `dx` is a matrix product, the sum over $n$ in `dweight` another:
#
# $$dx = dy \, W^\top \qquad dW = x^\top dy \qquad db = \sum_n dy_n$$
#
# The bias was *copied* to every row; backwards the rows are *summed*. And the transposes one need not remember. $dx$ is
# made of $dy$ and $W$: each as it is or transposed, in either order, makes eight products. **How many of them have the
# shape that $dx$ must have, $x$'s own?**


# %%
def eight_products(dy, other):
    pairs = [(first, second) for first in (dy, dy.T) for second in (other, other.T)]
    pairs += [(second, first) for first, second in pairs]
    return [left @ right for left, right in pairs if left.shape[1] == right.shape[0]]


for n, i, o in ((3, 4, 5), (4, 4, 4)):
    x, W, b, dy = (rng.normal(size=shape) for shape in ((n, i), (i, o), o, (n, o)))
    dx, dW, _ = linear(x, W, b)[1](dy)
    for name, products, wanted in (("dx", eight_products(dy, W), dx), ("dW", eight_products(dy, x), dW)):
        fits = [product for product in products if product.shape == wanted.shape]
        right = [product for product in fits if np.allclose(product, wanted)]
        check(f"N, I, O = {n}, {i}, {o}: so many have the shape of {name}", len(fits), 1 if n < i else 8)
        check("    and one is right", len(right), 1)

# %% [markdown]
# With unlike sizes the shapes leave one choice, and it is right. With like sizes they leave all eight. So derive, and
# test, with sizes that all differ: a square weight hides a forgotten transpose from every test of shapes.
#
# ## GELU: a product of two things that move
#
# GELU multiplies $x$ by a gate $w(x)$ between 0 and 1: the probability that a normal number is below $x$ (Hendrycks
# and Gimpel, 2016). GPT-2 computes it with a tanh:
#
# $$y = x\,w \qquad w = \tfrac12 (1 + \tanh u) \qquad u = \sqrt{2/\pi}\,(x + 0.044715\,x^3)$$
#
# **Where does it let a gradient pass?** The product rule gives two terms, $y' = w + x w'$, and the tanh's derivative
# gives $w' = \tfrac12 (1 - \tanh^2 u)\,u'$. Each entry answers for itself, so the pullback multiplies entry by entry:
# $dx = dy \odot y'$.


# %%
def slow_gelu(x):
    a, c = math.sqrt(2 / math.pi), 0.044715
    tanh = np.tanh(a * (x + c * x**3))
    gate = (1 + tanh) / 2
    gate_slope = (1 - tanh**2) / 2 * a * (1 + 3 * c * x**2)
    return x * gate, gate, gate_slope, lambda dy: dy * (gate + x * gate_slope)


x = np.linspace(-4, 4, 801)
y, gate, gate_slope, vjp_slow = slow_gelu(x)
slope = gelu(x)[1](np.ones_like(x))
dy = rng.normal(size=x.shape)
normal_gate = np.array([(1 + math.erf(entry / math.sqrt(2))) / 2 for entry in x])

check("the same y as minikd's", y, gelu(x)[0], within=1e-15)
check("and the same dx", vjp_slow(dy), gelu(x)[1](dy), within=1e-14)
check("the tanh form is off by at most 0.0005", np.abs(y - x * normal_gate).max(), 0.00047, within=0.00002)
check("slope(x) + slope(-x) = 1", slope + slope[::-1], 1, within=1e-14)
check("the slope rises to 1.13", slope.max(), 1.129, within=0.001)
check("    near the root of 2, where that of the erf form is steepest", x[slope.argmax()], math.sqrt(2), within=0.02)
check("and falls below 0 on the left of -0.75", x[slope < 0].max(), -0.76, within=0.011)
check("the term x w' is a quarter at most", np.abs(x * gate_slope).max(), 0.24, within=0.005)

# %%
with figure("04-gelu") as fig:
    left, right = fig.subplots(1, 2)
    left.plot(x, np.maximum(x, 0), color="0.7", linewidth=1.5, linestyle="--", label="ReLU")
    left.plot(x, y, label="GELU")
    left.set(ylabel="y", ylim=(-0.5, 4.1))
    left.set_title("A gate that opens gradually")
    left.legend(loc="upper left")
    right.plot(x, slope, label="y' = w + x w'")
    right.plot(x, gate, color="C2", linewidth=1.5, linestyle="--", label="w alone")
    right.plot(x, x * gate_slope, color="C1", linewidth=1.5, linestyle=":", label="x w' alone")
    right.set(ylabel="slope", ylim=(-0.3, 1.5), yticks=[0, 0.5, 1])
    right.set_title("The gradient meets both terms")
    right.legend(loc="upper left")
    for axes in (left, right):
        axes.set(xlabel="x", xlim=(-4, 4))

# %% [markdown]
# On the far left nothing passes, on the far right everything, and around 1.4 the gradient is even amplified. Whoever
# forgets $x w'$ has a curve of nearly the right shape, off by a quarter at most.
#
# ## Layer norm, node by node
#
# Layer norm (Ba, Kiros and Hinton, 2016) sets each row to mean 0 and variance 1, then scales and shifts it. **Mean and
# variance depend on every entry of the row: what is the gradient then?** Where a formula is too long to differentiate
# at a glance, cut it into nodes that are not. Then go up, node by node, with two rules:
#
# - a number that was *copied* to many places gets the *sum* of their gradients, and a sum hands its gradient to all;
# - a number that was *used twice* gets both gradients, added: hence the `+=`.


# %%
def layer_norm_by_nodes(x, gain, bias, *, eps=1e-5):
    C = x.shape[-1]
    mean = x.sum(axis=-1, keepdims=True) / C  # 1
    centred = x - mean  # 2
    variance = (centred**2).sum(axis=-1, keepdims=True) / C  # 3
    rstd = (variance + eps) ** -0.5  # 4
    normed = centred * rstd  # 5
    y = normed * gain + bias  # 6

    def vjp(dy):
        dnormed, dgain, dbias = dy * gain, (dy * normed).sum(axis=0), dy.sum(axis=0)  # 6
        dcentred, drstd = dnormed * rstd, (dnormed * centred).sum(axis=-1, keepdims=True)  # 5
        dvariance = drstd * -0.5 * rstd**3  # 4
        dcentred += dvariance * 2 * centred / C  # 3: centred is used a second time
        dx, dmean = dcentred.copy(), -dcentred.sum(axis=-1, keepdims=True)  # 2
        dx += dmean / C  # 1: so is x
        return dx, dgain, dbias

    return y, vjp


x, gain, bias, dy = (rng.normal(size=shape) for shape in ((7, 10), 10, 10, (7, 10)))
(y, vjp), (y_nodes, vjp_nodes) = layer_norm(x, gain, bias), layer_norm_by_nodes(x, gain, bias)
check("node by node, the same y as minikd's", y_nodes, y, within=1e-13)
for name, by_nodes, fast in zip(("dx", "dgain", "dbias"), vjp_nodes(dy), vjp(dy), strict=True):
    check(f"    and {name}", by_nodes, fast, within=1e-13)

# %% [markdown]
# minikd's pullback has no nodes. **What do they come to, in closed form?** Put node 4 into 3: `dcentred` is
# $r\,(dn - n\,\overline{dn \cdot n})$, with $n$ for `normed`, $r$ for `rstd`, and the bar for the mean over the row.
# Nodes 2 and 1 subtract the row's mean from that; the mean of $n$ is 0. So
#
# $$dx = r \left(dn - \overline{dn} - n\,\overline{dn \cdot n}\right)$$
#
# and as a Jacobian, with a row of ones $e$: $J = r\,(I - e^\top e / C - n^\top n / C)$. By hand: $x = (0, 0, 4, 4)$ has
# mean 2 and variance 4, so $n = (-1, -1, 1, 1)$ and $r = \tfrac12$. With $dn = (1, 0, 0, 0)$ the means are $\tfrac14$
# and $-\tfrac14$, and $dx = (\tfrac14, -\tfrac14, 0, 0)$.
#
# Both subtractions are projections. They take out of the gradient its part along $e$ and its part along $n$, for a good
# reason: to add a constant to the row, or to stretch it, changes nothing in $y$. (Up to $\epsilon$: what is left along
# $n$ is the share $\epsilon / (\mathrm{Var} + \epsilon)$.)


# %%
def jacobian(row, eps):
    n, vjp = layer_norm(row, np.ones(row.size), np.zeros(row.size), eps=eps)
    return n, np.stack([vjp(unit)[0] for unit in np.eye(row.size)])


def three_parts(n):
    return [np.eye(n.size), -np.ones((n.size, n.size)) / n.size, -np.outer(n, n) / n.size]


small, J_small = jacobian(np.array([0.0, 0, 4, 4]), eps=0)
check("worked by hand: 1/4, -1/4, 0, 0", J_small[0], [0.25, -0.25, 0, 0], within=1e-15)

row, eps = rng.normal(size=6), 0.1
n, J = jacobian(row, eps)
r, left_over = 1 / math.sqrt(row.var() + eps), eps / (row.var() + eps)
check("the Jacobian is the sum of three parts", J, r * sum(three_parts(n)), within=1e-14)
check("nothing passes along the ones", J @ np.ones(6), within=1e-14)
check("and along n only the share of epsilon", J @ n, r * left_over * n, within=1e-14)
check("all else does, C - 2 directions of C", np.linalg.eigvalsh(J / r), [0, left_over, 1, 1, 1, 1], within=1e-13)

# %%
with figure("04-layer-norm", height=3.1) as fig:
    titles = ("Its own entry", "Mean", "Variance", "Together")
    parts = three_parts(small)
    for axes, title, part in zip(fig.subplots(1, 4), titles, [*parts, sum(parts)], strict=True):
        axes.imshow(part, cmap="PuOr", vmin=-1.1, vmax=1.1)
        for (i, j), entry in np.ndenumerate(part):
            colour = "white" if abs(entry) > 0.6 else "0.15"
            number = f"{entry:g}".replace("-", "−").replace("0.25", "¼").replace("0.5", "½")
            axes.text(j, i, number, ha="center", va="center", color=colour)
        axes.set_xticks(range(4), (0, 0, 4, 4))
        axes.set_yticks(range(4), (0, 0, 4, 4))
        axes.set_xlabel("if this x rises")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_title(title)
    fig.axes[0].set_ylabel("this y gains (times rstd)")

# %% [markdown]
# In this row equal entries can only push each other apart. In general a row of $C$ numbers has $C - 2$ directions that
# still matter after a layer norm. The nodes show that the closed form is right; the closed form shows what it means.
#
# ## The same story upwards
#
# **How do the parts make a whole?** A feed-forward branch of a transformer is *norm, linear, GELU, linear*, and what it
# finds is added to $x$. Here it is: read it downwards, then upwards. $x$ is used twice, so its gradient is a sum. On
# the way past the branch it arrives undiminished, which is the point of a residual connection (He et al., 2016).


# %%
def feed_forward(x, gain, bias, fc_weight, fc_bias, proj_weight, proj_bias, norm=layer_norm):
    h, vjp_norm = norm(x, gain, bias)
    h, vjp_fc = linear(h, fc_weight, fc_bias)
    h, vjp_gelu = gelu(h)
    h, vjp_proj = linear(h, proj_weight, proj_bias)

    def vjp(dy):
        dh, dproj_weight, dproj_bias = vjp_proj(dy)
        dh = vjp_gelu(dh)
        dh, dfc_weight, dfc_bias = vjp_fc(dh)
        dh, dgain, dbias = vjp_norm(dh)
        return dy + dh, dgain, dbias, dfc_weight, dfc_bias, dproj_weight, dproj_bias

    return x + h, vjp


args = [rng.normal(size=size) for size in ((7, 10), 10, 10, (10, 40), 40, (40, 10), 10)]
names = ("c_fc.weight", "c_fc.bias", "c_proj.weight", "c_proj.bias")
y, vjp = feed_forward(*args)
m, vjp_mlp = mlp(layer_norm(*args[:3])[0], dict(zip(names, args[3:], strict=True)))
check("the branch is minikd's mlp", y - args[0], m, within=1e-12)
check("    and so is its weights' gradient", vjp(dy)[3], vjp_mlp(dy)[1]["c_fc.weight"], within=1e-12)

for name, f, f_args in (
    ("linear in three loops", slow_linear, (args[0], args[3], args[4])),
    ("GELU by the product rule", lambda x: slow_gelu(x)[::3], args[:1]),
    ("layer norm node by node", layer_norm_by_nodes, args[:3]),
    ("all of them together", lambda *args: feed_forward(*args, norm=layer_norm_by_nodes), args),
):
    check(f"the judge passes {name}", check_vjp(f, f_args).passed)

# %% [markdown]
# ## A falling loss proves nothing
#
# A likely mistake with layer norm is to treat mean and `rstd` as constants. The gradient is then
# $r \, dn$, both projections forgotten. **Would one notice in training?** A small regression, twice: $\sin$ of four
# mixtures of 16 inputs, 256 examples, a hidden layer of 64 between a linear map, layer norm and GELU. Same start, same
# steps; one run has the right pullback, the other the wrong one.


# %%
def constant_statistics(x, gain, bias):
    y, vjp = layer_norm(x, gain, bias)
    rstd = 1 / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
    return y, lambda dy: (dy * gain * rstd, *vjp(dy)[1:])


def train(norm, seed, steps=800, rate=0.2):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(256, 16))
    target = np.sin(x @ rng.normal(size=(16, 4)))
    params = [rng.normal(size=(16, 64)) / 4, np.zeros(64), np.ones(64), np.zeros(64)]
    params += [rng.normal(size=(64, 4)) / 8, np.zeros(4)]
    losses = []
    for _ in range(steps):
        rows, vjp_in = linear(x, *params[:2])
        h, vjp_norm = norm(rows, *params[2:4])
        h, vjp_gelu = gelu(h)
        y, vjp_out = linear(h, *params[4:])
        losses.append(((y - target) ** 2).mean())
        dh, *dout = vjp_out(2 * (y - target) / y.size)
        dh, *dnorm = vjp_norm(vjp_gelu(dh))
        _, *din = vjp_in(dh)
        for param, gradient in zip(params, din + dnorm + dout, strict=True):
            param -= rate * gradient
    return np.array(losses), rows.var(axis=1).mean()


right, variance = map(np.array, zip(*(train(layer_norm, seed) for seed in range(3)), strict=True))
wrong, variance_wrong = map(np.array, zip(*(train(constant_statistics, seed) for seed in range(3)), strict=True))
ratio = wrong / right
check("for 200 steps the losses are within 2% of each other", ratio[:, :200], 1, within=0.02)
check("    and at step 100 the wrong one is the lower one", ratio[:, 100] < 1)
check("in the end it has fallen to a quarter, too", wrong[:, -1] / wrong[:, 0] < 0.25)
check("    but is 5% to 15% above the right one", ratio[:, -1], 1.1, within=0.05)
check("the rows before the norm have spread by a third to a half", variance_wrong / variance, 1.4, within=0.12)

x, gain, bias, dy = (rng.normal(size=shape) for shape in ((50, 64), 64, 64, (50, 64)))
got, wanted = constant_statistics(x, gain, bias)[1](dy)[0], layer_norm(x, gain, bias)[1](dy)[0]
cosine = (got * wanted).sum() / np.linalg.norm(got) / np.linalg.norm(wanted)
check("the wrong gradient is at 10 degrees to the right one", np.degrees(np.arccos(cosine)), 10, within=1.5)
report = check_vjp(constant_statistics, (x[:3], gain, bias))
print(report)
check("the judge notices at once", not report.passed)

# %%
with figure("04-falling-loss") as fig:
    axes = fig.subplots()
    for name, runs in (("the right pullback", right), ("mean and rstd taken for constants", wrong)):
        axes.semilogy(runs.mean(axis=0), label=name)
    axes.set(xlabel="step", ylabel="loss (mean of three runs)", xlim=(0, 800), yticks=[0.1, 0.2, 0.4, 0.8])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.set_title("A wrong gradient trains, too")
    axes.legend()

# %% [markdown]
# Two directions of 64 are wrong, and $\arcsin\sqrt{2/64}$ is 10°: such a gradient leads downhill for a long time, at
# first even a shade faster. Then the bill comes: the part along $n$ keeps stretching the rows before the norm, the norm
# undoes that, and `rstd`, a factor of every gradient, shrinks. Whoever has only the one curve sees nothing of it. A
# falling loss is evidence of *some* descent, not of a right gradient. That takes a judge who does not train.
#
# ## What you should be able to explain now
#
# - what a pullback is given, what it returns, and why it never builds a Jacobian;
# - why the backward runs from the last function to the first;
# - which product is $dx$ and which is $dW$, and why sizes in a test should all differ;
# - what becomes, on the way up, of a number that was copied, summed, or used twice;
# - why layer norm takes two directions out of a gradient, and which ones.
#
# ## Exercises
#
# 1. Write `layer_norm(x, gain, bias, *, eps=1e-5)`, returning value and pullback, in a file `mine.py`, and have it
#    graded: `minikd grade mine.py --only layer_norm`. Then set mean and `rstd` constant, and read what the grader says.
# 2. RMSNorm (Zhang and Sennrich, 2019) leaves the mean alone: $y = x / \sqrt{\overline{x^2} + \epsilon}$ times the
#    gain. Which of the three parts of the Jacobian goes? Write it, and let `check_vjp` judge it.
