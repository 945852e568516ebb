"""The viewer's page in headless Chromium: it opens from a file, asks no network, runs nothing that a model wrote."""

import dataclasses
import itertools
import json
import re

import pytest

from biomni_lib.viewer import Entry, render_page
from tests.chromium import chromium, open_page
from tests.toy_trajectories import HOSTILE, SOLVED, TASK, question, rolled

BROWSER = chromium()
pytestmark = [
    pytest.mark.skipif(
        BROWSER is None,
        reason="no Chromium on this machine: install the package `chromium`, or name one in BIOMNI_CHROMIUM",
    ),
    pytest.mark.timeout(300),
]
OTHER = "<think>\nI look closer.\n</think>\n<execute>\nimport json\nprint(1 + 2)  # sum\n</execute>"
LOOK = "<think>\nI look.\n</think>\n<execute>\nimport json\nprint(1 + 1)  # sum\n</execute>"
MANY = 10_000
HOSTILE_TURN = f"{HOSTILE}<think>{HOSTILE}</think><execute>{HOSTILE}</execute>"
CONTRAST = """(() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const linear = (c) => c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (element) => {
    const colour = channels(getComputedStyle(element).backgroundColor);
    return (colour[3] ?? 1) === 1 || !element.parentElement ? colour : behind(element.parentElement);
  };
  const places = "#rows span, #columns button, #filters span, #top p, #detail dt, #detail dd, #detail p, .line *";
  const read = [...document.querySelectorAll(places)].filter((e) => e.offsetParent && !e.children.length);
  return read.filter((e) => e.textContent.trim()).map((e) => {
    const [bright, dim] = [light(channels(getComputedStyle(e).color)), light(behind(e))].sort((a, b) => b - a);
    return [(bright + 0.05) / (dim + 0.05), e.className, e.textContent.slice(0, 40)];
  }).sort((a, b) => a[0] - b[0])[0];
})()"""
"""The least contrast of a text and what lies behind it, as WCAG counts it: [ratio, class, text]."""
SHOWN = "document.getElementById('detail').dataset.shown"


