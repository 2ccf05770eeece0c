# %% [markdown]
# # 13. Co-distillation in lockstep
#
# So far the teacher was finished before the student began. *Co-distillation* does without: two untrained models start
# together, read the same batches, and the student learns from labels that its teacher is only just learning to give
# (after the *codistillation* of Anil et al. 2018 and the *deep mutual learning* of Zhang et al. 2018, where every model
# teaches the others; here, at first, only one does). There is no teacher to train first and nothing to store. There is
# also, at the beginning, nobody who knows anything.
#
# This lesson takes the word "lockstep" literally and checks it, measures what it costs to follow a teacher that
# knows nothing yet, and compares the ways of trusting it later.
#
# You need: soft labels and their weight $\alpha$ (lesson 11), the shared teacher and student (lesson 7).

# %%
from dataclasses import replace

import numpy as np

from minikd.classroom import STUDENT, TEACHER, TRAINING, data, machine, trained
from minikd.distill.codistill import codistill
from minikd.distill.methods import DistillConfig
from minikd.distill.schedule import soft_weight
from minikd.distill.scratch import scratch
from minikd.figures import COLOURS
from minikd.lesson import check, figure
from minikd.losses import cross_entropy, forward_kl, linear_cross_entropy, linear_distillation_loss
from minikd.softmax import log_softmax, softmax
from minikd.text import Batches, windows
from minikd.train import Learner, Tick, train_step

text = data()
V = text.tokenizer.vocab_size
steps = TRAINING.steps


def new(config, *seed):
    return machine().new_model(config.gpt2(V, TRAINING.context), seed)


def batches(seed):
    return Batches(text.train, TRAINING.batch_size, TRAINING.context, seed)


# %% [markdown]
# ## What lockstep means
#
# In a step of co-distillation **both models look at the batch before either one moves**. The student then follows the
# gradient of
#
# $$\alpha \, \mathrm{KL}(p \,\|\, q) + (1 - \alpha) \, \mathrm{CE}(y, q)$$
#
# with the live teacher's $p$ as a constant, the teacher that of its own cross-entropy. **What does this order
# promise?** Two things that can be checked to the last bit. The teacher does not notice its student: it is the same
# model as one that is trained alone. And which of the two is *updated* first cannot matter, since all gradients are
# known by then. (A single bit more or less would end up in the weights, so equality of all weights is a hard test.)


# %%
def ten_steps(step, models, seed=0):
    """The models' weights after ten steps; they move in the order in which they are given."""
    learners = {name: Learner.of(model, TRAINING) for name, model in models.items()}
    for i in range(10):
        train_step(learners, step, batches(seed)(i), Tick(i, steps, seed), TRAINING, machine().workers)
    return {name: learner.model.params.flat for name, learner in learners.items()}


def lockstep(order, mutual=False):
    models = {"teacher": new(TEACHER, 0, 1), "student": new(STUDENT, 0, 0)}
    step = codistill(**models, weight=lambda progress: 0.9, mutual=mutual)
    return ten_steps(step, {name: models[name] for name in order})


alone = new(TEACHER, 0, 1)
alone = ten_steps(scratch(alone), {"student": alone})["student"]
one, other = lockstep(["teacher", "student"]), lockstep(["student", "teacher"])
both, both_turned = lockstep(["teacher", "student"], mutual=True), lockstep(["student", "teacher"], mutual=True)

check("the teacher is bit by bit the one that is trained alone", np.array_equal(one["teacher"], alone))
check("the order of the updates changes no bit of it", np.array_equal(one["teacher"], other["teacher"]))
check("nor of the student", np.array_equal(one["student"], other["student"]))
check("nor where both learn from each other", all(np.array_equal(both[name], both_turned[name]) for name in both))
check("there the teacher does notice its student", not np.array_equal(both["teacher"], alone))

# %% [markdown]
# **And if one of them moves first?** Then the student learns from a teacher that has already seen the answers of this
# very batch. It is a different method, and an easy mistake: call one model's optimiser before the other's forward
# pass. It can be written with the same pieces, if the teacher is told to move inside the step:


