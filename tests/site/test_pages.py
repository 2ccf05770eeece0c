"""Every page of the site, as a browser shows it."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytestmark = pytest.mark.site


def problems(visits, find):
    """What `find` finds wrong, by page."""
    return {path.name: wrong for path, found in visits.items() if (wrong := find(found))}


def test_all_parts_are_there(site, visits):
    pages = {path.relative_to(site).as_posix() for path in visits}
    generated = {"accuracy.html", "vectors.html", "mutants.html", "grading.html", "diagnosis.html", "benchmarks.html"}
    assert {"index.html", "tour.html", "lessons.html", "explore.html"} | generated <= pages
    assert {"lessons/01_softmax_and_temperature.html", "api/minikd.softmax.html"} <= pages


def test_no_page_complains(visits):
    assert not problems(visits, lambda found: found.complaints)


def test_nothing_is_fetched(visits):
    outside = {
        url for found in visits.values() for url in found.requests if not url.startswith(("file:", "data:", "blob:"))
    }
    assert not outside


def test_formulas_are_rendered(visits):
    assert not problems(visits, lambda found: found.seen["raw"] or found.seen["faulty"])
    assert not problems(visits, lambda found: found.seen["formulas"] != found.seen["rendered"])
    assert sum(found.seen["rendered"] for found in visits.values()) > 50


def test_figures_are_there(visits):
    assert not problems(visits, lambda found: [src for src, width in found.seen["images"] if width == 0])
    lessons = {path.name: found for path, found in visits.items() if path.parent.name == "lessons"}
    assert not problems(visits, lambda found: found in lessons.values() and not found.seen["images"])


def test_links_lead_somewhere(visits):
    anchors = {path: {unquote(name) for name in found.seen["anchors"] if name} for path, found in visits.items()}
    dead = set()
    for path, found in visits.items():
        for link in found.seen["links"]:
            address = urlsplit(link)
            target, fragment = Path(unquote(address.path)), unquote(address.fragment)
            if address.scheme != "file":
                continue
            if not target.is_file() or (fragment and target in anchors and fragment not in anchors[target]):
                dead.add((path.name, link))
    assert not dead


def test_every_page_fits_a_phone(visits):
    assert not problems(visits, lambda found: max(0, found.overhang))
