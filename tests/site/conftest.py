"""The built site in a browser; what is missing for that skips the tests, or fails them if MINIKD_SITE is set."""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

SITE = Path(os.environ.get("MINIKD_SITE", Path(__file__).parents[2] / "docs" / "_build" / "html")).resolve()
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}

WAIT = """async () => {
    await window.MathJax?.startup?.promise;
    await Promise.all([...document.images].map((image) => image.decode().catch(() => {})));
}"""

LOOK = r"""() => {
    const words = document.querySelector("article").cloneNode(true);
    words.querySelectorAll("pre, code, .pre, mjx-container, script").forEach((each) => each.remove());
    return {
        images: [...document.images].map((image) => [image.src, image.naturalWidth]),
        formulas: document.querySelectorAll(".math").length,
        rendered: document.querySelectorAll(".math mjx-container").length,
        faulty: document.querySelectorAll("mjx-merror, [data-mjx-error]").length,
        raw: words.textContent.match(/\$[^$\n]*\$|\\\(.*?\\\)|\\(frac|sum|log|mathrm)\b/g) ?? [],
        links: [...document.links].map((link) => link.href),
        anchors: [...document.querySelectorAll("[id], a[name]")].flatMap((each) => [each.id, each.name]),
    };
}"""


@dataclass
class Visit:
    """What a page of the site showed."""

    seen: dict[str, Any] = field(default_factory=dict)
    """what LOOK found"""
    overhang: int = 0
    """pixels by which the page is wider than a phone"""
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


def missing(what):
    """Skip, unless MINIKD_SITE asks for the tests of a site."""
    (pytest.fail if "MINIKD_SITE" in os.environ else pytest.skip)(what)


@pytest.fixture(scope="session")
def site():
    """The folder of the built site."""
    if not (SITE / "index.html").exists():
        missing(f"no site in {SITE}; `python -m docs` builds it, MINIKD_SITE names another folder")
    return SITE


@pytest.fixture(scope="session")
def browser():
    """The system's Chromium."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed: pip install -e '.[docs]'")
    if CHROMIUM is None:
        missing("no Chromium on the PATH")
    with sync_playwright() as tools:
        chromium = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def visits(site, browser):
    """Each page, looked at once, on a wide screen and then on a phone's."""
    tab = browser.new_page()
    yield {path: visit(tab, path) for path in sorted(site.rglob("*.html")) if "_static" not in path.parts}
    tab.close()


def visit(tab, path):
    """Open a page and look at it."""
    found = Visit()
    watched = {
        "console": lambda said: said.type in ("error", "warning") and found.complaints.append(said.text),
        "pageerror": lambda error: found.complaints.append(str(error)),
        "request": lambda request: found.requests.append(request.url),
    }
    for event, note in watched.items():
        tab.on(event, note)
    tab.set_viewport_size(DESKTOP)
    tab.goto(path.as_uri())
    tab.evaluate(WAIT)
    found.seen = tab.evaluate(LOOK)
    tab.set_viewport_size(PHONE)
    found.overhang = tab.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    for event, note in watched.items():
        tab.remove_listener(event, note)
    return found