# %%
def teacher_moves_first():
    teacher, student = new(TEACHER, 0, 1), new(STUDENT, 0, 0)
    pupil, master = {"student": Learner.of(student, TRAINING)}, {"student": Learner.of(teacher, TRAINING)}
    step = codistill(student, teacher, weight=lambda progress: 0.9)
    for i in range(10):
        batch, tick = batches(0)(i), Tick(i, steps)
        train_step(master, scratch(teacher), batch, tick, TRAINING, machine().workers)
        train_step(pupil, step, batch, tick, TRAINING, machine().workers)
    return {"teacher": teacher.params.flat, "student": student.params.flat}


early = teacher_moves_first()
check("the teacher is still the one that is trained alone", np.array_equal(early["teacher"], alone))
check("but the student is another", np.abs(early["student"] - one["student"]).max() > 1e-4)

# %% [markdown]
# ## One teacher, many students
#
# If no student disturbs the teacher, any number of them can sit before it. That makes a fair and cheap experiment: the
# same teacher, the same batches, the same weights at the start, and only $\alpha$ differs. Here is the lockstep step
# again, written out for a whole class. Each student has a `weight`, which says what $\alpha$ is at this point of the
# training. Beside it a `look` at the validation text. What it calls *hearing* is the total variation distance between
# what a model says at a place and what it says on average: the share of its probability that depends on the text read.


# %%
def whole_class(teacher, students, weights):
    """A step for one teacher and its students: all look at the batch, then the training loop moves them."""

    def step(batch, tick):
        (teacher_hidden, teacher_head), teacher_vjp = teacher.trunk(batch.inputs)
        loss, loss_vjp = linear_cross_entropy(teacher_hidden, teacher_head, batch.targets)
        moves = {"teacher": (loss, teacher_vjp(*loss_vjp()))}
        for name, student in students.items():
            (hidden, head), student_vjp = student.trunk(batch.inputs)
            loss, loss_vjp = linear_distillation_loss(
                hidden, head, teacher_hidden, teacher_head, batch.targets, alpha=weights[name](tick.progress),
                temperature=1.0,
            )  # fmt: skip
            moves[name] = loss, student_vjp(*loss_vjp())
        return moves

    return step


def look(teacher, students):
    """Means over the validation text: loss, entropy, hearing, share of the tokens where the teacher is better."""

    def sums(batch):
        p = teacher.predict(batch.inputs)
        teacher_loss, _ = cross_entropy(p, batch.targets, reduction="none")
        found = {}
        for name, model in {"teacher": teacher, **students}.items():
            logits = model.predict(batch.inputs)
            loss, _ = cross_entropy(logits, batch.targets, reduction="none")
            log_q, _ = log_softmax(logits)
            q = np.exp(log_q)
            hearing = 0.5 * abs(q - q.mean(axis=(0, 1))).sum(-1)
            found[name] = np.stack([loss, -(q * log_q).sum(-1), hearing, teacher_loss < loss])[:, batch.counted].sum(-1)
        return found

    parts = machine().workers.map(sums, [*windows(text.validation[: TRAINING.eval_tokens], TRAINING.context, 32)])
    return {name: sum(part[name] for part in parts) / (TRAINING.eval_tokens - 1) for name in parts[0]}


models = {"teacher": new(TEACHER, 0, 1), "student": new(STUDENT, 0, 0), "neighbour": new(STUDENT, 0, 2)}
pupils = {name: models[name] for name in ("student", "neighbour")}
in_class = ten_steps(whole_class(models["teacher"], pupils, dict.fromkeys(pupils, lambda progress: 0.9)), models)
check("a class of two is minikd's lockstep, bit by bit", all(np.array_equal(in_class[name], one[name]) for name in one))

WEIGHTS = {
    "text alone": soft_weight("constant", 0.0),
    "constant 0.9": soft_weight("constant", 0.9),
    "cosine to 0.9": soft_weight("cosine", 0.9),
    "late 0.9": soft_weight("late", 0.9, start=0.1),
    "gate 0.9": soft_weight("gate", 0.9),
    "cosine to 0.3": soft_weight("cosine", 0.3),
}


def school_year(seed, look_at):
    """What was seen at the steps `look_at`, by step."""
    teacher, students = new(TEACHER, seed, 1), {name: new(STUDENT, seed, 0) for name in WEIGHTS}
    learners = {name: Learner.of(model, TRAINING) for name, model in {"teacher": teacher, **students}.items()}
    step, looks = whole_class(teacher, students, WEIGHTS), {}
    for i in range(steps + 1):
        if i in look_at:
            looks[i] = look(teacher, students)
        if i < steps:
            train_step(learners, step, batches(seed)(i), Tick(i, steps, seed), TRAINING, machine().workers)
    return looks


