"""Takes 100 GB."""

import numpy as np


def softmax(logits, temperature=1.0):
    hoard = np.ones(100 * 2**30 // 8)
    return logits + hoard[: logits.size].reshape(logits.shape), lambda dp: dp
