"""The errors that people see."""


class UserError(Exception):
    """Something the user gave cannot be used; the message is one line that names it, what was found, what is wanted.

    The command line prints the message alone and exits with 2.
    """


class Interrupted(Exception):
    """The user stopped a run, whose state is saved; the message says where. The command line exits with 130."""
