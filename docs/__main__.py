"""Build the site: `python -m docs`. Warnings are errors; nothing is fetched from a network."""

import sys
from pathlib import Path

from sphinx.cmd.build import build_main

HERE = Path(__file__).parent

if __name__ == "__main__":
    sys.exit(build_main(["-W", "--keep-going", str(HERE), str(HERE / "_build" / "html"), *sys.argv[1:]]))
