"""Raises a message that would take over a terminal."""


def softmax(logits, temperature=1.0):
    raise ValueError("\x1b]0;owned\x07\x1b[2J" + "[bold red]all right\n" * 10**6)
