"""Returns an array that takes no memory here and a terabyte there."""

import numpy as np


def softmax(logits, temperature=1.0):
    return np.broadcast_to(1.0, (2**20, 2**20)), lambda dp: dp