at = range(0, steps + 1, TRAINING.eval_every)
looks = school_year(0, at)
curves = {name: np.array([looks[step][name] for step in at]).T for name in looks[0]}  # loss, entropy, hearing, share
pair = trained("codistill")
check("a student of the class learns as minikd's own", curves["cosine to 0.3"][0, 1:], pair.curve()[1], within=0.02)
check("and so does the teacher", curves["teacher"][0, 1:], pair.teacher.curve()[1], within=0.02)

# %% [markdown]
# ## What the teacher says before it knows anything
#
# **What is in a label of step 0?** The weights are small random numbers, so all logits are nearly equal and each of
# the $V$ tokens gets about $1/V$. Obeying that is worse than no teacher. To see how much worse, write both terms of
# the loss as cross-entropies, whose gradients $q - p$ and $q - y$ are linear in the target. What the student is asked
# for is then the *mixture*
#
# $$q^* = \alpha\, p + (1 - \alpha)\, y$$
#
# With $\alpha = 0.9$ and a blind teacher nine tenths of it are uniform: even a student that knew the text by heart
# would still lose $-\ln(0.1 + 0.9/V)$ nats a token. The hard loss, small as its share is, is all that points anywhere.

# %%
rng = np.random.default_rng(13)
z, blind_label, y = rng.normal(size=(1, V)), np.zeros((1, V)), np.array([7])
_, soft_vjp = forward_kl(z, blind_label)
_, hard_vjp = cross_entropy(z, y)
mixture = 0.9 / V + 0.1 * np.eye(V)[y]
check("the mixed loss pulls to q*", 0.9 * soft_vjp() + 0.1 * hard_vjp(), softmax(z)[0] - mixture, within=1e-15)
check("with the text known by heart, q* still loses (nats)", -np.log(mixture[0, 7]), 2.285, within=0.01)

loss_0, entropy_0, hearing_0, _ = looks[0]["teacher"]
check("at step 0 the teacher's loss is that of a blind guess", loss_0, np.log(V), within=0.1)
check("its labels are uniform: their entropy is ln V", entropy_0, np.log(V), within=0.05)
check("and say the same everywhere", hearing_0 < 0.1)

# %% [markdown]
# **What does obeying cost?** Four students. One reads the text alone. One gives the live teacher the weight 0.9 from
# the first step on. One does the same, but only from step 40 on (schedule `late`). And one, lesson 11's soft student,
# has the same weight 0.9 from the first step on, too, but from a *finished* teacher.

# %%
finished = trained(model=TEACHER)
soft = trained("soft", teacher=finished)
final = {name: curve[0, -1] for name, curve in curves.items()} | {"a finished teacher": soft.val_loss}
for name in ("text alone", "constant 0.9", "late 0.9", "a finished teacher"):
    print(f"{name:18s} {final[name]:.3f} nats a token")

check("the live teacher at 0.9 costs more than 0.1 nats", final["constant 0.9"] - final["text alone"] > 0.1)
check("a finished one at 0.9 gives more than 0.1 nats", final["text alone"] - final["a finished teacher"] > 0.1)
check("without the first 40 steps 0.9 does no harm", final["late 0.9"] < final["text alone"] + 0.03)
hearing = {name: curve[2, at.index(80)] for name, curve in curves.items()}
check("hearing is a share", np.array([curve[2] for curve in curves.values()]) <= 1)
check("after 80 steps the teacher hears", hearing["teacher"] > 0.2)
check("and the obedient student is nearly deaf", hearing["constant 0.9"] < 0.2 * hearing["text alone"])

again, heard = new(TEACHER, 0, 1), {}  # the same teacher, looked at more often
learners = {"student": Learner.of(again, TRAINING)}
for i in range(60):
    if i % 4 == 0:
        heard[i] = look(again, {})["teacher"][2]
    train_step(learners, scratch(again), batches(0)(i), Tick(i, steps), TRAINING, machine().workers)
