"""`python -m minikd`, and what the command `minikd` calls."""

import sys


def run() -> int:
    """`minikd.cli.main`, for a person who may press Ctrl-C before its modules are loaded."""
    try:
        from minikd.cli import main

        return main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(run())
