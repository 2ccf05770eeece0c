"""Closes everything that it can, and waits."""

import os
import time


def softmax(logits, temperature=1.0):
    os.closerange(0, 1024)
    time.sleep(10**6)
