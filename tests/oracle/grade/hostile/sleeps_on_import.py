"""Never comes to its first function, and takes no processor time."""

import time

time.sleep(10**6)


def softmax(logits, temperature=1.0):
    return logits, lambda dp: dp
