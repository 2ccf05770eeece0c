"""Settings of the site, which `python -m docs` builds."""

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import minikd

ROOT = Path(__file__).parents[1]

project = "minikd"
author = "The minikd authors"
copyright = "2026, The minikd authors"
release = minikd.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx-mathjax-offline",  # formulas show without a network
]
exclude_patterns = ["_build", "*.py", "lessons/*.md", "api/modules.rst"]
html_theme = "furo"
html_title = "minikd"
html_static_path = ["_static"]
html_css_files = ["site.css"]

# docs/lessons is a link to the lessons: scripts in percent format, executed for the site
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "cache"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
myst_enable_extensions = ["deflist", "dollarmath", "html_image"]
myst_heading_anchors = 3

apidoc_modules = [{"path": "../minikd", "destination": "api", "separate_modules": True, "module_first": True}]
apidoc_max_depth = 2
autodoc_default_options = {"members": True, "member-order": "bysource", "ignore-module-all": True}
autodoc_preserve_defaults = True
viewcode_follow_imported_members = False  # else it lists `builtins`, of which it has no page
default_role = "py:obj"
smartquotes = False  # (..., V) is a shape

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "lessons": "lessons.md",
    "lessons/README.md": "lessons.md",
    "benchmarks/results/cpu.json": "benchmarks.md",
    "benchmarks/results/cpu-losses.json": "benchmarks.md",
}
LINK = re.compile(r"(\[[^][]*\])\(([^)#\s]+)\)")
IMAGE = re.compile(r'(src=")docs/')


def page_of(path: Path) -> str | None:
    """What on this site shows a file or folder of the repository, if anything does."""
    name = path.relative_to(ROOT).as_posix()
    if name.startswith("docs/"):
        return name.removeprefix("docs/")
    if name.startswith("minikd") and (path.is_dir() or path.suffix == ".py"):
        return "api/" + name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") + ".rst"
    if name.startswith("lessons/") and path.suffix == ".py":
        return name.removesuffix(".py")
    return PAGES.get(name)


def repository_links(app: Sphinx, included: Path, parent: str, content: list[str]) -> None:
    """Lead the links of an included file to pages of this site; where there is no such page, leave the words alone."""
    folder = (app.srcdir / included).resolve().parent

    def lead(found: re.Match) -> str:
        words, path = found[1], (folder / found[2]).resolve()
        if not path.exists():  # an address, or a link that leads nowhere: Sphinx will say so
            return found[0]
        page = page_of(path)
        return f"{words}({page})" if page else words[1:-1]

    content[0] = IMAGE.sub(r"\1", LINK.sub(lead, content[0]))


def plain_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text: only their `names` and their indented blocks are more than words."""

    def marked(paragraph: str) -> str:
        if paragraph.startswith("    "):
            return "::\n\n" + paragraph
        return re.sub(r"(`[^`]+`)|([*|_\\])", lambda found: found[1] or "\\" + found[2], paragraph)

    lines[:] = "\n\n".join(map(marked, "\n".join(lines).split("\n\n"))).split("\n")


def setup(app: Sphinx) -> None:
    app.connect("include-read", repository_links)
    app.connect("autodoc-process-docstring", plain_docstring)
