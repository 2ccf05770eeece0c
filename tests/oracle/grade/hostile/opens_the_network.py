"""Asks somebody else."""

import socket


def softmax(logits, temperature=1.0):
    socket.create_connection(("127.0.0.1", 80))
