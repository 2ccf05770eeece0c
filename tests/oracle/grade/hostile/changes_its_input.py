"""Computes in place, in what it was given."""

import numpy as np


def softmax(logits, temperature=1.0):
    logits -= logits.max(-1, keepdims=True)
    logits /= temperature
    p = np.exp(logits)
    p /= p.sum(-1, keepdims=True)
    return p, lambda dp: p * (dp - (p * dp).sum(-1, keepdims=True)) / temperature