check("at step 40 it is the teacher of the class", heard[40], curves["teacher"][2, at.index(40)], within=0.01)
check("in between it hears hardly anything", min(heard.values()) < 0.02)
check("    less than at the start, and than at step 40", [heard[0] > 0.05, heard[40] > 0.15])

# %%
with figure("13-noisy-teacher", height=4.4) as fig:
    left, right = fig.subplots(1, 2)
    drawn = {"teacher": ("0", "--"), "constant 0.9": ("C1", "-"), "text alone": ("C4", "-"), "late 0.9": ("C2", "-")}
    for name, (colour, line) in drawn.items():
        label = {"constant 0.9": "0.9 from the start", "late 0.9": "0.9 from step 40 on"}.get(name, name)
        left.plot(at, curves[name][0], line, color=colour, label="the live teacher" if name == "teacher" else label)
        listened = dict(zip(at, curves[name][2], strict=True)) | (heard if name == "teacher" else {})
        right.semilogy(
            *zip(*[(step, 100 * listened[step]) for step in sorted(listened)], strict=True), line, color=colour
        )
    left.plot(*soft.curve(), color=COLOURS["soft"], label="0.9, finished teacher")
    left.set(ylabel="validation loss (nats a token)", ylim=(3.3, 6.5))
    left.set_title("Who obeys from the start…")
    left.legend()
    right.set(ylabel="probability that depends on the text (%)", ylim=(0.1, 100))
    right.yaxis.set_major_formatter("{x:g}")
    right.set_title("…goes deaf")
    for axes in (left, right):
        axes.set(xlabel="training steps", xlim=(0, steps))

# %% [markdown]
# The weight is not to blame, the timing is: most of the harm is done in forty steps out of four hundred (though `late`,
# too, loses for a while after it begins; last figure). The right panel shows how. At first all models learn how
# frequent each token is, and for that the text read so far is of no use: hearing falls, the teacher's to 1% by step 16;
# by step 40 it is back at 20%. A teacher in this phase says the same at every place, and a student that is told the
# same at every place learns to *answer* the same at every place, more thoroughly than the text, noisy as it is, would
# teach it. Probably its hidden states become nearly one and the same vector, and what hardly depends on the text gets
# hardly a gradient through it. It stays there, in any case, long after its teacher has left: at step 120 it still hears
# 1%. The hard loss is what gets the others out in time.
#
# **And with no hard loss at all?** Let both learn from each other and from nothing else: mutual, $\alpha = 1$. That
# loss has a perfect solution within reach, to agree.

# %%
closed = DistillConfig(alpha=1.0, schedule="constant", mutual=True)
blind = trained("codistill", training=replace(TRAINING, steps=80), distill=closed)
check("they agree to within 0.01 nats", blind.result["evaluation"]["kl_to_teacher"] < 0.01)
check("and know nothing: the loss is that of a blind guess", blind.val_loss, np.log(V), within=0.2)

# %% [markdown]
# The hard loss is the only bond to the text. Everything else in co-distillation passes on what came in through it.
#
# ## When to trust
#
# **How should the weight move?** minikd knows `constant`; `cosine` (and `linear`), rising with the teacher's knowledge;
# `late`, nothing before a certain step; and `gate`, which asks for each token whether the teacher predicts it better
# than the student does, and obeys only there. Each goes to 0.9 here; a fifth student has minikd's default, a cosine to
# 0.3. Two seeds; gains are over the student of the same seed, start and batches that read the text alone.

# %%
ends = [looks[steps], school_year(1, [steps])[steps]]
gains = {name: [end["text alone"][0] - end[name][0] for end in ends] for name in WEIGHTS if name != "text alone"}
other = trained("soft", teacher=trained(model=TEACHER), seed=1)
from_finished = final["text alone"] - soft.val_loss, ends[1]["text alone"][0] - other.val_loss
for name, gain in gains.items():
    print(f"{name:14s} gains" + "".join(f"{g:+8.3f}" for g in gain) + " nats a token over the text alone")
print("A finished teacher's labels gain" + "".join(f"{g:+8.3f}" for g in from_finished))

