"""Raises what is no Exception, with a message that cannot be read."""


class Odd(BaseException):
    def __str__(self):
        raise Odd


def softmax(logits, temperature=1.0):
    raise Odd
