"""Reads from address 0."""

import ctypes


def softmax(logits, temperature=1.0):
    ctypes.string_at(0)
