"""The page "Explore": its numbers are minikd's, and it can be used by keyboard and on a phone."""

import base64
import json

import numpy as np
import pytest

from minikd.losses import DIVERGENCES
from minikd.softmax import log_softmax
from tests.site.conftest import DESKTOP, PHONE

pytestmark = pytest.mark.site

SHOWN = ("forward_kl", "reverse_kl", "js", "skew_forward_kl", "total_variation")


@pytest.fixture(scope="module")
def data(site):
    """What the page computes with: the logits of each model as (N, V)."""
    text = (site / "_static" / "explore-data.js").read_text(encoding="utf-8")
    data = json.loads(text.removeprefix("const EXPLORE = ").rstrip().removesuffix(";"))
    v = len(data["vocabulary"])
    packed = {model["name"]: base64.b64decode(model["logits"]) for model in data["models"]}
    return data | {"logits": {name: np.frombuffer(f, "<f4").reshape(-1, v).astype(float) for name, f in packed.items()}}


@pytest.fixture(params=["desktop", "phone"])
def tab(request, site, browser):
    """The page, opened."""
    tab = browser.new_page(viewport=PHONE if request.param == "phone" else DESKTOP)
    tab.goto((site / "explore.html").as_uri())
    yield tab
    tab.close()


def numbers(tab):
    """The entropies and divergences by name."""
    values = "boxes => Object.fromEntries(boxes.map(b => [b.dataset.name, Number(b.querySelector('data').value)]))"
    return tab.locator(".numbers > div").evaluate_all(values)


def table(tab):
    """Probability of the teacher and of the student, and pull, of the tokens listed: by id."""
    values = "rows => rows.map(r => [r.dataset.id, [...r.querySelectorAll('data')].map(d => Number(d.value))])"
    return {int(i): cells for i, cells in tab.locator("tbody tr").evaluate_all(values) if i != "null"}


def choose(tab, *, position, student, x, divergence):
    """Set all controls; the slider stands at x = log2 T."""
    tab.locator(".tokens label").nth(position).click()
    tab.get_by_role("radio", name=student).locator("..").click()
    tab.get_by_role("slider", name="Temperature").fill(str(x))
    tab.get_by_role("combobox", name="Divergence").select_option(divergence)


@pytest.mark.parametrize("tab", ["desktop"], indirect=True)
def test_the_numbers_are_those_of_minikd(tab, data):
    n = len(data["tokens"])
    students = [model["name"] for model in data["models"] if model["name"] != "teacher"]
    for i, x in enumerate((-2, -1, -0.35, 0, 0.5, 1, 2.05, 3)):
        position, student, name = (7 * i) % n, students[i % len(students)], SHOWN[i % len(SHOWN)]
        choose(tab, position=position, student=student, x=x, divergence=name)
        z, u = data["logits"][student][position], data["logits"]["teacher"][position]
        logp, logq = (log_softmax(logits, 2.0**x)[0] for logits in (u, z))
        wanted = {each: DIVERGENCES[each](z, u, temperature=2.0**x)[0] for each in SHOWN}
        wanted |= {"teacher_entropy": -np.exp(logp) @ logp, "student_entropy": -np.exp(logq) @ logq}
        assert numbers(tab) == pytest.approx(wanted, abs=1e-9)

        meters = tab.locator(".meter").evaluate_all("all => all.map(e => Number(e.style.getPropertyValue('--length')))")
        options = {"temperature": 2.0**x, "reduction": "none"}
        courses = {s: DIVERGENCES[name](data["logits"][s], data["logits"]["teacher"], **options)[0] for s in students}
        assert meters == pytest.approx(courses[student] / max(course.max() for course in courses.values()), abs=1e-9)

        pull = -(2.0**x) * DIVERGENCES[name](z, u, temperature=2.0**x)[1]()
        listed = table(tab)
        assert listed == {i: pytest.approx([np.exp(logp[i]), np.exp(logq[i]), pull[i]], abs=1e-9) for i in listed}
        assert {u.argmax(), z.argmax()} <= listed.keys()


def test_what_is_written_is_what_was_computed(tab):
    for box in tab.locator(".numbers data").all():
        assert box.inner_text() == f"{float(box.get_attribute('value')):.4f}"
    assert sum(
        float(cell.get_attribute("value")) for cell in tab.locator("td .of-teacher data").all()
    ) == pytest.approx(1)


def test_the_keyboard_alone_is_enough(tab):
    focused = "document.activeElement.name || document.activeElement.id"
    tab.locator(".sentence").evaluate("each => each.closest('section').tabIndex = -1")
    tab.locator("#explore").focus()
    for control, key in (("position", "ArrowLeft"), ("student", "ArrowRight"), ("temperature", "ArrowRight")):
        tab.keyboard.press("Tab")
        assert tab.evaluate(focused) == control
        before = numbers(tab)
        tab.keyboard.press(key)
        assert tab.evaluate(focused) == control
        assert all(before[name] != value for name, value in numbers(tab).items() if name != "teacher_entropy")
    tab.keyboard.press("Tab")
    assert tab.evaluate(focused) == "divergence"
    before = table(tab)
    tab.keyboard.press("ArrowDown")
    assert tab.locator("#divergence").input_value() == "reverse_kl"
    after = table(tab)
    assert all(before[i][:2] == after[i][:2] and before[i][2] != after[i][2] for i in before)


def test_every_control_has_a_name(tab, data):
    assert tab.get_by_role("group", name="Read up to").get_by_role("radio").count() == len(data["tokens"])
    assert tab.get_by_role("group", name="Student").get_by_role("radio").count() == len(data["models"]) - 1
    assert tab.get_by_role("slider", name="Temperature").get_attribute("aria-valuetext") == "T = 1.00"
    assert tab.get_by_role("combobox", name="Divergence").count() == 1


def test_everything_is_within_the_window(tab):
    boxes = "(all) => all.map(e => e.getBoundingClientRect()).map(b => [b.left, b.right, innerWidth])"
    parts = "#explore :is(fieldset, label, select, input[type=range], table, td, .numbers > div, .summary)"
    assert all(left >= 0 and right <= width for left, right, width in tab.locator(parts).evaluate_all(boxes))


def test_white_space_can_be_seen(tab, data):
    shown = tab.locator(".tokens .token").all_inner_texts()
    assert [text.replace("␣", " ").replace("↵", "\n") for text in shown] == [
        data["vocabulary"][i] for i in data["tokens"]
    ]
    assert any("␣" in text for text in shown)
