"""Fills whatever listens."""

import sys


def softmax(logits, temperature=1.0):
    while True:
        sys.stdout.write("x" * 2**16)
        sys.stderr.write("y" * 2**16)
