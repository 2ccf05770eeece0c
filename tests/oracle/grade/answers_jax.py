"""What a good student hands in: plain functions in JAX, whose gradients JAX takes."""

import jax
import jax.numpy as jnp


def softmax(logits, temperature=1.0):
    return jax.nn.softmax(logits / temperature, axis=-1)


def log_softmax(logits, temperature=1.0):
    return jax.nn.log_softmax(logits / temperature, axis=-1)


def linear(x, weight, bias):
    return x @ weight + bias


def gelu(x):
    return jax.nn.gelu(x, approximate=True)


def layer_norm(x, gain, bias, *, eps=1e-5):
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + eps) * gain + bias


def forward_kl(student_logits, teacher_logits, *, temperature=1.0, mask=None):
    counted = jnp.ones(student_logits.shape[:-1], dtype=bool) if mask is None else mask
    z, u = (jnp.where(counted[..., None], x, 0) for x in (student_logits, teacher_logits))
    logq, logp = log_softmax(z, temperature), log_softmax(u, temperature)
    p = jnp.exp(logp)
    terms = p * jnp.where(p > 0, jnp.where(p > 0, logp, 0) - logq, 0)
    return jnp.where(counted, terms.sum(-1), 0).sum() / counted.sum()
