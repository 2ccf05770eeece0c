"""Progress for people: a bar on a terminal, plain lines elsewhere."""

import sys

from tqdm import tqdm


class Progress(tqdm):
    """A tqdm bar on standard error; with `quiet`, or where that is no terminal, only what `line` prints."""

    def __init__(self, *, total: int, description: str, unit: str, initial: int = 0, quiet: bool = False):
        super().__init__(
            total=total,
            initial=initial,
            desc=description,
            unit=unit,
            unit_scale=True,
            dynamic_ncols=True,
            leave=False,
            disable=quiet or not sys.stderr.isatty(),
        )

    def line(self, text: str) -> None:
        """Print a line that stays, above the bar if there is one."""
        self.write(text, file=sys.stderr)
