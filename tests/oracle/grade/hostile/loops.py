"""Never comes back."""


def softmax(logits, temperature=1.0):
    while True:
        pass