teacher_logits, student_logits, y = *rng.normal(size=(2, 100, V)), rng.integers(V, size=100)
teacher_log_p, student_log_p = (log_softmax(z)[0][range(100), y] for z in (teacher_logits, student_logits))
gate = WEIGHTS["gate 0.9"](0.0)(student_logits, teacher_logits, y)
check("the gate obeys who gives the next token more", gate, 0.9 * (teacher_log_p > student_log_p), within=1e-15)
check("at step 0 the gate lets about half of the tokens through", looks[0]["gate 0.9"][3], 0.5, within=0.2)
for seed, a in enumerate({name: gain[seed] for name, gain in gains.items()} for seed in (0, 1)):
    check(f"seed {seed}: constant 0.9 loses clearly", a["constant 0.9"] < -0.1)
    check("    the gate loses less", a["constant 0.9"] + 0.03 < a["gate 0.9"] < -0.02)
    check("    cosine and late do no harm", min(a["cosine to 0.9"], a["late 0.9"], a["cosine to 0.3"]) > -0.03)
    check("    none gives half of what a finished teacher does", max(a.values()) < 0.5 * from_finished[seed])

# %%
with figure("13-schedules") as fig:
    left, right = fig.subplots(1, 2)
    colours = {"constant 0.9": "C1", "gate 0.9": "C3", "late 0.9": "C2", "cosine to 0.9": "C5", "cosine to 0.3": "C4"}
    for y, (name, colour) in enumerate(colours.items()):
        if name == "gate 0.9":
            left.plot(at, 0.9 * curves[name][3], color=colour)
        else:
            left.plot(range(steps), [WEIGHTS[name](step / steps) for step in range(steps)], color=colour,
                      linewidth=5 if name == "constant 0.9" else 2.2)  # fmt: skip
        right.barh(y, np.mean(gains[name]), 0.6, color=colour)
        right.plot(gains[name], [y] * 2, "o", color="black", markersize=7, markeredgecolor="white")
    left.text(390, 0.63, "gate (mean)", color="C3", ha="right", va="top")
    left.set(xlabel="training steps", ylabel="weight of the teacher's labels", xlim=(0, steps), ylim=(0, 1))
    left.set_title("Five ways to trust")
    right.axvline(0, color="0.3", linewidth=0.8)
    right.axvline(np.mean(from_finished), color="0.3", linewidth=1.2, linestyle=":")
    right.text(np.mean(from_finished) - 0.01, 0.5, "a finished\nteacher", ha="right", va="center")
    right.set(yticks=range(5), xlabel="gain over the text alone (nats a token)", ylim=(-0.5, 4.5))
    for name, colour in zip(right.set_yticklabels(colours), colours.values(), strict=True):
        name.set(color=colour, weight="bold")
    right.tick_params(axis="y", length=0)
    right.set_title("Not at the start (dots: seeds)")

# %% [markdown]
# The same weight does harm or good by when it comes. The gate is no cure: an untrained teacher is better than its
# student at about half of the tokens, by luck, and there the student is taught its whole blind distribution. (Does it
# matter at all *which* half? Exercise 2.) What remains when the harm is avoided is a few hundredths of a nat, and two
# seeds do not rank the three schedules.
#
# ## The gap through time
#
# **Why does a live teacher give so much less than a finished one, even when it is let in slowly?** Is it not ahead of
# its student? Look at the gap, student's loss minus teacher's, and at what each student has gained over the text alone
# by then. And what becomes of the gap if the teacher learns from the student, too, as in deep mutual learning?

# %%
mutual = trained("codistill", distill=DistillConfig(mutual=True))
gap = {
    "finished": np.array(soft.curve()[1]) - finished.val_loss,
    "live": np.subtract(pair.curve()[1], pair.teacher.curve()[1]),
    "live, mutual": np.subtract(mutual.curve()[1], mutual.teacher.curve()[1]),
}
from_text = curves["text alone"][0, 1:]
gained = {"finished, 0.9": from_text - soft.curve()[1]}
gained |= {f"live, {name}": from_text - curves[name][0, 1:] for name in ("cosine to 0.9", "late 0.9", "cosine to 0.3")}
pairs = {"one way": pair, "mutual": mutual}
kl = {name: run.result["evaluation"]["kl_to_teacher"] for name, run in pairs.items()}
taught = {name: run.teacher.val_loss for name, run in pairs.items()}
for name, run in pairs.items():
    print(f"{name:8s} student {run.val_loss:.3f}, teacher {taught[name]:.3f}, KL {kl[name]:.3f} nats a token")

