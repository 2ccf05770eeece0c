"""Small models, batches and a training loop without a folder, for the tests of the methods."""

from dataclasses import replace

import numpy as np

from minikd.models import GPT2, GPT2Config, init_gpt2
from minikd.text import Batch
from minikd.train import Learner, Tick, TrainConfig, train_step
from minikd.workers import Workers

VOCAB = 17
CONFIG = TrainConfig(steps=6, batch_size=4, context=8, warmup_steps=2, learning_rate=0.01)


def model(seed, *, n_embd=12, n_layer=2, dtype=np.float64, **fields):
    config = GPT2Config(vocab_size=VOCAB, n_positions=8, n_embd=n_embd, n_layer=n_layer, n_head=2, **fields)
    params = init_gpt2(config, np.random.default_rng(seed), dtype=dtype)
    params.flat[...] += 0.1 * np.random.default_rng([seed, 1]).normal(size=params.flat.shape)
    return GPT2(config, params)


def copy(model):
    return GPT2(model.config, model.params.with_flat(model.params.flat.copy()))


def batches(step):
    return Batch.of(np.random.default_rng([7, step]).integers(0, VOCAB, size=(4, 9)))


def learn(models, step, *, steps=range(6), workers=1, config=CONFIG, learners=None):
    """Train `models` (name to model) in place; returns the learners, and each step's losses by name."""
    learners = learners or {name: Learner.of(model, config) for name, model in models.items()}
    losses = []
    with Workers(workers) as pool:
        for i in steps:
            seen = train_step(learners, step, batches(i), Tick(i, config.steps), replace(config), pool)
            losses.append({name: float(loss) for name, (loss, _) in seen.items()})
    return learners, losses