def small():
    """Three questions asked of SFT and RL, in two samples; RL answers the second better; and a hostile model."""
    entries = []
    for number, model, sample in itertools.product(range(3), ("sft", "rl"), range(2)):
        worth = 0.0 if (number, model) in ((1, "sft"), (2, "sft"), (2, "rl")) else 1.0
        texts = (LOOK if model == "sft" else OTHER, SOLVED)
        made = rolled(number, model, sample=sample, texts=texts, correctness=worth, version=4)
        entries.append(Entry(made, f"evaluate/{model}", worth))
    entries.append(Entry(rolled(0, "teacher", version=-1), "sft/teacher", accepted=True))
    bad = rolled(3, HOSTILE, texts=(HOSTILE_TURN, HOSTILE), observation=HOSTILE, ending=f"error:{HOSTILE}")
    bad.answer, bad.strategy = HOSTILE, HOSTILE
    return [*entries, Entry(bad, "evaluate/hostile", 0.0)]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Addresses of two pages: `small`, and `many` of ten thousand trajectories."""
    folder = tmp_path_factory.mktemp("viewer")
    prompts = {n: HOSTILE if n == 3 else f"Which gene, {n}?" for n in range(4)}
    asked = {(TASK, f"{TASK}-heldout-{n}"): question(n, prompt=prompt) for n, prompt in prompts.items()}
    one = {model: rolled(0, model) for model in ("sft", "rl")}
    many = [
        Entry(dataclasses.replace(one[model], instance_id=f"{TASK}-heldout-{n}"), f"evaluate/{model}")
        for n, model in itertools.product(range(MANY // 2), one)
    ]
    about = {"notes": [HOSTILE], "facts": {HOSTILE: HOSTILE}}
    made = {
        "small": render_page(small(), asked, title=HOSTILE, systems={TASK: HOSTILE}, about=about),
        "many": render_page(many, {}, title="many"),
    }
    for name, html in made.items():
        (folder / f"{name}.html").write_text(html, encoding="utf-8")
    return {name: (folder / f"{name}.html").as_uri() for name in made}


@pytest.fixture(scope="module")
def browser():
    with open_page(BROWSER) as page:
        yield page


@pytest.fixture
def visit(browser, pages):
    """`visit(name, link)`: the browser with a page open; afterwards nothing may have failed or been asked for."""

    def opened(name="small", link="", width=1440):
        browser.size(width, 900)
        browser.open(f"{pages[name]}#{link}")
        browser.wait("document.body.classList.contains('ready')")
        return browser

    yield opened
    assert browser.errors == []
    assert {address.partition("#")[0] for address in browser.requests} <= {*pages.values(), "about:blank"}


def ids(page):
    """Names of the rows in the document."""
    return page.run("[...document.querySelectorAll('#rows [role=row]')].map((row) => row.title)")


def count(page):
    return page.run("document.getElementById('count').textContent")


def choose(page, label):
    """Tick the filter of that name."""
    labels = "[...document.querySelectorAll('#filters label')]"
    page.run(f"{labels}.find((one) => one.querySelector('.name').textContent === {json.dumps(label)}).click()")


def test_what_a_model_wrote_is_shown_and_never_run(visit):
    page = visit()
    place = next(name for name in ids(page) if name.startswith("evaluate/hostile"))
    page.run(f"location.hash = '#id=' + encodeURIComponent({json.dumps(place)})")
    page.wait(f"{SHOWN} !== undefined")
    page.press("r")
    page.press("r")
    page.run("document.getElementById('open-about').click()")
    text = page.run("[...document.body.children].filter((e) => e.id !== 'data').map((e) => e.textContent).join(' ')")
    assert text.count("<img src=x onerror=") >= 6
    assert page.run("window.hacked === undefined")
    assert page.run("document.querySelectorAll('img, iframe, object, #detail script, #list script').length") == 0
    marks = page.run("[...document.querySelectorAll('.hidden-character')].map((mark) => mark.textContent)")
    assert {"U+202E", "U+2066", "U+200B", "U+0000", "U+0007"} <= set(marks)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b]", text)


def test_even_a_script_in_the_page_would_not_run(visit):
    """The content policy is a second wall: markup that got in by a fault of ours does nothing."""
    page = visit()
    page.run("document.body.insertAdjacentHTML('beforeend', '<img src=\"x\" onerror=\"window.hacked = 1\">')")
    page.run("window.added = document.createElement('script'); added.textContent = 'window.hacked = 1'")
    page.run("document.body.append(added)")
    page.wait("true")
    assert page.run("window.hacked === undefined")
    assert any("Content Security Policy" in error for error in page.errors)
    page.errors.clear()
    page.requests.clear()


def test_a_conversation_shows_everything_recorded(visit):
    page = visit(link="id=evaluate/rl/toy/toy-heldout-1/0")
    page.wait(f"{SHOWN} === 'evaluate/rl/toy/toy-heldout-1/0'")
    text = page.run("document.getElementById('detail').textContent")
    numbers = ("5 tokens · 1.0 s, 5/s", "policy 4", "log-prob −0.5", "4 to 5", "ran 0.3 s · waited 0.1 s")
    for told in (*numbers, "Which gene, 1?", "I look closer.", "print(1 + 2)  # sum", "wrong, then right"):
        assert told in text, told
    coloured = page.run("[...document.querySelectorAll('.line span')].map((s) => `${s.className} ${s.textContent}`)")
    assert {"tok-keyword import", "tok-call print", "tok-comment # sum", "tok-number 2"} <= set(coloured)
    page.press("r")
    page.wait("document.querySelector('pre.raw') !== null")
    assert OTHER in page.run("document.querySelector('pre.raw').textContent")


def test_before_and_after_stand_beside_each_other(visit):
    page = visit(link="id=evaluate/sft/toy/toy-heldout-1/1")
    page.wait(f"{SHOWN} !== undefined")
    page.press("c")
    page.wait(f"{SHOWN}.includes(' evaluate/rl/toy/toy-heldout-1/1')")
    assert page.run("document.querySelectorAll('.across.turns').length") == 2
    lefts = page.run("[...document.querySelectorAll('.across.heads > *')].map((h) => h.getBoundingClientRect().left)")
    assert lefts[0] < lefts[1]
    changed = page.run("[...document.querySelectorAll('.differs')].map((line) => line.textContent)")
    assert changed == ["print(1 + 1)  # sum", "print(1 + 2)  # sum"]
    assert "beside=evaluate/rl" in page.run("location.hash")
    page.press("j")
    page.wait(f"{SHOWN} === 'evaluate/sft/toy/toy-heldout-2/1 evaluate/rl/toy/toy-heldout-2/1'")
    page.press("Escape")
    page.wait(f"{SHOWN} === 'evaluate/sft/toy/toy-heldout-2/1'")


def test_filters_narrow_the_list_and_live_in_the_link(visit):
    page = visit()
    assert count(page) == "14 trajectories"
    choose(page, "Wrong, then right")
    page.wait("document.getElementById('count').textContent === '4 of 14 trajectories'")
    choose(page, "RL")
    assert count(page) == "2 of 14 trajectories"
    link = page.run("location.hash")
    assert link == "#model=rl&change=gained"
    again = visit(link=link[1:])
    assert count(again) == "2 of 14 trajectories"
    assert set(ids(again)) == {f"evaluate/rl/toy/toy-heldout-1/{sample}" for sample in range(2)}


@pytest.mark.parametrize(
    "link, expected",
    [
        ("correctness=0..0.5", 6),
        ("tokens=11..", 0),
        ("turns=..2", 14),
        ("score=1..1", 6),
        ("task=toy&ending=solved", 13),
        ("source=sft/teacher", 1),
        ("q=heldout-2", 4),
        ("q=%22gene%22", 13),
    ],
)
def test_each_filter_keeps_what_it_says(visit, link, expected):
    page = visit(link=link)
    shown = "14" if expected == 14 else f"{expected} of 14"
    assert count(page) == f"{shown} trajectories"
    assert page.run("document.getElementById('nothing').hidden") is (expected > 0)


def test_a_search_reaches_into_conversations(visit):
    page = visit(link="q=look+closer")
    page.wait("document.getElementById('count').textContent === '6 of 14 trajectories'")
    page.run("document.getElementById('query').focus()")
    page.press("Escape")
    assert count(page) == "14 trajectories"


def test_keys_and_assistive_names(visit):
    page = visit()
    page.press("j")
    page.wait(f"{SHOWN} !== undefined")
    first = page.run(SHOWN)
    page.press("ArrowDown")
    page.wait(f"{SHOWN} !== {json.dumps(first)}")
    page.press("k")
    page.wait(f"{SHOWN} === {json.dumps(first)}")
    selected = page.run("document.querySelector('[role=row][aria-selected=true]').id")
    assert page.run("document.getElementById('scroller').getAttribute('aria-activedescendant')") == selected
    page.press("End")
    page.wait(f"{SHOWN} !== {json.dumps(first)}")
    page.press("/")
    assert page.run("document.activeElement.id") == "query"
    page.press("Escape")
    page.press("?")
    assert page.run("document.getElementById('keys').open") is True
    page.press("Escape")
    page.press("Escape")
    page.wait(f"{SHOWN} === undefined")
    named = "(e) => e.hidden || e.labels?.length || e.getAttribute('aria-label') || e.textContent.trim()"
    assert page.run(f"[...document.querySelectorAll('button, input, select')].every({named})")


def test_an_unknown_link_is_said(visit):
    page = visit(link="id=evaluate/rl/toy/gone/0")
    page.wait("document.querySelector('[role=alert]') !== null")
    assert "evaluate/rl/toy/gone/0" in page.run("document.querySelector('[role=alert]').textContent")


def test_ten_thousand_are_listed_with_a_few_rows_in_the_document(visit):
    page = visit("many")
    assert count(page) == "10,000 trajectories"
    assert 0 < len(ids(page)) < 100
    page.run("document.getElementById('scroller').scrollTop = 1e9")
    page.wait("document.querySelector('[aria-rowindex=\"10000\"]') !== null")
    assert len(ids(page)) < 100
    assert page.run("document.querySelectorAll('*').length") < 3000
    page.press("End")
    page.wait(f"{SHOWN} === 'evaluate/rl/toy/toy-heldout-4999/0'")
    page.run("location.hash = '#model=sft&sort=-instance'")
    page.wait("document.getElementById('count').textContent === '5,000 of 10,000 trajectories'")
    page.run("document.getElementById('scroller').scrollTop = 0")
    page.wait("document.querySelector('[aria-rowindex=\"1\"]')?.title === 'evaluate/sft/toy/toy-heldout-4999/0'")


@pytest.mark.parametrize("dark", [False, True])
def test_text_is_legible_in_both_themes(visit, dark):
    """Contrast of the text of rows, labels and code against what lies behind it: at least 4.5, as WCAG asks."""
    page = visit(link="id=evaluate/rl/toy/toy-heldout-1/0")
    page.size(1440, 900, dark=dark)
    page.wait("document.querySelector('.code') !== null")
    worst = page.run(CONTRAST)
    assert worst[0] >= 4.5, worst


def test_a_narrow_window_shows_one_thing_at_a_time(visit):
    page = visit(width=390)
    visible = "['filters', 'list', 'detail'].filter((id) => document.getElementById(id).offsetWidth > 0)"
    assert page.run(visible) == ["list"]
    page.run("document.querySelector('#rows [role=row]').click()")
    page.wait(f"{SHOWN} !== undefined")
    assert page.run(visible) == ["detail"]
    assert page.run("document.documentElement.scrollWidth") == 390
    page.run("document.getElementById('back').click()")
    assert page.run(visible) == ["list"]
    page.run("document.getElementById('show-filters').click()")
    assert "filters" in page.run(visible)


def test_a_browser_that_cannot_decompress_is_told(browser, pages):
    script = browser.send("Page.addScriptToEvaluateOnNewDocument", source="delete window.DecompressionStream")
    try:
        browser.open(pages["small"])
        browser.wait("document.querySelector('.failed[role=alert]') !== null")
        assert "this browser is too old" in browser.run("document.querySelector('.failed').textContent")
    finally:
        browser.send("Page.removeScriptToEvaluateOnNewDocument", identifier=script["identifier"])