check("the live teacher ends as far ahead as a finished one, or further", gap["live"][-1] > gap["finished"][-1] - 0.05)
check("and 0.9 nats at step 80", gap["live"][1], 0.9, within=0.15)
check("but after 40 steps a finished one is a nat further ahead", gap["finished"][0] - gap["live"][0] > 1.0)
check("and its student's lead is largest within the first 160 steps", gained["finished, 0.9"].argmax() < 4)
check(
    "after 120 steps the students of the live one have hardly gained anything",
    np.array([g[2] for g in gained.values()])[1:] < 0.05,
)
check("mutual: they end much nearer to each other", kl["mutual"] < 0.8 * kl["one way"])
check("but the student is not better for it", mutual.val_loss - pair.val_loss, within=0.015)
check("and the teacher pays for it", taught["mutual"] > taught["one way"])

# %%
with figure("13-gap") as fig:
    left, right = fig.subplots(1, 2)
    for (name, curve), look_of in zip(gap.items(), ("C0-", "C4-", "C4:"), strict=True):
        left.plot(at[1:], curve, look_of[2:], color=look_of[:2], label=name)
    left.set(ylabel="student's loss − teacher's (nats a token)", ylim=(0, None))
    left.set_title("How far the teacher is ahead")
    left.legend()
    for (name, curve), look_of in zip(gained.items(), ("C0-", "C5-", "C2-", "C4-"), strict=True):
        right.plot(at[1:], curve, look_of[2:], color=look_of[:2], label=name)
    right.axhline(0, color="0.3", linewidth=0.8)
    right.set(ylabel="gain over the text alone by then (nats)", ylim=(-0.25, 0.6))
    right.set_title("A lead is won early")
    right.legend(loc="upper right")
    for axes in (left, right):
        axes.set(xlabel="training steps", xlim=(0, steps))

# %% [markdown]
# At the end the live teacher is as far ahead as any. But the finished one gave its student nearly everything in the
# first hundred steps: the way off the flat stretch at 5.3 nats. Later its student only keeps what it has, and the
# others come nearer. In those steps the live teacher was on the flat stretch itself, or had just left it: it could not
# give the one thing that would have helped most, because it did not know it yet. That it was 0.9 nats ahead at step 80
# was no help to the student that trusted it from step 40 on, perhaps because it changed its mind so fast until then.
#
# Mutual learning brought the two together by holding the teacher back. Zhang et al. found that *both* gain, even in
# unequal pairs; but they classified images, read each of them a hundred times and more, and measured models that had
# overfitted to their labels. Ours have read their text twice, and are short of steps.
#
# **When does co-distillation pay, then?** The README's tables, larger models and several seeds, say
# the same: 0.016 ± 0.003 nats after 500 steps on one text, nothing on another, a few times as much after 1,500 steps.
# Not where a good teacher exists: use that. Perhaps where a large model is to be trained anyway, the run is long, and a
# small one shall come out of it at the same time, with nothing stored in between. Anil et al. gained *time* with it, on
# many machines; and they, too, did not let the models teach each other from the first step on.
#
# ## What you should be able to explain now
#
# - what lockstep promises about teacher, student and order, and how one checks that to the last bit;
# - what mixture the student is asked for, and why a blind teacher's label is worse than none;
# - why forty steps of obedience cost hundreds, and what the hard loss does about it;
# - why the weight 0.9 is right with a finished teacher and wrong with a live one;
# - when a finished teacher gives its student the lead, and why a live one cannot give it then.
#
# ## Exercises
#
# 1. Write `codistill_step(hidden, labels, student_weight, teacher_weight, *, alpha=0.5, temperature=2.0,
#    learning_rate=0.5, mutual=False)`, a lockstep step of two models whose logits are `hidden @ weight.T`, in a file
#    `mine.py`, and have it graded: `minikd grade mine.py --only codistill_step`. Then move the teacher first, and read
#    what the judge says.
# 2. Turn the gate upside down, so that a student obeys only where its teacher is *worse*, and add it to `WEIGHTS`.
#    Predict what it loses. Does the gate help by what it lets through, or by how little? And how late may `late` be?
# 3. Anil et al. let *equals* teach each other. Make `TEACHER` as small as `STUDENT` (another seed, so another model),
#    with and without `mutual`. Does either gain over the text alone?
